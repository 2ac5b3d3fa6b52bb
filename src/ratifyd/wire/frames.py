"""HTTP/2 frame layout (RFC 9113 §4.1, §6): numbers and the few packers everything else uses."""

from enum import IntEnum
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_STREAM_ID = 2**31 - 1
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384
MAX_FRAME_BYTES = 2**24 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20


class ErrorCode(IntEnum):
    """RFC 9113 §7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """RFC 9113 §6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


FRAME_HEADER = Struct(">IBI")
"""Length and type as one word (`length << 8 | type`), flags, stream id with its reserved bit."""

MESSAGE_FRAME_HEADER = Struct(">IBIBI")
"""A DATA frame header with the gRPC message prefix behind it: word, flags, stream id, compressed flag, size."""

MESSAGE_PREFIX = Struct(">BI")

SETTINGS_ACK = b"\0\0\0\4\1\0\0\0\0"

_WORD = Struct(">I")
_SETTING = Struct(">HI")
_TWO_WORDS = Struct(">II")
_pack_header = FRAME_HEADER.pack


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """One frame. The payload must fit the peer's SETTINGS_MAX_FRAME_SIZE."""
    return _pack_header(len(payload) << 8 | kind, flags, stream_id) + payload


def headers_frames(stream_id: int, block: bytes, *, end_stream: bool, max_frame_bytes: int) -> bytes:
    """A header block as HEADERS and as many CONTINUATION frames as its size asks for.

    The first has room for what `with_table_update` adds.
    """
    max_frame_bytes -= 1
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame_bytes:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [frame(HEADERS, flags, stream_id, block[:max_frame_bytes])]
    for start in range(max_frame_bytes, len(block), max_frame_bytes):
        chunk = block[start : start + max_frame_bytes]
        last = start + max_frame_bytes >= len(block)
        parts.append(frame(CONTINUATION, END_HEADERS if last else 0, stream_id, chunk))
    return b"".join(parts)


def with_table_update(headers: bytes) -> bytes:
    """The same frames, whose header block begins with a dynamic table size update to 0 (RFC 7541 §6.3)."""
    (size,) = _WORD.unpack(b"\0" + headers[:3])
    return _WORD.pack(size + 1)[1:] + headers[3:9] + b"\x20" + headers[9:]


def rst_stream_frame(stream_id: int, code: int) -> bytes:
    """RFC 9113 §6.4."""
    return frame(RST_STREAM, 0, stream_id, _WORD.pack(code))


def window_update_frame(stream_id: int, increment: int) -> bytes:
    """RFC 9113 §6.9."""
    return frame(WINDOW_UPDATE, 0, stream_id, _WORD.pack(increment))


def settings_frame(settings: dict[int, int]) -> bytes:
    """RFC 9113 §6.5."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in settings.items()))


def goaway_frame(last_stream_id: int, code: int, debug: bytes) -> bytes:
    """RFC 9113 §6.8."""
    return frame(GOAWAY, 0, 0, _TWO_WORDS.pack(last_stream_id, code) + debug)


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Identifier and value pairs in order; the payload is a multiple of six bytes."""
    return [(key, value) for key, value in _SETTING.iter_unpack(payload)]


def parse_word(payload: bytes) -> int:
    """The one 32-bit number of RST_STREAM and WINDOW_UPDATE."""
    return int.from_bytes(payload, "big")
