"""HTTP/2 as a client sends it: header blocks, and whole conversations with a session that acts at random."""

import gzip
import struct
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any
from zlib import crc32

import hpack

from fuzzing.mutate import frames, plain
from fuzzing.target import Run, Target
from ratifyd.wire.events import Call, HttpRequest, Opened
from ratifyd.wire.frames import PREFACE
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.hpack import Decoder, HpackError
from ratifyd.wire.limits import Limits

CONVERSATIONS = 60
LIMITS = Limits(
    max_concurrent_streams=20,
    max_message_bytes=50_000,
    max_http_body_bytes=50_000,
    max_buffered_bytes=200_000,
    reset_burst=1_000_000,
    idle_frame_burst=1_000_000,
    max_ping_strikes=1_000_000,
)
_CHOICES: dict[str, tuple[Any, ...]] = {
    "content-type": ("application/grpc", "application/grpc", "application/json"),
    "odd": ("x-a", "x-bin", "te", "content-length", "grpc-encoding", ":path", "connection", "X"),
    "value": ("5", "trailers", "AAA=", "identity", "gzip", ""),
    "setting": ((4, 0), (4, 10), (4, 65_535), (5, 16_384), (5, 99_999), (3, 1), (1, 0), (77, 1)),
}


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """One frame."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


class Script:
    """Frames that are mostly right, so that changes reach deep states."""

    def __init__(
        self, random: Random, path: Callable[[Random], str] = lambda random: f"/s/{random.randrange(4)}"
    ) -> None:
        self.random = random
        self._path = path
        self._encoder = hpack.Encoder()
        self._next_id = 1
        self._open: list[int] = []

    def _fields(self) -> list[tuple[str, str]]:
        random = self.random
        fields = [(":method", "POST"), (":scheme", "http"), (":path", self._path(random))]
        fields.append(("content-type", random.choice(_CHOICES["content-type"])))
        if random.random() < 0.3:
            fields.append(("grpc-timeout", f"{random.randrange(1000)}{random.choice('HMSmunx')}"))
        if random.random() < 0.2:
            fields.append((random.choice(_CHOICES["odd"]), random.choice(_CHOICES["value"])))
        if random.random() < 0.3:
            fields.append(("grpc-encoding", "gzip"))
        if random.random() < 0.05:
            random.shuffle(fields)
        return fields

    def block(self) -> bytes:
        """A header block, encoded behind those before."""
        return bytes(self._encoder.encode(self._fields()))

    def _headers(self, stream_id: int) -> bytes:
        random = self.random
        block = self.block()
        flags = random.choice([4, 4, 4, 5, 0, 0x24, 0xC])
        if flags == 0x24:
            block = random.randbytes(5) + block
        elif flags == 0xC:
            pad = random.randrange(20)
            block = bytes([pad]) + block + bytes(pad)
        if flags != 5:
            self._open.append(stream_id)
        if flags:
            return frame(1, flags, stream_id, block)
        return frame(1, 0, stream_id, block[:4]) + frame(9, 4, stream_id, block[4:])

    def _data(self, stream_id: int) -> bytes:
        random = self.random
        size = random.choice([0, 1, 50, 1_000, 60_000])
        content = random.randbytes(min(size, 16_000))
        compressed = random.random() < 0.1
        if compressed and random.random() < 0.9:
            content = gzip.compress(random.choice([content, bytes(size)]), mtime=0)
            size = len(content)
        body = struct.pack(">BI", compressed, size) + content
        flags = random.choice([0, 1, 1])
        if flags:
            self._open = [each for each in self._open if each != stream_id]
        return frame(0, flags, stream_id, body[: random.choice([3, 5, 10**6, 10**6])])

    def next(self) -> bytes:
        """The next frame."""
        random = self.random
        choice = random.random()
        recent = random.choice(self._open[-6:]) if self._open else 1
        if choice < 0.35 or not self._open:
            stream_id = self._next_id
            self._next_id += random.choice([2, 2, 2, 2, 4])
            return self._headers(stream_id)
        if choice < 0.7:
            return self._data(recent)
        if choice < 0.8:
            return frame(8, 0, random.choice([0, recent]), struct.pack(">I", random.choice([1, 100, 70_000])))
        if choice < 0.86:
            self._open = [each for each in self._open if each != recent]
            return frame(3, 0, recent, struct.pack(">I", 8))
        if choice < 0.92:
            if random.random() < 0.3:
                return frame(4, 1, 0, b"")
            return frame(4, 0, 0, struct.pack(">HI", *random.choice(_CHOICES["setting"])))
        return frame(6, random.choice([0, 1]), 0, random.randbytes(8))


def conversations() -> list[bytes]:
    """Scripts of some lengths, as the bytes after the preface."""
    found = []
    for seed in range(CONVERSATIONS):
        script = Script(Random(f"conversation {seed}"))
        found.append(b"".join(script.next() for _ in range(2 + seed)))
    return found


# --- the codec -------------------------------------------------------------------------------------------------------


def _act(random: Random, connection: GrpcConnection, known: list[int]) -> None:
    """Something a session may do, at any time, on any stream it heard of."""
    stream_id = random.choice(known)
    actions: list[Callable[[], object]] = [
        partial(connection.reply, stream_id, bytes(random.choice([0, 10, 100_000]))),
        partial(connection.fail, stream_id, random.randrange(17), "text"),
        partial(connection.send_message, stream_id, bytes(random.choice([0, 10, 30_000]))),
        partial(connection.finish, stream_id),
        partial(connection.reset, stream_id, 8),
        partial(connection.respond, stream_id, 200, [(b"a", b"b")], bytes(random.choice([0, 30_000]))),
        partial(connection.send_headers, stream_id),
    ]
    random.choice(actions)()


def check_output(data: bytes) -> None:
    """Every frame whole, none larger than any peer allowed."""
    while data:
        word, _, stream_id = struct.unpack_from(">IBI", data)
        assert (word & 0xFF) < 10
        assert stream_id < 2**31
        size = word >> 8
        assert size <= 2**24 - 1
        assert len(data) >= 9 + size
        data = data[9 + size :]


def check_bounds(connection: GrpcConnection, limits: Limits = LIMITS) -> None:
    """What a connection holds, against its limits."""
    streams = connection._streams
    assert len(streams) <= limits.max_concurrent_streams
    buffered = sum(len(stream.buffer) for stream in streams.values() if hasattr(stream, "buffer"))
    assert connection._buffered == buffered <= limits.max_buffered_bytes + limits.max_frame_bytes
    assert set(connection._waiting) <= set(streams)
    assert not connection._fresh
    assert len(connection._pending) <= limits.max_frame_bytes + 9
    assert len(connection._blocks) <= 128
    assert len(connection._shapes) <= 128
    assert len(connection._remembered_resets) <= 4_096


def _converse(data: bytes) -> None:
    random = Random(crc32(data))
    connection = GrpcConnection(LIMITS)
    connection.receive(PREFACE + frame(4, 0, 0, b""), 0.0)
    known: list[int] = []
    now = 0.0
    while data and not connection.closed:
        size = random.choice([len(data), random.randrange(len(data) + 1), 3_000, 300])
        now += 1.0
        for event in connection.receive(data[:size], now):
            if isinstance(event, Call | Opened | HttpRequest):
                known.append(event.stream_id)
            if isinstance(event, Call):
                assert len(event.message) <= LIMITS.max_message_bytes
        data = data[size:]
        if not connection.closed:
            for _ in range(random.randrange(4) if known else 0):
                _act(random, connection, known)
            if random.random() < 0.01:
                connection.go_away()
        check_output(connection.data_to_send())
        check_bounds(connection)
    check_output(connection.data_to_send())


def _header_blocks() -> list[bytes]:
    blocks = []
    for seed in range(30):
        script = Script(Random(f"blocks {seed}"))
        parts = [script.block() for _ in range(1 + seed % 4)]
        blocks.append(b"".join(bytes((len(part),)) + part for part in parts))
    return blocks


def _decode_blocks(data: bytes) -> None:
    """Blocks behind one byte of length each, through one decoder."""
    decoder = Decoder()
    while data:
        block, data = data[1 : 1 + data[0]], data[1 + data[0] :]
        decoder.decode(block)


def _plainly(run: Run) -> Callable[[], Run]:
    return lambda: run


TARGETS = (
    Target("hpack", _header_blocks, _plainly(_decode_blocks), (HpackError,), sample=8000),
    Target("http2", conversations, _plainly(_converse), shapes=(plain, frames, frames), sample=700),
)
