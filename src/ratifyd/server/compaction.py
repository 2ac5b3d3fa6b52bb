"""Compaction as a background duty, and the automatic compactor that asks for it."""

import logging
from collections import deque
from collections.abc import Callable

from ratifyd.metrics import Metrics
from ratifyd.mvcc.store import Store
from ratifyd.ports import Clock
from ratifyd.server.timing import Timing

HOUR_S = 3600.0
REVISION_PERIOD_S = 300.0
"""How often the revision mode acts (etcd revInterval)."""
PERIODIC_DIVISOR = 10
"""Samples a periodic compactor takes per interval (etcd retryDivisor)."""

PARTS = 10
"""A batch is removed in so many parts, at even distances: a part holds up others for a quarter of a millisecond."""

log = logging.getLogger("ratifyd.server")

Compact = Callable[[int, Callable[[bool], None]], None]
"""Asks for a compaction; calls back with whether it (or one beyond it) took place."""


class CompactionRunner:
    """Removes compacted revisions in slices, with a pause after each so that others' latency stays flat."""

    __slots__ = (
        "_began",
        "_clock",
        "_fail",
        "_metrics",
        "_pause_s",
        "_removed",
        "_rows",
        "_running",
        "_stopped",
        "_store",
        "_timing",
        "_waiters",
    )

    def __init__(
        self,
        store: Store,
        clock: Clock,
        timing: Timing,
        metrics: Metrics,
        *,
        batch: int,
        pause_s: float,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._timing = timing
        self._metrics = metrics
        self._rows = -(-batch // PARTS)
        self._pause_s = pause_s * self._rows / batch
        self._fail = fail
        self._began = 0.0
        self._removed = 0
        self._running = False
        self._stopped = False
        self._waiters: list[Callable[[], None]] = []

    def start(self) -> None:
        """Go on with whatever compaction is scheduled."""
        if not self._running:
            self._running = True
            self._began, self._removed = self._timing.now(), self._store.rows_compacted
            self._clock.call_soon(self._step)

    def stop(self) -> None:
        """Touch the store no more; what is left to remove is removed after the next start."""
        self._stopped = True

    def wait(self, done: Callable[[], None]) -> None:
        """Call `done` when no compaction is running any more."""
        if self._store.compacting:  # it may be about to start: the request is answered before its duties are taken up
            self._waiters.append(done)
        else:
            done()

    def _step(self) -> None:
        if self._stopped:
            return
        revision = self._store.compacting_to
        began = self._timing.now()
        try:
            more = self._store.compaction_step(self._rows)
        except Exception as error:  # a store that cannot be compacted cannot be trusted: end the member
            self._fail(error)
            return
        now = self._timing.move_on()
        self._metrics.compaction_pause_ms.observe((now - began) * 1000)
        if revision not in (-1, self._store.compacting_to):
            self._finished(revision, now)
        if more:
            self._clock.call_later(self._pause_s, self._step)
            return
        self._running = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()

    def _finished(self, revision: int, now: float) -> None:
        self._metrics.compaction_total_ms.observe((now - self._began) * 1000)
        self._metrics.compaction_last = int(self._clock.wall())
        removed = self._store.rows_compacted
        fields: dict[str, object] = {
            "compact-revision": revision,
            "took": f"{now - self._began:.6f}s",
            "number-of-keys-compacted": removed - self._removed,
        }
        known = self._store.compaction_hashes
        if known and known[-1].revision == revision:
            fields["hash"] = known[-1].hash
        self._began, self._removed = now, removed
        log.info("finished scheduled compaction", extra={"fields": fields})


class AutoCompactor:
    """Asks for compaction by age or by number of revisions, on the leader only (semantics 6.9, 6.10).

    Every member takes samples, so that a new leader knows what was current when.
    """

    __slots__ = (
        "_compact",
        "_interval_s",
        "_last_success",
        "_last_target",
        "_mode",
        "_next",
        "_retention",
        "_revision",
        "_samples",
        "_under_way",
        "_wait_s",
    )

    def __init__(
        self, mode: str, retention: float, revision: Callable[[], int], compact: Compact, *, now: float
    ) -> None:
        """`retention` is seconds in periodic mode and revisions in revision mode; 0 turns the compactor off."""
        self._mode = mode
        self._retention = retention
        self._revision = revision
        self._compact = compact
        periodic = mode == "periodic"
        self._interval_s = min(retention, HOUR_S) / PERIODIC_DIVISOR if periodic else REVISION_PERIOD_S
        self._next = now if periodic else now + self._interval_s
        kept = round(retention / self._interval_s) + 1 if periodic and retention else 0
        self._samples: deque[int] = deque(maxlen=kept)
        self._wait_s = retention
        self._last_success = now
        self._last_target = 0
        self._under_way = False

    def tick(self, now: float, *, leading: bool) -> None:
        """Compact when it is time and this member leads."""
        if not self._retention or now < self._next:
            return
        due = self._next
        self._next += self._interval_s
        if now >= self._next:
            due = now  # the loop was held up
            self._next = now + self._interval_s
        if self._mode == "periodic":
            if leading and self._samples:
                self._periodic(due)
            self._samples.append(self._revision())
        elif leading:
            target = self._revision() - int(self._retention)
            if target > 0 and target != self._last_target:
                self._ask(target, due)

    def _periodic(self, due: float) -> None:
        target = self._samples[0]
        # Whole samples count: neither a tick's delay nor rounding may cost a compaction one sample more.
        elapsed_s = due - self._last_success + self._interval_s / 2
        if elapsed_s >= self._wait_s and target != self._last_target:
            self._wait_s = min(self._retention, HOUR_S)
            self._ask(target, due)

    def _ask(self, target: int, due: float) -> None:
        if self._under_way:
            return
        self._under_way = True

        def answered(done: bool) -> None:
            self._under_way = False
            if done:  # else it is tried again at the next sample
                self._last_success = due
                self._last_target = target

        self._compact(target, answered)
