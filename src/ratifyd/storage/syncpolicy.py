"""Where a WAL sync should run: in place, on the loop, or on the worker thread.

In place saves the hand-over to a thread and back, about as much as a quick sync itself; on the thread a sync overlaps
with the loop's work, and a slow disk cannot stop heartbeats. So: in place while syncs are quick and batches small.
"""

QUICK_SYNC_S = 400e-6
SLOW_SYNC_S = 20e-3
PROBATION_SYNCS = 1000
IN_PLACE_BYTES = 64 << 10
_WEIGHT = 0.125


class SyncPolicy:
    """Remembers how long recent syncs took; starts on the thread until the disk has proved quick."""

    __slots__ = ("_average_s", "_in_place_bytes", "_probation", "_quick_s", "_slow_s")

    def __init__(
        self, *, quick_s: float = QUICK_SYNC_S, slow_s: float = SLOW_SYNC_S, in_place_bytes: int = IN_PLACE_BYTES
    ) -> None:
        self._quick_s = quick_s
        self._slow_s = slow_s
        self._in_place_bytes = in_place_bytes
        self._average_s = 2 * quick_s
        self._probation = 0

    def note(self, seconds: float) -> None:
        """One write and sync took this long. A slow one bans syncs from the loop for the next PROBATION_SYNCS."""
        self._average_s += (seconds - self._average_s) * _WEIGHT
        if seconds > self._slow_s:
            self._probation = PROBATION_SYNCS
        elif self._probation:
            self._probation -= 1

    def in_place(self, size: int) -> bool:
        """Whether a batch of `size` bytes should be synced on the loop."""
        return self._average_s < self._quick_s and not self._probation and size <= self._in_place_bytes
