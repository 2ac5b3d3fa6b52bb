"""`PeerTransport`: the port through which raft's messages reach other members.

`send` never waits. It encodes, writes to what is connected, and reports what it had to drop; the rest happens in
callbacks and tasks of the event loop the transport was made on.
"""

import asyncio
import logging
from collections.abc import Sequence
from ssl import SSLContext
from typing import Any

from ratifyd.config.values import parse_url
from ratifyd.logs import fields
from ratifyd.peer.client import PeerClient
from ratifyd.peer.codec import SharedEntries
from ratifyd.peer.host import ETCD_TIMING, PeerHost, Timing
from ratifyd.peer.peer import Peer, Remote
from ratifyd.peer.snapshots import OpenImage, SnapshotDone
from ratifyd.peer.streams import SILENT_TICKS
from ratifyd.raft.messages import Message, MessageKind

MAX_REMOTES = 64
"""Members we do not know that may leave their URLs with us; more are ignored."""
_SNAP = MessageKind.SNAP

log = logging.getLogger("ratifyd.peer")


class PeerTransport:
    """`ports.Transport` over rafthttp. Make it and use it on the thread of a running loop."""

    def __init__(
        self,
        host: PeerHost,
        *,
        dial_timeout_s: float = 2.0,
        ssl: SSLContext | None = None,
        timing: Timing = ETCD_TIMING,
    ) -> None:
        """`dial_timeout_s`: etcd takes one second and the election timeout. `ssl` is for calls to https URLs."""
        self.host = host
        self.client = PeerClient(dial_timeout_s=dial_timeout_s, ssl=ssl)
        self._ssl = ssl
        self._timing = timing
        self._peers: dict[int, Peer] = {}
        self._remotes: dict[int, Remote] = {}
        self._shared = SharedEntries()
        self._stopped = False
        self._ending: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.get_running_loop()
        host.metrics.known_peers = self._known_peers
        self._timer = self._loop.call_later(timing.io_timeout_s / SILENT_TICKS, self._tick)

    # -- messages

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages to the members they name, in order; those to unknown members are ignored.

        Messages to one member leave in one write for each of its streams. Snapshots take `send_snapshot`.
        """
        peers = self._peers
        touched: list[Peer] = []
        for message in messages:
            peer = peers.get(message.to)
            if peer is None:
                remote = self._remotes.get(message.to)
                if remote is not None:
                    remote.push(message)
                continue
            if message.kind is _SNAP:
                raise ValueError("a snapshot goes by send_snapshot, with its image")
            peer.push(message)
            if peer not in touched:
                touched.append(peer)
        for peer in touched:
            peer.flush()

    def send_snapshot(self, message: Message, size: int, open_image: OpenImage, done: SnapshotDone) -> None:
        """Send a snapshot message and the image of `size` bytes that belongs to it.

        `open_image` and the iterator it returns are called on a thread of their own; they raise OSError or ValueError
        when the image cannot be read. `done(ok)`, then `host.report_snapshot`, are called exactly once, later.
        """
        peer = self._peers.get(message.to)
        if peer is None or not peer.snapshots.send(message, size, open_image, done):
            reason = "unknown member" if peer is None else "another snapshot is on its way"
            log.warning("snapshot not sent", extra=fields(remote_peer_id=f"{message.to:x}", reason=reason))
            self._loop.call_soon(self._snapshot_not_sent, message.to, done)

    def _snapshot_not_sent(self, member_id: int, done: SnapshotDone) -> None:
        done(False)
        self.host.report_snapshot(member_id, False)

    # -- members

    def add_peer(self, member_id: int, urls: Sequence[str]) -> None:
        """Connect to a member of the cluster; one that is known already keeps its URLs. Raises ValueError."""
        if self._stopped or member_id in self._peers or member_id == self.host.local_id:
            return
        _check_urls(urls)
        remote = self._remotes.pop(member_id, None)
        if remote is not None:
            self._see_off(remote.stop())
        self._peers[member_id] = Peer(
            member_id, urls, self.host, self.client, self._shared, timing=self._timing, ssl=self._ssl
        )
        log.info("added remote peer", extra=fields(remote_peer_id=f"{member_id:x}", remote_peer_urls=list(urls)))

    def remove_peer(self, member_id: int) -> None:
        """Disconnect from a member; an unknown one is ignored, for a log may remove it twice."""
        remote = self._remotes.pop(member_id, None)
        if remote is not None:
            self._see_off(remote.stop())
        peer = self._peers.pop(member_id, None)
        if peer is not None:
            self._see_off(peer.stop())
            log.info("removed remote peer", extra=fields(removed_remote_peer_id=f"{member_id:x}"))

    def update_peer(self, member_id: int, urls: Sequence[str]) -> None:
        """Use other URLs for a member; an unknown one is ignored. Raises ValueError."""
        _check_urls(urls)
        peer = self._peers.get(member_id)
        if peer is not None:
            peer.update(urls)
            log.info("updated remote peer", extra=fields(updated_remote_peer_id=f"{member_id:x}", urls=list(urls)))

    def add_remote(self, member_id: int, urls: Sequence[str]) -> None:
        """Answer a member not known yet, at URLs it named; a known one is ignored. Raises ValueError."""
        if self._stopped or member_id in self._peers or member_id in self._remotes or member_id == self.host.local_id:
            return
        _check_urls(urls)
        if len(self._remotes) >= MAX_REMOTES:
            log.warning("too many unknown members", extra=fields(remote_peer_id=f"{member_id:x}"))
            return
        self._remotes[member_id] = Remote(member_id, urls, self.host, self.client, timing=self._timing)
        log.info("added new remote peer", extra=fields(remote_peer_id=f"{member_id:x}", remote_peer_urls=list(urls)))

    def peer(self, member_id: int) -> Peer | None:
        """The channels to a member; None if it is not known."""
        return self._peers.get(member_id)

    def active_since(self, member_id: int) -> float | None:
        """Loop time since which a member can be reached; None while it cannot, and for unknown members."""
        peer = self._peers.get(member_id)
        return None if peer is None else peer.status.active_since

    @property
    def active_peers(self) -> int:
        """How many other members can be reached."""
        return sum(peer.status.active_since is not None for peer in self._peers.values())

    def _known_peers(self) -> dict[tuple[str, ...], float]:
        local = f"{self.host.local_id:x}"
        return {(local, f"{member_id:x}"): 1 for member_id in self._peers}

    # -- life

    async def stop(self) -> None:
        """Hang up everywhere; afterwards nothing is sent, delivered or reported."""
        self._stopped = True
        self._timer.cancel()
        for member_id in [*self._peers, *self._remotes]:
            self.remove_peer(member_id)
        await self.client.close()
        if self._ending:
            await asyncio.wait(list(self._ending))

    def _see_off(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Keep cancelled tasks until they have ended."""
        for task in tasks:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._timing.io_timeout_s / SILENT_TICKS, self._tick)
        for peer in list(self._peers.values()):
            peer.tick()


def _check_urls(urls: Sequence[str]) -> None:
    if not urls:
        raise ValueError("a member without URLs cannot be reached")
    for url in urls:
        parse_url(url)
