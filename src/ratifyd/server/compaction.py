"""Compaction as a background duty, and the automatic compactor that asks for it."""

from collections import deque
from collections.abc import Callable

from ratifyd.mvcc.store import Store
from ratifyd.ports import Clock

HOUR_S = 3600.0
REVISION_PERIOD_S = 300.0
"""How often the revision mode acts (etcd revInterval)."""
PERIODIC_DIVISOR = 10
"""Samples a periodic compactor takes per interval (etcd retryDivisor)."""


class CompactionRunner:
    """Removes compacted revisions in slices, with a pause after each so that others' latency stays flat."""

    __slots__ = ("_batch", "_clock", "_fail", "_pause_s", "_running", "_store", "_waiters")

    def __init__(
        self, store: Store, clock: Clock, *, batch: int, pause_s: float, fail: Callable[[BaseException], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._batch = batch
        self._pause_s = pause_s
        self._fail = fail
        self._running = False
        self._waiters: list[Callable[[], None]] = []

    def start(self) -> None:
        """Go on with whatever compaction is scheduled."""
        if not self._running:
            self._running = True
            self._clock.call_soon(self._step)

    def wait(self, done: Callable[[], None]) -> None:
        """Call `done` when no compaction is running any more."""
        if self._running:
            self._waiters.append(done)
        else:
            done()

    def _step(self) -> None:
        try:
            more = self._store.compaction_step(self._batch)
        except Exception as error:  # a store that cannot be compacted cannot be trusted: end the member
            self._fail(error)
            return
        if more:
            self._clock.call_later(self._pause_s, self._step)
            return
        self._running = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()


class AutoCompactor:
    """Asks for compaction by age or by number of revisions, on the leader only (semantics 6.9, 6.10)."""

    __slots__ = (
        "_compact",
        "_interval_s",
        "_last_target",
        "_mode",
        "_next",
        "_period_s",
        "_retention",
        "_revision",
        "_samples",
    )

    def __init__(
        self, mode: str, retention: float, revision: Callable[[], int], compact: Callable[[int], None]
    ) -> None:
        """`retention` is seconds in periodic mode and revisions in revision mode; 0 turns the compactor off."""
        self._mode = mode
        self._retention = retention
        self._revision = revision
        self._compact = compact
        self._period_s = retention
        self._interval_s = min(retention, HOUR_S) / PERIODIC_DIVISOR if mode == "periodic" else REVISION_PERIOD_S
        self._next = 0.0
        self._samples: deque[tuple[float, int]] = deque()
        self._last_target = 0

    def pause(self) -> None:
        """Lose leadership: samples taken so far say nothing about the time to come."""
        self._samples.clear()
        self._next = 0.0

    def tick(self, now: float) -> None:
        """Take a sample when it is time, and compact when one has come of age."""
        if not self._retention:
            return
        if not self._next:
            self._next = now + (0.0 if self._mode == "periodic" else self._interval_s)
        if now < self._next:
            return
        self._next = now + self._interval_s
        if self._mode == "periodic":
            self._periodic(now)
        else:
            self._by_revision()

    def _periodic(self, now: float) -> None:
        target = 0
        while self._samples and now - self._samples[0][0] >= self._period_s:
            target = self._samples.popleft()[1]
        self._samples.append((now, self._revision()))
        if target > self._last_target:
            self._last_target = target
            self._compact(target)

    def _by_revision(self) -> None:
        target = self._revision() - int(self._retention)
        if target > 0 and target != self._last_target:
            self._last_target = target
            self._compact(target)
