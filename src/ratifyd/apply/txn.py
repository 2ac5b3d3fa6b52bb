"""Txn: evaluate every compare, check the chosen path, then change: after the first change no error is possible."""

import operator
from collections.abc import Callable, Generator
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
from ratifyd.proto.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest

PARSER_NESTING = 49
"""Txns inside each other that protobuf's parser goes down to: a hundred levels of messages."""
MAX_NESTING = 200
"""Txns inside each other. Every level has an operation, so --max-txn-ops as it is by default allows 127."""

_ABSENT = KeyValue()
_FIELDS = {
    Compare.VERSION: ("version", "version"),
    Compare.CREATE: ("create_revision", "create_revision"),
    Compare.MOD: ("mod_revision", "mod_revision"),
    Compare.LEASE: ("lease", "lease"),
    Compare.VALUE: ("value", "value"),
}
_RESULTS: dict[int, Callable[[Any, Any], bool]] = {
    Compare.EQUAL: operator.eq,
    Compare.NOT_EQUAL: operator.ne,
    Compare.GREATER: operator.gt,
    Compare.LESS: operator.lt,
}
_EMPTY_NESTED_HEADER = b"\x0a\x00"
"""etcd leaves the header of a nested answer present and empty (semantics 1.8)."""


Operation = tuple[str | None, Any]
"""An operation's kind (the field of RequestOp that is set) and its request; a nested txn as `Txn`."""


_COMPARE, _SUCCESS, _FAILURE = 0x0A, 0x12, 0x1A
"""Tags of TxnRequest's fields."""
_RANGE, _NESTED = 0x0A, 0x22
_LENGTH_DELIMITED = 2
_REQUESTS: dict[int, tuple[str, Callable[[bytes], Any]]] = {
    _RANGE: ("request_range", RangeRequest.FromString),
    0x12: ("request_put", PutRequest.FromString),
    0x1A: ("request_delete_range", DeleteRangeRequest.FromString),
}
"""What RequestOp may be, by tag; but a nested txn: the parser of the whole counts how deep it goes."""


class Txn:
    """A TxnRequest taken apart once. Reaching into a message makes an object each time, so what was found is kept."""

    __slots__ = ("compare", "failure", "is_read_only", "nested", "success")

    def __init__(self, request: TxnRequest) -> None:
        self._take(
            list(request.compare),
            [_operation(op) for op in request.success],
            [_operation(op) for op in request.failure],
        )

    @classmethod
    def of(cls, compare: list[Compare], success: list[Operation], failure: list[Operation]) -> "Txn":
        """A txn of parts."""
        txn = cls.__new__(cls)
        txn._take(compare, success, failure)
        return txn

    def _take(self, compare: list[Compare], success: list[Operation], failure: list[Operation]) -> None:
        self.compare, self.success, self.failure = compare, success, failure
        kinds = {kind for branch in (success, failure) for kind, _ in branch}
        self.nested = "request_txn" in kinds
        self.is_read_only = kinds <= {"request_range"}
        """No branch can write: every operation of both is a range (semantics 5.16)."""

    @property
    def is_serializable(self) -> bool:
        """Whether a read-only txn may be answered locally: all its ranges are serializable (an empty txn is)."""
        return all(read.serializable for _, read in self.success) and all(read.serializable for _, read in self.failure)


def parse_txn(data: bytes) -> Txn:
    """Read a TxnRequest. Raises DecodeError, and TooManyOps beyond MAX_NESTING."""
    try:
        return _split(data) or Txn(TxnRequest.FromString(data))
    except DecodeError:
        found = _parse_nested(data, 0)
        if _levels(found) <= PARSER_NESTING:
            raise  # it was not for its depth that it could not be read
        return found


def _levels(txn: Txn) -> int:
    """How many txns there are inside each other."""
    inner = [request for branch in (txn.success, txn.failure) for kind, request in branch if kind == "request_txn"]
    return max(map(_levels, inner)) + 1 if inner else 0


def _split(data: bytes) -> Txn | None:
    """The usual ones are split here and only their parts parsed: half the work of parsing the whole and reaching in."""
    fields = fast.submessages(data)
    if fields is None:
        return None
    compare: list[Compare] = []
    success: list[Operation] = []
    failure: list[Operation] = []
    for tag, content in fields:
        if tag == _COMPARE:
            compare.append(Compare.FromString(content))
            continue
        ops = fast.submessages(content)
        if not ops or len(ops) > 1 or ops[0][0] not in _REQUESTS or (tag != _SUCCESS and tag != _FAILURE):
            return None
        ((kind_tag, content),) = ops
        kind, parse = _REQUESTS[kind_tag]
        (success if tag == _SUCCESS else failure).append((kind, parse(content)))
    return Txn.of(compare, success, failure)


def _parse_nested(data: bytes, depth: int) -> Txn:
    """As `parse_txn`, level by level: protobuf's parser refuses more than 49 txns inside each other, etcd does not."""
    if depth > MAX_NESTING:
        raise TooManyOps
    compare: list[Compare] = []
    success: list[Operation] = []
    failure: list[Operation] = []
    for number, content in _fields(data):
        tag = number << 3 | _LENGTH_DELIMITED
        if tag == _COMPARE:
            compare.append(Compare.FromString(content))
        elif tag in (_SUCCESS, _FAILURE):
            (success if tag == _SUCCESS else failure).append(_nested_operation(content, depth))
    return Txn.of(compare, success, failure)


def _nested_operation(data: bytes, depth: int) -> Operation:
    tag, content = 0, b""
    for number, more in _fields(data):
        found = number << 3 | _LENGTH_DELIMITED
        if found == _NESTED or found in _REQUESTS:
            content = content + more if found == tag else more  # one that comes twice is merged
            tag = found
    if tag == _NESTED:
        return "request_txn", _parse_nested(content, depth + 1)
    if not tag:
        return None, None
    kind, parse = _REQUESTS[tag]
    return kind, parse(content)


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
        if txn.nested:
            self.ops = [
                (kind, Path(store, request) if kind == "request_txn" else request) for kind, request in self.ops
            ]


def txn(state: State, request: Txn, wanted: bool) -> bytes:
    """Execute a writing Txn; the answer's body. Raises KeyNotFound, LeaseNotFound, Compacted, FutureRev."""
    store = state.store
    counts = store.counts
    before = counts.ranges
    path = Path(store, request)
    try:
        _check_puts(state, path)
        _check_ranges(store, path)
    finally:
        counts.txns += counts.ranges - before > 1  # etcd reads for the compares in a transaction of their own
    compared = counts.operations
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
            responses.append(fast.put_in_txn(write.revision, body))
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
    fields = _FIELDS.get(compare.target)
    holds = _RESULTS.get(compare.result)
    if holds is None:
        return True
    return holds(0, 0) if fields is None else holds(getattr(kv, fields[0]), getattr(compare, fields[1]))
