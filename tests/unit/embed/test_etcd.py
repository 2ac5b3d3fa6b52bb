"""`Etcd`: starting, stopping and failing, with real files, threads and sockets."""

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest

from ratifyd.config import Config
from ratifyd.embed.etcd import Etcd, StartError
from ratifyd.mvcc.store import Store
from ratifyd.net.connection import Acceptor
from ratifyd.ports import Done
from ratifyd.raft.messages import Snapshot
from ratifyd.storage.lmdb import _LmdbFile
from ratifyd.storage.snapshots import SaveTimes, SnapshotFiles
from ratifyd.storage.wal import Wal


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, 20)

    asyncio.run(bounded())


def config(path: Path, **options: Any) -> Config:
    return Config(
        **{
            "data_dir": str(path / "data"),
            "listen_client_urls": (f"unix://{path}/client",),
            "advertise_client_urls": (f"unix://{path}/client",),
            "listen_peer_urls": (f"unix://{path}/peer",),
            "initial_cluster": "default=http://localhost:2380",
            "unsafe_no_fsync": True,
            **options,
        }
    )


def test_start_serve_and_stop(tmp_path: Path) -> None:
    async def work() -> None:
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        assert etcd.server.is_leader
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "client"))
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await etcd.stop()
        assert await etcd.wait() is None
        assert not (tmp_path / "client").exists()
        await etcd.stop()  # again does nothing
        writer.close()

    run(work())


def test_a_stop_whose_caller_is_cancelled_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls meanwhile waits for the same end, after which nothing is held any more."""

    async def work() -> None:
        waiting, go_on = asyncio.Event(), asyncio.Event()

        async def drained(_acceptor: Acceptor, _timeout_s: float) -> bool:
            waiting.set()
            return await go_on.wait()

        monkeypatch.setattr(Acceptor, "drained", drained)
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        first, second = asyncio.create_task(etcd.stop()), asyncio.create_task(etcd.stop())
        await asyncio.wait_for(waiting.wait(), 5)
        first.cancel()
        await asyncio.wait((first,))
        assert first.cancelled()
        third = asyncio.create_task(etcd.stop())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not second.done(), "it came while the first was under way"
        assert not third.done(), "the stop is not over"
        go_on.set()
        await asyncio.wait_for(asyncio.gather(second, third), 5)
        assert await asyncio.wait_for(etcd.wait(), 1) is None
        again = Etcd(config(tmp_path))
        await again.start()
        await again.stop()

    run(work())


def test_a_stopped_member_leaves_nothing_in_memory(tmp_path: Path) -> None:
    thresholds = gc.get_threshold()

    async def work() -> "weakref.ref[Etcd]":
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        await etcd.stop()
        return weakref.ref(etcd)

    gone = asyncio.run(asyncio.wait_for(work(), 20))
    gc.collect()
    assert gone() is None
    assert gc.get_threshold() == thresholds


@pytest.mark.parametrize("hang_up", ["close", "reset"])
def test_a_hash_whose_caller_hangs_up_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang_up: str) -> None:
    """It would hold up compactions for nobody."""

    async def work() -> None:
        begun, dropped = asyncio.Event(), asyncio.Event()

        def endless(_store: Store, _revision: int) -> Generator[int, None, None]:
            begun.set()
            try:
                while True:
                    yield 0
            finally:
                dropped.set()

        monkeypatch.setattr(Store, "hash_kv", endless)
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        try:
            _, writer = await asyncio.open_unix_connection(str(tmp_path / "peer"))
            writer.write(b"GET /members/hashkv HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
            await asyncio.wait_for(begun.wait(), 5)
            assert etcd.server.hashes_running == 1
            (writer.transport.abort if hang_up == "reset" else writer.close)()
            await asyncio.wait_for(dropped.wait(), 5)
            assert not etcd.server.hashes_running
        finally:
            await etcd.stop()

    run(work())


def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    async def work() -> None:
        for life in range(3):
            etcd = Etcd(config(tmp_path))
            await etcd.start()
            with etcd.server.store.write() as txn:  # as apply does; nothing else is under way
                txn.put(b"k", b"%d" % life)
            assert etcd.server.store.revision == life + 2
            await etcd.stop()

    run(work())


def test_a_second_member_on_the_same_directory(tmp_path: Path) -> None:
    async def work() -> None:
        first = Etcd(config(tmp_path))
        await first.start()
        second = Etcd(
            config(tmp_path, listen_client_urls=(f"unix://{tmp_path}/c2",), listen_peer_urls=(f"unix://{tmp_path}/p2",))
        )
        with pytest.raises(StartError, match="in use by another process"):
            await second.start()
        await second.stop()
        assert first.server.is_leader
        await first.stop()

    run(work())


@pytest.mark.parametrize(("made", "slash"), [("directory", ""), ("", "/"), ("directory", "//"), ("link", "")])
def test_the_directory_given_for_the_log(tmp_path: Path, made: str, slash: str) -> None:
    """It may be there, as long as nothing is in it; it may be a link, and be written with a slash at the end."""
    if made == "directory":
        (tmp_path / "wal").mkdir()
    elif made == "link":
        (tmp_path / "fast").mkdir()
        (tmp_path / "wal").symlink_to("fast")

    async def work() -> None:
        for _ in range(2):
            etcd = Etcd(config(tmp_path, wal_dir=f"{tmp_path}/wal{slash}"))
            await etcd.start()
            await etcd.stop()

    run(work())
    assert list((tmp_path / "wal").glob("*.wal"))
    assert (tmp_path / "wal").is_symlink() == (made == "link")


def test_somebody_elses_directory_for_the_log(tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / "diary").touch()

    async def work() -> None:
        with pytest.raises(StartError, match=r"not empty.*--wal-dir"):
            await Etcd(config(tmp_path, wal_dir=f"{tmp_path}/wal")).start()

    run(work())
    assert [path.name for path in (tmp_path / "wal").iterdir()] == ["diary"]


def test_the_root_is_no_directory_for_the_log(tmp_path: Path) -> None:
    """Nor does it mean that none was given."""

    async def work() -> None:
        with pytest.raises(StartError, match=r"/ is not empty.*--wal-dir"):
            await Etcd(config(tmp_path, wal_dir="/")).start()

    run(work())


def test_faults_the_operator_can_mend_are_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    async def work() -> None:
        for options in (
            {"data_dir": str(tmp_path / "file")},
            {"listen_client_urls": (f"unix://{tmp_path}/nowhere/client",)},
        ):
            etcd = Etcd(config(tmp_path, **options))
            with pytest.raises(StartError):
                await etcd.start()

    run(work())


def test_a_failure_ends_the_wait_and_the_stop_is_quick(tmp_path: Path) -> None:
    async def work() -> None:
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "client"))
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        fault = OSError(5, "disk")
        etcd.server.fail(fault)
        assert await etcd.wait() is fault
        began = asyncio.get_running_loop().time()
        await etcd.stop()
        assert asyncio.get_running_loop().time() - began < 3
        writer.close()

    run(work())


def test_a_stop_waits_for_a_defragmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the file under the thread that copies it would crash the process."""
    begun, go_on = threading.Event(), threading.Event()
    copy_to = _LmdbFile.copy_to

    def slowly(file: _LmdbFile, path: str) -> None:
        begun.set()
        assert go_on.wait(10)
        file._env.stat()  # fails if it is closed, where the copy itself would crash
        copy_to(file, path)

    monkeypatch.setattr(_LmdbFile, "copy_to", slowly)

    async def work() -> None:
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        synced = asyncio.Event()
        etcd.server.committer.sync(synced.set)  # else the stop has to wait for a commit anyhow
        await synced.wait()
        errors: list[BaseException | None] = []
        etcd.server.backend.defragment(errors.append)
        assert await asyncio.to_thread(begun.wait, 10)
        timer = threading.Timer(0.3, go_on.set)
        timer.start()
        await etcd.stop()
        assert errors == [None]
        again = Etcd(config(tmp_path))
        await again.start()
        await again.stop()

    run(work())


def test_a_stop_while_a_snapshot_is_saved_is_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The file lands when the log has ended: no failure, and the next start does without it."""
    begun, go_on = threading.Event(), threading.Event()
    save, close = SnapshotFiles.save, Wal.close

    def slowly(files: SnapshotFiles, snapshot: Snapshot) -> SaveTimes:
        begun.set()
        assert go_on.wait(10)
        return save(files, snapshot)

    def close_first(wal: Wal, done: Done | None = None) -> None:
        close(wal, done)
        go_on.set()

    monkeypatch.setattr(SnapshotFiles, "save", slowly)
    monkeypatch.setattr(Wal, "close", close_first)

    async def work() -> None:
        etcd = Etcd(config(tmp_path, snapshot_count=1))
        await etcd.start()
        assert await asyncio.to_thread(begun.wait, 10)
        await etcd.stop()
        assert await etcd.wait() is None
        assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
        assert len(list((tmp_path / "data/member/snap").glob("*.snap"))) == 1
        again = Etcd(config(tmp_path))
        await again.start()
        assert again.server.is_leader
        await again.stop()

    run(work())
