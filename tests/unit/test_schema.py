"""Keys of the buckets: etcd's bytes, in the order of what they stand for."""

from itertools import pairwise

from ratifyd import schema


def test_revisions_are_etcds_bytes() -> None:
    assert schema.encode_revision(2, 1) == b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\x01"
    assert schema.encode_tombstone(2, 1) == schema.encode_revision(2, 1) + b"t"
    assert len(schema.encode_revision(1, 0)) == schema.REVISION_BYTES


def test_revisions_sort_as_numbers_and_survive() -> None:
    pairs = [(1, 0), (1, 1), (1, 255), (1, 256), (2, 0), (255, 3), (256, 0), (2**40, 7), (2**63 - 1, 2**31)]
    rows = [schema.encode_revision(*pair) for pair in pairs]
    assert rows == sorted(rows)
    for pair in pairs:
        assert schema.decode_revision(schema.encode_revision(*pair)) == pair
        assert schema.decode_revision(schema.encode_tombstone(*pair)) == pair
        assert schema.is_tombstone(schema.encode_tombstone(*pair))
        assert not schema.is_tombstone(schema.encode_revision(*pair))
    for one, other in pairwise(pairs):
        assert schema.encode_tombstone(*one) < schema.encode_revision(*other)


def test_numbers_and_lease_ids() -> None:
    for value in (0, 1, 2**64 - 1):
        assert schema.decode_u64(schema.encode_u64(value)) == value
    assert schema.encode_lease_id(0x1234) == b"\0\0\0\0\0\0\x12\x34"
    assert schema.encode_lease_id(-1) == b"\xff" * 8


def test_buckets_are_all_there_in_name_order() -> None:
    assert list(schema.BUCKETS) == sorted(schema.BUCKETS)
    names = {value for name, value in vars(schema).items() if name.isupper() and isinstance(value, bytes)}
    assert set(schema.BUCKETS) <= names
    assert len(schema.BUCKETS) == 10
