"""One HTTP/1.1 connection to another member, client side: request bytes out, the answer to a sink as it comes.

The sink is called straight from the parser, so that a stream's bytes pass through no task. Bodies are not collected
here. Whatever ends an exchange early is told to the sink as a `PeerUnreachable`.
"""

import asyncio
from collections.abc import Iterable
from ssl import SSLContext
from typing import Final, NamedTuple, Protocol, cast

import httptools

from ratifyd.config.values import parse_url, split_host_port
from ratifyd.version import RATIFYD_VERSION

HEADER_LIMIT: Final = 65_536
"""Longest header block of an answer, in bytes."""
USER_AGENT: Final = f"ratifyd/{RATIFYD_VERSION}"

Headers = Iterable[tuple[str, str]]


class PeerUnreachable(ConnectionError):
    """No answer: not connected, broken off, timed out, or not HTTP."""


class Target(NamedTuple):
    """Where a URL leads: connections are shared by targets that are equal."""

    scheme: str
    host: str
    port: int
    unix_path: str

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("https", "unixs")


def target_of(base: str) -> tuple[Target, str]:
    """Target, and value of the Host header, of a URL without path as members advertise them. Raises ValueError."""
    scheme, address, _ = parse_url(base)
    if scheme in ("unix", "unixs"):
        return Target(scheme, "localhost", 0, address), "localhost"
    host, port = split_host_port(address)
    return Target(scheme, host or "localhost", int(port or ("443" if scheme == "https" else "80")), ""), address


def request_head(method: str, host: str, path: str, headers: Headers, length: int | None) -> bytes:
    """Encode request line and headers; `length` of the body is None when it is sent in chunks."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"User-Agent: {USER_AGENT}"]
    for name, value in headers:
        lines.append(f"{name}: {' '.join(value.split())}")
    if length is None:
        lines.append("Transfer-Encoding: chunked")
    elif length or method != "GET":
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def chunk(data: bytes) -> bytes:
    """Frame one non-empty piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK: Final = b"0\r\n\r\n"


class Sink(Protocol):
    """Takes one answer. After `end` or `failed` nothing more is called."""

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Header names are lower-case. May raise ValueError to break the connection off, as may `body`."""
        ...

    def body(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def failed(self, error: Exception) -> None: ...


class Connection(asyncio.Protocol):
    """One connection; one exchange at a time."""

    def __init__(self) -> None:
        self.reusable = True
        """Whether another exchange may follow the present one."""
        self.got_bytes = False
        """Whether anything of the present answer has arrived."""
        self.received = 0
        """Bytes received, ever."""
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._sink: Sink | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = False
        self._unfinished_bytes = 0
        self._reset()

    def _reset(self) -> None:
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._in_body = False
        self._until_eof = False

    def exchange(self, request: bytes, sink: Sink) -> None:
        """Send a request, whole or its head, and let `sink` have the answer."""
        assert self._sink is None, "the connection is busy"
        self._sink = sink
        self._unfinished_bytes = 0
        self.got_bytes = False
        if self._closed:
            self._fail(PeerUnreachable("connection is closed"))
            return
        self._transport.write(request)

    @property
    def idle(self) -> bool:
        """Whether a new exchange may start."""
        return self._sink is None and self.reusable and not self._closed

    async def write(self, data: bytes) -> None:
        """Send a piece of the request's body, when there is room for it; nothing is sent on a lost connection."""
        await self._writable.wait()
        if not self._closed:
            self._transport.write(data)

    def close(self) -> None:
        """Cut the connection; the sink is told if it still waits."""
        self.break_off(PeerUnreachable("connection was closed on this side"))

    def break_off(self, error: Exception) -> None:
        """Cut the connection, with this reason for the sink."""
        self.reusable = False
        self._transport.abort()
        self._fail(error)

    # -- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._sink is None:
            self.break_off(PeerUnreachable("bytes without a request"))
            return
        self.got_bytes = True
        self._unfinished_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            reason = error.__context__
            if not isinstance(reason, ValueError):
                raise
            self.break_off(reason)
            return
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.break_off(PeerUnreachable(f"answer is not HTTP: {error}"))
            return
        if self._unfinished_bytes > HEADER_LIMIT and self._sink is not None:
            # httptools says nothing of an unfinished line, and keeps that of a header or trailer, however long.
            self.break_off(PeerUnreachable("header, trailer or chunk line is too long"))

    def eof_received(self) -> bool:
        if self._in_body and self._until_eof:
            self._end()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        self.reusable = False
        self._writable.set()
        self._fail(PeerUnreachable(f"connection lost: {error}" if error else "connection closed by the other side"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- from the parser

    def on_message_begin(self) -> None:
        self._reset()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > HEADER_LIMIT:
            raise ValueError("header is too long")
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        before = self._headers.get(key)
        self._headers[key] = text if before is None else f"{before}, {text}"

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        headers = self._headers
        self._in_body = True
        self._unfinished_bytes = 0
        self._until_eof = (
            "content-length" not in headers
            and "chunked" not in headers.get("transfer-encoding", "").lower()
            and status not in (204, 304)
        )
        if self._until_eof or not self._parser.should_keep_alive():
            self.reusable = False
        if self._sink is not None:
            self._sink.head(status, headers)

    def on_body(self, data: bytes) -> None:
        self._unfinished_bytes = 0
        if self._sink is not None:
            self._sink.body(data)

    def on_message_complete(self) -> None:
        if self._in_body:  # not after a 100 Continue
            self._end()

    def _end(self) -> None:
        sink, self._sink = self._sink, None
        self._in_body = False
        if sink is not None:
            sink.end()

    def _fail(self, error: Exception) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.failed(error)


async def connect(target: Target, *, timeout_s: float, ssl: SSLContext | None) -> Connection:
    """Open a connection. `ssl` is needed for secure targets. Raises PeerUnreachable."""
    loop = asyncio.get_running_loop()
    if target.secure and ssl is None:
        raise PeerUnreachable(f"no TLS settings to call {target.scheme}://{target.host}")
    context = ssl if target.secure else None
    try:
        async with asyncio.timeout(timeout_s):
            if target.unix_path:
                name = "localhost" if context is not None else None
                _, connection = await loop.create_unix_connection(
                    Connection, target.unix_path, ssl=context, server_hostname=name
                )
            else:
                _, connection = await loop.create_connection(Connection, target.host, target.port, ssl=context)
    except TimeoutError:
        raise PeerUnreachable(f"no connection within {timeout_s:g} s") from None
    except (OSError, OverflowError, UnicodeError) as error:  # no such port, no possible name
        raise PeerUnreachable(str(error)) from error
    return connection
