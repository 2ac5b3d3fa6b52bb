"""The cheap reader of watch events counts what was sent, however it is cut."""

import asyncio
import struct
from random import Random
from typing import Any

import pytest

from benchmarks.cases import VALUE
from benchmarks.load import LoadError, grpc_frame
from benchmarks.watching import WatchingConnection
from ratifyd.proto import kv_pb2, rpc_pb2


class Transport:
    """Keeps what was written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def frame(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, 1) + payload


def told(events: int, **fields: Any) -> bytes:
    kv = kv_pb2.KeyValue(key=b"k", mod_revision=7, value=VALUE)
    response = rpc_pb2.WatchResponse(events=[kv_pb2.Event(kv=kv)] * events, **fields)
    return grpc_frame(response.SerializeToString())


def run(pieces: list[bytes]) -> tuple[int, bool, bytes]:
    """Events counted, whether all watchers stand, and what was sent."""

    async def read() -> tuple[int, bool, bytes]:
        seen: list[int] = []
        transport: Any = Transport()
        connection = WatchingConnection("127.0.0.1:1", [b"a", b"b"], seen.append)
        connection.connection_made(transport)
        asked = len(transport.written)
        for piece in pieces:
            connection.data_received(piece)
        return sum(seen), connection.created.done(), transport.written[asked:]

    return asyncio.run(read())


@pytest.mark.parametrize("seed", range(10))
def test_events_are_counted_however_they_are_cut(seed: int) -> None:
    draw = Random(seed)
    counts = [draw.choice((1, 1, 1, 3, 40)) for _ in range(30)]
    body = told(0, created=True) + told(0, created=True, watch_id=1)
    body += b"".join(told(count, watch_id=draw.randrange(2)) for count in counts)
    data = frame(4, 0, b"") + frame(1, 4, b"\x88") + frame(6, 0, bytes(8)) + frame(8, 0, bytes(4))
    while body:
        size = draw.choice((1, 100, 5_000))
        data, body = data + frame(0, 0, body[:size]), body[size:]
    pieces = []
    while data:
        size = draw.choice((1, 9, 1_000, 50_000))
        pieces.append(data[:size])
        data = data[size:]
    assert run(pieces) == (sum(counts), True, frame(4, 1, b"")[:5] + bytes(4) + frame(6, 1, bytes(8))[:5] + bytes(12))


@pytest.mark.parametrize(
    "data",
    [
        frame(0, 0, told(0, canceled=True)),
        frame(0, 0, told(0, created=True, canceled=True)),
        frame(0, 0, told(0)),
        frame(1, 5, b""),
        frame(3, 0, bytes(4)),
        frame(7, 0, bytes(8)),
        frame(0, 1, b""),
    ],
)
def test_what_is_no_event_ends_the_run(data: bytes) -> None:
    with pytest.raises(LoadError):
        run([data])
