"""HTTP/1.1 over real sockets with raw bytes, under asyncio and uvloop."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from ratifyd.net.connection import Acceptor
from ratifyd.net.http1 import Http1Limits, HttpRequest, HttpResponse
from ratifyd.net.listener import Listener

WAIT_S = 5.0
LIMITS = Http1Limits(header_bytes=1000, body_bytes=100, header_timeout_s=0.1)
Answer = Callable[[HttpRequest], Awaitable[HttpResponse]]


class Server:
    """A listener on a free port, and what happened to it."""

    def __init__(self, handle: Answer | None = None, limits: Http1Limits = LIMITS) -> None:
        self.requests: list[HttpRequest] = []
        self._handle = handle
        self.acceptor = Acceptor(None, self._record, http1_limits=limits)
        self.listener = Listener.bind("http://127.0.0.1:0", flag="--x")

    async def _record(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        return (
            await self._handle(request) if self._handle else HttpResponse(200, [("X-Path", request.path)], request.body)
        )

    async def __aenter__(self) -> "Server":
        await self.listener.serve(self.acceptor)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.listener.close()
        self.acceptor.abort()
        assert await self.acceptor.drained(WAIT_S)

    async def connect(self) -> "Client":
        return Client(*await asyncio.open_connection("127.0.0.1", self.listener.port))

    async def talk(self, data: bytes) -> bytes:
        """Send bytes, half-close, read to the end."""
        client = await self.connect()
        client.writer.write(data)
        client.writer.write_eof()
        return await client.rest()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def until(self, end: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(end), WAIT_S)

    async def rest(self) -> bytes:
        data = await asyncio.wait_for(self.reader.read(), WAIT_S)
        self.writer.close()
        return data


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run_with(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main)

    return run_with


Run = Callable[[Coroutine[Any, Any, None]], None]


def parts(answer: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    return status, dict(line.split(b": ", 1) for line in lines), body  # type: ignore[misc]


def test_a_request_and_its_answer(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            raw = b"POST /a%20b?x=1&y HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 3\r\n\r\nabc"
            status, headers, body = parts(await server.talk(raw))
            assert (status, body) == (b"HTTP/1.1 200 OK", b"abc")
            assert headers[b"Content-Length"] == b"3"
            assert headers[b"X-Path"] == b"/a b"
            assert headers[b"Date"].endswith(b" GMT")
            (request,) = server.requests
            assert (request.method, request.path, request.query, request.body) == ("POST", "/a b", "x=1&y", b"abc")
            assert request.headers["x-a"] == "1, 2"
            assert request.peer.startswith("127.0.0.1:")

    run(main())


def test_keep_alive_and_a_body_on_get(run: Run) -> None:
    """python-etcd's habit: a GET with the body {} on a connection that is used again."""

    async def main() -> None:
        async with Server() as server:
            client = await server.connect()
            for _ in range(3):
                client.writer.write(b"GET /version HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
                assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
                assert await client.reader.readexactly(2) == b"{}"
            assert len(server.requests) == 3
            client.writer.close()

    run(main())


def test_pipelined_answers_keep_their_order(run: Run) -> None:
    async def main() -> None:
        gates = {f"/{n}": asyncio.Event() for n in range(40)}

        async def handle(request: HttpRequest) -> HttpResponse:
            await gates[request.path].wait()
            return HttpResponse(200, [], request.path.encode())

        async with Server(handle) as server:
            client = await server.connect()
            client.writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(40)))
            for n in reversed(range(40)):
                gates[f"/{n}"].set()
            for n in range(40):
                head = await client.until(b"\r\n\r\n")
                length = int(parts(head)[1][b"Content-Length"])
                assert await client.reader.readexactly(length) == b"/%d" % n
            client.writer.close()

    run(main())


def test_byte_by_byte_with_a_chunked_body(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            client = await server.connect()
            raw = b"PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
            for at in range(len(raw)):
                client.writer.write(raw[at : at + 1])
                await client.writer.drain()
            assert (await client.until(b"abcde")).startswith(b"HTTP/1.1 200 OK")
            client.writer.close()

    run(main())


def test_expect_continue(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            client = await server.connect()
            client.writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.writer.write(b"ok")
            assert (await client.until(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200 OK")
            client.writer.close()
            raw = b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 200-maybe\r\nContent-Length: 2\r\n\r\n"
            assert (await server.talk(raw)).startswith(b"HTTP/1.1 417 Expectation Failed")

    run(main())


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (b"GET / HTTP/1.1\r\n", b"400 Bad Request: missing required Host header"),
        (b"GET http://h/ HTTP/1.1\r\n", b"400 Bad Request: missing required Host header"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nhost: h\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.0\r\nHost: h\r\nHost: g\r\n", b"400 Bad Request"),
    ],
)
def test_a_request_names_its_host_once(run: Run, head: bytes, text: bytes) -> None:
    async def main() -> None:
        async with Server() as server:
            status, headers, body = parts(await server.talk(head + b"\r\n" + head + b"\r\n"))
            assert (status[9:], headers[b"Connection"], body) == (b"400 Bad Request", b"close", text)
            assert server.requests == []
            fine = b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"
            assert [parts(await server.talk(raw))[0][9:] for raw in fine] == [b"200 OK"] * 2
            trailer = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: g\r\n\r\n"
            assert (await server.talk(trailer)).startswith(b"HTTP/1.1 200 OK")

    run(main())


def test_head_has_no_body(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            raw = b"HEAD /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"
            status, headers, body = parts(await server.talk(raw))
            assert (status, headers[b"Content-Length"], body) == (b"HTTP/1.1 200 OK", b"2", b"")

    run(main())


def test_http10_closes_unless_asked(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            client = await server.connect()
            client.writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert b"Connection: keep-alive" in await client.until(b"\r\n\r\n")
            client.writer.write(b"GET / HTTP/1.0\r\n\r\n")
            status, headers, _ = parts(await client.rest())
            assert (status, headers[b"Connection"]) == (b"HTTP/1.0 200 OK", b"close")

    run(main())


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nBad Header: 1\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 101\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101, 413),
        (b"GET /" + b"x" * 1100 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 300 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 2100, 431),
    ],
)
def test_refusals_are_answered_once_and_close(run: Run, raw: bytes, status: int) -> None:
    async def main() -> None:
        async with Server() as server:
            client = await server.connect()
            client.writer.write(raw)
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer
            assert answer.count(b"HTTP/1.1") == 1
            assert parts(answer)[1][b"Connection"] == b"close"
            assert server.requests == []

    run(main())


CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "more", "status"),
    [
        (b"\r\n", b"\r\n", 400),
        (b"GET /", b"x", 431),
        (b"GET / ", b" ", 431),
        (b"GET / HTTP/1.1\r\n", b"X", 431),
        (b"GET / HTTP/1.1\r\nX: ", b"x", 431),
        (b"GET / HTTP/1.1\r\nX: ", b" ", 431),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n", 431),
        (CHUNKED, b"0", 431),
        (CHUNKED + b"5;", b"x", 431),
        (CHUNKED + b"5\r\nhello\r\n0;", b"x", 431),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", b"X", 431),
        (CHUNKED + b"5\r\nhello\r\n0\r\nX: ", b"x", 431),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", b"X: y\r\n", 431),
    ],
)
def test_what_never_ends_is_refused(run: Run, start: bytes, more: bytes, status: int) -> None:
    async def main() -> None:
        async with Server(limits=LIMITS._replace(header_timeout_s=WAIT_S)) as server:
            client = await server.connect()
            client.writer.write(start)
            answer = asyncio.create_task(client.rest())
            for _ in range(1000):
                if answer.done():
                    break
                client.writer.write(more * 100)
                await asyncio.sleep(0.0005)  # in pieces: what one read brings is bounded anyway
            found = await answer
            assert found.startswith(b"HTTP/1.1 %d " % status), found[:100]
            assert parts(found)[1][b"Connection"] == b"close"
            assert server.requests == []

    run(main())


def test_what_is_finished_does_not_count_as_unfinished(run: Run) -> None:
    async def main() -> None:
        async with Server(limits=LIMITS._replace(header_timeout_s=WAIT_S)) as server:
            client = await server.connect()
            ready = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 90\r\n\r\n" + bytes(90)
            client.writer.write(20 * ready + b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: cl")
            for _ in range(20):
                await client.until(bytes(90))
            client.writer.write(b"ose\r\n\r\n")
            assert b"X-Path: /last" in await client.rest()
            slow = await server.connect()
            slow.writer.write(CHUNKED)
            for _ in range(90):  # more than a header may have, but each bit of it leads somewhere
                slow.writer.write(b"1;%b\r\na\r\n" % (b"x" * 40))
                await asyncio.sleep(0.0005)
            slow.writer.write(b"0\r\nA: trailer\r\n\r\n")
            assert b" 200 OK" in await slow.until(b"\r\n\r\n")
            slow.writer.close()

    run(main())


def test_slow_bodies_time_out_only_where_there_is_a_limit(run: Run) -> None:
    async def main() -> None:
        for limits in (LIMITS._replace(body_timeout_s=0.1), LIMITS._replace(header_timeout_s=0.05)):
            async with Server(limits=limits) as server:
                client = await server.connect()
                client.writer.write(CHUNKED + b"1\r\na\r\n")
                if limits.body_timeout_s is not None:
                    assert (await client.rest()).startswith(b"HTTP/1.1 408 Request Timeout")
                    continue
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.reader.read(1), 0.2)
                client.writer.write(b"0\r\n\r\n")
                assert b" 200 OK" in await client.until(b"\r\n\r\n")
                client.writer.close()

    run(main())


def test_answers_before_a_bad_request_come_first(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            client = await server.connect()
            client.writer.write(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGARBAGE\r\n\r\nGET /2 HTTP/1.1\r\n\r\n")
            answer = await client.rest()
            assert [line.split()[1] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/")] == [b"200", b"400"]
            assert [request.path for request in server.requests] == ["/1"]

    run(main())


def test_slow_headers_time_out(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            client = await server.connect()
            client.writer.write(b"GET / HTTP/1.1\r\nHos")
            assert (await client.rest()).startswith(b"HTTP/1.1 408 Request Timeout")

    run(main())


def test_an_idle_connection_does_not_time_out_between_requests(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            client = await server.connect()
            for _ in range(2):
                client.writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                await client.until(b"\r\n\r\n")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.reader.read(1), 2 * LIMITS.header_timeout_s)
            client.writer.close()

    run(main())


def test_upgrade_offers_are_declined(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            raw = b"GET /1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
            answer = await server.talk(raw + b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
            assert answer.count(b"HTTP/1.1 200 OK") == 2
            assert [request.path for request in server.requests] == ["/1", "/2"]

    run(main())


_INNER = b"GET /evil HTTP/1.1\r\nHost: h\r\n\r\n"
_OFFER = b"Host: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


@pytest.mark.parametrize("framing", ["length", "chunked", "both sides"])
@pytest.mark.parametrize("cut", ["whole", "body later", "by the byte"])
def test_a_request_that_offers_an_upgrade_has_its_body(run: Run, framing: str, cut: str) -> None:
    """Else the body would be the next request: curl --http2 and Java's client offer h2c with what they post."""
    head, body = b"POST /1 HTTP/1.1\r\n" + _OFFER, _INNER
    if framing == "chunked":
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        body = b"%x;ext\r\n%b\r\n%x\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (10, _INNER[:10], len(_INNER) - 10, _INNER[10:])
    else:
        head += b"Content-Length: %d\r\n\r\n" % len(body)
    behind = b"GET /2 HTTP/1.1\r\n" + (_OFFER if framing == "both sides" else b"Host: h\r\n") + b"\r\n"

    async def main() -> None:
        async with Server() as server:
            client = await server.connect()
            data = head + body + behind
            pieces = [data] if cut == "whole" else [data[at : at + 1] for at in range(len(data))]
            for piece in [head, body, behind] if cut == "body later" else pieces:
                client.writer.write(piece)
                await asyncio.sleep(0)
            assert (await client.until(_INNER)).startswith(b"HTTP/1.1 200 OK")
            await client.until(b"X-Path: /2\r\n")
            first, second = server.requests
            assert (first.body, first.headers["upgrade"], first.headers["host"]) == (_INNER, "h2c", "h")
            assert (first.method, first.path) == ("POST", "/1")
            assert (second.method, second.path, second.body) == ("GET", "/2", b"")
            client.writer.close()

    run(main())


def test_a_request_that_offers_an_upgrade_may_expect_and_close(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            client = await server.connect()
            head = b"POST /1 HTTP/1.1\r\n" + _OFFER.replace(b"Upgrade,", b"Upgrade, close,")
            client.writer.write(head + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.writer.write(b"ok")
            status, headers, body = parts(await client.rest())
            assert (status, headers[b"Connection"], body) == (b"HTTP/1.1 200 OK", b"close", b"ok")
            assert len(server.requests) == 1

    run(main())


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"Transfer-Encoding: gzip\r\n\r\nx", b"400 Bad Request"),
        (b"Transfer-Encoding: chunked\r\n\r\nx\r\n", b"400 Bad Request"),
        (b"Transfer-Encoding: chunked\r\n\r\nc8\r\n" + bytes(200), b"413 Request Entity Too Large"),
        (b"Content-Length: 101\r\n\r\n", b"413 Request Entity Too Large"),
        (b"Content-Length: 2\r\n\r\nx", b"408 Request Timeout"),
    ],
)
def test_a_body_behind_an_offer_is_judged_as_any(run: Run, fields: bytes, status: bytes) -> None:
    async def main() -> None:
        async with Server(limits=LIMITS._replace(body_timeout_s=0.1)) as server:
            client = await server.connect()
            client.writer.write(b"POST /1 HTTP/1.1\r\n" + _OFFER + fields)
            assert (await client.rest()).startswith(b"HTTP/1.1 " + status)
            assert server.requests == []

    run(main())


def test_many_upgrade_offers_at_once_are_declined(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            offer = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
            answer = await server.talk(2000 * offer)
            assert answer.count(b"HTTP/1.1 200 OK") == 2000

    run(main())


def test_a_failing_handler_is_a_500(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def handle(request: HttpRequest) -> HttpResponse:
            raise KeyError("oops")

        async with Server(handle) as server:
            client = await server.connect()
            client.writer.write(
                b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            )
            assert (await client.rest()).count(b"HTTP/1.1 500 Internal Server Error") == 2

    run(main())
    assert "HTTP request failed" in caplog.text


def test_header_values_cannot_split_the_answer(run: Run) -> None:
    async def main() -> None:
        async def handle(request: HttpRequest) -> HttpResponse:
            return HttpResponse(200, [("X-A", "1\r\nSet-Cookie: x")])

        async with Server(handle) as server:
            assert b"\r\nX-A: 1 Set-Cookie: x\r\n" in await server.talk(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")

    run(main())


def test_streams_are_chunked_and_closed(run: Run) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"one"
                yield b""
                yield b"three"
            finally:
                ended.set()

        async def handle(request: HttpRequest) -> HttpResponse:
            return HttpResponse(200, [], b"", pieces())

        async with Server(handle) as server:
            client = await server.connect()
            client.writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = await client.until(b"\r\n0\r\n\r\n")
            assert b"Transfer-Encoding: chunked" in answer
            assert answer.endswith(b"\r\n\r\n3\r\none\r\n5\r\nthree\r\n0\r\n\r\n")
            assert ended.is_set()
            client.writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert (await client.rest()).endswith(b"\r\n\r\nonethree")

    run(main())


@pytest.mark.parametrize("half_close", [False, True])
def test_a_stream_ends_with_its_client(run: Run, half_close: bool) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        async def handle(request: HttpRequest) -> HttpResponse:
            return HttpResponse(200, [], b"", pieces())

        async with Server(handle) as server:
            client = await server.connect()
            client.writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await client.until(b"first")
            client.writer.write_eof() if half_close else client.writer.close()
            await asyncio.wait_for(ended.wait(), WAIT_S)

    run(main())


def test_a_handler_whose_client_is_gone_is_cancelled(run: Run) -> None:
    async def main() -> None:
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def handle(request: HttpRequest) -> HttpResponse:
            started.set()
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return HttpResponse(200)

        async with Server(handle) as server:
            client = await server.connect()
            client.writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await asyncio.wait_for(started.wait(), WAIT_S)
            client.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            client.writer.transport.abort()
            await asyncio.wait_for(cancelled.wait(), WAIT_S)

    run(main())


def test_go_away_finishes_what_is_under_way(run: Run) -> None:
    async def main() -> None:
        started, go_on = asyncio.Event(), asyncio.Event()

        async def handle(request: HttpRequest) -> HttpResponse:
            started.set()
            await go_on.wait()
            return HttpResponse(200, [], b"done")

        async with Server(handle) as server:
            idle = await server.connect()
            busy = await server.connect()
            busy.writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await asyncio.wait_for(started.wait(), WAIT_S)
            server.listener.close()
            server.acceptor.go_away()
            assert await idle.rest() == b""
            assert not await server.acceptor.drained(0.01)
            go_on.set()
            status, headers, body = parts(await busy.rest())
            assert (status, headers[b"Connection"], body) == (b"HTTP/1.1 200 OK", b"close", b"done")
            assert await server.acceptor.drained(WAIT_S)

    run(main())


def test_a_large_answer_to_a_slow_reader_arrives_whole(run: Run) -> None:
    size = 8 << 20

    async def main() -> None:
        async def handle(request: HttpRequest) -> HttpResponse:
            return HttpResponse(200, [], b"z" * size)

        async with Server(handle) as server:
            client = await server.connect()
            client.writer.write(
                b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            )
            answer = await client.rest()
            assert answer.count(b"z") == 2 * size

    run(main())
