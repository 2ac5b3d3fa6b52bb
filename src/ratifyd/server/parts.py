"""What the composition root has built for a member, ready to run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ratifyd.apply.state import State
from ratifyd.auth.tokens import TokenProvider
from ratifyd.ports import Backend, BackendView, Clock, Done, PeerCalls, Transport, Worker
from ratifyd.raft.core import Raft
from ratifyd.raft.messages import Entry, HardState, Snapshot


class Log(Protocol):
    """What the node needs of the write-ahead log."""

    def append(self, entries: Sequence[Entry], hard_state: HardState | None, done: Done) -> bool:
        """Make a batch durable; True when it already is, else `done` is called, in order."""
        ...


class SnapshotStore(Protocol):
    """Where snapshots go: the file, then the record in the log, both durable."""

    def save(self, snapshot: Snapshot, done: Done) -> None: ...

    def release(self, index: int) -> None:
        """Log segments wholly below `index` are no longer needed."""
        ...


class Image(Protocol):
    """The backend at one commit, about to be sent. Close it in the end."""

    view: BackendView
    size: int

    def open(self) -> Iterator[bytes]:
        """The bytes of the image, once, read on a thread of the caller's."""
        ...

    def read(self, done: Callable[[bytes | None, BaseException | None], None]) -> None:
        """Read the next piece on a thread of its own; None at the end. Not together with `open`."""
        ...

    def close(self) -> None: ...


class Images(Protocol):
    """Maker of images."""

    def prepare(self, done: Callable[[Image | None, BaseException | None], None]) -> None:
        """Pin the last commit and lay its image out; `done` is called on the loop."""
        ...


class ReceivedBackends(Protocol):
    """Backends that came with snapshots, complete and durable, beside the live one."""

    def open(self, index: int) -> Backend:
        """Open the one of the snapshot at `index`, to restore the state from."""
        ...

    def adopt(self, index: int, opened: Backend, done: Done) -> None:
        """Close it and make it the live backend."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The state of a member and its ports. `fail` ends the member: its state or its disk can no longer be trusted.

    `entropy(count)` gives bytes nobody can guess.
    """

    clock: Clock
    raft: Raft
    wal: Log
    state: State
    backend: Backend
    transport: Transport
    calls: PeerCalls
    images: Images
    received: ReceivedBackends
    snapshot_store: SnapshotStore
    snapshot_index: int
    jitter: Callable[[], float]
    tokens: TokenProvider
    password_worker: Worker
    entropy: Callable[[int], bytes]
    fail: Callable[[BaseException], None]
    answered: Callable[[], None] = lambda: None
    """Called after each turn that had something to say to clients."""
    stopwatch: Callable[[], float] | None = None
    """A more precise `clock.time`, for measuring; None where that is precise enough."""
