"""Envelope of etcd's .snap files: a checksum around an encoded raftpb.Snapshot (etcd snappb.Snapshot)."""

from google_crc32c import value as crc32c


class SnapCorrupt(ValueError):
    """These bytes are no intact .snap file."""


def encode_snap(snapshot: bytes) -> bytes:
    """Content of a .snap file around an encoded raftpb.Snapshot, which must not be empty."""
    return b"\x08" + _varint(crc32c(snapshot)) + b"\x12" + _varint(len(snapshot)) + snapshot


def decode_snap(content: bytes) -> bytes:
    """The encoded raftpb.Snapshot of a .snap file. Raises SnapCorrupt."""
    crc = 0
    snapshot = b""
    offset = 0
    while offset < len(content):
        tag, offset = _read_varint(content, offset)
        number, offset = _read_varint(content, offset)
        if tag == 0x08:
            crc = number
        elif tag == 0x12:
            snapshot = content[offset : offset + number]
            if len(snapshot) != number:
                raise SnapCorrupt("snap: file is cut short")
            offset += number
        else:
            raise SnapCorrupt(f"snap: unexpected field {tag >> 3}")
    if not snapshot or not crc:
        raise SnapCorrupt("snap: empty snapshot")
    if crc32c(snapshot) != crc:
        raise SnapCorrupt("snap: crc mismatch")
    return snapshot


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(content: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(content):
            break
        byte = content[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise SnapCorrupt("snap: file is cut short")
