"""Proposals: requests on their way through raft, each answered once: when applied, or when its time is up.

Whoever waits is found by the bytes of the entry. Without a leader requests wait to be proposed, until their time is
up. One that was proposed may still commit after that; nobody hears of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ratifyd.apply.entries import LONG_ENTRY_BYTES, Answer, Waiters, waiter_key, waiter_of
from ratifyd.apply.requests import Row
from ratifyd.auth.identity import ANONYMOUS, Identity
from ratifyd.errors import (
    ContextCanceled,
    ContextDeadlineExceeded,
    EtcdError,
    NotLeader,
    RequestTooLarge,
    RequestTooManyRequests,
    Stopped,
)
from ratifyd.proto import fast
from ratifyd.raft.messages import ConfChange

MAX_GAP = 5000
"""Entries committed but not yet applied above which proposals are refused (etcd maxGapBetweenApplyAndCommitIndex)."""

Wanted = Callable[[], bool]
"""Whether whoever asked for a membership change still waits."""

_MASK_48 = (1 << 48) - 1
_SHORT_NUMBERS, _SHORT_IDS = 16, 1 << 14
"""Fields below this number and ids from this on are what `fast.entry_of` takes."""


class RequestIds:
    """Unique request ids (formats 8.4): member id, start time, counter. `unix_ms` is the start of this process."""

    __slots__ = ("_prefix", "_suffix")

    def __init__(self, member_id: int, unix_ms: int) -> None:
        self._prefix = (member_id & 0xFFFF) << 48
        self._suffix = (unix_ms & 0xFF_FFFF_FFFF) << 8

    def next(self) -> int:
        """A new id."""
        self._suffix = (self._suffix + 1) & _MASK_48
        return self._prefix | self._suffix


class Proposals:
    """Requests waiting to be proposed, and those waiting to be applied."""

    __slots__ = (
        "_changing",
        "_ids",
        "_max_bytes",
        "_timeout_s",
        "changes",
        "failed_total",
        "gap",
        "now",
        "own",
        "queued",
        "stopped",
        "waiters",
    )

    def __init__(self, ids: RequestIds, *, max_bytes: int, timeout_s: float, now: Callable[[], float]) -> None:
        self._ids = ids
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self.now = now
        self.gap = 0
        """Entries committed but not applied, as the last turn has left them."""
        self.queued: list[bytes] = []
        self.own: list[bytes] = []
        """What this member wants as the leader. It does not wait, and nobody else is to propose it."""
        self.changes: list[ConfChange] = []
        """Membership changes waiting to be proposed."""
        self.waiters: Waiters = {}
        """Who waits, in the order of their deadlines, as all have the same time; `apply_entry` takes them out."""
        self._changing: dict[int, tuple[Answer, float, Wanted]] = {}
        """Who waits for a membership change, until when, and whether they still do, by its id."""
        self.failed_total = 0
        self.stopped = False

    def next_id(self) -> int:
        """A fresh request id, also the source of lease ids."""
        return self._ids.next()

    def add(self, row: Row, body: bytes, answer: Answer, request: Any = None, identity: Identity = ANONYMOUS) -> None:
        """Queue a request for the next turn; `request` is `body` decoded, as `row.apply` takes it, if at hand.

        `identity` is whose it is. Raises RequestTooLarge, RequestTooManyRequests, Stopped at once.
        """
        if self.gap > MAX_GAP:
            raise RequestTooManyRequests
        if self.stopped:
            raise Stopped
        request_id = self._ids.next()
        if identity is ANONYMOUS and row.number < _SHORT_NUMBERS and request_id >= _SHORT_IDS:
            data = fast.entry_of(row.number, body, request_id)
        else:
            data = fast.internal_raft_request(row.tag, body, fast.request_header(request_id, *identity))
        size = len(data)
        if size > self._max_bytes:
            raise RequestTooLarge
        self.queued.append(data)
        self.waiters[data if size <= LONG_ENTRY_BYTES else waiter_key(data)] = (
            answer,
            self.now() + self._timeout_s,
            request_id,
            row,
            request,
            identity,
        )

    def add_own(self, row: Row, body: bytes, answer: Answer, identity: Identity) -> None:
        """Queue a request of the leader's for the next turn, where it is proposed or refused. Raises as `add`."""
        self.add(row, body, answer, identity=identity)
        self.own.append(self.queued.pop())

    def withdraw(self, datas: Sequence[bytes]) -> None:
        """Refuse entries that were not proposed."""
        for data in datas:
            waiter = self.waiters.pop(data if len(data) <= LONG_ENTRY_BYTES else waiter_key(data), None)
            if waiter is not None:
                self.failed_total += 1
                waiter[0](b"", NotLeader())

    def add_encoded(self, encode: Callable[[int], bytes], answer: Answer) -> None:
        """Queue an entry that `encode` makes from its request id. Raises Stopped at once."""
        if self.stopped:
            raise Stopped
        data = encode(self._ids.next())
        self.queued.append(data)
        key = data if len(data) <= LONG_ENTRY_BYTES else waiter_key(data)
        self.waiters[key] = waiter_of(answer, self.now() + self._timeout_s)

    def add_change(self, change: ConfChange, answer: Answer, *, timeout_s: float, wanted: Wanted) -> None:
        """Queue a membership change, whose id is set here. Raises Stopped at once."""
        if self.stopped:
            raise Stopped
        request_id = self._ids.next()
        self.changes.append(ConfChange(change.kind, change.node_id, change.context, request_id))
        self._changing[request_id] = (answer, self.now() + timeout_s, wanted)

    def drop_unwanted_changes(self) -> None:
        """Forget changes not proposed yet whose clients have gone: a leader found later shall not see them."""
        for change in self.changes:
            if change.id in self._changing and not self._changing[change.id][2]():
                self.failed_total += 1
                self.changed(change.id, ContextCanceled())
        self.changes = [change for change in self.changes if change.id in self._changing]

    def changed(self, request_id: int, error: EtcdError | None) -> None:
        """Answer whoever waits for this membership change, if anybody does."""
        if (waiter := self._changing.pop(request_id, None)) is not None:
            waiter[0](b"", error)

    @property
    def pending(self) -> int:
        """How many wait."""
        return len(self.waiters) + len(self._changing)

    def expire(self, now: float, why: Callable[[float], EtcdError]) -> None:
        """Give up on requests whose time is up; `why` gives the error for one that was proposed at a time.

        One that was never proposed ends with its deadline and nothing else (semantics 13.6).
        """
        overdue: Waiters = {}
        for key, waiter in self.waiters.items():
            if waiter[1] > now:
                break
            overdue[key] = waiter
        if overdue:
            # A leader found later shall not see what nobody waits for.
            queued = [(data if len(data) <= LONG_ENTRY_BYTES else waiter_key(data), data) for data in self.queued]
            unproposed = {key for key, _ in queued if key in overdue}
            self.queued = [data for key, data in queued if key not in unproposed]
            for key, (answer, deadline, *_) in overdue.items():
                self.failed_total += 1
                del self.waiters[key]
                answer(b"", ContextDeadlineExceeded() if key in unproposed else why(deadline - self._timeout_s))
        if self._changing:
            self._expire_changes(now, why)
            self.drop_unwanted_changes()

    def _expire_changes(self, now: float, why: Callable[[float], EtcdError]) -> None:
        overdue = [request_id for request_id, (_, deadline, _) in self._changing.items() if deadline <= now]
        for request_id in overdue:
            self.failed_total += 1
            unproposed = any(change.id == request_id for change in self.changes)
            self.changes = [change for change in self.changes if change.id != request_id]
            self.changed(request_id, ContextDeadlineExceeded() if unproposed else why(now - self._timeout_s))

    def stop(self) -> None:
        """Refuse what still waits: the member is stopping."""
        self.stopped = True
        self.queued.clear()
        self.own.clear()
        self.changes.clear()
        waiters = list(self.waiters.values())
        self.waiters.clear()
        for answer, *_ in waiters:
            answer(b"", Stopped())
        for request_id in list(self._changing):
            self.changed(request_id, Stopped())
