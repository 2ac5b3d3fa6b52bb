"""The member as its transport sees it (`peer.host.PeerHost`), and its calls to others (`ports.PeerCalls`)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from ratifyd.embed.received import ReceivedFiles
from ratifyd.membership import Membership
from ratifyd.metrics import Metrics
from ratifyd.peer.client import PeerClient
from ratifyd.peer.connection import PeerUnreachable
from ratifyd.raft.messages import Message
from ratifyd.server.server import Server

log = logging.getLogger("ratifyd.embed")


class MemberHost:
    """Adapter between transport and server. Set `server` before anything is served or sent."""

    def __init__(
        self, members: Membership, peer_urls: Sequence[str], metrics: Metrics, received: ReceivedFiles
    ) -> None:
        self.local_id = members.local_id
        self.cluster_id = members.cluster_id
        self.local_peer_urls = peer_urls
        self.metrics = metrics
        self.server: Server | None = None
        self._members = members
        self._received = received

    def is_removed(self, member_id: int) -> bool:
        """Whether an id was removed from the cluster."""
        return member_id in self._members.removed

    def receive(self, messages: Sequence[Message]) -> None:
        """Take messages for raft."""
        self._running.node.receive(messages)

    def report_unreachable(self, member_id: int) -> None:
        """Tell raft that messages were lost."""
        server = self._running
        server.node.raft.report_unreachable(member_id)
        server.node.wake()

    def report_snapshot(self, member_id: int, ok: bool) -> None:
        """Tell raft how sending a snapshot ended."""
        server = self._running
        server.node.raft.report_snapshot(member_id, ok)
        server.node.wake()

    def removed_from_cluster(self) -> None:
        """Another member says that we were removed."""
        self._running.removed()

    async def save_snapshot(self, message: Message, body: AsyncIterator[bytes]) -> None:
        """Store an image, then hand its message to raft. Raises OSError and ValueError."""
        await self._received.save(message, body, lambda: self._deliver(message))

    def _deliver(self, message: Message) -> None:
        assert message.snapshot is not None
        node = self._running.node
        node.receive([message])
        node.after_turn(partial(self._remove_unwanted, message.snapshot.meta.index))

    def _remove_unwanted(self, index: int) -> None:
        """Raft has seen the message: it may be of an older term, or of what the log has already."""
        server = self._running
        pending = server.node.raft.log.snapshot
        if (pending is None or pending.meta.index != index) and not server.installer.has(index):
            self._received.remove(index)

    @property
    def _running(self) -> Server:
        assert self.server is not None, "the transport runs before its member"
        return self.server


class ClientCalls:
    """`ports.PeerCalls` over a `PeerClient`."""

    def __init__(self, client: PeerClient) -> None:
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()

    def call(
        self,
        urls: Sequence[str],
        method: str,
        path: str,
        body: bytes,
        timeout_s: float,
        done: Callable[[int, bytes], None],
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Ask the first URL that answers."""
        task = asyncio.get_running_loop().create_task(self._call(urls, method, path, body, timeout_s, done, headers))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(
        self,
        urls: Sequence[str],
        method: str,
        path: str,
        body: bytes,
        timeout_s: float,
        done: Callable[[int, bytes], None],
        headers: Sequence[tuple[str, str]],
    ) -> None:
        status, answer = 0, b""
        if body:
            headers = [("Content-Type", "application/protobuf"), *headers]
        for url in urls:
            try:
                found = await self._client.request(method, url, path, headers=headers, body=body, timeout_s=timeout_s)
            except (PeerUnreachable, ValueError):
                continue
            except Exception:  # whoever asks must be told, or waits for ever
                log.exception("call to a member failed", extra={"fields": {"address": url, "path": path}})
                continue
            status, answer = found.status, found.body
            break
        try:
            done(status, answer)
        except Exception:  # nobody waits for this task: a bug behind an answer would be silent
            log.exception("answer of a member failed to be used", extra={"fields": {"path": path, "status": status}})

    async def stop(self) -> None:
        """Give up what is under way, unanswered."""
        for task in list(self._tasks):
            task.cancel()
        await self._client.close()
