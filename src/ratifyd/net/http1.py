"""HTTP/1.1 server side over httptools: requests in, one at a time, to an async handler; answers out, in order.

Keep-alive, pipelining, chunked bodies both ways, Expect: 100-continue, HEAD. A request is handed over when its body is
complete, or with `body_streams` as soon as its headers are. An answer may give its connection away for good, to push
what it likes when it likes. Bad or oversized input is answered once (400, 408, 413, 417, 431) and the connection
closed. A handler whose client goes away is cancelled; one that raises is logged and answered with 500.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import unquote

import httptools

from ratifyd.net.bodies import BodyStream

log = logging.getLogger("ratifyd.net")

MAX_PIPELINED = 16
LINGER_S = 0.5
_REASONS = {
    100: "Continue", 200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content",
    301: "Moved Permanently", 302: "Found", 304: "Not Modified", 307: "Temporary Redirect", 400: "Bad Request",
    401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
    409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed", 413: "Request Entity Too Large",
    415: "Unsupported Media Type", 417: "Expectation Failed", 421: "Misdirected Request", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 499: "Client Closed Request", 500: "Internal Server Error",
    501: "Not Implemented", 503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip
_BODYLESS = (204, 304)


class Http1Limits(NamedTuple):
    """What a client may send. Bodies of the gateway hold base64, a third larger than the request in them."""

    header_bytes: int = 65_536
    body_bytes: int = 4_194_304
    header_timeout_s: float = 30.0
    body_timeout_s: float | None = None
    """From the headers to the end of a body that is collected; None for as long as it takes."""


class HttpRequest:
    """A request. Header names are lower-case, repeated headers are joined by ", "; `path` is decoded.

    With `stream` the body is read from there and `body` is empty. A handler sets `ends_with_client` when a client that
    closes its side gives the request up; other clients get their answer all the same.
    """

    __slots__ = ("body", "ends_with_client", "headers", "method", "path", "peer", "query", "stream")

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        peer: str = "",
        stream: BodyStream | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.peer = peer
        self.stream = stream
        self.ends_with_client = False


class Taker(Protocol):
    """Takes a connection over after the head of an answer was sent on it."""

    def taken(self, transport: asyncio.Transport) -> None:
        """The connection is yours: write chunks (`chunk_of`) to it, close it. What the client still sends is lost."""
        ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def closed(self) -> None:
        """The connection is gone; nothing is called after this."""
        ...


class HttpResponse:
    """An answer. With `stream`, its pieces follow `body` as they come, one chunk each; the stream is always closed.

    With `taker`, a chunked body is announced and the connection given away; `body` is not sent.
    """

    __slots__ = ("body", "headers", "status", "stream", "taker")

    def __init__(
        self,
        status: int,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        stream: AsyncIterator[bytes] | None = None,
        taker: Taker | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.stream = stream
        self.taker = taker


Handle = Callable[[HttpRequest], Awaitable[HttpResponse]]
BodyStreams = Callable[[str, str], bool]
"""Whether requests with this method and path get their body as a stream, of any length."""


class _Pending(NamedTuple):
    """A request read, or a refusal in its place, waiting for its turn."""

    request: HttpRequest
    keep_alive: bool
    is_http10: bool
    refusal: HttpResponse | None


class Http1Connection(asyncio.Protocol):
    """One connection speaking HTTP/1."""

    def __init__(
        self,
        handle: Handle,
        limits: Http1Limits,
        lost: Callable[["Http1Connection"], None],
        peer: str,
        body_streams: BodyStreams | None = None,
    ) -> None:
        self._handle = handle
        self._limits = limits
        self._lost = lost
        self._peer = peer
        self._body_streams = body_streams
        self._stream: BodyStream | None = None  # of the request whose body is arriving
        self._taker: Taker | None = None
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[_Pending] = deque()
        self._task: asyncio.Task[None] | None = None
        self._current: HttpRequest | None = None  # being handled
        self._timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._leaving = False
        self._input_over = False
        self._streaming = False
        self._unfinished_bytes = 0
        self._declining = False  # an offer to upgrade: see `_feed`
        self._reset_request()

    def _reset_request(self) -> None:
        self._in_request = False
        self._headers_done = False
        self._header_bytes = 0
        self._hosts = 0
        self._method = ""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._continue_wanted = False

    # -- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._input_over:
            return
        self._unfinished_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Refused):
                raise
            return
        except httptools.HttpParserError:
            self._refuse(400)
            return
        self._after_input()

    def eof_received(self) -> bool:
        """A half-closed client still gets the answers it asked for, but streams end: that client is likely gone."""
        if self._stream is not None:
            self._stream.fail(ConnectionResetError("the body broke off"))
        if self._task is None or self._streaming or self._input_over or self._ends_with_client():
            return False
        self._input_over = True
        self._stop_timer()
        return True

    def _ends_with_client(self) -> bool:
        return self._current is not None and self._current.ends_with_client

    def pause_writing(self) -> None:
        self._writable.clear()
        if self._taker is not None:
            self._taker.pause_writing()

    def resume_writing(self) -> None:
        self._writable.set()
        if self._taker is not None:
            self._taker.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._input_over = True
        self._queue.clear()
        self._stop_timer()
        if self._stream is not None:
            self._stream.fail(ConnectionResetError("the body broke off"))
        if self._task is not None:
            self._task.cancel()
        self._lost(self)
        if self._taker is not None:
            self._taker.closed()

    # -- from the acceptor

    def go_away(self) -> None:
        """Close after the answer under way; at once when there is none."""
        self._leaving = True
        if self._task is None and not self._queue:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    # -- from the parser

    def on_message_begin(self) -> None:
        if not self._declining:
            self._reset_request()
            self._in_request = True

    def on_url(self, url: bytes) -> None:
        if not self._declining:
            self._url += url
            self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._declining:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if key == "host" and not self._headers_done:
            self._hosts += 1
        before = self._headers.get(key)
        self._headers[key] = text if before is None else f"{before}, {text}"
        self._count_header(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        if self._declining:
            self._declining = False
            return
        self._declining = self._parser.should_upgrade()
        self._method = self._parser.get_method().decode("latin-1")
        self._headers_done = True
        self._unfinished_bytes = 0
        self._stop_timer()
        streams = self._body_streams is not None and self._wants_stream(self._body_streams)
        self._check_host()
        length = self._headers.get("content-length", "")
        if not streams and length.isdecimal() and int(length) > self._limits.body_bytes:
            raise self._refuse(413)
        expect = self._headers.get("expect")
        if expect is not None and self._parser.get_http_version() == "1.1":
            if expect.lower() != "100-continue":
                raise self._refuse(417)
            self._continue_wanted = True
            if self._task is None and not self._queue:  # else answers to earlier requests have to go first
                self._send_continue()
        if streams:
            self._stream = BodyStream(self._read_or_rest)
            self._enqueue_request(self._stream)

    def _check_host(self) -> None:
        """RFC 9112 §3.2, in the words of Go's server."""
        if self._hosts > 1:
            raise self._refuse(400)
        if not self._hosts and self._parser.get_http_version() == "1.1" and self._method != "CONNECT":
            raise self._refuse(400, ": missing required Host header")

    def _wants_stream(self, body_streams: BodyStreams) -> bool:
        return body_streams(self._method, self._target()[0])

    def _target(self) -> tuple[str, str]:
        try:
            return _split_target(self._url)
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            raise self._refuse(400) from None

    def on_body(self, data: bytes) -> None:
        self._continue_wanted = False
        self._unfinished_bytes = 0
        if self._stream is not None:
            self._stream.feed(data)
            return
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.body_bytes:
            raise self._refuse(413)
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._declining:
            return
        self._unfinished_bytes = 0
        self._stop_timer()
        if self._stream is not None:
            self._stream.end()
            self._stream = None
        else:
            self._enqueue_request(None)
        self._reset_request()

    def _enqueue_request(self, stream: BodyStream | None) -> None:
        path, query = self._target()
        request = HttpRequest(self._method, path, query, self._headers, b"".join(self._body), self._peer, stream)
        is_http10 = self._parser.get_http_version() == "1.0"
        self._enqueue(_Pending(request, self._parser.should_keep_alive(), is_http10, None))

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self._limits.header_bytes:
            raise self._refuse(431)

    # -- reading

    def _feed(self, data: bytes) -> None:
        """Parse. Offers such as `Upgrade: h2c` are declined by answering in HTTP/1.1 and reading on.

        httptools ends a request with an offer at its head, whatever body was announced. The body is then read by a new
        parser, behind a head that says no more than where the body ends; until it has seen that, `_declining` is set.
        """
        rest: bytes | memoryview = data
        while not self._input_over:
            try:
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                head = self._framing_head()
                self._parser = httptools.HttpRequestParser(self)
                self._parser.feed_data(head)
                rest = memoryview(rest)[upgrade.args[0] :]

    def _framing_head(self) -> bytes:
        """A head for the body of the request under way, and for what becomes of the connection after it."""
        names = ("content-length", "transfer-encoding")
        lines = [f"{name}: {self._headers[name]}\r\n" for name in names if name in self._headers]
        connection = "keep-alive" if self._parser.should_keep_alive() else "close"
        version = self._parser.get_http_version()
        return f"POST / HTTP/{version}\r\nconnection: {connection}\r\n{''.join(lines)}\r\n".encode("latin-1")

    def _after_input(self) -> None:
        """Bound what has come to nothing so far, and the time to finish headers and body.

        httptools says nothing of an unfinished line, and keeps that of a header or trailer, however long. Chunk sizes,
        what may stand behind them, and empty lines before a request can be endless too.
        """
        limits = self._limits
        if self._unfinished_bytes > limits.header_bytes:
            self._refuse(431 if self._in_request else 400)
        elif self._in_request and self._timer is None and self._stream is None:
            seconds = limits.body_timeout_s if self._headers_done else limits.header_timeout_s
            if seconds is not None:
                self._timer = self._loop.call_later(seconds, self._refuse, 408)

    def _refuse(self, status: int, detail: str = "") -> "_Refused":
        """Queue an error as the last answer of this connection and read no more."""
        self._input_over = True
        self._stop_timer()
        if self._stream is not None:
            self._stream.fail(ConnectionError("the body is broken"))
        request = HttpRequest("", "", "", {}, b"", self._peer)
        text = f"{status} {_REASONS[status]}{detail}".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        self._enqueue(_Pending(request, False, False, HttpResponse(status, headers, text)))
        return _Refused()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send_continue(self) -> None:
        """Invite the body, if that was asked for."""
        if self._continue_wanted:
            self._continue_wanted = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # -- answering

    def _enqueue(self, pending: _Pending) -> None:
        self._queue.append(pending)
        if len(self._queue) >= MAX_PIPELINED:
            self._read_or_rest()
        if self._task is None:
            self._task = self._loop.create_task(self._answer_all())

    def _read_or_rest(self) -> None:
        """Read from the client unless too many requests, or too much of a body, wait already."""
        if self._transport.is_closing():
            return
        rest = len(self._queue) >= MAX_PIPELINED or (self._stream is not None and self._stream.full)
        if rest == self._transport.is_reading():
            if rest:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    async def _answer_all(self) -> None:
        """Answer what is queued, in order; ends when there is nothing left, or with the connection."""
        try:
            while self._queue:
                pending = self._queue.popleft()
                if not self._input_over and not self._transport.is_reading():
                    self._read_or_rest()
                stream = pending.request.stream
                if stream is not None and stream is self._stream:
                    self._send_continue()
                keep_alive = await self._answer(pending)
                if self._taker is not None:
                    return
                unread = pending.refusal is not None or (stream is not None and not stream.ended)
                if not keep_alive or unread:
                    self._close_politely(unread=unread)
                    return
                await self._writable.wait()
        finally:
            self._task = None
        if self._leaving or self._input_over:
            self._transport.close()
        else:
            self._send_continue()

    def _close_politely(self, *, unread: bool) -> None:
        """Close. After a refusal the client may still be sending: a reset would make it miss the answer, so linger."""
        self._input_over = True
        self._stop_timer()
        if unread and self._transport.can_write_eof():
            with suppress(OSError):  # asyncio shuts down a socket its client has reset, and says so
                self._transport.write_eof()
            self._timer = self._loop.call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()

    async def _answer(self, pending: _Pending) -> bool:
        """Send one answer; whether the connection may be used further."""
        response = pending.refusal
        if response is None:
            self._current = pending.request
            try:
                response = await self._handle(pending.request)
            except Exception:  # a handler's bug costs its request, not the connection or the member
                log.exception("HTTP request failed", extra={"fields": {"path": pending.request.path}})
                response = HttpResponse(500, [("Content-Type", "text/plain; charset=utf-8")], b"internal error")
            finally:
                self._current = None
        keep_alive = pending.keep_alive and not self._leaving
        if response.taker is not None:
            self._give_away(pending, response, response.taker)
            return True
        if response.stream is not None:
            return await self._answer_stream(pending, response, response.stream, keep_alive)
        head = _head(response, pending, keep_alive, len(response.body))
        has_body = pending.request.method != "HEAD" and response.status not in _BODYLESS
        self._transport.write(head + response.body if has_body else head)
        return keep_alive

    def _give_away(self, pending: _Pending, response: HttpResponse, taker: Taker) -> None:
        self._input_over = True
        self._queue.clear()
        self._transport.write(_head(response, pending, True, None))
        if not self._transport.is_reading():
            self._transport.resume_reading()  # or the end of the connection would go unnoticed
        self._taker = taker
        taker.taken(self._transport)
        if self._leaving:
            self._transport.close()

    async def _answer_stream(
        self, pending: _Pending, response: HttpResponse, stream: AsyncIterator[bytes], keep_alive: bool
    ) -> bool:
        """Send pieces as they come: chunked, or until the end of the connection for HTTP/1.0."""
        self._streaming = True
        chunked = not pending.is_http10
        keep_alive = keep_alive and chunked
        try:
            self._transport.write(_head(response, pending, keep_alive, None))
            if pending.request.method == "HEAD":
                return keep_alive
            if response.body:
                self._transport.write(chunk_of(response.body) if chunked else response.body)
            async for piece in stream:
                if piece:
                    self._transport.write(chunk_of(piece) if chunked else piece)
                    await self._writable.wait()
        except Exception:  # half an answer is out: only the end of the connection tells the client
            log.exception("HTTP answer broke off", extra={"fields": {"path": pending.request.path}})
            self._transport.abort()
            return False
        finally:
            self._streaming = False
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()
        if chunked:
            self._transport.write(b"0\r\n\r\n")
        return keep_alive


class _Refused(Exception):
    """Ends the parse of input that is being refused."""


def _split_target(url: bytes) -> tuple[str, str]:
    """Decoded path, and raw query, of a request target in origin or absolute form."""
    if url == b"*" or not url:
        return "*", ""
    parsed: Any = httptools.parse_url(url)
    path = (parsed.path or b"/").decode("ascii")
    return unquote(path) if "%" in path else path, (parsed.query or b"").decode("ascii")


def chunk_of(data: bytes) -> bytes:
    """Frame one non-empty piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head(response: HttpResponse, pending: _Pending, keep_alive: bool, length: int | None) -> bytes:
    """Status line and headers; `length` is None for a stream."""
    version = "1.0" if pending.is_http10 else "1.1"
    lines = [f"HTTP/{version} {response.status} {_REASONS.get(response.status, 'Status')}"]
    for name, value in response.headers:
        if "\r" in value or "\n" in value:
            value = " ".join(value.split())
        lines.append(f"{name}: {value}")
    lines.append(f"Date: {_http_date(int(time.time()))}")
    if length is not None and response.status != 204:
        lines.append(f"Content-Length: {length}")
    elif length is None and not pending.is_http10:
        lines.append("Transfer-Encoding: chunked")
    if not keep_alive:
        lines.append("Connection: close")
    elif pending.is_http10:
        lines.append("Connection: keep-alive")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


@lru_cache(maxsize=1)
def _http_date(second: int) -> str:
    """The Date header, made once a second."""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second))
