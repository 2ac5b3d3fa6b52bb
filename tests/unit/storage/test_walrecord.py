"""Record bytes against generated protobuf, and the mark of a torn write."""

from random import Random

import pytest

from ratifyd.proto import wal_pb2
from ratifyd.raft.codec import DecodeError
from ratifyd.raft.messages import ConfState, SnapshotMeta
from ratifyd.storage.walrecord import (
    RecordKind,
    decode_record,
    decode_snapshot_record,
    encode_records,
    encode_snapshot_record,
    has_zero_sector,
)
from tests.support_wal import crc32c, read_records


def test_records_of_all_sizes_chain() -> None:
    random = Random(7)
    datas = [random.randbytes(size) for size in [*range(300), 16_383, 16_384, 70_000] for _ in range(3)]
    out: list[bytes] = []
    crc = encode_records(RecordKind.ENTRY, datas[:500], 0, out)
    crc = encode_records(RecordKind.STATE, datas[500:], crc, out)
    image = b"".join(out)
    assert read_records([image]) == [(2, data) for data in datas[:500]] + [(3, data) for data in datas[500:]]
    assert crc == crc32c(0, b"".join(datas))


def test_small_crcs_take_fewer_bytes() -> None:
    """One crc in sixteen is below 2^28, one in two thousand below 2^21: minimal varints all the same."""
    seen = set()
    crc = 0
    for number in range(6000):
        out: list[bytes] = []
        data = b"%d" % number
        crc = encode_records(RecordKind.ENTRY, (data,), crc, out)
        frame = b"".join(out)
        record = wal_pb2.Record(type=2, crc=crc, data=data).SerializeToString()
        assert frame[8 : 8 + len(record)] == record
        seen.add(crc.bit_length() > 28)
    assert seen == {True, False}


def test_snapshot_records() -> None:
    conf = ConfState((1, 2), (3,), (4,), (5,), True)
    for meta in (SnapshotMeta(), SnapshotMeta(300, 2, conf)):
        data = encode_snapshot_record(meta)
        assert decode_snapshot_record(data) == meta
        parsed = wal_pb2.Snapshot.FromString(data)
        assert (parsed.index, parsed.term) == (meta.index, meta.term)
        assert list(parsed.conf_state.voters) == list(meta.conf_state.voters)
    assert decode_snapshot_record(wal_pb2.Snapshot(index=4, term=1).SerializeToString()) == SnapshotMeta(4, 1)


def test_records_of_other_writers_are_read() -> None:
    record = wal_pb2.Record(type=2, crc=77, data=b"x").SerializeToString()
    assert decode_record(record, 0, len(record)) == (2, 77, b"x")
    shuffled = b"\x1a\x01x" + b"\x10\x4d" + b"\x08\x02"
    assert decode_record(shuffled, 0, len(shuffled)) == (2, 77, b"x")
    for size in (1, 3, len(record) - 1):
        with pytest.raises(DecodeError):
            decode_record(record, 0, size)


def test_zero_sectors() -> None:
    data = b"\1" * 2000
    assert not has_zero_sector(data, 100)
    assert not has_zero_sector(b"\1" * 500 + bytes(511) + b"\1" * 500, 0)
    for sector in range(1, 3):
        start = sector * 512 - 100
        assert has_zero_sector(data[:start] + bytes(512) + data[start + 512 :], 100)
    assert has_zero_sector(b"\1" * 412 + b"\0", 100), "the part in the last sector is all zero"
    assert not has_zero_sector(b"\1" * 411 + b"\0", 100)
