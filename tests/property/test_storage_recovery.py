"""Power loss at every step of a member's files: log, snapshots, backend commits and purges, then recovery."""

from random import Random

import pytest

from ratifyd import schema
from ratifyd.ports import Backend
from ratifyd.raft.confstate import encode_conf_state_json
from ratifyd.raft.messages import ConfState, Entry, HardState, Snapshot, SnapshotMeta
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.recover import DataDir, Recovered, lock_data_dir, recover
from ratifyd.storage.snapshots import SnapshotFiles
from ratifyd.storage.wal import Wal
from ratifyd.storage.walread import LogReading, WalContents
from simulation.disk import Crashed, SimDisk, StepWorker

METADATA = b"\x08\x01\x10\x02"
CONF = ConfState(voters=(1,))
DIR = DataDir("d")


class Machine:
    """One member over several lives; the backend's acknowledged rows survive, as LMDB's commits do."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.disk = SimDisk()
        self.disk.make_dirs("d")
        self.disk.sync_dir("")
        self.worker = StepWorker()
        self.backend = MemoryBackend(self.worker)
        self.acknowledged = 0

    def life(self, steps: int) -> None:
        """Start, recover, work until the disk has made so many steps, and lose power."""
        self.disk.crash_at = self.disk.steps + steps
        try:
            lock_data_dir(self.disk, DIR)
            found = self.start()
            self.check(found)
            self.work(found)
        except Crashed:
            pass
        self.disk.crash(self.random)
        self.worker = StepWorker()
        self.backend = self.backend.survivor(self.worker)

    def start(self) -> Recovered:
        return recover(self.disk, DIR, open_backend=self.open_backend, open_wal=self.open_wal)

    def open_backend(self, path: str) -> Backend:
        return self.backend

    def open_wal(self, directory: str, start: SnapshotMeta, reading: LogReading) -> tuple[Wal, WalContents]:
        return Wal.open(
            self.disk,
            directory,
            snapshot_index=start.index,
            snapshot_term=start.term,
            reading=reading,
            worker=self.worker,
            segment_bytes=2048,
        )

    def check(self, found: Recovered) -> None:
        if found.fresh:
            assert self.acknowledged == 0
            return
        last = found.snapshot.meta.index + len(found.entries)
        assert last >= self.acknowledged
        assert found.consistent_index == found.applied <= found.hard_state.commit <= last
        assert found.snapshot.meta.index <= found.applied
        for index, entry in enumerate(found.entries, found.snapshot.meta.index + 1):
            assert entry.index == index
            assert entry.data.startswith(b"%d:" % index)

    def work(self, found: Recovered) -> None:
        random = self.random
        wal = found.wal
        last = found.snapshot.meta.index + len(found.entries)
        if wal is None:
            last = 1
            wal = Wal.create(
                self.disk,
                DIR.wal,
                METADATA,
                worker=self.worker,
                segment_bytes=2048,
                entries=[Entry(1, 1, b"1:conf")],
                hard_state=HardState(1, 0, 1),
            )
        self.acknowledged = last
        files = SnapshotFiles(self.disk, DIR.snap)
        while True:
            batch = [Entry(1, index, b"%d:" % index * random.randint(1, 40)) for index in range(last + 1, last + 4)]
            last += len(batch)
            if wal.append(batch, HardState(1, 1, self.acknowledged), lambda _, last=last: self.ack(last)):  # type: ignore[misc]
                self.ack(last)
            if random.random() < 0.3:
                self.worker.run()
                self.commit()
            if random.random() < 0.15:
                self.worker.run()
                self.snapshot(files, wal)

    def ack(self, last: int) -> None:
        self.acknowledged = max(self.acknowledged, last)

    def commit(self) -> None:
        rows: dict[bytes, bytes | None] = {
            schema.CONSISTENT_INDEX: schema.encode_u64(self.acknowledged),
            schema.TERM: schema.encode_u64(1),
            schema.CONF_STATE: encode_conf_state_json(CONF),
        }
        self.backend.commit({schema.META: rows}, lambda _: None)
        if self.random.random() < 0.8:
            self.worker.run()

    def snapshot(self, files: SnapshotFiles, wal: Wal) -> None:
        """At what the backend has durably applied; its commit index is logged before the record."""
        stored = self.backend.get(schema.META, schema.CONSISTENT_INDEX)
        if stored is None:
            return
        index = schema.decode_u64(stored)
        meta = SnapshotMeta(index, 1, CONF)
        files.save(Snapshot(meta, b"v2"))
        wal.append([], HardState(1, 1, index), lambda _: None)

        def recorded(_: BaseException | None) -> None:
            files.purge(2, meta)
            wal.release_to(index)
            wal.purge(2)

        if wal.save_snapshot(meta, recorded):
            recorded(None)
        self.worker.run()


@pytest.mark.parametrize("seed", range(6))
def test_many_lives(seed: int) -> None:
    random = Random(seed)
    machine = Machine(random)
    for _ in range(40):
        machine.life(random.randint(0, 120))
    assert machine.acknowledged > 100


def test_a_crash_at_every_step_of_the_first_life() -> None:
    for steps in range(80):
        machine = Machine(Random(steps))
        machine.life(steps)
        machine.life(30)
