"""The side-by-side cases: one request each for h2load, in several shapes of load, and the data they need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from benchmarks.load import Shape
from ratifyd.keys import prefix_end
from ratifyd.proto import rpc_pb2

SHAPES = (Shape(1, 1), Shape(10, 1), Shape(100, 10), Shape(1000, 1))
BUSY = (Shape(100, 10),)
LONE = (Shape(1, 1),)
VALUE = b"v" * 256
VALUE_SIZES = {"16": 16, "4k": 4 << 10, "64k": 64 << 10}
"""Value sizes beside the usual one of 256 bytes, by the suffix of their cases."""
KEYS = 100_000
PREFIX_KEYS = 1_000
FILL_OPS = 100

_PUT = "/etcdserverpb.KV/Put"
_RANGE = "/etcdserverpb.KV/Range"
_TXN = "/etcdserverpb.KV/Txn"


@dataclass(frozen=True, slots=True)
class Case:
    """One request repeated. `writes` cases advance the revision by one for each request.

    `fewest` requests are sent even where that takes longer than wanted; `headers` go with each.
    """

    name: str
    shape: Shape
    method: str
    message: bytes
    writes: bool
    fewest: int = 100
    headers: tuple[str, ...] = ()
    auth: bool = False
    """Auth is on and requests carry a user's token."""

    @property
    def title(self) -> str:
        """The name `--cases` patterns match, such as `put/100x10`."""
        return f"{self.name}/{self.shape}"


def read_key(number: int) -> bytes:
    """Key of a pre-written row; 1,000 of them share each prefix."""
    return b"read/%02d/%05d" % (number // PREFIX_KEYS, number)


def sized_key(suffix: str) -> bytes:
    """Key of the row whose value has one of VALUE_SIZES."""
    return b"sized/" + suffix.encode()


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


def _put(value: bytes) -> bytes:
    return rpc_pb2.PutRequest(key=b"put/key", value=value).SerializeToString()


def _prefix(prefix: bytes) -> bytes:
    return rpc_pb2.RangeRequest(key=prefix, range_end=prefix_end(prefix)).SerializeToString()


def all_cases() -> list[Case]:
    """Every request in every shape that tells something."""
    get = rpc_pb2.RangeRequest(key=read_key(KEYS // 2)).SerializeToString()
    local = rpc_pb2.RangeRequest(key=read_key(KEYS // 2), serializable=True).SerializeToString()
    in_time = ("grpc-timeout: 5S",)
    cases = [Case("put", shape, _PUT, _put(VALUE), True) for shape in SHAPES]
    cases += [Case("range", shape, _RANGE, get, False) for shape in SHAPES]
    cases += [Case("range-serializable", shape, _RANGE, local, False) for shape in SHAPES]
    cases += [Case("txn", shape, _TXN, _swap_request(), True) for shape in SHAPES]
    cases += [Case("put-timeout", shape, _PUT, _put(VALUE), True, headers=in_time) for shape in BUSY]
    cases += [Case("range-timeout", shape, _RANGE, get, False, headers=in_time) for shape in BUSY]
    for shape in LONE + BUSY:
        cases.append(Case("put-auth", shape, _PUT, _put(VALUE), True, auth=True))
        cases.append(Case("range-auth", shape, _RANGE, get, False, auth=True))
        cases.append(Case("txn-auth", shape, _TXN, _swap_request(), True, auth=True))
    for suffix, size in VALUE_SIZES.items():
        cases += [Case(f"put-{suffix}", shape, _PUT, _put(b"v" * size), True) for shape in BUSY]
        one = rpc_pb2.RangeRequest(key=sized_key(suffix)).SerializeToString()
        cases += [Case(f"range-{suffix}", shape, _RANGE, one, False) for shape in BUSY]
    cases += [Case("prefix-10", shape, _RANGE, _prefix(b"read/03/0300"), False) for shape in LONE + BUSY]
    cases += [Case("prefix-1000", shape, _RANGE, _prefix(b"read/03/"), False) for shape in LONE + BUSY]
    cases += [Case("prefix-100000", shape, _RANGE, _prefix(b"read/"), False, fewest=3) for shape in LONE]
    return cases


def patterns_of(text: str) -> list[str]:
    """`put,range*/1x1` as a list."""
    return [pattern for pattern in text.split(",") if pattern]


def fits(title: str, patterns: Sequence[str]) -> bool:
    """Whether a case is wanted: one of the patterns is its name, or fits its title; without patterns all are."""
    name = title.partition("/")[0]
    return not patterns or any(fnmatch(title, wanted) or name == wanted for wanted in patterns)


def fill_requests(numbers: range = range(KEYS)) -> Iterator[bytes]:
    """Txn messages that write the rows all cases need, or fewer of them."""
    rows = [(read_key(number), VALUE) for number in numbers]
    rows += [(b"swap/key", VALUE), (b"put/key", VALUE)]
    rows += [(sized_key(suffix), b"v" * size) for suffix, size in VALUE_SIZES.items()]
    for start in range(0, len(rows), FILL_OPS):
        ops = [
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))
            for key, value in rows[start : start + FILL_OPS]
        ]
        yield rpc_pb2.TxnRequest(success=ops).SerializeToString()
