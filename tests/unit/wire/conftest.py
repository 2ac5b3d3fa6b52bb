"""A peer that writes raw frames and reads ours, for tests of the server codec."""

import struct
from collections.abc import Callable

import hpack
import pytest

from ratifyd.wire.events import Event
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.limits import Limits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/etcdserverpb.KV/Range"),
    (":authority", "localhost:2379"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)
Frame = tuple[int, int, int, bytes]


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


def word(value: int) -> bytes:
    return struct.pack(">I", value)


def message(data: bytes, compressed: int = 0) -> bytes:
    return struct.pack(">BI", compressed, len(data)) + data


class Peer:
    """The client's side, byte by byte."""

    def __init__(self, limits: Limits | None = None, *, settings: bytes = b"", handshake: bool = True) -> None:
        self.connection = GrpcConnection(limits or Limits())
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.now = 0.0
        if handshake:
            self.send(PREFACE + frame(SETTINGS, 0, 0, settings))
            self.frames()

    def send(self, data: bytes) -> list[Event]:
        return self.connection.receive(data, self.now)

    def frames(self) -> list[Frame]:
        data = self.connection.data_to_send()
        found = []
        while data:
            size, flags, stream_id = struct.unpack_from(">IBI", data)
            end = 9 + (size >> 8)
            assert len(data) >= end
            found.append((size & 0xFF, flags, stream_id, data[9:end]))
            data = data[end:]
        return found

    def headers(self, stream_id: int, fields: object = REQUEST, *, flags: int = 4, **changes: str | None) -> bytes:
        """A HEADERS frame; changes replace fields by name (underscores for dashes), None removes."""
        merged = []
        names = {name.replace("_", "-"): value for name, value in changes.items()}
        for name, value in fields:  # type: ignore[attr-defined]
            key = name.removeprefix(":")
            if key in names:
                value = names.pop(key)
            if value is not None:
                merged.append((name, value))
        merged += [(name, value) for name, value in names.items() if value is not None]
        return frame(HEADERS, flags, stream_id, self.encoder.encode(merged))

    def call(self, stream_id: int, data: bytes = b"request", **changes: str | None) -> bytes:
        return self.headers(stream_id, **changes) + frame(DATA, 1, stream_id, message(data))

    def answer(self, stream_id: int) -> tuple[list[tuple[str, str]], bytes]:
        """Header fields and DATA of a stream in what the connection has to send."""
        fields: list[tuple[str, str]] = []
        body = b""
        for kind, _, sid, payload in self.frames():
            if sid == stream_id and kind == HEADERS:
                fields += self.decoder.decode(payload)
            elif sid == stream_id and kind == DATA:
                body += payload
        return fields, body

    def error(self) -> tuple[str, int] | None:
        """The first ("connection" or "stream", code) error in what the connection has to send."""
        for kind, _, _, payload in self.frames():
            if kind == GOAWAY:
                return "connection", struct.unpack_from(">I", payload, 4)[0]
            if kind == RST_STREAM:
                return "stream", struct.unpack(">I", payload)[0]
        return None


@pytest.fixture
def make_peer() -> Callable[..., Peer]:
    return Peer


@pytest.fixture
def peer() -> Peer:
    return Peer()
