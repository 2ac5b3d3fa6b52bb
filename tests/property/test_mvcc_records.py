"""The short way through a stored KeyValue against protobuf's."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ratifyd.mvcc.records import decode, first_version_key
from ratifyd.proto import fast
from ratifyd.proto.kv_pb2 import KeyValue

revisions = st.one_of(st.integers(1, 300), st.integers(1, 2**63 - 1), st.integers(14, 63).map(lambda bits: 1 << bits))
# Values that look like the fields before them, and lengths at which a varint grows.
values = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([b"\x20", b"\x01", b"\x2a", b"\x18", b"\x10"]), max_size=40).map(b"".join),
    st.sampled_from([0, 1, 127, 128, 16383, 16384, 20000]).map(bytes),
)
keys = st.one_of(st.binary(min_size=1, max_size=20), st.sampled_from([127, 128, 300]).map(lambda n: b"k" * n))


@settings(max_examples=500, deadline=None)
@given(
    keys, revisions, revisions, st.sampled_from([1, 2, 32, 42, 128, 5000]), values, st.sampled_from([0, 0, 1, 2**62])
)
def test_a_first_version_is_told_from_all_others(key, create, main, version, value, lease):
    create = min(create, main)
    data = fast.key_value(key, create, main, version, value, lease)
    found = first_version_key(data, len(fast.varint(main)))
    plain = version == 1 and create == main and not lease
    if plain and 0 < len(value) < 16384 and len(key) < 128:
        assert found == decode(data).key
    else:
        assert found is None


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=30), st.integers(1, 9), st.data())
def test_damaged_records_are_left_to_protobuf(data, revision_bytes, draw):
    first_version_key(data, revision_bytes)
    whole = fast.key_value(b"key", 300, 300, 1, b"value")
    cut = whole[: draw.draw(st.integers(0, len(whole) - 1))]
    assert first_version_key(cut, 2) is None
    assert first_version_key(whole + KeyValue(lease=5).SerializeToString(), 2) is None


@settings(max_examples=500, deadline=None)
@given(revisions, st.integers(0, 20), st.integers(0, 7))
def test_a_flipped_bit_of_a_revision_is_left_to_protobuf(main, at, bit):
    size = len(fast.varint(main))
    data = bytearray(fast.key_value(b"key", main, main, 1, b"value"))
    data[6 + at % (2 * size + 1)] ^= 1 << bit
    assert first_version_key(bytes(data), size) is None
