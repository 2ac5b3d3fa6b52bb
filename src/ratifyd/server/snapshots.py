"""When to take a snapshot, and what may be forgotten afterwards.

The backend is the state; a snapshot only marks where the log may start. So it is taken at an index the backend file
already reflects, and the log keeps some entries behind it for followers that lag (semantics 14.8).
"""

from collections.abc import Callable
from typing import Protocol

from ratifyd.formats.v2 import V2Member, V2Store, encode_v2
from ratifyd.membership import Membership
from ratifyd.ports import Done
from ratifyd.raft.core import Raft
from ratifyd.raft.messages import Snapshot, SnapshotMeta
from ratifyd.server.committer import Committer


class SnapshotStore(Protocol):
    """Where snapshots go: the file, then the record in the log, both durable."""

    def save(self, snapshot: Snapshot, done: Done) -> None: ...

    def release(self, index: int) -> None:
        """Log segments wholly below `index` are no longer needed."""
        ...


class Snapshots:
    """Takes a snapshot every `count` applied entries."""

    __slots__ = ("_catchup", "_committer", "_count", "_fail", "_last", "_members", "_raft", "_running", "_store")

    def __init__(
        self,
        raft: Raft,
        members: Membership,
        committer: Committer,
        store: SnapshotStore,
        *,
        count: int,
        catchup: int,
        last_index: int,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._raft = raft
        self._members = members
        self._committer = committer
        self._store = store
        self._count = count
        self._catchup = catchup
        self._last = last_index
        self._fail = fail
        self._running = False

    def maybe_take(self, applied: int) -> bool:
        """Take a snapshot when enough has been applied since the last one."""
        if self._running or applied - self._last <= self._count:
            return False
        self._running = True
        raft = self._raft
        term = raft.log.term(applied)
        assert term is not None, "an applied entry is no longer in the log"
        meta = SnapshotMeta(applied, term, raft.conf_state)
        data = encode_v2(_membership(self._members))
        self._committer.sync(lambda: self._store.save(Snapshot(meta, data), lambda error: self._saved(meta, error)))
        return True

    def _saved(self, meta: SnapshotMeta, error: BaseException | None) -> None:
        if error is not None:
            self._fail(error)
            return
        self._running = False
        self._last = meta.index
        keep_from = meta.index - self._catchup
        if keep_from > self._raft.log.first_index:
            self._raft.compact(keep_from)
        self._store.release(min(meta.index, self._raft.log.first_index))


def _membership(members: Membership) -> V2Store:
    """What etcd 3.5 and 3.6 expect inside a snapshot."""
    return V2Store(
        tuple(
            V2Member(member.id, member.peer_urls, member.name, member.client_urls, member.is_learner)
            for member in members.sorted()
        ),
        tuple(members.removed),
        members.cluster_version,
    )
