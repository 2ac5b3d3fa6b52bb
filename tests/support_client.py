"""A client of a Session, frame by frame: writes requests, collects answers by stream."""

import struct
from collections import defaultdict
from typing import Any

import hpack

from ratifyd.api.front import ClientFront
from ratifyd.api.routes import build_routes
from ratifyd.api.session import Session
from ratifyd.wire.limits import Limits
from simulation.http2 import (
    DATA,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    wrap,
)
from tests.support_member import Member

KV = "/etcdserverpb.KV/"
WATCH = "/etcdserverpb.Watch/Watch"
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"


class FakeLink:
    """A link whose peer takes everything at once, unless `stuck`."""

    def __init__(self) -> None:
        self.written = b""
        self.stuck = 0
        self.reading = True
        self.closed = False
        self.aborted = False
        self.peer = "127.0.0.1:40000"

    def write(self, data: bytes) -> None:
        assert not self.closed and not self.aborted, "written to a closed link"
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write_buffer_size(self) -> int:
        return self.stuck


class Answered:
    """What came back on one stream."""

    def __init__(self) -> None:
        self.data = b""
        self.headers: dict[str, str] = {}
        self.reset: int | None = None
        self.ended = False

    @property
    def messages(self) -> list[bytes]:
        found, data = [], self.data
        while len(data) >= 5:
            (size,) = struct.unpack_from(">I", data, 1)
            if len(data) < 5 + size:
                break
            found.append(data[5 : 5 + size])
            data = data[5 + size :]
        return found

    @property
    def status(self) -> int | None:
        return int(self.headers["grpc-status"]) if "grpc-status" in self.headers else None

    @property
    def message(self) -> str:
        return self.headers.get("grpc-message", "")

    def parse(self, kind: Any) -> list[Any]:
        return [kind.FromString(data) for data in self.messages]


class Client:
    """One connection to a member."""

    def __init__(
        self,
        member: Member,
        *,
        window: int | None = None,
        limits: Limits | None = None,
        front: ClientFront | None = None,
    ) -> None:
        self.member = member
        self.link = FakeLink()
        routes = build_routes(member.metrics.rpcs)
        self.session = Session(member.server, routes, limits or Limits(), self.link, front)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.streams: defaultdict[int, Answered] = defaultdict(Answered)
        self.control: list[tuple[int, int, bytes]] = []
        self.next_id = 1
        settings = b"" if window is None else struct.pack(">HI", 4, window)
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def send(self, data: bytes) -> None:
        self.session.receive(data)

    def head(self, path: str, *, end: bool = False, **metadata: str) -> tuple[int, bytes]:
        stream_id = self.next_id
        self.next_id += 2
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
        fields += [("content-type", "application/grpc"), ("te", "trailers")]
        fields += [(name.replace("_", "-"), value) for name, value in metadata.items()]
        flags = 5 if end else 4
        return stream_id, frame(HEADERS, flags, stream_id, self.encoder.encode(fields))

    def http(self, method: str, path: str, body: bytes = b"", **headers: str) -> int:
        """Send a whole request that is not gRPC's; its stream."""
        stream_id = self.next_id
        self.next_id += 2
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "etcd:2379")]
        block = self.encoder.encode([*fields, *headers.items()])
        if body:
            self.send(frame(HEADERS, 4, stream_id, block) + frame(DATA, END_STREAM, stream_id, body))
        else:
            self.send(frame(HEADERS, 5, stream_id, block))
        return stream_id

    def begin(self, path: str, message: Any = b"", **metadata: str) -> int:
        """Send a whole unary request; its stream."""
        stream_id, head = self.head(path, **metadata)
        self.send(head + frame(DATA, END_STREAM, stream_id, wrap(message)))
        return stream_id

    def open(self, path: str, *messages: Any, **metadata: str) -> int:
        """Open a stream and leave it open."""
        stream_id, head = self.head(path, **metadata)
        self.send(head)
        for message in messages:
            self.say(stream_id, message)
        return stream_id

    def say(self, stream_id: int, message: Any, *, end: bool = False) -> None:
        self.send(frame(DATA, END_STREAM if end else 0, stream_id, wrap(message)))

    def half_close(self, stream_id: int) -> None:
        self.send(frame(DATA, END_STREAM, stream_id))

    def reset(self, stream_id: int) -> None:
        self.send(frame(RST_STREAM, 0, stream_id, struct.pack(">I", 8)))

    def allow(self, stream_id: int, size: int) -> None:
        """Open a window."""
        self.send(frame(WINDOW_UPDATE, 0, stream_id, struct.pack(">I", size)))

    def read(self) -> None:
        """Take what the member has written."""
        data, self.link.written = self.link.written, b""
        while data:
            word, flags, stream_id = struct.unpack_from(">IBI", data)
            end = 9 + (word >> 8)
            self._take(word & 0xFF, flags, stream_id, data[9:end])
            data = data[end:]

    def answer(self, stream_id: int) -> Answered:
        """Let the member work, and what it has answered on a stream so far."""
        self.member.settle()
        self.read()
        return self.streams[stream_id]

    def call(self, path: str, message: Any = b"", **metadata: str) -> Answered:
        """Send a whole request and take the answer."""
        return self.answer(self.begin(path, message, **metadata))

    def ask(self, path: str, message: Any, kind: Any) -> Any:
        """Call and decode the answer, which must be OK."""
        answered = self.call(path, message)
        assert answered.status == 0, (answered.status, answered.message)
        (parsed,) = answered.parse(kind)
        return parsed

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        stream = self.streams[stream_id]
        if kind == DATA:
            stream.data += payload
        elif kind == HEADERS:
            stream.headers.update(self.decoder.decode(payload))
        elif kind == RST_STREAM:
            (stream.reset,) = struct.unpack(">I", payload)
        else:
            self.control.append((kind, flags, payload))
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            stream.ended = True
