"""Committing the write buffer in the background: every interval, or when it holds enough rows (semantics 14.5)."""

from collections.abc import Callable

from ratifyd.apply.state import State
from ratifyd.ports import Clock


class Committer:
    """Seals the write buffer of one member. A failed commit ends the member: it is never retried."""

    __slots__ = (
        "_clock",
        "_fail",
        "_interval_s",
        "_last",
        "_limit",
        "_paused",
        "_state",
        "_stopped",
        "_waiters",
        "_wake",
        "committed_index",
    )

    def __init__(
        self,
        state: State,
        clock: Clock,
        *,
        interval_s: float,
        limit: int,
        fail: Callable[[BaseException], None],
        wake: Callable[[], None],
    ) -> None:
        self._state = state
        self._clock = clock
        self._interval_s = interval_s
        self._limit = limit
        self._fail = fail
        self._wake = wake
        self._last = clock.time()
        self._waiters: list[Callable[[], None]] = []
        self._paused: Callable[[], None] | None = None
        self._stopped = False
        self.committed_index = state.consistent_index

    def tick(self, now: float) -> None:
        """Seal when the interval has passed."""
        if self._state.buffer.pending and now - self._last >= self._interval_s:
            self._seal()

    def has_room(self) -> bool:
        """Whether more entries may be applied; seals a full buffer on the way."""
        buffer = self._state.buffer
        pending = len(buffer.revisions)  # the other buckets hold next to nothing
        if pending < self._limit:
            return True
        if not buffer.flushing:
            self._seal()
            return True
        return pending < 2 * self._limit

    def sync(self, done: Callable[[], None]) -> None:
        """Call `done` once everything applied so far is in the backend file."""
        if self._stopped:
            return
        buffer = self._state.buffer
        if not buffer.pending and not buffer.flushing and self.committed_index == self._state.consistent_index:
            done()
            return
        if buffer.flushing or self._paused is not None:
            self._waiters.append(lambda: self.sync(done))
        else:
            self._waiters.append(done)
            self._seal()

    def pause(self, paused: Callable[[], None]) -> None:
        """Start no more commits until `resume` or `release`; call `paused` when none is under way."""
        self._paused = paused
        if not self._state.buffer.flushing:
            paused()

    def resume(self) -> None:
        """Go on after the backend was replaced: it holds all that the state reflects."""
        self._paused = None
        self.committed_index = self._state.consistent_index
        self._tell()

    def stop(self) -> None:
        """Write nothing more, and tell nobody: an entry may be applied by half."""
        self._stopped = True

    def release(self) -> None:
        """Go on with the backend as it was: it is not replaced after all."""
        self._paused = None
        self._tell()

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()

    def _seal(self) -> None:
        if self._paused is not None or self._stopped:
            return
        self._last = self._clock.time()
        index = self._state.consistent_index

        def committed(error: BaseException | None) -> None:
            if error is not None:
                self._fail(error)
                return
            if self._stopped:
                return
            self.committed_index = index
            if self._paused is not None:
                self._paused()
            else:
                self._tell()
            self._wake()

        self._state.seal(committed)
