"""One unary request (`Call`) and one streaming request (`Stream`) as handlers see them.

A call comes from a client (`ClientCall`) or from another handler (`InnerCall`); handlers cannot tell which.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from google.protobuf.message import Message as ProtoMessage

from ratifyd.api.identity import TokenAhead, hold
from ratifyd.errors import (
    Code,
    ContextCanceled,
    ContextDeadlineExceeded,
    EtcdError,
    InvalidAuthToken,
    NoLeader,
    RequestTooManyRequests,
)
from ratifyd.wire.headers import Head

if TYPE_CHECKING:
    from ratifyd.api.routes import Route
    from ratifyd.ports import Timer
    from ratifyd.server.server import Server
    from ratifyd.server.timing import Timing


T = TypeVar("T")

MAX_QUEUED_BYTES = 2 << 20
"""Bytes that may wait for a slow client before its stream is given no more.

More than a connection holds back without ever saying "resume" and a stream without ever saying "writable" together:
else neither might come to wake a stream that waits.
"""
MAX_LOGGED_BYTES = 1 << 20
"""Answers in parts that are longer are not taken apart for the log of slow calls: that would hold up everybody."""
MAX_UNREAD_BYTES = 4 << 20
"""Answers a stream may leave unread before further requests on it are counted."""
FEW_UNREAD_BYTES = 3 << 20
"""While no more wait for windows and the connection below takes what it is given, a stream has no more left unread."""
MAX_UNREAD_REQUESTS = 1000
"""Requests on a stream whose answers are not read before it is ended: what nobody reads must not pile up."""

Gone = Callable[[EtcdError], None]
"""Told why nobody waits for an answer any more."""

Answered = Callable[[bytes, EtcdError | None], None]
"""Gets the encoded response, or the error."""


class CallAnswers(Protocol):
    """Where calls answer: a gRPC connection, or the JSON gateway."""

    def reply(self, stream_id: int, message: bytes, /) -> None: ...

    def reply_parts(self, stream_id: int, parts: Sequence[bytes], /) -> None: ...

    def fail(self, stream_id: int, code: int, message: str, /) -> None: ...


class StreamAnswers(Protocol):
    """Where streams answer."""

    @property
    def stalled(self) -> bool:
        """Whether the connection below takes no more for now."""

    @property
    def queued(self) -> int:
        """Bytes of all its streams that wait for a window."""

    def send_message(self, stream_id: int, message: bytes, /) -> None: ...

    def send_alike(self, stream_id: int, head: bytes, middles: Sequence[bytes], tail: bytes, /) -> None: ...

    def finish(self, stream_id: int, /) -> None: ...

    def fail(self, stream_id: int, code: int, message: str, /) -> None: ...

    def queued_bytes(self, stream_id: int, /) -> int: ...


class WriteBuffer(Protocol):
    """The connection below."""

    def write_buffer_size(self) -> int: ...


class Edge(Protocol):
    """What a request came by: a session, or an exchange of the JSON gateway."""

    server: "Server"
    timing: "Timing"
    dirty: bool

    def mark_dirty(self) -> None: ...


class CallEdge(Edge, Protocol):
    """As a call knows it."""

    @property
    def connection(self) -> CallAnswers: ...

    when_gone: dict[int, Callable[[], None]]
    """Unary requests that may wait for long, and what to call if their client does not."""

    def is_open(self, stream_id: int, /) -> bool: ...

    def late(self, call: "ClientCall", response: bytes, error: EtcdError | None) -> None: ...


class StreamEdge(Edge, Protocol):
    """As a stream knows it."""

    @property
    def connection(self) -> StreamAnswers: ...

    @property
    def link(self) -> WriteBuffer: ...

    def forget(self, stream_id: int) -> None: ...


class Call(ABC):
    """A whole request message, waiting for its one answer: what a handler may know and do, wherever it comes from.

    Answering a request that has been given up is harmless.
    """

    __slots__ = ("head", "message", "worked_at")

    head: Head
    message: bytes
    worked_at: float
    """Set by `work_begun` only."""

    @property
    @abstractmethod
    def server(self) -> "Server":
        """The member that serves this request."""

    @abstractmethod
    def reply(self, response: bytes) -> None:
        """Answer with an encoded response."""

    @abstractmethod
    def reply_parts(self, parts: Sequence[bytes]) -> None:
        """Answer with a response in parts, for one that is too long to be joined."""

    @abstractmethod
    def fail(self, error: EtcdError) -> None:
        """Answer with an error."""

    @abstractmethod
    def answer(self, body: bytes, error: EtcdError | None) -> None:
        """Take the outcome of a proposal: a response body that lacks its header, or the error."""

    @abstractmethod
    def is_open(self) -> bool:
        """Whether whoever asked still waits."""

    @abstractmethod
    def when_gone(self, gone: Gone) -> None:
        """Have `gone` called if whoever asked will not wait until `settled`; says why."""

    @abstractmethod
    def settled(self) -> None:
        """Look out for whoever asked no longer: the answer is ready."""

    @abstractmethod
    def _wanted(self) -> Callable[[], bool]:
        """What tells whether to go on with sliced work."""

    def work_begun(self) -> None:
        """Keep when the work began that is now being done: by the answer, others will have been worked for."""
        self.worked_at = self.server.timing.worked_at

    def run(self, steps: Generator[object, None, T], answer: Callable[[T], None]) -> None:
        """Run sliced work and answer with its result; it is dropped when the client gives up or its time is up."""
        self.work_begun()

        def done(result: T | None, error: EtcdError | None) -> None:
            if error is not None:
                self.fail(error)
            else:
                answer(cast(T, result))

        self.server.slices.run(steps, done, self._wanted())


class ClientCall(Call):
    """A request of a client."""

    __slots__ = ("began", "route", "session", "stream_id")

    def __init__(
        self, session: CallEdge, stream_id: int, head: Head, message: bytes, route: "Route", began: float
    ) -> None:
        """`began` is when the message came."""
        self.began = began
        self.session = session
        self.stream_id = stream_id
        self.head = head
        self.message = message
        self.route = route

    @property
    def server(self) -> "Server":
        """The member that serves this request."""
        return self.session.server

    def reply(self, response: bytes) -> None:
        """Answer with an encoded response."""
        self.route.rpc.served += 1
        session = self.session
        session.connection.reply(self.stream_id, response)
        if self.began < session.timing.late_before:
            session.late(self, response, None)
        if not session.dirty:
            session.mark_dirty()

    def reply_parts(self, parts: Sequence[bytes]) -> None:
        """Answer with a response in parts, for one that is too long to be joined."""
        self.route.rpc.served += 1
        session = self.session
        session.connection.reply_parts(self.stream_id, parts)
        if self.began < session.timing.late_before and sum(map(len, parts)) <= MAX_LOGGED_BYTES:
            session.late(self, b"".join(parts), None)
        session.mark_dirty()

    def _wanted(self) -> Callable[[], bool]:
        """What tells whether to go on with sliced work."""
        clock, timeout_s = self.session.server.clock, self.head.timeout_s
        deadline = None if timeout_s is None else clock.time() + timeout_s

        def wanted() -> bool:
            if not self.session.is_open(self.stream_id):
                self.route.rpc.started += 1
                self.route.rpc.received += 1
                self.route.rpc.handled[Code.CANCELLED] += 1
                return False
            if deadline is not None and clock.time() >= deadline:
                self.fail(ContextDeadlineExceeded())
                return False
            return True

        return wanted

    def fail(self, error: EtcdError) -> None:
        """Answer with an error."""
        rpc = self.route.rpc
        rpc.started += 1
        rpc.received += 1
        rpc.handled[error.code] += 1
        session = self.session
        session.connection.fail(self.stream_id, error.code, error.message)
        if self.began < session.timing.late_before:
            session.late(self, b"", error)
        session.mark_dirty()

    def refuse(self, error: EtcdError) -> None:
        """Answer a malformed request, which as in etcd is not counted."""
        self.session.connection.fail(self.stream_id, error.code, error.message)
        self.session.mark_dirty()

    def answer(self, body: bytes, error: EtcdError | None) -> None:
        """Take the outcome of a proposal: a response body that lacks its header, or the error."""
        if error is not None:
            self.fail(error)
            return
        session = self.session
        server = session.server
        self.reply(server.headers.header(server.store.revision, server.node.raft.term) + body)

    def is_open(self) -> bool:
        """Whether the client still waits."""
        return self.session.is_open(self.stream_id)

    def when_gone(self, gone: Gone) -> None:
        """Have `gone` called if the client goes or takes the request back, or this member stops, before `settled`."""
        self.session.when_gone[self.stream_id] = partial(gone, ContextCanceled())
        self.session.server.lasting[self] = gone

    def settled(self) -> None:
        """Look out for the client no longer: the answer is ready."""
        self.session.when_gone.pop(self.stream_id, None)
        self.session.server.lasting.pop(self, None)


class InnerCall(Call):
    """A request that a handler makes of another one, for the client that `head` came from: with its identity.

    The answer, or the error, goes to `done`.
    """

    __slots__ = ("_done", "_server")

    def __init__(self, server: "Server", head: Head, message: bytes, done: "Answered") -> None:
        self._server = server
        self._done = done
        self.head = head
        self.message = message

    @property
    def server(self) -> "Server":
        """The member that serves this request."""
        return self._server

    def reply(self, response: bytes) -> None:
        """Hand the encoded response back."""
        self._done(response, None)

    def reply_parts(self, parts: Sequence[bytes]) -> None:
        """Hand a response in parts back."""
        self._done(b"".join(parts), None)

    def fail(self, error: EtcdError) -> None:
        """Hand an error back."""
        self._done(b"", error)

    def answer(self, body: bytes, error: EtcdError | None) -> None:
        """Hand the outcome of a proposal back."""
        self._done(self._server.header() + body if error is None else b"", error)

    def is_open(self) -> bool:
        """Somebody may still have to tidy up."""
        return True

    def when_gone(self, gone: Gone) -> None:
        """Nothing to look out for: whoever asked waits for the outcome, to tidy up with it."""

    def settled(self) -> None:
        """As `when_gone`."""

    def _wanted(self) -> Callable[[], bool]:
        return lambda: True


class Stream:
    """A streaming request. Subclasses say what messages, the client's end and the stream's end mean."""

    takes_one = False
    """Whether the request is one message only (server streaming): whatever follows it is ignored, as grpc-go does."""
    answer_together: Callable[[Sequence[tuple[Any, bytes]]], tuple[bytes, list[bytes]] | None] | None = None
    """Where messages of one read may be answered together: takes streams and their messages; one answer for each of
    them, as what all begin with and how they go on. None, and nothing has happened, if `receive` has to take them."""
    failure_label = ""
    """Value of label API when a broken request is counted; empty when it is not."""

    __slots__ = (
        "asked",
        "began",
        "closed",
        "deadline",
        "head",
        "held",
        "route",
        "server",
        "session",
        "stream_id",
        "unread",
    )

    def __init__(self, session: StreamEdge, stream_id: int, head: Head, route: "Route") -> None:
        self.session = session
        self.server = session.server
        self.stream_id = stream_id
        self.head = head
        self.route = route
        self.began = session.timing.now()
        self.closed = False
        self.asked = False
        """A request message has come."""
        self.deadline: Timer | None = None
        self.held: list[bytes | None] | None = None
        """Messages, None for the client's end, that wait until this member knows the token the stream came with."""
        self.unread = 0
        """Requests since the client fell behind with reading."""
        session.server.lasting[self] = self.fail

    def check_read(self) -> None:
        """Count a request. Raises RequestTooManyRequests when the client asks and asks but does not read."""
        session = self.session
        if session.connection.queued_bytes(self.stream_id) + session.link.write_buffer_size() <= MAX_UNREAD_BYTES:
            self.unread = 0
            return
        self.unread += 1
        if self.unread > MAX_UNREAD_REQUESTS:
            raise RequestTooManyRequests

    def leader_lost(self) -> None:
        """There has been no leader for long, and the client asked not to be kept waiting."""
        self.fail(NoLeader())

    def receive(self, message: bytes) -> None:
        """Take a request message."""

    def half_closed(self) -> None:
        """The client will send nothing more."""

    def writable(self) -> None:
        """What was queued for lack of window has drained."""

    def ended(self) -> None:
        """The stream is over, whoever ended it: release what it holds."""

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for the client to take them."""
        return self.session.connection.queued_bytes(self.stream_id) + self.session.link.write_buffer_size()

    def send(self, message: bytes) -> None:
        """Send a response message."""
        if not self.closed:
            self.route.rpc.sent += 1
            session = self.session
            session.connection.send_message(self.stream_id, message)
            if not session.dirty:
                session.mark_dirty()

    def send_alike(self, head: bytes, middles: Sequence[bytes], tail: bytes) -> None:
        """Send a response message for each of `middles`, all of one length, between `head` and `tail`."""
        if not self.closed:
            self.route.rpc.sent += len(middles)
            self.session.connection.send_alike(self.stream_id, head, middles, tail)
            self.session.mark_dirty()

    def finish(self) -> None:
        """End the stream with status OK."""
        if not self.closed:
            self.route.rpc.handled[0] += 1
            self.session.connection.finish(self.stream_id)
            self._over()

    def fail(self, error: EtcdError) -> None:
        """End the stream with an error."""
        if not self.closed:
            self.route.rpc.handled[error.code] += 1
            self.session.connection.fail(self.stream_id, error.code, error.message)
            self._over()

    def _over(self) -> None:
        self.session.mark_dirty()
        self.session.forget(self.stream_id)
        self.lost(Code.OK)

    def lost(self, code: int) -> None:
        """The client or its connection is gone (or we have ended the stream): nothing can be sent any more."""
        if not self.closed:
            if code:
                self.route.rpc.handled[code] += 1
            if self.session.timing.extensive:
                took = self.session.timing.now() - self.began
                self.server.metrics.rpc_handling_seconds[self.route.rpc.key].observe(took)
            self.closed = True
            if self.deadline is not None:
                self.deadline.cancel()
            self.server.needing_leader.pop(self, None)
            self.server.lasting.pop(self, None)
            self.ended()


class Handler(Protocol):
    """A unary handler: answers the call at once or later, exactly once. May raise EtcdError instead."""

    def __call__(self, server: "Server", call: Call) -> None: ...


def ask(handler: Handler, server: "Server", head: Head, request: ProtoMessage, done: Answered) -> None:
    """Make a request of a handler for the client that `head` came from; `done` gets its outcome, at once or later."""
    _attempt(handler, server, InnerCall(server, head, request.SerializeToString(), done))


def _attempt(handler: Handler, server: "Server", call: InnerCall) -> None:
    def settled(in_time: bool) -> None:
        if in_time:
            _attempt(handler, server, call)
        else:
            call.fail(InvalidAuthToken())

    try:
        handler(server, call)
    except EtcdError as error:
        call.fail(error)
    except TokenAhead as ahead:
        hold(server, ahead.index, len(call.message), settled)
