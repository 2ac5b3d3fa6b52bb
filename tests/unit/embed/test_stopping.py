"""`Etcd.stop`, whenever it comes and whatever fails on the way: nothing stays open, and everybody hears of the end."""

import asyncio
import gc
import logging
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from ratifyd.apply import requests
from ratifyd.config import Config
from ratifyd.embed import collecting
from ratifyd.embed.collecting import CollectorPace
from ratifyd.embed.descriptors import DescriptorWatch
from ratifyd.embed.etcd import Etcd, StartError
from ratifyd.embed.host import ClientCalls
from ratifyd.embed.images import BackendImages
from ratifyd.embed.received import WRITE_BYTES, ReceivedFiles
from ratifyd.net.connection import Acceptor
from ratifyd.net.listener import Listener
from ratifyd.peer.codec import frame_message
from ratifyd.peer.transport import PeerTransport
from ratifyd.proto.rpc_pb2 import PutRequest
from ratifyd.raft.messages import Message, MessageKind, Snapshot, SnapshotMeta
from ratifyd.server.server import Server
from ratifyd.storage import exchange
from ratifyd.storage.disk import OsFile
from ratifyd.storage.kernelsync import KernelSyncs
from ratifyd.storage.lmdb import LmdbBackend, _LmdbFile
from ratifyd.storage.wal import Wal
from ratifyd.storage.walsegments import SegmentWriter
from ratifyd.storage.worker import ThreadWorker

WAIT_S = 10.0
NEVER = "http://127.0.0.1:1"
"""Where nobody listens."""


def run(work: Coroutine[Any, Any, None], new_loop: Any = None) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, 60)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(bounded())


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


async def put(etcd: Etcd, key: bytes = b"k") -> Any:
    done = asyncio.get_running_loop().create_future()
    body = PutRequest(key=key, value=b"v").SerializeToString()
    etcd.server.propose(requests.PUT, body, lambda _, error: done.done() or done.set_result(error))
    return await asyncio.wait_for(done, WAIT_S)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0)


async def starts_and_serves(path: Path) -> None:
    etcd = Etcd(config(path))
    await etcd.start()
    assert await put(etcd) is None
    await etcd.stop()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


STEPS: list[tuple[Any, str]] = [
    (DescriptorWatch, "stop"),
    (Etcd, "_give_up_start"),
    (Etcd, "_hand_over"),
    (Listener, "close"),
    (Acceptor, "go_away"),
    (Acceptor, "drained"),
    (Acceptor, "abort"),
    (Server, "leave"),
    (Server, "stop"),
    (BackendImages, "stop"),
    (PeerTransport, "stop"),
    (ClientCalls, "stop"),
    (ReceivedFiles, "stop"),
    (Etcd, "_settle"),
    (Wal, "close"),
    (KernelSyncs, "close"),
    (ThreadWorker, "close"),
    (LmdbBackend, "close"),
    (OsFile, "close"),
    (CollectorPace, "stop"),
]


@pytest.mark.parametrize("error", [OSError, asyncio.CancelledError])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[f"{owner.__name__}.{name}" for owner, name in STEPS])
def test_a_step_that_fails_does_not_keep_the_others_from_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: Any,
    name: str,
    error: type[BaseException],
) -> None:
    thresholds = gc.get_threshold()
    threads = set(threading.enumerate())
    original = getattr(owner, name)
    failed = 0

    def fail() -> None:
        nonlocal failed
        failed += 1
        raise error("bug")

    def step(self: Any, *args: Any) -> Any:
        result = original(self, *args)
        if owner is OsFile and self is not etcd._lock:
            return result
        if asyncio.iscoroutine(result):
            return later(result)
        return fail()

    async def later(result: Any) -> None:
        await result
        fail()

    etcd = Etcd(config(tmp_path, unsafe_no_fsync=owner is not KernelSyncs))

    async def work() -> None:
        await etcd.start()
        if owner is KernelSyncs and etcd._syncs is None:
            pytest.skip("the kernel has none")
        assert await put(etcd) is None
        monkeypatch.setattr(owner, name, step)
        waiting = asyncio.create_task(etcd.wait())
        await etcd.stop()
        monkeypatch.undo()
        assert failed and "a step of the stop failed" in errors(caplog)
        assert await asyncio.wait_for(waiting, 1) is None
        await etcd.stop()
        assert gc.get_threshold() == thresholds
        assert set(threading.enumerate()) <= threads
        await starts_and_serves(tmp_path)

    run(work())


def test_a_snapshot_waits_for_a_commit_when_the_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit lands while its worker is closed, and whoever waits for it asks for the next one."""
    gate, threads = threading.Event(), set(threading.enumerate())
    write = _LmdbFile.write

    def gated(self: _LmdbFile, rows: Any) -> Any:
        assert gate.wait(WAIT_S)
        return write(self, rows)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    async def work() -> None:
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        server = etcd.server
        synced = asyncio.Event()
        server.committer.sync(synced.set)
        await synced.wait()
        with monkeypatch.context() as patched:
            patched.setattr(_LmdbFile, "write", gated)
            assert await put(etcd) is None
            server.committer.sync(lambda: None)
            assert await put(etcd) is None
            server.committer.sync(lambda: server.images.prepare(lambda image, error: None))
            patched.setattr(SegmentWriter, "write", full)
            patched.setattr(SegmentWriter, "begin", full)
            failing = asyncio.create_task(put(etcd))
            assert await asyncio.wait_for(etcd.wait(), WAIT_S) is not None
            close = ThreadWorker.close

            def closing(worker: ThreadWorker) -> Any:
                gate.set()
                return close(worker)

            patched.setattr(ThreadWorker, "close", closing)
            await etcd.stop()
            failing.cancel()
        assert set(threading.enumerate()) <= threads
        await starts_and_serves(tmp_path)

    run(work())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_stop_at_any_moment_of_a_start(tmp_path: Path, new_loop: Any) -> None:
    """The start ends with a StartError that says so, and the directory is as good as before."""
    threads = set(threading.enumerate())

    async def work() -> None:
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        await asyncio.gather(*(put(etcd, b"%d" % number) for number in range(3000)))  # to be read back in slices
        await etcd.stop()
        for turns in range(200):
            etcd = Etcd(config(tmp_path))
            starting = asyncio.create_task(etcd.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            started = starting.done()
            await etcd.stop()
            (outcome,) = await asyncio.gather(starting, return_exceptions=True)
            if started:
                assert outcome is None
                break
            assert isinstance(outcome, StartError) and "was stopped" in str(outcome), (turns, outcome)
            assert set(threading.enumerate()) <= threads
        assert started and turns > 5
        await starts_and_serves(tmp_path)

    run(work(), new_loop)


def test_a_stop_while_a_start_waits_for_others(tmp_path: Path) -> None:
    """It may wait for a quorum, or for whom to join. Nothing is written afterwards, and nothing stays locked."""
    several = {"initial_cluster": f"default=http://127.0.0.1:2380,other={NEVER}"}
    several["initial_advertise_peer_urls"] = ("http://127.0.0.1:2380",)  # type: ignore[assignment]

    async def work() -> None:
        for _ in range(2):
            etcd = Etcd(config(tmp_path, **several))
            starting = asyncio.create_task(etcd.start())
            await until(lambda etcd=etcd: etcd._server is not None)  # type: ignore[misc]
            await etcd.stop()
            with pytest.raises(StartError, match="was stopped"):
                await starting
            assert await asyncio.wait_for(etcd.wait(), 1) is None

        asked = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()
            writer.close()

        silent_one = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = silent_one.sockets[0].getsockname()[1]
        several["initial_cluster"] = f"default=http://127.0.0.1:2380,other=http://127.0.0.1:{port}"
        etcd = Etcd(config(tmp_path / "joining", **several, initial_cluster_state="existing", **addresses(tmp_path)))
        starting = asyncio.create_task(etcd.start())
        await asyncio.wait_for(asked.wait(), WAIT_S)
        await etcd.stop()
        with pytest.raises(StartError, match="was stopped"):
            await starting
        assert not list(tmp_path.glob("joining/data/**/*.wal"))
        silent_one.close()

    run(work())


def test_a_stop_ends_a_start_that_waits_for_a_name_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()

    async def work() -> None:
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()

        def silent(*_: Any, **__: Any) -> list[Any]:
            loop.call_soon_threadsafe(asked.set)
            held.wait(30)
            return []

        monkeypatch.setattr(socket, "getaddrinfo", silent)
        cluster = "default=http://pod:2380"
        etcd = Etcd(config(tmp_path, initial_cluster=cluster, initial_advertise_peer_urls=("http://10.0.0.1:2380",)))
        starting = asyncio.create_task(etcd.start())
        await asyncio.wait_for(asked.wait(), WAIT_S)
        await asyncio.wait_for(etcd.stop(), WAIT_S)
        with pytest.raises(StartError, match="was stopped"):
            await starting

    try:
        run(work())
    finally:
        held.set()


def test_the_end_is_told_once_everything_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ratifyd")

    async def work() -> None:
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        caplog.clear()
        await etcd.stop()
        await etcd.stop()

    run(work())
    assert [record.getMessage() for record in caplog.records] == ["closing etcd server", "closed etcd server"]
    for record in caplog.records:
        assert record.__dict__["fields"] == {
            "name": "default",
            "data-dir": str(tmp_path / "data"),
            "advertise-peer-urls": ("http://localhost:2380",),
            "advertise-client-urls": (f"unix://{tmp_path}/client",),
        }


def addresses(path: Path) -> dict[str, Any]:
    return {"listen_client_urls": (f"unix://{path}/c",), "listen_peer_urls": (f"unix://{path}/p",)}


def test_a_cancelled_start_is_cancelled(tmp_path: Path) -> None:
    async def work() -> None:
        etcd = Etcd(config(tmp_path))
        starting = asyncio.create_task(etcd.start())
        await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait((starting,))
        assert starting.cancelled()
        assert await asyncio.wait_for(etcd.wait(), 1) is None
        with pytest.raises(StartError, match="was stopped"):
            await etcd.start()
        await starts_and_serves(tmp_path)

    run(work())


def arriving(etcd: Etcd, body: AsyncIterator[bytes]) -> "asyncio.Task[None]":
    """An image of another member's backend on its way in."""
    message = Message(MessageKind.SNAP, snapshot=Snapshot(SnapshotMeta(1000, 5)))
    assert etcd._received is not None
    return asyncio.create_task(etcd._received.save(message, body, lambda: None))


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


def endless(_fd: int, _target: str, pause: Callable[[], None], *, check_digest: bool) -> Any:
    """An import of a very large image."""
    while True:
        pause()


def test_a_stop_gives_up_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are laid out, and those that are made a backend of; else it takes as long as there are data."""
    began = threading.Event()

    def measure(_image: Any) -> Any:
        began.set()
        while True:
            yield

    monkeypatch.setattr(exchange, "_import", endless)
    monkeypatch.setattr(exchange.BoltImage, "measure", measure)

    async def work() -> None:
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        saving = arriving(etcd, pieces(b"image"))
        await until(lambda: any("received" in name for name in names(snap)))
        told: list[Any] = []
        etcd.server.images.prepare(lambda image, error: told.append(image))
        stopping = asyncio.create_task(etcd.stop())
        await until(lambda: etcd._peer_acceptor is None or etcd._peer_acceptor._leaving)
        saving.cancel()  # as those are who answer members that are hung up on
        await asyncio.wait_for(stopping, WAIT_S)
        assert told == [None]
        assert names(snap) == ["db", "db-lock"]

    snap = tmp_path / "data/member/snap"
    run(work())


def test_the_loop_turns_while_the_stop_waits_for_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a second signal would not end the process."""
    begun, gate = threading.Event(), threading.Event()

    def gated(_file: _LmdbFile, _path: str) -> None:
        begun.set()
        assert gate.wait(WAIT_S)

    monkeypatch.setattr(_LmdbFile, "copy_to", gated)

    async def work() -> None:
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        synced = asyncio.Event()
        etcd.server.committer.sync(synced.set)  # else the stop has to wait for a commit anyhow
        await synced.wait()
        etcd.server.backend.defragment(lambda error: None)
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        stopping = asyncio.create_task(etcd.stop())
        await until(lambda: etcd._workers[0]._closed)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not stopping.done()
        gate.set()
        await stopping

    run(work())


STUCK = """
import sys, time
from ratifyd.cli import command
from ratifyd.embed.etcd import Etcd, StartError
from ratifyd.storage.worker import ThreadWorker

close = ThreadWorker.close

def closing(worker):
    worker.submit(lambda: (sys.stderr.write("stuck\\n"), sys.stderr.flush(), time.sleep(60)), lambda *_: None)
    return close(worker)

ThreadWorker.close = closing
command.run(sys.argv[1:], {}, open_member=Etcd, operator_errors=(StartError,))
"""


def test_a_second_signal_ends_a_stop_that_waits_for_a_thread(tmp_path: Path) -> None:
    flags = [f"--data-dir={tmp_path}/data", f"--listen-client-urls=unix://{tmp_path}/c"]
    flags += [f"--advertise-client-urls=unix://{tmp_path}/c", f"--listen-peer-urls=unix://{tmp_path}/p"]
    with subprocess.Popen([sys.executable, "-c", STUCK, *flags], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        killer = threading.Timer(30, process.kill)
        killer.start()
        try:
            for line in process.stderr:
                if "ready to serve" in line or line == "stuck\n":
                    process.send_signal(signal.SIGTERM)
                if line == "stuck\n":
                    break
            assert process.wait(10) == 128 + signal.SIGTERM
        finally:
            process.kill()
            killer.cancel()


def test_a_member_that_fails_while_an_image_comes_in_leaves_nothing_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        server = etcd.server
        message = Message(
            MessageKind.SNAP, to=server.member_id, sender=77, term=5, snapshot=Snapshot(SnapshotMeta(1000, 5))
        )
        envelope = frame_message(message)
        others = asyncio.all_tasks()
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "peer"))
        head = f"POST /raft/snapshot HTTP/1.1\r\nHost: x\r\nX-Etcd-Cluster-ID: {server.cluster_id:x}\r\n"
        head += "X-Server-From: 4d\r\nX-Server-Version: 3.5.1\r\nX-Min-Cluster-Version: 3.0.0\r\n"
        writer.write(f"{head}Content-Length: {len(envelope) + 3 * WRITE_BYTES}\r\n\r\n".encode() + envelope)
        writer.write(bytes(WRITE_BYTES + 1))
        await until(lambda: any(name.endswith(".received") for name in names(snap)))
        (worker,) = (worker for worker in etcd._workers if worker._thread.name == "image")
        worker.submit(lambda: gate.wait(WAIT_S), lambda _, __: None)
        threading.Timer(0.2, gate.set).start()  # it is still busy when the stop comes to close it
        server.fail(OSError(5, "disk"))
        caplog.clear()
        handlers = asyncio.all_tasks() - others
        await etcd.stop()
        writer.close()
        await asyncio.wait(handlers, timeout=WAIT_S)
        assert names(snap) == ["db", "db-lock"]
        assert errors(caplog) == []

    snap, gate = tmp_path / "data/member/snap", threading.Event()
    run(work())


def test_who_keeps_a_stopped_member_does_not_keep_its_keys(tmp_path: Path) -> None:
    async def work() -> None:
        etcd = Etcd(config(tmp_path))
        await etcd.start()
        gone = weakref.ref(etcd.server)
        await etcd.stop()
        async with asyncio.timeout(WAIT_S):
            while gone() is not None:
                gc.collect()
                await asyncio.sleep(0.01)  # its last timers
        assert etcd.removed is False

    run(work())


def test_a_stopped_member_that_somebody_keeps_is_not_frozen_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another member freezes at its next turn is no longer a part of it."""
    monkeypatch.setattr(collecting, "PERIOD_S", 0.0)

    async def work() -> None:
        other = Etcd(config(tmp_path, data_dir=f"{tmp_path}/other", **addresses(tmp_path)))
        await other.start()
        etcd = Etcd(config(tmp_path, initial_election_tick_advance=False))  # whose first timer is still to come
        await etcd.start()
        gone = weakref.ref(etcd.server)
        assert await put(etcd) is None
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "client"))
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        await etcd.stop()
        await until(lambda: gone() is None)
        await other.stop()
        assert etcd.removed is False

    run(work())
