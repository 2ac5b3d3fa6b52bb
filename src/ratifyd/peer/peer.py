"""One other member: its channels, and which of them a message takes (formats 9.5)."""

import asyncio
import logging
from collections.abc import Sequence
from ssl import SSLContext
from typing import Any

from ratifyd.logs import fields
from ratifyd.peer.client import PeerClient
from ratifyd.peer.codec import SharedEntries
from ratifyd.peer.host import PeerHost, Timing
from ratifyd.peer.pipeline import Pipeline
from ratifyd.peer.probing import Prober
from ratifyd.peer.snapshots import SnapshotSender
from ratifyd.peer.status import PeerStatus, UrlPicker
from ratifyd.peer.streams import KINDS, MESSAGE, MSGAPP, StreamReader, StreamWriter
from ratifyd.raft.messages import Message, MessageKind

DROP_REPORT_S = 1.0
_APP = MessageKind.APP

log = logging.getLogger("ratifyd.peer")


class Peer:
    """Everything that runs on behalf of one member of the cluster."""

    __slots__ = (
        "_app_writer",
        "_host",
        "_label",
        "_loop",
        "_member_id",
        "_message_writer",
        "_picker",
        "_pipeline",
        "_prober",
        "_readers",
        "_report_drops_at",
        "snapshots",
        "status",
        "writers",
    )

    def __init__(
        self,
        member_id: int,
        urls: Sequence[str],
        host: PeerHost,
        client: PeerClient,
        shared: SharedEntries,
        *,
        timing: Timing,
        ssl: SSLContext | None,
    ) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._member_id = member_id
        self._host = host
        self._label = (f"{member_id:x}",)
        self._picker = UrlPicker(urls)
        self._report_drops_at = 0.0
        status = self.status = PeerStatus(host.local_id, member_id, host.metrics, loop.time)
        self._pipeline = Pipeline(member_id, host, client, self._picker, status, timing)
        self.snapshots = SnapshotSender(member_id, host, client, self._picker, status, timing)
        self.writers = {kind: StreamWriter(kind, status, shared, self._lost) for kind in KINDS}
        self._app_writer = self.writers[MSGAPP]
        self._message_writer = self.writers[MESSAGE]
        self._readers = [
            StreamReader(
                kind,
                member_id,
                host,
                self._picker,
                status,
                timing=timing,
                dial_timeout_s=client.dial_timeout_s,
                ssl=ssl,
            )
            for kind in KINDS
        ]
        self._prober = Prober(member_id, host, client, urls, timing)

    def push(self, message: Message) -> None:
        """Put a message on its channel; it leaves with the next `flush`. What does not fit is dropped and reported."""
        if message.kind is _APP and self._app_writer.working:
            taken = self._app_writer.push(message)
        elif self._message_writer.working:
            taken = self._message_writer.push(message)
        else:
            taken = self._pipeline.push(message)
        if not taken:
            self._dropped(message)

    def flush(self) -> None:
        """Write what was pushed: one write for each stream."""
        size = self._app_writer.flush() + self._message_writer.flush()
        if size:
            self._host.metrics.peer_sent_bytes_total[self._label] += size

    def tick(self) -> None:
        """Three times per I/O timeout."""
        for writer in self.writers.values():
            writer.tick()

    def update(self, urls: Sequence[str]) -> None:
        """Other URLs from now on; open connections live on."""
        self._picker.update(urls)
        self._prober.update(urls)

    def stop(self) -> list[asyncio.Task[Any]]:
        """Hang up everywhere; await what is returned to be sure."""
        for writer in self.writers.values():
            writer.stop()
        tasks: list[asyncio.Task[Any]] = [reader.stop() for reader in self._readers]
        tasks += self._pipeline.stop()
        tasks += self.snapshots.stop()
        tasks.append(self._prober.stop())
        self.status.forget()
        return tasks

    def _lost(self) -> None:
        self._host.metrics.peer_sent_failures_total[self._label] += 1
        self._host.report_unreachable(self._member_id)

    def _dropped(self, message: Message) -> None:
        self._lost()
        now = self._loop.time()
        if now >= self._report_drops_at:
            self._report_drops_at = now + DROP_REPORT_S
            log.warning(
                "dropped internal Raft message since sending buffer is full",
                extra=fields(
                    message_type=message.kind.name,
                    remote_peer_id=self._label[0],
                    remote_peer_active=self.status.active_since is not None,
                ),
            )


class Remote:
    """A member that is not known yet, reached by POSTs only, at the URLs it named itself."""

    __slots__ = ("_pipeline", "_status")

    def __init__(
        self, member_id: int, urls: Sequence[str], host: PeerHost, client: PeerClient, *, timing: Timing
    ) -> None:
        self._status = PeerStatus(host.local_id, member_id, host.metrics, asyncio.get_running_loop().time)
        self._pipeline = Pipeline(member_id, host, client, UrlPicker(urls), self._status, timing)

    def push(self, message: Message) -> None:
        """Send a message if there is room for it."""
        self._pipeline.push(message)

    def stop(self) -> list[asyncio.Task[Any]]:
        """Give up on what is under way; await what is returned to be sure."""
        self._status.forget()
        return list(self._pipeline.stop())
