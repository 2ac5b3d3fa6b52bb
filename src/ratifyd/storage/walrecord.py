"""Records of etcd's WAL and their framing, as pure functions over bytes.

A frame is a little-endian length word, a walpb.Record and zero padding to 8 bytes; one CRC32-C runs over the data of
all records of all files. Deliberately does not know files, nor what the records mean together.
"""

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct

from google_crc32c import extend

from ratifyd.raft.codec import (
    DecodeError,
    decode_conf_state,
    decode_varint,
    encode_conf_state,
    encode_varint,
)
from ratifyd.raft.messages import ConfState, SnapshotMeta

FRAME_BYTES = 8
SECTOR_BYTES = 512

_word = Struct("<Q")
_record_head = Struct("<BBBIBBB")
_LENGTH_MASK = (1 << 56) - 1
_MORE = tuple(bytes((low | 0x80,)) for low in range(128))
_MORE_PAIRS = tuple(low + high for high in _MORE for low in _MORE)
"""Two bytes of a varint that goes on behind them, by their 14 bits: a table, because every entry needs two."""
_PADS = tuple(bytes(size) for size in range(8))
_SHAPES_KEPT = 4096


class RecordKind(IntEnum):
    """walpb.Record.type."""

    METADATA = 1
    ENTRY = 2
    STATE = 3
    CRC = 4
    SNAPSHOT = 5


_Shape = tuple[bytes, tuple[bytes, ...], bytes]
_shapes: tuple[dict[int, _Shape], ...] = tuple({} for _ in range(len(RecordKind) + 1))
"""By record kind and data size, what surrounds a five-byte crc: length word and type; the crc's last byte, by its
value, with the data's tag; the padding."""


def encode_records(kind: RecordKind, datas: Iterable[bytes], crc: int, out: list[bytes]) -> int:
    """Append the frames of records of one kind to `out`, in pieces to be joined; returns the crc after them."""
    shapes = _shapes[kind]
    shape_of = shapes.get
    pairs = _MORE_PAIRS
    for data in datas:
        crc = extend(crc, data)
        if crc >= 0x10000000:
            size = len(data)
            head, tails, pad = shape_of(size) or _remember_shape(shapes, kind, size)
            out += (head, pairs[crc & 0x3FFF], pairs[crc >> 14 & 0x3FFF], tails[crc >> 28], data, pad)
        else:
            out.append(frame(b"\x08%c\x10%b\x1a%b%b" % (kind, encode_varint(crc), encode_varint(len(data)), data)))
    return crc


def _remember_shape(shapes: dict[int, _Shape], kind: RecordKind, size: int) -> _Shape:
    tag = b"\x1a" + encode_varint(size)
    record_size = 3 + 5 + len(tag) + size
    tails = tuple(bytes((high,)) + tag for high in range(16))
    shape = (_word.pack(_length_word(record_size)) + b"\x08%c\x10" % kind, tails, _PADS[-record_size & 7])
    if len(shapes) >= _SHAPES_KEPT:
        shapes.clear()
    shapes[size] = shape
    return shape


def _length_word(record_size: int) -> int:
    pad = -record_size & 7
    return record_size | (0x80 | pad) << 56 if pad else record_size


def frame(record: bytes) -> bytes:
    """One frame around an encoded record."""
    return _word.pack(_length_word(len(record))) + record + _PADS[-len(record) & 7]


def encode_crc_record(crc: int) -> bytes:
    """The frame at the head of every file: the crc of everything before it, and no data."""
    return frame(b"\x08\x04\x10" + encode_varint(crc))


def encode_snapshot_record(meta: SnapshotMeta) -> bytes:
    """Data of a snapshot record (walpb.Snapshot). Only the marker at index 0 goes without a conf_state."""
    head = b"\x08" + encode_varint(meta.index) + b"\x10" + encode_varint(meta.term)
    if not meta.index and meta.conf_state == ConfState():
        return head
    conf_state = encode_conf_state(meta.conf_state)
    return head + b"\x1a" + encode_varint(len(conf_state)) + conf_state


def decode_snapshot_record(data: bytes) -> SnapshotMeta:
    """Read a walpb.Snapshot; etcd before 3.5 wrote no conf_state."""
    index = term = offset = 0
    conf_state = ConfState()
    while offset < len(data):
        tag, offset = decode_varint(data, offset)
        number, offset = decode_varint(data, offset)
        if tag == 0x08:
            index = number
        elif tag == 0x10:
            term = number
        elif tag == 0x1A:
            conf_state = decode_conf_state(data[offset : offset + number])
            offset += number
        else:
            raise DecodeError(f"unexpected field {tag >> 3} in a WAL snapshot record")
    return SnapshotMeta(index, term, conf_state)


def decode_length_word(data: bytes, offset: int) -> tuple[int, int]:
    """(record bytes, padding bytes) of the frame whose length word is at `offset`."""
    word: int = _word.unpack_from(data, offset)[0]
    return word & _LENGTH_MASK, word >> 56 & 7 if word >> 63 else 0


def decode_record(data: bytes, start: int, end: int) -> tuple[int, int, bytes]:
    """(type, crc, data) of the walpb.Record in data[start:end]; raises DecodeError."""
    if end - start > 10:
        # The form every etcd writes, with a five-byte crc: nearly all records.
        field1, kind, field2, low, high, field3, size = _record_head.unpack_from(data, start)
        if field1 == 0x08 and field2 == 0x10 and field3 == 0x1A and high < 0x10 and low & 0x80808080 == 0x80808080:
            offset = start + 10
            if size >= 0x80:
                size, offset = decode_varint(data, start + 9)
            if offset + size == end:
                crc = low & 0x7F | low >> 1 & 0x3F80 | low >> 2 & 0x1FC000 | low >> 3 & 0xFE00000 | high << 28
                return kind, crc, data[offset:end]
    return _decode_any_record(data[start:end])


def decode_unframed_record(data: bytes, start: int) -> tuple[int, int, bytes, int]:
    """(type, crc, data, end) of a record whose length word is not to be trusted: it ends where its data ends."""
    if data[start : start + 1] != b"\x08" or data[start + 2 : start + 3] != b"\x10":
        raise DecodeError("no WAL record starts here")
    crc, offset = decode_varint(data, start + 3)
    if data[offset : offset + 1] != b"\x1a":
        raise DecodeError("no WAL record starts here")
    size, offset = decode_varint(data, offset + 1)
    if offset + size > len(data):
        raise DecodeError("WAL record is cut short")
    return data[start + 1], crc, data[offset : offset + size], offset + size


def _decode_any_record(record: bytes) -> tuple[int, int, bytes]:
    kind = crc = offset = 0
    payload = b""
    while offset < len(record):
        tag, offset = decode_varint(record, offset)
        number, offset = decode_varint(record, offset)
        if tag == 0x08:
            kind = number
        elif tag == 0x10:
            crc = number
        elif tag == 0x1A:
            payload = record[offset : offset + number]
            offset += number
        else:
            raise DecodeError(f"unexpected field {tag >> 3} in a WAL record")
    if offset != len(record):
        raise DecodeError("WAL record is cut short")
    return kind, crc, payload


def has_zero_sector(data: bytes, offset: int) -> bool:
    """Whether `data`, at `offset` of its file, is all zero in some disk sector: the mark of a torn write."""
    start = 0
    while start < len(data):
        end = min(len(data), start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES)
        if data.count(0, start, end) == end - start:
            return True
        start = end
    return False
