"""What an identity may have applied: the checks of etcd's auth applier (semantics 9.14, 9.15). Only while auth is on.

The log says who proposed a request and at which revision of the auth store; every member asks its own store again.
"""

from typing import Any

from ratifyd.apply.state import State
from ratifyd.apply.txn import Operation, Txn
from ratifyd.auth.identity import Identity, name_of
from ratifyd.errors import RequestError
from ratifyd.proto.auth_records_pb2 import RecordedName
from ratifyd.proto.light import Delete, Put, Swap
from ratifyd.proto.rpc_pb2 import DeleteRangeRequest, LeaseRevokeRequest, PutRequest


def check_put(state: State, identity: Identity, request: Put | PutRequest) -> None:
    """Require what a Put needs. Raises what AuthStore.check_put raises."""
    _check_put(state, identity, request, set())


def _check_put(state: State, identity: Identity, request: Put | PutRequest, checked: set[int]) -> None:
    """As `check_put`; the keys of leases in `checked` have been looked at: they are many, and so may the puts be."""
    state.auth.check_put(identity, request.key)
    if request.lease not in checked:
        check_lease_keys(state, identity, request.lease)
        checked.add(request.lease)
    if request.prev_kv:
        state.auth.check_range(identity, request.key, b"")


def check_lease_keys(state: State, identity: Identity, lease_id: int) -> None:
    """Require the right to write every key of a lease, as whoever attaches one must be able to revoke it too.

    A lease that does not exist is allowed to everybody. Raises what AuthStore.check_put raises.
    """
    lease = state.leases.leases.get(lease_id)
    if lease is None or state.auth.is_admin(identity):
        return
    for key in lease.keys:
        state.auth.check_put(identity, key)


def check_delete_range(state: State, identity: Identity, request: Delete | DeleteRangeRequest) -> None:
    """Require what a DeleteRange needs. Raises what AuthStore.check_delete raises."""
    state.auth.check_delete(identity, request.key, request.range_end)
    if request.prev_kv:
        state.auth.check_range(identity, request.key, request.range_end)


def check_txn(state: State, identity: Identity, txn: Txn | Swap) -> None:
    """Require what all compares and both branches of a Txn need. Raises what the checks of its operations raise."""
    _check_txn(state, identity, txn, set())


def _check_txn(state: State, identity: Identity, txn: Txn | Swap, checked: set[int]) -> None:
    for compare in txn.compare:
        state.auth.check_range(identity, compare.key, compare.range_end)
    _check_operations(state, identity, txn.success, checked)
    _check_operations(state, identity, txn.failure, checked)


def _check_operations(state: State, identity: Identity, operations: list[Operation], checked: set[int]) -> None:
    for kind, request in operations:
        if kind == "request_range":
            state.auth.check_range(identity, request.key, request.range_end)
        elif kind == "request_put":
            _check_put(state, identity, request, checked)
        elif kind == "request_delete_range":
            check_delete_range(state, identity, request)
        elif kind == "request_txn":
            _check_txn(state, identity, request, checked)


def check_lease_revoke(state: State, identity: Identity, request: LeaseRevokeRequest) -> None:
    """Require what a LeaseRevoke needs. Raises what AuthStore.check_put raises."""
    check_lease_keys(state, identity, request.ID)


def check_admin(state: State, identity: Identity, request: Any) -> None:
    """Require the root role, whatever is asked. Raises what AuthStore.check_admin raises."""
    state.auth.check_admin(identity)


def check_user_get(state: State, identity: Identity, request: RecordedName) -> None:
    """Let users see themselves, and root everybody. Raises what AuthStore.check_admin raises."""
    try:
        state.auth.check_admin(identity)
    except RequestError:
        if name_of(request.name) != identity.user:
            raise


def check_role_get(state: State, identity: Identity, request: RecordedName) -> None:
    """Let users see the roles they hold, and root all. Raises what AuthStore.check_admin raises."""
    try:
        state.auth.check_admin(identity)
    except RequestError:
        if not state.auth.has_role(identity.user, name_of(request.name)):
            raise
