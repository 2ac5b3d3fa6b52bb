"""Syncs by the kernel, on real files: they happen, they are told of on the loop, and their errors have names."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from ratifyd.raft.messages import Entry
from ratifyd.storage.disk import OsDisk, OsFile
from ratifyd.storage.kernelsync import KernelSyncs, kernel_syncs
from ratifyd.storage.syncpolicy import SyncPolicy
from ratifyd.storage.wal import Wal
from ratifyd.storage.worker import ThreadWorker

pytestmark = pytest.mark.skipif(os.uname().sysname != "Linux", reason="Linux has them")


def have_synced(file: OsFile) -> list[BaseException | None]:
    """Sync a file twice, one after the other; what was told."""

    async def main() -> list[BaseException | None]:
        loop = asyncio.get_running_loop()
        syncs = KernelSyncs(loop)
        told = []
        for _ in range(2):
            done: asyncio.Future[BaseException | None] = loop.create_future()
            syncs.begin(file, done.set_result)
            assert not done.done()
            told.append(await asyncio.wait_for(done, 10))
        syncs.close()
        return told

    return asyncio.run(main())


def test_a_sync_is_told_of_on_the_loop(tmp_path: Path) -> None:
    file = OsDisk().open(str(tmp_path / "file"), create=True)
    file.pwrite(b"x" * 100_000, 0)
    assert have_synced(file) == [None, None]


def test_a_failed_sync_names_the_file(tmp_path: Path) -> None:
    """A pipe cannot be synced; the kernel says so when asked."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    file = OsDisk().open(str(path))
    with pytest.raises(OSError, match="pipe") as caught:
        have_synced(file)
    assert caught.value.errno == errno.EINVAL


def test_a_file_that_is_closed_is_refused(tmp_path: Path) -> None:
    file = OsDisk().open(str(tmp_path / "file"), create=True)
    file.close()
    with pytest.raises(OSError, match="file") as caught:
        have_synced(file)
    assert caught.value.errno == errno.EBADF


def test_where_there_is_no_such_thing_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")

    async def main() -> KernelSyncs | None:
        return kernel_syncs(asyncio.get_running_loop())

    assert asyncio.run(main()) is None


class NeverInPlace(SyncPolicy):
    def in_place(self, size: int) -> bool:
        return False


def test_a_log_on_a_real_disk_answers_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker, syncs = ThreadWorker(loop), KernelSyncs(loop)
        path = str(tmp_path / "wal")
        wal = Wal.create(
            OsDisk(), path, b"\x08\x01", worker=worker, syncs=syncs, segment_bytes=8192, policy=NeverInPlace()
        )
        order: list[int] = []
        for index in range(1, 301):
            assert not wal.append(
                [Entry(1, index, b"%d" % index * 30)], None, lambda _, index=index: order.append(index)
            )  # type: ignore[misc]
            if index % 7 == 0:
                await asyncio.sleep(0)
        closed: asyncio.Future[BaseException | None] = loop.create_future()
        wal.close(closed.set_result)
        assert await asyncio.wait_for(closed, 10) is None
        syncs.close()
        await worker.close()
        assert order == list(range(1, 301))
        worker = ThreadWorker(loop)
        wal, contents = Wal.open(OsDisk(), path, snapshot_index=0, snapshot_term=0, worker=worker)
        assert [entry.index for entry in contents.entries] == order
        wal.close()
        await worker.close()

    asyncio.run(main())
