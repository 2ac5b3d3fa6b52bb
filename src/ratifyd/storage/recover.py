"""How a member comes back from its data directory, or finds that it has none yet.

    <data-dir>/member/lock                     held while the member runs
    <data-dir>/member/wal/                     the log (or --wal-dir)
    <data-dir>/member/snap/db                  the backend
    <data-dir>/member/snap/<term>-<index>.snap where the log may start

A crash at any point leaves one of the states accepted here; anything else is refused, and the message says what to do.
The backend is the state; the log from the newest snapshot on is what it may still miss. Decides nothing about raft.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from ratifyd import schema
from ratifyd.ports import Backend, Disk, File
from ratifyd.raft.confstate import decode_conf_state_json
from ratifyd.raft.messages import ConfState, Entry, HardState, Snapshot, SnapshotMeta
from ratifyd.storage.failures import RESTORE_OR_REPLACE
from ratifyd.storage.snapshots import SnapshotFiles, received_name
from ratifyd.storage.wal import Wal, wal_exists
from ratifyd.storage.walread import LogReading, WalContents, read_log

OpenBackend = Callable[[str], Backend]
"""Opens or creates the backend at a path."""

OpenWal = Callable[[str, SnapshotMeta, LogReading], tuple[Wal, WalContents]]
"""Opens the log in a directory from a snapshot on; what was read of it before may have begun at another one."""

_NUMBER_BYTES = 8
_log = logging.getLogger("ratifyd.storage")


class DataDirInUse(Exception):
    """Another process runs on this data directory; the message says what to do."""


class RecoveryRefused(Exception):
    """What is on disk does not fit together; the message says what to do."""


@dataclass(slots=True, frozen=True)
class DataDir:
    """Paths of a member's files."""

    path: str
    wal_path: str = ""
    """Directory of the log when it is elsewhere (--wal-dir)."""

    @property
    def member(self) -> str:
        return f"{self.path}/member"

    @property
    def wal(self) -> str:
        return (self.wal_path.rstrip("/") or "/") if self.wal_path else f"{self.member}/wal"

    @property
    def snap(self) -> str:
        return f"{self.member}/snap"

    @property
    def backend(self) -> str:
        return f"{self.snap}/db"

    @property
    def lock_file(self) -> str:
        return f"{self.member}/lock"


@dataclass(slots=True)
class Recovered:
    """What was on disk. When `fresh`, an empty backend only: make the log with `Wal.create` and the first entries."""

    fresh: bool
    backend: Backend
    wal: Wal | None = None
    metadata: bytes = b""
    snapshot: Snapshot = field(default_factory=lambda: Snapshot(SnapshotMeta()))
    """Where the log starts; index 0 without a snapshot."""
    hard_state: HardState = field(default_factory=HardState)
    """As logged, its commit raised to what the backend has applied."""
    entries: Sequence[Entry] = ()
    """Every logged entry above the snapshot."""
    conf_state: ConfState = field(default_factory=ConfState)
    """As of `applied`."""
    consistent_index: int = 0
    """Last entry whose effect is in the backend; above `applied` only after a snapshot from another member."""
    term: int = 0
    """Term of that entry."""
    applied: int = 0
    """Where raft goes on applying: entries up to here are in the backend."""


def lock_data_dir(disk: Disk, data_dir: DataDir) -> File:
    """Make the directories and lock them; keep the file open as long as the member runs. Raises DataDirInUse."""
    disk.make_dirs(data_dir.snap)
    file = disk.open(data_dir.lock_file, create=True)
    if not file.lock():
        file.close()
        raise DataDirInUse(
            f"data directory {data_dir.path} is in use by another process. Stop that one, or give this member a "
            "directory of its own with --data-dir"
        )
    return file


def recover(
    disk: Disk, data_dir: DataDir, *, open_backend: OpenBackend, open_wal: OpenWal, alone: bool = False
) -> Recovered:
    """Bring back what a member had, which may be to go on `alone`. The data directory must be locked; blocks.

    Nothing is removed before backend and log are known to be ours and nobody else's, and no backend takes the place of
    another because of what the log says before that is durable.
    Raises RecoveryRefused, WalCorrupt, SegmentLocked and whatever opening the backend raises; nothing is open then.
    """
    with ExitStack() as opened:

        def open_one(path: str) -> Backend:
            backend = open_backend(path)
            opened.callback(backend.close)
            return backend

        if wal_exists(disk, data_dir.wal):
            found = _recover_all(disk, data_dir, open_one, open_wal, opened, alone)
        else:
            found = _recover_nothing(disk, data_dir, open_one)
        opened.pop_all()
    return found


def _recover_all(
    disk: Disk, data_dir: DataDir, open_backend: OpenBackend, open_wal: OpenWal, opened: ExitStack, alone: bool
) -> Recovered:
    files = SnapshotFiles(disk, data_dir.snap)
    # Nearly always the newest file counts, and the log has to be read only once.
    newest = files.load_newest(None) or Snapshot(SnapshotMeta())
    reading = read_log(disk, data_dir.wal, newest.meta.index, newest.meta.term, lock=True)
    opened.callback(reading.close)
    snapshot = files.load_newest(reading.valid_snapshots()) or Snapshot(SnapshotMeta())
    backend = open_backend(data_dir.backend)
    received = _received_backend(disk, data_dir, snapshot.meta, _number(backend, schema.CONSISTENT_INDEX))
    _discard_unfinished(disk, data_dir)
    wal, contents = open_wal(data_dir.wal, snapshot.meta, reading)
    opened.callback(wal.close)
    if received:
        backend.close()
        _log.info("taking over received backend %s", received)
        disk.rename(received, data_dir.backend)
        disk.sync_dir(data_dir.snap)
        backend = open_backend(data_dir.backend)
    found = _fit_together(data_dir, snapshot, backend, wal, contents, alone)
    files.discard_after(snapshot.meta)
    for name in disk.list(data_dir.snap):
        if name.endswith((".snap.db", ".snap.db-lock")):
            disk.remove(f"{data_dir.snap}/{name}")
    return found


def _discard_unfinished(disk: Disk, data_dir: DataDir) -> None:
    """Drop what a crash left half done: files being received, a backend being rewritten."""
    for name in disk.list(data_dir.snap):
        if name.startswith(("tmp", "db.tmp")):
            disk.remove(f"{data_dir.snap}/{name}")


def _recover_nothing(disk: Disk, data_dir: DataDir, open_backend: OpenBackend) -> Recovered:
    """No log: a new member, unless the backend shows that there was one."""
    backend = open_backend(data_dir.backend)
    consistent_index = _number(backend, schema.CONSISTENT_INDEX)
    if consistent_index or SnapshotFiles(disk, data_dir.snap).names():
        raise RecoveryRefused(
            f"the log in {data_dir.wal} is gone, but {data_dir.snap} holds data applied up to index "
            f"{consistent_index}. If the log lives in another directory, give it as --wal-dir; if it is lost, remove "
            "this member from the cluster, delete its data directory and add it again, or restore it from a snapshot."
        )
    _discard_unfinished(disk, data_dir)
    return Recovered(fresh=True, backend=backend)


def _received_backend(disk: Disk, data_dir: DataDir, snapshot: SnapshotMeta, consistent_index: int) -> str:
    """The backend to take over when the crash came between logging its snapshot and renaming it; else empty."""
    if consistent_index >= snapshot.index:
        return ""
    received = f"{data_dir.snap}/{received_name(snapshot.index)}"
    if not disk.exists(received):
        what = "older than the snapshot" if consistent_index else "missing or empty, but there is a snapshot"
        raise RecoveryRefused(
            f"backend {data_dir.backend} is {what} at index {snapshot.index}, and the entries before that are no "
            f"longer in the log. {RESTORE_OR_REPLACE}."
        )
    return received


def _fit_together(
    data_dir: DataDir, snapshot: Snapshot, backend: Backend, wal: Wal, contents: WalContents, alone: bool
) -> Recovered:
    consistent_index = _number(backend, schema.CONSISTENT_INDEX)
    stored = backend.get(schema.META, schema.CONF_STATE)
    conf_state = snapshot.meta.conf_state if stored is None else _conf_state(stored)
    last = contents.entries[-1].index if contents.entries else snapshot.meta.index
    if consistent_index > last and (alone or len(conf_state.voters) < 2):
        # Other members would send what is missing; a single one would fill these indexes with something else.
        raise RecoveryRefused(
            f"the log in {data_dir.wal} ends at index {last}, but the backend has applied index {consistent_index}: "
            "entries that were acknowledged are lost from the log. Restore the member from a snapshot."
        )
    applied = min(consistent_index, last)
    logged = contents.hard_state
    return Recovered(
        fresh=False,
        backend=backend,
        wal=wal,
        metadata=contents.metadata,
        snapshot=snapshot,
        hard_state=HardState(logged.term, logged.vote, min(last, max(logged.commit, applied))),
        entries=contents.entries,
        conf_state=conf_state,
        consistent_index=consistent_index,
        term=_number(backend, schema.TERM),
        applied=applied,
    )


def _conf_state(data: bytes) -> ConfState:
    try:
        return decode_conf_state_json(data)
    except ValueError as error:
        raise RecoveryRefused(
            f"the backend's membership record is unreadable: {data!r}. {RESTORE_OR_REPLACE}"
        ) from error


def _number(backend: Backend, key: bytes) -> int:
    value = backend.get(schema.META, key)
    if value is not None and len(value) != _NUMBER_BYTES:
        raise RecoveryRefused(f"the backend's {key.decode()} is unreadable: {value!r}. {RESTORE_OR_REPLACE}")
    return 0 if value is None else schema.decode_u64(value)
