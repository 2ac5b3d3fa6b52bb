"""Put, DeleteRange and Compaction as the state machine executes them.

Answers are response bytes without their header field: the server that has a waiter puts its own header in front.
"""

from ratifyd.apply.state import State
from ratifyd.errors import KeyNotFound, LeaseNotFound
from ratifyd.keys import KeyRange
from ratifyd.mvcc.store import Store, WriteTxn
from ratifyd.proto import fast
from ratifyd.proto.kv_pb2 import KeyValue
from ratifyd.proto.light import Delete, Put
from ratifyd.proto.rpc_pb2 import CompactionRequest, DeleteRangeRequest, PutRequest


def put(state: State, request: Put | PutRequest, wanted: bool) -> bytes:
    """Execute a Put of its own. Raises LeaseNotFound, KeyNotFound."""
    if type(request) is Put:
        put_plain(state, *request)
        return b""
    lease = request.lease
    if lease and lease not in state.leases.leases:
        raise LeaseNotFound
    looks = request.prev_kv or request.ignore_value or request.ignore_lease
    if looks:
        check_present(state.store, request)
        state.store.counts.txns += 1
    with state.store.write() as txn:
        return put_in(state, txn, request, looks)


def put_plain(state: State, key: bytes, value: bytes) -> None:
    """Write a key and nothing else."""
    store = state.store
    store.put(key, value)
    counts = store.counts
    counts.puts += 1
    counts.put_bytes += len(key) + len(value)
    state.leases.detach(key)


def check_present(store: Store, request: PutRequest) -> None:
    """Require the key to exist when the put keeps its value or lease. Raises KeyNotFound."""
    if (request.ignore_value or request.ignore_lease) and store.get(request.key) is None:
        store.counts.ranges += 1
        raise KeyNotFound


def put_in(state: State, txn: WriteTxn, request: PutRequest, looks: bool) -> bytes:
    """Write one key inside a transaction whose checks have passed; the answer's body.

    `looks` says whether the put needs what is there: a value or lease to keep, or the previous one to answer.
    """
    key, value, lease = request.key, request.value, request.lease
    counts = state.store.counts
    if looks:
        counts.ranges += 1
        if request.ignore_value or request.ignore_lease:
            current = KeyValue.FromString(state.store.get(key) or b"")
            if request.ignore_value:
                value = current.value
            if request.ignore_lease:
                lease = current.lease
    txn.put(key, value, lease)
    counts.puts += 1
    counts.put_bytes += len(key) + len(value)
    if lease:
        state.leases.attach(lease, key)
    else:
        state.leases.detach(key)
    if looks and request.prev_kv and (previous := txn.previous(key)) is not None:
        return fast.length_prefixed(2, previous)
    return b""


def delete_range(state: State, request: Delete | DeleteRangeRequest, wanted: bool) -> bytes:
    """Execute a DeleteRange of its own."""
    if request.prev_kv:
        state.store.counts.txns += 1
    with state.store.write() as txn:
        return delete_in(state, txn, request)


def delete_in(state: State, txn: WriteTxn, request: Delete | DeleteRangeRequest) -> bytes:
    """Delete a range inside a transaction; the answer's body."""
    keys = KeyRange.parse(request.key, request.range_end)
    previous = txn.range(keys).kvs if request.prev_kv else ()
    counts = state.store.counts
    counts.ranges += request.prev_kv
    counts.deletes += 1
    deleted = txn.delete_range(keys)
    detach = state.leases.detach
    for key in deleted:
        detach(key)
    return fast.delete_body(len(deleted), previous)


def compact(state: State, request: CompactionRequest, wanted: bool) -> bytes:
    """Forget history below a revision; removing it from the backend follows. Raises Compacted, FutureRev."""
    state.store.compact(request.revision)
    state.store.counts.ranges += 1  # etcd reads a key to learn the revision
    return b""
