"""`Session`: one client connection's HTTP/2 side: routes events to handlers, and flushes their answers together.

Also keeps the connection honest: pings a silent client and hangs up on a dead one, ends calls whose time is up, and
takes its leave in two steps.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from google.protobuf.message import DecodeError

from ratifyd.api.calllog import note_late
from ratifyd.api.calls import ClientCall, Stream
from ratifyd.api.dispatch import (
    deliver,
    find_route,
    half_close,
    hold_call,
    is_plain,
    is_read,
    no_message,
    open_stream,
    refusal,
    run,
    undecodable,
)
from ratifyd.api.exchange import Incoming
from ratifyd.api.front import ClientFront
from ratifyd.api.http2 import Http2Answer, Http2Request
from ratifyd.api.identity import TokenAhead
from ratifyd.api.routes import Route, unimplemented
from ratifyd.errors import Code, ContextDeadlineExceeded, EtcdError
from ratifyd.ports import Timer
from ratifyd.server.server import Server
from ratifyd.wire.events import Call as WholeCall
from ratifyd.wire.events import HalfClosed, HttpRequest, Message, Opened, Reset, Writable
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.headers import Head
from ratifyd.wire.limits import Limits

GO_AWAY_TIMEOUT_S = 1.0
"""How long a leaving member waits for the client to acknowledge before it refuses new calls.

grpc-go has five seconds, but etcd does not wait for it."""


class Link(Protocol):
    """The connection below a session."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write_buffer_size(self) -> int: ...

    peer: str
    """Address of the client."""


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
        "_front",
        "_gone",
        "_http",
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
        "timing",
        "when_gone",
    )

    def __init__(
        self,
        server: Server,
        routes: dict[bytes, Route],
        limits: Limits,
        link: Link,
        front: ClientFront | None = None,
    ) -> None:
        self.server = server
        self.timing = server.timing
        self.link = link
        self.connection = GrpcConnection(limits, server.metrics)
        self.dirty = False
        self._routes = routes
        self._streams: dict[int, Stream] = {}
        self._unary: dict[int, _Waiting] = {}
        self.when_gone: dict[int, Callable[[], None]] = {}
        """Unary requests that may wait for long, and what to call if their client does not."""
        self._front = front
        self._http: dict[int, Incoming] = {}
        self._gone = False
        self._leaving: Timer | None = None
        self._read_at = server.clock.time()
        self._pinged = False
        self._keepalive: Timer = server.clock.call_later(server.config.keepalive_s[0], self._check_alive)

    # --- from the connection ---------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes from the client and start what they ask for."""
        connection = self.connection
        self._read_at = now = self.timing.now()
        together: list[tuple[Stream, bytes]] = []
        events = connection.receive(data, now)
        for event in events:
            if type(event) is WholeCall:
                stream_id, head, message = event
                known = head.route
                route = known if type(known) is Route else self._route(head)
                if route is None or route.handler is None:
                    self._uncommon_call(event)
                    continue
                call = ClientCall(self, stream_id, head, message, route, now)
                try:
                    route.handler(self.server, call)
                except EtcdError as error:
                    call.fail(error)
                except DecodeError as error:
                    call.refuse(undecodable(error))
                except TokenAhead as ahead:
                    hold_call(call, ahead)
            elif type(event) is Message and (stream := self._streams.get(event[0])) is not None:
                if stream.answer_together is None or len(events) == 1:
                    deliver(stream, event[1])
                else:
                    together.append((stream, event[1]))
            else:
                if together:
                    self._deliver_together(together)
                    together = []
                self._event(event)
        if together:
            self._deliver_together(together)
        if connection.has_output or connection.draining:
            self.mark_dirty()

    def _deliver_together(self, messages: Sequence[tuple[Stream, bytes]]) -> None:
        """Hand streams of one kind messages that may be answered together."""
        first, connection = messages[0][0], self.connection
        together = first.answer_together if is_read(connection) else None
        if together is not None and (answers := together(messages)) is not None:
            rpc = first.route.rpc
            rpc.received += len(messages)
            rpc.sent += len(messages)
            connection.send_each([stream.stream_id for stream, _ in messages], *answers)
            return
        for stream, message in messages:
            if not stream.closed:
                deliver(stream, message)

    def pause_writing(self) -> None:
        """The client reads slowly: stop reading from it."""
        self.connection.stalled = True
        self.link.pause_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.connection.caught_up()
        self.link.resume_reading()
        for stream in list(self._streams.values()):
            stream.writable()
        for incoming in list(self._http.values()):
            incoming.writable()

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
        requests, self._http = self._http, {}
        for incoming in requests.values():
            incoming.lost()
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

    def is_open(self, stream_id: int) -> bool:
        """Whether the client still waits for the answer on a stream."""
        return not self._gone and self.connection.is_open(stream_id)

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
        self._http.pop(stream_id, None)

    def _flush(self) -> None:
        self.dirty = False
        if self._gone:
            return
        connection = self.connection
        if connection.refused:
            self._let_go_of_refused()
        if data := connection.data_to_send():
            self.link.write(data)
        if connection.closed:
            self.link.close()

    def _let_go_of_refused(self) -> None:
        """End what still runs on streams that the connection has ended, as their client does not read."""
        refused, self.connection.refused = self.connection.refused, []
        for stream_id in refused:
            if (stream := self._streams.pop(stream_id, None)) is not None:
                stream.lost(Code.RESOURCE_EXHAUSTED)
            if (incoming := self._http.pop(stream_id, None)) is not None:
                incoming.lost()

    def late(self, call: ClientCall, response: bytes, error: EtcdError | None) -> None:
        """Log a call that took long to answer, and count its time when all are to be counted."""
        note_late(call, response, error, self.link.peer)

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
        if not is_plain(head):
            return None
        route = find_route(self._routes, head)
        if self.server.is_learner:
            return None  # which takes the way with all gates
        if route is not None:
            head.route = route  # every request with this cached header block skips the look-up and the gates
        return route

    def _event(self, event: object) -> None:
        if isinstance(event, Message):
            if (waiting := self._take_waiting(event.stream_id)) is not None:
                # The first message is the request: whatever follows on the stream is ignored, as grpc-go does.
                run(ClientCall(self, event.stream_id, waiting.head, event.data, waiting.route, self._read_at))
        elif isinstance(event, Opened):
            self._opened(event.stream_id, event.head)
        elif isinstance(event, HalfClosed):
            self._half_closed(event.stream_id)
        elif isinstance(event, Reset):
            self._take_waiting(event.stream_id)
            if (stream := self._streams.pop(event.stream_id, None)) is not None:
                stream.lost(Code.CANCELLED)
            if (incoming := self._http.pop(event.stream_id, None)) is not None:
                incoming.lost()
            if (gone := self.when_gone.pop(event.stream_id, None)) is not None:
                gone()
        elif isinstance(event, Writable):
            if (stream := self._streams.get(event.stream_id)) is not None:
                stream.writable()
            if (incoming := self._http.get(event.stream_id)) is not None:
                incoming.writable()
        elif isinstance(event, HttpRequest):
            self._http_request(event)

    def _http_request(self, event: HttpRequest) -> None:
        """A request that is not gRPC's: for the pages and the gateway, which HTTP/1.1 reaches too."""
        if self._front is None:
            self.connection.respond(event.stream_id, 404, [(b"content-type", b"text/plain")], b"404 page not found\n")
            return
        request = Http2Request.of(event, self.link.peer)
        answer = Http2Answer(self, event.stream_id, has_body=request.method != "HEAD")
        incoming = self._http[event.stream_id] = self._front.handle(request, answer)
        incoming.receive(event.body)
        incoming.body_ended()
        if answer.ended:
            self.forget(event.stream_id)

    def _opened(self, stream_id: int, head: Head) -> Stream | None:
        route = find_route(self._routes, head)
        if route is None:
            self.connection.fail(stream_id, Code.UNIMPLEMENTED, unimplemented(head.path))
            return None
        error = refusal(self.server, route, head)
        if error is not None:
            self._refuse(stream_id, error)
            return None
        if route.stream is None:
            waiting = self._unary[stream_id] = _Waiting(head, route)
            if head.timeout_s is not None:
                clock = self.server.clock
                waiting.deadline = clock.call_later(head.timeout_s, self._deadline_waiting, stream_id)
            return None
        stream = self._streams[stream_id] = open_stream(self, stream_id, head, route)
        return stream

    def _half_closed(self, stream_id: int) -> None:
        if (stream := self._streams.get(stream_id)) is not None:
            if stream.takes_one and not stream.asked:
                stream.fail(no_message())
            else:
                half_close(stream)
        elif self._take_waiting(stream_id) is not None:
            self._refuse(stream_id, no_message())

    def _uncommon_call(self, event: WholeCall) -> None:
        stream = self._opened(event.stream_id, event.head)
        if stream is not None:
            if deliver(stream, event.message) and not stream.closed:
                half_close(stream)
        elif (waiting := self._take_waiting(event.stream_id)) is not None:
            run(ClientCall(self, event.stream_id, waiting.head, event.message, waiting.route, self._read_at))

    def _take_waiting(self, stream_id: int) -> _Waiting | None:
        waiting = self._unary.pop(stream_id, None)
        if waiting is not None and waiting.deadline is not None:
            waiting.deadline.cancel()
        return waiting

    def _deadline_waiting(self, stream_id: int) -> None:
        if self._unary.pop(stream_id, None) is not None:
            self._refuse(stream_id, ContextDeadlineExceeded())

    def _refuse(self, stream_id: int, error: EtcdError) -> None:
        """Answer a request that never became a call."""
        self.connection.fail(stream_id, error.code, error.message)
        self.mark_dirty()
