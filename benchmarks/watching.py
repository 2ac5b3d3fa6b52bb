"""Watchers over connections so cheap to read that the server is what is measured.

A response is told from its frame and its end: one event, whose value is the one that was put. Only what is longer, or
ends otherwise, is looked at as a message.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from struct import Struct
from typing import cast

import hpack

from benchmarks.cases import VALUE
from benchmarks.load import LoadError, grpc_frame
from harness.fastgrpc import Answer, FastConnection
from ratifyd.proto import rpc_pb2

_WATCH = "/etcdserverpb.Watch/Watch"
_PUT = "/etcdserverpb.KV/Put"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_STREAM = 1
_MAX_WINDOW = 2**31 - 1
_REPLENISH_BYTES = 2**28
_MOST_ASKED_BYTES = 65_535
"""What may be sent before the server has opened a window."""
_frame_head = Struct(">IBI").unpack_from
_message_head = Struct(">BI").unpack_from
_word = Struct(">I").pack


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return Struct(">IBI").pack(len(payload) << 8 | kind, flags, stream_id) + payload


class WatchingConnection(asyncio.Protocol):
    """One connection with one stream of watchers, of one key each; `seen` is told how many events came in a read."""

    def __init__(self, authority: str, keys: Sequence[bytes], seen: Callable[[int], None]) -> None:
        self.created: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._authority = authority
        self._keys = keys
        self._seen = seen
        self._uncreated = len(keys)
        self._frames = b""
        """The first part of a frame."""
        self._message = b""
        """The first part of a message."""
        self._consumed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        encoder = hpack.Encoder()
        encoder.header_table_size = 0
        fields = [(":method", "POST"), (":scheme", "http"), (":path", _WATCH), (":authority", self._authority)]
        block = encoder.encode([*fields, ("te", "trailers"), ("content-type", "application/grpc")])
        creates = [
            _frame(_DATA, 0, _STREAM, grpc_frame(request.SerializeToString()))
            for key in self._keys
            for request in [rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=key))]
        ]
        if sum(map(len, creates)) > _MOST_ASKED_BYTES:
            raise LoadError("too many watchers for one connection")
        settings = _frame(_SETTINGS, 0, 0, Struct(">HIHI").pack(1, 0, 4, _MAX_WINDOW))
        window = _frame(_WINDOW_UPDATE, 0, 0, _word(_MAX_WINDOW - 65_535))
        opening = [_PREFACE, settings, window, _frame(_HEADERS, _END_HEADERS, _STREAM, block)]
        self._transport.write(b"".join(opening + creates))

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Count the events in what came."""
        if self._frames:
            data = self._frames + data
        at, end, count = 0, len(data), 0
        while at + 9 <= end:
            word, flags, _ = _frame_head(data, at)
            start = at + 9
            stop = start + (word >> 8)
            if stop > end:
                break
            at = stop
            if word & 0xFF or flags:
                self._other(word & 0xFF, flags, data[start:stop])
            elif self._message:
                whole = self._message + data[start:stop]
                count += self._count(whole, 0, len(whole))
            else:
                count += self._count(data, start, stop)
        self._frames = data[at:]
        self._consumed += at
        if self._consumed > _REPLENISH_BYTES:
            grown = _word(self._consumed)
            self._transport.write(_frame(_WINDOW_UPDATE, 0, 0, grown) + _frame(_WINDOW_UPDATE, 0, _STREAM, grown))
            self._consumed = 0
        if count:
            self._seen(count)

    def _count(self, data: bytes, at: int, end: int) -> int:
        """Events in the messages from `at` to `end`; what is left of the last one is kept."""
        count = 0
        while at + 5 <= end:
            start = at + 5
            stop = start + _message_head(data, at)[1]
            if stop > end:
                break
            at = stop
            if stop - start < 2 * len(VALUE) and data.endswith(VALUE, start, stop):
                count += 1
            else:
                count += self._read(data[start:stop])
        self._message = data[at:end]
        return count

    def _read(self, message: bytes) -> int:
        response = rpc_pb2.WatchResponse.FromString(message)
        if response.created and not response.canceled:
            self._uncreated -= 1
            if not self._uncreated:
                self.created.set_result(None)
        elif response.canceled or not response.events:
            raise LoadError(f"a watcher was told {response}")
        return len(response.events)

    def _other(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind in (_DATA, _RST_STREAM, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            raise LoadError(f"the stream has ended, or is not as expected: frame {kind}, flags {flags}, {payload!r}")


class Watchers:
    """Watchers spread over connections, and when each event of the puts under way arrived."""

    def __init__(self, putting: FastConnection, keys: Sequence[bytes], per_key: int) -> None:
        self._putting = putting
        self._puts = [rpc_pb2.PutRequest(key=key, value=VALUE).SerializeToString() for key in keys]
        self._keys = keys
        self._per_key = per_key
        self._connections: list[WatchingConnection] = []
        self._missing = 0
        self._began = 0.0
        self._all_in: asyncio.Future[None] = putting.loop.create_future()
        self.times_us: list[float] = []

    async def open(self, endpoint: str, connections: int) -> None:
        """Connect, and wait until all watchers stand."""
        host, _, port = endpoint.rpartition(":")
        watched = [key for _ in range(self._per_key) for key in self._keys]
        for number in range(connections):
            share = watched[number::connections]
            if share:
                _, protocol = await self._putting.loop.create_connection(
                    lambda share=share: WatchingConnection(endpoint, share, self._seen),  # type: ignore[misc]
                    host,
                    int(port),
                )
                self._connections.append(protocol)
        for connection in self._connections:
            await connection.created

    def close(self) -> None:
        """Hang up."""
        for connection in self._connections:
            connection.close()

    def _seen(self, count: int) -> None:
        self.times_us.extend(repeat((time.perf_counter() - self._began) * 1e6, count))
        self._missing -= count
        if self._missing < 0:
            raise LoadError("more events than puts")
        if not self._missing:
            self._all_in.set_result(None)

    async def put(self) -> None:
        """Put all keys at once; wait until every watcher of them has its event."""
        self._all_in = self._putting.loop.create_future()
        self._missing = len(self._puts) * self._per_key
        self._began = time.perf_counter()
        answers: list[Answer] = await asyncio.gather(*(self._putting.unary(_PUT, message) for message in self._puts))
        if any(answer.code for answer in answers):
            raise LoadError(f"a put was refused: {answers[0]}")
        await self._all_in
