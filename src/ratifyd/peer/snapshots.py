"""Snapshots on their way out: one message and the image of a backend, as one POST."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from ratifyd.peer.answers import MemberRemoved, check_post
from ratifyd.peer.client import PeerClient
from ratifyd.peer.codec import frame_message
from ratifyd.peer.headers import identity
from ratifyd.peer.host import PeerHost, Timing
from ratifyd.peer.status import PeerStatus, UrlPicker
from ratifyd.raft.messages import Message

OpenImage = Callable[[], Iterator[bytes]]
SnapshotDone = Callable[[bool], None]

SLOW_BYTES_PER_S: Final = 20_000_000
"""A receiver may need this long to bring the image to its disk before it answers."""

log = logging.getLogger("ratifyd.peer")


class SnapshotSender:
    """Sends snapshots to one member, one at a time."""

    __slots__ = ("_client", "_host", "_label", "_member_id", "_picker", "_status", "_task", "_timing")

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
        self._task: asyncio.Task[bool] | None = None

    def send(self, message: Message, size: int, open_image: OpenImage, done: SnapshotDone) -> bool:
        """Start sending. False, and nothing is called: another snapshot is still on its way."""
        if self._task is not None:
            return False
        self._host.metrics.snapshot_send_inflights[self._label] += 1
        self._task = asyncio.get_running_loop().create_task(
            self._send(message, size, open_image), name=f"peer-snapshot-{self._member_id:x}"
        )
        self._task.add_done_callback(partial(self._ended, done))
        return True

    def stop(self) -> list[asyncio.Task[bool]]:
        """Break off; `done` is still called. Await what is returned to be sure."""
        if self._task is None:
            return []
        self._task.cancel()
        return [self._task]

    def _ended(self, done: SnapshotDone, task: asyncio.Task[bool]) -> None:
        """Report, however it ended: a task cancelled before its first step runs no line of its own."""
        self._task = None
        self._host.metrics.snapshot_send_inflights[self._label] -= 1
        ok = False
        if not task.cancelled():
            bug = task.exception()
            if bug is None:
                ok = task.result()
            else:
                log.error("sending a snapshot failed in an unexpected way", exc_info=bug)
        done(ok)
        self._host.report_snapshot(self._member_id, ok)

    async def _send(self, message: Message, size: int, open_image: OpenImage) -> bool:
        loop = asyncio.get_running_loop()
        metrics, label = self._host.metrics, self._label
        assert message.snapshot is not None, "a snapshot message carries a snapshot"
        about = {"snapshot-index": message.snapshot.meta.index, "remote-peer-id": label[0], "bytes": size}
        log.info("sending database snapshot", extra={"fields": about})
        started = loop.time()
        url = self._picker.pick()
        try:
            await self._post(url, message, size, open_image)
        except MemberRemoved:
            self._host.removed_from_cluster()
            self._failed(url, about, "removed from the cluster")
            return False
        except (OSError, ValueError) as error:
            self._failed(url, about, error)
            return False
        self._status.activate()
        metrics.peer_sent_bytes_total[label] += size
        metrics.snapshot_send_success[label] += 1
        metrics.snapshot_send_seconds[label].observe(loop.time() - started)
        log.info("sent database snapshot", extra={"fields": about})
        return True

    def _failed(self, url: str, about: dict[str, object], error: object) -> None:
        self._picker.failed(url)
        self._status.deactivate("post snapshot", error)
        metrics = self._host.metrics
        metrics.peer_sent_failures_total[self._label] += 1
        metrics.snapshot_send_failures[self._label] += 1
        log.warning("failed to send database snapshot", extra={"fields": about | {"error": str(error)}})
        self._host.report_unreachable(self._member_id)

    async def _post(self, url: str, message: Message, size: int, open_image: OpenImage) -> None:
        host = self._host
        headers = identity(host.local_id, host.cluster_id, host.local_peer_urls)
        headers.append(("Content-Type", "application/octet-stream"))
        body = _body(frame_message(message), open_image)
        try:
            answer = await self._client.upload(
                url,
                "/raft/snapshot",
                body,
                headers=headers,
                stall_s=self._timing.snapshot_stall_s,
                answer_timeout_s=self._timing.snapshot_answer_s + size / SLOW_BYTES_PER_S,
            )
        finally:
            await body.aclose()
        check_post(answer)


async def _body(envelope: bytes, open_image: OpenImage) -> AsyncGenerator[bytes, None]:
    """The message, then the image, read ahead by one piece on a thread of its own from its first to its last byte."""
    yield envelope
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot-send")
    image: Iterator[bytes] | None = None
    ahead: asyncio.Future[bytes | None] | None = None
    try:
        image = await loop.run_in_executor(thread, open_image)
        ahead = loop.run_in_executor(thread, next, image, None)
        while (piece := await ahead) is not None:
            ahead = loop.run_in_executor(thread, next, image, None)
            yield piece
    finally:
        if ahead is not None:
            ahead.cancel()
        # `done` may free what the image reads from: not before the thread has let go of it.
        last = thread.submit(image.close if isinstance(image, Generator) else _nothing)
        await asyncio.wrap_future(last)
        thread.shutdown(wait=False)


def _nothing() -> None:
    """Runs when everything submitted before has."""
