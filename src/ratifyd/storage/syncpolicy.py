"""Where a WAL sync should run: in place, on the loop, or on the worker thread.

In place saves the hand-over to a thread and back, which costs about a quick sync itself, and several under load, when
the thread must wait for the interpreter twice. On the thread a sync overlaps with the loop's work, and a slow disk
cannot stop heartbeats. So: in place while most syncs are quick, on the thread from the moment they are not. A few that
take some milliseconds do not make a disk slow: on the thread they would be no quicker, and all others would pay for it.
"""

from math import inf

QUICK_SYNC_S = 500e-6
"""Average up to which syncs stay on the loop; in it a single one counts for twice that at most."""

SLOW_SYNC_S = 50e-3
"""A single sync this slow, half a heartbeat, moves them off the loop for SLOW_WINDOW syncs."""

IN_PLACE_BYTES = 512 << 10
WINDOW = 32
SLOW_WINDOW = 1000
_WEIGHT = 0.125


class SyncPolicy:
    """Follows how long syncs take. On the thread that includes waits for the interpreter: only the best one counts."""

    __slots__ = ("_average_s", "_best_s", "_in_place_bytes", "_off_loop", "_quick_s", "_slow_s")

    def __init__(
        self, *, quick_s: float = QUICK_SYNC_S, slow_s: float = SLOW_SYNC_S, in_place_bytes: int = IN_PLACE_BYTES
    ) -> None:
        self._quick_s = quick_s
        self._slow_s = slow_s
        self._in_place_bytes = in_place_bytes
        self._average_s = quick_s / 2
        self._best_s = inf
        self._off_loop = 0

    def in_place(self, size: int) -> bool:
        """Whether a batch of `size` bytes should be written and synced on the loop."""
        return not self._off_loop and size <= self._in_place_bytes

    def note(self, seconds: float, *, in_place: bool) -> None:
        """One write and sync took this long, on the loop or on the thread."""
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

    def _leave_loop(self, window: int) -> None:
        self._off_loop = max(window, self._off_loop)
        self._best_s = inf
