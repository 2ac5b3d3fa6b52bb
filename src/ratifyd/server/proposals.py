"""Proposals: requests on their way through raft, each answered once: when applied, or when its time is up.

The registry maps request ids to whoever waits. Without a leader they wait to be proposed, until their time is up. A
request that was proposed may still commit after that; nobody hears of it.
"""

from collections.abc import Callable
from typing import Any

from ratifyd.apply.requests import Decoded, Row
from ratifyd.auth.identity import ANONYMOUS, Identity
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
        "_change_deadlines",
        "_deadlines",
        "_ids",
        "_max_bytes",
        "_timeout_s",
        "changes",
        "decoded",
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
        self.queued: dict[int, bytes] = {}
        self.changes: list[ConfChange] = []
        """Membership changes waiting to be proposed."""
        self.waiting: dict[int, Answer] = {}
        self.decoded: dict[bytes, Decoded] = {}
        """Requests the API has decoded already, by their entry: most come back here to be applied."""
        self._deadlines: dict[int, tuple[float, bytes]] = {}
        self._change_deadlines: dict[int, float] = {}
        self.failed_total = 0
        self.stopped = False

    def next_id(self) -> int:
        """A fresh request id, also the source of lease ids."""
        return self._ids.next()

    def add(
        self,
        row: Row,
        body: bytes,
        answer: Answer,
        *,
        gap: int,
        request: Any = None,
        identity: Identity = ANONYMOUS,
    ) -> None:
        """Queue a request for the next turn; `request` is `body` decoded, as `row.apply` takes it, if at hand.

        `identity` is whose it is. Raises RequestTooLarge, RequestTooManyRequests, Stopped at once.
        """
        if gap > MAX_GAP:
            raise RequestTooManyRequests
        if self.stopped:
            raise Stopped
        request_id = self._ids.next()
        header = (
            fast.request_header(request_id) if identity is ANONYMOUS else fast.request_header(request_id, *identity)
        )
        data = fast.internal_raft_request(row.tag, body, header)
        if len(data) > self._max_bytes:
            raise RequestTooLarge
        self.queued[request_id] = data
        self.waiting[request_id] = answer
        self._deadlines[request_id] = (self.now() + self._timeout_s, data)
        if request is not None:
            self.decoded[data] = (request_id, row, request, identity)

    def add_encoded(self, encode: Callable[[int], bytes], answer: Answer) -> None:
        """Queue an entry that `encode` makes from its request id. Raises Stopped at once."""
        if self.stopped:
            raise Stopped
        request_id = self._ids.next()
        self.queued[request_id] = data = encode(request_id)
        self.waiting[request_id] = answer
        self._deadlines[request_id] = (self.now() + self._timeout_s, data)

    def add_change(self, change: ConfChange, answer: Answer, *, timeout_s: float) -> None:
        """Queue a membership change, whose id is set here. Raises Stopped at once."""
        if self.stopped:
            raise Stopped
        request_id = self._ids.next()
        self.changes.append(ConfChange(change.kind, change.node_id, change.context, request_id))
        self.waiting[request_id] = answer
        self._change_deadlines[request_id] = self.now() + timeout_s

    def resolve(self, request_id: int, body: bytes, error: EtcdError | None) -> None:
        """Answer whoever waits for this request, if anybody does."""
        answer = self.waiting.pop(request_id, None)
        if answer is not None:
            if self._deadlines.pop(request_id, None) is None:
                self._change_deadlines.pop(request_id, None)
            answer(body, error)

    def expire(self, now: float, why: Callable[[float], EtcdError]) -> None:
        """Give up on requests whose time is up; `why` gives the error for one that was proposed at a time.

        One that was never proposed ends with its deadline and nothing else (semantics 13.6).
        """
        while self._deadlines:
            request_id, (deadline, data) = next(iter(self._deadlines.items()))  # in order: all have the same time
            if deadline > now:
                break
            self.failed_total += 1
            self.decoded.pop(data, None)
            # A leader found later shall not see what nobody waits for.
            unproposed = self.queued.pop(request_id, None) is not None
            self.resolve(request_id, b"", ContextDeadlineExceeded() if unproposed else why(deadline - self._timeout_s))
        if self._change_deadlines:
            self._expire_changes(now, why)

    def _expire_changes(self, now: float, why: Callable[[float], EtcdError]) -> None:
        overdue = [request_id for request_id, deadline in self._change_deadlines.items() if deadline <= now]
        for request_id in overdue:
            self.failed_total += 1
            unproposed = any(change.id == request_id for change in self.changes)
            self.changes = [change for change in self.changes if change.id != request_id]
            self.resolve(request_id, b"", ContextDeadlineExceeded() if unproposed else why(now - self._timeout_s))

    def stop(self) -> None:
        """Refuse what still waits: the member is stopping."""
        self.stopped = True
        self.queued.clear()
        self.changes.clear()
        for request_id in list(self.waiting):
            self.resolve(request_id, b"", Stopped())
