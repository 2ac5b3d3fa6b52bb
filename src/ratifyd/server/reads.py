"""Linearizable reads: all that arrive together share one ReadIndex, and run once the state has caught up with it.

Raft §6.4. A read that arrives while a batch is being confirmed waits for the next one (semantics 12.1). Reads of
whatever this member has (serializable ones) wait for the end of the turn only. What a turn answers is bounded in bytes.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from ratifyd.config.values import show_duration
from ratifyd.errors import EtcdError, LeaderChanged, Stopped, Timeout
from ratifyd.schema import decode_u64, encode_u64

log = logging.getLogger("ratifyd.server")

Read = Callable[[Any, EtcdError | None], int | None]
"""Called with its argument and None when the state may be read, or with the error; returns the length of its answer."""
Queue = list[tuple[Read, Any]]

BYTES_A_TURN = 4 << 20
"""Answers that are made before they are sent and others get their turn."""
SECONDS_A_TURN = 0.02
"""No further read is begun in a turn after that time: what is answered shortly may have taken long to find."""


class _Confirmed(NamedTuple):
    """A batch that waits for the state to reach its index, and when that began."""

    valid_from: int
    reads: Queue
    closed: float
    confirmed: float
    applied: int
    begun: bool = False


OUT_OF_DATE = (
    "ignored out-of-date read index response; local node read indexes queueing up and waiting to be in sync with leader"
)
TIMED_OUT = "timed out waiting for read index response (local node might have slow network)"
RETRY_S = 0.5
"""Seconds after which an unanswered ReadIndex is sent again (etcd readIndexRetryTime)."""


class Reads:
    """Reads waiting for a ReadIndex, and those waiting for the state to reach it."""

    __slots__ = (
        "_next_id",
        "_now",
        "_open",
        "_open_context",
        "_open_since",
        "_retried",
        "_seen",
        "_timeout_s",
        "confirmed",
        "failed_total",
        "local",
        "on_run",
        "queued",
        "slow_total",
    )

    def __init__(self, next_id: Callable[[], int], *, timeout_s: float, now: Callable[[], float]) -> None:
        self._next_id = next_id
        self._timeout_s = timeout_s
        self._now = now
        self.queued: Queue = []
        self.local: Queue = []
        """Those that need no ReadIndex."""
        self._open: Queue = []
        self._open_context = b""
        self._open_since = 0.0
        self._retried = 0.0
        self._seen: deque[tuple[float, int]] = deque()
        """Moments, and how many reads were queued by then."""
        self.confirmed: deque[_Confirmed] = deque()
        self.on_run: Callable[[float, float, float, int, int], None] = _untold
        """Told of each batch: when it was closed, confirmed, run; its index; what was applied when it was confirmed."""
        self.slow_total = 0
        """Batches that were answered too late or never."""
        self.failed_total = 0
        """Batches whose leader was lost."""

    def after(self, read: Read, argument: Any) -> None:
        """Run `read(argument, None)` at a moment that reflects everything acknowledged before this call."""
        self.queued.append((read, argument))

    @property
    def can_open(self) -> bool:
        """Whether reads wait and no batch is being confirmed."""
        return bool(self.queued) and not self._open

    def open_batch(self) -> bytes:
        """Close the batch over all queued reads; the context for raft's ReadIndex."""
        self._open, self.queued = self.queued, []
        self._seen.clear()
        self._open_context = encode_u64(self._next_id())
        self._open_since = self._retried = self._now()
        return self._open_context

    def confirm(self, context: bytes, index: int, applied: int = 0) -> None:
        """Raft has confirmed a context: its reads are valid from this index on. `applied` is where the state is."""
        if self._open and context == self._open_context:
            self.confirmed.append(_Confirmed(index, self._open, self._open_since, self._now(), applied))
            self._open = []
        else:
            self.slow_total += 1
            log.warning(
                OUT_OF_DATE,
                extra={"fields": {"received-request-id": int.from_bytes(context) if len(context) == 8 else 0}},
            )

    def run(self, applied: int) -> bool:
        """Run the reads whose index the state has reached, and the local ones; whether some are left for a next turn.

        Each kind has a budget of its own, so that neither waits for the other.
        """
        room = BYTES_A_TURN
        until = self._now() + SECONDS_A_TURN
        while room > 0 and self._is_ready(applied):
            batch = self.confirmed.popleft()
            if not batch.begun:
                self.on_run(batch.closed, batch.confirmed, self._now(), batch.valid_from, batch.applied)
            left, room = _run_some(batch.reads, room, self._now, until)
            if left:
                self.confirmed.appendleft(batch._replace(reads=left, begun=True))
        local, self.local = self.local, []
        left, _ = _run_some(local, BYTES_A_TURN, self._now, self._now() + SECONDS_A_TURN)
        self.local = left + self.local
        return bool(self.local) or self._is_ready(applied)

    def _is_ready(self, applied: int) -> bool:
        return bool(self.confirmed) and self.confirmed[0].valid_from <= applied

    def retry(self, now: float) -> bytes | None:
        """The context to ask for again, when its answer is late; gives up on a batch whose time is up."""
        if not self._open:
            return None
        if now - self._open_since >= self._timeout_s:
            self._timed_out()
            self._fail(Timeout())
            return None
        if now - self._retried < RETRY_S:
            return None
        self._retried = now
        fields = {"sent-request-id": decode_u64(self._open_context), "retry-timeout": show_duration(RETRY_S)}
        log.warning("waiting for ReadIndex response took too long, retrying", extra={"fields": fields})
        return self._open_context

    def expire(self, now: float) -> None:
        """Give up on reads that no batch has taken for the whole timeout; call it every tick."""
        seen, queued = self._seen, self.queued
        if len(queued) > (seen[-1][1] if seen else 0):
            seen.append((now, len(queued)))
        overdue = 0
        while seen and now - seen[0][0] >= self._timeout_s:
            overdue = seen.popleft()[1]
        if overdue:
            self._seen = deque((since, count - overdue) for since, count in seen)
            failed, self.queued = queued[:overdue], queued[overdue:]
            self._timed_out()
            for read, argument in failed:
                read(argument, Timeout())

    def _timed_out(self) -> None:
        self.slow_total += 1
        log.warning(TIMED_OUT, extra={"fields": {"timeout": show_duration(self._timeout_s)}})

    def leader_changed(self) -> None:
        """Fail the batch under confirmation: its leader is gone (etcd ErrLeaderChanged)."""
        self.failed_total += bool(self._open)
        self._fail(LeaderChanged())

    def stop(self) -> None:
        """Refuse everything that waits: the member is stopping."""
        self._fail(Stopped())
        self._open, self.queued = self.queued, []
        self._seen.clear()
        self._fail(Stopped())
        self._open, self.local = self.local, []
        self._fail(Stopped())
        while self.confirmed:
            self._open = self.confirmed.popleft().reads
            self._fail(Stopped())

    def _fail(self, error: EtcdError) -> None:
        failed, self._open = self._open, []
        for read, argument in failed:
            read(argument, error)


def _run_some(reads: Queue, room: int, now: Callable[[], float], until: float) -> tuple[Queue, int]:
    """Run reads until their answers come to `room` bytes, or time is up; those that are left, and the room that is."""
    for done, (read, argument) in enumerate(reads, 1):
        size = read(argument, None)
        if size is not None:
            room -= size
            if room <= 0:
                return reads[done:], room
        if now() >= until:
            return reads[done:], 0
    return [], room


def _untold(closed: float, confirmed: float, run: float, index: int, applied: int) -> None:
    """Nobody wants to know."""
