"""Virtual time: one clock for the whole world, and each member's own view of it.

`SimClock` runs callbacks in order and lets time pass when told to. A `MemberClock` hands a member's callbacks to it,
may run fast or slow, has its own idea of the date, and is where a process is paused, counted and killed.
"""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any

from simulation.disk import Crashed

MAX_CALLBACKS = 1_000_000


class SimTimer(list[Any]):
    """A pending callback, [when, order, callback, args], so that a heap of them is compared without Python code.

    Also what `call_soon` gives; there is no callback once it was cancelled.
    """

    __slots__ = ()

    def cancel(self) -> None:
        self[2] = None


class SimClock:
    """Starts at `now` seconds; `run` runs what is due, `advance` lets time pass, timer by timer."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.halted = False
        self.soon: deque[SimTimer] = deque()
        self._timers: list[SimTimer] = []
        self._order = count()

    def time(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1_700_000_000

    def call_soon(self, callback: Any, *args: Any) -> SimTimer:
        timer = SimTimer((self.now, 0, callback, args))
        self.soon.append(timer)
        return timer

    def call_later(self, delay_s: float, callback: Any, *args: Any) -> SimTimer:
        when = self.now + delay_s if delay_s > 0.0 else self.now
        timer = SimTimer((when, next(self._order), callback, args))
        heappush(self._timers, timer)
        return timer

    @property
    def pending(self) -> int:
        """Timers that are set and not cancelled."""
        return sum(timer[2] is not None for timer in self._timers)

    def run_one(self) -> bool:
        """Run the oldest callback that is due; False when none is."""
        while self._timers and self._timers[0][0] <= self.now:
            self.soon.append(heappop(self._timers))
        while self.soon:
            _, _, callback, args = self.soon.popleft()
            if callback is not None:
                callback(*args)
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
        return self.skip_to(inf)

    def run_to(self, end: float) -> None:
        """Run everything due by `end`, in order of time, unless it is `halted` before: what a whole world runs on."""
        soon, timers = self.soon, self._timers
        next_soon = soon.popleft
        while not self.halted:
            if soon:
                _, _, callback, args = next_soon()
            elif timers and (when := timers[0][0]) <= end:
                _, _, callback, args = heappop(timers)
                if when > self.now:
                    self.now = when
            else:
                self.now = end
                return
            if callback is not None:
                callback(*args)

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
        while self._timers and self._timers[0][2] is None:
            heappop(self._timers)
        if not self._timers or self._timers[0][0] > end:
            return False
        self.now = max(self.now, self._timers[0][0])
        return True


class MemberClock:
    """`ports.Clock` of one process. Ends with it: what was scheduled never runs once it is dead."""

    __slots__ = (
        "_after",
        "_base",
        "_crashed",
        "_epoch",
        "_failed",
        "_held",
        "_rate",
        "_soon",
        "_world",
        "callbacks",
        "crash_at",
        "dead",
        "paused",
        "wall_offset",
    )

    def __init__(
        self,
        world: SimClock,
        *,
        rate: float = 1.0,
        base: float = 1000.0,
        wall_offset: float = 0.0,
        crashed: Callable[[], object] = lambda: None,
        failed: Callable[[Exception], object] = lambda error: None,
        after: Callable[[], object] = lambda: None,
    ) -> None:
        """`rate`: own seconds per second. `crashed` and `failed` hear how a callback ended, `after` when it is done."""
        self._world = world
        self._soon = world.soon
        self._rate = rate
        self._base = base
        self._epoch = world.now
        self._crashed = crashed
        self._failed = failed
        self._after = after
        self._held: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.wall_offset = wall_offset
        self.callbacks = 0
        self.crash_at = -1
        self.dead = False
        self.paused = False

    def time(self) -> float:
        return self._base + (self._world.now - self._epoch) * self._rate

    def wall(self) -> float:
        return self._world.wall() + self.wall_offset

    def call_soon(self, callback: Callable[..., object], *args: Any) -> SimTimer:
        timer = SimTimer((self._world.now, 0, self.run, (callback, *args)))
        self._soon.append(timer)
        return timer

    def call_later(self, delay_s: float, callback: Callable[..., object], *args: Any) -> SimTimer:
        return self._world.call_later(delay_s / self._rate, self.run, callback, *args)

    def run(self, callback: Callable[..., object], *args: Any) -> None:
        """Run something in this process now, or when it is resumed, or never."""
        if self.dead:
            return
        if self.paused:
            self._held.append((callback, args))
            return
        self.callbacks = number = self.callbacks + 1
        if number == self.crash_at:
            self._crashed()
            return
        try:
            callback(*args)
        except Crashed:
            self._crashed()
        except Exception as error:  # a bug, or a checker's verdict: the world decides
            self._failed(error)
        else:
            self._after()

    def resume(self) -> None:
        """Go on after a pause with everything that came meanwhile, in order."""
        self.paused = False
        held, self._held = self._held, []
        for callback, args in held:
            self._world.call_soon(self.run, callback, *args)
