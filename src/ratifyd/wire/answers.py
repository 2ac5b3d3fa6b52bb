"""The sending half of a gRPC connection: replies, messages, statuses, and answers to plain HTTP requests.

Calls on streams that no longer exist are ignored: the client gave them up meanwhile.
"""

from collections.abc import Iterable, Sequence
from struct import Struct

from ratifyd.errors import Code
from ratifyd.wire import frames
from ratifyd.wire.frames import ErrorCode
from ratifyd.wire.h2 import Http2Connection
from ratifyd.wire.headers import OK_BLOCK, RESPONSE_BLOCK, status_block
from ratifyd.wire.hpack import encode_field
from ratifyd.wire.stream import WHOLE, Stream

# A whole reply around its message: HEADERS frame, DATA frame header and message prefix; then the trailers' frame.
_HEADERS_START = frames.frame(frames.HEADERS, frames.END_HEADERS, 0, RESPONSE_BLOCK)[:5]
_TRAILERS_START = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 0, OK_BLOCK)[:5]
_reply_start = Struct(f">5sI{len(RESPONSE_BLOCK)}sIBIBI").pack
_reply_end = Struct(f">5sI{len(OK_BLOCK)}s").pack
_message_header = frames.MESSAGE_FRAME_HEADER.pack


class AnsweringConnection(Http2Connection):
    """Adds everything a session sends."""

    __slots__ = ()

    def reply(self, stream_id: int, message: bytes) -> None:
        """Answer a call with one message and status OK."""
        length = len(message)
        size = length + 5
        if self._streams.get(stream_id) is WHOLE and size <= self._reply_room and size <= self._send_window:
            del self._streams[stream_id]
            self._send_window -= size
            self._forgive_pings = True
            self.traffic.client_sent_bytes_total += length
            self._out += (
                _reply_start(_HEADERS_START, stream_id, RESPONSE_BLOCK, size << 8, 0, stream_id, 0, length),
                message,
                _reply_end(_TRAILERS_START, stream_id, OK_BLOCK),
            )
        else:
            self.send_message(stream_id, message)
            self.finish(stream_id)

    def send_headers(self, stream_id: int) -> None:
        """Send response headers now rather than with the first message."""
        stream = self._sendable(stream_id)
        if stream is not None and not stream.headers_sent:
            self._send_headers(stream)

    def send_message(self, stream_id: int, message: bytes) -> None:
        """Send one message; it is queued while the client's windows are shut (see `queued_bytes`, `Writable`)."""
        stream = self._streams.get(stream_id)
        if type(stream) is not Stream or not stream.headers_sent or stream.last_frame:
            stream = self._sendable(stream_id)
            if stream is None:
                return
        if self.queued + self._unread > self.limits.max_unread_bytes and self._refuse_unread(stream):
            return
        if not stream.headers_sent:
            self._send_headers(stream)
        size = len(message) + 5
        self.traffic.client_sent_bytes_total += size - 5
        if size <= stream.window and size <= self._send_window and size <= self._peer_frame_bytes and not stream.queue:
            stream.window -= size
            self._send_window -= size
            self._unread += size
            self._forgive_pings = True
            self._out += (_message_header(size << 8, 0, stream_id, 0, size - 5), message)
        else:
            self._send_payload(stream, frames.MESSAGE_PREFIX.pack(0, size - 5), message)

    def send_each(self, stream_ids: Sequence[int], head: bytes, rests: Sequence[bytes]) -> None:
        """As `send_message` on each of some streams, one at least, of `head` and what follows it there."""
        start = len(head) + 5
        lengths = list(map(len, rests))
        total = start * len(rests) + sum(lengths)
        crowded = total > self._send_window or self.queued + self._unread + total > self.limits.max_unread_bytes
        if crowded or start + max(lengths) > self._peer_frame_bytes:
            for stream_id, rest in zip(stream_ids, rests):
                self.send_message(stream_id, head + rest)
            return
        self._send_window -= total
        self._unread += total
        self.traffic.client_sent_bytes_total += total - 5 * len(rests)
        self._forgive_pings = True
        streams, out = self._streams, self._out
        for stream_id, length, rest in zip(stream_ids, lengths, rests):
            stream = streams.get(stream_id)
            size = start + length
            if (
                type(stream) is Stream
                and stream.flowing
                and stream.headers_sent
                and size <= stream.window
                and not stream.queue
            ):
                stream.window -= size
                out += (_message_header(size << 8, 0, stream_id, 0, size - 5), head, rest)
            else:
                self._send_window += size
                self._unread -= size
                self.traffic.client_sent_bytes_total -= size - 5
                self.send_message(stream_id, head + rest)

    def send_alike(self, stream_id: int, head: bytes, middles: Sequence[bytes], tail: bytes) -> None:
        """As `send_message` for each of `middles`, all of one length, between `head` and `tail`; in common frames."""
        stream = self._sendable(stream_id)
        if stream is None or self._refuse_unread(stream):
            return
        if not stream.headers_sent:
            self._send_headers(stream)
        length = len(head) + len(middles[0]) + len(tail)
        self.traffic.client_sent_bytes_total += length * len(middles)
        head = frames.MESSAGE_PREFIX.pack(0, length) + head
        payload = head + (tail + head).join(middles) + tail
        size = len(payload)
        if size <= stream.window and size <= self._send_window and size <= self._peer_frame_bytes and not stream.queue:
            stream.window -= size
            self._send_window -= size
            self._unread += size
            self._forgive_pings = True
            self._out.append(frames.FRAME_HEADER.pack(size << 8, 0, stream_id))
            self._out.append(payload)
        else:
            self._send_payload(stream, payload)

    def reply_parts(self, stream_id: int, parts: Sequence[bytes]) -> None:
        """As `reply` with the parts joined, which they are not."""
        stream = self._sendable(stream_id)
        if stream is None or self._refuse_unread(stream):
            return
        if not stream.headers_sent:
            self._send_headers(stream)
        self._send_payload(stream, frames.MESSAGE_PREFIX.pack(0, sum(map(len, parts))), *parts)
        self.finish(stream_id)

    def finish(self, stream_id: int) -> None:
        """End a call with status OK, after what is queued."""
        stream = self._sendable(stream_id)
        if stream is not None:
            self._end_call(stream, OK_BLOCK)

    def fail(self, stream_id: int, code: int, message: str) -> None:
        """End a call with an error status, after what is queued."""
        stream = self._sendable(stream_id)
        if stream is not None:
            self._end_call(stream, status_block(code, message))

    def respond(
        self,
        stream_id: int,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        *,
        end: bool = True,
    ) -> None:
        """Answer an HttpRequest; with `end` False the body goes on with `send_body`. Names are lower case."""
        stream = self._sendable(stream_id)
        if stream is None or stream.headers_sent:
            return
        if self.queued + self._unread > self.limits.max_unread_bytes:
            status, headers, body, end = 503, (), b"", True
            self.refused.append(stream_id)
        block = encode_field(b":status", b"%d" % status)
        block += b"".join(encode_field(name, value) for name, value in headers)
        stream.headers_sent = True
        self._forgive_pings = True
        head = frames.headers_frames(stream_id, block, end_stream=False, max_frame_bytes=self._peer_frame_bytes)
        self._out.append(self._in_step(head))
        self.send_body(stream_id, body, end=end)

    def send_body(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send more of a response body begun by `respond`."""
        stream = self._sendable(stream_id)
        if stream is None:
            return
        if data and self.queued + self._unread > self.limits.max_unread_bytes:
            self.reset(stream_id, ErrorCode.ENHANCE_YOUR_CALM)
            self.refused.append(stream_id)
            return
        self._send_payload(stream, data)
        if end:
            self._finish_stream(stream, frames.frame(frames.DATA, frames.END_STREAM, stream_id, b""))

    def _sendable(self, stream_id: int) -> Stream | None:
        """State of a stream that may still be sent on."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return None
        if type(stream) is not Stream or stream is WHOLE:
            stream = self._promote(stream_id, stream)
        return None if stream.last_frame else stream

    def _refuse_unread(self, stream: Stream) -> bool:
        """Fail a stream instead of adding to what its client does not read; whether it was."""
        if self.queued + self._unread <= self.limits.max_unread_bytes:
            return False
        self._end_call(stream, status_block(Code.RESOURCE_EXHAUSTED, "too many answers wait to be read"))
        self.refused.append(stream.id)
        return True

    def _send_headers(self, stream: Stream) -> None:
        stream.headers_sent = True
        self._forgive_pings = True
        self._out.append(self._in_step(frames.frame(frames.HEADERS, frames.END_HEADERS, stream.id, RESPONSE_BLOCK)))

    def _end_call(self, stream: Stream, block: bytes) -> None:
        if not stream.headers_sent:
            stream.headers_sent = True
            block = RESPONSE_BLOCK + block
        self._forgive_pings = True
        last_frame = frames.headers_frames(stream.id, block, end_stream=True, max_frame_bytes=self._peer_frame_bytes)
        self._finish_stream(stream, last_frame)
