"""An independent reader of WAL files for tests: generated protobuf, a crc of its own, no code under test."""

import struct
from collections.abc import Iterable

from ratifyd.proto import raft_pb2, wal_pb2


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def crc32c(crc: int, data: bytes) -> int:
    """Castagnoli, reflected, continuing from `crc`."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def read_records(images: Iterable[bytes]) -> list[tuple[int, bytes]]:
    """(type, data) of every record of the files, crc records included; asserts framing, padding and the crc chain."""
    found = []
    crc = 0
    for image in images:
        offset = 0
        while offset + 8 <= len(image):
            (word,) = struct.unpack_from("<Q", image, offset)
            if not word:
                break
            size, pad = word & (1 << 56) - 1, (word >> 56) & 7
            assert (word >> 63 == 1) == (pad > 0)
            assert (size + pad) % 8 == 0
            record = wal_pb2.Record.FromString(image[offset + 8 : offset + 8 + size])
            assert image[offset + 8 + size : offset + 8 + size + pad] == bytes(pad)
            if record.type != 4:
                crc = crc32c(crc, record.data)
            assert record.crc == crc, "crc chain"
            found.append((record.type, record.data))
            offset += 8 + size + pad
        assert not image[offset:].strip(b"\0"), "zeros to the end"
    return found


def entries_of(records: Iterable[tuple[int, bytes]]) -> list[tuple[int, int, int, bytes]]:
    """(type, term, index, data) of the entry records."""
    found = []
    for kind, data in records:
        if kind == 2:
            entry = raft_pb2.Entry.FromString(data)
            found.append((entry.Type, entry.Term, entry.Index, entry.Data))
    return found
