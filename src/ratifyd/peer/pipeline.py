"""Messages as single POSTs: the way while a stream is down, and the only way to a temporary remote."""

import asyncio
import logging
from collections import deque
from typing import Final

from ratifyd.logs import fields
from ratifyd.peer.answers import MemberRemoved, check_post
from ratifyd.peer.client import PeerClient
from ratifyd.peer.connection import PeerUnreachable
from ratifyd.peer.headers import identity
from ratifyd.peer.host import PeerHost, Timing
from ratifyd.peer.status import PeerStatus, UrlPicker
from ratifyd.raft.codec import encode_message
from ratifyd.raft.messages import Message

IN_FLIGHT: Final = 4
QUEUE: Final = 64

log = logging.getLogger("ratifyd.peer")


class Pipeline:
    """Up to IN_FLIGHT messages on their way to one member, QUEUE more waiting."""

    __slots__ = ("_client", "_host", "_label", "_member_id", "_picker", "_queue", "_status", "_tasks", "_timing")

    def __init__(
        self,
        member_id: int,
        host: PeerHost,
        client: PeerClient,
        picker: UrlPicker,
        status: PeerStatus,
        timing: Timing,
    ) -> None:
        self._member_id = member_id
        self._host = host
        self._client = client
        self._picker = picker
        self._status = status
        self._timing = timing
        self._label = (f"{member_id:x}",)
        self._queue: deque[Message] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def push(self, message: Message) -> bool:
        """Send a message as soon as possible. False: too many are waiting."""
        if len(self._queue) >= QUEUE:
            return False
        self._queue.append(message)
        if len(self._tasks) < IN_FLIGHT:
            task = asyncio.get_running_loop().create_task(self._work(), name=f"peer-pipeline-{self._member_id:x}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    def stop(self) -> list[asyncio.Task[None]]:
        """Give up on what is under way; await what is returned to be sure."""
        self._queue.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks

    async def _work(self) -> None:
        while self._queue:
            await self._post(encode_message(self._queue.popleft()))

    async def _post(self, data: bytes) -> None:
        host, metrics = self._host, self._host.metrics
        url = self._picker.pick()
        headers = identity(host.local_id, host.cluster_id, host.local_peer_urls)
        headers.append(("Content-Type", "application/protobuf"))
        try:
            check_post(
                await self._client.post(url, "/raft", data, headers=headers, timeout_s=self._timing.io_timeout_s)
            )
        except MemberRemoved:
            log.warning("this member has been removed from the cluster", extra=fields(told_by=self._label[0]))
            host.removed_from_cluster()
            self._failed(url, "removed from the cluster")
        except (PeerUnreachable, ValueError) as error:
            self._failed(url, error)
        else:
            self._status.activate()
            metrics.peer_sent_bytes_total[self._label] += len(data)

    def _failed(self, url: str, reason: object) -> None:
        self._picker.failed(url)
        self._status.deactivate("write on pipeline", reason)
        self._host.metrics.peer_sent_failures_total[self._label] += 1
        self._host.report_unreachable(self._member_id)
