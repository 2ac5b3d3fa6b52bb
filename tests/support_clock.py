"""`ports.Clock` under a test's control: callbacks run and time passes when told to, the same way every time."""

from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import Any

MAX_CALLBACKS = 1_000_000


class SimTimer:
    """A pending callback; also what `call_soon` gives."""

    def __init__(self, when: float, callback: Any, args: tuple[Any, ...]) -> None:
        self.when = when
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class SimClock:
    """Starts at `now` seconds; `run` runs what is due, `advance` lets time pass, timer by timer."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.soon: deque[SimTimer] = deque()
        self._timers: list[tuple[float, int, SimTimer]] = []
        self._order = count()

    def time(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1_700_000_000

    def call_soon(self, callback: Any, *args: Any) -> SimTimer:
        timer = SimTimer(self.now, callback, args)
        self.soon.append(timer)
        return timer

    def call_later(self, delay_s: float, callback: Any, *args: Any) -> SimTimer:
        timer = SimTimer(self.now + max(0.0, delay_s), callback, args)
        heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    @property
    def pending(self) -> int:
        """Timers that are set and not cancelled."""
        return sum(not timer.cancelled for _, _, timer in self._timers)

    def run_one(self) -> bool:
        """Run the oldest callback that is due; False when none is."""
        while self._timers and self._timers[0][0] <= self.now:
            self.soon.append(heappop(self._timers)[2])
        while self.soon:
            timer = self.soon.popleft()
            if not timer.cancelled:
                timer.callback(*timer.args)
                return True
        return False

    def run(self) -> None:
        """Run callbacks until none is due."""
        for _ in range(MAX_CALLBACKS):
            if not self.run_one():
                return
        raise AssertionError("the callbacks never end")

    def skip(self) -> bool:
        """Let time pass to the next timer, running nothing; False when there is none."""
        while self._timers and self._timers[0][2].cancelled:
            heappop(self._timers)
        if not self._timers:
            return False
        self.now = max(self.now, self._timers[0][0])
        return True

    def advance(self, seconds: float) -> None:
        """Let time pass, running everything that becomes due at its moment."""
        end = self.now + seconds
        self.run()
        while self.skip_to(end):
            self.run()
        self.now = end
        self.run()

    def skip_to(self, end: float) -> bool:
        """Let time pass to the next timer if that is due by `end`."""
        while self._timers and self._timers[0][2].cancelled:
            heappop(self._timers)
        if not self._timers or self._timers[0][0] > end:
            return False
        self.now = max(self.now, self._timers[0][0])
        return True
