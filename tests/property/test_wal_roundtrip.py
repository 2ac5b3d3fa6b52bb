"""WAL round trips: whatever was appended comes back, a cut end loses only what was cut, and damage never passes."""

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratifyd.raft.messages import ConfState, Entry, EntryKind, HardState, SnapshotMeta
from ratifyd.storage.syncpolicy import SyncPolicy
from ratifyd.storage.wal import Wal
from ratifyd.storage.walread import WalContents, WalCorrupt, WalSnapshotMissing
from simulation.disk import SimDisk, StepWorker
from tests.support_wal import entries_of, read_records

METADATA = b"\x08\x01\x10\x02"
NAME = "wal/0000000000000000-0000000000000000.wal"


class InPlace(SyncPolicy):
    def in_place(self, size: int) -> bool:
        return True


def reopen(disk: SimDisk, worker: StepWorker, segment_bytes: int) -> tuple[Wal, WalContents]:
    return Wal.open(
        disk, "wal", snapshot_index=0, snapshot_term=0, worker=worker, segment_bytes=segment_bytes, policy=InPlace()
    )


def close(wal: Wal, worker: StepWorker) -> None:
    wal.close()
    worker.run()


appends = st.lists(
    st.tuples(
        st.integers(0, 3),  # how far back the entries start: 0 goes on, more overwrites
        st.integers(0, 4),  # how many
        st.binary(max_size=700),
        st.booleans(),  # with a hard state
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    appends=appends, segment_bytes=st.sampled_from([256, 1024, 65536]), in_place=st.booleans(), seed=st.integers(0, 99)
)
def test_what_was_appended_comes_back(
    appends: list[tuple[int, int, bytes, bool]], segment_bytes: int, in_place: bool, seed: int
) -> None:
    disk, worker, random = SimDisk(), StepWorker(), Random(seed)
    policy = InPlace() if in_place else None
    wal = Wal.create(disk, "wal", METADATA, worker=worker, segment_bytes=segment_bytes, policy=policy)
    log: list[Entry] = []
    state = HardState()
    answered: list[int] = []
    for number, (back, count, data, with_state) in enumerate(appends):
        term = number + 1
        first = max(1, len(log) + 1 - back)
        batch = [Entry(term, index, data, EntryKind.NORMAL) for index in range(first, first + count)]
        if batch:
            log[first - 1 :] = batch
        if with_state:
            state = HardState(term, 1, len(log))
        if wal.append(batch, state if with_state else None, lambda _, number=number: answered.append(number)):  # type: ignore[misc]
            answered.append(number)
        if random.random() < 0.5:
            worker.run()
    close(wal, worker)
    assert answered == list(range(len(appends)))
    wal, contents = reopen(disk, worker, segment_bytes)
    assert contents.entries == log
    assert contents.hard_state == state
    assert contents.metadata == METADATA
    close(wal, worker)
    images = [disk.open(f"wal/{name}").pread(1 << 20, 0) for name in disk.list("wal") if name.endswith(".wal")]
    read = entries_of(read_records(images))
    assert {index: (term, data) for _, term, index, data in read if index <= len(log)}.keys() >= {e.index for e in log}


def written(last_bytes: int) -> tuple[SimDisk, int, int, bytes]:
    """A log of five small entries and a last one; returns offsets of the last frame's start and end, and the image."""
    disk, worker = SimDisk(), StepWorker()
    wal = Wal.create(disk, "wal", METADATA, worker=worker, segment_bytes=8192, policy=InPlace())
    for index in range(1, 6):
        wal.append([Entry(1, index, b"\x55" * 20)], HardState(1, 9, index - 1), lambda _: None)
    wal.save_snapshot(SnapshotMeta(3, 1, ConfState(voters=(9,))), lambda _: None)
    start = wal._offset
    wal.append([Entry(1, 6, b"\x77" * last_bytes)], None, lambda _: None)
    end = wal._offset
    close(wal, worker)
    return disk, start, end, disk.open(NAME).pread(8192, 0)


def put_image(disk: SimDisk, image: bytes) -> None:
    file = disk.open(NAME)
    file.truncate(0)
    file.pwrite(image, 0)


def test_every_truncation_of_the_last_record_loses_only_that() -> None:
    for last_bytes in (1, 20, 1200):
        disk, start, end, image = written(last_bytes)
        for size in range(start, end):
            put_image(disk, image[:size])
            worker = StepWorker()
            wal, contents = reopen(disk, worker, 8192)
            assert [entry.index for entry in contents.entries] == [1, 2, 3, 4, 5], size
            assert contents.hard_state == HardState(1, 9, 4)
            assert wal.append([Entry(1, 6, b"again")], None, lambda _: None)
            assert disk.open(NAME).size() == 8192
            close(wal, worker)
            wal, contents = reopen(disk, worker, 8192)
            assert contents.entries[-1].data == b"again"
            close(wal, worker)


def unlock(disk: SimDisk) -> None:
    for file in disk.list("wal"):
        disk.open(f"wal/{file}")._inode.locked_by = None


def test_no_flipped_byte_passes() -> None:
    """Each byte before the zero tail, changed: refused, or harmless padding that changes nothing read."""
    disk, _, end, image = written(30)
    _, whole = reopen(disk, StepWorker(), 8192)
    unlock(disk)
    harmless = 0
    for position in range(end):
        for flip in (0x01, 0x80, image[position] or 0xFF):
            damaged = bytearray(image)
            damaged[position] ^= flip
            put_image(disk, bytes(damaged))
            try:
                _, contents = reopen(disk, StepWorker(), 8192)
            except (WalCorrupt, WalSnapshotMissing):
                continue
            finally:
                unlock(disk)
            harmless += 1
            assert contents.entries == whole.entries, (position, flip)
            assert contents.hard_state == whole.hard_state, (position, flip)
            assert contents.metadata == whole.metadata
            assert [meta for meta in contents.snapshots if meta.index] == [
                meta for meta in whole.snapshots if meta.index
            ], (position, flip)
    assert harmless < end / 2, "the test must be able to see refusals"


def test_bytes_behind_the_end_are_forgotten() -> None:
    """A write torn at its first sector leaves later sectors behind a zero length word: never to be read again."""
    disk, _, end, image = written(30)
    following = (end // 512 + 1) * 512
    put_image(disk, image[:following] + b"\x33" * 900 + image[following + 900 :])
    _, contents = reopen(disk, StepWorker(), 8192)
    assert len(contents.entries) == 6
    assert disk.open(NAME).pread(8192, 0) == image[:end] + bytes(8192 - end)
