"""Clients that mean harm, one kind at a time, while a well-behaved one works on: it is served, memory stays in bounds.

Where HTTP/2 has a word for what the attacker does, the attacker gets to hear it.
"""

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from harness.servers import EtcdServer
from harness.stubs import Client
from harness.wire import CONTINUATION, DATA, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, Wire, frame
from ratifyd.proto import rpc_pb2
from tests.hostile.conftest import Neighbour, resident_bytes

FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, COMPRESSION_ERROR, CALM = 3, 6, 9, 11
P99_S = 3.0
"""Generous: these tests share their machine with others. What was measured is in docs/reliability.md."""
GROWTH_BYTES = 256 << 20
RANGE = "/etcdserverpb.KV/Range"
EVERYTHING = struct.pack(">BI", 0, 6) + rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0").SerializeToString()

Dial = Callable[..., Wire]


@pytest.fixture
def dial(server: EtcdServer) -> Iterator[Dial]:
    with ExitStack() as stack:

        def make(**options: bytes) -> Wire:
            wire = Wire(server, **options)
            stack.callback(wire.close)
            return wire

        yield make


class Watched:
    """The neighbour's latency and the server's memory around an attack."""

    def __init__(self, server: EtcdServer, neighbour: Neighbour, name: str) -> None:
        self._server, self._neighbour, self._name = server, neighbour, name

    def __enter__(self) -> None:
        neighbour = self._neighbour
        start = neighbour.mark()
        neighbour.await_rounds(15)
        self._before = neighbour.percentiles(start)
        self._rss = resident_bytes(self._server)
        self._start = neighbour.mark()

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is not None:
            return
        neighbour = self._neighbour
        neighbour.await_rounds(3)
        during = neighbour.percentiles(self._start)
        growth = resident_bytes(self._server) - self._rss
        if path := os.environ.get("RATIFYD_TEST_RECORD"):
            with open(path, "a", encoding="utf-8") as record:  # noqa: PTH123
                times = " | ".join(f"{seconds * 1000:.1f}" for seconds in (*self._before, *during))
                record.write(f"{self._server.kind} | {self._name} | {times} | {growth / (1 << 20):.0f}\n")
        if self._server.kind == "etcd":
            return  # measured for comparison, not judged
        assert self._server.running
        assert not neighbour.failures
        assert during[1] < max(P99_S, 20 * self._before[1])
        assert growth < GROWTH_BYTES


Watch = Callable[[str], Watched]


@pytest.fixture
def watched(server: EtcdServer, neighbour: Neighbour) -> Watch:
    return partial(Watched, server, neighbour)


def ids(first: int, count: int) -> range:
    return range(first, first + 2 * count, 2)


# --- floods


def rapid_reset(wire: Wire) -> Iterator[bytes]:
    """CVE-2023-44487."""
    block = wire.head(RANGE)
    for first in range(1, 2**20, 400):
        yield b"".join(
            frame(HEADERS, 4, each, block) + frame(RST_STREAM, 0, each, b"\0\0\0\x08") for each in ids(first | 1, 200)
        )


def broken_streams(wire: Wire) -> Iterator[bytes]:
    """CVE-2025-8671: streams that the server has to reset."""
    block = wire.head(RANGE)
    for first in range(1, 2**20, 400):
        yield b"".join(
            frame(HEADERS, 4, each, block) + frame(WINDOW_UPDATE, 0, each, bytes(4)) for each in ids(first | 1, 200)
        )


def repeated(piece: bytes, *, opened: bool = False) -> Callable[[Wire], Iterator[bytes]]:
    def pieces(wire: Wire) -> Iterator[bytes]:
        if opened:
            wire.open(1)
        for _ in range(4000):
            yield piece * 50

    return pieces


def continuations(wire: Wire) -> Iterator[bytes]:
    """CVE-2024-27316."""
    yield frame(HEADERS, 0, 1, b"\x82")
    for _ in range(4000):
        yield frame(CONTINUATION, 0, 1, b"\x82" * 100) * 10


def window_games(wire: Wire) -> Iterator[bytes]:
    """Each SETTINGS changes the window of every open stream."""
    block = wire.head("/etcdserverpb.Watch/Watch")
    yield b"".join(frame(HEADERS, 4, each, block) for each in ids(1, 5000))
    for number in range(4000):
        yield b"".join(
            frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535 + each % 2)) for each in range(number, number + 10)
        )


def table_games(wire: Wire) -> Iterator[bytes]:
    """An HPACK bomb: one large entry of the table, named again and again by one byte each."""
    large = b"\x40\x01a" + b"\x7f\xa1\x1e" + b"v" * 4_000
    yield frame(HEADERS, 4, 1, large)
    for first in range(3, 2**20, 2):
        yield frame(HEADERS, 4, first, b"\xbe" * 16_000)


FLOODS: dict[str, tuple[Callable[[Wire], Iterator[bytes]], int]] = {
    "rapid reset": (rapid_reset, CALM),
    "streams broken on purpose": (broken_streams, CALM),
    "SETTINGS": (repeated(frame(SETTINGS)), CALM),
    "SETTINGS that change 5,000 windows": (window_games, CALM),
    "PING": (repeated(frame(PING, payload=bytes(8))), CALM),
    "empty DATA": (repeated(frame(DATA, 0, 1), opened=True), CALM),
    "PRIORITY": (repeated(frame(PRIORITY, 0, 3, bytes(4) + b"\1")), CALM),
    "unknown frames": (repeated(frame(0x42, payload=b"x")), CALM),
    "RST_STREAM of a closed stream": (
        lambda wire: iter([frame(HEADERS, 4, 1, wire.head(RANGE)), *[frame(RST_STREAM, 0, 1, bytes(4)) * 50] * 4000]),
        CALM,
    ),
    "CONTINUATION": (continuations, CALM),
    "window overflow": (repeated(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**30))), FLOW_CONTROL_ERROR),
    "HPACK bomb": (table_games, CALM),
    "frame above the limit": (repeated(frame(DATA, 0, 1, bytes(16_385)), opened=True), FRAME_SIZE_ERROR),
    "broken header block": (repeated(frame(HEADERS, 4, 1, b"\xff" * 9)), COMPRESSION_ERROR),
    "no HTTP/2 after the preface": (repeated(b"GET / HTTP/1.1\r\n\r\n"), FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_its_connection_alone(server: EtcdServer, watched: Watch, dial: Dial, name: str) -> None:
    flood, code = FLOODS[name]
    with watched(name):
        wire = dial()
        for piece in flood(wire):
            if not wire.flood(piece, 1):
                break
        if server.kind == "ratifyd":
            assert wire.goodbye() == code


# --- slow and silent clients


def test_huge_headers(server: EtcdServer, watched: Watch, dial: Dial) -> None:
    with watched("huge headers"):
        wire = dial()
        block = wire.head(RANGE) + b"\0\x01x\x7f\xc1\x99\x0c" + b"v" * 200_000
        pieces = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
        wire.flood(frame(HEADERS, 0, 1, pieces[0]), 1)
        for piece in pieces[1:]:
            wire.flood(frame(CONTINUATION, 0, 1, piece), 1)
        assert server.kind == "etcd" or wire.goodbye() == CALM


def test_connections_that_say_nothing(server: EtcdServer, watched: Watch) -> None:
    """Open, half a preface, half a header: each costs little and holds up nobody."""
    beginnings = [b"", b"PRI * HTTP", b"GET / HTTP/1.1\r\nHost:", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"]
    with watched("300 half-open connections"), ExitStack() as stack:
        for number in range(300):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.client_port)))
            connection.sendall(beginnings[number % len(beginnings)])


def test_requests_that_come_byte_by_byte(watched: Watch, dial: Dial) -> None:
    request = struct.pack(">BI", 0, 1000) + bytes(999)
    with watched("100 slow writers"):
        wires = [dial() for _ in range(100)]
        for wire in wires:
            wire.open(1, "/etcdserverpb.KV/Put")
        for at in range(30):
            for wire in wires:
                wire.send(DATA, 0, 1, request[at : at + 1])


def fill(server: EtcdServer, count: int, size: int) -> None:
    with Client(server.client_endpoint) as client:
        for number in range(count):
            client.kv.Put(rpc_pb2.PutRequest(key=b"large/%d" % number, value=bytes(size)))


@pytest.mark.parametrize("window", [0, 2**31 - 1], ids=["no window", "never reads"])
def test_answers_that_nobody_reads(server: EtcdServer, watched: Watch, dial: Dial, window: int) -> None:
    """Many answers of a megabyte are asked for, none is taken."""
    fill(server, 4, 250_000)
    with watched(f"{UNREAD} answers of 1 MB unread ({'no window' if not window else 'full socket'})"):
        wire = dial(settings=struct.pack(">HI", 4, window) + struct.pack(">HI", 5, 2**24 - 1))
        if window:
            wire.send(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 65_536))
        request = rpc_pb2.RangeRequest(key=b"large/", range_end=b"large0").SerializeToString()
        body = struct.pack(">BI", 0, len(request)) + request
        block = wire.head(RANGE)
        wire.write(b"".join(frame(HEADERS, 4, each, block) + frame(DATA, 1, each, body) for each in ids(1, UNREAD)))


UNREAD = 40


def test_a_watcher_that_does_not_read(server: EtcdServer, watched: Watch, dial: Dial) -> None:
    with watched("a watcher that does not read 50 MB of events"), Client(server.client_endpoint) as client:
        wire = dial()
        wire.open(1)
        create = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"w")).SerializeToString()
        wire.send(DATA, 0, 1, struct.pack(">BI", 0, len(create)) + create)
        for _ in range(100):
            client.kv.Put(rpc_pb2.PutRequest(key=b"w", value=bytes(500_000)))


# --- many


def many_streams(server: EtcdServer, dial: Dial, connections: int, streams: int, *, watch: bool) -> None:
    """Open streams on several connections and leave them open; each watcher is confirmed."""
    create = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"many")).SerializeToString()
    body = struct.pack(">BI", 0, len(create)) + create
    for _ in range(connections):
        wire = dial(settings=struct.pack(">HI", 4, 1 << 20))
        wire.send(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
        block = wire.head("/etcdserverpb.Watch/Watch")
        for first in range(1, 2 * streams, 400):
            count = min(200, (2 * streams - first + 1) // 2)
            pieces = [
                frame(HEADERS, 4, each, block) + (frame(DATA, 0, each, body) if watch else b"")
                for each in ids(first, count)
            ]
            assert wire.flood(b"".join(pieces), 1)
            if watch:
                for _ in range(count):
                    wire.take(DATA)


@pytest.mark.parametrize("watch", [False, True], ids=["idle", "watching"])
def test_ten_thousand_streams(server: EtcdServer, watched: Watch, dial: Dial, watch: bool) -> None:
    with watched(f"10,000 {'watch' if watch else 'idle'} streams"):
        many_streams(server, dial, 5, 2000, watch=watch)


@pytest.mark.slow
@pytest.mark.parametrize("watch", [False, True], ids=["idle", "watching"])
def test_a_hundred_thousand_streams(kind: str, watch: bool) -> None:
    with EtcdServer(kind, ["--unsafe-no-fsync"]) as own, Neighbour(own) as neighbour, ExitStack() as stack:

        def make(**options: bytes) -> Wire:
            wire = Wire(own, **options)
            stack.callback(wire.close)
            return wire

        neighbour.await_rounds(5)
        start, rss = neighbour.mark(), resident_bytes(own)
        many_streams(own, make, 20, 5000, watch=watch)
        neighbour.await_rounds(1)
        during, grown = neighbour.percentiles(start), resident_bytes(own) - rss
        neighbour.await_rounds(1)  # which began while they were opened
        since = neighbour.mark()
        neighbour.await_rounds(20)
        after = neighbour.percentiles(since)
        if path := os.environ.get("RATIFYD_TEST_RECORD"):
            with open(path, "a", encoding="utf-8") as record:  # noqa: PTH123
                times = " | ".join(f"{seconds * 1000:.1f}" for seconds in (*during, *after))
                name = f"100,000 {'watch' if watch else 'idle'} streams (opening | open)"
                record.write(f"{kind} | {name} | {times} | {grown / (1 << 20):.0f}\n")
        assert not neighbour.failures
        assert after[1] < P99_S
        assert grown < 100_000 * 8192


def test_more_connections_than_files(kind: str) -> None:
    """Clients leave the log, the backend and the other members the files they need (etcd: 150)."""
    limited = EtcdServer(kind, ["--unsafe-no-fsync"], start=False)
    limited.prefix = ["prlimit", "--nofile=300:300"]
    limited.start()
    try:
        with Neighbour(limited) as neighbour:
            neighbour.await_rounds(5)
            with ExitStack() as stack:
                for _ in range(400):
                    stack.enter_context(socket.create_connection(("127.0.0.1", limited.client_port)))
                neighbour.await_rounds(20)
            assert not neighbour.failures
            assert limited.running
        deadline = time.monotonic() + 10
        with Client(limited.client_endpoint) as client:
            client.kv.Put(rpc_pb2.PutRequest(key=b"after"), wait_for_ready=True, timeout=deadline - time.monotonic())
    finally:
        limited.stop()
