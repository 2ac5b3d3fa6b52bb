"""Replacing the state by a snapshot that came from the leader.

When raft hands it over, its image lies as a complete backend beside the live one, and the log names it. The new state
is rebuilt from it in slices while the old one goes on serving; then the file is renamed over the live one and the new
state put in the place of the old in one step. A crash before the rename is finished by recovery.
"""

from collections.abc import Callable, Iterator

from ratifyd.apply.state import State
from ratifyd.membership import Membership
from ratifyd.ports import Backend
from ratifyd.raft.messages import Snapshot, SnapshotMeta
from ratifyd.server.committer import Committer
from ratifyd.server.parts import Parts


class SnapshotInstaller:
    """Installs one snapshot after the other."""

    __slots__ = (
        "_backend",
        "_clock",
        "_committer",
        "_done",
        "_fail",
        "_fresh",
        "_next",
        "_received",
        "_snapshot",
        "_state",
        "_steps",
        "_stopped",
    )

    def __init__(self, parts: Parts, committer: Committer, done: Callable[[Snapshot], None]) -> None:
        """`done` is called when the state is the snapshot's."""
        self._clock = parts.clock
        self._committer = committer
        self._state = parts.state
        self._received = parts.received
        self._fail = parts.fail
        self._done = done
        self._snapshot = Snapshot(SnapshotMeta())
        self._fresh: State | None = None
        self._backend: Backend | None = None
        self._steps: Iterator[int] = iter(())
        self._next: Snapshot | None = None
        self._stopped = False

    def install(self, snapshot: Snapshot) -> None:
        """Begin with a snapshot whose record is durable, or go on with it after the one under way."""
        if self._fresh is not None:
            self._next = snapshot
        else:
            self._begin(snapshot)

    def has(self, index: int) -> bool:
        """Whether the snapshot at `index` is being installed, or is the next."""
        wanted = (self._snapshot if self._fresh is not None else None, self._next)
        return any(snapshot is not None and snapshot.meta.index == index for snapshot in wanted)

    def stop(self) -> None:
        """Leave what is not rebuilt yet to the next start: recovery finishes it."""
        self._stopped = True
        if self._backend is not None:
            self._backend.close()

    def _begin(self, snapshot: Snapshot) -> None:
        old = self._state
        members = Membership(old.members.local_id, old.members.cluster_id, old.members.max_learners)
        self._snapshot = snapshot
        self._backend = self._received.open(snapshot.meta.index)
        self._fresh = State(self._backend, members, min_ttl_s=old.leases.min_ttl_s)
        self._steps = self._fresh.restore()
        self._clock.call_soon(self._step)

    def _step(self) -> None:
        if self._stopped:
            return
        try:
            next(self._steps)
        except StopIteration:
            self._committer.pause(self._replace)
        except Exception as error:  # a state that cannot be read cannot be installed: end the member
            self._fail(error)
        else:
            self._clock.call_soon(self._step)

    def _replace(self) -> None:
        if self._stopped:
            self._committer.release()
            return
        assert self._backend is not None
        self._received.adopt(self._snapshot.meta.index, self._backend, self._replaced)

    def _replaced(self, error: BaseException | None) -> None:
        if error is not None:
            self._fail(error)
            return
        assert self._fresh is not None
        self._state.take_over(self._fresh)
        self._fresh = self._backend = None
        self._committer.resume()
        if self._stopped:
            return
        self._done(self._snapshot)
        if self._next is not None:
            snapshot, self._next = self._next, None
            self._begin(snapshot)
