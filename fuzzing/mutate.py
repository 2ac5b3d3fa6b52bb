"""Changes of valid input: bits and bytes, splices, lengths, numbers at the edge, and whole pieces of known shapes.

A shape takes (random, data, another input) and gives a changed copy. All randomness comes from `random`.
"""

import struct
from collections.abc import Callable, Sequence
from random import Random

from google_crc32c import extend

from ratifyd.raft.codec import DecodeError, decode_varint, encode_varint

Shape = Callable[[Random, bytes, bytes], bytes]

_EDGES = (0, 1, 2, 5, 9, 16, 127, 128, 255, 256, 1000, 16_383, 16_384, 65_535, 65_536, 1 << 20, 0x7FFFFF, 0xFFFFFF)
_LARGE = (*(1 << bits for bits in (24, 31, 32, 33, 56, 62, 63)), (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1)
_NUMBERS = (*_EDGES, *_LARGE, (1 << 64) - 1)
WORDS: tuple[bytes, ...] = (
    *(encode_varint(number) for number in _NUMBERS),
    *(struct.pack(">Q", number) for number in _NUMBERS),
    *(struct.pack("<Q", number) for number in _NUMBERS),
    *(struct.pack(">I", number) for number in _NUMBERS if number < 1 << 32),
    *(struct.pack("<I", number) for number in _NUMBERS if number < 1 << 32),
    *(b"\xff" * count for count in (1, 2, 9, 10, 11)),
    b"\x80" * 9 + b"\x01",
    b"\x80" * 10 + b"\x00",
    b"\0" * 4,
    b"\0" * 512,
)
"""Numbers at the edge, as varints and as fixed words, and varints that never end."""
_MOST_BYTES = 1 << 16
_DEPTH = 8


def plain(random: Random, data: bytes, other: bytes) -> bytes:
    """Change some bytes."""
    changed = bytearray(data)
    for _ in range(1 + int(random.random() * random.random() * 5)):
        _ACTIONS[int(random.random() * len(_ACTIONS))](random, changed, other)
    return bytes(changed[:_MOST_BYTES])


def _at(random: Random, data: bytearray) -> int:
    return int(random.random() * (len(data) + 1))


def _flip(random: Random, data: bytearray, _: bytes) -> None:
    if data:
        data[int(random.random() * len(data))] ^= 1 << int(random.random() * 8)


def _set(random: Random, data: bytearray, _: bytes) -> None:
    if data:
        data[int(random.random() * len(data))] = int(random.random() * 256)


def _step(random: Random, data: bytearray, _: bytes) -> None:
    if data:
        at = int(random.random() * len(data))
        data[at] = (data[at] + (1 if random.random() < 0.5 else 255)) & 0xFF


def _cut(random: Random, data: bytearray, _: bytes) -> None:
    at = _at(random, data)
    del data[at : at + 1 + int(random.random() ** 3 * 64)]


def _end(random: Random, data: bytearray, _: bytes) -> None:
    del data[_at(random, data) :]


def _insert(random: Random, data: bytearray, _: bytes) -> None:
    at = _at(random, data)
    data[at:at] = random.randbytes(1 + int(random.random() ** 3 * 16))


def _word(random: Random, data: bytearray, _: bytes) -> None:
    word = WORDS[int(random.random() * len(WORDS))]
    at = _at(random, data)
    data[at : at + (len(word) if random.random() < 0.7 else 0)] = word


def _repeat(random: Random, data: bytearray, _: bytes) -> None:
    at = _at(random, data)
    piece = bytes(data[at : at + 1 + int(random.random() * 32)])
    data[at:at] = piece * (1 + int(random.random() ** 4 * 40))


def _splice(random: Random, data: bytearray, other: bytes) -> None:
    at, start = _at(random, data), int(random.random() * (len(other) + 1))
    data[at:] = other[start:]


def _graft(random: Random, data: bytearray, other: bytes) -> None:
    at, start = _at(random, data), int(random.random() * (len(other) + 1))
    data[at:at] = other[start : start + 1 + int(random.random() * 64)]


_ACTIONS = (_flip, _flip, _set, _step, _cut, _end, _insert, _word, _word, _repeat, _splice, _graft)


def _mix(random: Random, pieces: list[bytes], others: Sequence[bytes], change: Shape) -> list[bytes]:
    """Drop, double, swap, borrow or change pieces."""
    pieces = list(pieces)
    for _ in range(1 + int(random.random() * random.random() * 4)):
        at = int(random.random() * (len(pieces) + 1))
        action = random.random()
        if not pieces or at == len(pieces) or action < 0.15:
            if others:
                pieces.insert(at, others[int(random.random() * len(others))])
        elif action < 0.25:
            del pieces[at]
        elif action < 0.35:
            pieces[at:at] = [pieces[at]] * (1 + int(random.random() ** 4 * 30))
        elif action < 0.45:
            to = int(random.random() * len(pieces))
            pieces[at], pieces[to] = pieces[to], pieces[at]
        else:
            other = others[int(random.random() * len(others))] if others else b""
            pieces[at] = change(random, pieces[at], other)
    return pieces


# --- HTTP/2 frames ---------------------------------------------------------------------------------------------------


def split_frames(data: bytes) -> list[bytes]:
    """Frames, header included; what is left at the end as one more."""
    pieces, offset = [], 0
    while offset + 9 <= len(data):
        end = offset + 9 + (int.from_bytes(data[offset : offset + 3], "big"))
        pieces.append(data[offset:end])
        offset = end
    if offset < len(data):
        pieces.append(data[offset:])
    return pieces


def _frame(random: Random, piece: bytes, other: bytes) -> bytes:
    changed = plain(random, piece, other)
    if random.random() < 0.8 and len(changed) >= 9:
        changed = (len(changed) - 9).to_bytes(3, "big") + changed[3:]
    return changed


def frames(random: Random, data: bytes, other: bytes) -> bytes:
    """Change HTTP/2 frames, mostly with right lengths."""
    return b"".join(_mix(random, split_frames(data), split_frames(other), _frame))[:_MOST_BYTES]


# --- pieces behind eight bytes of length, as rafthttp has them -------------------------------------------------------


def _split_words(data: bytes, skip: int) -> list[bytes]:
    pieces, offset = [], 0
    while offset + skip + 8 <= len(data):
        end = offset + skip + 8 + int.from_bytes(data[offset + skip : offset + skip + 8], "big")
        pieces.append(data[offset:end])
        offset = end
    if offset < len(data):
        pieces.append(data[offset:])
    return pieces


def _counted(skip: int) -> Shape:
    def change(random: Random, piece: bytes, other: bytes) -> bytes:
        head = piece[: skip + 8]
        body = protobuf(random, piece[skip + 8 :], other[skip + 8 :])
        if random.random() < 0.9:
            head = head[:skip] + len(body).to_bytes(8, "big")
        return head + body

    def shape(random: Random, data: bytes, other: bytes) -> bytes:
        return b"".join(_mix(random, _split_words(data, skip), _split_words(other, skip), change))[:_MOST_BYTES]

    return shape


counted = _counted(0)
"""Messages behind their length."""
typed_and_counted = _counted(1)
"""Records behind type and length."""


# --- protobuf --------------------------------------------------------------------------------------------------------


def split_fields(data: bytes) -> list[tuple[int, bytes]] | None:
    """(tag, content) of each field, a number as its varint; None for what is no message."""
    fields, offset = [], 0
    try:
        while offset < len(data):
            tag, offset = decode_varint(data, offset)
            start = offset
            number, offset = decode_varint(data, offset)
            if tag & 7 == 2:
                start, offset = offset, offset + number
            elif tag & 7:
                return None
            if offset > len(data) or tag < 8:
                return None
            fields.append((tag, data[start:offset]))
    except DecodeError:
        return None
    return fields


def _join_fields(fields: Sequence[tuple[int, bytes]]) -> bytes:
    return b"".join(
        encode_varint(tag) + (encode_varint(len(content)) if tag & 7 == 2 else b"") + content for tag, content in fields
    )


def protobuf(random: Random, data: bytes, other: bytes, depth: int = 0) -> bytes:
    """Change a field somewhere in a message, lengths around it kept right."""
    fields = split_fields(data)
    if not fields or depth >= _DEPTH or random.random() < 0.1:
        return plain(random, data, other)
    at = int(random.random() * len(fields))
    tag, content = fields[at]
    action = random.random()
    if action < 0.1:
        del fields[at]
    elif action < 0.2:
        fields[at:at] = [fields[at]] * (1 + int(random.random() ** 4 * 200))
    elif action < 0.3:
        fields += split_fields(other) or []
    elif action < 0.36:
        fields[at] = tag ^ (8 << int(random.random() * 4)), content
    elif action < 0.42:
        for _ in range(1 + int(random.random() ** 3 * 150)):  # nested, and nested again
            content = _join_fields([(tag | 2, content)])
        fields[at] = tag | 2, content
    elif tag & 7:
        inner = split_fields(other)
        borrowed = inner[int(random.random() * len(inner))][1] if inner else other
        fields[at] = tag, protobuf(random, content, borrowed, depth + 1)
    else:
        fields[at] = tag, encode_varint(_NUMBERS[int(random.random() * len(_NUMBERS))])
    return _join_fields(fields)[:_MOST_BYTES]


# --- records of the WAL ----------------------------------------------------------------------------------------------


def wal(random: Random, data: bytes, other: bytes) -> bytes:
    """Change the data of records, checksums made right again: damage that no checksum shows."""
    return join_wal(_mix(random, split_wal(data), split_wal(other), _record))


def _record(random: Random, piece: bytes, other: bytes) -> bytes:
    if random.random() < 0.1:
        return bytes((int(random.random() * 8),)) + piece[1:]
    return piece[:1] + protobuf(random, piece[1:], other[1:])


def split_wal(data: bytes) -> list[bytes]:
    """Kind and data of each record."""
    pieces, offset = [], 0
    while offset + 8 <= len(data):
        (word,) = struct.unpack_from("<Q", data, offset)
        size, pad = word & (1 << 56) - 1, word >> 56 & 7
        record = split_fields(data[offset + 8 : offset + 8 + size])
        if not size or not record or record[0][0] != 0x08:
            break
        content = next((content for tag, content in record if tag == 0x1A), b"")
        pieces.append(record[0][1][:1] + content)
        offset += 8 + size + pad
    return pieces


def join_wal(pieces: Sequence[bytes]) -> bytes:
    """Records around their data, with one checksum through all of them."""
    crc, out = 0, []
    for piece in pieces:
        kind, content = piece[:1] or b"\0", piece[1:]
        crc = extend(crc, content)
        record = b"\x08" + kind + b"\x10" + encode_varint(crc)
        if kind != b"\x04":
            record += b"\x1a" + encode_varint(len(content)) + content
        pad = -len(record) & 7
        out.append(struct.pack("<Q", len(record) | ((0x80 | pad) << 56 if pad else 0)) + record + bytes(pad))
    return b"".join(out)[:_MOST_BYTES]


# --- text ------------------------------------------------------------------------------------------------------------

_TOKENS = (
    *(b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"null", b"true", b"-", b".", b"e9", b"NaN", b"1e400", b"-0"),
    *(b"\\u0000", b"\\ud800", b"\\udc00\\ud800", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\0", b" ", b"\r\n"),
    *(b"9" * 30, b"9" * 5000, b"[" * 2000, b'{"a":' * 1500, b"\xef\xbb\xbf", b"%00", b"%zz", b"..", b"//", b"=", b"&"),
    *(b"!!python/object:os.system", b"&a [*a]", b"2001-99-99", b"0x", b"1_0", b"\xd9\xa3", b"\xc2\xb2", b"?", b"|"),
    *(b"inf", b"-1", b"+1", b"0", b"1h", b"9223372036854775808ns", b"http://", b"unix://", b"[::1", b":0", b":99999"),
)


def text(random: Random, data: bytes, other: bytes) -> bytes:
    """Change words and marks of a text."""
    changed = bytearray(data)
    for _ in range(1 + int(random.random() * random.random() * 4)):
        if random.random() < 0.4:
            _ACTIONS[int(random.random() * len(_ACTIONS))](random, changed, other)
        else:
            token = _TOKENS[int(random.random() * len(_TOKENS))]
            at = _at(random, changed)
            changed[at : at + int(random.random() ** 2 * 8)] = token
    return bytes(changed[:_MOST_BYTES])
