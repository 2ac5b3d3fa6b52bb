"""Snapshots and the log together, on a disk in memory."""

import pytest

from ratifyd.raft.messages import ConfState, Entry, Snapshot, SnapshotMeta
from ratifyd.storage.snapshots import SnapshotFiles, SnapshotStore
from ratifyd.storage.wal import Wal, WalFailed
from simulation.disk import SimDisk, StepWorker

SNAPSHOT = Snapshot(SnapshotMeta(3, 1, ConfState(voters=(1,))), b"data")
DATASYNC = "datasync"


class Stored:
    """A log and the snapshots beside it; the snapshots' worker waits for the test."""

    def __init__(self) -> None:
        self.disk, self.worker, self.wal_worker = SimDisk(), StepWorker(), StepWorker()
        self.disk.make_dirs("d/wal")
        self.disk.make_dirs("d/snap")
        self.wal = Wal.create(self.disk, "d/member", b"metadata", worker=self.wal_worker, segment_bytes=4096)
        self.files = SnapshotFiles(self.disk, "d/snap")
        self.store = SnapshotStore(self.files, self.wal, self.worker, keep_files=2, keep_segments=2)
        self.told: list[BaseException | None] = []


def test_a_snapshot_that_lands_after_the_disk_has_failed_tells() -> None:
    """Its end is no exception of the worker."""
    stored = Stored()
    stored.store.save(SNAPSHOT, stored.told.append)
    stored.disk.fail[DATASYNC] = OSError(5, "bad")
    with pytest.raises(WalFailed):
        stored.wal.append((Entry(1, 1, b""),), None, stored.told.append)
    del stored.disk.fail[DATASYNC]
    stored.worker.run()
    assert [type(error) for error in stored.told] == [WalFailed]


def test_a_snapshot_that_lands_after_the_log_was_closed_is_of_no_interest() -> None:
    stored = Stored()
    stored.store.save(SNAPSHOT, stored.told.append)
    stored.wal.close()
    stored.wal_worker.run()
    stored.worker.run()
    assert not stored.told
    assert len(stored.files.names()) == 1
    _, contents = Wal.open(stored.disk, "d/member", snapshot_index=0, snapshot_term=0, worker=stored.wal_worker)
    assert [meta.index for meta in contents.snapshots] == [0]
