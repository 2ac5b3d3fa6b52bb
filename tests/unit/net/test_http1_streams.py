"""Request bodies read while they arrive, and connections given away after the head of an answer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from ratifyd.net.bodies import HIGH_WATER
from ratifyd.net.connection import Acceptor
from ratifyd.net.http1 import Handle, HttpRequest, HttpResponse, chunk_of
from ratifyd.net.listener import Listener

WAIT_S = 5.0
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_with(main: Coroutine[Any, Any, None]) -> None:
        unhandled: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
            runner.run(main)
        assert not unhandled

    return run_with


@asynccontextmanager
async def serving(handle: Handle) -> AsyncIterator[tuple[Acceptor, int]]:
    """An acceptor that streams the bodies of POST /up, and its port."""
    acceptor = Acceptor(None, handle, body_streams=lambda method, path: (method, path) == ("POST", "/up"))
    listener = Listener.bind("http://127.0.0.1:0", flag="--x")
    await listener.serve(acceptor)
    try:
        yield acceptor, listener.port
    finally:
        listener.close()
        acceptor.abort()
        assert await acceptor.drained(WAIT_S)


async def collect(request: HttpRequest) -> HttpResponse:
    """Answer with what came."""
    body = request.body
    if request.stream is not None:
        body = b"streamed " + b"".join([piece async for piece in request.stream])
    return HttpResponse(200, [], body)


def test_a_streamed_body_and_the_requests_behind_it(run: Run) -> None:
    async def main() -> None:
        async with serving(collect) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = b"POST /up HTTP/1.1\r\nHost: h\r\n"
            writer.write(head + b"Content-Length: 5\r\n\r\nhello")
            writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
            writer.write(head + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello")
            writer.write(head + b"Content-Length: 0\r\n\r\n")
            writer.write(b"POST /other HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 3\r\n\r\nend")
            answers = await asyncio.wait_for(reader.read(), WAIT_S)
            assert answers.count(b"HTTP/1.1 200 OK") == 5
            assert answers.count(b"\r\n\r\nstreamed hello") == 3
            assert b"\r\n\r\nstreamed HTTP/1.1" in answers and answers.endswith(b"\r\n\r\nend")
            writer.close()

    run(main())


def test_a_streamed_body_behind_another_request_is_invited_in_its_turn(run: Run) -> None:
    async def main() -> None:
        go, seen = asyncio.Event(), asyncio.Event()

        async def handle(request: HttpRequest) -> HttpResponse:
            if request.path == "/first":
                seen.set()
                await go.wait()
            return await collect(request)

        async with serving(handle) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = b"POST /up HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
            writer.write(b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n" + head)
            await asyncio.wait_for(seen.wait(), WAIT_S)
            go.set()
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)).startswith(b"HTTP/1.1 200 OK")
            invited = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
            assert invited == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"ok")
            await asyncio.wait_for(reader.readuntil(b"streamed ok"), WAIT_S)
            writer.close()

    run(main())


def test_a_slow_reader_slows_the_sender_down(run: Run) -> None:
    async def main() -> None:
        go = asyncio.Event()
        seen = asyncio.Event()
        requests: list[HttpRequest] = []

        async def slow(request: HttpRequest) -> HttpResponse:
            requests.append(request)
            seen.set()
            await go.wait()
            return await collect(request)

        async with serving(slow) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            total = 40 << 20
            writer.write(b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % total)
            writer.write(bytes(total))
            await asyncio.wait_for(seen.wait(), WAIT_S)
            stream = requests[0].stream
            assert stream is not None
            async with asyncio.timeout(WAIT_S):
                while not stream.full:
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            assert stream._size < 2 * HIGH_WATER
            go.set()
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
            assert f"Content-Length: {total + 9}".encode() in head
            assert len(await asyncio.wait_for(reader.readexactly(total + 9), WAIT_S)) == total + 9
            writer.close()

    run(main())


@pytest.mark.parametrize("how", ["abort", "eof", "broken"])
def test_a_body_that_breaks_off_does_not_end(run: Run, how: str) -> None:
    async def main() -> None:
        outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        begun = asyncio.Event()

        async def handle(request: HttpRequest) -> HttpResponse:
            assert request.stream is not None
            try:
                async for _ in request.stream:
                    begun.set()
                outcome.set_result("ended")
            except (ConnectionError, asyncio.CancelledError):
                outcome.set_result("broke off")
                raise
            return HttpResponse(200)

        async with serving(handle) as (_, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /up HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n")
            await asyncio.wait_for(begun.wait(), WAIT_S)
            if how == "abort":
                writer.transport.abort()
            elif how == "eof":
                writer.write_eof()
            else:
                writer.write(b"zz\r\n")
            assert await asyncio.wait_for(outcome, WAIT_S) == "broke off"
            writer.close()

    run(main())


def test_an_answer_before_the_end_of_the_body_closes(run: Run) -> None:
    async def main() -> None:
        async def refuse(request: HttpRequest) -> HttpResponse:
            return HttpResponse(412, [], b"no")

        async with serving(refuse) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhello")
            answer = await asyncio.wait_for(reader.read(), WAIT_S)
            assert answer.startswith(b"HTTP/1.1 412 ") and answer.endswith(b"no")
            writer.close()

    run(main())


class Taker:
    """Takes a connection and notes what it is told."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.news: asyncio.Queue[str] = asyncio.Queue()

    def taken(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.news.put_nowait("taken")

    def pause_writing(self) -> None:
        self.news.put_nowait("pause")

    def resume_writing(self) -> None:
        self.news.put_nowait("resume")

    def closed(self) -> None:
        self.news.put_nowait("closed")

    async def hear(self, news: str) -> None:
        assert await asyncio.wait_for(self.news.get(), WAIT_S) == news


def test_a_connection_given_away(run: Run) -> None:
    async def main() -> None:
        taker = Taker()

        async def give(request: HttpRequest) -> HttpResponse:
            return HttpResponse(200, [("X-Kind", "stream")], taker=taker)

        async with serving(give) as (acceptor, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /s HTTP/1.1\r\nHost: h\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
            assert b"X-Kind: stream" in head and b"Transfer-Encoding: chunked" in head
            await taker.hear("taken")
            taker.transport.write(chunk_of(b"pushed"))
            assert await asyncio.wait_for(reader.readexactly(11), WAIT_S) == b"6\r\npushed\r\n"
            writer.write(b"GET /ignored HTTP/1.1\r\nHost: h\r\n\r\n")
            taker.transport.write(chunk_of(b"x" * (8 << 20)))
            await taker.hear("pause")
            await asyncio.wait_for(reader.readexactly((8 << 20) + 10), WAIT_S)
            await taker.hear("resume")
            assert len(acceptor.connections) == 1
            acceptor.go_away()
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
            await taker.hear("closed")
            writer.close()

    run(main())


def test_a_client_that_leaves_a_given_away_connection(run: Run) -> None:
    async def main() -> None:
        taker = Taker()

        async def give(request: HttpRequest) -> HttpResponse:
            return HttpResponse(200, taker=taker)

        async with serving(give) as (_, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /s HTTP/1.1\r\nHost: h\r\n\r\n")
            await taker.hear("taken")
            writer.close()
            await taker.hear("closed")

    run(main())
