"""Long work in slices: one slice in each pass of the loop, whoever's it is, so that short requests never wait for more.

Work is a generator that yields between slices; what it returns is its result.
"""

from collections import deque
from collections.abc import Callable, Generator
from typing import TypeVar

from ratifyd.errors import EtcdError, Stopped
from ratifyd.ports import Clock

T = TypeVar("T")
Done = Callable[[T | None, EtcdError | None], None]


def _always() -> bool:
    return True


class Slices:
    """The long work of one member, in turns."""

    __slots__ = ("_awake", "_clock", "_fail", "_stopped", "_work")

    def __init__(self, clock: Clock, fail: Callable[[BaseException], None]) -> None:
        self._clock = clock
        self._fail = fail
        self._work: deque[Callable[[], bool]] = deque()
        self._awake = False
        self._stopped = False

    def run(self, steps: Generator[object, None, T], done: Done[T], wanted: Callable[[], bool] = _always) -> None:
        """Run `steps` from the next pass on, then call `done` with the result or the error of the request.

        Before each slice `wanted` says whether anybody still waits: if not, the work is dropped and `done` not called.
        """

        def step() -> bool:
            if not wanted():
                steps.close()
                return False
            try:
                if self._stopped:
                    steps.close()
                    raise Stopped
                next(steps)
            except StopIteration as stop:
                done(stop.value, None)
                return False
            except EtcdError as error:
                done(None, error)
                return False
            return True

        self.repeat(step)

    def repeat(self, step: Callable[[], bool]) -> None:
        """Call `step` once in its turn, again and again while it answers True."""
        self._work.append(step)
        self._wake()

    def stop(self) -> None:
        """Answer everything that is under way with Stopped in its next turn."""
        self._stopped = True

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._clock.call_soon(self._pass)

    def _pass(self) -> None:
        self._awake = False
        step = self._work.popleft()
        try:
            if step():
                self._work.append(step)
        except Exception as error:  # whatever it was, the state can no longer be trusted: end the member
            self._fail(error)
        if self._work:
            self._wake()
