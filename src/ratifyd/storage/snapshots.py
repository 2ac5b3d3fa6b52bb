"""The .snap files of a member: the points from which its log can be read, newest first.

A file counts only if the log names it too. Written whole or not at all; an unreadable one is set aside as `.broken` and
the next older one is used. Every call blocks: run it on a worker. Does not know what snapshot data means.
"""

import logging
from collections.abc import Callable, Collection
from time import perf_counter
from typing import NamedTuple

from ratifyd.formats.snap import SnapCorrupt, decode_snap, encode_snap
from ratifyd.ports import Disk, Done, Worker
from ratifyd.raft.codec import DecodeError, decode_snapshot, encode_snapshot
from ratifyd.raft.messages import Snapshot, SnapshotMeta
from ratifyd.storage.wal import Wal, WalFailed

_SUFFIX = ".snap"
_log = logging.getLogger("ratifyd.storage")


def snapshot_name(meta: SnapshotMeta) -> str:
    """File name of a snapshot; names sort as their logical times do."""
    return f"{meta.term:016x}-{meta.index:016x}{_SUFFIX}"


def received_name(index: int) -> str:
    """File name of a backend that came with the snapshot at `index`, until it is renamed over the live one."""
    return f"{index:016x}.snap.db"


class SaveTimes(NamedTuple):
    """Seconds that saving a snapshot took, as a whole and two parts of it."""

    encode_s: float
    sync_s: float
    total_s: float


class SnapshotFiles:
    """The .snap files of one directory."""

    __slots__ = ("_directory", "_disk", "_fsync")

    def __init__(self, disk: Disk, directory: str, *, fsync: bool = True) -> None:
        self._disk = disk
        self._directory = directory
        self._fsync = fsync

    def save(self, snapshot: Snapshot) -> SaveTimes:
        """Store a snapshot durably. Record it in the WAL next: until then it does not count."""
        began = perf_counter()
        data = encode_snap(encode_snapshot(snapshot))
        encoded = perf_counter()
        path = f"{self._directory}/{snapshot_name(snapshot.meta)}"
        unfinished = f"{self._directory}/tmp.{snapshot_name(snapshot.meta)}"
        file = self._disk.open(unfinished, create=True)
        try:
            file.truncate(0)
            file.pwrite(data, 0)
            written = perf_counter()
            if self._fsync:
                file.datasync()
            synced = perf_counter()
        finally:
            file.close()
        self._disk.rename(unfinished, path)
        if self._fsync:
            self._disk.sync_dir(self._directory)
        return SaveTimes(encoded - began, synced - written, perf_counter() - began)

    def load_newest(self, named_by_wal: Collection[SnapshotMeta] | None) -> Snapshot | None:
        """The newest readable snapshot the log names by index and term; None when there is none.

        Unreadable ones are set aside. Without what the log names this is a guess, and nothing is changed.
        """
        named = None if named_by_wal is None else {(meta.term, meta.index) for meta in named_by_wal}
        for name in reversed(self.names()):
            path = f"{self._directory}/{name}"
            try:
                snapshot = self._read(path)
            except (SnapCorrupt, DecodeError) as error:
                if named is not None:
                    _log.warning("setting unreadable snapshot %s aside: %s", path, error)
                    self._disk.rename(path, path + ".broken")
                continue
            if named is None or (snapshot.meta.term, snapshot.meta.index) in named:
                return snapshot
        return None

    def purge(self, keep: int, newest: SnapshotMeta) -> None:
        """Delete all but the newest `keep` snapshots up to `newest`, the last that the log names."""
        recorded = [name for name in self.names() if name <= snapshot_name(newest)]
        for name in recorded[: max(0, len(recorded) - keep)]:
            self._disk.remove(f"{self._directory}/{name}")

    def discard_after(self, newest: SnapshotMeta) -> None:
        """Delete, durably, those after the one that a start begins with: they must not count later, either.

        The crash came before the log knew of them. A record of which only the commit was lost would count once the log
        has committed as much, and there is no backend for it any more.
        """
        unknown = [name for name in self.names() if name > snapshot_name(newest)]
        for name in unknown:
            self._disk.remove(f"{self._directory}/{name}")
        if unknown:
            self._disk.sync_dir(self._directory)

    def names(self) -> list[str]:
        """File names, oldest first."""
        return [
            name
            for name in self._disk.list(self._directory)
            if name.endswith(_SUFFIX) and "-" in name[:-5] and not name.startswith("tmp")
        ]

    def _read(self, path: str) -> Snapshot:
        file = self._disk.open(path)
        try:
            return decode_snapshot(decode_snap(file.pread(file.size(), 0)))
        finally:
            file.close()


def _untold(_times: SaveTimes) -> None:
    """Nobody measures."""


class SnapshotStore:
    """Saves snapshots off the loop: the file first, then its record in the log. Its calls do not block."""

    __slots__ = ("_files", "_keep_files", "_keep_segments", "_recorded", "_saved", "_wal", "_worker")

    def __init__(
        self,
        files: SnapshotFiles,
        wal: Wal,
        worker: Worker,
        *,
        keep_files: int,
        keep_segments: int,
        saved: Callable[[SaveTimes], None] = _untold,
    ) -> None:
        """0 files or segments to keep: all of them. `saved` is told how long each file took."""
        self._files = files
        self._wal = wal
        self._worker = worker
        self._keep_files = keep_files
        self._keep_segments = keep_segments
        self._recorded = SnapshotMeta()
        """The newest that this life has recorded in the log."""
        self._saved = saved

    def save(self, snapshot: Snapshot, done: Done) -> None:
        """Make a snapshot durable. When the log was closed meanwhile nobody is told: without its record it is none."""

        def recorded(error: BaseException | None) -> None:
            if error is None:
                self._recorded = max(self._recorded, snapshot.meta, key=snapshot_name)
            done(error)

        def saved(times: SaveTimes | None, error: BaseException | None) -> None:
            if times is not None:
                self._saved(times)
            if error is None:
                if self._wal.closed:
                    return
                try:
                    if not self._wal.save_snapshot(snapshot.meta, recorded):
                        return
                except WalFailed as failed:  # the disk may have failed while the file was under way
                    error = failed
            recorded(error)

        self._worker.submit(lambda: self._files.save(snapshot), saved)

    def release(self, index: int) -> None:
        """Delete what no restart and no follower will ask for again."""
        self._wal.release_to(index)
        if self._keep_segments:
            self._wal.purge(self._keep_segments)
        if self._keep_files:
            newest = self._recorded
            self._worker.submit(lambda: self._files.purge(self._keep_files, newest), _purged)


def _purged(_result: None, error: BaseException | None) -> None:
    if error is not None:
        _log.warning("failed to purge snapshot files", extra={"fields": {"error": str(error)}})
