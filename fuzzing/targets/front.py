"""HTTP/1.1 on both ports: pages and gateway for clients; streams, posts and snapshots for members."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from fuzzing.bench import Bench, Errors, FakeTransport
from fuzzing.mutate import plain, text
from fuzzing.target import Run, Target
from fuzzing.targets import peers, samples
from ratifyd.api.gateway import PATHS
from ratifyd.api.jsonwire import message_type
from ratifyd.api.peers import PeerPages
from ratifyd.embed.etcd import adapt_peers
from ratifyd.embed.http import serve_front
from ratifyd.metrics import Metrics
from ratifyd.net.connection import Acceptor
from ratifyd.net.http1 import Http1Limits
from ratifyd.peer.codec import frame_message
from ratifyd.peer.endpoints import PeerEndpoints, wants_body_stream
from ratifyd.peer.transport import PeerTransport
from ratifyd.raft.codec import encode_message
from ratifyd.raft.messages import Message, MessageKind

CLUSTER = 0xCAFE
TURNS = 4


class _Http1:
    """Raw bytes on a connection of their own; whatever is caught at the edge and answered with 500 is a bug."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.errors = Errors()
        self._unhandled: list[BaseException] = []
        self.loop.set_exception_handler(self._note)
        self.acceptor: Acceptor

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        self._unhandled.append(error if isinstance(error, BaseException) else RuntimeError(str(context)))

    def __call__(self, data: bytes) -> None:
        logger = logging.getLogger("ratifyd")
        logger.addHandler(self.errors)
        try:
            self.loop.run_until_complete(self._talk(data))
        finally:
            logger.removeHandler(self.errors)
        self.errors.check()
        if self._unhandled:
            raise self._unhandled.pop()

    async def _talk(self, data: bytes) -> None:
        transport = FakeTransport()
        transport.set_protocol(self.acceptor())
        transport.protocol.connection_made(transport)
        half = len(data) // 2
        for piece in (data[:half], data[half:]):
            if piece and not transport.over:
                transport.protocol.data_received(piece)
            for _ in range(TURNS):
                self.turn()
                await asyncio.sleep(0)
        if not transport.over:
            transport.protocol.eof_received()
        transport.protocol.connection_lost(None)
        for _ in range(TURNS):
            self.turn()
            await asyncio.sleep(0)

    def turn(self) -> None:
        """Let the member work."""

    def finish(self) -> None:
        """Close the loop."""
        self.loop.close()


class _Clients(_Http1):
    """The client port of a member."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        front = self.bench.front()
        self.acceptor = Acceptor(
            None,
            serve_front(front),
            http1_limits=Http1Limits(body_bytes=100_000),
            body_streams=front.wants_body_stream,
        )

    def turn(self) -> None:
        """Let the member work, and tell what ended it."""
        self.bench.step(0.005)

    def finish(self) -> None:
        """As `Bench.finish`."""
        super().finish()
        self.bench.finish()


def _client_seeds() -> list[bytes]:
    found = [
        b"GET /health?serializable=true&exclude=NOSPACE HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /version HTTP/1.1\r\nHost: a\r\n\r\nGET /livez?verbose HTTP/1.0\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: a\r\nOrigin: http://x\r\n\r\n",
        b"OPTIONS /v3/kv/put HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a/../b//c HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HEAD /v3beta/kv/range HTTP/1.1\r\nHost: [::1]:1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    ]
    by_path = dict(samples.requests())
    for path, method in PATHS.items():
        body = message_type(method.request.DESCRIPTOR).to_json(by_path[method.path.decode()]).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nGrpc-Timeout: 1S\r\n".encode()
        if len(found) % 5 == 0:
            head += b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
        if len(found) % 3:
            found.append(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        else:
            found.append(head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    return found


class _Host:
    """`peer.host.PeerHost` that takes what comes."""

    local_id = peers.LOCAL
    cluster_id = CLUSTER
    local_peer_urls: Sequence[str] = ("http://127.0.0.1:1",)

    def __init__(self) -> None:
        self.metrics = Metrics()

    def is_removed(self, member_id: int) -> bool:
        """Nobody is."""
        return False

    def receive(self, messages: Sequence[Message]) -> None:
        """Check what the contract of the port promises."""
        for message in messages:
            assert message.to == self.local_id and message.kind is not MessageKind.SNAP

    def report_unreachable(self, member_id: int) -> None:
        """No matter."""

    def report_snapshot(self, member_id: int, ok: bool) -> None:
        """No matter."""

    def removed_from_cluster(self) -> None:
        """No matter."""

    async def save_snapshot(self, message: Message, body: AsyncIterator[bytes]) -> None:
        """Read it to its end."""
        async for _ in body:
            pass


class _Peers(_Http1):
    """The peer port of a member."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        transport = PeerTransport(_Host())
        self._transport = transport
        endpoints = PeerEndpoints(transport, adapt_peers(PeerPages(self.bench.member.server)))
        self.acceptor = Acceptor(
            None, endpoints, http1_limits=Http1Limits(body_bytes=100_000), body_streams=wants_body_stream
        )

    def turn(self) -> None:
        """Let the member work."""
        self.bench.step(0.005)

    def finish(self) -> None:
        """Hang up."""
        self.loop.run_until_complete(self._transport.stop())
        super().finish()
        self.bench.finish()


def _peer_seeds() -> list[bytes]:
    head = (
        b"X-Server-From: 2\r\nX-Server-Version: 3.5.1\r\nX-Min-Cluster-Version: 3.0.0\r\n"
        b"X-Etcd-Cluster-ID: %x\r\nX-PeerURLs: http://127.0.0.1:9\r\nX-Raft-To: 1\r\n" % CLUSTER
    )

    def post(path: bytes, body: bytes) -> bytes:
        return b"POST %b HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n" % (path, head, len(body)) + body

    def get(path: bytes, body: bytes = b"") -> bytes:
        return b"GET %b HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n" % (path, head, len(body)) + body

    found = [get(path) for path in (b"/members", b"/version", b"/raft/probing", b"/downgrade/enabled")]
    found += [get(b"/raft/stream/%b/2" % kind) for kind in (b"msgapp", b"message", b"msgappv2")]
    found += [get(b"/members/hashkv", b'{"revision":1}'), post(b"/members/promote/7", b"")]
    found += [post(b"/leases", b"\x08\x07"), post(b"/leases/internal", b"\x0a\x04\x08\x07\x10\x01")]
    for message in peers.messages()[::3]:
        found.append(post(b"/raft", encode_message(message)))
        if message.kind is MessageKind.SNAP:
            found.append(post(b"/raft/snapshot", frame_message(message) + b"image" * 20))
    return found


def _target(name: str, seeds: Callable[[], Sequence[bytes]], start: Callable[[], Run], sample: int) -> Target:
    return Target(name, seeds, start, (), (plain, text), batch=100, keeps_state=True, sample=sample)


TARGETS = (
    _target("http1_clients", _client_seeds, _Clients, 250),
    _target("http1_peers", _peer_seeds, _Peers, 250),
)
