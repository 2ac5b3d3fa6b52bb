"""Files of the machine, and the simulated disk that must behave alike."""

import fcntl
from pathlib import Path
from random import Random

import pytest

from ratifyd.ports import Disk
from ratifyd.storage import disk as disks
from ratifyd.storage.disk import OsDisk
from simulation.disk import SimDisk


@pytest.fixture(params=["os", "sim"])
def disk(request: pytest.FixtureRequest) -> Disk:
    return OsDisk() if request.param == "os" else SimDisk()


def test_files(disk: Disk, tmp_path: Path) -> None:
    base = f"{tmp_path}/a/b"
    disk.make_dirs(base)
    disk.make_dirs(base)
    file = disk.open(f"{base}/f", create=True)
    file.pwrite(b"hello", 3)
    assert file.pread(100, 0) == b"\0\0\0hello"
    file.allocate(100)
    assert file.size() == 100
    file.truncate(5)
    assert file.pread(100, 0) == b"\0\0\0he"
    file.datasync()
    assert file.lock()
    assert not disk.open(f"{base}/f").lock()
    file.close()
    again = disk.open(f"{base}/f")
    assert again.lock()
    again.close()
    disk.rename(f"{base}/f", f"{base}/g")
    disk.sync_dir(base)
    assert disk.list(base) == ["g"]
    assert disk.exists(f"{base}/g")
    assert not disk.exists(f"{base}/f")
    with pytest.raises(FileNotFoundError):
        disk.open(f"{base}/f")
    disk.remove(f"{base}/g")
    assert disk.list(base) == []
    assert disk.list(f"{base}/never") == []
    assert disk.free_bytes(str(tmp_path)) > 0


def test_files_are_locked_as_etcd_locks_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With locks of open files, which record locks of processes respect, unlike flock."""
    path = str(tmp_path / "f")
    for kind, respected in ((None, True), (-1, False)):
        if kind is not None:
            monkeypatch.setattr(disks, "_OFD_SETLK", kind)  # as where the kernel has none
        file, other, stranger = (OsDisk().open(path, create=True) for _ in range(3))
        assert file.lock() and not other.lock()
        if respected:
            with pytest.raises(BlockingIOError):
                fcntl.lockf(stranger.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.close()
        assert other.lock()
        other.close()
        stranger.close()


def test_modes_are_private(tmp_path: Path) -> None:
    OsDisk().make_dirs(str(tmp_path / "x" / "y"))
    OsDisk().open(str(tmp_path / "x" / "y" / "f"), create=True).close()
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "x" / "y" / "f").stat().st_mode & 0o777 == 0o600


def test_large_reads_and_synced_writes_are_whole(tmp_path: Path) -> None:
    file = OsDisk().open(str(tmp_path / "f"), create=True)
    data = Random(1).randbytes(3_000_000)
    file.pwrite_datasync((data,), 10)
    assert file.pread(4_000_000, 10) == data
    for count in (3, 5000):
        chunks = [data[at : at + 100] for at in range(count)]
        file.pwrite_datasync(chunks, 7)
        assert file.pread(100 * count, 7) == b"".join(chunks)
    file.close()
    file.close()


def test_a_crash_loses_only_what_was_not_synced() -> None:
    lost = 0
    for seed in range(40):
        disk = SimDisk()
        disk.make_dirs("d")
        file = disk.open("d/f", create=True)
        file.pwrite(b"A" * 2048, 0)
        file.datasync()
        disk.sync_dir("")
        disk.sync_dir("d")
        file.pwrite(b"B" * 2048, 0)
        disk.open("d/new", create=True)
        disk.crash(Random(seed))
        image = disk.open("d/f").pread(4096, 0)
        sectors = [image[start : start + 512] for start in range(0, 2048, 512)]
        assert all(sector in (b"A" * 512, b"B" * 512) for sector in sectors)
        lost += not disk.exists("d/new")
    assert 0 < lost < 40
