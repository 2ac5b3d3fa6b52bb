"""When to take a snapshot, and what may be forgotten afterwards.

The backend is the state; a snapshot only marks where the log may start. So it is taken at an index the backend file
already reflects, and the log keeps some entries behind it for followers that lag (semantics 14.8).
"""

from collections.abc import Callable

from ratifyd.formats.v2 import V2Member, V2Store, encode_v2
from ratifyd.membership import Membership
from ratifyd.raft.messages import Snapshot, SnapshotMeta
from ratifyd.server.committer import Committer
from ratifyd.server.parts import Parts


class Snapshots:
    """Takes a snapshot every `count` applied entries."""

    __slots__ = (
        "_catchup",
        "_committer",
        "_count",
        "_cut",
        "_fail",
        "_last",
        "_may_compact",
        "_members",
        "_raft",
        "_running",
        "_store",
    )

    def __init__(
        self, parts: Parts, committer: Committer, *, count: int, catchup: int, may_compact: Callable[[], bool]
    ) -> None:
        """`may_compact` is false while a member that was sent a snapshot still needs the log behind it."""
        self._raft = parts.raft
        self._members = parts.state.members
        self._committer = committer
        self._store = parts.snapshot_store
        self._count = count
        self._catchup = catchup
        self._last = parts.snapshot_index
        self._fail = parts.fail
        self._may_compact = may_compact
        self._cut = False
        self._running = False

    def cut(self) -> None:
        """Take a snapshot soon, and forget the whole log behind it: members to come must not see what is in there."""
        self._cut = True

    def maybe_take(self, applied: int) -> bool:
        """Take a snapshot when enough has been applied since the last one."""
        cut = self._cut
        if applied - self._last <= self._count and not cut:
            return False
        raft = self._raft
        if self._running or raft.log.snapshot is not None:
            return False
        self._running = True
        self._cut = False
        term = raft.log.term(applied)
        assert term is not None, "an applied entry is no longer in the log"
        meta = SnapshotMeta(applied, term, raft.conf_state)
        data = encode_v2(membership_of(self._members))
        self._committer.sync(
            lambda: self._store.save(Snapshot(meta, data), lambda error: self._saved(meta, cut, error))
        )
        return True

    def _saved(self, meta: SnapshotMeta, cut: bool, error: BaseException | None) -> None:
        if error is not None:
            self._fail(error)
            return
        self._running = False
        self._last = max(self._last, meta.index)
        keep_from = meta.index if cut else meta.index - self._catchup
        if keep_from > self._raft.log.first_index and (cut or self._may_compact()):
            self._raft.compact(keep_from)
        self._store.release(min(meta.index, self._raft.log.first_index))

    def installed(self, index: int) -> None:
        """Count from a snapshot that came from the leader."""
        self._last = max(self._last, index)
        self._store.release(index)


def membership_of(members: Membership) -> V2Store:
    """What etcd 3.5 and 3.6 expect inside a snapshot."""
    return V2Store(
        tuple(
            V2Member(member.id, member.peer_urls, member.name, member.client_urls, member.is_learner)
            for member in members.sorted()
        ),
        tuple(members.removed),
        members.cluster_version,
    )
