"""The connection level of HTTP/2 (RFC 9113), server role: settings, pings, shutdown, flow control, sending.

Subclassed by `GrpcConnection`, which reads frames, opens streams and knows gRPC. Nothing raises on what a peer sends:
a connection error queues GOAWAY and sets `closed`; a stream error queues RST_STREAM. Peer-caused output is bounded.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from functools import lru_cache
from struct import Struct
from typing import Protocol

from ratifyd.wire import frames
from ratifyd.wire.events import Event, Ponged, Reset, Writable
from ratifyd.wire.frames import ErrorCode, Setting
from ratifyd.wire.headers import Head
from ratifyd.wire.hpack import DEFAULT_TABLE_BYTES, Decoder
from ratifyd.wire.limits import UNLIMITED_STREAMS, Limits
from ratifyd.wire.stream import WHOLE, Stream, TokenBucket

_GO_AWAY_PING = b"\1\6\1\x08\0\3\3\x09"
_KEEPALIVE_PING = b"ratifyd\0"
_SMALL_FRAME = Struct(">IBI")
_REMEMBERED_RESETS = 4_096
_STREAMS_AN_IDLE_FRAME = 20
"""Streams whose window a SETTINGS frame may change for the price of one idle frame."""
_LARGEST_QUICK_REPLY = 65_536
_NEVER = float("-inf")
_NONE_WAITING: "OrderedDict[int, Stream]" = OrderedDict()
"""Until there are any, all connections share it."""


class Traffic(Protocol):
    """Bytes of gRPC messages, without prefixes, of any number of connections."""

    client_received_bytes_total: int
    client_sent_bytes_total: int


class Counts:
    """The traffic of a connection on its own."""

    __slots__ = ("client_received_bytes_total", "client_sent_bytes_total")

    def __init__(self) -> None:
        self.client_received_bytes_total = 0
        self.client_sent_bytes_total = 0


class Http2Connection:
    """State of one connection and its stream-independent frames."""

    __slots__ = (
        "_buffered",
        "_connection_receive_window",
        "_control_frames",
        "_credited",
        "_decoder",
        "_events",
        "_forgive_pings",
        "_forgotten_id",
        "_gaps",
        "_going_away",
        "_idle_frames",
        "_last_id",
        "_last_ping",
        "_max_streams",
        "_now",
        "_out",
        "_peer_frame_bytes",
        "_peer_window",
        "_ping_strikes",
        "_received",
        "_remembered_resets",
        "_reply_room",
        "_resets",
        "_send_window",
        "_settings_seen",
        "_skipped",
        "_spoiled",
        "_stream_receive_window",
        "_streams",
        "_table_shrunk",
        "_unread",
        "_waiting",
        "closed",
        "draining",
        "limits",
        "queued",
        "refused",
        "stalled",
        "traffic",
    )

    def __init__(self, limits: Limits, traffic: Traffic) -> None:
        self.limits = limits
        self.closed = False
        """Nothing more will be read; close the transport once the output is written."""
        self.draining = False
        """The final GOAWAY is out: no new streams, `closed` when the open ones end."""
        self.traffic = traffic
        self.stalled = False
        """The connection below takes no more for now: what was handed to it counts as unread."""
        self.queued = 0
        """Bytes that wait for a window."""
        self.refused: list[int] = []
        """Streams ended here because their client does not read. Whoever knows of them takes them out."""
        self._unread = 0  # large answers handed out since everything was taken
        self._now = 0.0
        self._events: list[Event] = []
        self._control_frames = 0
        self._streams: dict[int, Stream | Head] = {}
        self._max_streams = limits.max_concurrent_streams
        self._last_id = -1
        self._gaps: deque[tuple[int, int]] | None = None
        self._remembered_resets: dict[int, None] = {}
        self._forgotten_id = 0
        self._settings_seen = False
        self._going_away = False
        self._skipped = 0
        self._spoiled = 0
        self._credited = 0
        self._decoder = Decoder(limits.header_table_bytes)
        self._resets: TokenBucket | None = None  # both are full until they are needed
        self._idle_frames: TokenBucket | None = None

        self._last_ping = _NEVER
        self._ping_strikes = 0
        self._forgive_pings = False

        self._stream_receive_window = max(limits.stream_window_bytes, frames.DEFAULT_WINDOW)
        self._connection_receive_window = max(limits.connection_window_bytes, frames.DEFAULT_WINDOW)
        self._received = 0
        self._buffered = 0

        self._peer_window = frames.DEFAULT_WINDOW
        self._peer_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self._reply_room = frames.DEFAULT_FRAME_BYTES
        self._table_shrunk = False  # by the peer, and our next header block has to say so
        self._send_window = frames.DEFAULT_WINDOW
        self._waiting = _NONE_WAITING  # by id: streams that wait for _send_window
        self._out: list[bytes | memoryview] = [
            _preface(
                limits.max_frame_bytes,
                self._stream_receive_window,
                limits.max_header_list_bytes,
                limits.max_concurrent_streams,
                limits.header_table_bytes,
                self._connection_receive_window,
            )
        ]

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` has something."""
        return bool(self._out)

    @property
    def open_streams(self) -> int:
        """Streams not yet answered to the end."""
        return len(self._streams)

    def data_to_send(self) -> bytes:
        """Take everything queued for the peer."""
        data = b"".join(self._out)
        self._out.clear()
        self._control_frames = 0
        if not self.stalled:
            self._unread = 0
        if self.draining and not self._streams:
            self.closed = True
        return data

    def caught_up(self) -> None:
        """The connection below has passed on what was handed to it, and takes more."""
        self.stalled = False
        self._unread = 0

    def go_away(self) -> None:
        """Shut down gracefully (RFC 9113 §6.8): warn, wait for the peer's PING answer, then refuse new streams.

        A second call does not wait for the answer. `closed` is set once all streams have ended.
        """
        if self.closed or self.draining:
            return
        if self._going_away:
            self._stop_accepting()
            return
        self._going_away = True
        self._out.append(frames.goaway_frame(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR, b"graceful_stop"))
        self._out.append(frames.frame(frames.PING, 0, 0, _GO_AWAY_PING))

    def _stop_accepting(self) -> None:
        self.draining = True
        self._max_streams = 0
        self._out.append(frames.goaway_frame(max(self._last_id, 0), ErrorCode.NO_ERROR, b"graceful_stop"))

    def ping(self) -> None:
        """Ask the peer for a sign of life; the answer is the event `Ponged`."""
        if not self.closed:
            self._out.append(frames.frame(frames.PING, 0, 0, _KEEPALIVE_PING))

    def reset(self, stream_id: int, code: int) -> None:
        """Give up a stream (RST_STREAM) and forget what it had queued."""
        if self._drop(stream_id) is not None:
            self._out.append(frames.rst_stream_frame(stream_id, code))
            self._remember_reset(stream_id)

    def is_open(self, stream_id: int) -> bool:
        """Whether a stream has not been answered to its end, nor reset."""
        return stream_id in self._streams

    def queued_bytes(self, stream_id: int) -> int:
        """Bytes of a stream not yet sent for lack of window."""
        stream = self._streams.get(stream_id)
        return stream.queued if type(stream) is Stream else 0

    def _drop(self, stream_id: int) -> Stream | Head | None:
        """Forget a stream and everything it holds."""
        stream = self._streams.pop(stream_id, None)
        if type(stream) is Stream:
            self._waiting.pop(stream_id, None)
            self._buffered -= len(stream.buffer)
            self.queued -= stream.queued
        return stream

    # -- errors ---------------------------------------------------------------------------------------------------

    def _connection_error(self, code: ErrorCode, debug: str) -> None:
        if self.closed:
            return
        self.closed = True
        self._out.append(frames.goaway_frame(max(self._last_id, 0), code, debug.encode()))

    def _stream_error(self, stream_id: int, code: ErrorCode) -> None:
        """RST_STREAM for a fault of the peer; charged like a reset of its own."""
        stream = self._drop(stream_id)
        self._queue_control(frames.rst_stream_frame(stream_id, code))
        self._remember_reset(stream_id)
        self._report_reset(stream_id, stream, code)
        self._charge_reset()

    def _report_reset(self, stream_id: int, stream: Stream | Head | None, code: int) -> None:
        """Tell the session, if it ever heard of the stream."""
        if type(stream) is Stream and not stream.fresh:
            self._events.append(Reset(stream_id, code))

    def _charge_reset(self) -> None:
        """Count a spoiled stream; every stream that ended otherwise has earned one (RFC 9113 §10.5, rapid reset)."""
        self._spoiled += 1
        answered = (self._last_id + 1) // 2 - self._skipped - self._spoiled - len(self._streams)
        limits, resets = self.limits, self._resets
        if resets is None:
            resets = self._resets = TokenBucket(limits.reset_burst, limits.reset_refill_per_s)
        if answered > self._credited:
            resets.give(answered - self._credited)
            self._credited = answered
        if not resets.take(self._now):
            self._connection_error(ErrorCode.ENHANCE_YOUR_CALM, "too many streams reset")

    def _charge_idle_frame(self, count: float = 1.0) -> None:
        limits, idle_frames = self.limits, self._idle_frames
        if idle_frames is None:
            idle_frames = self._idle_frames = TokenBucket(limits.idle_frame_burst, limits.idle_frame_refill_per_s)
        if not idle_frames.take(self._now, count):
            self._connection_error(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without content")

    def _queue_control(self, data: bytes) -> None:
        self._out.append(data)
        self._control_frames += 1
        if self._control_frames > self.limits.max_control_frames:
            self._connection_error(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames")

    def _remember_reset(self, stream_id: int) -> None:
        """Frames of a stream that was reset may still be under way; they are ignored (RFC 9113 §5.1, closed).

        There should be none of one that the client has reset, but etcd does not mind.
        """
        resets = self._remembered_resets
        resets[stream_id] = None
        if len(resets) > _REMEMBERED_RESETS:
            oldest = next(iter(resets))
            del resets[oldest]
            self._forgotten_id = max(self._forgotten_id, oldest)

    def _was_reset(self, stream_id: int) -> bool:
        return stream_id in self._remembered_resets or stream_id <= self._forgotten_id

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id > self._last_id or not stream_id & 1

    # -- connection frames ----------------------------------------------------------------------------------------

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.5."""
        if stream_id:
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        elif len(payload) % 6 or (flags & frames.ACK and payload):
            self._connection_error(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS size")
        elif not flags & frames.ACK:
            if self._settings_seen:  # the first are due
                self._charge_idle_frame()
            self._settings_seen = True
            window = self._peer_window
            for key, value in frames.parse_settings(payload):
                self._apply_setting(key, value)
            self._set_reply_room()
            self._queue_control(frames.SETTINGS_ACK)
            if self._peer_window > window:
                self._pump_streams()  # only now: before the ACK the peer holds us to its old windows and frame size

    def _set_reply_room(self) -> None:
        room = min(self._peer_window, self._peer_frame_bytes, _LARGEST_QUICK_REPLY)
        self._reply_room = -1 if self._table_shrunk else room

    def _apply_setting(self, key: int, value: int) -> None:
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                self._connection_error(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE")
                return
            self._change_stream_windows(value - self._peer_window)
            self._peer_window = value
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_BYTES <= value <= frames.MAX_FRAME_BYTES:
                self._connection_error(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE")
                return
            self._peer_frame_bytes = value
        elif key == Setting.HEADER_TABLE_SIZE:
            self._table_shrunk = self._table_shrunk or value < DEFAULT_TABLE_BYTES
        elif key == Setting.ENABLE_PUSH and value > 1:
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH")

    def _change_stream_windows(self, delta: int) -> None:
        """RFC 9113 §6.9.2. Streams without a `Stream` have sent nothing: their window is the peer's setting."""
        if not delta or not self._streams:
            return
        self._charge_idle_frame(len(self._streams) / _STREAMS_AN_IDLE_FRAME)
        for stream in list(self._streams.values()):
            if type(stream) is Stream and stream is not WHOLE:
                stream.window += delta
                if stream.window > frames.MAX_WINDOW:
                    self._connection_error(ErrorCode.FLOW_CONTROL_ERROR, "stream window overflow by SETTINGS")
                    return

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.7, with grpc-go's keepalive enforcement (gRFC A8)."""
        if stream_id:
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        elif len(payload) != 8:
            self._connection_error(ErrorCode.FRAME_SIZE_ERROR, "PING size")
        elif flags & frames.ACK:
            if payload == _KEEPALIVE_PING:
                self._events.append(Ponged())
            elif payload == _GO_AWAY_PING and self._going_away and not self.draining:
                self._stop_accepting()
        else:
            self._queue_control(frames.frame(frames.PING, frames.ACK, 0, payload))
            self._count_ping()

    def _count_ping(self) -> None:
        limits = self.limits
        previous = self._last_ping
        self._last_ping = self._now
        if self._forgive_pings:
            self._forgive_pings = False
            self._ping_strikes = 0
            return
        idle = not self._streams and not limits.permit_ping_without_stream
        interval = limits.idle_ping_interval_s if idle else limits.min_ping_interval_s
        if previous + interval > self._now:
            self._ping_strikes += 1
        if self._ping_strikes > limits.max_ping_strikes:
            self._connection_error(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.8. The client opens no more streams; it closes the connection when it is done."""
        if stream_id:
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        elif len(payload) < 8:
            self._connection_error(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY size")
        else:
            self._charge_idle_frame()

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.3: checked, otherwise ignored."""
        if not stream_id:
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        elif len(payload) != 5:
            self._priority_error(stream_id, ErrorCode.FRAME_SIZE_ERROR)
        elif frames.parse_word(payload[:4]) & frames.MAX_STREAM_ID == stream_id:
            self._priority_error(stream_id, ErrorCode.PROTOCOL_ERROR)
        else:
            self._charge_idle_frame()

    def _priority_error(self, stream_id: int, code: ErrorCode) -> None:
        if self._is_idle(stream_id):  # RST_STREAM must not name an idle stream (§6.4)
            self._connection_error(code, "PRIORITY on an idle stream")
        else:
            self._stream_error(stream_id, code)

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._connection_error(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _on_stray_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._connection_error(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.4."""
        if not stream_id or self._is_idle(stream_id):
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        elif len(payload) != 4:
            self._connection_error(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM size")
        elif (stream := self._drop(stream_id)) is None:
            self._charge_idle_frame()
        else:
            self._remember_reset(stream_id)
            self._report_reset(stream_id, stream, frames.parse_word(payload))
            self._charge_reset()

    # -- flow control ---------------------------------------------------------------------------------------------

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.9."""
        if len(payload) != 4:
            self._connection_error(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE size")
            return
        increment = frames.parse_word(payload) & frames.MAX_WINDOW
        if stream_id:
            self._update_stream_window(stream_id, increment)
        elif not increment:
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        else:
            self._send_window += increment
            if self._send_window > frames.MAX_WINDOW:
                self._connection_error(ErrorCode.FLOW_CONTROL_ERROR, "connection window overflow")
            else:
                self._pump_waiting()

    def _update_stream_window(self, stream_id: int, increment: int) -> None:
        if self._is_idle(stream_id):
            self._connection_error(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if not increment:
            self._stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        if type(stream) is Head or stream is WHOLE:
            stream = self._promote(stream_id, stream)
        assert type(stream) is Stream
        stream.window += increment
        if stream.window > frames.MAX_WINDOW:
            self._stream_error(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        elif stream.queue:
            self._pump(stream)

    def _promote(self, stream_id: int, stream: Stream | Head) -> Stream:
        """Give a stream known only by its head, or as WHOLE, a state of its own."""
        whole = stream is WHOLE
        promoted = Stream(stream_id, WHOLE.head if isinstance(stream, Stream) else stream, self._peer_window)
        promoted.remote_closed = whole
        promoted.fresh = not whole
        self._streams[stream_id] = promoted
        return promoted

    def _acknowledge_received(self) -> None:
        """After a read that has filled half of the connection's receive window or more: check it and reopen it."""
        if self._received > self._connection_receive_window:
            self._connection_error(ErrorCode.FLOW_CONTROL_ERROR, "connection window exceeded")
        else:
            self._out.append(frames.window_update_frame(0, self._received))
            self._received = 0

    def _reopen_stream_window(self, stream: Stream, size: int) -> None:
        """Give back `size` received bytes, before their message is complete: its limit, not the window, bounds memory.

        Windows thus never run dry, and the connection's window alone needs enforcing.
        """
        stream.unacknowledged += size
        if stream.unacknowledged * 2 >= self._stream_receive_window:
            self._out.append(frames.window_update_frame(stream.id, stream.unacknowledged))
            stream.unacknowledged = 0

    # -- sending --------------------------------------------------------------------------------------------------

    def _send_payload(self, stream: Stream, *payloads: bytes) -> None:
        """Send DATA payload as far as windows allow; queue the rest. What is large is not copied."""
        for payload in payloads:
            if payload:
                stream.queue.append(payload if len(payload) <= frames.DEFAULT_FRAME_BYTES else memoryview(payload))
                stream.queued += len(payload)
                self.queued += len(payload)
        if stream.id not in self._waiting:
            self._pump(stream)
        if stream.queued > self.limits.send_low_water_bytes:
            stream.wants_writable = True

    def _in_step(self, data: bytes) -> bytes:
        """Frames that are sent now. The first header block after the peer has shrunk its table says so (RFC 7541 §4.2).

        It says that we use none, which is less than any setting allows.
        """
        if self._table_shrunk and data[3] == frames.HEADERS:
            self._table_shrunk = False
            self._set_reply_room()
            return frames.with_table_update(data)
        return data

    def _finish_stream(self, stream: Stream, last_frame: bytes) -> None:
        """End a stream with `last_frame` once everything queued is sent."""
        stream.last_frame = last_frame
        stream.flowing = False
        if not stream.queue:
            self._end_stream(stream)

    def _end_stream(self, stream: Stream) -> None:
        self._out.append(self._in_step(stream.last_frame))
        self._drop(stream.id)
        if not stream.remote_closed:  # the answer did not need the rest of the request (RFC 9113 §8.1)
            self._out.append(frames.rst_stream_frame(stream.id, ErrorCode.NO_ERROR))
            self._remember_reset(stream.id)

    def _pump(self, stream: Stream) -> None:
        """Send what both windows allow of one stream's queue."""
        while stream.queue:
            if not self._send_chunk(stream):
                return
        self._drained(stream)

    def _pump_streams(self) -> None:
        """Send what wider windows allow. Costs by the stream: changes of windows are charged for."""
        if self.queued and not self.closed:
            for stream in list(self._streams.values()):
                if type(stream) is Stream and stream.queue:
                    self._pump(stream)

    def _pump_waiting(self) -> None:
        """Share a reopened connection window: one frame per stream and round."""
        waiting = self._waiting
        while waiting and self._send_window > 0:
            _, stream = waiting.popitem(last=False)
            if self._send_chunk(stream):
                if stream.queue:
                    waiting[stream.id] = stream
                else:
                    self._drained(stream)

    def _send_chunk(self, stream: Stream) -> bool:
        """Send one DATA frame of the queue; False when a window is shut (and the connection's is waited for)."""
        room = min(stream.window, self._send_window, self._peer_frame_bytes)
        if room <= 0:
            if stream.window > 0:
                if self._waiting is _NONE_WAITING:
                    self._waiting = OrderedDict()
                self._waiting[stream.id] = stream
            return False
        chunks = _take(stream, room)
        size = sum(map(len, chunks))
        stream.window -= size
        stream.queued -= size
        self.queued -= size
        self._unread += size
        self._send_window -= size
        self._forgive_pings = True
        self._out.append(_SMALL_FRAME.pack(size << 8 | frames.DATA, 0, stream.id))
        self._out += chunks
        if stream.wants_writable and stream.queued <= self.limits.send_low_water_bytes:
            stream.wants_writable = False
            if not stream.last_frame:
                self._events.append(Writable(stream.id))
        return True

    def _drained(self, stream: Stream) -> None:
        if stream.last_frame:
            self._end_stream(stream)


@lru_cache(maxsize=8)  # connections of one listener have the same limits
def _preface(
    frame_bytes: int, stream_window: int, header_list_bytes: int, streams: int, table_bytes: int, window: int
) -> bytes:
    """What a connection says first: its settings, and how wide its window is."""
    settings = {
        Setting.MAX_FRAME_SIZE: frame_bytes,
        Setting.INITIAL_WINDOW_SIZE: stream_window,
        Setting.MAX_HEADER_LIST_SIZE: header_list_bytes,
    }
    if streams < UNLIMITED_STREAMS:
        settings[Setting.MAX_CONCURRENT_STREAMS] = streams
    if table_bytes != DEFAULT_TABLE_BYTES:
        settings[Setting.HEADER_TABLE_SIZE] = table_bytes
    out = frames.settings_frame({int(key): value for key, value in settings.items()})
    extra = window - frames.DEFAULT_WINDOW
    return out + frames.window_update_frame(0, extra) if extra else out


def _take(stream: Stream, room: int) -> list[bytes | memoryview]:
    """Up to `room` bytes off a stream's queue, in pieces."""
    queue, offset = stream.queue, stream.offset
    chunks: list[bytes | memoryview] = []
    while queue and room:
        payload = queue[0]
        chunk = payload[offset : offset + room]
        room -= len(chunk)
        offset += len(chunk)
        if offset == len(payload):
            queue.popleft()
            offset = 0
        chunks.append(chunk)
    stream.offset = offset
    return chunks


FRAME_HANDLERS: dict[int, Callable[[Http2Connection, int, int, bytes], None]] = {
    frames.SETTINGS: Http2Connection._on_settings,
    frames.PING: Http2Connection._on_ping,
    frames.GOAWAY: Http2Connection._on_goaway,
    frames.WINDOW_UPDATE: Http2Connection._on_window_update,
    frames.RST_STREAM: Http2Connection._on_rst_stream,
    frames.PRIORITY: Http2Connection._on_priority,
    frames.PUSH_PROMISE: Http2Connection._on_push_promise,
    frames.CONTINUATION: Http2Connection._on_stray_continuation,
}
"""Frames that need no stream content, by type: called with the connection, flags, stream id and payload."""
