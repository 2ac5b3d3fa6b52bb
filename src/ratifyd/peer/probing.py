"""Round trip time and clock of another member, asked every few seconds (etcd: /raft/probing)."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from ratifyd.logs import fields
from ratifyd.membership import read_object
from ratifyd.peer.client import PeerClient
from ratifyd.peer.connection import PeerUnreachable
from ratifyd.peer.host import PeerHost, Timing
from ratifyd.peer.status import UrlPicker

PATH: Final = "/raft/probing"
SMOOTHING: Final = 0.125
UNHEALTHY_REPORT_S: Final = 5.0

log = logging.getLogger("ratifyd.peer")


def probe_answer(wall: float) -> bytes:
    """The body that answers a probe at this time (seconds since the epoch)."""
    now = datetime.fromtimestamp(wall, UTC).isoformat(timespec="microseconds")
    return b'{"OK":true,"Now":"%b"}\n' % now.replace("+00:00", "Z").encode()


def read_probe_answer(body: bytes) -> float:
    """The other member's time, in seconds since the epoch. Raises ValueError unless it is well."""
    answer = read_object(body)
    now = answer.get("Now")
    stamp = datetime.fromisoformat(_cut_nanoseconds(now)) if isinstance(now, str) else None
    if answer.get("OK") is not True or stamp is None or stamp.tzinfo is None:  # a time of no zone may overflow, too
        raise ValueError(f"not an answer to a probe: {body[:100]!r}")
    return stamp.timestamp()


def _cut_nanoseconds(stamp: str) -> str:
    """Go writes up to nine digits behind the point; six are what Python reads."""
    head, point, tail = stamp.partition(".")
    if not point:
        return stamp
    digits = len(tail) - len(tail.lstrip("0123456789"))
    return f"{head}.{tail[:digits][:6]:0<6}{tail[digits:]}"


class Prober:
    """Probes one member for as long as it runs; speaks up when it is unwell or its clock differs."""

    def __init__(
        self,
        member_id: int,
        host: PeerHost,
        client: PeerClient,
        urls: Sequence[str],
        timing: Timing,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.rtt_s: float | None = None
        """Smoothed round trip time; None before the first answer."""
        self.clock_skew_s = 0.0
        """Our clock minus theirs, at the last answer."""
        self._label = (f"{member_id:x}",)
        self._host = host
        self._client = client
        self._picker = UrlPicker(urls)  # its own: an unanswered probe says nothing about the streams
        self._timing = timing
        self._wall = wall
        self._report_at = 0.0
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"peer-probe-{member_id:x}")

    def update(self, urls: Sequence[str]) -> None:
        """Probe other URLs from now on."""
        self._picker.update(urls)

    def stop(self) -> asyncio.Task[None]:
        """Stop; await what is returned to be sure."""
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._timing.probe_s)
            url = self._picker.pick()
            started = time.monotonic()  # the loop only looks at its clock now and then
            try:
                answer = await self._client.get(url, PATH, timeout_s=self._timing.io_timeout_s)
                if answer.status != 200:
                    raise PeerUnreachable(f"status {answer.status}")
                theirs = read_probe_answer(answer.body)
            except (PeerUnreachable, ValueError) as error:
                self._picker.failed(url)
                self._unwell(loop.time(), error)
            else:
                self._note(loop.time(), time.monotonic() - started, theirs)

    def _note(self, now: float, rtt: float, theirs: float) -> None:
        self.rtt_s = rtt if self.rtt_s is None else self.rtt_s + SMOOTHING * (rtt - self.rtt_s)
        self.clock_skew_s = self._wall() - rtt / 2 - theirs
        self._host.metrics.peer_round_trip_seconds[self._label].observe(self.rtt_s)
        if abs(self.clock_skew_s) > self._timing.clock_skew_s and now >= self._report_at:
            self._report_at = now + self._timing.probe_report_s
            log.warning(
                "prober found high clock drift",
                extra=fields(
                    remote_peer_id=self._label[0],
                    clock_drift=f"{self.clock_skew_s:.6f}s",
                    rtt=f"{self.rtt_s:.6f}s",
                ),
            )

    def _unwell(self, now: float, error: Exception) -> None:
        if now >= self._report_at:
            self._report_at = now + UNHEALTHY_REPORT_S
            log.warning(
                "prober detected unhealthy status",
                extra=fields(remote_peer_id=self._label[0], rtt=f"{self.rtt_s or 0:.6f}s", error=str(error)),
            )
