"""`Session`: one client connection's HTTP/2 side: routes events to handlers, and flushes their answers together."""

from typing import Protocol

from google.protobuf.message import DecodeError

from ratifyd.api.calls import Call, Stream
from ratifyd.api.routes import Route, unimplemented
from ratifyd.errors import (
    Code,
    ContextDeadlineExceeded,
    EtcdError,
    NoLeader,
    NotSupportedForLearner,
    RequestError,
)
from ratifyd.proto.rpc_pb2 import RangeRequest
from ratifyd.server.server import Server
from ratifyd.wire.events import Call as WholeCall
from ratifyd.wire.events import HalfClosed, HttpRequest, Message, Opened, Reset, Writable
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.headers import Head
from ratifyd.wire.limits import Limits

NO_LEADER_KEY = b"hasleader"
"""Metadata with which a client asks to be refused rather than kept waiting without a leader."""


LEARNER_RANGE = b"/etcdserverpb.KV/Range"
LEARNER_PATHS = frozenset((b"/etcdserverpb.Maintenance/Status", b"/etcdserverpb.Maintenance/Snapshot"))
"""All a learner serves; ranges only if they are serializable (semantics 2.17)."""


class Link(Protocol):
    """The connection below a session."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write_buffer_size(self) -> int: ...


class Session:
    """One HTTP/2 connection of a client."""

    __slots__ = ("_routes", "_streams", "_unary", "connection", "dirty", "link", "server")

    def __init__(self, server: Server, routes: dict[bytes, Route], limits: Limits, link: Link) -> None:
        self.server = server
        self.link = link
        self.connection = GrpcConnection(limits)
        self.dirty = False
        self._routes = routes
        self._streams: dict[int, Stream] = {}
        self._unary: dict[int, tuple[Head, Route, bytes | None]] = {}

    # --- from the connection ---------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes from the client and start what they ask for."""
        connection = self.connection
        for event in connection.receive(data, self.server.clock.time()):
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
                except DecodeError as error:
                    call.fail(_undecodable(error))
            else:
                self._event(event)
        if connection.has_output:
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
        streams, self._streams = self._streams, {}
        self._unary.clear()
        for stream in streams.values():
            stream.lost(Code.CANCELLED)

    def go_away(self) -> None:
        """Ask the client to move on; streams that run may finish."""
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
        connection = self.connection
        if data := connection.data_to_send():
            self.link.write(data)
        if connection.closed:
            self.link.close()

    # --- the less common events ------------------------------------------------------------------------------------

    def _route(self, head: Head) -> Route | None:
        route = self._routes.get(head.path)
        if self.server.is_learner:
            return None  # which takes the way with all gates
        if route is not None and NO_LEADER_KEY not in head.metadata:
            head.route = route  # every request with this cached header block skips the look-up and the gates
            return route
        return None

    def _event(self, event: object) -> None:
        if isinstance(event, Message):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.route.rpc.received += 1
                self._guard(stream, event.data)
            elif event.stream_id in self._unary:
                head, route, _ = self._unary[event.stream_id]
                self._unary[event.stream_id] = (head, route, event.data)
        elif isinstance(event, Opened):
            self._opened(event.stream_id, event.head)
        elif isinstance(event, HalfClosed):
            self._half_closed(event.stream_id)
        elif isinstance(event, Reset):
            self._unary.pop(event.stream_id, None)
            if (stream := self._streams.pop(event.stream_id, None)) is not None:
                stream.lost(Code.CANCELLED)
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
        needs_leader = NO_LEADER_KEY in head.metadata
        if needs_leader and not self.server.leader_id:
            self._refuse(stream_id, route, NoLeader())
            return None
        if route.stream is None:
            self._unary[stream_id] = (head, route, None)
            return None
        route.rpc.started += 1
        stream = self._streams[stream_id] = route.stream(self, stream_id, head, route)
        if needs_leader:
            self._end_without_leader(stream)
        if head.timeout_s is not None:
            self.server.clock.call_later(head.timeout_s, self._deadline, stream)
        return stream

    def _refuse(self, stream_id: int, route: Route, error: EtcdError) -> None:
        route.rpc.started += 1
        route.rpc.handled[error.code] += 1
        self.connection.fail(stream_id, error.code, error.message)

    def _end_without_leader(self, stream: Stream) -> None:
        """End a stream that asked for it once there has been no leader for a while (semantics 7.25)."""

        def tell(lost: bool) -> bool:
            if lost and not stream.closed:
                stream.fail(NoLeader())
            return not stream.closed

        self.server.leadership.watch(tell)

    def _half_closed(self, stream_id: int) -> None:
        if (stream := self._streams.get(stream_id)) is not None:
            stream.half_closed()
            return
        pending = self._unary.pop(stream_id, None)
        if pending is None:
            return
        head, route, message = pending
        if message is None:
            self.connection.fail(stream_id, Code.INTERNAL, "no request message: the stream ended without one")
            return
        self._run(Call(self, stream_id, head, message, route))

    def _uncommon_call(self, event: WholeCall) -> None:
        stream = self._opened(event.stream_id, event.head)
        if stream is not None:
            stream.route.rpc.received += 1
            if self._guard(stream, event.message) and not stream.closed:
                stream.half_closed()
        elif event.stream_id in self._unary:
            head, route, _ = self._unary.pop(event.stream_id)
            self._run(Call(self, event.stream_id, head, event.message, route))

    def _run(self, call: Call) -> None:
        handler = call.route.handler
        assert handler is not None
        try:
            if self.server.is_learner and call.head.path == LEARNER_RANGE:
                _check_serializable(call.message)
            handler(self.server, call)
        except EtcdError as error:
            call.fail(error)
        except DecodeError as error:
            call.fail(_undecodable(error))

    def _guard(self, stream: Stream, message: bytes) -> bool:
        try:
            stream.receive(message)
        except EtcdError as error:
            stream.fail(error)
            return False
        except DecodeError as error:
            stream.fail(_undecodable(error))
            return False
        return True

    def _deadline(self, stream: Stream) -> None:
        error = ContextDeadlineExceeded()
        stream.fail(error)


def _check_serializable(message: bytes) -> None:
    """Let a learner read only what it has. Raises NotSupportedForLearner, DecodeError."""
    if not RangeRequest.FromString(message).serializable:
        raise NotSupportedForLearner


def _undecodable(error: DecodeError) -> EtcdError:
    """What a request that is no such message is answered, as grpc-go words it."""
    return RequestError.with_text(Code.INTERNAL, f"grpc: error unmarshalling request: {error}")
