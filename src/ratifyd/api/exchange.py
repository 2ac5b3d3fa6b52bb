"""One request of the JSON gateway under way: its body into messages, its handler's answers into JSON.

An exchange stands where a session stands for gRPC: it is the session, connection and link of its `ClientCall` or
`Stream`, so that validation, gates, identity and metrics are one path. Codes and headers are grpc-gateway v2's (etcd
3.6); errors have the fields of etcd 3.5 besides, which clients read. Streams are lines, {"result":...} each,
{"error":...} the last.
"""

import json
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol, Self

from google.protobuf.message import DecodeError

from ratifyd.api.calllog import note_late
from ratifyd.api.calls import ClientCall, Stream
from ratifyd.api.dispatch import deliver, half_close, open_stream, refusal, run
from ratifyd.api.jsontext import BadJson, ValueSplitter
from ratifyd.api.jsonwire import MessageType
from ratifyd.api.pages import JSON, Headers
from ratifyd.api.routes import Route
from ratifyd.errors import Code, ContextDeadlineExceeded, EtcdError, RequestError
from ratifyd.ports import Timer
from ratifyd.server.server import Server
from ratifyd.wire.headers import Head

SLICE_BYTES = 256 * 1024
"""Bytes of an answer that are written as JSON at once."""

_HTTP_STATUS: dict[int, tuple[int, str]] = {
    Code.CANCELLED: (499, "Client Closed Request"),
    Code.INVALID_ARGUMENT: (400, "Bad Request"),
    Code.DEADLINE_EXCEEDED: (504, "Gateway Timeout"),
    Code.NOT_FOUND: (404, "Not Found"),
    Code.ALREADY_EXISTS: (409, "Conflict"),
    Code.PERMISSION_DENIED: (403, "Forbidden"),
    Code.RESOURCE_EXHAUSTED: (429, "Too Many Requests"),
    Code.FAILED_PRECONDITION: (400, "Bad Request"),
    Code.ABORTED: (409, "Conflict"),
    Code.OUT_OF_RANGE: (400, "Bad Request"),
    Code.UNIMPLEMENTED: (501, "Not Implemented"),
    Code.UNAVAILABLE: (503, "Service Unavailable"),
    Code.UNAUTHENTICATED: (401, "Unauthorized"),
}
_INTERNAL_STATUS = (500, "Internal Server Error")

_FROM_GRPC: tuple[str, str] = ("Grpc-Metadata-Content-Type", "application/grpc")
_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
"""What Go escapes when it puts a message into another JSON object."""


class Answer(Protocol):
    """Where one request's answer goes: `respond`, or `begin`, `write` and `end`."""

    def respond(self, status: int, headers: Headers, body: bytes) -> None: ...

    def begin(self, status: int, headers: Headers) -> None: ...

    def write(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    @property
    def queued_bytes(self) -> int:
        """Bytes written that the client has not taken."""
        ...


class Incoming(Protocol):
    """A request under way, as its connection feeds it."""

    def receive(self, data: bytes) -> None:
        """Take a piece of the body."""
        ...

    def body_ended(self) -> None:
        """The body is complete."""
        ...

    def writable(self) -> None:
        """What was queued has drained."""
        ...

    def lost(self) -> None:
        """The client is gone."""
        ...


class Answered:
    """A request that needed no body and has its answer."""

    def receive(self, data: bytes) -> None:
        """Ignore the body."""

    def body_ended(self) -> None:
        """Ignore its end."""

    def writable(self) -> None:
        """Nothing waits."""

    def lost(self) -> None:
        """Nothing runs."""


class Target(NamedTuple):
    """What a request is for."""

    route: Route
    head: Head
    request: MessageType
    response: MessageType
    max_message_bytes: int
    peer: str


def answer_error(answer: Answer, headers: Headers, code: int, message: str) -> Incoming:
    """Answer a request with an error, and be done with it."""
    status, _ = _HTTP_STATUS.get(code, _INTERNAL_STATUS)
    more: Headers = [("WWW-Authenticate", message)] if code == Code.UNAUTHENTICATED else []
    body = {"error": message, "code": int(code), "message": message}
    answer.respond(status, [*headers, *JSON, *more], _text(body).encode())
    return Answered()


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class _Exchange:
    """One request: the session, connection and link of its `ClientCall` or `Stream`."""

    stalled = False
    queued = 0  # there is one request only: nothing to count

    __slots__ = ("_answer", "_done", "_headers", "_target", "dirty", "server", "timing")

    def __init__(self, server: Server, answer: Answer, headers: Headers, target: Target) -> None:
        self.server = server
        self.timing = server.timing
        self.dirty = True  # what is answered goes out by itself: nobody need be told
        self._answer = answer
        self._headers = headers
        self._target = target
        self._done = False

    @property
    def connection(self) -> Self:
        """Answers go here."""
        return self

    @property
    def link(self) -> Self:
        """What waits is known here."""
        return self

    def mark_dirty(self) -> None:
        """Nothing to flush."""

    def forget(self, stream_id: int) -> None:
        """There is one stream only."""

    def write_buffer_size(self) -> int:
        """Part of `queued_bytes`."""
        return 0

    def queued_bytes(self, stream_id: int) -> int:
        """Bytes the client has not taken."""
        return self._answer.queued_bytes

    def _message(self, data: bytes) -> bytes:
        """Encode the request in a JSON text. Raises BadJson, and RequestError for one that is too long."""
        message = self._target.request.from_json(data)
        if len(message) > self._target.max_message_bytes:
            raise _too_long(len(message), self._target.max_message_bytes)
        return message

    def _refuse(self, error: EtcdError) -> None:
        """Answer a request that never reached its handler."""
        self.fail(0, error.code, error.message)

    def fail(self, stream_id: int, code: int, message: str) -> None:
        """Answer with an error."""
        if not self._done:
            self._done = True
            answer_error(self._answer, self._headers, code, message)


class UnaryExchange(_Exchange):
    """A request with one message and one answer."""

    __slots__ = ("_body", "_timer", "when_gone")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.when_gone: dict[int, Callable[[], None]] = {}
        """What to call when the client does not wait any longer, if the handler wants to know."""
        self._body = b""
        self._timer: Timer | None = None

    def receive(self, data: bytes) -> None:
        """Keep the body together; its connection limits it."""
        self._body += data

    def body_ended(self) -> None:
        """Run the request."""
        try:
            message = self._message(self._body)
        except BadJson as bad:
            self.fail(0, Code.INVALID_ARGUMENT, str(bad))
            return
        except EtcdError as error:
            self._refuse(error)
            return
        refused = refusal(self.server, self._target.route, self._target.head)
        if refused is not None:
            self._refuse(refused)
            return
        if self._target.head.timeout_s is not None:
            self._timer = self.server.clock.call_later(self._target.head.timeout_s, self._expired)
        run(ClientCall(self, 0, self._target.head, message, self._target.route, self.timing.now()))

    def late(self, call: ClientCall, response: bytes, error: EtcdError | None) -> None:
        """Log a call that took long to answer."""
        note_late(call, response, error, self._target.peer)

    def writable(self) -> None:
        """A single answer does not wait."""

    def lost(self) -> None:
        """The client is gone; what it asked for may go on, its answer goes nowhere."""
        self._over()
        self._let_go()

    def reply(self, stream_id: int, message: bytes) -> None:
        """Answer with a response."""
        if self._done:
            return
        self._over()
        self._write(self._target.response.to_json_in_slices(message, SLICE_BYTES))

    def reply_parts(self, stream_id: int, parts: Sequence[bytes]) -> None:
        """Answer with a response in parts."""
        if not self._done:
            self.reply(stream_id, b"".join(parts))

    def is_open(self, stream_id: int) -> bool:
        """Whether the client still waits for the answer."""
        return not self._done

    def fail(self, stream_id: int, code: int, message: str) -> None:
        """Answer with an error."""
        super().fail(stream_id, code, message)
        self._over()

    def _respond(self, text: str) -> None:
        self._answer.respond(200, [*self._headers, *JSON, _FROM_GRPC], text.encode())

    def _write(self, slices: Generator[None, None, str]) -> None:
        """Write the answer, a long one in slices, so that other requests get their turn in between."""
        try:
            next(slices)
        except StopIteration as stop:
            self._respond(stop.value)
        except DecodeError as error:
            answer_error(self._answer, self._headers, Code.INTERNAL, str(error))
        else:
            self.server.clock.call_soon(self._write, slices)

    def _expired(self) -> None:
        error = ContextDeadlineExceeded()
        self.fail(0, error.code, error.message)
        self._let_go()

    def _let_go(self) -> None:
        departures, self.when_gone = self.when_gone, {}
        for gone in departures.values():
            gone()

    def _over(self) -> None:
        self._done = True
        if self._timer is not None:
            self._timer.cancel()


class StreamExchange(_Exchange):
    """A request with many answers, and one message in its body."""

    __slots__ = ("_begun", "_body", "_stream")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._begun = False
        self._body = b""
        self._stream: Stream | None = None

    def receive(self, data: bytes) -> None:
        """Keep the body together; its connection limits it."""
        self._body += data

    def body_ended(self) -> None:
        """Run the request."""
        try:
            message = self._message(self._body)
        except BadJson as bad:
            super().fail(0, Code.INVALID_ARGUMENT, str(bad))
        except EtcdError as error:
            self._refuse(error)
        else:
            stream = self._open()
            if stream is not None and deliver(stream, message) and not stream.closed:
                half_close(stream)

    def writable(self) -> None:
        """Let the handler go on."""
        if self._stream is not None:
            self._stream.writable()

    def lost(self) -> None:
        """The client is gone: let go of everything."""
        if not self._done:
            self._done = True
            if self._stream is not None:
                self._stream.lost(Code.CANCELLED)

    def send_message(self, stream_id: int, message: bytes) -> None:
        """Send one line."""
        if self._done:
            return
        try:
            text = self._target.response.to_json(message).translate(_HTML)
        except DecodeError as error:
            self.fail(stream_id, Code.INTERNAL, str(error))
            return
        if not self._begun:
            self._begun = True
            self._answer.begin(200, [*self._headers, *JSON, _FROM_GRPC])
        self._answer.write(f'{{"result":{text}}}\n'.encode())

    def send_alike(self, stream_id: int, head: bytes, middles: Sequence[bytes], tail: bytes) -> None:
        """Send one line for each of `middles`."""
        for middle in middles:
            self.send_message(stream_id, head + middle + tail)

    def finish(self, stream_id: int) -> None:
        """End the lines."""
        if not self._done:
            self._done = True
            if not self._begun:
                self._answer.begin(200, self._headers)
            self._answer.end()

    def fail(self, stream_id: int, code: int, message: str) -> None:
        """End with an error: the last line, or the only one and then with its HTTP status."""
        if self._done:
            return
        self._done = True
        status, reason = _HTTP_STATUS.get(code, _INTERNAL_STATUS)
        error = {"grpc_code": int(code), "http_code": status, "message": message, "http_status": reason}
        line = (_text({"error": {**error, "code": int(code)}}).translate(_HTML) + "\n").encode()
        if self._begun:
            self._answer.write(line)
            self._answer.end()
        else:
            self._answer.respond(status, [*self._headers, *JSON], line)

    def _open(self) -> Stream | None:
        """Begin the stream, unless it is refused."""
        refused = refusal(self.server, self._target.route, self._target.head)
        if refused is not None:
            self._refuse(refused)
            return None
        self._stream = open_stream(self, 0, self._target.head, self._target.route)
        return self._stream


class DuplexExchange(StreamExchange):
    """A request with many answers and many messages, one after the other in a body that may take its time."""

    __slots__ = ("_deaf", "_splitter")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._splitter = ValueSplitter()
        self._deaf = False

    def receive(self, data: bytes) -> None:
        """Take the messages that are complete."""
        if self._done or self._deaf:
            return
        for value in self._splitter.feed(data):
            self._take(value)
            if self._done or self._deaf:
                return
        if self._splitter.size > 2 * self._target.max_message_bytes:
            self._end_with(_too_long(self._splitter.size, self._target.max_message_bytes))

    def body_ended(self) -> None:
        """Tell the handler that nothing more will come."""
        rest = self._splitter.rest()
        if not self._done and not self._deaf and rest.strip():
            self._take(rest)
        stream = self._stream
        if not self._done and not self._deaf and (stream or self._open()) is not None:
            self._half_close()

    def _take(self, value: bytes) -> None:
        try:
            message = self._message(value)
        except BadJson as bad:
            if self._stream is None:
                _Exchange.fail(self, 0, Code.INVALID_ARGUMENT, f"Failed to decode request: {bad}")
            else:
                self._half_close()  # as grpc-gateway does: it reads no further, and goes on answering
        except EtcdError as error:
            self._end_with(error)
        else:
            stream = self._stream or self._open()
            if stream is not None:
                deliver(stream, message)

    def _half_close(self) -> None:
        self._deaf = True
        if self._stream is not None:
            half_close(self._stream)

    def _end_with(self, error: EtcdError) -> None:
        if self._stream is None:
            self._refuse(error)
        else:
            self._stream.fail(error)


def _too_long(size: int, limit: int) -> EtcdError:
    """What grpc-go says of a message above its limit."""
    return RequestError.with_text(
        Code.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {limit})"
    )


EXCHANGES: dict[tuple[bool, bool], type[UnaryExchange] | type[StreamExchange]] = {
    (False, False): UnaryExchange,
    (False, True): StreamExchange,
    (True, True): DuplexExchange,
}
