"""Checks of requests before anything is proposed or read, with etcd's errors in etcd's order (semantics 2-5, 9).

What ends a member of etcd that applies it, or what its versions do not agree about, must not get into the log at all.
"""

from collections.abc import Collection
from typing import Any

from ratifyd.apply.auth import MAX_NAME_BYTES
from ratifyd.apply.txn import Operation, Txn
from ratifyd.auth.records import Role
from ratifyd.auth.rules import is_valid_range
from ratifyd.errors import (
    DuplicateKey,
    EmptyKey,
    InvalidAuthMgmt,
    InvalidSortOption,
    KeyNotFound,
    LeaseProvided,
    PermissionDenied,
    RequestTooLarge,
    TooManyOps,
    UnknownMethod,
    ValueProvided,
)
from ratifyd.proto.light import Delete, Put, Swap
from ratifyd.proto.rpc_pb2 import (
    AlarmRequest,
    AlarmType,
    AuthRoleGrantPermissionRequest,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
)

_LAST_SORT_ORDER = RangeRequest.DESCEND
_LAST_SORT_TARGET = RangeRequest.VALUE

_Deletes = list[tuple[bytes, bytes]]
"""Deleted intervals as etcd's check sees them, (start, end). An end of one zero byte is no "no end": it takes that
literally (semantics 5.10)."""


def check_range(request: RangeRequest) -> None:
    """Raises EmptyKey, InvalidSortOption."""
    if not request.key:
        raise EmptyKey
    if not 0 <= request.sort_order <= _LAST_SORT_ORDER or not 0 <= request.sort_target <= _LAST_SORT_TARGET:
        raise InvalidSortOption


def check_put(request: Put | PutRequest) -> None:
    """Raises EmptyKey, ValueProvided, LeaseProvided."""
    if not request.key:
        raise EmptyKey
    if request.ignore_value and request.value:
        raise ValueProvided
    if request.ignore_lease and request.lease:
        raise LeaseProvided


def check_delete(request: Delete | DeleteRangeRequest) -> None:
    """Raises EmptyKey."""
    if not request.key:
        raise EmptyKey


def check_txn(txn: Txn | Swap, max_ops: int) -> None:
    """Check a Txn, both branches and all nesting.

    Raises TooManyOps, EmptyKey, DuplicateKey, KeyNotFound (an operation without a request) and what the checks of
    single operations raise.
    """
    if isinstance(txn, Swap):
        if max_ops <= 0:
            raise TooManyOps
        return
    success, failure = txn.success, txn.failure
    if txn.is_plain and len(success) <= 1 and len(failure) <= 1 and len(txn.compare) <= max_ops > 0:
        return
    _check_txn_shape(txn, max_ops)
    for branch in (success, failure):
        if len(branch) > 1 or txn.nested:
            _, deletes = _check_overlap(branch)
            if any(end == b"\0" for _, end in deletes):
                _check_kept(branch, None)


def _check_txn_shape(txn: Txn, max_ops: int) -> None:
    compare, success, failure = txn.compare, txn.success, txn.failure
    ops = max(len(compare), len(success), len(failure))
    if ops > max_ops:
        raise TooManyOps
    for comparison in compare:
        if not comparison.key:
            raise EmptyKey
    for branch in (success, failure):
        for kind, request in branch:
            if kind == "request_put":
                if not request.key or request.ignore_value or request.ignore_lease:
                    check_put(request)
            elif kind == "request_range":
                if not request.key or request.sort_order or request.sort_target:
                    check_range(request)
            elif kind == "request_delete_range":
                check_delete(request)
            elif kind == "request_txn":
                _check_txn_shape(request, max_ops - ops)
            else:
                raise KeyNotFound


def _check_overlap(ops: list[Operation]) -> tuple[set[bytes], _Deletes]:
    """Refuse a key put twice, or put and deleted, in one branch; the keys put and ranges deleted below it."""
    deletes: _Deletes = [
        (request.key, request.range_end or request.key + b"\0")
        for kind, request in ops
        if kind == "request_delete_range"
    ]
    puts: set[bytes] = set()
    for kind, request in ops:
        if kind != "request_txn":
            continue
        puts_then, deletes_then = _check_overlap(request.success)
        puts_else, deletes_else = _check_overlap(request.failure)
        # Only one of the two branches runs, so a key may be put in both; not in an earlier sibling, though.
        puts_then |= puts_else
        if not puts_then.isdisjoint(puts) or _meet(puts_then, deletes):
            raise DuplicateKey
        puts |= puts_then
        deletes += deletes_then
        deletes += deletes_else
    own = [request.key for kind, request in ops if kind == "request_put"]
    before = len(puts)
    puts.update(own)
    if len(puts) < before + len(own) or _meet(own, deletes):
        raise DuplicateKey
    return puts, deletes


def _check_kept(ops: list[Operation], deleted: bytes | None) -> bytes | None:
    """Refuse to keep value or lease of a key that is deleted before, which ends etcd: its own check overlooks it.

    `deleted`: from where on keys are by now, None for nowhere. The same after `ops`.
    """
    for kind, request in ops:
        if kind == "request_txn":
            ends = _check_kept(request.success, deleted), _check_kept(request.failure, deleted)
            deleted = min((end for end in ends if end is not None), default=None)
        elif kind == "request_put":
            if (request.ignore_value or request.ignore_lease) and deleted is not None and request.key >= deleted:
                raise DuplicateKey
        elif kind == "request_delete_range" and request.range_end == b"\0":
            deleted = request.key if deleted is None else min(deleted, request.key)
    return deleted


def check_decidable(txn: Txn) -> None:
    """Refuse a range that ends before it begins, to users who are not root. Raises PermissionDenied.

    Whether they may read it depends on the shape of a tree in etcd, and the whole Txn on that.
    """
    for condition in txn.compare:
        if condition.range_end:
            _check_order(condition.key, condition.range_end)
    for kind, request in (*txn.success, *txn.failure):
        if kind == "request_txn":
            check_decidable(request)
        elif kind != "request_put":
            _check_order(request.key, request.range_end)


def _check_order(key: bytes, range_end: bytes) -> None:
    if range_end and range_end <= key and range_end != b"\0":
        raise PermissionDenied


def _meet(keys: Collection[bytes], deletes: _Deletes) -> bool:
    """Whether one of the keys is deleted; both are gone through in order, as a client may send thousands of each."""
    if not keys or not deletes:
        return False
    waiting = sorted(deletes, reverse=True)
    furthest = b""  # of the ends of those that begin at the key or before
    for key in sorted(keys):
        while waiting and waiting[-1][0] <= key:
            furthest = max(furthest, waiting.pop()[1])
        if key < furthest:
            return True
    return False


def check_name(request: Any) -> None:
    """Check the name of a new user or role. Raises RequestTooLarge."""
    if len(request.name.encode()) > MAX_NAME_BYTES:
        raise RequestTooLarge


def check_grant(request: AuthRoleGrantPermissionRequest) -> None:
    """Check the range of a permission. Raises InvalidAuthMgmt."""
    if request.HasField("perm") and not is_valid_range(request.perm.key, request.perm.range_end):
        raise InvalidAuthMgmt


def check_regrant(role: Role | None, request: AuthRoleGrantPermissionRequest) -> None:
    """Refuse to change one of several permissions with one key, to roles as they are known. Raises InvalidAuthMgmt.

    Only the first of them is looked at, and which that is depends on the Go that an etcd is built with.
    """
    same_key = [held for held in role.permissions if held.key == request.perm.key] if role is not None else []
    if len(same_key) > 1 and any(held.range_end == request.perm.range_end for held in same_key):
        raise InvalidAuthMgmt


def check_alarm(request: AlarmRequest) -> None:
    """Refuse to raise an alarm that there is none of. Raises UnknownMethod."""
    if request.action == AlarmRequest.ACTIVATE and request.alarm not in AlarmType.values():
        raise UnknownMethod
