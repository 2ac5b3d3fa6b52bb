"""The HTTP client of the peer port against servers that behave well, badly, or not at all."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ratifyd.peer.client import Answer, PeerClient
from ratifyd.peer.connection import PeerUnreachable
from tests.unit.peer.support_peer import Serve, serving, until

Run = Callable[[Coroutine[Any, Any, None]], None]


def saying(answer: bytes, *, close: bool = False, requests: list[bytes] | None = None) -> Serve:
    """A server that gives each request (without body) this answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            if requests is not None:
                requests.append(request)
            writer.write(answer)
            if close:
                break

    return serve


@asynccontextmanager
async def client() -> AsyncIterator[PeerClient]:
    made = PeerClient(dial_timeout_s=1.0)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("answer", "close", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", False, b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", False, b"hello"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", False, b"hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", True, b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True, b""),
    ],
)
def test_answers(run: Run, answer: bytes, close: bool, body: bytes) -> None:
    async def main() -> None:
        async with serving(saying(answer, close=close)) as url, client() as caller:
            for _ in range(3):
                got = await caller.get(url, "/x")
                assert got.status in (200, 204) and got.body == body

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",  # cut short
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"",
    ],
    ids=["garbage", "short", "short chunk", "bad chunk", "long header", "many headers", "nothing"],
)
def test_what_is_no_answer(run: Run, answer: bytes) -> None:
    async def main() -> None:
        async with serving(saying(answer, close=True)) as url, client() as caller:
            with pytest.raises(PeerUnreachable):
                await caller.get(url, "/x")

    run(main())


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"\r\n", b"\r\n"),
        (b"HTTP/1.1 200 ", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (_CHUNKED, b"0"),
        (_CHUNKED + b"5;", b"x"),
        (_CHUNKED + b"5\r\nhello\r\n0\r\n", b"X"),
        (_CHUNKED + b"5\r\nhello\r\n0\r\nX: ", b"x"),
        (_CHUNKED + b"5\r\nhello\r\n0\r\n", b"X: y\r\n"),
    ],
)
def test_an_answer_that_never_ends(run: Run, start: bytes, more: bytes) -> None:
    async def main() -> None:
        sent = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await reader.readuntil(b"\r\n\r\n")
            writer.write(start)
            while sent < 16 << 20:
                writer.write(more * 10_000)
                sent += 10_000 * len(more)
                await writer.drain()
            await reader.read()

        async with serving(serve) as url, client() as caller:
            with pytest.raises(PeerUnreachable, match="too long"):
                await caller.get(url, "/x")
        assert sent < 16 << 20

    run(main())


def test_a_header_that_comes_in_two_pieces_counts_once(run: Run) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\n" + b"X: y\r\n" * 6_000)
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.write(b"X: y\r\n" * 3_000 + b"\r\n")

        async with serving(serve) as url, client() as caller:
            assert (await caller.get(url, "/x")).status == 204

    run(main())


def test_an_answer_that_is_too_long(run: Run) -> None:
    async def main() -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + bytes(5000)
        async with serving(saying(answer)) as url, client() as caller:
            with pytest.raises(PeerUnreachable, match="longer than 4999"):
                await caller.request("GET", url, "/x", answer_limit=4999)

    run(main())


def test_the_request_and_connections_kept(run: Run) -> None:
    async def main() -> None:
        requests: list[bytes] = []
        connections = 0
        serve_one = saying(b"HTTP/1.1 204 No Content\r\n\r\n", requests=requests)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await serve_one(reader, writer)

        async with serving(serve) as url, client() as caller:
            await caller.get(url, "/a?b=c", headers=[("X-One", "1\r\nX-Two: 2")])
            await caller.post(url, "/d")
            assert connections == 1
            host = url.removeprefix("http://").encode()
            assert requests[0].startswith(b"GET /a?b=c HTTP/1.1\r\nHost: " + host + b"\r\nUser-Agent: ratifyd/")
            assert b"X-One: 1 X-Two: 2\r\n" in requests[0]  # no header smuggled in
            assert b"Content-Length: 0\r\n" in requests[1]

    run(main())


def test_a_kept_connection_that_was_closed_is_replaced(run: Run) -> None:
    async def main() -> None:
        # The answer promises to go on, and the server hangs up after it.
        async with serving(saying(b"HTTP/1.1 204 No Content\r\n\r\n", close=True)) as url, client() as caller:
            for _ in range(5):
                assert (await caller.get(url, "/x")).status == 204

    run(main())


def test_what_may_have_been_taken_is_not_sent_again(run: Run) -> None:
    """The connection breaks before the answer: a proposal that came twice would be applied twice."""

    async def main() -> None:
        requests: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in (b"HTTP/1.1 204 No Content\r\n\r\n", b""):
                requests.append((await reader.readuntil(b"\r\n\r\n")).split()[0])
                writer.write(answer)

        async with serving(serve) as url, client() as caller:
            await caller.get(url, "/x")
            with pytest.raises(PeerUnreachable):
                await caller.post(url, "/raft")
            assert requests == [b"GET", b"POST"]
            await caller.get(url, "/x")
            await caller.get(url, "/x")
            assert requests[2:] == [b"GET", b"GET", b"GET"]

    run(main())


def test_silence_and_nobody_there(run: Run) -> None:
    async def main() -> None:
        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with serving(mute) as url, client() as caller:
            with pytest.raises(PeerUnreachable, match="no answer within"):
                await caller.get(url, "/x", timeout_s=0.1)
            with pytest.raises(PeerUnreachable):
                await caller.get("http://127.0.0.1:1", "/x")
            with pytest.raises(PeerUnreachable, match="TLS"):
                await caller.get("https://127.0.0.1:1", "/x")
            for url in ("gopher://x:1", "http://no-port", "nonsense"):
                with pytest.raises(ValueError):
                    await caller.get(url, "/x")

    run(main())


def test_closing_ends_calls_under_way(run: Run) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await reader.read()

        async with serving(mute) as url, client() as caller:
            call = asyncio.create_task(caller.get(url, "/x"))
            await asyncio.wait_for(asked.wait(), 5)
            await caller.close()
            with pytest.raises(PeerUnreachable):
                await call

    run(main())


def test_unix_sockets(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "peer.sock"
        async with serving(saying(b"HTTP/1.1 204 No Content\r\n\r\n"), path) as url, client() as caller:
            assert (await caller.get(url, "/x")).status == 204

    run(main())


def test_uploads_in_chunks(run: Run) -> None:
    async def main() -> None:
        bodies: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"Transfer-Encoding: chunked" in head
            body = b""
            while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            bodies.append(body)
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

        async def pieces() -> AsyncIterator[bytes]:
            for number in range(40):
                yield bytes([number]) * 100_000
                yield b""

        async with serving(serve) as url, client() as caller:
            assert (await caller.upload(url, "/x", pieces())).status == 204
        assert bodies == [b"".join([bytes([number]) * 100_000 for number in range(40)])]

    run(main())


def test_an_upload_ends_with_an_early_answer_or_with_patience(run: Run) -> None:
    async def main() -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 2\r\n\r\nno")
            await reader.read()

        async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await until(lambda: stalled)

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield bytes(1 << 16)
                await asyncio.sleep(0)

        stalled: list[bool] = []
        async with serving(refuse) as url, client() as caller:
            assert (await caller.upload(url, "/x", endless()))[0::2] == (412, b"no")
        async with serving(ignore) as url, client() as caller:
            with pytest.raises(PeerUnreachable, match="does not take"):
                await caller.upload(url, "/x", endless(), stall_s=0.1)
            stalled.append(True)

    run(main())


def test_text_of_an_answer() -> None:
    assert Answer(500, {}, b" out of \xff luck\n").text == "out of \N{REPLACEMENT CHARACTER} luck"
