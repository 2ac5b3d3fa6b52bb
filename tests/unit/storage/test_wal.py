"""The write-ahead log: bytes, order of answers, files, locks and damage."""

import copy
import errno
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from ratifyd.metrics import Metrics
from ratifyd.raft.codec import encode_hard_state
from ratifyd.raft.messages import ConfState, Entry, EntryKind, HardState, SnapshotMeta
from ratifyd.storage.disk import OsDisk, OsFile
from ratifyd.storage.syncpolicy import SyncPolicy
from ratifyd.storage.wal import Wal, WalFailed
from ratifyd.storage.walread import SegmentLocked, WalContents, WalCorrupt, WalSnapshotMissing, read_log
from ratifyd.storage.walrecord import RecordKind, encode_records
from simulation.disk import SimDisk, StepWorker, WorkerSyncs
from tests.support_wal import entries_of, read_records

METADATA = b"\x08\x01\x10\x02"
SEGMENT = 16 << 10


class Always(SyncPolicy):
    """Syncs always run where the test wants them."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.wanted = in_place

    def in_place(self, size: int) -> bool:
        return self.wanted


class Losing(Random):
    """Of a crash: what was not synced is lost."""

    def random(self) -> float:
        return 1.0

    def randint(self, a: int, b: int) -> int:
        return b


class Forgetting(Losing):
    """As that, and names that were not synced are gone too."""

    def randint(self, a: int, b: int) -> int:
        return a


WAYS = ("in place", "kernel", "thread")


def entries(first: int, last: int, term: int = 1, size: int = 20) -> list[Entry]:
    return [Entry(term, index, b"%d" % index * size) for index in range(first, last + 1)]


def create(
    disk: object,
    directory: str,
    worker: StepWorker,
    *,
    in_place: bool = False,
    syncs: StepWorker | None = None,
    segment_bytes: int = SEGMENT,
) -> Wal:
    return Wal.create(
        disk,  # type: ignore[arg-type]
        directory,
        METADATA,
        worker=worker,
        syncs=None if syncs is None else WorkerSyncs(syncs),
        segment_bytes=segment_bytes,
        policy=Always(in_place=in_place),
    )


def reopen(
    disk: object, directory: str, worker: StepWorker, index: int = 0, term: int = 0, segment_bytes: int = SEGMENT
) -> tuple[Wal, WalContents]:
    return Wal.open(
        disk,  # type: ignore[arg-type]
        directory,
        snapshot_index=index,
        snapshot_term=term,
        worker=worker,
        segment_bytes=segment_bytes,
        policy=Always(in_place=True),
    )


def close(wal: Wal, worker: StepWorker) -> None:
    answers: list[BaseException | None] = []
    wal.close(answers.append)
    worker.run()
    assert answers == [None]


def refuse(_: BaseException | None) -> None:
    raise AssertionError("must not be called")


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "wal")


def images(directory: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(directory).glob("*.wal"))]


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_new_log_starts_with_etcds_bytes(directory: str) -> None:
    worker = StepWorker()
    wal = create(OsDisk(), directory, worker)
    image = Path(directory, "0000000000000000-0000000000000000.wal").read_bytes()
    assert len(image) == SEGMENT
    assert image[:16] == bytes.fromhex("04000000000000840804100000000000")
    assert read_records([image]) == [(4, b""), (1, METADATA), (5, bytes.fromhex("08001000"))]
    assert names(Path(directory).parent) == {"wal"}
    worker.run()
    assert Path(directory, "0.tmp").stat().st_size == SEGMENT
    close(wal, worker)
    assert not Path(directory, "0.tmp").exists()


def test_entries_precede_the_state_and_an_independent_reader_agrees(directory: str) -> None:
    worker = StepWorker()
    wal = create(OsDisk(), directory, worker, in_place=True)
    written = [*entries(1, 9), Entry(1, 10, b"", EntryKind.NORMAL), Entry(2, 11, b"c", EntryKind.CONF_CHANGE)]
    assert wal.append(written, HardState(2, 7, 3), refuse)
    records = read_records(images(directory))
    assert entries_of(records) == [(entry.kind, entry.term, entry.index, entry.data) for entry in written]
    assert records[-1] == (3, bytes.fromhex("080210071803"))
    close(wal, worker)


def test_a_log_can_be_born_with_its_first_entries(directory: str) -> None:
    worker = StepWorker()
    first = [Entry(1, 1, b"conf", EntryKind.CONF_CHANGE)]
    wal = Wal.create(
        OsDisk(),
        directory,
        METADATA,
        worker=worker,
        segment_bytes=SEGMENT,
        entries=first,
        hard_state=HardState(1, 0, 1),
    )
    close(wal, worker)
    wal, contents = reopen(OsDisk(), directory, worker)
    assert contents.entries == first
    assert contents.hard_state == HardState(1, 0, 1)
    assert contents.metadata == METADATA
    assert wal.append(entries(2, 2), None, refuse)
    close(wal, worker)
    with pytest.raises(FileExistsError):
        create(OsDisk(), directory, worker)


def test_later_entries_replace_from_their_index_on(directory: str) -> None:
    worker = StepWorker()
    wal = create(OsDisk(), directory, worker, in_place=True)
    wal.append(entries(1, 5), HardState(1, 1, 0), refuse)
    wal.append(entries(3, 4, term=2), HardState(2, 1, 2), refuse)
    close(wal, worker)
    _, contents = reopen(OsDisk(), directory, worker)
    assert contents.entries == entries(1, 2) + entries(3, 4, term=2)
    assert contents.hard_state == HardState(2, 1, 2)


@pytest.mark.parametrize("way", WAYS[1:])
def test_groups_form_while_a_sync_is_in_flight(directory: str, way: str) -> None:
    """One flight at a time; what arrives meanwhile is the next; answers keep the order."""
    worker, syncs = StepWorker(), StepWorker()
    wal = create(OsDisk(), directory, worker, syncs=syncs if way == "kernel" else None)
    worker.run()
    order: list[int] = []

    def answer(number: int) -> Callable[[BaseException | None], None]:
        return lambda error: order.append(number if error is None else -number)

    runs = syncs if way == "kernel" else worker
    for number in range(1, 5):
        assert wal.append(entries(number, number), None, answer(number)) is False
    assert len(runs.jobs) == 1
    runs.run_one()
    assert order == [1]
    assert len(runs.jobs) == 1
    assert wal.append([], None, answer(5)) is False
    runs.run_one()
    assert order == [1, 2, 3, 4, 5]
    assert worker.jobs == syncs.jobs == []
    assert wal.append([], None, refuse), "with nothing in flight there is nothing to wait for"
    close(wal, worker)
    _, contents = reopen(OsDisk(), directory, worker)
    assert len(contents.entries) == 4


def test_an_append_from_within_an_answer_keeps_its_turn(directory: str) -> None:
    worker = StepWorker()
    wal = create(OsDisk(), directory, worker)
    worker.run()
    order: list[str] = []

    def first(_: BaseException | None) -> None:
        order.append("first")
        wal._policy.wanted = True  # type: ignore[attr-defined]
        assert wal.append(entries(3, 3), None, lambda _: order.append("third")) is False
        assert wal.append([], None, lambda _: order.append("fourth")) is False

    wal.append([], HardState(1, 1, 0), lambda _: order.append("in flight"))
    wal.append(entries(1, 1), None, first)
    wal.append(entries(2, 2), None, lambda _: order.append("second"))
    worker.run()
    assert order == ["in flight", "first", "second", "third", "fourth"]
    close(wal, worker)


def test_what_the_kernel_syncs_is_written_at_once_and_durable_when_it_says_so() -> None:
    disk, worker, syncs = SimDisk(), StepWorker(), StepWorker()
    wal = create(disk, "wal", worker, syncs=syncs)
    worker.run()
    answers: list[BaseException | None] = []
    assert wal.append(entries(1, 9), HardState(1, 1, 0), answers.append) is False
    assert not answers
    lost = copy.deepcopy(disk)
    lost.crash(Losing())
    assert read_log(lost, "wal").contents.entries == []
    syncs.run()
    assert answers == [None]
    disk.crash(Losing())
    assert [entry.index for entry in read_log(disk, "wal").contents.entries] == list(range(1, 10))


def test_what_a_killed_process_left_to_the_kernel_is_durable_once_the_log_is_open() -> None:
    """Its successor acknowledges what it finds."""
    disk, worker, syncs = SimDisk(), StepWorker(), StepWorker()
    wal = create(disk, "wal", worker, syncs=syncs)
    worker.run()
    wal.append(entries(1, 9), HardState(1, 1, 0), refuse)
    disk.abandon()
    _, contents = reopen(disk, "wal", StepWorker())
    assert contents.entries == entries(1, 9)
    disk.crash(Losing())
    assert read_log(disk, "wal").contents.entries == entries(1, 9)


def test_so_is_the_name_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimDisk()
    with monkeypatch.context() as killed:
        killed.setattr(SimDisk, "sync_dir", lambda self, directory: None)
        create(disk, "member/wal", StepWorker())
    disk.abandon()
    reopen(disk, "member/wal", StepWorker())
    disk.crash(Forgetting())
    assert disk.list("member/wal")


@pytest.mark.parametrize("fails", [False, True])
def test_closing_waits_for_the_kernel(fails: bool) -> None:
    disk, worker, syncs = SimDisk(), StepWorker(), StepWorker()
    wal = create(disk, "wal", worker, syncs=syncs)
    worker.run()
    order: list[tuple[int, bool]] = []
    for number in (1, 2):
        wal.append(entries(number, number), None, lambda error, number=number: order.append((number, error is None)))  # type: ignore[misc]
    wal.close(lambda error: order.append((3, error is None)))
    worker.run()
    assert order == []
    if fails:
        disk.fail["datasync"] = OSError(5, "input/output error")
    syncs.run()
    disk.fail.clear()
    assert order == ([(1, False), (2, False)] if fails else [(1, True)])
    worker.run()
    assert order == [(1, not fails), (2, not fails), (3, not fails)]
    disk.crash(Losing())
    if not fails:
        assert [entry.index for entry in read_log(disk, "wal").contents.entries] == [1, 2]


@pytest.mark.parametrize("waiting", [0, 1, 2])
def test_a_log_closed_by_an_answer_is_closed_once_and_loses_nothing(waiting: int) -> None:
    """Also when the next flight has left already, and another one waits: what is told to be durable is."""
    disk, worker, syncs = SimDisk(), StepWorker(), StepWorker()
    wal = create(disk, "wal", worker, syncs=syncs)
    worker.run()
    told: list[int] = []
    closed: list[BaseException | None] = []
    wal.append(entries(1, 1), None, lambda _: told.append(1))
    syncs.jobs, first = [], syncs.jobs

    def close_it(_: BaseException | None) -> None:
        told.append(2)
        if waiting == 2:
            wal.append(entries(4, 4), None, lambda error: told.append(4 if error is None else -4))
        wal.close(closed.append)

    wal.append(entries(2, 2), None, close_it)
    syncs.jobs = first
    syncs.run_one()  # the first one lands, the second leaves
    if waiting:
        wal.append(entries(3, 3), None, lambda error: told.append(3 if error is None else -3))
    syncs.run_one()  # the second one lands, and closes the log while the third is on its way
    worker.run()
    assert closed == ([] if waiting else [None])
    syncs.run()
    worker.run()
    assert closed == [None]
    assert told == list(range(1, 3 + waiting))
    disk.crash(Losing())
    assert [entry.index for entry in read_log(disk, "wal").contents.entries] == told


@pytest.mark.parametrize("way", WAYS)
def test_files_are_cut_and_read_through(directory: str, way: str) -> None:
    worker = StepWorker()
    syncs = worker if way == "kernel" else None
    wal = create(OsDisk(), directory, worker, in_place=way == "in place", syncs=syncs, segment_bytes=4096)
    worker.run()
    for start in range(1, 100, 3):
        wal.append(entries(start, start + 2, size=40), HardState(1, 1, start), lambda _: None)
        worker.run()
    names = sorted(path.name for path in Path(directory).glob("*.wal"))
    assert len(names) > 2
    records = read_records(images(directory))
    assert [entry[2] for entry in entries_of(records)] == list(range(1, 100))
    heads = [read_records([image])[:3] for image in images(directory)[:1]]
    assert heads[0][1] == (1, METADATA)
    second = int(names[1][17:33], 16)
    tail_of_first = entries_of(read_records(images(directory)[:1]))[-1]
    assert second == tail_of_first[2] + 1
    assert Path(directory, names[0]).stat().st_size % 8 == 0
    assert Path(directory, names[-1]).stat().st_size == 4096
    close(wal, worker)
    wal, contents = reopen(OsDisk(), directory, worker, segment_bytes=4096)
    assert [entry.index for entry in contents.entries] == list(range(1, 100))
    assert wal.append(entries(100, 100), None, refuse)
    close(wal, worker)
    assert len(entries_of(read_records(images(directory)))) == 100


def test_released_files_are_purged_and_reading_starts_at_the_snapshot(directory: str) -> None:
    worker = StepWorker()
    conf = ConfState(voters=(1, 2), learners=(3,))
    wal = create(OsDisk(), directory, worker, in_place=True, segment_bytes=4096)
    for index in range(1, 100):
        wal.append(entries(index, index, size=40), HardState(1, 1, index), lambda _: None)
        worker.run()
        if index == 80:
            wal.save_snapshot(SnapshotMeta(80, 1, conf), lambda _: None)
            worker.run()
    count = len(images(directory))
    wal.purge(2)
    worker.run()
    assert len(images(directory)) == count, "nothing is released yet"
    wal.release_to(80)
    wal.purge(count - 1)
    worker.run()
    assert len(images(directory)) == count - 1
    wal.purge(1)
    worker.run()
    close(wal, worker)
    assert 1 < len(images(directory)) < count - 1
    assert read_log(OsDisk(), directory, 80, 1).valid_snapshots() == [SnapshotMeta(80, 1, conf)]
    wal, contents = reopen(OsDisk(), directory, worker, 80, 1)
    assert [entry.index for entry in contents.entries] == list(range(81, 100))
    close(wal, worker)
    with pytest.raises(WalSnapshotMissing, match="mismatch"):
        reopen(OsDisk(), directory, worker, 80, 2)
    with pytest.raises(WalSnapshotMissing, match="not found"):
        reopen(OsDisk(), directory, worker, 90, 1)
    with pytest.raises(WalCorrupt, match="no file holds"):
        reopen(OsDisk(), directory, worker)


def test_a_received_snapshot_jumps_ahead(directory: str) -> None:
    """The log goes on behind a snapshot far ahead of it, and the next file is named after that."""
    worker = StepWorker()
    conf = ConfState(voters=(1, 2))
    wal = create(OsDisk(), directory, worker, in_place=True, segment_bytes=512)
    wal.append(entries(1, 3), HardState(1, 1, 3), refuse)
    wal.append([], HardState(4, 2, 1000), refuse)
    wal.save_snapshot(SnapshotMeta(1000, 4, conf), lambda _: None)
    filling = 0
    while wal._offset > 200:
        filling += 1
        wal.append([], HardState(4, 2, 1000), lambda _: None)
        worker.run()
    wal.append(entries(1001, 1002, term=4), None, lambda _: None)
    close(wal, worker)
    names = sorted(path.name for path in Path(directory).glob("*.wal"))
    assert names[1:] == [f"{1:016x}-{1001:016x}.wal"]
    wal, contents = reopen(OsDisk(), directory, worker, 1000, 4)
    assert [entry.index for entry in contents.entries] == [1001, 1002]
    close(wal, worker)


def test_a_snapshot_counts_though_raft_has_not_logged_its_commit(directory: str) -> None:
    """Else it would count only with the next entries, while what older snapshots need is deleted already."""
    worker = StepWorker()
    wal = create(OsDisk(), directory, worker, in_place=True)
    wal.append(entries(1, 9), HardState(1, 1, 5), refuse)
    wal.save_snapshot(SnapshotMeta(5, 1, ConfState(voters=(1,))), refuse)
    wal.save_snapshot(SnapshotMeta(6, 1, ConfState(voters=(1,))), refuse)
    close(wal, worker)
    assert [meta.index for meta in read_log(OsDisk(), directory).valid_snapshots()] == [0, 5, 6]
    wal, contents = reopen(OsDisk(), directory, worker, 6, 1)
    close(wal, worker)
    assert contents.hard_state == HardState(1, 1, 6)
    assert [entry.index for entry in contents.entries] == [7, 8, 9]


def test_a_snapshot_without_its_commit_does_not_count(directory: str) -> None:
    """The state behind it was torn off, so nobody was told that it is saved."""
    worker = StepWorker()
    wal = create(OsDisk(), directory, worker, in_place=True)
    wal.append(entries(1, 9), HardState(1, 1, 5), refuse)
    wal.save_snapshot(SnapshotMeta(6, 1, ConfState(voters=(1,))), refuse)
    end = wal._offset
    close(wal, worker)
    state: list[bytes] = []
    encode_records(RecordKind.STATE, (encode_hard_state(HardState(1, 1, 6)),), 0, state)
    size = len(b"".join(state))
    (path,) = Path(directory).glob("*.wal")
    with path.open("r+b") as file:
        file.seek(end - size)
        file.write(bytes(size))
    assert [meta.index for meta in read_log(OsDisk(), directory).valid_snapshots()] == [0]


def test_a_second_process_is_refused(directory: str) -> None:
    worker = StepWorker()
    wal = create(OsDisk(), directory, worker)
    with pytest.raises(SegmentLocked, match="locked by another process"):
        reopen(OsDisk(), directory, worker)
    close(wal, worker)
    wal, _ = reopen(OsDisk(), directory, worker)
    close(wal, worker)


def test_a_log_that_another_process_creates_is_left_to_it(directory: str) -> None:
    OsDisk().make_dirs(directory)
    other = OsDisk().open(f"{directory}/0.tmp", create=True)
    assert other.lock()
    with pytest.raises(SegmentLocked, match="locked by another process"):
        create(OsDisk(), directory, StepWorker())
    assert names(Path(directory)) == {"0.tmp"}
    other.close()
    wal = create(OsDisk(), directory, worker := StepWorker())
    close(wal, worker)


@pytest.mark.parametrize("failing", ["rename", "sync_dir", "allocate"])
def test_a_log_that_cannot_be_created_leaves_nothing_open(
    directory: str, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    opened = names(Path("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(OsFile if failing == "allocate" else OsDisk, failing, fail)
        with pytest.raises(OSError, match="broken"):
            create(OsDisk(), directory, StepWorker())
    assert names(Path("/proc/self/fd")) == opened
    assert not list(Path(directory).glob("*.tmp"))


@pytest.mark.parametrize(("path", "parent"), [("/wal", "/"), ("wal", "."), ("d/wal", "d"), ("/d/wal", "/d")])
def test_the_name_of_the_log_is_synced_where_it_stands(path: str, parent: str) -> None:
    class Recording(SimDisk):
        def sync_dir(self, directory: str) -> None:
            synced.append(directory)
            super().sync_dir(directory)

    synced: list[str] = []
    disk, worker = Recording(), StepWorker()
    close(create(disk, path, worker), worker)
    assert synced == [path, parent]
    close(reopen(disk, path, worker)[0], worker)
    assert synced == [path, parent, path, parent]


def test_a_missing_file_in_between_is_refused(directory: str) -> None:
    worker = StepWorker()
    wal = create(OsDisk(), directory, worker, in_place=True, segment_bytes=2048)
    for index in range(1, 60):
        wal.append(entries(index, index, size=40), HardState(1, 1, index), lambda _: None)
        worker.run()
    close(wal, worker)
    sorted(Path(directory).glob("*.wal"))[1].unlink()
    with pytest.raises(WalCorrupt, match="sequence 0 is missing"):
        reopen(OsDisk(), directory, worker)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operation", ["datasync", "pwrite"])
def test_a_failing_disk_is_final(operation: str, way: str) -> None:
    disk, worker = SimDisk(), StepWorker()
    in_place = way == "in place"
    wal = create(disk, "wal", worker, in_place=in_place, syncs=worker if way == "kernel" else None)
    worker.run()
    disk.fail[operation] = OSError(5, "input/output error")
    answers: list[BaseException | None] = []
    if in_place:
        with pytest.raises(WalFailed, match="input/output error"):
            wal.append(entries(1, 1), None, answers.append)
    else:
        wal.append(entries(1, 1), None, answers.append)
        wal.append(entries(2, 2), None, answers.append)
        worker.run()
        assert len(answers) == 2
        assert all(isinstance(answer, OSError) for answer in answers)
    disk.fail.clear()
    with pytest.raises(WalFailed):
        wal.append(entries(3, 3), None, answers.append)
    before = disk.steps
    wal.close()
    worker.run()
    assert disk.steps - before <= 1, "nothing is written or synced after a failure"


def test_closing_writes_what_waits(directory: str) -> None:
    worker = StepWorker()
    wal = create(OsDisk(), directory, worker)
    order: list[int] = []
    for number in range(1, 4):
        wal.append(entries(number, number), None, lambda _, number=number: order.append(number))  # type: ignore[misc]
    wal.append([], HardState(1, 1, 3), lambda _: order.append(4))
    close(wal, worker)
    assert order == [1, 2, 3, 4]
    with pytest.raises(WalFailed, match="closed"):
        wal.append(entries(4, 4), None, refuse)
    _, contents = reopen(OsDisk(), directory, worker)
    assert len(contents.entries) == 3
    assert contents.hard_state.commit == 3


def test_a_torn_tail_is_cut_and_kept_aside(directory: str) -> None:
    worker = StepWorker()
    wal = create(OsDisk(), directory, worker, in_place=True)
    wal.append(entries(1, 3), HardState(1, 1, 0), refuse)
    good = wal._offset
    wal.append(entries(4, 4, size=3000), None, refuse)
    close(wal, worker)
    path = next(Path(directory).glob("*.wal"))
    image = bytearray(path.read_bytes())
    image[1024:1536] = bytes(512)
    path.write_bytes(image)
    wal, contents = reopen(OsDisk(), directory, worker)
    assert [entry.index for entry in contents.entries] == [1, 2, 3]
    assert Path(str(path) + ".broken").read_bytes() == image
    assert not path.read_bytes()[good:].strip(b"\0")
    assert path.stat().st_size == SEGMENT
    wal.append(entries(4, 4), None, refuse)
    close(wal, worker)
    assert len(entries_of(read_records(images(directory)))) == 4


def test_damage_is_refused_with_place_and_advice(directory: str) -> None:
    worker = StepWorker()
    wal = create(OsDisk(), directory, worker, in_place=True)
    wal.append(entries(1, 30), HardState(1, 1, 0), refuse)
    close(wal, worker)
    path = next(Path(directory).glob("*.wal"))
    image = bytearray(path.read_bytes())
    image[700] ^= 4
    path.write_bytes(image)
    with pytest.raises(WalCorrupt) as caught:
        reopen(OsDisk(), directory, worker)
    assert path.name in str(caught.value)
    assert "crc mismatch" in str(caught.value)
    assert "restore" in str(caught.value)
    assert path.read_bytes() == image, "left untouched"


@pytest.mark.parametrize("bit", [12, 40, 63, 57])
def test_a_damaged_length_word_is_no_torn_write(directory: str, bit: int) -> None:
    """etcd would cut everything from there on; the record itself proves that it was once whole."""
    worker = StepWorker()
    wal = create(OsDisk(), directory, worker, in_place=True)
    wal.append(entries(1, 3), None, refuse)
    word = wal._offset
    wal.append(entries(4, 6), None, refuse)
    close(wal, worker)
    path = next(Path(directory).glob("*.wal"))
    image = bytearray(path.read_bytes())
    image[word + bit // 8] ^= 1 << bit % 8
    path.write_bytes(image)
    with pytest.raises(WalCorrupt):
        reopen(OsDisk(), directory, worker)


@pytest.mark.parametrize(("fsync", "took", "slow"), [(True, 1.5, 1), (True, 0.5, 0), (False, 1.5, 0)])
def test_syncs_are_timed_and_slow_ones_logged(
    fsync: bool, took: float, slow: int, caplog: pytest.LogCaptureFixture
) -> None:
    looks = iter(range(100))
    metrics = Metrics()
    wal = Wal.create(
        SimDisk(),
        "wal",
        METADATA,
        worker=StepWorker(),
        fsync=fsync,
        segment_bytes=SEGMENT,
        metrics=metrics,
        policy=Always(in_place=True),
        clock=lambda: next(looks) * took,
    )
    assert wal.append(entries(1, 1), None, lambda error: None)
    synced, written = metrics.wal_fsync_seconds, metrics.wal_write_seconds
    assert (synced.sum, written.sum) == ((took, 0) if fsync else (0, took))
    assert metrics.wal_write_bytes > 0
    logged = [record.fields for record in caplog.records if record.getMessage() == "slow fdatasync"]  # type: ignore[attr-defined]
    assert logged == [{"took": "1.5s", "expected-duration": "1s"}] * slow
