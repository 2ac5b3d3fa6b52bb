"""`Session`: one client connection's HTTP/2 side: routes events to handlers, and flushes their answers together.

Also keeps the connection honest: pings a silent client and hangs up on a dead one, ends calls whose time is up, and
takes its leave in two steps.
"""

from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import DecodeError

from ratifyd.api.calls import Call, Stream
from ratifyd.api.identity import HELD_OVERHEAD_BYTES, TokenAhead, hold
from ratifyd.api.routes import Route, unimplemented
from ratifyd.errors import (
    Code,
    ContextDeadlineExceeded,
    EtcdError,
    InvalidAuthToken,
    NoLeader,
    NotSupportedForLearner,
    RequestError,
    RequestTooManyRequests,
)
from ratifyd.ports import Timer
from ratifyd.proto.rpc_pb2 import RangeRequest
from ratifyd.server.server import Server
from ratifyd.wire.events import Call as WholeCall
from ratifyd.wire.events import HalfClosed, HttpRequest, Message, Opened, Reset, Writable
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.headers import Head
from ratifyd.wire.limits import Limits

NO_LEADER_KEY = b"hasleader"
"""Metadata with which a client asks, by the value "true", to be refused rather than kept waiting without a leader."""
GO_AWAY_TIMEOUT_S = 5.0
"""How long a leaving member waits for the client to acknowledge before it refuses new calls (grpc-go)."""


LEARNER_RANGE = b"/etcdserverpb.KV/Range"
LEARNER_PATHS = frozenset((b"/etcdserverpb.Maintenance/Status", b"/etcdserverpb.Maintenance/Snapshot"))
"""All a learner serves; ranges only if they are serializable (semantics 2.17)."""


MAX_HELD_MESSAGES = 100
"""Messages of a stream that may wait for its token to arrive; those after the first are small, too."""


class Link(Protocol):
    """The connection below a session."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write_buffer_size(self) -> int: ...


class _Waiting:
    """A unary request whose message is still on its way."""

    __slots__ = ("deadline", "head", "route")

    def __init__(self, head: Head, route: Route) -> None:
        self.head = head
        self.route = route
        self.deadline: Timer | None = None


class Session:
    """One HTTP/2 connection of a client."""

    __slots__ = (
        "_gone",
        "_keepalive",
        "_leaving",
        "_pinged",
        "_read_at",
        "_routes",
        "_streams",
        "_unary",
        "connection",
        "dirty",
        "link",
        "server",
        "when_gone",
    )

    def __init__(self, server: Server, routes: dict[bytes, Route], limits: Limits, link: Link) -> None:
        self.server = server
        self.link = link
        self.connection = GrpcConnection(limits)
        self.dirty = False
        self._routes = routes
        self._streams: dict[int, Stream] = {}
        self._unary: dict[int, _Waiting] = {}
        self.when_gone: dict[int, Callable[[], None]] = {}
        """Unary requests that may wait for long, and what to call if their client does not."""
        self._gone = False
        self._leaving: Timer | None = None
        self._read_at = server.clock.time()
        self._pinged = False
        self._keepalive: Timer = server.clock.call_later(server.config.keepalive_s[0], self._check_alive)

    # --- from the connection ---------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes from the client and start what they ask for."""
        connection = self.connection
        self._read_at = now = self.server.clock.time()
        for event in connection.receive(data, now):
            if isinstance(event, WholeCall):
                known = event.head.route
                route = known if isinstance(known, Route) else self._route(event.head)
                if route is None or route.handler is None:
                    self._uncommon_call(event)
                    continue
                call = Call(self, event.stream_id, event.head, event.message, route)
                try:
                    route.handler(self.server, call)
                except EtcdError as error:
                    call.fail(error)
                except DecodeError:
                    call.fail(_undecodable())
                except TokenAhead as ahead:
                    self._hold_call(call, ahead)
            else:
                self._event(event)
        if connection.has_output or connection.draining:
            self.mark_dirty()

    def pause_writing(self) -> None:
        """The client reads slowly: stop reading from it."""
        self.link.pause_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.link.resume_reading()
        for stream in list(self._streams.values()):
            stream.writable()

    def eof(self) -> None:
        """The client has closed its side."""
        self.link.close()

    def closed(self) -> None:
        """The connection is gone: end everything that runs on it."""
        self._gone = True
        self._keepalive.cancel()
        if self._leaving is not None:
            self._leaving.cancel()
        for stream_id in list(self._unary):
            self._take_waiting(stream_id)
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.lost(Code.CANCELLED)
        departures, self.when_gone = self.when_gone, {}
        for gone in departures.values():
            gone()

    def go_away(self) -> None:
        """Ask the client to move on, then refuse new calls; streams that run may finish."""
        if self._leaving is None:
            self._leaving = self.server.clock.call_later(GO_AWAY_TIMEOUT_S, self._leave)
            self._leave()

    def _leave(self) -> None:
        self.connection.go_away()
        self.mark_dirty()

    @property
    def idle(self) -> bool:
        """Whether no request is running."""
        return not self.connection.open_streams

    # --- from handlers ---------------------------------------------------------------------------------------------

    def mark_dirty(self) -> None:
        """Have the output flushed at the end of the turn."""
        if not self.dirty:
            self.dirty = True
            self.server.node.after_turn(self._flush)

    def forget(self, stream_id: int) -> None:
        """Drop a stream that has ended."""
        self._streams.pop(stream_id, None)

    def _flush(self) -> None:
        self.dirty = False
        if self._gone:
            return
        connection = self.connection
        if data := connection.data_to_send():
            self.link.write(data)
        if connection.closed:
            self.link.close()

    def _check_alive(self) -> None:
        """Ping a client that has been silent for the keepalive interval; hang up when it does not even answer that."""
        interval_s, timeout_s = self.server.config.keepalive_s
        idle_s = self.server.clock.time() - self._read_at
        wait_s = interval_s - idle_s
        if wait_s > 0:
            self._pinged = False
        elif not self._pinged:
            self._pinged = True
            self.connection.ping()
            self.mark_dirty()
            wait_s = timeout_s
        elif idle_s >= interval_s + timeout_s:
            self.link.abort()
            return
        else:
            wait_s += timeout_s
        self._keepalive = self.server.clock.call_later(wait_s, self._check_alive)

    # --- the less common events ------------------------------------------------------------------------------------

    def _route(self, head: Head) -> Route | None:
        """The route of a request that needs no further look at its headers."""
        if _wants_leader(head):
            return None
        route = self._routes.get(head.path)
        if self.server.is_learner:
            return None  # which takes the way with all gates
        if route is not None:
            head.route = route  # every request with this cached header block skips the look-up and the gates
        return route

    def _event(self, event: object) -> None:
        if isinstance(event, Message):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                self._guard(stream, event.data)
            elif (waiting := self._take_waiting(event.stream_id)) is not None:
                # The first message is the request: whatever follows on the stream is ignored, as grpc-go does.
                self._run(Call(self, event.stream_id, waiting.head, event.data, waiting.route))
        elif isinstance(event, Opened):
            self._opened(event.stream_id, event.head)
        elif isinstance(event, HalfClosed):
            self._half_closed(event.stream_id)
        elif isinstance(event, Reset):
            self._take_waiting(event.stream_id)
            if (stream := self._streams.pop(event.stream_id, None)) is not None:
                stream.lost(Code.CANCELLED)
            if (gone := self.when_gone.pop(event.stream_id, None)) is not None:
                gone()
        elif isinstance(event, Writable):
            if (stream := self._streams.get(event.stream_id)) is not None:
                stream.writable()
        elif isinstance(event, HttpRequest):
            self.connection.respond(event.stream_id, 404, [(b"content-type", b"text/plain")], b"404 page not found\n")

    def _opened(self, stream_id: int, head: Head) -> Stream | None:
        route = self._routes.get(head.path)
        if route is None:
            self.connection.fail(stream_id, Code.UNIMPLEMENTED, unimplemented(head.path))
            return None
        if self.server.is_learner and head.path != LEARNER_RANGE and head.path not in LEARNER_PATHS:
            self._refuse(stream_id, route, NotSupportedForLearner())
            return None
        wants_leader = _wants_leader(head)
        if wants_leader and not self.server.leader_id:
            self._refuse(stream_id, route, NoLeader())
            return None
        clock = self.server.clock
        if route.stream is None:
            waiting = self._unary[stream_id] = _Waiting(head, route)
            if head.timeout_s is not None:
                waiting.deadline = clock.call_later(head.timeout_s, self._deadline_waiting, stream_id)
            return None
        route.rpc.started += 1
        stream = self._streams[stream_id] = route.stream(self, stream_id, head, route)
        if head.timeout_s is not None:
            stream.deadline = clock.call_later(head.timeout_s, stream.fail, ContextDeadlineExceeded())
        if wants_leader:
            self.server.needing_leader[stream] = None
        return stream

    def _half_closed(self, stream_id: int) -> None:
        if (stream := self._streams.get(stream_id)) is not None:
            if stream.takes_one and not stream.asked:
                stream.fail(_no_message())
            else:
                self._half_close(stream)
        elif (waiting := self._take_waiting(stream_id)) is not None:
            self._refuse(stream_id, waiting.route, _no_message())

    def _half_close(self, stream: Stream) -> None:
        if stream.held is not None:
            self._hold_more(stream, None)
        else:
            stream.half_closed()

    def _uncommon_call(self, event: WholeCall) -> None:
        stream = self._opened(event.stream_id, event.head)
        if stream is not None:
            if self._guard(stream, event.message) and not stream.closed:
                self._half_close(stream)
        elif (waiting := self._take_waiting(event.stream_id)) is not None:
            self._run(Call(self, event.stream_id, waiting.head, event.message, waiting.route))

    def _take_waiting(self, stream_id: int) -> _Waiting | None:
        waiting = self._unary.pop(stream_id, None)
        if waiting is not None and waiting.deadline is not None:
            waiting.deadline.cancel()
        return waiting

    def _deadline_waiting(self, stream_id: int) -> None:
        if (waiting := self._unary.pop(stream_id, None)) is not None:
            self._refuse(stream_id, waiting.route, ContextDeadlineExceeded())

    def _refuse(self, stream_id: int, route: Route, error: EtcdError) -> None:
        """Answer a request that never became a call."""
        route.rpc.started += 1
        route.rpc.handled[error.code] += 1
        self.connection.fail(stream_id, error.code, error.message)
        self.mark_dirty()

    def _run(self, call: Call) -> None:
        handler = call.route.handler
        assert handler is not None
        try:
            if self.server.is_learner and call.head.path == LEARNER_RANGE:
                _check_serializable(call.message)
            handler(self.server, call)
        except EtcdError as error:
            call.fail(error)
        except DecodeError:
            call.fail(_undecodable())
        except TokenAhead as ahead:
            self._hold_call(call, ahead)

    def _hold_call(self, call: Call, ahead: TokenAhead) -> None:
        """Run a call again once this member has applied the entry that its token is from."""

        def settled(in_time: bool) -> None:
            if in_time:
                self._run(call)
            else:
                call.fail(InvalidAuthToken())

        hold(self.server, ahead.index, len(call.message), settled)

    def _hold_message(self, stream: Stream, message: bytes, ahead: TokenAhead) -> None:
        """The same for a message on a stream, and for what comes after it."""
        stream.held = [message]

        def settled(in_time: bool) -> None:
            messages, stream.held = stream.held or [], None
            if not in_time:
                stream.fail(InvalidAuthToken())
            for each in messages:
                if stream.closed:
                    return
                if each is None:
                    stream.half_closed()
                else:
                    self._guard(stream, each)

        hold(self.server, ahead.index, len(message), settled)

    def _guard(self, stream: Stream, message: bytes) -> bool:
        if stream.asked and stream.takes_one:
            return True
        stream.asked = True
        if stream.held is not None:
            return self._hold_more(stream, message)
        stream.route.rpc.received += 1
        try:
            stream.check_read()
            stream.receive(message)
        except EtcdError as error:
            stream.fail(error)
            return False
        except DecodeError:
            stream.fail(_undecodable_message())
            return False
        except TokenAhead as ahead:
            stream.route.rpc.received -= 1  # it will be received again
            self._hold_message(stream, message, ahead)
        return True

    def _hold_more(self, stream: Stream, message: bytes | None) -> bool:
        assert stream.held is not None
        size = sum(len(each) for each in stream.held[1:] if each is not None) + len(message or b"")
        if len(stream.held) >= MAX_HELD_MESSAGES or size > HELD_OVERHEAD_BYTES:
            stream.fail(RequestTooManyRequests())
            return False
        stream.held.append(message)
        return True


def _wants_leader(head: Head) -> bool:
    return head.metadata.get(NO_LEADER_KEY, [b""])[0] == b"true"


def _check_serializable(message: bytes) -> None:
    """Let a learner read only what it has. Raises NotSupportedForLearner, DecodeError."""
    if not RangeRequest.FromString(message).serializable:
        raise NotSupportedForLearner


def _no_message() -> EtcdError:
    """What a request that ended before its message is answered, as grpc-go words it."""
    return RequestError.with_text(Code.UNKNOWN, "EOF")


_BAD_WIRE_FORMAT = "proto: cannot parse invalid wire-format data"


def _undecodable() -> EtcdError:
    """What a unary request that is no such message is answered, as grpc-go words it."""
    return RequestError.with_text(Code.INTERNAL, f"grpc: error unmarshalling request: {_BAD_WIRE_FORMAT}")


def _undecodable_message() -> EtcdError:
    """The same on a stream."""
    return RequestError.with_text(Code.INTERNAL, f"grpc: failed to unmarshal the received message: {_BAD_WIRE_FORMAT}")
