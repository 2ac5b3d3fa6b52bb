"""Coming back from a data directory: every state a crash can leave is accepted, anything else refused in words."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from ratifyd import schema
from ratifyd.ports import Backend
from ratifyd.raft.confstate import decode_conf_state_json, encode_conf_state_json
from ratifyd.raft.messages import ConfState, Entry, EntryKind, HardState, Snapshot, SnapshotMeta
from ratifyd.storage.disk import OsDisk, OsFile
from ratifyd.storage.lmdb import BackendInUse, LmdbBackend
from ratifyd.storage.lmdbcheck import BackendOfEtcd, check_backend
from ratifyd.storage.recover import (
    DataDir,
    DataDirInUse,
    Recovered,
    RecoveryRefused,
    lock_data_dir,
    recover,
)
from ratifyd.storage.snapshots import SnapshotFiles, SnapshotStore, received_name
from ratifyd.storage.wal import Wal
from ratifyd.storage.walread import LogReading, SegmentLocked, WalContents, WalCorrupt, read_log
from simulation.backend import BackendFiles
from simulation.disk import Crashed, SimDisk, StepWorker

METADATA = b"\x08\x01\x10\x02"
ONE = ConfState(voters=(1,))
THREE = ConfState(voters=(1, 2, 3))
FIRST = [Entry(1, 1, b"conf", EntryKind.CONF_CHANGE)]


class Member:
    """The files of one member, and the jobs of its workers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.disk = OsDisk()
        self.dir = DataDir(str(path / "data"))
        self.worker = StepWorker()
        self.lock = lock_data_dir(self.disk, self.dir)

    def open_backend(self, path: str) -> Backend:
        return LmdbBackend(path, worker=self.worker, map_bytes=1 << 30)

    def open_wal(self, directory: str, start: SnapshotMeta, reading: LogReading) -> tuple[Wal, WalContents]:
        return Wal.open(
            self.disk,
            directory,
            snapshot_index=start.index,
            snapshot_term=start.term,
            reading=reading,
            worker=self.worker,
            segment_bytes=8192,
        )

    def create_wal(self) -> Wal:
        return Wal.create(
            self.disk,
            self.dir.wal,
            METADATA,
            worker=self.worker,
            segment_bytes=8192,
            entries=FIRST,
            hard_state=HardState(1, 0, 1),
        )

    def recover(self) -> Recovered:
        return recover(self.disk, self.dir, open_backend=self.open_backend, open_wal=self.open_wal)

    def commit(self, backend: Backend, index: int, conf: ConfState = ONE, term: int = 1) -> None:
        meta: dict[bytes, bytes | None] = {
            schema.CONSISTENT_INDEX: schema.encode_u64(index),
            schema.TERM: schema.encode_u64(term),
            schema.CONF_STATE: encode_conf_state_json(conf),
        }
        answers: list[BaseException | None] = []
        backend.commit({schema.META: meta}, answers.append)
        self.worker.run()
        assert answers == [None]

    def stop(self, wal: Wal | None, backend: Backend | None) -> None:
        if wal is not None:
            wal.close()
        self.worker.run()
        if backend is not None:
            backend.close()

    def life(self, last: int, *, applied: int, snapshot: int = 0, conf: ConfState = ONE) -> None:
        """A member that logged up to `last` and stopped."""
        backend = self.open_backend(self.dir.backend)
        wal = self.create_wal()
        entries = [Entry(1, index, b"e%d" % index) for index in range(2, last + 1)]
        wal.append(entries, HardState(1, 1, last), lambda _: None)
        self.commit(backend, applied, conf)
        if snapshot:
            self.snapshot(wal, snapshot, conf)
        self.stop(wal, backend)

    def snapshot(self, wal: Wal | None, index: int, conf: ConfState) -> None:
        meta = SnapshotMeta(index, 1, conf)
        SnapshotFiles(self.disk, self.dir.snap).save(Snapshot(meta, b"v2 of %d" % index))
        if wal is not None:
            wal.save_snapshot(meta, lambda _: None)
            self.worker.run()


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path)


def test_a_new_member(member: Member) -> None:
    found = member.recover()
    assert found.fresh
    assert found.wal is None
    member.stop(None, found.backend)
    # Bootstrap was cut short before the log appeared: still new.
    member.disk.make_dirs(member.dir.wal)
    Path(member.dir.wal, "0.tmp").write_bytes(b"half a log")
    found = member.recover()
    assert found.fresh
    member.stop(member.create_wal(), found.backend)
    assert [path.suffix for path in Path(member.dir.wal).iterdir()] == [".wal"]
    found = member.recover()
    assert not found.fresh
    assert list(found.entries) == FIRST
    assert found.hard_state == HardState(1, 0, 1)
    assert (found.metadata, found.applied, found.consistent_index) == (METADATA, 0, 0)
    assert found.conf_state == ConfState()
    member.stop(found.wal, found.backend)


def test_the_log_is_ahead_of_the_backend(member: Member) -> None:
    member.life(9, applied=4)
    found = member.recover()
    assert [entry.index for entry in found.entries] == list(range(1, 10))
    assert (found.applied, found.consistent_index, found.term) == (4, 4, 1)
    assert found.conf_state == ONE
    assert found.hard_state.commit == 9
    member.stop(found.wal, found.backend)


def test_what_is_applied_is_committed(member: Member) -> None:
    """The commit index is logged without a sync, so a crash may take it back behind the backend."""
    backend, wal = member.open_backend(member.dir.backend), member.create_wal()
    wal.append([Entry(1, index, b"e") for index in range(2, 8)], HardState(1, 1, 1), lambda _: None)
    member.commit(backend, 6)
    member.stop(wal, backend)
    found = member.recover()
    assert found.hard_state == HardState(1, 1, 6)
    member.stop(found.wal, found.backend)


def test_from_the_newest_snapshot_the_log_names(member: Member) -> None:
    member.life(9, applied=7, snapshot=5, conf=THREE)
    member.snapshot(None, 8, THREE)  # the crash came before its record
    found = member.recover()
    assert found.snapshot == Snapshot(SnapshotMeta(5, 1, THREE), b"v2 of 5")
    assert [entry.index for entry in found.entries] == [6, 7, 8, 9]
    assert (found.applied, found.conf_state) == (7, THREE)
    member.stop(found.wal, found.backend)


def test_a_broken_snapshot_is_set_aside_for_an_older_one(member: Member) -> None:
    member.life(9, applied=9, snapshot=5)
    wal, _ = member.open_wal(member.dir.wal, SnapshotMeta(5, 1), read_log(member.disk, member.dir.wal))
    member.snapshot(wal, 7, ONE)
    member.stop(wal, None)
    path = Path(member.dir.snap, SnapshotFiles(member.disk, member.dir.snap).names()[-1])
    path.write_bytes(path.read_bytes()[:-1])
    found = member.recover()
    assert found.snapshot.meta.index == 5
    assert Path(f"{path}.broken").exists()
    member.stop(found.wal, found.backend)


def test_without_its_log_a_member_is_refused(member: Member) -> None:
    member.life(5, applied=5)
    shutil.rmtree(member.dir.wal)
    with pytest.raises(RecoveryRefused, match=r"applied up to index 5.*--wal-dir"):
        member.recover()


def test_a_backend_older_than_the_snapshot_is_refused(member: Member) -> None:
    member.life(9, applied=3, snapshot=5)
    with pytest.raises(RecoveryRefused, match="older than the snapshot at index 5"):
        member.recover()


def test_a_received_backend_is_taken_over(member: Member) -> None:
    """Snapshot received and logged; the crash came before the backend was renamed."""
    member.life(9, applied=3, snapshot=5, conf=THREE)
    received = member.open_backend(f"{member.dir.snap}/{received_name(5)}")
    member.commit(received, 5, THREE)
    received.close()
    found = member.recover()
    assert (found.applied, found.consistent_index) == (5, 5)
    assert not [path for path in Path(member.dir.snap).iterdir() if ".snap.db" in path.name]
    member.stop(found.wal, found.backend)


def test_a_received_backend_nobody_logged_is_dropped(member: Member) -> None:
    member.life(9, applied=7, snapshot=5)
    for name in (received_name(30), "tmp123", "db.tmp.defrag"):
        Path(member.dir.snap, name).write_bytes(b"partial")
    found = member.recover()
    assert found.applied == 7
    names = {path.name for path in Path(member.dir.snap).iterdir()}
    assert names == {"db", "db-lock", "0000000000000001-0000000000000005.snap"}
    member.stop(found.wal, found.backend)


LEFTOVERS = ("wal/0.tmp", "wal/1.tmp", "snap/tmp123", "snap/db.tmp.defrag", f"snap/{received_name(30)}")


def leave_behind(member: Member) -> set[str]:
    """What a killed process may leave; all file names then."""
    for name in LEFTOVERS:
        Path(member.dir.member, name).write_bytes(b"partial")
    return names(member)


def names(member: Member) -> set[str]:
    return {str(path.relative_to(member.dir.member)) for path in Path(member.dir.member).rglob("*")}


@contextmanager
def locked(pattern: str, directory: str) -> Iterator[None]:
    """Another process has the files."""
    files = [OsDisk().open(str(path)) for path in Path(directory).glob(pattern)]
    assert files and all(file.lock() for file in files)
    yield
    for file in files:
        file.close()


def test_nothing_is_removed_while_another_process_has_the_log(member: Member) -> None:
    """Without its preallocated file, it would end where the next one begins."""
    member.life(9, applied=7, snapshot=5)
    unreadable = Path(member.dir.snap, f"{1:016x}-{8:016x}.snap")
    unreadable.write_bytes(b"half")
    before = leave_behind(member)
    with locked("*.wal", member.dir.wal), pytest.raises(SegmentLocked, match=r"Stop that one.*--wal-dir"):
        member.recover()
    assert names(member) == before
    with locked("?.tmp", member.dir.wal), pytest.raises(SegmentLocked, match=r"Stop that one.*--wal-dir"):
        member.recover()
    assert {name for name in names(member) if name.startswith("wal")} == {
        name for name in before if name.startswith("wal")
    }
    member.worker.run()
    found = member.recover()
    member.stop(found.wal, found.backend)
    assert not names(member) & set(LEFTOVERS)


@pytest.mark.parametrize("logged", [True, False])
def test_nothing_is_removed_beside_a_backend_of_etcd(member: Member, logged: bool) -> None:
    member.life(9, applied=7)
    if not logged:
        shutil.rmtree(member.dir.wal)
        member.disk.make_dirs(member.dir.wal)
    Path(member.dir.backend).write_bytes(bytes(16) + bytes.fromhex("edda0ced") + bytes(4096))
    before = leave_behind(member)

    def open_backend(path: str) -> Backend:
        check_backend(path)
        return member.open_backend(path)

    with pytest.raises(BackendOfEtcd, match="was not changed"):
        recover(member.disk, member.dir, open_backend=open_backend, open_wal=member.open_wal)
    assert names(member) == before


def test_a_log_that_was_read_can_be_written_by_nobody_else(member: Member) -> None:
    """What was read would not be all of it any more."""
    member.life(9, applied=7)

    def open_backend(path: str) -> Backend:
        with pytest.raises(SegmentLocked):
            member.open_wal(member.dir.wal, SnapshotMeta(), read_log(member.disk, member.dir.wal))
        return member.open_backend(path)

    found = recover(member.disk, member.dir, open_backend=open_backend, open_wal=member.open_wal)
    member.stop(found.wal, found.backend)


def test_the_log_is_synced_before_a_backend_takes_anothers_place(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process may have left the snapshot's record to the kernel."""
    member.life(9, applied=3, snapshot=5, conf=THREE)
    received = member.open_backend(f"{member.dir.snap}/{received_name(5)}")
    member.commit(received, 5, THREE)
    received.close()
    done: list[str] = []

    class Recording(OsDisk):
        def rename(self, old: str, new: str) -> None:
            done.append("rename")
            super().rename(old, new)

        def remove(self, path: str) -> None:
            done.append("remove")
            super().remove(path)

        def sync_dir(self, directory: str) -> None:
            done.append(f"sync {Path(directory).name}")
            super().sync_dir(directory)

    def datasync(file: OsFile) -> None:
        done.append("sync segment")
        original(file)

    original = OsFile.datasync
    monkeypatch.setattr(OsFile, "datasync", datasync)
    member.disk = Recording()
    found = member.recover()
    member.stop(found.wal, found.backend)
    assert done[:5] == ["sync segment", "sync wal", "sync member", "rename", "sync snap"]


def test_a_power_failure_while_a_received_backend_is_taken_over() -> None:
    """Entries that never committed must not count as committed because the backend is ahead of them."""
    outcomes = set()
    for step in range(12):
        for seed in range(6):
            disk = SimDisk()
            backends = BackendFiles(disk)
            _killed_while_recording_a_snapshot(disk, backends)
            disk.crash_at = disk.steps + step
            try:
                _start(disk, backends)
            except Crashed:
                outcomes.add("in between")
            disk.crash(Random(seed))
            found = _start(disk, backends)
            outcomes.add((found.snapshot.meta.index, found.hard_state.commit, found.applied))
    assert outcomes == {"in between", (0, 5, 5), (20, 20, 20)}


def _start(disk: SimDisk, backends: BackendFiles) -> Recovered:
    worker = StepWorker()

    def open_wal(path: str, start: SnapshotMeta, reading: LogReading) -> tuple[Wal, WalContents]:
        return Wal.open(
            disk,
            path,
            snapshot_index=start.index,
            snapshot_term=start.term,
            reading=reading,
            worker=worker,
            segment_bytes=4096,
        )

    return recover(disk, DataDir("d"), open_backend=lambda path: backends.open(path, worker), open_wal=open_wal)


def _killed_while_recording_a_snapshot(disk: SimDisk, backends: BackendFiles) -> None:
    """A member of three, with entries of an old term, of which half are committed."""
    worker, directory = StepWorker(), DataDir("d")
    lock_data_dir(disk, directory)

    def rows(index: int) -> dict[bytes, dict[bytes, bytes | None]]:
        stored: dict[bytes, bytes | None] = {
            schema.CONSISTENT_INDEX: schema.encode_u64(index),
            schema.TERM: schema.encode_u64(3),
            schema.CONF_STATE: encode_conf_state_json(THREE),
        }
        return {schema.META: stored}

    for path, index in ((directory.backend, 5), (f"{directory.snap}/{received_name(20)}", 20)):
        backends.create(path, rows(index), worker)
        disk.open(path).datasync()
    wal = Wal.create(
        disk,
        directory.wal,
        METADATA,
        worker=worker,
        segment_bytes=4096,
        entries=[Entry(2, index, b"old") for index in range(1, 11)],
        hard_state=HardState(2, 0, 5),
    )
    meta = SnapshotMeta(20, 3, THREE)
    SnapshotFiles(disk, directory.snap).save(Snapshot(meta, b""))
    worker.run()
    disk.crash_at = disk.steps + 1  # written, not synced
    with pytest.raises(Crashed):
        wal.save_snapshot(meta, lambda _: None)
        worker.run()
    disk.abandon()


def test_a_single_member_with_a_shortened_log_is_refused(member: Member) -> None:
    member.life(5, applied=5)
    backend = member.open_backend(member.dir.backend)
    member.commit(backend, 8)
    backend.close()
    with pytest.raises(RecoveryRefused, match=r"ends at index 5.*applied index 8"):
        member.recover()


@pytest.mark.parametrize("key", [schema.CONF_STATE, schema.TERM, schema.CONSISTENT_INDEX])
def test_a_refusal_leaves_nothing_open(member: Member, key: bytes) -> None:
    """Else the next attempt of this process would hear that its files are in use."""
    member.life(5, applied=5)
    backend = member.open_backend(member.dir.backend)
    backend.commit({schema.META: {key: b"odd"}}, lambda _: None)
    member.worker.run()
    backend.close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        with pytest.raises(RecoveryRefused, match="is unreadable: b'odd'"):
            member.recover()
        member.worker.run()
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_failure_after_the_backend_was_opened_closes_it(member: Member) -> None:
    member.life(5, applied=5)
    opened: list[Backend] = []

    class Failing(OsDisk):
        def list(self, path: str) -> list[str]:
            if path == member.dir.snap and opened:
                raise OSError(5, "the disk is broken")
            return super().list(path)

    def open_backend(path: str) -> Backend:
        opened.append(member.open_backend(path))
        return opened[-1]

    with pytest.raises(OSError, match="the disk is broken"):
        recover(Failing(), member.dir, open_backend=open_backend, open_wal=member.open_wal)
    member.open_backend(member.dir.backend).close()


def test_a_received_backend_may_be_ahead_of_the_log_in_a_cluster(member: Member) -> None:
    """etcd sends a backend that may be newer than the snapshot beside it; the leader sends the entries in between."""
    member.life(5, applied=5, snapshot=5, conf=THREE)
    backend = member.open_backend(member.dir.backend)
    member.commit(backend, 8, THREE)
    backend.close()
    found = member.recover()
    assert (found.applied, found.consistent_index) == (5, 8)
    assert found.hard_state.commit == 5
    member.stop(found.wal, found.backend)


def test_damage_leaves_nothing_locked(member: Member) -> None:
    member.life(9, applied=9)
    path = next(Path(member.dir.wal).glob("*.wal"))
    good = path.read_bytes()
    path.write_bytes(good[:60] + bytes((good[60] ^ 1,)) + good[61:])
    with pytest.raises(WalCorrupt):
        member.recover()
    path.write_bytes(good)
    found = member.recover()
    assert found.applied == 9
    member.stop(found.wal, found.backend)


def test_a_second_process_is_refused_by_name(member: Member) -> None:
    with pytest.raises(DataDirInUse, match=str(member.path)):
        lock_data_dir(member.disk, member.dir)
    backend = member.open_backend(member.dir.backend)
    with pytest.raises(BackendInUse):
        member.open_backend(member.dir.backend)
    backend.close()
    member.lock.close()
    lock_data_dir(member.disk, member.dir).close()


def test_the_log_may_live_elsewhere(tmp_path: Path) -> None:
    member = Member(tmp_path)
    member.dir = DataDir(str(tmp_path / "data"), str(tmp_path / "fast" / "wal"))
    member.lock.close()
    member.lock = lock_data_dir(member.disk, member.dir)
    member.life(4, applied=2)
    assert list((tmp_path / "fast" / "wal").glob("*.wal"))
    assert not (tmp_path / "data" / "member" / "wal").exists()
    found = member.recover()
    assert len(found.entries) == 4
    member.stop(found.wal, found.backend)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (ConfState(voters=(1, 18446744073709551615)), b'{"voters":[1,18446744073709551615],"auto_leave":false}'),
        (
            ConfState((1,), (2,), (3,), (4,), True),
            b'{"voters":[1],"learners":[2],"voters_outgoing":[3],"learners_next":[4],"auto_leave":true}',
        ),
    ],
)
def test_membership_record(state: ConfState, text: bytes) -> None:
    assert encode_conf_state_json(state) == text
    assert decode_conf_state_json(text) == state


def test_membership_record_of_other_releases() -> None:
    assert decode_conf_state_json(b'{"voters":[7],"learners":null}') == ConfState(voters=(7,))
    refusals: list[Callable[[], ConfState]] = [
        lambda: decode_conf_state_json(b"[]"),
        lambda: decode_conf_state_json(b'{"voters":["x"]}'),
        lambda: decode_conf_state_json(b"{"),
    ]
    for refusal in refusals:
        with pytest.raises(ValueError):
            refusal()


def test_snapshots_are_purged_oldest_first(member: Member) -> None:
    files = SnapshotFiles(member.disk, member.dir.snap)
    for term, index in ((1, 5), (1, 20), (2, 12)):
        files.save(Snapshot(SnapshotMeta(index, term, ONE), b"x"))
    files.purge(2, SnapshotMeta(12, 2))
    assert files.names() == [f"{1:016x}-{20:016x}.snap", f"{2:016x}-{12:016x}.snap"]


def test_a_snapshot_that_a_start_passes_over_never_counts(member: Member) -> None:
    """Power was lost when the log had its record, not yet the commit behind it. Its backend is not kept."""
    three = ConfState(voters=(1, 2, 3))
    member.life(50, applied=50, conf=three)
    found = member.recover()
    assert found.wal is not None
    meta = SnapshotMeta(100, 1, three)
    SnapshotFiles(member.disk, member.dir.snap).save(Snapshot(meta, b"v2"))
    state, found.wal._state = found.wal._state, None
    found.wal.save_snapshot(meta, lambda _: None)
    member.worker.run()
    found.wal._state = state
    received = member.open_backend(f"{member.dir.snap}/{received_name(100)}")
    member.commit(received, 100, three)
    received.close()
    member.stop(found.wal, found.backend)
    found = member.recover()
    assert found.wal is not None and found.snapshot.meta.index == 0
    found.wal.append([Entry(1, index, b"") for index in range(51, 151)], HardState(1, 1, 150), lambda _: None)
    member.commit(found.backend, 60, three)
    member.stop(found.wal, found.backend)
    found = member.recover()
    assert (found.applied, found.hard_state.commit, found.entries[-1].index) == (60, 150, 150)
    member.stop(found.wal, found.backend)


def test_one_that_the_log_does_not_name_pushes_out_no_other(member: Member) -> None:
    """Killed between the file and its record, with --max-snapshots 1."""
    files = SnapshotFiles(member.disk, member.dir.snap)
    member.life(20, applied=20)
    member.snapshot(None, 100, ONE)
    found = member.recover()
    assert found.wal is not None and not files.names()
    store = SnapshotStore(files, found.wal, member.worker, keep_files=1, keep_segments=1)
    told: list[BaseException | None] = []
    store.save(Snapshot(SnapshotMeta(20, 1, ONE), b"v2"), told.append)
    member.worker.run()
    member.snapshot(None, 100, ONE)  # and again, while this one is recorded
    store.release(20)
    member.worker.run()
    assert told == [None]
    member.stop(found.wal, found.backend)
    found = member.recover()
    assert (found.snapshot.meta.index, found.applied) == (20, 20)
    member.stop(found.wal, found.backend)
