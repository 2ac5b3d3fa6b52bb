"""A host that writes down what it is told, and a member made of transport, endpoints and listener on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from ratifyd.metrics import Metrics
from ratifyd.net.connection import Acceptor
from ratifyd.net.http1 import HttpRequest, HttpResponse
from ratifyd.net.listener import Listener
from ratifyd.peer.endpoints import PEER_HTTP_LIMITS, PeerEndpoints, wants_body_stream
from ratifyd.peer.host import Timing
from ratifyd.peer.transport import PeerTransport
from ratifyd.raft.messages import Entry, Message, MessageKind, Snapshot, SnapshotMeta

WAIT_S = 10.0
CLUSTER_ID = 0xCAFE
FAST = Timing(io_timeout_s=0.6, redial_s=0.02, probe_s=0.05, probe_report_s=0.01, snapshot_stall_s=0.5)


async def until(condition: Callable[[], object], wait_s: float = WAIT_S) -> None:
    """Return once the condition holds; fails after `wait_s`."""
    async with asyncio.timeout(wait_s):
        while not condition():
            await asyncio.sleep(0.005)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve, unix_path: Path | None = None) -> AsyncIterator[str]:
    """The URL of a server that runs `serve` for each connection, to its end."""
    tasks: list[asyncio.Task[None] | None] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    if unix_path is not None:
        server = await asyncio.start_unix_server(accept, unix_path)
        url = f"unix://{unix_path}"
    else:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield url
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*(task for task in tasks if task is not None)), 5)


class Host:
    """A `PeerHost`."""

    def __init__(self, local_id: int, cluster_id: int = CLUSTER_ID) -> None:
        self.local_id = local_id
        self.cluster_id = cluster_id
        self.local_peer_urls: Sequence[str] = ()
        self.metrics = Metrics()
        self.removed: set[int] = set()
        self.batches: list[list[Message]] = []
        self.unreachable: list[int] = []
        self.snapshot_reports: list[tuple[int, bool]] = []
        self.removed_from: int = 0
        self.images: list[tuple[Message, bytes]] = []
        self.broken_image: Exception | None = None
        self.refuse_image: Exception | None = None

    @property
    def received(self) -> list[Message]:
        return [message for batch in self.batches for message in batch]

    def is_removed(self, member_id: int) -> bool:
        return member_id in self.removed

    def receive(self, messages: Sequence[Message]) -> None:
        self.batches.append(list(messages))

    def report_unreachable(self, member_id: int) -> None:
        self.unreachable.append(member_id)

    def report_snapshot(self, member_id: int, ok: bool) -> None:
        self.snapshot_reports.append((member_id, ok))

    def removed_from_cluster(self) -> None:
        self.removed_from += 1

    async def save_snapshot(self, message: Message, body: AsyncIterator[bytes]) -> None:
        if self.refuse_image is not None:
            raise self.refuse_image
        pieces = []
        try:
            async for piece in body:
                pieces.append(piece)
        except Exception as error:
            self.broken_image = error
            raise
        self.images.append((message, b"".join(pieces)))
        self.receive([message])


class Member:
    """One end of a cluster: what it is told is in `host`."""

    def __init__(self, local_id: int, timing: Timing = FAST, cluster_id: int = CLUSTER_ID, port: int = 0) -> None:
        self.listener = Listener.bind(f"http://127.0.0.1:{port}", flag="--x")
        self.url = f"http://127.0.0.1:{self.listener.port}"
        self._timing = timing
        self.use(Host(local_id, cluster_id))

    def use(self, host: Host) -> None:
        """Work for this host; before `serve`."""
        self.host = host
        host.local_peer_urls = (self.url,)
        self.transport = PeerTransport(host, dial_timeout_s=1.0, timing=self._timing)
        self.endpoints = PeerEndpoints(self.transport, self._fallback, timing=self._timing)
        self.acceptor = Acceptor(None, self.endpoints, http1_limits=PEER_HTTP_LIMITS, body_streams=wants_body_stream)

    async def _fallback(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, [("Content-Type", "text/plain")], f"fallback {request.path}".encode())

    async def serve(self) -> None:
        await self.listener.serve(self.acceptor)

    def knows(self, *others: "Member") -> None:
        for other in others:
            self.transport.add_peer(other.host.local_id, [other.url])

    def writers_up(self, other: "Member") -> bool:
        """Whether both streams to the other member are open."""
        peer = self.transport.peer(other.host.local_id)
        return peer is not None and all(writer.working for writer in peer.writers.values())

    async def stop(self) -> None:
        self.listener.close()
        await self.transport.stop()
        self.acceptor.abort()
        await self.acceptor.drained(WAIT_S)


@asynccontextmanager
async def members(count: int, timing: Timing = FAST, *, connected: bool = True) -> AsyncIterator[list[Member]]:
    """Members 1..count that serve; connected ones know each other and have all streams open."""
    made = [Member(number, timing) for number in range(1, count + 1)]
    try:
        for member in made:
            await member.serve()
        if connected:
            for member in made:
                member.knows(*(other for other in made if other is not member))
            await until(lambda: all(a.writers_up(b) for a in made for b in made if a is not b))
        yield made
    finally:
        for member in made:
            await member.stop()


def append(to: int, sender: int, term: int, index: int, count: int = 1, commit: int = 0, size: int = 10) -> Message:
    """A MsgApp of `count` entries after `index`, all of one term."""
    entries = [Entry(term, index + 1 + number, b"%d" % number * size) for number in range(count)]
    return Message(MessageKind.APP, to, sender, term, term, index, entries, commit)


def snapshot(to: int, sender: int, index: int = 7) -> Message:
    return Message(MessageKind.SNAP, to, sender, 3, entries=[], snapshot=Snapshot(SnapshotMeta(index, 3), b"members"))
