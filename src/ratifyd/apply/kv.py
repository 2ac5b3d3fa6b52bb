"""Put, DeleteRange and Compaction as the state machine executes them.

Answers are response bytes without their header field: the server that has a waiter puts its own header in front.
"""

from ratifyd.apply.state import State
from ratifyd.errors import KeyNotFound, LeaseNotFound
from ratifyd.keys import KeyRange
from ratifyd.mvcc.store import Store, WriteTxn
from ratifyd.proto import fast
from ratifyd.proto.kv_pb2 import KeyValue
from ratifyd.proto.rpc_pb2 import CompactionRequest, DeleteRangeRequest, PutRequest


def put(state: State, request: PutRequest, wanted: bool) -> bytes:
    """Execute a Put of its own. Raises LeaseNotFound, KeyNotFound."""
    if request.lease and request.lease not in state.leases.leases:
        raise LeaseNotFound
    check_present(state.store, request)
    with state.store.write() as txn:
        return put_in(state, txn, request)


def check_present(store: Store, request: PutRequest) -> None:
    """Require the key to exist when the put keeps its value or lease. Raises KeyNotFound."""
    if (request.ignore_value or request.ignore_lease) and store.get(request.key) is None:
        raise KeyNotFound


def put_in(state: State, txn: WriteTxn, request: PutRequest) -> bytes:
    """Write one key inside a transaction whose checks have passed; the answer's body."""
    key, value, lease = request.key, request.value, request.lease
    if request.ignore_value or request.ignore_lease:
        current = KeyValue.FromString(state.store.get(key) or b"")
        if request.ignore_value:
            value = current.value
        if request.ignore_lease:
            lease = current.lease
    txn.put(key, value, lease)
    if lease:
        state.leases.attach(lease, key)
    else:
        state.leases.detach(key)
    if request.prev_kv and (previous := txn.previous(key)) is not None:
        return fast.length_prefixed(2, previous)
    return b""


def delete_range(state: State, request: DeleteRangeRequest, wanted: bool) -> bytes:
    """Execute a DeleteRange of its own."""
    with state.store.write() as txn:
        return delete_in(state, txn, request)


def delete_in(state: State, txn: WriteTxn, request: DeleteRangeRequest) -> bytes:
    """Delete a range inside a transaction; the answer's body."""
    keys = KeyRange.parse(request.key, request.range_end)
    previous = txn.range(keys).kvs if request.prev_kv else ()
    deleted = txn.delete_range(keys)
    detach = state.leases.detach
    for key in deleted:
        detach(key)
    return fast.delete_body(len(deleted), previous)


def compact(state: State, request: CompactionRequest, wanted: bool) -> bytes:
    """Forget history below a revision; removing it from the backend follows. Raises Compacted, FutureRev."""
    state.store.compact(request.revision)
    return b""
