"""What a leader knows about one follower's log, and how fast it may send to it.

PROBE sends one append per heartbeat until an answer tells where the logs agree; REPLICATE sends ahead, limited by
messages and bytes in flight; SNAPSHOT sends nothing until the follower has caught up by other means.
Always 0 <= match < next_index.
"""

from collections import deque
from enum import Enum


class ProgressState(Enum):
    """How the leader treats a follower."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """The leader's view of one member, itself included."""

    __slots__ = (
        "_inflight",
        "_inflight_bytes",
        "_max_inflight",
        "_max_inflight_bytes",
        "match",
        "next_index",
        "paused",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(self, next_index: int, *, max_inflight: int, max_inflight_bytes: int = 0) -> None:
        """Start in PROBE; `max_inflight_bytes` 0 means no limit."""
        self.match = 0
        self.next_index = next_index
        self.sent_commit = 0
        self.state = ProgressState.PROBE
        self.pending_snapshot = 0
        self.recent_active = False
        self.paused = False
        self._max_inflight = max_inflight
        self._max_inflight_bytes = max_inflight_bytes
        self._inflight: deque[tuple[int, int]] = deque()
        self._inflight_bytes = 0

    @property
    def is_paused(self) -> bool:
        """Whether appends to this follower must wait for a sign of life."""
        return self.paused or self.state is ProgressState.SNAPSHOT

    @property
    def inflight(self) -> int:
        """Number of append messages with entries not acknowledged yet."""
        return len(self._inflight)

    @property
    def is_full(self) -> bool:
        """Whether the window of messages or bytes in flight is used up."""
        if len(self._inflight) >= self._max_inflight:
            return True
        return 0 < self._max_inflight_bytes <= self._inflight_bytes

    def become_probe(self) -> None:
        """Find out anew where the follower is; after a snapshot, from the snapshot's index on."""
        next_index = self.match + 1
        if self.state is ProgressState.SNAPSHOT:
            next_index = max(next_index, self.pending_snapshot + 1)
        self._enter(ProgressState.PROBE)
        self.next_index = next_index
        self.sent_commit = min(self.sent_commit, next_index - 1)

    def become_replicate(self) -> None:
        """Send ahead from the index known to match."""
        self._enter(ProgressState.REPLICATE)
        self.next_index = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """Wait for the follower to install a snapshot at `index`."""
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next_index = index + 1
        self.sent_commit = index

    def sent_entries(self, count: int, size_bytes: int) -> None:
        """Account for an append message just sent with `count` entries."""
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next_index += count
                self._inflight.append((self.next_index - 1, size_bytes))
                self._inflight_bytes += size_bytes
            # A message that fills the window, or went out although it was full, counts as a probe.
            self.paused = self.is_full
        elif count:
            self.paused = True

    def can_bump_commit(self, committed: int) -> bool:
        """Whether telling the follower `committed` could move its commit index."""
        return committed > self.sent_commit and self.sent_commit < self.next_index - 1

    def maybe_update(self, index: int) -> bool:
        """Take an acknowledgement up to `index`; False if it is old news."""
        if index <= self.match:
            return False
        self.match = index
        if self.next_index <= index:
            self.next_index = index + 1
        self.paused = False
        return True

    def free_inflight(self, through: int) -> None:
        """Forget messages in flight whose last entry is at or before `through`."""
        inflight = self._inflight
        while inflight and inflight[0][0] <= through:
            self._inflight_bytes -= inflight.popleft()[1]

    def maybe_decrease(self, rejected: int, hint: int) -> bool:
        """Take a rejection of an append at `rejected`, `hint` being where to look next; False if it is stale."""
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next_index = self.match + 1
        else:
            # Without REPLICATE there is one append at a time, so any other index is an old answer.
            if self.next_index - 1 != rejected:
                return False
            self.next_index = max(min(rejected, hint + 1), self.match + 1)
            self.paused = False
        self.sent_commit = min(self.sent_commit, self.next_index - 1)
        return True

    def _enter(self, state: ProgressState) -> None:
        self.paused = False
        self.pending_snapshot = 0
        self.state = state
        self._inflight.clear()
        self._inflight_bytes = 0
