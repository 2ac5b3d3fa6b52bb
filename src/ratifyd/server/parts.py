"""What the composition root has built for a member, ready to run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ratifyd.apply.state import State
from ratifyd.ports import Backend, Clock, Done, Transport
from ratifyd.raft.core import Raft
from ratifyd.raft.messages import Entry, HardState, Snapshot


class Log(Protocol):
    """What the node needs of the write-ahead log."""

    def append(self, entries: Sequence[Entry], hard_state: HardState | None, sync: bool, done: Done) -> bool:
        """Make a batch durable; True when it already is, else `done` is called, in order."""
        ...


class SnapshotStore(Protocol):
    """Where snapshots go: the file, then the record in the log, both durable."""

    def save(self, snapshot: Snapshot, done: Done) -> None: ...

    def release(self, index: int) -> None:
        """Log segments wholly below `index` are no longer needed."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The state of a member and its ports. `fail` ends the member: its state or its disk can no longer be trusted."""

    clock: Clock
    raft: Raft
    wal: Log
    state: State
    backend: Backend
    transport: Transport
    snapshot_store: SnapshotStore
    snapshot_index: int
    jitter: Callable[[], float]
    fail: Callable[[BaseException], None]
