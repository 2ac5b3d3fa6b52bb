"""The side-by-side cases: one request each, in three shapes of load, and the data they need."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

from benchmarks.load import Shape
from ratifyd.keys import prefix_end
from ratifyd.proto import rpc_pb2

SHAPES = (Shape(1, 1), Shape(100, 10), Shape(1000, 1))
VALUE = b"v" * 256
KEYS = 10_000
PREFIX_KEYS = 1_000
FILL_OPS = 100

_PUT = "/etcdserverpb.KV/Put"
_RANGE = "/etcdserverpb.KV/Range"
_TXN = "/etcdserverpb.KV/Txn"


@dataclass(frozen=True, slots=True)
class Case:
    """One request repeated. `writes` cases advance the revision by one for each request."""

    name: str
    shape: Shape
    method: str
    message: bytes
    writes: bool

    @property
    def title(self) -> str:
        """The name `--cases` patterns match, such as `put/100x10`."""
        return f"{self.name}/{self.shape}"


def read_key(number: int) -> bytes:
    """Key of a pre-written row; 1,000 of them share each prefix."""
    return b"read/%02d/%05d" % (number // PREFIX_KEYS, number)


def _swap_request() -> bytes:
    """Write the key if it still holds the expected value, else read it."""
    key = b"swap/key"
    request = rpc_pb2.TxnRequest(
        compare=[
            rpc_pb2.Compare(
                result=rpc_pb2.Compare.CompareResult.EQUAL,
                target=rpc_pb2.Compare.CompareTarget.VALUE,
                key=key,
                value=VALUE,
            )
        ],
        success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=VALUE))],
        failure=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))],
    )
    return request.SerializeToString()


def _requests() -> Iterator[tuple[str, str, bytes, bool]]:
    one = read_key(KEYS // 2)
    prefix = b"read/03/"
    yield "put", _PUT, rpc_pb2.PutRequest(key=b"put/key", value=VALUE).SerializeToString(), True
    yield "range", _RANGE, rpc_pb2.RangeRequest(key=one).SerializeToString(), False
    yield "range-serializable", _RANGE, rpc_pb2.RangeRequest(key=one, serializable=True).SerializeToString(), False
    yield "txn", _TXN, _swap_request(), True
    whole = rpc_pb2.RangeRequest(key=prefix, range_end=prefix_end(prefix))
    yield "prefix-1000", _RANGE, whole.SerializeToString(), False


def all_cases() -> list[Case]:
    """Every request in every shape."""
    return [
        Case(name, shape, method, message, writes) for name, method, message, writes in _requests() for shape in SHAPES
    ]


def select(patterns: str) -> list[Case]:
    """Cases whose title or name matches one of the comma-separated shell patterns; all when empty."""
    wanted = [pattern for pattern in patterns.split(",") if pattern]
    cases = all_cases()
    if not wanted:
        return cases
    return [case for case in cases if any(fnmatch(case.title, w) or case.name == w for w in wanted)]


def fill_requests() -> Iterator[bytes]:
    """Txn messages that write the rows all cases need."""
    rows = [(read_key(number), VALUE) for number in range(KEYS)]
    rows += [(b"swap/key", VALUE), (b"put/key", VALUE)]
    for start in range(0, len(rows), FILL_OPS):
        ops = [
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))
            for key, value in rows[start : start + FILL_OPS]
        ]
        yield rpc_pb2.TxnRequest(success=ops).SerializeToString()
