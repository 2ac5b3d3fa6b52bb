"""What operators are told when the disk fails."""

import errno
import os
from pathlib import Path

import lmdb
import pytest

from ratifyd.ports import Undone
from ratifyd.storage import lmdb as backends
from ratifyd.storage.disk import OsDisk
from ratifyd.storage.failures import explain
from ratifyd.storage.lmdb import MAX_VIEWS, BackendBroken, LmdbBackend
from ratifyd.storage.wal import WalFailed
from ratifyd.storage.walread import repair
from ratifyd.storage.walsegments import SegmentWriter
from ratifyd.storage.worker import SoonWorker


def at_once(callback: object, *args: object) -> None:
    callback(*args)  # type: ignore[operator]


def open_backend(directory: Path) -> LmdbBackend:
    return LmdbBackend(str(directory / "db"), worker=SoonWorker(at_once), fsync=False)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "free space"),
        (errno.EROFS, "make it writable"),
        (errno.EIO, "dmesg"),
        (errno.EACCES, "needs to own"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_the_words_name_the_file_and_say_what_to_do(number: int, advice: str) -> None:
    text = explain(OSError(number, "whatever", "/data/member/wal/1.wal"))
    assert text is not None
    assert text.startswith(f"/data/member/wal/1.wal: {os.strerror(number)}: ")
    assert advice in text


def test_the_cause_counts() -> None:
    failed = WalFailed("the disk failed")
    failed.__cause__ = OSError(errno.ENOSPC, "full", "/data")
    assert "free space" in (explain(failed) or "")


@pytest.mark.parametrize("error", [None, AssertionError("bug"), ConnectionResetError(errno.ECONNRESET, "gone")])
def test_what_is_not_the_disk_is_not_explained(error: BaseException | None) -> None:
    assert explain(error) is None


def test_errors_of_open_files_name_them_as_they_are_called_now(tmp_path: Path) -> None:
    disk = OsDisk()
    file = disk.open(str(tmp_path / "old"), create=True)
    disk.rename(str(tmp_path / "old"), str(tmp_path / "new"))
    with pytest.raises(OSError) as failed:
        file.truncate(-1)
    assert failed.value.filename == str(tmp_path / "new")
    file.close()


@pytest.mark.parametrize(
    ("text", "kind", "number"),
    [
        ("mdb_txn_commit: No space left on device", OSError, errno.ENOSPC),
        ("mdb_txn_commit: Input/output error", OSError, errno.EIO),
        ("mdb_get: MDB_CORRUPTED: Located page was wrong type", BackendBroken, None),
    ],
)
def test_errors_of_lmdb_are_told_apart(tmp_path: Path, text: str, kind: type[Exception], number: int | None) -> None:
    error = backends._failure(lmdb.Error(text), str(tmp_path / "db"))
    assert isinstance(error, kind)
    assert getattr(error, "errno", None) == number
    assert str(tmp_path / "db") in str(error)


def test_an_io_error_on_a_full_disk_is_that_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_FULL_BYTES", 1 << 62)
    error = backends._failure(lmdb.Error("mdb_txn_commit: Input/output error"), str(tmp_path / "db"))
    assert isinstance(error, OSError) and error.errno == errno.ENOSPC


def test_the_table_of_readers_has_its_blocks(tmp_path: Path) -> None:
    backend = open_backend(tmp_path)
    lock = (tmp_path / "db-lock").stat()
    assert lock.st_blocks * 512 >= lock.st_size >= MAX_VIEWS * 64
    backend.close()


def test_a_defragmentation_that_fails_leaves_nothing_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_backend(tmp_path)
    answers: list[BaseException | None] = []

    def full(_file: object, path: str) -> None:
        Path(path).write_bytes(b"half a copy")
        raise OSError(errno.ENOSPC, "full", path)

    with monkeypatch.context() as patch:
        patch.setattr(backends._LmdbFile, "copy_to", full)
        backend.defragment(answers.append)
    assert isinstance(answers[0], Undone) and "free space" in str(answers[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db", "db-lock"]
    backend.commit({b"key": {b"k": b"v"}}, answers.append)
    backend.defragment(answers.append)
    assert answers[1:] == [None, None]
    assert backend.get(b"key", b"k") == b"v"
    backend.close()


def test_a_file_that_cannot_be_preallocated_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, log = OsDisk(), str(tmp_path / "wal")
    writer = SegmentWriter.create(disk, log, b"head", fsync=False, segment_bytes=4096)

    def full(fd: int, _offset: int, _size: int) -> None:
        os.pwrite(fd, b"half", 0)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="full"):
        writer.prepare_spare()
    assert [name for name in disk.list(log) if name.endswith(".tmp")] == []
    writer.close()


def test_the_copy_of_a_repaired_file_has_holes(tmp_path: Path) -> None:
    path = tmp_path / "1.wal"
    path.write_bytes(b"a" * 5000)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 8 << 20)
    before = path.read_bytes()
    repair(OsDisk(), str(path), 3000)
    copy = tmp_path / "1.wal.broken"
    assert copy.read_bytes() == before
    assert copy.stat().st_blocks * 512 <= 2 << 20
    assert path.read_bytes() == before[:3000]
