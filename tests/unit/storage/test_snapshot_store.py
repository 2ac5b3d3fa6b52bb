"""Snapshots and the log together, on a disk in memory."""

from ratifyd.raft.messages import ConfState, Snapshot, SnapshotMeta
from ratifyd.storage.snapshots import SnapshotFiles, SnapshotStore
from ratifyd.storage.wal import Wal, WalFailed
from simulation.disk import SimDisk, StepWorker


def test_a_snapshot_that_lands_after_the_log_has_ended_fails_and_tells() -> None:
    """As at a disk that fails while a snapshot is under way: its end is no exception of the worker."""
    disk, worker = SimDisk(), StepWorker()
    disk.make_dirs("d/wal")
    disk.make_dirs("d/snap")
    wal = Wal.create(disk, "d/member", b"", worker=worker, segment_bytes=4096)
    store = SnapshotStore(SnapshotFiles(disk, "d/snap"), wal, worker, keep_files=2, keep_segments=2)
    wal.close()
    told: list[BaseException | None] = []
    store.save(Snapshot(SnapshotMeta(3, 1, ConfState(voters=(1,))), b"data"), told.append)
    worker.run()
    assert [type(error) for error in told] == [WalFailed]
