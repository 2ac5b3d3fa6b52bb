"""The first and the last key of a range by creation, found in the index, are those that sorting finds."""

from hypothesis import given
from hypothesis import strategies as st

from ratifyd.apply.ranges import _decoded_range_body, _is_edge, range_body
from ratifyd.apply.state import State
from ratifyd.keys import KeyRange
from ratifyd.membership import Membership
from ratifyd.proto.rpc_pb2 import RangeRequest
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.worker import SoonWorker

KEYS = st.sampled_from([b"a", b"a/1", b"a/2", b"a/3", b"b"])
WRITES = st.lists(st.lists(st.tuples(KEYS, st.booleans()), min_size=1, max_size=4), max_size=8)
"""Transactions of puts and deletions."""
RANGES = st.sampled_from([(b"a", b""), (b"a/", b"a0"), (b"a", b"\0"), (b"\0", b"\0"), (b"b", b"a"), (b"c", b"d")])
ORDERS = st.sampled_from([RangeRequest.ASCEND, RangeRequest.DESCEND])


@given(WRITES, RANGES, ORDERS, st.integers(-2, 12))
def test_edges(writes: list[list[tuple[bytes, bool]]], wanted: tuple[bytes, bytes], order: int, up_to: int) -> None:
    store = State(MemoryBackend(SoonWorker(lambda callback, *args: callback(*args))), Membership(1, 2)).store
    request = RangeRequest(
        key=wanted[0],
        range_end=wanted[1],
        limit=1,
        sort_target=RangeRequest.CREATE,
        sort_order=order,  # type: ignore[arg-type]
        max_create_revision=up_to,
    )
    assert _is_edge(request) == (up_to >= 0)
    keys = KeyRange.parse(*wanted)
    for changes in writes:
        with store.write() as txn:
            for key, put in changes:
                if put:
                    txn.put(key, b"v")
                else:
                    txn.delete_range(KeyRange.parse(key, b""))
            assert range_body(txn, request) == _decoded_range_body(txn, request, keys)
        assert range_body(store, request) == _decoded_range_body(store, request, keys)
    assert range_body(store, request) == _decoded_range_body(store, request, keys)
