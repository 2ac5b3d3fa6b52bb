"""Telling HTTP/2 from HTTP/1.1, flow control both ways, graceful stop; raw bytes over loopback."""

import asyncio
import resource
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from ratifyd.net import accepting
from ratifyd.net.clock import LoopClock
from ratifyd.net.connection import FULL_READ_BYTES, HIGH_WATER, PREFACE, Acceptor, Link
from ratifyd.net.http1 import HttpRequest, HttpResponse
from ratifyd.net.listener import Listener, ListenError

WAIT_S = 5.0
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_with(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main)

    return run_with


class Recorder:
    """A session that notes what it is told."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.received = b""
        self.paused = False
        self.news: asyncio.Queue[str] = asyncio.Queue()

    def receive(self, data: bytes) -> None:
        self.received += data
        self.news.put_nowait("data")

    def eof(self) -> None:
        self.news.put_nowait("eof")

    def pause_writing(self) -> None:
        self.paused = True
        self.news.put_nowait("pause")

    def resume_writing(self) -> None:
        self.paused = False
        self.news.put_nowait("resume")

    def closed(self) -> None:
        self.news.put_nowait("closed")

    def go_away(self) -> None:
        self.link.write(b"BYE")
        self.link.close()

    async def wait_for(self, news: str) -> None:
        async with asyncio.timeout(WAIT_S):
            while await self.news.get() != news:
                pass


async def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, [], b"hello")


class Server:
    """A listener whose HTTP/2 sessions are Recorders."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:0",
        *,
        http1: bool = True,
        http2: bool = True,
        timeout_s: float = 60,
        most: int | None = None,
    ) -> None:
        self.sessions: list[Recorder] = []
        self.opened = asyncio.Event()
        self.acceptor = Acceptor(
            self._open if http2 else None,
            hello if http1 else None,
            first_bytes_timeout_s=timeout_s,
            max_connections=most,
        )
        self.listener = Listener.bind(url, flag="--x")

    def _open(self, link: Link) -> Recorder:
        self.sessions.append(Recorder(link))
        self.opened.set()
        return self.sessions[-1]

    async def __aenter__(self) -> "Server":
        await self.listener.serve(self.acceptor)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.listener.close()
        self.acceptor.abort()
        assert await self.acceptor.drained(WAIT_S)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.listener.port)

    async def session(self) -> Recorder:
        await asyncio.wait_for(self.opened.wait(), WAIT_S)
        return self.sessions[-1]


def test_a_preface_opens_a_session(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            reader, writer = await server.connect()
            writer.write(PREFACE + b"frames")
            session = await server.session()
            await session.wait_for("data")
            assert session.received == PREFACE + b"frames"
            assert session.link.peer == f"127.0.0.1:{writer.get_extra_info('sockname')[1]}"
            session.link.write(b"settings")
            assert await asyncio.wait_for(reader.readexactly(8), WAIT_S) == b"settings"
            writer.write(b"more")
            await session.wait_for("data")
            assert session.received.endswith(b"more")
            writer.write_eof()
            await session.wait_for("eof")
            await session.wait_for("closed")

    run(main())


def test_a_preface_may_come_in_pieces(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            _, writer = await server.connect()
            for at in range(len(PREFACE)):
                assert not server.sessions
                writer.write(PREFACE[at : at + 1])
                await writer.drain()
                await asyncio.sleep(0)
            session = await server.session()
            await session.wait_for("data")
            assert session.received == PREFACE
            writer.close()

    run(main())


@pytest.mark.parametrize("first", [b"G", b"P", b"PRI * HTTP/2.1"])
def test_anything_else_is_http1(run: Run, first: bytes) -> None:
    async def main() -> None:
        rest = {b"G": b"ET / HTTP/1.1\r\nHost: h\r\n\r\n", b"P": b"UT / HTTP/1.1\r\nHost: h\r\n\r\n"}
        async with Server() as server:
            reader, writer = await server.connect()
            writer.write(first)
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(rest.get(first, b"\r\n\r\n"))
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), WAIT_S)
            assert answer.startswith(b"HTTP/1.1 200" if first in rest else b"HTTP/1.1 400")
            assert not server.sessions
            writer.close()

    run(main())


@pytest.mark.parametrize(
    ("kinds", "first"), [({"http1": False}, b"GET / HTTP/1.1\r\n\r\n"), ({"http2": False}, PREFACE)]
)
def test_an_acceptor_may_speak_one_kind_only(run: Run, kinds: dict[str, bool], first: bytes) -> None:
    async def main() -> None:
        async with Server(**kinds) as server:  # type: ignore[arg-type]
            reader, writer = await server.connect()
            writer.write(first)
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
            writer.close()

    run(main())


def test_silent_connections_are_closed(run: Run) -> None:
    async def main() -> None:
        async with Server(timeout_s=0.05) as server:
            reader, writer = await server.connect()
            with pytest.raises(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
                raise ConnectionResetError
            writer.close()

    run(main())


def test_each_silent_connection_is_closed_in_its_time_and_no_other(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Server(timeout_s=0.1) as server:
            began, lasted = [], []
            _, speaking = await server.connect()
            speaking.write(PREFACE)
            session = await server.session()
            clients = []
            for _ in range(20):  # which takes a few milliseconds
                began.append(loop.time())
                clients.append(await server.connect())
            for start, (reader, writer) in zip(began, clients):
                with suppress(ConnectionResetError):
                    assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
                lasted.append(loop.time() - start)
                writer.close()
            assert min(lasted) > 0.09
            session.link.write(b"still here")
            speaking.write(b"so am I")
            await session.wait_for("data")
            speaking.close()
            await session.wait_for("closed")

    run(main())


def test_a_slow_reader_pauses_writing_and_is_not_read(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Server() as server:
            with socket.create_connection(("127.0.0.1", server.listener.port)) as client:
                client.setblocking(False)
                await loop.sock_sendall(client, PREFACE)
                session = await server.session()
                total, rounds_paused = 0, 0
                while rounds_paused < 5:
                    if session.paused:
                        rounds_paused += 1
                        await asyncio.sleep(0.01)
                        continue
                    rounds_paused = 0
                    session.link.write(b"x" * HIGH_WATER)
                    total += HIGH_WATER
                    await asyncio.sleep(0)
                assert session.link.write_buffer_size() > 0
                await loop.sock_sendall(client, b"unread")
                await asyncio.sleep(0.05)
                assert session.received == PREFACE
                async with asyncio.timeout(WAIT_S):
                    while total:
                        total -= len(await loop.sock_recv(client, HIGH_WATER))
                    while session.received != PREFACE + b"unread":
                        await session.wait_for("data")
                assert not session.paused

    run(main())


def test_reading_can_be_paused_on_demand(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            _, writer = await server.connect()
            writer.write(PREFACE)
            session = await server.session()
            await session.wait_for("data")
            session.link.pause_reading()
            session.link.pause_reading()
            writer.write(b"later")
            await writer.drain()
            await asyncio.sleep(0.05)
            assert session.received == PREFACE
            session.link.resume_reading()
            await session.wait_for("data")
            assert session.received == PREFACE + b"later"
            session.link.close()
            await session.wait_for("closed")
            session.link.resume_reading()
            writer.close()

    run(main())


def test_who_sends_much_is_read_once_in_a_pass(run: Run) -> None:
    passes: list[int] = []

    class Busy(Recorder):
        number = 0

        def receive(self, data: bytes) -> None:
            if len(data) >= FULL_READ_BYTES:
                passes.append(self.number)
                asyncio.get_running_loop().call_soon(self._next_pass)
            super().receive(data)

        def _next_pass(self) -> None:
            self.number += 1

    async def main() -> None:
        async with Server() as server:
            opened: asyncio.Future[Busy] = asyncio.get_running_loop().create_future()

            def open_session(link: Link) -> Busy:
                opened.set_result(Busy(link))
                return opened.result()

            server.acceptor.open_session = open_session
            with socket.create_connection(("127.0.0.1", server.listener.port)) as client:
                client.sendall(PREFACE)
                session = await asyncio.wait_for(opened, WAIT_S)
                session.link.pause_reading()
                client.setblocking(False)
                sent = 0
                with suppress(BlockingIOError):
                    while True:
                        sent += client.send(bytes(1 << 20))
                session.link.resume_reading()
                async with asyncio.timeout(WAIT_S):
                    while len(session.received) < len(PREFACE) + sent:
                        await session.wait_for("data")
        assert len(passes) > 2
        assert len(set(passes)) == len(passes)

    run(main())


def test_go_away_reaches_sessions_and_newcomers(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            reader, writer = await server.connect()
            writer.write(PREFACE)
            await (await server.session()).wait_for("data")
            server.acceptor.go_away()
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b"BYE"
            late, late_writer = await server.connect()
            assert await asyncio.wait_for(late.read(), WAIT_S) == b""
            assert await server.acceptor.drained(WAIT_S)
            writer.close()
            late_writer.close()

    run(main())


def test_connections_made_before_serving_wait(run: Run) -> None:
    async def main() -> None:
        server = Server()
        reader, writer = await server.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        async with server:
            assert (await asyncio.wait_for(reader.readuntil(b"hello"), WAIT_S)).startswith(b"HTTP/1.1 200 OK")
            writer.close()

    run(main())


def test_nodelay_is_set_on_accepted_connections(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            _, writer = await server.connect()
            writer.write(PREFACE)
            session = await server.session()
            sock = session.link._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
            writer.close()

    run(main())


def test_who_has_gone_still_has_a_name(run: Run, tmp_path: Path) -> None:
    """What was slow is logged with it, and a transport that has let go of its socket raises when it is asked."""

    async def main() -> None:
        async with Server(f"unix://{tmp_path / 'etcd.sock'}") as server:
            _, writer = await asyncio.open_unix_connection(str(tmp_path / "etcd.sock"))
            writer.write(PREFACE)
            session = await server.session()
            writer.close()
            await session.wait_for("closed")
            for _ in range(3):
                await asyncio.sleep(0)
            assert session.link.peer == "@"

    run(main())


def test_unix_sockets(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "etcd.sock"
        async with Server(f"unix://{path}") as server:
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.write(PREFACE)
            session = await server.session()
            assert session.link.peer == "@"
            writer.close()
            with pytest.raises(ListenError, match="address already in use"):
                Listener.bind(f"unix://{path}", flag="--x")
        assert not path.exists()
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(str(path))
        stale.close()
        Listener.bind(f"unix://{path}", flag="--x").close()
        path.write_text("a file of somebody else")
        with pytest.raises(ListenError) as caught:
            Listener.bind(f"unix://{path}", flag="--x")
        assert str(caught.value) == (
            f"cannot listen on unix://{path}: there is a file of that name, and it is no socket; move it away, or "
            "change --x"
        )
        assert path.read_text() == "a file of somebody else"

    run(main())


def test_bind_errors_say_what_to_do() -> None:
    first = Listener.bind("http://127.0.0.1:0", flag="--listen-client-urls")
    url = f"http://127.0.0.1:{first.port}"
    with pytest.raises(ListenError) as caught:
        Listener.bind(url, flag="--listen-client-urls")
    assert str(caught.value) == (
        f"cannot listen on {url}: address already in use; stop the program that uses it, or change --listen-client-urls"
    )
    first.close()
    Listener.bind(url, flag="--x").close()
    with pytest.raises(ListenError, match="cannot assign requested address"):
        Listener.bind("http://192.0.2.1:1", flag="--x")
    with pytest.raises(ListenError, match="port must be 0-65535"):
        Listener.bind("http://127.0.0.1:70000", flag="--x")
    with pytest.raises(ListenError, match="no such file or directory"):
        Listener.bind("unix:///nonexistent/dir/sock", flag="--x")


def test_reuse_port_and_wildcards() -> None:
    first = Listener.bind("http://127.0.0.1:0", flag="--x", reuse_port=True)
    second = Listener.bind(f"http://127.0.0.1:{first.port}", flag="--x", reuse_port=True)
    second.close()
    first.close()
    everywhere = Listener.bind("http://0.0.0.0:0", flag="--x")
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        if family == socket.AF_INET6 and not socket.has_ipv6:
            continue
        with socket.socket(family) as client:
            client.settimeout(WAIT_S)
            client.connect((host, everywhere.port))
    everywhere.close()


def test_clock(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        clock = LoopClock(loop)
        order: list[object] = []
        done = clock.future()
        clock.call_later(0.01, done.set_result, None)
        clock.call_later(0.0, order.append, "never").cancel()
        clock.call_soon(order.append, "soon")
        before = clock.time()
        await asyncio.wait_for(done, WAIT_S)
        assert order == ["soon"]
        assert clock.time() > before
        assert abs(clock.wall() - 1.8e9) < 1e9

    run(main())


# --- no more than there is room for -----------------------------------------------------------------------------------

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def say_hello(ends: Ends) -> None:
    reader, writer = ends
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"hello"), WAIT_S)


def test_a_full_acceptor_lets_others_wait(run: Run) -> None:
    async def main() -> None:
        async with Server(most=2) as server:
            first, second, third, fourth = [await server.connect() for _ in range(4)]
            await say_hello(first)
            await say_hello(second)
            waiting = [asyncio.create_task(say_hello(each)) for each in (third, fourth)]
            for _ in range(20):
                await asyncio.sleep(0)
            assert not any(each.done() for each in waiting)
            assert len(server.acceptor.connections) == 2
            first[1].close()
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_S)
            assert len(done) == 1 and len(server.acceptor.connections) == 2
            second[1].close()
            await asyncio.gather(*waiting)
            third[1].close()
            fourth[1].close()

    run(main())


def test_connections_that_break_off_make_room(run: Run) -> None:
    """Reset before or after they were accepted."""

    async def main() -> None:
        async with Server(most=3) as server:
            for _ in range(10):
                ends = [await server.connect() for _ in range(6)]
                for _, writer in ends:
                    writer.transport.abort()
            ends = [await server.connect() for _ in range(3)]
            for each in ends:
                await say_hello(each)
            assert server.acceptor.arriving == 0
            for _, writer in ends:
                writer.close()

    run(main())


def test_accepting_goes_on_after_the_system_has_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "RETRY_S", 0.01)

    async def main() -> None:
        async with Server(most=5) as server:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            ends = await server.connect()
            await say_hello(ends)
            with socket.socket() as other:
                other.setblocking(False)
                resource.setrlimit(resource.RLIMIT_NOFILE, (other.fileno() + 1, hard))
                try:
                    await asyncio.get_running_loop().sock_connect(other, ("127.0.0.1", server.listener.port))
                    await say_hello(ends)
                    assert len(server.acceptor.connections) == 1
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                reader, writer = await asyncio.open_connection(sock=other)
                await say_hello((reader, writer))
                writer.close()
            ends[1].close()

    run(main())
