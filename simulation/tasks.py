"""Coroutines of a simulated process: the loop they run on (`embed.received.Loop`), without asyncio.

They go on by callbacks of their process's clock, so that they crash, pause and die with it.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from simulation.clock import MemberClock


class SimFuture:
    """What a coroutine awaits."""

    def __init__(self, clock: MemberClock) -> None:
        self._clock = clock
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self.waiter: Callable[[], object] | None = None

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any) -> None:
        self._end(result, None)

    def set_exception(self, error: BaseException) -> None:
        self._end(None, error)

    def _end(self, result: Any, error: BaseException | None) -> None:
        self._done, self._result, self._error = True, result, error
        if self.waiter is not None:
            self._clock.call_soon(self.waiter)

    def __await__(self) -> Generator[SimFuture, None, Any]:
        if not self._done:
            yield self
        if self._error is not None:
            raise self._error
        return self._result


class SimTask:
    """A coroutine under way; `ended(error)` hears of its end, CancelledError included."""

    def __init__(
        self,
        clock: MemberClock,
        coroutine: Coroutine[Any, Any, None],
        ended: Callable[[BaseException | None], object],
    ) -> None:
        self._clock = clock
        self._coroutine = coroutine
        self._ended = ended
        self._awaited: SimFuture | None = None
        self._cancelled = False
        self.over = False
        clock.call_soon(self._step)

    def cancel(self) -> None:
        """Raise CancelledError where it waits, as asyncio does."""
        if self.over:
            return
        self._cancelled = True
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_exception(CancelledError())

    def close(self) -> None:
        """The process has died: not one step more."""
        self.over = True
        self._coroutine.close()

    def _step(self) -> None:
        if self.over:
            return
        self._awaited = None
        try:
            if self._cancelled:
                self._cancelled = False
                awaited = self._coroutine.throw(CancelledError())
            else:
                awaited = self._coroutine.send(None)
        except StopIteration:
            self._end(None)
        except (Exception, CancelledError) as error:  # whoever began it decides
            self._end(error)
        else:
            self._awaited = awaited
            awaited.waiter = self._step

    def _end(self, error: BaseException | None) -> None:
        self.over = True
        self._ended(error)


class SimLoop:
    """The coroutines of one process."""

    def __init__(self, clock: MemberClock) -> None:
        self._clock = clock
        self._tasks: list[SimTask] = []

    def time(self) -> float:
        return self._clock.time()

    def create_future(self) -> SimFuture:
        if self._clock.dead:
            raise GeneratorExit  # in a coroutine that is being closed, and would wait once more to tidy up
        return SimFuture(self._clock)

    def run(self, coroutine: Coroutine[Any, Any, None], ended: Callable[[BaseException | None], object]) -> SimTask:
        """Begin a coroutine."""
        self._tasks = [task for task in self._tasks if not task.over]
        task = SimTask(self._clock, coroutine, ended)
        self._tasks.append(task)
        return task

    @property
    def busy(self) -> bool:
        """Whether a coroutine is under way."""
        return any(not task.over for task in self._tasks)

    def close(self) -> None:
        """End with the process, whose clock is dead."""
        for task in self._tasks:
            if not task.over:
                task.close()
