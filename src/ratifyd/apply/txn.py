"""Txn: evaluate every compare, check the chosen path, then change: after the first change no error is possible."""

from collections.abc import Generator
from contextlib import ExitStack, closing
from typing import Any

from google.protobuf.message import DecodeError

from ratifyd.apply.kv import check_present, delete_in, put_in
from ratifyd.apply.ranges import is_long, range_body, range_steps
from ratifyd.apply.state import State
from ratifyd.errors import Compacted, LeaseNotFound, TooManyOps
from ratifyd.keys import KeyRange
from ratifyd.mvcc.store import Store, WriteTxn
from ratifyd.proto import fast
from ratifyd.proto.kv_pb2 import KeyValue
from ratifyd.proto.rpc_pb2 import Compare, RequestOp, TxnRequest

MAX_NESTING = 200
"""Txns inside each other. Every level has an operation, so --max-txn-ops as it is by default allows 127."""

_COMPARE, _SUCCESS, _FAILURE = (
    TxnRequest.DESCRIPTOR.fields_by_name[name].number for name in ("compare", "success", "failure")
)
_NESTED = RequestOp.DESCRIPTOR.fields_by_name["request_txn"].number
_OTHER_OPERATIONS = frozenset(field.number for field in RequestOp.DESCRIPTOR.fields) - {_NESTED}
_EMPTY = TxnRequest()
_ABSENT = KeyValue()
_FIELDS = {
    Compare.VERSION: ("version", "version"),
    Compare.CREATE: ("create_revision", "create_revision"),
    Compare.MOD: ("mod_revision", "mod_revision"),
    Compare.LEASE: ("lease", "lease"),
}
_EMPTY_NESTED_HEADER = b"\x0a\x00"
"""etcd leaves the header of a nested answer present and empty (semantics 1.8)."""


Operation = tuple[str | None, Any]
"""An operation's kind (the field of RequestOp that is set) and its request; a nested txn as `Txn`."""


class Txn:
    """A TxnRequest taken apart once. Reaching into a message makes an object each time, so what was found is kept."""

    __slots__ = ("compare", "failure", "success")

    def __init__(self, request: TxnRequest) -> None:
        self.compare: list[Compare] = list(request.compare)
        self.success = [_operation(op) for op in request.success]
        self.failure = [_operation(op) for op in request.failure]

    @property
    def is_read_only(self) -> bool:
        """Whether no branch can write: every operation of both is a range (semantics 5.16)."""
        return all(kind == "request_range" for kind, _ in self.success) and all(
            kind == "request_range" for kind, _ in self.failure
        )

    @property
    def is_serializable(self) -> bool:
        """Whether a read-only txn may be answered locally: all its ranges are serializable (an empty txn is)."""
        return all(read.serializable for _, read in self.success) and all(read.serializable for _, read in self.failure)


def parse_txn(data: bytes) -> Txn:
    """Read a TxnRequest. Raises DecodeError, and TooManyOps beyond MAX_NESTING."""
    try:
        return Txn(TxnRequest.FromString(data))
    except DecodeError:
        return _parse_nested(data, 0)


def _parse_nested(data: bytes, depth: int) -> Txn:
    """As `parse_txn`, level by level: protobuf's parser refuses more than 49 txns inside each other, etcd does not."""
    if depth > MAX_NESTING:
        raise TooManyOps
    found = Txn(_EMPTY)
    branches = {_SUCCESS: found.success, _FAILURE: found.failure}
    for number, content in _fields(data):
        if number == _COMPARE:
            found.compare.append(Compare.FromString(content))
        elif number in branches:
            operation: Operation = None, None
            for kind, inner in _fields(content):
                if kind == _NESTED:
                    operation = "request_txn", _parse_nested(inner, depth + 1)
                elif kind in _OTHER_OPERATIONS:
                    operation = _operation(RequestOp.FromString(fast.length_prefixed(kind, inner)))
            branches[number].append(operation)
    return found


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    try:
        return fast.message_field_list(data)
    except ValueError as error:
        raise DecodeError(str(error)) from error


def _operation(op: RequestOp) -> Operation:
    kind = op.WhichOneof("request")
    if kind == "request_txn":
        return kind, Txn(op.request_txn)
    return kind, None if kind is None else getattr(op, kind)


class Path:
    """The branch a txn takes: its operations, a nested txn as its own path."""

    __slots__ = ("ops", "succeeded")

    def __init__(self, store: Store, txn: Txn) -> None:
        self.succeeded = True
        for compare in txn.compare:
            store.counts.ranges += 1
            if not _holds(store, compare):
                self.succeeded = False
                break
        self.ops: list[Operation] = txn.success if self.succeeded else txn.failure
        if any(kind == "request_txn" for kind, _ in self.ops):
            self.ops = [
                (kind, Path(store, request) if kind == "request_txn" else request) for kind, request in self.ops
            ]


def txn(state: State, request: Txn, wanted: bool) -> bytes:
    """Execute a writing Txn; the answer's body. Raises KeyNotFound, LeaseNotFound, Compacted, FutureRev."""
    store = state.store
    counts = store.counts
    before = counts.operations
    path = Path(store, request)
    try:
        _check_puts(state, path)
        _check_ranges(store, path)
    finally:
        compared = counts.operations
        counts.txns += compared - before > 1  # etcd reads for the compares in a transaction of their own
    with store.write() as write:
        body = _execute(state, write, path, wanted)
    counts.txns += counts.operations - compared > 1
    return body


def read_txn_body(store: Store, request: Txn) -> bytes:
    """Answer a read-only Txn; the body after the header. Raises Compacted, FutureRev."""
    path = _read_path(store, request)
    header = fast.revision_header(store.revision)
    responses = [fast.length_prefixed(1, header + range_body(store, read)) for _, read in path.ops]
    return fast.txn_body(path.succeeded, responses)


def _read_path(store: Store, request: Txn) -> Path:
    counts = store.counts
    before = counts.operations
    try:
        path = Path(store, request)
        _check_ranges(store, path)
        counts.ranges += len(path.ops)
    finally:
        counts.txns += counts.operations - before > 1
    return path


def is_long_read(store: Store, txn: Txn) -> bool:
    """Whether a read-only Txn may have to read too much for one go."""
    return any(is_long(store, read) for branch in (txn.success, txn.failure) for _, read in branch)


def read_txn_steps(store: Store, txn: Txn) -> Generator[None, None, bytes]:
    """As `read_txn_body`, its long ranges in slices, all at the revision of the first step."""
    path = _read_path(store, txn)
    header = fast.revision_header(store.revision)
    responses: list[bytes] = []
    with ExitStack() as stack:
        answers: list[bytes | Generator[None, None, list[bytes]]] = []
        for _, read in path.ops:
            if is_long(store, read):
                steps = stack.enter_context(closing(range_steps(store, read)))
                next(steps)  # begins it, at the revision of this moment
                answers.append(steps)
            else:
                answers.append(range_body(store, read))
        for answer in answers:
            parts = [answer] if isinstance(answer, bytes) else (yield from answer)
            responses.append(fast.length_prefixed(1, b"".join((header, *parts))))
    return fast.txn_body(path.succeeded, responses)


def _check_puts(state: State, path: Path) -> None:
    for kind, request in path.ops:
        if kind == "request_put":
            if request.ignore_value or request.ignore_lease:
                check_present(state.store, request)
                state.store.counts.ranges += 1
            lease = request.lease
            if lease and lease not in state.leases.leases:
                raise LeaseNotFound
        elif kind == "request_txn":
            _check_puts(state, request)


def _check_ranges(store: Store, path: Path) -> None:
    for kind, request in path.ops:
        if kind == "request_range":
            revision = request.revision
            # Stricter than a Range of its own, which reads a negative revision as the latest (semantics 2.5).
            if revision and revision < store.compacted:
                raise Compacted
            store.check_revision(revision)
        elif kind == "request_txn":
            _check_ranges(store, request)


def _execute(state: State, write: WriteTxn, path: Path, wanted: bool) -> bytes:
    responses: list[bytes] = []
    for kind, request in path.ops:
        if kind == "request_put":
            looks = request.prev_kv or request.ignore_value or request.ignore_lease
            body = put_in(state, write, request, looks)
            responses.append(fast.length_prefixed(2, fast.revision_header(write.revision) + body))
        elif kind == "request_range":
            state.store.counts.ranges += 1
            if wanted:
                revision = write.revision if write.changed else write.revision - 1
                body = range_body(write, request)
                responses.append(fast.length_prefixed(1, fast.revision_header(revision) + body))
        elif kind == "request_delete_range":
            body = delete_in(state, write, request)
            revision = write.revision if write.changed else write.revision - 1
            responses.append(fast.length_prefixed(3, fast.revision_header(revision) + body))
        elif kind == "request_txn":
            body = _execute(state, write, request, wanted)
            responses.append(fast.length_prefixed(4, _EMPTY_NESTED_HEADER + body))
    return fast.txn_body(path.succeeded, responses)


def _holds(store: Store, compare: Compare) -> bool:
    if not compare.range_end:
        data = store.get(compare.key)
        if data is not None:
            return _compare(compare, KeyValue.FromString(data))
        kvs = []
    else:
        kvs = store.range(KeyRange.parse(compare.key, compare.range_end)).kvs
    if not kvs:
        # An absent value cannot be told from an empty one, so comparing it always fails (semantics 5.3).
        return compare.target != Compare.VALUE and _compare(compare, _ABSENT)
    return all(_compare(compare, KeyValue.FromString(data)) for data in kvs)


def _compare(compare: Compare, kv: KeyValue) -> bool:
    target = compare.target
    order = 0
    if target == Compare.VALUE:
        order = (kv.value > compare.value) - (kv.value < compare.value)
    elif target in _FIELDS:
        stored, wanted = _FIELDS[target]
        left: int = getattr(kv, stored)
        right: int = getattr(compare, wanted)
        order = (left > right) - (left < right)
    result = compare.result
    if result == Compare.EQUAL:
        return order == 0
    if result == Compare.NOT_EQUAL:
        return order != 0
    if result == Compare.GREATER:
        return order > 0
    if result == Compare.LESS:
        return order < 0
    return True
