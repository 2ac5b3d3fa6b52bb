"""The client's side of HTTP/2 and gRPC, as little of it as calls to a Session need."""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE = range(9)
END_STREAM = 1
END_HEADERS = 4
ACK = 1
MAX_WINDOW = (1 << 31) - 1
Metadata = tuple[tuple[str, str], ...]
_HEADER = struct.Struct(">IBI")
_PREFIX = struct.Struct(">BI")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return _HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def wrap(message: Any) -> bytes:
    """A gRPC message: prefix and bytes."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return _PREFIX.pack(0, len(data)) + data


def opening() -> bytes:
    """What a client says first, its windows wide open."""
    settings = struct.pack(">HI", 4, MAX_WINDOW)
    wider = struct.pack(">I", MAX_WINDOW - 65535)
    return PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, wider)


@lru_cache
def request_block(path: str, metadata: Metadata = ()) -> bytes:
    """Headers of a call, in a form that leaves the header table alone."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
    fields += [("content-type", "application/grpc"), ("te", "trailers"), *metadata]
    return b"".join(b"\0%c%b%c%b" % (len(name), name.encode(), len(value), value.encode()) for name, value in fields)


@lru_cache(maxsize=1000)
def _decode(block: bytes) -> dict[str, str]:
    return {str(name): str(value) for name, value in hpack.Decoder().decode(block)}


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """(kind, flags, stream, payload) of each frame that is complete."""
        data = self._left + data if self._left else data
        offset, end = 0, len(data)
        while end - offset >= 9:
            word, flags, stream_id = _HEADER.unpack_from(data, offset)
            stop = offset + 9 + (word >> 8)
            if stop > end:
                break
            yield word & 0xFF, flags, stream_id, data[offset + 9 : stop]
            offset = stop
        self._left = data[offset:]


class Answered:
    """What came back on one stream."""

    __slots__ = ("data", "ended", "headers", "reset")

    def __init__(self) -> None:
        self.data = b""
        self.headers: dict[str, str] = {}
        self.reset: int | None = None
        self.ended = False

    def take_messages(self) -> list[bytes]:
        """The messages that are complete, once."""
        found, data, offset = [], self.data, 0
        while len(data) - offset >= 5:
            (size,) = struct.unpack_from(">I", data, offset + 1)
            if len(data) - offset < 5 + size:
                break
            found.append(data[offset + 5 : offset + 5 + size])
            offset += 5 + size
        self.data = data[offset:]
        return found

    def take_headers(self, block: bytes) -> None:
        """Take a header block that leaves the header table alone, as the server's do."""
        self.headers.update(_decode(block))

    @property
    def status(self) -> int | None:
        return int(self.headers["grpc-status"]) if "grpc-status" in self.headers else None

    @property
    def message(self) -> str:
        return self.headers.get("grpc-message", "")
