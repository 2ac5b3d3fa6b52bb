"""A client's connection to a member: bytes in both directions, late but in order, until somebody hangs up."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from ratifyd.api.session import Session
from ratifyd.wire.limits import Limits
from simulation.clock import SimClock
from simulation.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Answered,
    FrameReader,
    Metadata,
    frame,
    opening,
    request_block,
    wrap,
)

if TYPE_CHECKING:
    from simulation.machine import SimMember

LATENCY_S = 0.001
HIGH_WATER = 65536
_LIMITS = Limits()

Ended = Callable[[int, str], None]
"""Gets the gRPC status and its text; LOST when the connection went away."""
LOST = -1


class Stream:
    """One call: messages out and in, then the end."""

    def __init__(self, connection: Connection, stream_id: int, took: Callable[[bytes], None], ended: Ended) -> None:
        self._connection = connection
        self.id = stream_id
        self.took = took
        self.ended = ended
        self.answered = Answered()
        self.over = False

    def send(self, message: bytes) -> None:
        """Send a message."""
        if not self.over:
            self._connection.write(frame(DATA, 0, self.id, wrap(message)))

    def cancel(self) -> None:
        """Give the call up."""
        if not self.over:
            self.over = True
            self._connection.forget(self.id)
            self._connection.write(frame(RST_STREAM, 0, self.id, b"\0\0\0\x08"))


class _Link:
    """The server's end (`api.session.Link`)."""

    peer = "10.0.0.1:1"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def write(self, data: bytes) -> None:
        self._connection.written(data)

    def close(self) -> None:
        self._connection.hang_up()

    def abort(self) -> None:
        self._connection.hang_up()

    def pause_reading(self) -> None:
        """What a client of ours sends is small and has room."""

    def resume_reading(self) -> None:
        """As above."""

    def write_buffer_size(self) -> int:
        return self._connection.unread


class Connection:
    """One connection, from a client to one life of a member."""

    def __init__(self, clock: SimClock, random: Random, member: SimMember, lost: Callable[[], None]) -> None:
        """`lost` hears once of its end, unless the client closes it."""
        self._clock = clock
        self._random = random
        self.member = member
        self._lost = lost
        self._reader = FrameReader()
        self._streams: dict[int, Stream] = {}
        self._next_id = 1
        self._session: Session | None = None
        self._to_server = self._to_client = 0.0
        self.unread = 0
        self._high = False
        self._high_water = (member.options.watch_queue_bytes or 2 * HIGH_WATER) // 2
        self._stalled: list[bytes] | None = None
        self.over = False
        self.write(opening())

    def call(
        self, path: str, message: bytes, done: Callable[[int, str, bytes], None], metadata: Metadata = ()
    ) -> Stream:
        """A call with one message; `done(status, text, messages)`, which make one if there are several."""
        body: list[bytes] = []
        stream = self._open(path, body.append, lambda status, text: done(status, text, b"".join(body)))
        head = frame(HEADERS, END_HEADERS, stream.id, request_block(path, metadata))
        self.write(head + frame(DATA, END_STREAM, stream.id, wrap(message)))
        return stream

    def stream(self, path: str, took: Callable[[bytes], None], ended: Ended, metadata: Metadata = ()) -> Stream:
        """A call that stays open."""
        stream = self._open(path, took, ended)
        self.write(frame(HEADERS, END_HEADERS, stream.id, request_block(path, metadata)))
        return stream

    def _open(self, path: str, took: Callable[[bytes], None], ended: Ended) -> Stream:
        stream = self._streams[self._next_id] = Stream(self, self._next_id, took, ended)
        self._next_id += 2
        return stream

    def forget(self, stream_id: int) -> None:
        """Hear no more of a call."""
        self._streams.pop(stream_id, None)

    # --- towards the server ----------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if not self.over:
            self._to_server = self._later(self._to_server)
            self._clock.call_later(self._to_server - self._clock.now, self._arrive, data)

    def _arrive(self, data: bytes) -> None:
        if not self.over:
            self.member.clock.run(self._receive, data)

    def _receive(self, data: bytes) -> None:
        if self.over:
            return
        if self._session is None:
            member = self.member
            self._session = Session(member.server, member.routes, _LIMITS, _Link(self))
        self._session.receive(data)

    # --- towards the client ----------------------------------------------------------------------------------------

    def written(self, data: bytes) -> None:
        """The server has written."""
        self.unread += len(data)
        self._high = self._high or self.unread > self._high_water
        self._to_client = self._later(self._to_client)
        self._clock.call_later(self._to_client - self._clock.now, self._answered, data)

    def stall(self) -> None:
        """Stop reading."""
        if self._stalled is None:
            self._stalled = []

    def go_on(self) -> None:
        """Read again, what came meanwhile first."""
        stalled, self._stalled = self._stalled, None
        for data in stalled or ():
            self._answered(data)

    def _answered(self, data: bytes) -> None:
        if self.over:
            return
        if self._stalled is not None:
            self._stalled.append(data)
            return
        self.unread -= len(data)
        if self._high and not self.unread and self._session is not None:
            self._high = False
            self.member.clock.call_soon(self._resume)
        for kind, flags, stream_id, payload in self._reader.feed(data):
            stream = self._streams.get(stream_id)
            if stream is not None:
                self._take(stream, kind, flags, payload)

    def _resume(self) -> None:
        if self._session is not None:
            self._session.resume_writing()

    def _take(self, stream: Stream, kind: int, flags: int, payload: bytes) -> None:
        answered = stream.answered
        if kind == DATA:
            answered.data += payload
            for message in answered.take_messages():
                stream.took(message)
        elif kind == HEADERS:
            answered.take_headers(payload)
            if flags & END_STREAM:
                self._end(stream, answered.status or 0, answered.message)
        elif kind == RST_STREAM:
            self._end(stream, LOST, "reset")

    def _end(self, stream: Stream, status: int, text: str) -> None:
        if not stream.over:
            stream.over = True
            self.forget(stream.id)
            stream.ended(status, text)

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The client hangs up."""
        if not self.over:
            self.over = True
            self._streams.clear()
            self._clock.call_later(LATENCY_S, self.member.clock.run, self._closed)

    def hang_up(self) -> None:
        """The server, or the network, ends the connection; the client hears of it a little later."""
        if not self.over:
            self._clock.call_later(LATENCY_S, self.member.clock.run, self._closed)
            self._clock.call_later(LATENCY_S * (1 + 20 * self._random.random()), self._gone)

    def _gone(self) -> None:
        if self.over:
            return
        self.over = True
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.over = True
            stream.ended(LOST, "connection lost")
        self._lost()

    def _closed(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            session.closed()

    def _later(self, last: float) -> float:
        return max(self._clock.now + LATENCY_S * (0.2 + self._random.random()), last + 1e-6)
