"""Random and mutated frames into the codec: it never raises, stays in bounds, and what it says stays well formed.

Seeds are fixed by default; RATIFYD_FUZZ_SECONDS makes it a long run with fresh ones.
"""

import os
import random
import struct
import time

import hpack

from ratifyd.wire.events import Call, HttpRequest, Opened
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.limits import Limits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SECONDS = float(os.environ.get("RATIFYD_FUZZ_SECONDS", "0"))
RUNS = 150
LIMITS = Limits(
    max_concurrent_streams=20,
    max_message_bytes=50_000,
    max_http_body_bytes=50_000,
    max_buffered_bytes=200_000,
    reset_burst=1_000_000,
    idle_frame_burst=1_000_000,
    max_ping_strikes=1_000_000,
)


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


class Script:
    """Frames that are mostly right, so that mutations reach deep states."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.encoder = hpack.Encoder()
        self.next_id = 1
        self.open: list[int] = []

    def headers(self, stream_id: int) -> bytes:
        rng = self.rng
        fields = [(":method", "POST"), (":scheme", "http"), (":path", f"/s/{rng.randrange(4)}")]
        fields.append(("content-type", rng.choice(["application/grpc", "application/grpc", "application/json"])))
        if rng.random() < 0.3:
            fields.append(("grpc-timeout", f"{rng.randrange(1000)}{rng.choice('HMSmunx')}"))
        if rng.random() < 0.2:
            name = rng.choice(["x-a", "x-bin", "te", "content-length", "grpc-encoding", ":path", "connection", "X"])
            fields.append((name, rng.choice(["5", "trailers", "AAA=", "identity", "gzip", ""])))
        rng.shuffle(fields) if rng.random() < 0.05 else None
        block = self.encoder.encode(fields)
        flags = rng.choice([4, 4, 4, 5, 0, 0x24, 0xC])
        if flags == 0x24:
            block = rng.randbytes(5) + block
        elif flags == 0xC:
            pad = rng.randrange(20)
            block = bytes([pad]) + block + bytes(pad)
        if flags != 5:
            self.open.append(stream_id)
        if flags:
            return frame(1, flags, stream_id, block)
        return frame(1, 0, stream_id, block[:4]) + frame(9, 4, stream_id, block[4:])

    def next(self) -> bytes:
        rng = self.rng
        choice = rng.random()
        recent = rng.choice(self.open[-6:]) if self.open else 1
        if rng.random() < 0.002:
            recent = max(1, self.next_id - 2 * rng.randrange(-1, 6))
        if choice < 0.35 or not self.open:
            stream_id = self.next_id
            self.next_id += rng.choice([2, 2, 2, 2, 4, 1 if rng.random() < 0.005 else 2])
            return self.headers(stream_id)
        if choice < 0.7:
            size = rng.choice([0, 1, 50, 1_000, 60_000])
            body = struct.pack(">BI", rng.random() < 0.02, size) + rng.randbytes(min(size, 16_000))
            flags = rng.choice([0, 1, 1])
            if flags:
                self.open = [stream_id for stream_id in self.open if stream_id != recent]
            return frame(0, flags, recent, body[: rng.choice([3, 5, 10**6, 10**6])])
        if choice < 0.8:
            increment = 0 if rng.random() < 0.005 else rng.choice([1, 100, 70_000])
            return frame(8, 0, rng.choice([0, recent]), struct.pack(">I", increment))
        if choice < 0.86:
            self.open = [stream_id for stream_id in self.open if stream_id != recent]
            return frame(3, 0, recent, struct.pack(">I", 8))
        if choice < 0.92:
            pair = rng.choice([(4, 0), (4, 10), (4, 65_535), (5, 16_384), (5, 99_999), (3, 1), (1, 0), (77, 1)])
            return frame(4, 0, 0, struct.pack(">HI", *pair)) if rng.random() < 0.7 else frame(4, 1, 0, b"")
        if choice < 0.998:
            return frame(6, rng.choice([0, 1]), 0, rng.randbytes(8))
        return frame(rng.randrange(12), rng.randrange(256), rng.choice([0, recent]), rng.randbytes(rng.randrange(20)))


def mutate(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        at = rng.randrange(len(changed))
        action = rng.randrange(3)
        if action == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            del changed[at : at + rng.randrange(1, 9)]
        else:
            changed[at:at] = rng.randbytes(rng.randrange(1, 9))
        if not changed:
            break
    return bytes(changed)


def act(rng: random.Random, connection: GrpcConnection, known: list[int]) -> None:
    """Something a session may do, at any time, on any stream it heard of."""
    stream_id = rng.choice(known)
    action = rng.randrange(9)
    if action < 3:
        connection.reply(stream_id, bytes(rng.choice([0, 10, 100_000])))
    elif action == 3:
        connection.fail(stream_id, rng.randrange(17), "text")
    elif action == 4:
        connection.send_message(stream_id, bytes(rng.choice([0, 10, 30_000])))
    elif action == 5:
        connection.finish(stream_id)
    elif action == 6:
        connection.reset(stream_id, 8)
    elif action == 7:
        connection.respond(stream_id, 200, [(b"a", b"b")], bytes(rng.choice([0, 30_000])))
    else:
        connection.send_headers(stream_id)


def check_output(data: bytes) -> None:
    """Every frame whole, none too large, nothing after GOAWAY of an error."""
    while data:
        word, _, stream_id = struct.unpack_from(">IBI", data)
        assert (word & 0xFF) < 10
        assert stream_id < 2**31
        size = word >> 8
        assert size <= 99_999
        assert len(data) >= 9 + size
        data = data[9 + size :]


def run(seed: int) -> int:
    rng = random.Random(seed)
    connection = GrpcConnection(LIMITS)
    script = Script(rng)
    data = PREFACE + frame(4, 0, 0, b"")
    known: list[int] = []
    chance = rng.choice([0.0, 0.001, 0.05])
    for turn in range(120):
        for _ in range(rng.randrange(1, 8)):
            piece = script.next()
            data += mutate(rng, piece) if rng.random() < chance else piece
        size = rng.choice([len(data), rng.randrange(len(data) + 1)])
        for event in connection.receive(data[:size], float(turn)):
            if isinstance(event, Call | Opened | HttpRequest):
                known.append(event.stream_id)
        data = data[size:]
        if connection.closed:
            break
        for _ in range(rng.randrange(4) if known else 0):
            act(rng, connection, known)
        if rng.random() < 0.005:
            connection.go_away()
        check_output(connection.data_to_send())
        check_bounds(connection)
    check_output(connection.data_to_send())
    return len(known)


def check_bounds(connection: GrpcConnection) -> None:
    streams = connection._streams
    assert len(streams) <= LIMITS.max_concurrent_streams
    buffered = sum(len(stream.buffer) for stream in streams.values() if hasattr(stream, "buffer"))
    assert connection._buffered == buffered <= LIMITS.max_buffered_bytes + LIMITS.max_frame_bytes
    assert set(connection._waiting) <= set(streams)
    assert not connection._fresh
    assert len(connection._pending) <= LIMITS.max_frame_bytes + 9
    assert len(connection._blocks) <= 128
    assert len(connection._shapes) <= 128
    assert len(connection._reset_here) <= 4_096


def test_mutated_conversations() -> None:
    opened = 0
    for seed in range(RUNS):
        opened += run(seed)
    assert opened > 20 * RUNS  # the script reaches the session at all
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        seed = random.randrange(2**32)
        try:
            run(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


def test_random_bytes() -> None:
    rng = random.Random(1)
    for _ in range(300):
        connection = GrpcConnection(LIMITS)
        connection.receive(PREFACE + frame(4, 0, 0, b""))
        for _ in range(20):
            connection.receive(rng.randbytes(rng.randrange(60)))
            check_output(connection.data_to_send())


def test_random_header_blocks() -> None:
    rng = random.Random(2)
    for _ in range(2_000):
        connection = GrpcConnection(LIMITS)
        connection.receive(
            PREFACE + frame(4, 0, 0, b"") + frame(1, rng.choice([4, 5]), 1, rng.randbytes(rng.randrange(40)))
        )
        check_output(connection.data_to_send())
