"""Proposals: requests on their way through raft, each answered once: when applied, or when its time is up.

The registry maps request ids to whoever waits. Without a leader they wait to be proposed, until their time is up. A
request that was proposed may still commit after that; nobody hears of it.
"""

from collections.abc import Callable

from ratifyd.apply.requests import Row, decode
from ratifyd.errors import ContextDeadlineExceeded, EtcdError, RequestTooLarge, RequestTooManyRequests, Stopped
from ratifyd.proto import fast
from ratifyd.raft.messages import ConfChange

Answer = Callable[[bytes, EtcdError | None], None]
"""Receives a response body (after the header) or the error, exactly once."""

MAX_GAP = 5000
"""Entries committed but not yet applied above which proposals are refused (etcd maxGapBetweenApplyAndCommitIndex)."""

_MASK_48 = (1 << 48) - 1


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
        "_deadlines",
        "_ids",
        "_max_bytes",
        "_timeout_s",
        "changes",
        "failed_total",
        "now",
        "queued",
        "stopped",
        "waiting",
    )

    def __init__(self, ids: RequestIds, *, max_bytes: int, timeout_s: float, now: Callable[[], float]) -> None:
        self._ids = ids
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self.now = now
        self.queued: list[bytes] = []
        self.changes: list[ConfChange] = []
        """Membership changes waiting to be proposed."""
        self.waiting: dict[int, Answer] = {}
        self._deadlines: dict[int, float] = {}
        self.failed_total = 0
        self.stopped = False

    def next_id(self) -> int:
        """A fresh request id, also the source of lease ids."""
        return self._ids.next()

    def add(self, row: Row, body: bytes, answer: Answer, *, gap: int, timeout_s: float | None = None) -> None:
        """Queue a request for the next turn. Raises RequestTooLarge, RequestTooManyRequests, Stopped at once."""
        if gap > MAX_GAP:
            raise RequestTooManyRequests
        if self.stopped:
            raise Stopped
        request_id = self._ids.next()
        data = fast.internal_raft_request(row.tag, body, fast.request_header(request_id))
        if len(data) > self._max_bytes:
            raise RequestTooLarge
        self.queued.append(data)
        self.waiting[request_id] = answer
        limit = self._timeout_s
        self._deadlines[request_id] = self.now() + (limit if timeout_s is None or timeout_s > limit else timeout_s)

    def add_encoded(self, encode: Callable[[int], bytes], answer: Answer) -> None:
        """Queue an entry that `encode` makes from its request id. Raises Stopped at once."""
        if self.stopped:
            raise Stopped
        request_id = self._ids.next()
        self.queued.append(encode(request_id))
        self.waiting[request_id] = answer
        self._deadlines[request_id] = self.now() + self._timeout_s

    def add_change(self, change: ConfChange, answer: Answer, *, timeout_s: float) -> None:
        """Queue a membership change, whose id is set here. Raises Stopped at once."""
        if self.stopped:
            raise Stopped
        request_id = self._ids.next()
        self.changes.append(ConfChange(change.kind, change.node_id, change.context, request_id))
        self.waiting[request_id] = answer
        self._deadlines[request_id] = self.now() + timeout_s

    def take(self) -> list[bytes]:
        """Everything queued since the last turn."""
        queued, self.queued = self.queued, []
        return queued

    def resolve(self, request_id: int, body: bytes, error: EtcdError | None) -> None:
        """Answer whoever waits for this request, if anybody does."""
        answer = self.waiting.pop(request_id, None)
        if answer is not None:
            del self._deadlines[request_id]
            answer(body, error)

    def put_back(self, queued: list[bytes]) -> None:
        """Keep what raft would not take for a later turn."""
        self.queued = queued + self.queued

    def expire(self, now: float, why: Callable[[float], EtcdError]) -> None:
        """Give up on requests whose time is up; `why` gives the error for one that was proposed at a time.

        One that was never proposed ends with its deadline and nothing else (semantics 13.6).
        """
        # Deadlines are nearly in order of insertion, yet clients choose shorter ones: look at all, once a tick.
        overdue = [request_id for request_id, deadline in self._deadlines.items() if deadline <= now]
        if not overdue:
            return
        unproposed = self._withdraw(set(overdue))
        for request_id in overdue:
            self.failed_total += 1
            error = (
                ContextDeadlineExceeded()
                if request_id in unproposed
                else why(self._deadlines[request_id] - self._timeout_s)
            )
            self.resolve(request_id, b"", error)

    def _withdraw(self, overdue: set[int]) -> set[int]:
        """Take overdue requests out of the queues: those that were still in them."""
        withdrawn = {change.id for change in self.changes if change.id in overdue}
        self.changes = [change for change in self.changes if change.id not in withdrawn]
        if self.queued:
            kept = []
            for data in self.queued:
                header, _, _ = decode(data)
                if header.ID in overdue:
                    withdrawn.add(header.ID)
                else:
                    kept.append(data)
            self.queued = kept
        return withdrawn

    def stop(self) -> None:
        """Refuse what still waits: the member is stopping."""
        self.stopped = True
        for request_id in list(self.waiting):
            self.resolve(request_id, b"", Stopped())
