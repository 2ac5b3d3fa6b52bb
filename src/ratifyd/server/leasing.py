"""The leader's lease duty: clocks of leases, renewals, and revoking what has expired, through raft."""

from collections.abc import Callable, Sequence

from ratifyd.apply.entries import Answer
from ratifyd.errors import EtcdError, NotLeader, RequestTooLarge, RequestTooManyRequests
from ratifyd.lease import Lease, LeaseBook, LeaseTimer
from ratifyd.proto.rpc_pb2 import LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest

EXPIRY_LIMIT = 500
"""Leases revoked in one pass at most (semantics 8.13)."""

_NEVER_PROPOSED = (NotLeader, RequestTooLarge, RequestTooManyRequests)
"""Errors that say of what the leader wanted that it is not in the log."""

Renewed = Callable[[int | None], None]
"""Gets the TTL in seconds, 0 when there is no such lease any more, None when this member's clock no longer decides."""


class Leasing:
    """Lease time on this member. Only a leader has a clock running: elsewhere leases live for ever (semantics 8.4)."""

    __slots__ = (
        "_book",
        "_checkpoint",
        "_checkpointed",
        "_checkpoints",
        "_extend_s",
        "_now",
        "_propose",
        "_timer",
        "_waiting",
        "expired_total",
        "is_primary",
        "renewed_total",
    )

    def __init__(
        self,
        book: LeaseBook,
        propose: Callable[[bytes, Answer], None],
        checkpoint: Callable[[bytes, Answer], None],
        *,
        now: Callable[[], float],
        extend_s: float,
        checkpoints: bool,
    ) -> None:
        """`propose` proposes an encoded LeaseRevoke, `checkpoint` a LeaseCheckpoint; `checkpoints` switches those on.

        `extend_s` is added to each lease when the leader changes.
        """
        self._book = book
        self._propose = propose
        self._checkpoint = checkpoint
        self._now = now
        self._checkpoints = checkpoints
        self._extend_s = extend_s
        self._timer: LeaseTimer | None = None
        self.is_primary = False
        """Whether this member's clock decides."""
        self._waiting: dict[int, list[Renewed]] = {}
        self._checkpointed: set[int] = set()
        """Leases of which a rest may be in the log that is not applied yet."""
        self.expired_total = 0
        self.renewed_total = 0

    def promote(self, now: float) -> None:
        """Become the member whose clock decides: every lease starts afresh, with room for the change of leader."""
        self.demote()
        self._timer = LeaseTimer(self._book, now, min_ttl_s=self._book.min_ttl_s, extend_s=self._extend_s)
        self.is_primary = True

    def demote(self) -> None:
        """Another member's clock decides from now on."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None
            self.is_primary = False
        self._checkpointed = set()
        waiting, self._waiting = self._waiting, {}
        for answers in waiting.values():
            for answer in answers:
                answer(None)

    def tick(self, now: float) -> None:
        """Start clocks of new leases and propose the revocation of expired ones."""
        if self._timer is None:
            return
        for lease_id in self._timer.expired(now, EXPIRY_LIMIT):
            self._propose(LeaseRevokeRequest(ID=lease_id).SerializeToString(), self._revoked)
        if self._checkpoints and (points := self._timer.checkpoints(now)):
            self._propose_points(points, self._timer)

    def _revoked(self, _body: bytes, error: EtcdError | None) -> None:
        self.expired_total += error is None  # if it failed it is tried again

    def _propose_points(self, points: list[tuple[int, int]], timer: LeaseTimer) -> None:
        """Have the log say how long leases have left; what is refused is tried again."""
        leases, under_way = {lease_id for lease_id, _ in points}, self._checkpointed
        under_way.update(leases)

        def answered(_body: bytes, error: EtcdError | None) -> None:
            refused = isinstance(error, _NEVER_PROPOSED)
            if error is None or refused:  # else it may still be applied, as long as this member leads
                under_way.difference_update(leases)
            if refused:
                timer.checkpoint_again(leases, self._now())

        self._propose_checkpoints(points, answered)

    def _propose_checkpoints(self, points: list[tuple[int, int]], answer: Answer) -> None:
        request = LeaseCheckpointRequest(
            checkpoints=[LeaseCheckpoint(ID=lease_id, remaining_TTL=left) for lease_id, left in points]
        )
        self._checkpoint(request.SerializeToString(), answer)

    def changed(self, now: float) -> None:
        """A lease was granted or revoked: start its clock now, answer renewals that waited for its end."""
        if self._timer is not None:
            self._timer.tick(now)
        if self._waiting:
            gone = [lease_id for lease_id in self._waiting if lease_id not in self._book.leases]
            for lease_id in gone:
                for answer in self._waiting.pop(lease_id):
                    answer(0)

    def renew_at_once(self, lease_ids: Sequence[int], now: float) -> list[Lease]:
        """Start the time of leases afresh, one at least, if nothing stands in the way; none of them if something does.

        Those renewed, in the same order.
        """
        timer = self._timer
        if timer is None:
            return []
        current, under_way = self._book.leases, self._checkpointed
        leases: list[Lease] = []
        for lease_id in lease_ids:
            lease = current.get(lease_id)
            if lease is None or lease.remaining_s or lease_id in under_way:
                return []
            leases.append(lease)
        if not timer.renew_unexpired(leases, now):
            return []
        self.renewed_total += len(leases)
        return leases

    def renew(self, lease_id: int, now: float, answer: Renewed) -> None:
        """Start a lease's time afresh; `answer` is told how that ended.

        A lease that has expired but still stands answers only once it is revoked (semantics 8.7). One whose rest was
        checkpointed gets that cleared through the log first (semantics 8.8); None when that fails.
        """
        timer = self._timer
        if timer is None:
            answer(None)
        elif lease_id not in self._book.leases:
            answer(0)
        elif timer.is_expired(lease_id, now):
            self._waiting.setdefault(lease_id, []).append(answer)
        elif renewed := self.renew_at_once((lease_id,), now):
            answer(renewed[0].ttl_s)
        else:
            self._clear_and_renew(lease_id, answer)

    def _clear_and_renew(self, lease_id: int, answer: Renewed) -> None:
        """Renew once no rest of the lease is on record: the next leader would not give it more than that."""
        timer = self._timer

        def cleared(_body: bytes, error: EtcdError | None) -> None:
            if error is not None or self._timer is not timer:
                answer(None)
                return
            self._checkpointed.discard(lease_id)
            self.renew(lease_id, self._now(), answer)

        self._propose_checkpoints([(lease_id, 0)], cleared)

    def remaining_s(self, lease: Lease, now: float) -> float:
        """Seconds a lease has left; its granted TTL where no clock runs."""
        return float(lease.ttl_s) if self._timer is None else self._timer.remaining(lease.id, now)

    def in_order(self, now: float) -> list[int]:
        """All leases, the one that ends first in front (semantics 8.10)."""
        return sorted(self._book.leases) if self._timer is None else self._timer.leases(now)
