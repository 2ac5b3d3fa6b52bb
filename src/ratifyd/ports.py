"""The ports between quiet code and the world: what the simulator replaces, and nothing else.

A quiet room receives these objects from the composition root and never reaches for a clock, thread, file or socket
of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Done = Callable[[BaseException | None], None]
"""Completion callback of a background job; called on the loop with None, or with what went wrong."""

Row = tuple[bytes, bytes]
Scanned = tuple[list[Row], bytes | None]
"""A slice of a range, and the key the next slice begins at; None at the end of the range."""

Rows = Mapping[bytes, Mapping[bytes, bytes | None]]
"""A sealed batch of the write buffer: bucket -> key -> value, None for a deletion."""


class Undone(Exception):
    """A job could not be done and has left everything as it was; the text says why."""


class Timer(Protocol):
    """A pending `call_later`."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Time and scheduling of one member. May drift, jump and pause in a simulation."""

    def time(self) -> float:
        """Monotonic seconds."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Any: ...

    def call_later(self, delay_s: float, callback: Callable[..., object], *args: Any) -> Timer: ...


class Worker(Protocol):
    """One background thread: jobs run in order of submission, answers come back on the loop."""

    def submit(self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Run `job` off the loop, then call `done(result, error)` on the loop."""
        ...


class File(Protocol):
    """An open file of the disk."""

    def pread(self, size: int, offset: int) -> bytes: ...

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`."""
        ...

    def truncate(self, size: int) -> None: ...

    def allocate(self, size: int) -> None:
        """Reserve `size` bytes, zero-filled, so that later writes change no metadata."""
        ...

    def size(self) -> int: ...

    def datasync(self) -> None: ...

    def lock(self) -> bool:
        """Take an exclusive advisory lock; False when another process holds it."""
        ...

    def close(self) -> None: ...


class Syncs(Protocol):
    """A way to sync a file while the loop goes on, without a thread: one at a time."""

    def begin(self, file: File, done: Done) -> None:
        """Make what was written to `file` durable, then call `done` on the loop. Raises OSError, and forgets `done`."""
        ...


class Disk(Protocol):
    """Files and directories of one member, by path."""

    def open(self, path: str, *, create: bool = False) -> File: ...

    def exists(self, path: str) -> bool: ...

    def list(self, directory: str) -> list[str]:
        """Names in a directory, sorted; empty when it does not exist."""
        ...

    def make_dirs(self, directory: str) -> None:
        """Create a directory and its parents, mode 0700."""
        ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def sync_dir(self, directory: str) -> None: ...

    def free_bytes(self, directory: str) -> int: ...


class BackendView(Protocol):
    """A pinned, consistent read view of the committed backend."""

    def get(self, bucket: bytes, key: bytes) -> bytes | None: ...

    def get_many(self, bucket: bytes, keys: Iterable[bytes]) -> list[bytes | None]: ...

    def range(self, bucket: bytes, start: bytes, end: bytes | None) -> list[Row]:
        """Rows with start <= key < end in key order."""
        ...

    def scan(self, bucket: bytes, start: bytes, end: bytes | None, rows: int, max_bytes: int) -> Scanned:
        """The first `rows` rows of a range, fewer once their values come to `max_bytes`, and where to go on."""
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    """The B+tree file beneath the write buffer. Reads see the last commit that was acknowledged on the loop."""

    def get(self, bucket: bytes, key: bytes) -> bytes | None: ...

    def get_many(self, bucket: bytes, keys: Iterable[bytes]) -> list[bytes | None]: ...

    def range(self, bucket: bytes, start: bytes, end: bytes | None) -> list[Row]: ...

    def scan(self, bucket: bytes, start: bytes, end: bytes | None, rows: int, max_bytes: int) -> Scanned: ...

    def view(self) -> BackendView: ...

    def commit(self, rows: Rows, done: Done) -> None:
        """Write a sealed batch in one transaction on the worker; the loop sees it from the moment `done` is called."""
        ...

    def size(self) -> int:
        """Bytes of the file (etcd dbSize)."""
        ...

    def size_in_use(self) -> int:
        """Bytes of the file that hold data (etcd dbSizeInUse)."""
        ...

    def defragment(self, done: Done) -> None:
        """Rewrite the file without its free pages; reads go on meanwhile, commits wait. Undone without room."""
        ...

    def close(self) -> None: ...


class Transport(Protocol):
    """Messages to other members. Nothing here blocks: what cannot be sent is dropped and reported to raft."""

    def send(self, messages: Sequence[Any]) -> None:
        """Send raft messages, each to the member it names."""
        ...

    def send_snapshot(
        self, message: Any, size: int, open_image: Callable[[], Iterator[bytes]], done: Callable[[bool], None]
    ) -> None:
        """Send a snapshot message followed by the image of the backend; `done` tells on the loop whether it arrived."""
        ...

    def add_peer(self, member_id: int, urls: Sequence[str]) -> None: ...

    def remove_peer(self, member_id: int) -> None: ...

    def update_peer(self, member_id: int, urls: Sequence[str]) -> None: ...

    def add_remote(self, member_id: int, urls: Sequence[str]) -> None:
        """Learn where a member is that the log has not named yet, so that it can be answered."""
        ...

    def active_since(self, member_id: int) -> float | None:
        """Loop time since which a member is connected; None while it is not."""
        ...


class PeerCalls(Protocol):
    """Requests to the HTTP side of other members."""

    def call(
        self,
        urls: Sequence[str],
        method: str,
        path: str,
        body: bytes,
        timeout_s: float,
        done: Callable[[int, bytes], None],
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Ask the first of the peer URLs that answers; `done(status, body)`, status 0 when none did in time."""
        ...


class Tracer(Protocol):
    """Marks of rare branches: off in production, coverage and readable logs in tests."""

    def mark(self, name: str, **fields: object) -> None: ...
