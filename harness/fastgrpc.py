"""A lean gRPC client for one HTTP/2 connection on asyncio: bytes in, bytes out, a tenth of grpcio's cost per call.

For load and comparison, where the client must not be the bottleneck and must not tidy up what the server sends: it
hands over message bytes, the code and the text exactly as received. Flow control is honoured when sending; when
receiving the windows are as large as HTTP/2 allows. No TLS, no compression, no retries, no reconnecting.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Self, cast
from urllib.parse import unquote

import hpack

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 0x20
_MAX_WINDOW = 2**31 - 1
_REPLENISH = 2**28
_FRAME_HEAD = struct.Struct(">BHBBL")
_SETTING = struct.Struct(">HL")
_PREFIX = struct.Struct(">BL")

UNAVAILABLE = 14

Metadata = tuple[tuple[str, str], ...]


class Answer(NamedTuple):
    """The outcome of a call: gRPC code (0 is OK), text, and the only or last message (b"" if there was none)."""

    code: int
    text: str
    message: bytes


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    size = len(payload)
    return _FRAME_HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + payload


class Call:
    """One stream. `messages` fills with received messages unless `on_message` was given; `done` carries the Answer."""

    __slots__ = (
        "_body",
        "_connection",
        "_headers",
        "_pending",
        "done",
        "messages",
        "on_message",
        "stream_id",
        "window",
    )

    def __init__(
        self, connection: "FastConnection", stream_id: int, window: int, on_message: Callable[[bytes], None] | None
    ) -> None:
        self._connection = connection
        self._body = bytearray()
        self._headers: dict[str, str] = {}
        self._pending: deque[tuple[bytes, bool]] = deque()
        self.stream_id = stream_id
        self.window = window
        self.done: asyncio.Future[Answer] = connection.loop.create_future()
        self.messages: list[bytes] = []
        self.on_message = on_message

    def send(self, message: bytes, *, end: bool = False) -> None:
        """Send one message, as far as the windows allow; the rest follows by itself."""
        self._connection.send_data(self, _PREFIX.pack(0, len(message)) + message, end)

    def half_close(self) -> None:
        """Say that no more messages follow."""
        self._connection.send_data(self, b"", True)

    def cancel(self) -> None:
        """Reset the stream; `done` becomes cancelled."""
        self._connection.cancel(self)

    def received(self, data: bytes) -> None:
        body = self._body
        body += data
        while len(body) >= 5:
            size = int.from_bytes(body[1:5], "big")
            if len(body) < 5 + size:
                return
            message = bytes(body[5 : 5 + size])
            del body[: 5 + size]
            if self.on_message is None:
                self.messages.append(message)
            else:
                self.on_message(message)

    def finished(self) -> None:
        """The server's END_STREAM: turn the headers collected into an Answer."""
        code = int(self._headers.get("grpc-status", "2"))
        text = unquote(self._headers.get("grpc-message", ""))
        if "grpc-status" not in self._headers:
            text = f"no grpc-status; headers {self._headers}"
        if not self.done.done():
            self.done.set_result(Answer(code, text, self.messages[-1] if self.messages else b""))

    def failed(self, code: int, text: str) -> None:
        if not self.done.done():
            self.done.set_result(Answer(code, text, b""))


class FastConnection(asyncio.Protocol):
    """One HTTP/2 connection; `await FastConnection.connect("127.0.0.1:2379")`."""

    def __init__(self, authority: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.error: str | None = None
        self._authority = authority
        self._buffer = bytearray()
        self._calls: dict[int, Call] = {}
        self._next_id = 1
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._request_blocks: dict[tuple[str, tuple[tuple[str, str], ...]], bytes] = {}
        self._header_blocks: dict[bytes, dict[str, str]] = {}
        self._fragments: tuple[int, int, bytearray] | None = None
        self._window = 65_535
        self._initial_window = 65_535
        self._max_frame = 16_384
        self._consumed = 0
        self._blocked: deque[Call] = deque()

    @classmethod
    async def connect(cls, endpoint: str) -> Self:
        """Connect to host:port."""
        host, _, port = endpoint.rpartition(":")
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(lambda: cls(endpoint), host, int(port))
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        # A header table of size zero keeps the server's header blocks free of state, so they can be cached.
        settings = _SETTING.pack(1, 0) + _SETTING.pack(2, 0) + _SETTING.pack(4, _MAX_WINDOW) + _SETTING.pack(5, 2**20)
        growth = struct.pack(">L", _MAX_WINDOW - 65_535)
        self._encoder.header_table_size = 0
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, growth))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail_all(f"connection lost: {exc}")

    def _fail_all(self, text: str) -> None:
        self.error = self.error or text
        for call in list(self._calls.values()):
            call.failed(UNAVAILABLE, text)
        self._calls.clear()

    def close(self) -> None:
        self._transport.close()

    # Sending

    def open(self, path: str, on_message: Callable[[bytes], None] | None = None, metadata: Metadata = ()) -> Call:
        """Open a stream; messages go to `on_message` as they arrive, or gather in `call.messages`."""
        return self._open(path, on_message, metadata, write=True)[0]

    def _open(
        self,
        path: str,
        on_message: Callable[[bytes], None] | None,
        metadata: Metadata,
        *,
        write: bool,
    ) -> tuple[Call, bytes]:
        stream_id = self._next_id
        self._next_id += 2
        call = Call(self, stream_id, self._initial_window, on_message)
        if self.error is not None:
            call.failed(UNAVAILABLE, self.error)
            return call, b""
        self._calls[stream_id] = call
        block = self._request_blocks.get((path, metadata))
        if block is None:
            block = self._request_blocks[path, metadata] = self._request_block(path, metadata)
        frame = _frame(_HEADERS, _END_HEADERS, stream_id, block)
        if write:
            self._transport.write(frame)
        return call, frame

    def _request_block(self, path: str, metadata: Metadata) -> bytes:
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", self._authority)]
        fields += [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "fastgrpc"), *metadata]
        block: bytes = self._encoder.encode(fields)
        return block

    def unary(self, path: str, message: bytes, metadata: Metadata = ()) -> "asyncio.Future[Answer]":
        """One message there, one answer back; await the future."""
        call, head = self._open(path, None, metadata, write=False)
        if not head:
            return call.done
        size = len(message) + 5
        if size <= self._max_frame and size <= self._window and size <= call.window and not self._blocked:
            self._window -= size
            call.window -= size
            body = _frame(_DATA, _END_STREAM, call.stream_id, _PREFIX.pack(0, len(message)) + message)
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            call.send(message, end=True)
        return call.done

    def send_data(self, call: Call, data: bytes, end: bool) -> None:
        call._pending.append((data, end))
        self._pump(call)

    def _pump(self, call: Call) -> None:
        if call.done.done():
            return
        frames = []
        while call._pending:
            data, end = call._pending[0]
            room = min(self._window, call.window, self._max_frame)
            if data and room <= 0:
                if call not in self._blocked:
                    self._blocked.append(call)
                break
            chunk, rest = data[:room], data[room:]
            if rest:
                call._pending[0] = (rest, end)
            else:
                call._pending.popleft()
            self._window -= len(chunk)
            call.window -= len(chunk)
            frames.append(_frame(_DATA, _END_STREAM if end and not rest else 0, call.stream_id, chunk))
        if frames:
            self._transport.write(b"".join(frames))

    def cancel(self, call: Call) -> None:
        if self._calls.pop(call.stream_id, None) is not None and self.error is None:
            self._transport.write(_frame(_RST_STREAM, 0, call.stream_id, struct.pack(">L", 8)))
        call.done.cancel()

    # Receiving

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        while end - at >= 9:
            size = (buffer[at] << 16) | (buffer[at + 1] << 8) | buffer[at + 2]
            if end - at < 9 + size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream_id = int.from_bytes(buffer[at + 5 : at + 9], "big") & _MAX_WINDOW
            payload = bytes(buffer[at + 9 : at + 9 + size])
            at += 9 + size
            self._frame_received(kind, flags, stream_id, payload)
        del buffer[:at]

    def _frame_received(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == _DATA:
            self._data_received(flags, stream_id, payload)
        elif kind == _HEADERS:
            if flags & _PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & _PRIORITY:
                payload = payload[5:]
            if flags & _END_HEADERS:
                self._headers_received(flags, stream_id, payload)
            else:
                self._fragments = (flags, stream_id, bytearray(payload))
        elif kind == _CONTINUATION:
            assert self._fragments is not None
            self._fragments[2].extend(payload)
            if flags & _END_HEADERS:
                first_flags, stream_id, block = self._fragments
                self._fragments = None
                self._headers_received(first_flags, stream_id, bytes(block))
        elif kind == _WINDOW_UPDATE:
            self._window_received(stream_id, int.from_bytes(payload, "big") & _MAX_WINDOW)
        elif kind == _SETTINGS and not flags & _ACK:
            self._settings_received(payload)
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _RST_STREAM:
            call = self._calls.pop(stream_id, None)
            if call is not None:
                call.failed(UNAVAILABLE, f"stream reset with {int.from_bytes(payload, 'big')}")
        elif kind == _GOAWAY:
            self._goaway_received(payload)

    def _data_received(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._consumed += len(payload)
        if self._consumed > _REPLENISH:
            self._transport.write(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">L", self._consumed)))
            self._consumed = 0
        call = self._calls.get(stream_id)
        if call is None:
            return
        if flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        call.received(payload)
        if flags & _END_STREAM:
            del self._calls[stream_id]
            call.finished()

    def _headers_received(self, flags: int, stream_id: int, block: bytes) -> None:
        headers = self._header_blocks.get(block)
        if headers is None:
            headers = {str(name): str(value) for name, value in self._decoder.decode(block)}
            if not self._decoder.header_table.dynamic_entries and len(self._header_blocks) < 1000:
                self._header_blocks[block] = headers
        call = self._calls.get(stream_id)
        if call is None:
            return
        call._headers.update(headers)
        if flags & _END_STREAM:
            del self._calls[stream_id]
            call.finished()

    def _window_received(self, stream_id: int, growth: int) -> None:
        if stream_id == 0:
            self._window += growth
        elif stream_id in self._calls:
            self._calls[stream_id].window += growth
        blocked, self._blocked = self._blocked, deque()
        for call in blocked:
            self._pump(call)

    def _settings_received(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            identifier, value = _SETTING.unpack_from(payload, at)
            if identifier == 4:
                for call in self._calls.values():
                    call.window += value - self._initial_window
                self._initial_window = value
            elif identifier == 5:
                self._max_frame = value
        self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        self._window_received(0, 0)

    def _goaway_received(self, payload: bytes) -> None:
        last, code = struct.unpack_from(">LL", payload)
        text = f"going away with {code}: {payload[8:].decode('utf-8', 'replace')}"
        self.error = text
        for stream_id in [each for each in self._calls if each > last]:
            self._calls.pop(stream_id).failed(UNAVAILABLE, text)
