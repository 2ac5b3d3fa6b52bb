"""One client connection: HTTP/2 frames in, gRPC calls out, replies in, frames out.

`receive` is the hot loop. It keeps three kinds of open stream apart so that a whole unary request costs one event and
no state object: a `Head` (header block read in this very read), `WHOLE` (handed out as a `Call`, nothing sent yet) and
`Stream` (everything else). Whatever is not a plain HEADERS or DATA frame of a plain request goes through `_frame`.
"""

from collections import deque
from collections.abc import Callable
from functools import cache
from struct import Struct
from typing import Any

from ratifyd.errors import Code
from ratifyd.wire import frames
from ratifyd.wire.answers import AnsweringConnection
from ratifyd.wire.events import Call, Event, HalfClosed, HttpRequest, Message, Opened, Reset
from ratifyd.wire.firstblocks import FirstBlocks
from ratifyd.wire.frames import ErrorCode
from ratifyd.wire.gzipped import GZIP, Unreadable, gunzip
from ratifyd.wire.h2 import FRAME_HANDLERS, Counts, Traffic
from ratifyd.wire.headers import (
    Head,
    HttpHead,
    MalformedRequest,
    Refusal,
    Request,
    check_trailers,
    parse_request,
    refusal_block,
    with_timeout,
)
from ratifyd.wire.hpack import Entry, HpackError
from ratifyd.wire.limits import Limits
from ratifyd.wire.stream import WHOLE, Stream, TokenBucket

__all__ = ["GrpcConnection"]

_CACHED_BLOCKS = 128
_REMEMBERED_GAPS = 256
_FIELD_OVERHEAD_BYTES = 32  # RFC 9113 §6.5.2
_CACHED_BLOCK_BYTES = 2_048
_CACHED_SHAPES = 128
_CACHED_SHAPE_FIELDS = 64
_CACHED_SHAPE_BYTES = 8_192

_FIRST_BLOCKS = FirstBlocks()
_frame_header = frames.FRAME_HEADER.unpack_from
_message_header = frames.MESSAGE_FRAME_HEADER.unpack_from
_message_prefix = frames.MESSAGE_PREFIX.unpack_from
_tuple = tuple.__new__
"""Makes a Call or a Message of a tuple, in a third of the time."""

_Shape = tuple[bytes, Callable[[bytes, int], tuple[Any, ...]], int]


@cache
def _whole_shape(block_bytes: int) -> _Shape:
    """Of whole requests with so long a header block: how they begin, what reads all before the message, its length."""
    fields = Struct(f">5sI{block_bytes}sIBIBI")
    begin = frames.frame(frames.HEADERS, frames.END_HEADERS, 0, bytes(block_bytes))[:5]
    return begin, fields.unpack_from, fields.size


_NO_SHAPE = (*_whole_shape(0)[:2], 1 << 62)
"""Fits no request."""
_SHORT_BLOCK_BYTES = 128


class GrpcConnection(AnsweringConnection):
    """Sans-IO server end of one HTTP/2 connection. Call `data_to_send` after `receive` and after replying."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_frames",
        "_block_id",
        "_blocks",
        "_careful",
        "_expansion",
        "_fresh",
        "_pending",
        "_preface_seen",
        "_shapes",
        "_usual",
    )

    def __init__(self, limits: Limits, traffic: Traffic | None = None) -> None:
        super().__init__(limits, traffic or Counts())
        self._pending = b""
        self._preface_seen = False
        self._careful = True
        """Every frame goes through `_frame`: no SETTINGS yet, or inside a header block."""
        self._block: bytearray | None = None
        self._block_id = 0
        self._block_flags = 0
        self._block_frames = 0
        self._fresh: list[int] = []
        self._blocks: dict[bytes, Head] = {}
        self._shapes: dict[tuple[Entry, ...], Head] = {}
        self._expansion: TokenBucket | None = None  # full until it is needed
        self._usual = _NO_SHAPE
        """What the last request was like, if it came whole."""

    # -- receiving ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float = 0.0) -> list[Event]:
        """Read what the peer sent, at monotonic time `now` in seconds. Never raises on what is in it."""
        if self.closed:
            return []
        self._now = now
        events: list[Event] = []
        self._events = events
        if self._pending:
            data = self._pending + data
        pos = 0
        if not self._preface_seen:
            pos = self._skip_preface(data)
        if self._preface_seen:
            pos = self._read_frames(data, self._read_alike(data, pos))
        self._pending = b"" if self.closed else data[pos:]
        if self._fresh:
            self._announce_fresh()
        if self._received * 2 >= self._connection_receive_window and not self.closed:
            self._acknowledge_received()
        return events

    def _skip_preface(self, data: bytes) -> int:
        """RFC 9113 §3.4."""
        preface = frames.PREFACE
        if not preface.startswith(data[: len(preface)]):
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "connection preface")
            return 0
        if len(data) < len(preface):
            return 0
        self._preface_seen = True
        return len(preface)

    def _read_frames(self, data: bytes, pos: int) -> int:
        """Read the complete frames of `data` from `pos`; returns where the rest begins."""
        events, streams, cached = self._events, self._streams, self._blocks.get
        max_word, max_message = self.limits.max_frame_bytes << 8 | 0xFF, self.limits.max_message_bytes
        received, messages, end = 0, 0, len(data)
        while pos + 9 <= end:
            word, flags, stream_id = _frame_header(data, pos)
            start = pos + 9
            stop = start + (word >> 8)
            if stop > end or word > max_word:
                if word > max_word:
                    self._connection_error(ErrorCode.FRAME_SIZE_ERROR, "frame too large")
                break
            pos = stop
            kind = word & 0xFF
            if kind == 1:
                room = len(streams) < self._max_streams and not self._careful
                if room and flags == 4 and stream_id == self._last_id + 2:
                    block = data[start:stop]
                    self._last_id = stream_id
                    head = cached(block) or self._uncached_head(stream_id, block)
                    if head is None:
                        if self.closed:
                            break
                        continue
                    if stop + 14 <= end:  # has the whole request arrived?
                        word, flags, other_id, compressed, size = _message_header(data, stop)
                        pos = stop + 14 + size
                        exact = word == size + 5 << 8 and size <= max_message and not compressed
                        here = flags == 1 and other_id == stream_id and pos <= end and word <= max_word
                        if exact and here and (head.content_length < 0 or head.content_length == size + 5):
                            received += size + 5
                            messages += 1
                            streams[stream_id] = WHOLE
                            events.append(_tuple(Call, (stream_id, head, data[stop + 14 : pos])))
                            pos = self._read_alike(data, pos, len(block))
                            continue
                        pos = stop
                    streams[stream_id] = head
                    self._fresh.append(stream_id)
                    continue
            elif kind == 0 and flags == 1 and word >= 0x500 and not self._careful:
                stream = streams.get(stream_id)
                if type(stream) is Head:
                    compressed, size = _message_prefix(data, start)
                    exact = word == size + 5 << 8 and size <= max_message and not compressed
                    if exact and (stream.content_length < 0 or stream.content_length == size + 5):
                        received += size + 5
                        messages += 1
                        streams[stream_id] = WHOLE
                        events.append(_tuple(Call, (stream_id, stream, data[start + 5 : stop])))
                        continue
            elif kind == 0 and not flags and word >= 0x500 and not self._careful:
                stream = streams.get(stream_id)
                if type(stream) is Stream and stream.flowing and not stream.buffer:
                    compressed, size = _message_prefix(data, start)
                    if word == size + 5 << 8 and size <= max_message and not compressed:
                        received += size + 5
                        messages += 1
                        stream.unacknowledged += size + 5
                        if stream.unacknowledged * 2 >= self._stream_receive_window:
                            self._reopen_stream_window(stream, 0)
                        events.append(_tuple(Message, (stream_id, data[start + 5 : stop])))
                        continue
            self._frame(kind, flags, stream_id & frames.MAX_STREAM_ID, data[start:stop])
            if self.closed:
                break
        self._received += received
        self.traffic.client_received_bytes_total += received - 5 * messages
        return pos

    def _read_alike(self, data: bytes, pos: int, block_bytes: int = 0) -> int:
        """Read requests from `pos` that are whole and begin as the last one did; returns where anything else begins.

        That one, if it was not read here, had a header block of `block_bytes`. Others are left to `_read_frames`,
        whatever is wrong with them.
        """
        if block_bytes:
            self._usual = _whole_shape(block_bytes) if block_bytes <= _SHORT_BLOCK_BYTES else _NO_SHAPE
        begin, read_heads, heads = self._usual
        first = pos
        start, end = pos + heads, len(data)
        if start > end:
            return pos
        events, streams, max_streams = self._events, self._streams, self._max_streams
        cached = self._blocks.get
        max_size = min(self.limits.max_frame_bytes - 5, self.limits.max_message_bytes)
        last_id, count, received = self._last_id, 0, 0
        while start <= end:
            begins, stream_id, block, word, flags, other_id, compressed, size = read_heads(data, pos)
            stop = start + size
            if (
                begins != begin
                or flags != 1
                or not stream_id == other_id == last_id + 2
                or word != size + 5 << 8
                or compressed
                or size > max_size
                or stop > end
                or len(streams) >= max_streams
                or (head := cached(block)) is None
                or head.content_length not in (-1, size + 5)
            ):
                break
            last_id = stream_id
            count += 1
            received += size
            streams[stream_id] = WHOLE
            events.append(_tuple(Call, (stream_id, head, data[start:stop])))
            pos = stop
            start = pos + heads
        if pos != first:
            self._last_id = last_id
            self._received += received + 5 * count
            self.traffic.client_received_bytes_total += received
        return pos

    def _uncached_head(self, stream_id: int, block: bytes) -> Head | None:
        """The head of a new request whose block is not in the cache; None when anything is unusual (and dealt with)."""
        decoder = self._decoder
        first = _FIRST_BLOCKS.take(block, decoder, self.limits.max_header_list_bytes)
        if first is not None:
            known = self._shapes[first.fields] = first.request()
            return known
        fresh, generation = decoder.is_fresh, decoder.generation
        try:
            fields, timeout = decoder.decode(block)
        except HpackError as error:
            self._connection_error(ErrorCode.COMPRESSION_ERROR, str(error))
            return None
        if timeout is not None and decoder.generation != generation:  # a call like others but for its timeout
            key = tuple(fields)
            shape = self._shapes.get(key)
            if shape is not None and (head := with_timeout(shape, timeout)) is not None:
                if shape.route is None:
                    self._shapes[key] = head  # the session will have set its route by the next time
                if self._blocks:
                    self._blocks.clear()
                return head
        request = self._request(stream_id, block, fields, timeout, stable=decoder.generation == generation)
        if type(request) is Head:
            if fresh:
                _FIRST_BLOCKS.keep(block, decoder, fields, request)
            return request
        if request is not None:
            self._begin(stream_id, request, end_stream=False)
        return None

    def _request(
        self, stream_id: int, block: bytes, fields: list[Entry], timeout: bytes | None, *, stable: bool
    ) -> Request | None:
        """Judge a request's fields; None after an error. `stable`: the block left the header table alone."""
        if len(fields) * _FIELD_OVERHEAD_BYTES > self.limits.max_header_list_bytes:
            # Too many whatever is in them: a bomb of one-byte references, of which a reset would only invite more.
            self._connection_error(ErrorCode.ENHANCE_YOUR_CALM, "too many header fields")
            return None
        shape = self._shapes.get(tuple(fields))
        request: Request | None = shape
        if shape is not None and timeout is not None:
            request = with_timeout(shape, timeout)
        if request is None:
            request = self._parse_request(stream_id, fields, timeout)
        if not stable:
            self._blocks.clear()
        elif type(request) is Head and len(block) <= _CACHED_BLOCK_BYTES:
            if len(self._blocks) >= _CACHED_BLOCKS:
                self._blocks.clear()
            self._blocks[block] = request
        return request

    def _parse_request(self, stream_id: int, fields: list[Entry], timeout: bytes | None) -> Request | None:
        size = sum(field.size for field in fields) + len(timeout or b"")
        if size > self.limits.max_header_list_bytes:
            self._stream_error(stream_id, ErrorCode.FRAME_SIZE_ERROR)  # grpc-go's code for it
            return None
        try:
            request = parse_request(fields, timeout)
        except MalformedRequest:
            self._stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)
            return None
        if type(request) is Head and size <= _CACHED_SHAPE_BYTES and len(fields) <= _CACHED_SHAPE_FIELDS:
            if len(self._shapes) >= _CACHED_SHAPES:
                self._shapes.clear()
            self._shapes[tuple(fields)] = request
        return request

    def _begin(self, stream_id: int, request: Request, *, end_stream: bool) -> None:
        """Open a stream that is not the fast path's, or answer it at once."""
        if isinstance(request, Refusal):
            self._refuse(stream_id, request, end_stream=end_stream)
            return
        if type(request) is Head and not end_stream:
            self._streams[stream_id] = request
        else:
            stream = Stream(stream_id, request, self._peer_window)
            stream.fresh = True
            self._streams[stream_id] = stream
            if end_stream:
                self._half_close(stream)
                return
        if type(request) is Head:
            self._fresh.append(stream_id)

    def _refuse(self, stream_id: int, refusal: Refusal, *, end_stream: bool) -> None:
        block = refusal_block(refusal)
        answer = frames.headers_frames(stream_id, block, end_stream=True, max_frame_bytes=self._peer_frame_bytes)
        self._queue_control(self._in_step(answer))
        if not end_stream:
            self._out.append(frames.rst_stream_frame(stream_id, ErrorCode.NO_ERROR))
            self._remember_reset(stream_id)

    def _announce_fresh(self) -> None:
        """After a read: tell of the streams that began in it and are not whole yet."""
        for stream_id in self._fresh:
            stream = self._streams.get(stream_id)
            if type(stream) is Head:
                stream = self._promote(stream_id, stream)
            if type(stream) is Stream and stream.fresh:
                self._announce(stream)
        self._fresh.clear()

    def _announce(self, stream: Stream) -> None:
        stream.fresh = False
        assert type(stream.head) is Head
        stream.flowing = stream.expected < 0 and not stream.remote_closed
        self._events.append(Opened(stream.id, stream.head))
        if stream.held is not None:
            self._events.append(Message(stream.id, stream.held))
            stream.held = None

    # -- frames off the fast path ---------------------------------------------------------------------------------

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Any frame, in any state."""
        self._usual = _NO_SHAPE
        if self._block is not None:
            if kind != frames.CONTINUATION or stream_id != self._block_id:
                self._connection_error(ErrorCode.PROTOCOL_ERROR, "header block interrupted")
            else:
                self._on_continuation(flags, payload)
        elif not self._settings_seen and (kind != frames.SETTINGS or flags & frames.ACK):
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "SETTINGS expected")
        elif kind == frames.DATA:
            self._on_data(flags, stream_id, payload)
        elif kind == frames.HEADERS:
            self._on_headers(flags, stream_id, payload)
        elif (handler := FRAME_HANDLERS.get(kind)) is not None:
            handler(self, flags, stream_id, payload)
        else:
            self._charge_idle_frame()
        self._careful = self._block is not None or not self._settings_seen

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.2."""
        if not stream_id & 1:
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that is not the client's")
            return
        block = self._unpadded(flags, payload)
        if block is not None and flags & frames.PRIORITY_FLAG:
            if len(block) < 5:
                self._connection_error(ErrorCode.FRAME_SIZE_ERROR, "HEADERS size")
                return
            if frames.parse_word(block[:4]) & frames.MAX_STREAM_ID == stream_id:
                self._connection_error(ErrorCode.PROTOCOL_ERROR, "stream depends on itself")
                return
            block = block[5:]
        if block is None:
            return
        if flags & frames.END_HEADERS:
            self._on_block(flags, stream_id, block)
        else:
            self._block = bytearray(block)
            self._block_id = stream_id
            self._block_flags = flags
            self._block_frames = 0

    def _unpadded(self, flags: int, payload: bytes) -> bytes | None:
        """Payload without padding; None after an error (RFC 9113 §6.1)."""
        if not flags & frames.PADDED:
            return payload
        if not payload:
            self._connection_error(ErrorCode.FRAME_SIZE_ERROR, "padding length missing")
            return None
        if payload[0] >= len(payload):
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "padding exceeds the frame")
            return None
        return payload[1 : len(payload) - payload[0]]

    def _on_continuation(self, flags: int, payload: bytes) -> None:
        """RFC 9113 §6.10, bounded in frames and bytes (§10.5.1)."""
        block = self._block
        assert block is not None
        block += payload
        self._block_frames += 1
        limits = self.limits
        if self._block_frames > limits.max_continuation_frames or len(block) > limits.max_header_block_bytes:
            self._connection_error(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        elif flags & frames.END_HEADERS:
            self._block = None
            self._on_block(self._block_flags, self._block_id, bytes(block))

    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        """A complete header block: a new request, trailers, or something on a closed stream."""
        end_stream = bool(flags & frames.END_STREAM)
        stream = self._streams.get(stream_id)
        if stream is not None or stream_id <= self._last_id:
            fields = self._decode(block)
            if fields is None:
                return
            if stream is not None:
                self._on_trailers(stream_id, stream, fields[0], end_stream=end_stream)
            elif not self._was_reset(stream_id):
                skipped = any(first <= stream_id <= last for first, last in self._gaps or ())
                code = ErrorCode.PROTOCOL_ERROR if skipped else ErrorCode.STREAM_CLOSED  # §5.1.1, §5.1
                self._connection_error(code, "HEADERS on a closed stream")
            return
        if stream_id > self._last_id + 2:
            if self._gaps is None:
                self._gaps = deque(maxlen=_REMEMBERED_GAPS)
            self._gaps.append((self._last_id + 2, stream_id - 2))
            self._skipped += (stream_id - self._last_id) // 2 - 1
        self._last_id = stream_id
        if self.draining or len(self._streams) >= self._max_streams:
            self._decline(stream_id, block)
            return
        fields = self._decode(block)
        if fields is None:
            return
        request = self._request(stream_id, block, *fields, stable=False)
        if request is not None:
            self._begin(stream_id, request, end_stream=end_stream)

    def _decode(self, block: bytes) -> tuple[list[Entry], bytes | None] | None:
        """Decode a block that is not cached; None after an error."""
        try:
            return self._decoder.decode(block)
        except HpackError as error:
            self._connection_error(ErrorCode.COMPRESSION_ERROR, str(error))
            return None
        finally:
            self._blocks.clear()

    def _decline(self, stream_id: int, block: bytes) -> None:
        """A stream above the limit, or begun after our final GOAWAY: the client may retry it elsewhere."""
        if self._decode(block) is None:
            return
        self._remember_reset(stream_id)
        if not self.draining:
            self._queue_control(frames.rst_stream_frame(stream_id, ErrorCode.REFUSED_STREAM))
        self._charge_idle_frame()

    def _on_trailers(self, stream_id: int, stream: Stream | Head, fields: list[Entry], *, end_stream: bool) -> None:
        """RFC 9113 §8.1: a second header block must end the stream. Its content means nothing in gRPC requests."""
        if type(stream) is Head:
            stream = self._promote(stream_id, stream)
        assert type(stream) is Stream
        if stream is WHOLE or stream.remote_closed:
            self._stream_error(stream_id, ErrorCode.STREAM_CLOSED)
            return
        try:
            check_trailers(fields)
        except MalformedRequest:
            end_stream = False
        if end_stream:
            self._half_close(stream)
        else:
            self._stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.1."""
        size = len(payload)
        self._received += size
        if self._is_idle(stream_id):
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "DATA on an idle stream")
            return
        content = self._unpadded(flags, payload)
        if content is None:
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if not content:  # what has some may be much of what a client sent before it heard; windows bound it
                self._charge_idle_frame()
            if not self._was_reset(stream_id):
                self._connection_error(ErrorCode.STREAM_CLOSED, "DATA on a closed stream")
            return
        if type(stream) is Head:
            stream = self._promote(stream_id, stream)
        assert type(stream) is Stream
        if stream is WHOLE or stream.remote_closed:
            self._stream_error(stream_id, ErrorCode.STREAM_CLOSED)
            return
        end_stream = bool(flags & frames.END_STREAM)
        if not content and not end_stream:
            self._charge_idle_frame()
        if stream.expected >= 0:
            stream.expected -= len(content)
            if stream.expected < 0:
                self._stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)  # §8.1.1, content-length
                return
        if end_stream:
            stream.remote_closed = True
            stream.flowing = False
        else:
            self._reopen_stream_window(stream, size)
        if content and not stream.last_frame:
            self._take_content(stream, content)
        if end_stream and self._streams.get(stream_id) is stream:
            self._half_close(stream)

    def _take_content(self, stream: Stream, content: bytes) -> None:
        """Add DATA content to a stream; what stays buffered counts for the whole connection."""
        buffer = stream.buffer
        self._buffered -= len(buffer)
        stream.buffer = bytearray()
        if type(stream.head) is Head:
            self._take_messages(stream, stream.head.encoding, buffer, content)
        else:
            buffer += content
        if stream.id not in self._streams or stream.last_frame:
            return
        stream.buffer = buffer
        self._buffered += len(buffer)
        if type(stream.head) is HttpHead and len(buffer) > self.limits.max_http_body_bytes:
            self.respond(stream.id, 413, (), b"")
        elif self._buffered > self.limits.max_buffered_bytes:
            self._stream_error(stream.id, ErrorCode.ENHANCE_YOUR_CALM)

    def _take_messages(self, stream: Stream, encoding: bytes, buffer: bytearray, content: bytes) -> None:
        """Cut gRPC messages out of a stream's buffer and new content; the unfinished rest stays in the buffer.

        Those of an encoding that is not known are handed out as they are: the session will not have them.
        """
        source: bytes | bytearray = content
        if buffer:
            buffer += content
            source = buffer
        pos = 0
        end = len(source)
        while end - pos >= 5:
            compressed, size = _message_prefix(source, pos)
            if size > self.limits.max_message_bytes or compressed > (1 if encoding else 0):
                self._refuse_message(stream, compressed, size)
                return
            stop = pos + 5 + size
            if stop > end:
                break
            message = bytes(memoryview(source)[pos + 5 : stop])
            if compressed and encoding == GZIP:
                expanded = self._expand(stream, message)
                if expanded is None:
                    return
                message = expanded
            self._take_message(stream, message)
            pos = stop
        if source is buffer:
            del buffer[:pos]
        else:
            buffer += content[pos:]

    def _take_message(self, stream: Stream, message: bytes) -> None:
        self.traffic.client_received_bytes_total += len(message)
        if stream.fresh:
            if stream.held is None:
                stream.held = message
                return
            self._announce(stream)
        self._events.append(Message(stream.id, message))

    def _expand(self, stream: Stream, message: bytes) -> bytes | None:
        """What was compressed; None when the stream has been answered instead.

        A few bytes may become many: what does is bounded in a connection's burst and rate, for the memory and the time.
        """
        limits = self.limits
        if self._expansion is None:
            self._expansion = TokenBucket(limits.expansion_burst_bytes, limits.expansion_refill_bytes_per_s)
        most = min(limits.max_message_bytes, limits.expansion_burst_bytes)
        if not self._expansion.take(self._now, most):
            self._answer(stream, Code.RESOURCE_EXHAUSTED, "too much compressed data")
            return None
        try:
            expanded = gunzip(message, limits.max_message_bytes)
        except Unreadable as error:
            self._answer(stream, error.code, str(error))
            return None
        self._expansion.give(most - max(len(expanded) - len(message), 0))
        return expanded

    def _refuse_message(self, stream: Stream, compressed: int, size: int) -> None:
        limit = self.limits.max_message_bytes
        if size > limit:
            self._answer(
                stream, Code.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {limit})"
            )
        elif compressed == 1:
            self._answer(stream, Code.INTERNAL, "grpc: compressed flag set with identity or empty encoding")
        else:
            self._answer(stream, Code.INTERNAL, f"grpc: received unexpected payload format {compressed}")

    def _answer(self, stream: Stream, code: int, text: str) -> None:
        """Fail a stream in the session's place; a session that knows of it is told by Reset(NO_ERROR)."""
        if not stream.fresh:
            self._events.append(Reset(stream.id, ErrorCode.NO_ERROR))
        self.fail(stream.id, code, text)

    def _half_close(self, stream: Stream) -> None:
        """The client has sent everything."""
        stream.remote_closed = True
        stream.flowing = False
        head = stream.head
        if stream.expected > 0:
            self._stream_error(stream.id, ErrorCode.PROTOCOL_ERROR)
        elif type(head) is HttpHead:
            stream.fresh = False
            body = bytes(stream.buffer)
            self._buffered -= len(body)
            stream.buffer.clear()
            self._events.append(HttpRequest(stream.id, head.method, head.path, head.headers, body))
        elif stream.last_frame:
            return
        elif stream.buffer:
            self._answer(stream, Code.INTERNAL, "unexpected EOF")
        elif stream.fresh and stream.held is not None:
            assert type(head) is Head
            self._events.append(Call(stream.id, head, stream.held))
            stream.fresh = False
            stream.held = None
            if stream.window == self._peer_window:
                self._streams[stream.id] = WHOLE
        else:
            if stream.fresh:
                self._announce(stream)
            self._events.append(HalfClosed(stream.id))
