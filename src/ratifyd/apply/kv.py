"""Range, Put, DeleteRange and Compaction as the state machine executes them.

Answers are response bytes without their header field: the server that has a waiter puts its own header in front.
"""

from collections.abc import Callable
from typing import Final

from ratifyd.apply.state import State
from ratifyd.errors import KeyNotFound, LeaseNotFound
from ratifyd.keys import KeyRange
from ratifyd.mvcc.store import Store, WriteTxn
from ratifyd.proto import fast
from ratifyd.proto.kv_pb2 import KeyValue
from ratifyd.proto.rpc_pb2 import CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest

Reader = Store | WriteTxn

_SORT_KEYS: Final[dict[int, Callable[[KeyValue], bytes | int]]] = {
    RangeRequest.KEY: lambda kv: kv.key,
    RangeRequest.VERSION: lambda kv: kv.version,
    RangeRequest.CREATE: lambda kv: kv.create_revision,
    RangeRequest.MOD: lambda kv: kv.mod_revision,
    RangeRequest.VALUE: lambda kv: kv.value,
}


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


def range_body(reader: Reader, request: RangeRequest) -> bytes:
    """Answer a Range; the body after the header. Raises Compacted, FutureRev."""
    keys = KeyRange.parse(request.key, request.range_end)
    limit = request.limit
    if request.count_only:
        return fast.range_body((), False, reader.range(keys, revision=request.revision, count_only=True).count)
    if is_plain(request):
        result = reader.range(keys, revision=request.revision, limit=limit + 1 if limit > 0 else 0)
        kvs, more = result.kvs, False
        if 0 < limit < len(kvs):
            kvs, more = kvs[:limit], True
        return fast.range_body(kvs, more, result.count)
    if _is_edge(request):
        kvs, candidates, count = reader.created(
            keys, newest=request.sort_order == RangeRequest.DESCEND, up_to=request.max_create_revision
        )
        return fast.range_body(kvs, candidates > 1, count)
    return _decoded_range_body(reader, request, keys, limit)


def is_plain(request: RangeRequest) -> bool:
    """Whether stored bytes can be answered as they are: key order, whole values, no filters."""
    return not (
        request.sort_order
        or request.sort_target
        or request.keys_only
        or request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def _is_edge(request: RangeRequest) -> bool:
    """Whether the first or the last key by creation is asked for, as locks and elections do: the index knows it."""
    return (
        request.sort_target == RangeRequest.CREATE
        and request.sort_order != RangeRequest.NONE
        and request.limit == 1
        and request.max_create_revision >= 0
        and not (
            request.revision
            or request.keys_only
            or request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
        )
    )


def _decoded_range_body(reader: Reader, request: RangeRequest, keys: KeyRange, limit: int) -> bytes:
    filtered = (
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )
    # With the default order the limit is applied before sorting by another target, as etcd does (semantics 2.11).
    fetch = limit + 1 if limit > 0 and not request.sort_order and not filtered else 0
    result = reader.range(keys, revision=request.revision, limit=fetch)
    kvs = [KeyValue.FromString(data) for data in result.kvs]
    if filtered:
        kvs = _filter(kvs, request)
    if request.sort_order or request.sort_target:
        kvs.sort(key=_SORT_KEYS[request.sort_target], reverse=request.sort_order == RangeRequest.DESCEND)
    more = 0 < limit < len(kvs)
    if more:
        del kvs[limit:]
    if request.keys_only:
        for kv in kvs:
            kv.ClearField("value")
    return fast.range_body([kv.SerializeToString() for kv in kvs], more, result.count)


def _filter(kvs: list[KeyValue], request: RangeRequest) -> list[KeyValue]:
    max_mod, min_mod = request.max_mod_revision, request.min_mod_revision
    max_create, min_create = request.max_create_revision, request.min_create_revision
    return [
        kv
        for kv in kvs
        if (not max_mod or kv.mod_revision <= max_mod)
        and (not min_mod or kv.mod_revision >= min_mod)
        and (not max_create or kv.create_revision <= max_create)
        and (not min_create or kv.create_revision >= min_create)
    ]
