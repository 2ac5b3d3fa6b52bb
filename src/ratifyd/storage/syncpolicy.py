"""Where a sync of the WAL should run: in place, on the loop; in the kernel, behind it; or on the worker thread.

In place saves all hand-over, which costs about a quick sync itself; but nothing else happens meanwhile. In the kernel a
sync overlaps with the loop's work: best as soon as there is such work, so for all but small batches. Only the write is
then the loop's. On the thread a sync overlaps as well, but the thread must wait for the interpreter, twice: for many
times what a quick sync takes when the loop is busy. But a slow disk, whose writes may block as well, cannot stop
heartbeats there. A few syncs that take some milliseconds do not make a disk slow.
"""

from math import inf

QUICK_SYNC_S = 500e-6
"""Average up to which syncs stay on the loop; in it a single one counts for twice that at most."""

SLOW_SYNC_S = 50e-3
"""A single sync in place, or write, this slow, half a heartbeat, moves them off the loop for SLOW_WINDOW syncs."""

SMALL_BYTES = 4 << 10
"""What is synced in place although the kernel could do it: more is the requests of many."""

ON_LOOP_BYTES = 512 << 10
WINDOW = 32
SLOW_WINDOW = 1000
_WEIGHT = 0.125


class SyncPolicy:
    """Follows how long syncs take. On the thread that includes waits for the interpreter: only the best one counts."""

    __slots__ = ("_average_s", "_best_s", "_in_place_bytes", "_off_loop", "_quick_s", "_slow_s", "_slow_writes")

    def __init__(
        self, *, quick_s: float = QUICK_SYNC_S, slow_s: float = SLOW_SYNC_S, in_place_bytes: int = ON_LOOP_BYTES
    ) -> None:
        self._quick_s = quick_s
        self._slow_s = slow_s
        self._in_place_bytes = in_place_bytes
        self._average_s = quick_s / 2
        self._best_s = inf
        self._off_loop = 0
        self._slow_writes = 0

    def in_place(self, size: int) -> bool:
        """Whether a batch of `size` bytes should be written and synced on the loop."""
        return not self._off_loop and size <= self._in_place_bytes

    def in_kernel(self, size: int) -> bool:
        """Whether a batch that is not synced in place should be written on the loop, and synced by the kernel."""
        return not self._slow_writes and size <= ON_LOOP_BYTES

    def note(self, seconds: float, *, in_place: bool) -> None:
        """One write and sync took this long, on the loop or off it."""
        if self._slow_writes:
            self._slow_writes -= 1
        if seconds > self._slow_s:
            self._leave_loop(SLOW_WINDOW)
        elif in_place:
            self._average_s += (min(seconds, 2 * self._quick_s) - self._average_s) * _WEIGHT
            if self._average_s >= self._quick_s:
                self._leave_loop(WINDOW)
        elif self._off_loop:
            self._best_s = min(self._best_s, seconds)
            self._off_loop -= 1
            if not self._off_loop:
                self._average_s = self._best_s
                if self._best_s >= self._quick_s:
                    self._leave_loop(WINDOW)

    def note_write(self, seconds: float) -> None:
        """One write on the loop, to be synced by the kernel, took this long."""
        if seconds > self._slow_s:
            self._slow_writes = SLOW_WINDOW

    def _leave_loop(self, window: int) -> None:
        self._off_loop = max(window, self._off_loop)
        self._best_s = inf
