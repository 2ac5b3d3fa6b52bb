"""Look for the next request for a moment before the loop sleeps.

A client that asks one thing at a time asks again as soon as it has its answer. By then a loop that waits in the kernel
sleeps, and to wake it, and the core beneath it, takes longer than to answer. Go's scheduler looks about before a thread
sleeps for the same reason.
"""

import os
from collections.abc import Callable

LINGER_S = 200e-6
"""How long after an answer: the way to a client on the same machine and back, with room to spare."""
MOST_SKIPPED = 64
"""Answers in a row that are not lingered after while nothing ever comes of it."""


class Lingering:
    """Keeps a loop awake after answers. Where nothing came in time, the next answers do without, ever more of them."""

    __slots__ = ("_call_soon", "_came", "_lingering", "_skip", "_skipped", "_time", "_until", "_yield")

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        time: Callable[[], float],
        *,
        yield_core: Callable[[], None] = os.sched_yield,
    ) -> None:
        """`time` in seconds. `yield_core` lets others use this core first: a client may have been put on it."""
        self._call_soon = call_soon
        self._time = time
        self._yield = yield_core
        self._lingering = False
        self._came = False
        """Whether there was an answer since the last look."""
        self._until = 0.0
        self._skip = 0
        self._skipped = 0

    def answered(self) -> None:
        """An answer has left: linger, if that has paid."""
        if self._lingering:
            self._came = True
            self._skip = 0
        elif self._skipped < self._skip:
            self._skipped += 1
        else:
            self._lingering = self._came = True
            self._skipped = 0
            self._skip = min(2 * self._skip + 1, MOST_SKIPPED)
            self._call_soon(self._look)

    def _look(self) -> None:
        """Runs once in each round of the loop, which polls without waiting because of it."""
        now = self._time()
        if self._came:
            self._came = False
            self._until = now + LINGER_S
        elif now < self._until:
            self._yield()
        else:
            self._lingering = False
            return
        self._call_soon(self._look)
