"""Leases: `LeaseBook` holds what the log says, `LeaseTimer` what this leader's clock says.

The book is replicated state: leases, their granted and checkpointed TTLs, the keys attached to them. It has no clock.
The timer exists only while this member leads; it is made from the book, learns of new leases at its next call, and so
may end a lease a tick late, never early. Times are seconds of one monotonic clock, always an argument. Neither knows
the key space: revoking a lease tells which keys to delete.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from math import ceil

from ratifyd import errors

MAX_TTL_S = 9_000_000_000
"""Largest TTL that can be granted (etcd MaxLeaseTTL)."""

RETRY_S = 3.0
"""An expired lease that is still there is reported again after this time, and one whose checkpoint was refused."""

CHECKPOINT_INTERVAL_S = 300.0
"""Leases with more time left than this have it written to the log this often."""

EXPIRED_PER_PASS = 500
CHECKPOINTS_PER_PASS = 1000

REVOKES_PER_S = 1000
"""What the cluster is expected to manage; expiries that pile up at a leader change are spread to 3/4 of it."""


class Lease:
    """One lease: `remaining_s` is the checkpointed rest, 0 when there is none; keys in order of attachment."""

    __slots__ = ("id", "keys", "remaining_s", "ttl_s")

    def __init__(self, lease_id: int, ttl_s: int, remaining_s: int = 0) -> None:
        self.id = lease_id
        self.ttl_s = ttl_s
        self.remaining_s = remaining_s
        self.keys: dict[bytes, None] = {}

    @property
    def effective_ttl_s(self) -> int:
        """What a new leader starts from: the checkpointed rest, else the whole TTL."""
        return self.remaining_s or self.ttl_s


class LeaseBook:
    """All leases and the attachment of keys, at most one lease per key. Ids may be negative, never 0.

    `changed` is the list a timer drains: ids granted or checkpointed since; None while there is no timer.
    """

    __slots__ = ("_lease_of", "changed", "leases", "min_ttl_s")

    def __init__(self, *, min_ttl_s: int = 0) -> None:
        self.leases: dict[int, Lease] = {}
        self._lease_of: dict[bytes, int] = {}
        self.changed: list[int] | None = None
        self.min_ttl_s = min_ttl_s

    def check_grant(self, lease_id: int, ttl_s: int) -> None:
        """Raise LeaseNotFound (id 0), LeaseTTLTooLarge or LeaseExist if `grant` would."""
        if lease_id == 0:
            raise errors.LeaseNotFound
        if ttl_s > MAX_TTL_S:
            raise errors.LeaseTTLTooLarge
        if lease_id in self.leases:
            raise errors.LeaseExist

    def grant(self, lease_id: int, ttl_s: int) -> Lease:
        """Add a lease; its TTL is raised to the minimum. Raises LeaseNotFound (id 0), LeaseTTLTooLarge, LeaseExist."""
        self.check_grant(lease_id, ttl_s)
        return self.restore(lease_id, ttl_s)

    def restore(self, lease_id: int, ttl_s: int, remaining_s: int = 0) -> Lease:
        """Add a lease as recorded in bucket `lease`."""
        lease = self.leases[lease_id] = Lease(lease_id, max(ttl_s, self.min_ttl_s), remaining_s)
        if self.changed is not None:
            self.changed.append(lease_id)
        return lease

    def get(self, lease_id: int) -> Lease:
        """The lease with this id. Raises LeaseNotFound."""
        lease = self.leases.get(lease_id)
        if lease is None:
            raise errors.LeaseNotFound
        return lease

    def revoke(self, lease_id: int) -> list[bytes]:
        """Remove a lease; the caller deletes the returned keys in that (byte) order. Raises LeaseNotFound."""
        keys = sorted(self.get(lease_id).keys)
        del self.leases[lease_id]
        for key in keys:
            del self._lease_of[key]
        return keys

    def attach(self, lease_id: int, key: bytes) -> None:
        """Attach a key to a lease, taking it from any other. Raises LeaseNotFound."""
        lease = self.get(lease_id)
        held = self._lease_of.get(key)
        if held == lease_id:
            return
        if held is not None:
            del self.leases[held].keys[key]
        lease.keys[key] = None
        self._lease_of[key] = lease_id

    def detach(self, key: bytes) -> None:
        """Take a key from its lease, if it has one."""
        held = self._lease_of.pop(key, None)
        if held is not None:
            del self.leases[held].keys[key]

    def lease_of(self, key: bytes) -> int:
        """The lease a key is attached to, 0 for none."""
        return self._lease_of.get(key, 0)

    def keys(self, lease_id: int) -> list[bytes]:
        """Keys attached to a lease. Raises LeaseNotFound."""
        return list(self.get(lease_id).keys)

    def checkpoint(self, lease_id: int, remaining_s: int) -> Lease | None:
        """Record the remaining TTL of a lease (0 clears it); None if it does not exist."""
        lease = self.leases.get(lease_id)
        if lease is not None:
            lease.remaining_s = remaining_s
            if self.changed is not None:
                self.changed.append(lease_id)
        return lease

    def clear(self) -> None:
        """Forget everything, before a restore from another backend. A timer made from this book must be dropped."""
        self.leases.clear()
        self._lease_of.clear()
        self.changed = None

    def take_over(self, other: "LeaseBook") -> None:
        """Become equal to a book restored from another backend. A timer made from this book must be dropped."""
        self.leases = other.leases
        self._lease_of = other._lease_of
        self.changed = None

    def check(self) -> None:
        """Assert that both directions of the attachment agree."""
        attached = {key: lease.id for lease in self.leases.values() for key in lease.keys}
        assert attached == self._lease_of, "leases and keys disagree about attachment"
        assert sum(len(lease.keys) for lease in self.leases.values()) == len(attached), "key attached twice"
        assert all(lease_id == lease.id != 0 for lease_id, lease in self.leases.items()), "lease under a wrong id"


class LeaseTimer:
    """Expiry of the leases of a book while this member leads; `close` it when the leadership ends.

    Every lease starts with its effective TTL plus `extend_s` (etcd: the election timeout, because the last leader may
    have promised as much); expiries that pile up are spread out.
    """

    __slots__ = (
        "_again",
        "_armed",
        "_book",
        "_changed",
        "_due",
        "_expiry",
        "_min_ttl_s",
        "_next_checkpoint",
        "_scheduled",
    )

    def __init__(self, book: LeaseBook, now: float, *, min_ttl_s: int = 0, extend_s: float = 0.0) -> None:
        self._book = book
        self._min_ttl_s = min_ttl_s
        self._expiry: dict[int, float] = {}
        """When each lease ends."""
        self._scheduled: dict[int, float] = {}
        """When each lease is to be looked at: its expiry before it was renewed, later while a revoke is under way."""
        self._next_checkpoint: dict[int, float] = {}
        """When each long lease is to be checkpointed; in order of time, because the interval is the same for all."""
        self._again: dict[int, float] = {}
        """The same for those whose checkpoint came to nothing."""
        self._changed: list[int] = []
        book.changed = self._changed
        leases = book.leases
        self._armed: dict[int, Lease] = dict(leases)
        self._expiry.update((lease.id, now + extend_s + self._ttl(lease)) for lease in leases.values())
        if len(leases) >= REVOKES_PER_S:
            self._expiry.update(_spread(sorted((when, lease_id) for lease_id, when in self._expiry.items())))
        self._scheduled.update(self._expiry)
        self._due = [(when, lease_id) for lease_id, when in self._scheduled.items()]
        heapify(self._due)
        for lease in leases.values():
            self._schedule_checkpoint(lease, now)

    def close(self) -> None:
        """Stop learning from the book: this timer is of no more use."""
        if self._book.changed is self._changed:
            self._book.changed = None

    def tick(self, now: float) -> None:
        """Take notice of leases granted and checkpoints applied since the last call."""
        if not self._changed:
            return
        for lease_id in self._changed:
            lease = self._book.leases.get(lease_id)
            if lease is None:
                continue
            if self._armed.get(lease_id) is not lease:
                self._arm(lease, now)
            self._schedule_checkpoint(lease, now)
        self._changed.clear()

    def renew(self, lease_id: int, now: float) -> int:
        """Give a lease its whole time again; returns the granted TTL in seconds. Raises LeaseNotFound.

        An expired lease is not renewed (LeaseNotFound): the caller waits for its revoke first (`is_expired`). A
        checkpointed rest counts as the whole time: the caller clears it through the log before renewing.
        """
        lease = self._book.get(lease_id)
        if not self.renew_unexpired((lease,), now):
            raise errors.LeaseNotFound
        return lease.ttl_s

    def renew_unexpired(self, leases: Sequence[Lease], now: float) -> bool:
        """As `renew` with leases of the book, one at least; False, and none is renewed, when one has expired.

        They stay in the queue where they were, and `expired` puts them back: most are renewed many times before that.
        """
        if self._changed:
            self.tick(now)
        expiry, scheduled, min_ttl_s = self._expiry, self._scheduled, self._min_ttl_s
        for lease in leases:
            if expiry[lease.id] <= now:
                return False
        for lease in leases:
            lease_id, ttl_s = lease.id, lease.ttl_s
            whole_s = ttl_s if ttl_s > min_ttl_s else min_ttl_s
            expiry[lease_id] = when = now + (lease.remaining_s or whole_s)
            if when < scheduled[lease_id]:  # a new leader gave it more
                self._schedule(lease_id, when)
        return True

    def is_expired(self, lease_id: int, now: float) -> bool:
        """Whether a lease exists and its time is over, its revoke being under way."""
        return lease_id in self._book.leases and self.remaining(lease_id, now) <= 0

    def remaining(self, lease_id: int, now: float) -> float:
        """Seconds left, zero or less once expired. Raises LeaseNotFound."""
        self._book.get(lease_id)
        self.tick(now)
        return self._expiry[lease_id] - now

    def leases(self, now: float) -> list[int]:
        """All leases, the one that ends first in front (etcd LeaseLeases)."""
        self.tick(now)
        expiry = self._expiry
        return sorted(self._book.leases, key=lambda lease_id: (expiry[lease_id], lease_id))

    def expired(self, now: float, limit: int = EXPIRED_PER_PASS) -> list[int]:
        """Up to `limit` leases to revoke now; one that still exists after `RETRY_S` is named again."""
        self.tick(now)
        found: list[int] = []
        due, scheduled, leases = self._due, self._scheduled, self._book.leases
        while due and due[0][0] <= now and len(found) < limit:
            when, lease_id = heappop(due)
            if scheduled.get(lease_id) != when:
                continue  # scheduled anew since
            if lease_id not in leases:
                self._forget(lease_id)
                continue
            if (expiry := self._expiry[lease_id]) > now:
                self._schedule(lease_id, expiry)  # renewed since
                continue
            found.append(lease_id)
            self._schedule(lease_id, now + RETRY_S)
        return found

    def checkpoints(self, now: float, limit: int = CHECKPOINTS_PER_PASS) -> list[tuple[int, int]]:
        """Up to `limit` (lease, whole seconds left) to propose as checkpoints; applied ones are scheduled again."""
        self.tick(now)
        found: list[tuple[int, int]] = []
        for waiting in (self._again, self._next_checkpoint):
            while waiting and len(found) < limit:
                lease_id = next(iter(waiting))
                if waiting[lease_id] > now:
                    break
                del waiting[lease_id]
                lease = self._book.leases.get(lease_id)
                if lease is None or (left := self._expiry[lease_id] - now) <= 0:
                    continue
                if ceil(left) < lease.ttl_s:
                    found.append((lease_id, ceil(left)))
                else:
                    self._schedule_checkpoint(lease, now)
        return found

    def checkpoint_again(self, lease_ids: Iterable[int], now: float) -> None:
        """Name leases again soon: what `checkpoints` gave for them will not be applied."""
        for lease_id in lease_ids:
            if lease_id not in self._next_checkpoint and lease_id in self._expiry:
                self._again.setdefault(lease_id, now + RETRY_S)

    def _ttl(self, lease: Lease) -> int:
        return lease.remaining_s or max(lease.ttl_s, self._min_ttl_s)

    def _arm(self, lease: Lease, now: float) -> None:
        self._armed[lease.id] = lease
        self._expiry[lease.id] = when = now + self._ttl(lease)
        self._schedule(lease.id, when)

    def _schedule(self, lease_id: int, when: float) -> None:
        self._scheduled[lease_id] = when
        heappush(self._due, (when, lease_id))
        scheduled = len(self._scheduled)
        if len(self._due) > 2 * scheduled + REVOKES_PER_S or scheduled > 2 * len(self._book.leases) + REVOKES_PER_S:
            # leases granted anew leave their old entries behind, and those that are revoked all they had
            self._drop_revoked()
            self._due = [(time, name) for name, time in self._scheduled.items()]
            heapify(self._due)

    def _drop_revoked(self) -> None:
        leases = self._book.leases
        for lease_id in [lease_id for lease_id in self._scheduled if lease_id not in leases]:
            self._forget(lease_id)

    def _forget(self, lease_id: int) -> None:
        del self._scheduled[lease_id]
        del self._expiry[lease_id]
        del self._armed[lease_id]
        self._next_checkpoint.pop(lease_id, None)
        self._again.pop(lease_id, None)

    def _schedule_checkpoint(self, lease: Lease, now: float) -> None:
        if lease.effective_ttl_s > CHECKPOINT_INTERVAL_S:
            self._again.pop(lease.id, None)
            self._next_checkpoint.pop(lease.id, None)
            self._next_checkpoint[lease.id] = now + CHECKPOINT_INTERVAL_S


def _spread(due: list[tuple[float, int]]) -> Iterator[tuple[int, float]]:
    """Later expiries, so that no second has more than 3/4 of what can be revoked in it (etcd lessor Promote)."""
    per_second = 3 * REVOKES_PER_S // 4
    window, window_end, count = due[0][0], due[0][0] + 1.0, 0
    for when, lease_id in due:
        if when > window_end:
            window, window_end, count = when, when + 1.0, 1
            continue
        count += 1
        if count > per_second:
            delay = count / per_second - (when - window)
            window_end = window + delay
            yield lease_id, when + delay
