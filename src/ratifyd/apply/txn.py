"""Txn: evaluate every compare, check the chosen path, then change: after the first change no error is possible."""

from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError

from ratifyd.apply.kv import check_present, delete_in, put_in, put_plain
from ratifyd.apply.ranges import get_body, is_long, range_body, range_steps
from ratifyd.apply.state import State
from ratifyd.errors import Compacted, LeaseNotFound, TooManyOps
from ratifyd.keys import KeyRange
from ratifyd.mvcc.store import Store, WriteTxn
from ratifyd.proto import fast
from ratifyd.proto.canonical import TooDeep, is_canonical, rewritten
from ratifyd.proto.kv_pb2 import KeyValue
from ratifyd.proto.light import (
    Condition,
    Get,
    Put,
    Swap,
    condition_of,
    read_compare,
    read_delete_range,
    read_put,
    read_range,
    read_swap,
)
from ratifyd.proto.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

PARSER_NESTING = 49
"""Txns inside each other that protobuf's parser goes down to: a hundred levels of messages."""
MAX_NESTING = 200
"""Txns inside each other. Every level has an operation, so --max-txn-ops as it is by default allows 127."""
_CHECKED_NESTING = 30
"""Txns inside each other in which `is_canonical` finds what is unknown."""
_MAX_LEVELS = 2 * MAX_NESTING + 3
"""Of messages: a txn, its operations, theirs, down to a request in the innermost."""
MAX_PARTS = 10_000
"""Compares and operations of a client's txn, in all that are inside each other, unless more may be in one.

A message has room for a million.
"""

_FACTS: dict[str | None, int] = {"create_revision": 0, "mod_revision": 1, "version": 2}
"""What `Store.history_of` knows of a key, which spares reading it: zeros of none, as compares want it."""
_EMPTY_NESTED_HEADER = b"\x0a\x00"
"""etcd leaves the header of a nested answer present and empty (semantics 1.8)."""


Operation = tuple[str | None, Any]
"""An operation's kind (the field of RequestOp that is set) and its request; a nested txn as `Txn`."""


_COMPARE, _SUCCESS, _FAILURE = 0x0A, 0x12, 0x1A
"""Tags of TxnRequest's fields."""
_NESTED = 0x22
_LENGTH_DELIMITED = 2


_Readers = dict[int, tuple[str, Callable[..., Any], Callable[[bytes], Any]]]

_REQUESTS: _Readers = {
    0x0A: ("request_range", read_range, RangeRequest.FromString),
    0x12: ("request_put", read_put, PutRequest.FromString),
    0x1A: ("request_delete_range", read_delete_range, DeleteRangeRequest.FromString),
}
"""What RequestOp may be, by tag, how it is read by hand, and how else. But a nested txn: the parser of the whole counts
how deep it goes."""


class _Odd(Exception):
    """A part of a Txn is not as a runtime would have written it."""


def _canonical(kind: type[Any], data: bytes) -> Any:
    request = kind.FromString(data)
    if not is_canonical(request, data):
        raise _Odd
    return request


_CANONICAL: _Readers = {
    tag: (name, read, partial(_canonical, kind))
    for (tag, (name, read, _)), kind in zip(_REQUESTS.items(), (RangeRequest, PutRequest, DeleteRangeRequest))
}
"""As `_REQUESTS`, of nothing but the canonical encoding. Raise _Odd of others."""
_CANONICAL_COMPARE = partial(_canonical, Compare)


class Txn:
    """A TxnRequest taken apart once. Reaching into a message makes an object each time, so what was found is kept."""

    __slots__ = ("compare", "failure", "is_plain", "is_read_only", "nested", "success")

    def __init__(self, compare: list[Condition], success: list[Operation], failure: list[Operation]) -> None:
        self.compare, self.success, self.failure = compare, success, failure
        self.nested = False
        plain = reads = True
        for branch in (success, failure):
            for kind, request in branch:
                if type(request) is Put:
                    reads = False
                elif type(request) is not Get:
                    plain = False
                    if kind != "request_range":
                        reads = False
                        self.nested = self.nested or kind == "request_txn"
        for condition in compare:
            if not condition.key:
                plain = False
        self.is_plain = plain
        """Nothing but keys and values is asked for or to be written: there is nothing to be said against that."""
        self.is_read_only = reads
        """No branch can write: every operation of both is a range (semantics 5.16)."""

    @classmethod
    def of(cls, request: TxnRequest) -> "Txn":
        """A whole message taken apart."""
        return cls(
            [condition_of(compare) for compare in request.compare],
            [_operation(op) for op in request.success],
            [_operation(op) for op in request.failure],
        )

    @property
    def is_serializable(self) -> bool:
        """Whether a read-only txn may be answered locally: all its ranges are serializable (an empty txn is)."""
        return all(read.serializable for _, read in self.success) and all(read.serializable for _, read in self.failure)


def parse_txn(data: bytes) -> Txn | Swap:
    """Read a TxnRequest of the log. Raises DecodeError, and TooManyOps beyond MAX_NESTING."""
    try:
        return read_swap(data) or _split(data) or Txn.of(TxnRequest.FromString(data))
    except DecodeError:
        found = _parse_nested(memoryview(data), 0)
        if _levels(found) <= PARSER_NESTING:
            raise  # it was not for its depth that it could not be read
        return found


def _levels(txn: Txn) -> int:
    """How many txns there are inside each other."""
    inner = [request for branch in (txn.success, txn.failure) for kind, request in branch if kind == "request_txn"]
    return max(map(_levels, inner)) + 1 if inner else 0


def parse_proposed(data: bytes, max_ops: int) -> tuple[Txn | Swap, bytes]:
    """A TxnRequest of a client, and what to propose of it. Raises DecodeError, WrongWireType, TooManyOps.

    What has more operations than a client may ask for is not taken apart to its end.
    """
    most = 3 * max(max_ops, 0)  # of compares, and of operations in either branch
    try:
        found = read_swap(data) or _split(data, _CANONICAL, _CANONICAL_COMPARE, most) or _whole(data, most)
        return found, data
    except (_Odd, DecodeError):
        pass
    try:
        data = rewritten(TxnRequest, data, _MAX_LEVELS)
    except TooDeep:
        raise TooManyOps from None
    with suppress(DecodeError):  # of one that is too deep, which the rewriting has bounded
        _count(TxnRequest.FromString(data), most, max(most, MAX_PARTS))
    return parse_txn(data), data


def _count(request: TxnRequest, most: int, left: int) -> int:
    """How many parts are left of those it may have. Raises TooManyOps."""
    parts = len(request.compare) + len(request.success) + len(request.failure)
    left -= parts
    if parts > most or left < 0:
        raise TooManyOps
    for branch in (request.success, request.failure):
        for operation in branch:
            if operation.HasField("request_txn"):
                left = _count(operation.request_txn, most, left)
    return left


def _whole(data: bytes, most: int) -> Txn:
    """One with long or nested parts. Raises _Odd, DecodeError, TooManyOps."""
    request = TxnRequest.FromString(data)
    _count(request, most, max(most, MAX_PARTS))
    found = Txn.of(request)
    if _levels(found) > _CHECKED_NESTING or not is_canonical(request, data):
        raise _Odd
    return found


def _split(
    data: bytes,
    requests: _Readers = _REQUESTS,
    parse_compare: Callable[[bytes], Any] = Compare.FromString,
    most: int = -1,
) -> Txn | None:
    """The usual ones are split here, and their parts read by hand where they can be.

    Raises TooManyOps beyond `most`.
    """
    compare: list[Condition] = []
    success: list[Operation] = []
    failure: list[Operation] = []
    at, end = 0, len(data)
    try:
        while at < end:
            if not most:
                raise TooManyOps
            most -= 1
            tag, size = data[at], data[at + 1]
            at += 2
            if size > 0x7F:
                high = data[at]
                at += 1
                size += (high << 7) - 0x80
                if high > 0x7F:
                    return None
            stop = at + size
            if tag == _COMPARE:
                compare.append(read_compare(data, at, stop, parse_compare))
            else:
                kind, size = data[at], data[at + 1]
                at += 2
                if size > 0x7F:
                    high = data[at]
                    at += 1
                    size += (high << 7) - 0x80
                    if high > 0x7F:
                        return None
                if at + size != stop:
                    return None
                name, read, parse = requests[kind]
                if tag == _SUCCESS:
                    success.append((name, read(data, at, stop, parse)))
                elif tag == _FAILURE:
                    failure.append((name, read(data, at, stop, parse)))
                else:
                    return None
            at = stop
    except (IndexError, KeyError):
        return None
    return Txn(compare, success, failure) if at == end else None


def _parse_nested(data: memoryview, depth: int) -> Txn:
    """As `parse_txn`, level by level: protobuf's parser refuses more than 49 txns inside each other, etcd does not.

    Each is looked at where it is: copies of all would take levels times size.
    """
    if depth > MAX_NESTING:
        raise TooManyOps
    compare: list[Condition] = []
    success: list[Operation] = []
    failure: list[Operation] = []
    for number, content in _fields(data):
        tag = number << 3 | _LENGTH_DELIMITED
        if tag == _COMPARE:
            compare.append(read_compare(bytes(content), 0, len(content)))
        elif tag in (_SUCCESS, _FAILURE):
            (success if tag == _SUCCESS else failure).append(_nested_operation(content, depth))
    return Txn(compare, success, failure)


def _nested_operation(data: memoryview, depth: int) -> Operation:
    tag, content = 0, memoryview(b"")
    for number, more in _fields(data):
        found = number << 3 | _LENGTH_DELIMITED
        if found == _NESTED or found in _REQUESTS:
            content = memoryview(b"".join((content, more))) if found == tag else more  # one that comes twice is merged
            tag = found
    if tag == _NESTED:
        return "request_txn", _parse_nested(content, depth + 1)
    if not tag:
        return None, None
    kind, read, _ = _REQUESTS[tag]
    return kind, read(bytes(content), 0, len(content))


def _fields(data: memoryview) -> list[tuple[int, memoryview]]:
    try:
        return fast.message_field_list(data)
    except ValueError as error:
        raise DecodeError(str(error)) from error


def _operation(op: RequestOp) -> Operation:
    kind = op.WhichOneof("request")
    if kind == "request_txn":
        return kind, Txn.of(op.request_txn)
    return kind, None if kind is None else getattr(op, kind)


class Path:
    """The branch a txn takes: its operations, a nested txn as its own path."""

    __slots__ = ("ops", "succeeded")

    def __init__(self, store: Store, txn: Txn) -> None:
        self.succeeded = True
        for condition in txn.compare:
            store.counts.ranges += 1
            if not _holds(store, condition):
                self.succeeded = False
                break
        self.ops: list[Operation] = txn.success if self.succeeded else txn.failure
        if txn.nested:
            self.ops = [
                (kind, Path(store, request) if kind == "request_txn" else request) for kind, request in self.ops
            ]


def txn(state: State, request: Txn | Swap, wanted: bool) -> bytes:
    """Execute a writing Txn; the answer's body. Raises KeyNotFound, LeaseNotFound, Compacted, FutureRev."""
    if type(request) is Swap:
        return _swap(state, request, wanted)
    if request.is_plain:
        return _plain_txn(state, request, wanted)
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
        body = _execute(state, write, path.succeeded, path.ops, wanted)
    counts.txns += counts.operations - compared > 1
    return body


def _swap(state: State, request: Swap, wanted: bool) -> bytes:
    """Execute a Swap: nothing can go wrong."""
    condition, put_key, value, read_key = request
    store = state.store
    counts = store.counts
    counts.ranges += 1
    if _holds(store, condition):
        put_plain(state, put_key, value)
        return fast.txn_of_put_body(True, store.revision)
    if not read_key:
        return fast.txn_body(False, ())
    counts.ranges += 1
    if not wanted:
        return b""
    body = fast.revision_header(store.revision) + get_body(store, read_key)
    return fast.txn_body(False, (fast.length_prefixed(1, body),))


def _plain_txn(state: State, request: Txn, wanted: bool) -> bytes:
    """Execute a plain Txn: nothing can go wrong."""
    store = state.store
    counts = store.counts
    succeeded, compared = True, 0
    for condition in request.compare:
        compared += 1
        if not _holds(store, condition):
            succeeded = False
            break
    counts.ranges += compared
    counts.txns += compared > 1
    ops = request.success if succeeded else request.failure
    if len(ops) == 1 and type(only := ops[0][1]) is Put:
        put_plain(state, only.key, only.value)
        return fast.txn_of_put_body(succeeded, store.revision)
    counts.txns += len(ops) > 1
    with store.write() as write:
        return _execute(state, write, succeeded, ops, wanted)


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


def _execute(state: State, write: WriteTxn, succeeded: bool, ops: list[Operation], wanted: bool) -> bytes:
    responses: list[bytes] = []
    for kind, request in ops:
        if kind == "request_put":
            looks = request.prev_kv or request.ignore_value or request.ignore_lease
            body = put_in(state, write, request, looks)
            responses.append(fast.put_in_txn(write.revision, body))
        elif kind == "request_range":
            state.store.counts.ranges += 1
            if wanted:
                revision = write.revision if write.changed else write.revision - 1
                body = get_body(state.store, request.key) if type(request) is Get else range_body(write, request)
                responses.append(fast.length_prefixed(1, fast.revision_header(revision) + body))
        elif kind == "request_delete_range":
            body = delete_in(state, write, request)
            revision = write.revision if write.changed else write.revision - 1
            responses.append(fast.length_prefixed(3, fast.revision_header(revision) + body))
        elif kind == "request_txn":
            body = _execute(state, write, request.succeeded, request.ops, wanted)
            responses.append(fast.length_prefixed(4, _EMPTY_NESTED_HEADER + body))
    return fast.txn_body(succeeded, responses)


def _holds(store: Store, condition: Condition) -> bool:
    key, range_end, field, holds, wanted = condition
    if not range_end:
        fact = _FACTS.get(field)
        if fact is not None:
            return holds(store.history_of(key)[fact], wanted)
        data = store.get(key)
        if data is not None:
            kv = KeyValue.FromString(data)
            return holds(kv.value if field == "value" else _actual(field, kv), wanted)
        kvs = []
    else:
        kvs = store.range(KeyRange.parse(key, range_end)).kvs
    if not kvs:
        # An absent value cannot be told from an empty one, so comparing it always fails (semantics 5.3).
        return field != "value" and holds(0, wanted)
    return all(holds(_actual(field, KeyValue.FromString(data)), wanted) for data in kvs)


def _actual(field: str | None, kv: KeyValue) -> int | bytes:
    found: int | bytes = 0 if field is None else getattr(kv, field)
    return found
