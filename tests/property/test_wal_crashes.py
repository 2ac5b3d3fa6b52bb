"""Power loss at every step of the WAL's life: what was acknowledged is there afterwards, and nothing is made up."""

from random import Random

import pytest

from ratifyd.raft.messages import ConfState, Entry, HardState, SnapshotMeta
from ratifyd.storage.syncpolicy import SyncPolicy
from ratifyd.storage.wal import Wal, wal_exists
from ratifyd.storage.walread import WalContents, read_log
from simulation.disk import Crashed, SimDisk, StepWorker, WorkerSyncs

METADATA = b"\x08\x01\x10\x02"
SEGMENT = 2048


class Mixed(SyncPolicy):
    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    def in_place(self, size: int) -> bool:
        return self._random.random() < 0.3

    def in_kernel(self, size: int) -> bool:
        return self._random.random() < 0.5


class Run:
    """Appends entries until the crash; knows what was acknowledged."""

    def __init__(self, disk: SimDisk, random: Random) -> None:
        self.disk = disk
        self.random = random
        self.acknowledged = 0
        self.snapshot = 0
        self.appended = 0
        self.worker = StepWorker()

    def live(self, wal: Wal) -> None:
        random = self.random
        while self.appended < 120:
            first = self.appended + 1
            last = first + random.randint(0, 3)
            batch = [Entry(1, index, b"%d" % index * random.randint(1, 60)) for index in range(first, last + 1)]
            self.appended = last
            if wal.append(batch, HardState(1, 1, self.acknowledged), lambda _, last=last: self.ack(last)):  # type: ignore[misc]
                self.ack(last)
            if random.random() < 0.1 and self.acknowledged > self.snapshot:
                meta = SnapshotMeta(self.acknowledged, 1, ConfState(voters=(1,)))
                wal.append([], HardState(1, 1, self.acknowledged), lambda _: None)
                if wal.save_snapshot(meta, lambda _, index=meta.index: self.saved(wal, index)):  # type: ignore[misc]
                    self.saved(wal, meta.index)
            while random.random() < 0.5 and self.worker.run_one():
                pass

    def ack(self, last: int) -> None:
        self.acknowledged = max(self.acknowledged, last)

    def saved(self, wal: Wal, index: int) -> None:
        self.snapshot = index
        wal.release_to(index)
        wal.purge(2)


def reopen(disk: SimDisk, index: int, term: int, worker: StepWorker, random: Random) -> tuple[Wal, WalContents]:
    return Wal.open(
        disk,
        "d/wal",
        snapshot_index=index,
        snapshot_term=term,
        worker=worker,
        segment_bytes=SEGMENT,
        policy=Mixed(random),
    )


def run_and_crash(seed: int, crash_at: int) -> bool:
    """One life, one crash, one recovery; False when the life ended before the crash."""
    random = Random(seed * 100_003 + crash_at)
    disk = SimDisk()
    disk.make_dirs("d")
    disk.sync_dir("")
    disk.crash_at = crash_at
    run = Run(disk, random)
    crashed = False
    try:
        wal = Wal.create(
            disk,
            "d/wal",
            METADATA,
            worker=run.worker,
            syncs=WorkerSyncs(run.worker),
            segment_bytes=SEGMENT,
            policy=Mixed(random),
        )
        run.live(wal)
    except Crashed:
        crashed = True
    disk.crash(random)
    if not wal_exists(disk, "d/wal"):
        assert run.acknowledged == 0
        return crashed
    named = read_log(disk, "d/wal", run.snapshot).valid_snapshots()
    newest = named[-1]
    assert newest.index >= run.snapshot
    wal, contents = reopen(disk, newest.index, newest.term, StepWorker(), random)
    indexes = [entry.index for entry in contents.entries]
    last = newest.index + len(indexes)
    assert indexes == list(range(newest.index + 1, last + 1))
    assert run.acknowledged <= last <= run.appended
    for entry in contents.entries:
        assert entry.data.startswith(b"%d" % entry.index)
    assert wal.append([Entry(2, last + 1, b"next life")], HardState(2, 1, last), lambda _: None) in (True, False)
    return crashed


@pytest.mark.parametrize("seed", range(3))
def test_a_crash_at_any_step_loses_nothing_acknowledged(seed: int) -> None:
    crashes = sum(run_and_crash(seed, crash_at) for crash_at in range(0, 240, 2))
    assert crashes > 50
