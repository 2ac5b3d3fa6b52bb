"""HTTP/1.1 for a front, over real sockets: bodies and answers bit by bit, slow and vanishing clients."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ratifyd.api.exchange import Answer, Answered, Incoming
from ratifyd.api.gateway import Request
from ratifyd.embed.http import process_variables, serve_front
from ratifyd.net.connection import Acceptor
from ratifyd.net.listener import Listener

WAIT_S = 5.0
PIECE = b"x" * 65536


class Scripted:
    """A request under way, whose parts are written down; `begun` is set when it is."""

    def __init__(self, answer: Answer, when_asked: "Callable[[Scripted, bytes], None]") -> None:
        self.answer = answer
        self.news: asyncio.Queue[str] = asyncio.Queue()
        self.received = 0
        self._when_asked = when_asked

    def receive(self, data: bytes) -> None:
        self.received += len(data)
        self._when_asked(self, data)

    def body_ended(self) -> None:
        self.news.put_nowait("ended")

    def writable(self) -> None:
        self.news.put_nowait("writable")

    def lost(self) -> None:
        self.news.put_nowait("lost")


class Front:
    """Answers with what the test scripts; paths under /page are answered without their body."""

    def __init__(self, when_asked: Callable[[Scripted, bytes], None]) -> None:
        self.requests: asyncio.Queue[Scripted] = asyncio.Queue()
        self._when_asked = when_asked

    def wants_body_stream(self, method: str, path: str) -> bool:
        return path == "/stream"

    def handle(self, request: Request, answer: Answer) -> Incoming:
        if request.path == "/page":
            answer.respond(200, [], b"page")
            return Answered()
        scripted = Scripted(answer, self._when_asked)
        self.requests.put_nowait(scripted)
        return scripted


def run(front: Front, script: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        acceptor = Acceptor(None, serve_front(front), body_streams=front.wants_body_stream)  # type: ignore[arg-type]
        listener = Listener.bind("http://127.0.0.1:0", flag="--x")
        await listener.serve(acceptor)
        try:
            await script(lambda: asyncio.open_connection("127.0.0.1", listener.port))
        finally:
            listener.close()
            acceptor.abort()
            assert await acceptor.drained(WAIT_S)

    asyncio.run(asyncio.wait_for(main(), 30))


def _head(path: str, more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


CHUNKED = "Transfer-Encoding: chunked\r\n"


async def _news(scripted: Scripted, wanted: str) -> None:
    while await asyncio.wait_for(scripted.news.get(), WAIT_S) != wanted:
        pass


def test_messages_both_ways_while_the_body_lasts() -> None:
    def echo(scripted: Scripted, data: bytes) -> None:
        if scripted.received == len(data):
            scripted.answer.begin(200, [("X-Kind", "echo")])
        scripted.answer.write(data.upper())

    front = Front(echo)

    async def script(connect: Any) -> None:
        reader, writer = await connect()
        writer.write(_head("/stream", CHUNKED))
        for text in (b"one", b"two"):
            writer.write(b"3\r\n" + text + b"\r\n")
            expected = b"3\r\n" + text.upper() + b"\r\n"
            head = await reader.readuntil(expected)
        assert head == expected, "one message, one chunk"
        scripted = await front.requests.get()
        writer.write(b"0\r\n\r\n")
        await _news(scripted, "ended")
        scripted.answer.end()
        assert await reader.readuntil(b"0\r\n\r\n") == b"0\r\n\r\n"
        writer.write(_head("/page"))
        assert b"page" in await reader.readuntil(b"page"), "the connection goes on"
        writer.close()

    run(front, script)


def test_others_get_their_turn_between_the_pieces_of_a_body() -> None:
    turn = 0
    turns: list[int] = []

    def count(scripted: Scripted, data: bytes) -> None:
        turns.append(turn)

    front = Front(count)

    async def script(connect: Any) -> None:
        nonlocal turn
        _, writer = await connect()
        writer.write(_head("/stream", CHUNKED) + b"3\r\none\r\n" * 20 + b"0\r\n\r\n")
        while len(turns) < 20:
            turn += 1
            await asyncio.sleep(0)
        writer.close()

    run(front, script)
    assert len(set(turns)) == len(turns)


def test_a_body_is_read_no_faster_than_its_answers() -> None:
    def flood(scripted: Scripted, data: bytes) -> None:
        if scripted.received == len(data):
            scripted.answer.begin(200, [])
        scripted.answer.write(PIECE * 5)

    front = Front(flood)

    async def script(connect: Any) -> None:
        reader, writer = await connect()
        writer.write(_head("/stream", CHUNKED))
        scripted = None
        sent = 0
        while scripted is None or sent < 400:
            writer.write(b"%x\r\n%b\r\n" % (1000, b"a" * 1000))
            sent += 1
            try:
                await asyncio.wait_for(writer.drain(), 0.2)
            except TimeoutError:
                break
            if scripted is None and not front.requests.empty():
                scripted = front.requests.get_nowait()
            await asyncio.sleep(0)
        assert scripted is not None
        taken = scripted.received
        assert taken < sent * 1000, "it waits for its reader"
        assert scripted.answer.queued_bytes < 64 * len(PIECE)
        while scripted.news.empty():
            assert await asyncio.wait_for(reader.read(1 << 20), WAIT_S)
        assert scripted.news.get_nowait() == "writable"
        while scripted.received == taken:
            assert await asyncio.wait_for(reader.read(1 << 20), WAIT_S)
        writer.transport.abort()
        await _news(scripted, "lost")

    run(front, script)


@pytest.mark.parametrize("path", ["/stream", "/whole"])
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("how", ["close", "half-close"])
def test_a_client_that_goes_is_noticed(path: str, begun: bool, how: str) -> None:
    def begin(scripted: Scripted, data: bytes) -> None:
        if begun:
            scripted.answer.begin(200, [])
            scripted.answer.write(b"first")

    front = Front(begin)

    async def script(connect: Any) -> None:
        reader, writer = await connect()
        writer.write(_head(path, "Content-Length: 100\r\n" if path == "/stream" else "Content-Length: 2\r\n") + b"{}")
        if begun:
            await reader.readuntil(b"first")
        scripted = await front.requests.get()
        if how == "close":
            writer.close()
        else:
            writer.write_eof()
        await _news(scripted, "lost")
        writer.close()

    run(front, script)


def test_a_broken_body_ends_its_request() -> None:
    front = Front(lambda scripted, data: None)

    async def script(connect: Any) -> None:
        reader, writer = await connect()
        writer.write(_head("/stream", CHUNKED) + b"2\r\n{}\r\nnonsense\r\n")
        scripted = await front.requests.get()
        await _news(scripted, "lost")
        assert b" 400 " in await reader.read()
        writer.close()

    run(front, script)


def test_a_bug_costs_its_request_only(caplog: pytest.LogCaptureFixture) -> None:
    def fail(scripted: Scripted, data: bytes) -> None:
        raise RuntimeError("a bug")

    front = Front(fail)

    async def script(connect: Any) -> None:
        for path, length in (("/stream", 3), ("/whole", 2)):
            reader, writer = await connect()
            writer.write(_head(path, f"Content-Length: {length}\r\n") + b"{}")
            assert b" 500 " in await reader.readline()
            writer.close()

    run(front, script)
    assert caplog.text.count("a bug") >= 2


def test_process_variables() -> None:
    variables = json.loads(json.dumps(process_variables()))
    assert variables["cmdline"] and variables["file_descriptor_limit"] > 0
    assert variables["memstats"]["Sys"] > 1 << 20
