"""Checks of KV requests before anything is proposed or read, with etcd's errors in etcd's order (semantics 2-5)."""

from collections.abc import Sequence

from ratifyd.errors import (
    DuplicateKey,
    EmptyKey,
    InvalidSortOption,
    KeyNotFound,
    LeaseProvided,
    TooManyOps,
    ValueProvided,
)
from ratifyd.proto.rpc_pb2 import DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest

_LAST_SORT_ORDER = RangeRequest.DESCEND
_LAST_SORT_TARGET = RangeRequest.VALUE

_Deletes = list[tuple[bytes, bytes]]
"""Deleted intervals as etcd's check sees them: (start, end) with an empty end for one key."""


def check_range(request: RangeRequest) -> None:
    """Raises EmptyKey, InvalidSortOption."""
    if not request.key:
        raise EmptyKey
    if not 0 <= request.sort_order <= _LAST_SORT_ORDER or not 0 <= request.sort_target <= _LAST_SORT_TARGET:
        raise InvalidSortOption


def check_put(request: PutRequest) -> None:
    """Raises EmptyKey, ValueProvided, LeaseProvided."""
    if not request.key:
        raise EmptyKey
    if request.ignore_value and request.value:
        raise ValueProvided
    if request.ignore_lease and request.lease:
        raise LeaseProvided


def check_delete(request: DeleteRangeRequest) -> None:
    """Raises EmptyKey."""
    if not request.key:
        raise EmptyKey


def check_txn(request: TxnRequest, max_ops: int) -> None:
    """Raises TooManyOps, EmptyKey, DuplicateKey and what the checks of single operations raise."""
    _check_txn_shape(request, max_ops)
    _check_overlap(request.success)
    _check_overlap(request.failure)


def _check_txn_shape(request: TxnRequest, max_ops: int) -> None:
    ops = max(len(request.compare), len(request.success), len(request.failure))
    if ops > max_ops:
        raise TooManyOps
    for compare in request.compare:
        if not compare.key:
            raise EmptyKey
    for branch in (request.success, request.failure):
        for op in branch:
            _check_op(op, max_ops - ops)


def _check_op(op: RequestOp, max_ops: int) -> None:
    kind = op.WhichOneof("request")
    if kind == "request_range":
        check_range(op.request_range)
    elif kind == "request_put":
        check_put(op.request_put)
    elif kind == "request_delete_range":
        check_delete(op.request_delete_range)
    elif kind == "request_txn":
        _check_txn_shape(op.request_txn, max_ops)
    else:
        raise KeyNotFound


def _check_overlap(ops: Sequence[RequestOp]) -> tuple[set[bytes], _Deletes]:
    """Refuse a key put twice, or put and deleted, in one branch; the keys put and ranges deleted below it."""
    deletes: _Deletes = [
        (op.request_delete_range.key, op.request_delete_range.range_end)
        for op in ops
        if op.WhichOneof("request") == "request_delete_range"
    ]
    puts: set[bytes] = set()
    for op in ops:
        if op.WhichOneof("request") != "request_txn":
            continue
        puts_then, deletes_then = _check_overlap(op.request_txn.success)
        puts_else, deletes_else = _check_overlap(op.request_txn.failure)
        # Only one of the two branches runs, so a key may be put in both; not in an earlier sibling, though.
        if (puts_then | puts_else) & puts or any(_covers(deletes, key) for key in puts_then | puts_else):
            raise DuplicateKey
        puts |= puts_then | puts_else
        deletes += deletes_then
        deletes += deletes_else
    for op in ops:
        if op.WhichOneof("request") == "request_put":
            key = op.request_put.key
            if key in puts or _covers(deletes, key):
                raise DuplicateKey
            puts.add(key)
    return puts, deletes


def _covers(deletes: _Deletes, key: bytes) -> bool:
    # An end of one zero byte is not read as "no end" here: etcd's check takes it literally (semantics 5.10).
    return any(key == start if not end else start <= key < end for start, end in deletes)
