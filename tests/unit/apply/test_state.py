"""`State`: what it rebuilds from the backend, and in which steps."""

from ratifyd import schema
from ratifyd.apply.state import State
from ratifyd.membership import Membership
from ratifyd.mvcc.store import ROWS_PER_SLICE
from ratifyd.proto.lease_pb2 import Lease
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.worker import SoonWorker


def test_leases_and_their_keys_are_restored_in_slices() -> None:
    """Two hundred thousand of either held up a member for more than a second while it installed a snapshot."""
    backend = MemoryBackend(SoonWorker(lambda callback, *args: callback(*args)))
    state = State(backend, Membership(1, 2))
    assert not sum(state.restore())
    leases, keys = 7 * ROWS_PER_SLICE, 5 * ROWS_PER_SLICE + 1
    for lease in range(1, leases + 1):
        record = Lease(ID=lease, TTL=lease, RemainingTTL=lease // 2).SerializeToString()
        state.buffer.put(schema.LEASE, schema.encode_u64(lease), record)
    with state.store.write() as txn:
        for number in range(keys):
            txn.put(b"%d" % number, b"v", number + 1)
        txn.put(b"lost", b"v", leases + 1)
    state.seal(lambda error: None)
    again = State(backend, Membership(1, 2))
    store_alone = sum(1 for _ in again.store.restore())
    slices = list(again.restore())
    assert len(slices) >= store_alone + 7 + 6
    assert max(slices) <= ROWS_PER_SLICE and sum(slices) == 2 * (keys + 1) + leases + keys + 1
    again.leases.check()
    assert [lease.effective_ttl_s for lease in again.leases.leases.values()] == [
        lease // 2 or lease for lease in range(1, leases + 1)
    ]
    assert again.leases.keys(3) == [b"2"] and again.leases.lease_of(b"%d" % (keys - 1)) == keys
    assert not again.leases.lease_of(b"lost") and not again.store.attachments
