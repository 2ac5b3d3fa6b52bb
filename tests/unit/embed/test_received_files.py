"""Images of other members on their way in: what is left of one whose sender hangs up, at every step."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import nullcontext
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from ratifyd import schema
from ratifyd.embed import importing
from ratifyd.embed.importing import LmdbImports
from ratifyd.embed.received import WRITE_BYTES, ReceivedFiles
from ratifyd.formats.v2 import V2Store, encode_v2
from ratifyd.metrics import Metrics
from ratifyd.ports import Done
from ratifyd.raft.confstate import encode_conf_state_json
from ratifyd.raft.messages import ConfState, Message, MessageKind, Snapshot, SnapshotMeta
from ratifyd.storage.disk import OsDisk, OsFile
from ratifyd.storage.exchange import export_image
from ratifyd.storage.lmdb import LmdbBackend
from ratifyd.storage.worker import Pauses, SoonWorker, ThreadWorker

INDEX = 9
NAME = f"{INDEX:016x}.snap.db"
WAIT_S = 10.0


def message(index: int = INDEX) -> Message:
    return Message(MessageKind.SNAP, snapshot=Snapshot(SnapshotMeta(index, 1), encode_v2(V2Store((), (), ""))))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """That of a backend that reflects entry INDEX."""
    return image_of(tmp_path_factory.mktemp("source") / "db", {})


def image_of(path: Path, more: Mapping[bytes, bytes]) -> bytes:
    backend = LmdbBackend(str(path), worker=SoonWorker(lambda job, *args: job(*args)))
    rows: dict[bytes, bytes | None] = {
        schema.CONSISTENT_INDEX: schema.encode_u64(INDEX),
        schema.TERM: schema.encode_u64(1),
        **more,
    }
    backend.commit({schema.META: rows}, lambda error: None)
    data = b"".join(export_image(backend.own_view()).chunks)
    backend.close()
    return data


class Gate:
    """Holds the thread of the images where a test wants it."""

    def __init__(self) -> None:
        self.reached = Event()
        self.open = Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.open.wait(WAIT_S)


class GatedFile(OsFile):
    """Stops between evaluating the descriptor and writing to it, as a thread may that lets go of the interpreter."""

    gate: Gate

    def pwrite(self, data: bytes, offset: int) -> None:
        fd = self.fileno()
        self.gate()
        os.pwrite(fd, data, offset)


class Live:
    """The live backend, as far as it is replaced."""

    def __init__(self) -> None:
        self.replaced: list[tuple[str, Done]] = []

    def replace(self, path: str, done: Done) -> None:
        self.replaced.append((path, done))


def run(
    directory: Path, test: Callable[[ReceivedFiles, ThreadWorker], Coroutine[Any, Any, None]], disk: Any = None
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = ThreadWorker(loop)
        live: Any = Live()
        imports = LmdbImports(loop.call_soon, fsync=True)
        received = ReceivedFiles(disk or OsDisk(), str(directory), live, imports, worker, loop, Metrics(), fsync=True)
        try:
            await test(received, worker)
        finally:
            await worker.close()

    asyncio.run(main())


def ignored() -> None:
    """Nobody wants the message."""


def names(directory: Path) -> list[str]:
    """Files there, but for the locks beside backends."""
    return [path.name for path in directory.iterdir() if not path.name.endswith("-lock")]


def descriptors() -> int:
    """How many are open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def reached(gate: Gate) -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, gate.reached.wait, WAIT_S)


async def ended(task: "asyncio.Task[None]") -> None:
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError)


async def whole(image: bytes) -> AsyncIterator[bytes]:
    yield image


def test_an_image_becomes_a_backend(tmp_path: Path, image: bytes) -> None:
    async def test(received: ReceivedFiles, _: ThreadWorker) -> None:
        await received.save(message(), whole(image), ignored)
        assert names(tmp_path) == [NAME]
        received.remove(INDEX - 1)
        assert names(tmp_path) == [NAME]
        received.remove(INDEX)
        assert not names(tmp_path)

    run(tmp_path, test)


AHEAD = schema.encode_u64(INDEX + 2)
THREE = ConfState((1, 2, 3))
FOUR = encode_conf_state_json(ConfState((1, 2, 3, 4)))


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ({schema.CONSISTENT_INDEX: schema.encode_u64(INDEX - 1)}, "its snapshot is of 9"),
        ({schema.CONSISTENT_INDEX: AHEAD, schema.CONF_STATE: FOUR}, "other members"),
        ({schema.CONSISTENT_INDEX: AHEAD, schema.CONF_STATE: encode_conf_state_json(THREE)}, ""),
        ({schema.CONF_STATE: FOUR}, ""),
        ({schema.CONSISTENT_INDEX: AHEAD}, ""),
    ],
)
def test_an_image_goes_with_its_snapshot(tmp_path: Path, rows: dict[bytes, bytes], text: str) -> None:
    """Changes of members between the two would not be made in raft: its members are the snapshot's."""
    (tmp_path / "source").mkdir()
    (tmp_path / "image").write_bytes(image_of(tmp_path / "source" / "db", rows))
    snapshot = Snapshot(SnapshotMeta(INDEX, 1, THREE), encode_v2(V2Store((), (), "")))
    make = LmdbImports(lambda job, *args: job(*args), fsync=True).make
    with pytest.raises(ValueError, match=text) if text else nullcontext():
        make(str(tmp_path / "image"), str(tmp_path / "db"), snapshot, lambda: None)


def test_a_file_is_not_closed_while_it_is_written(tmp_path: Path) -> None:
    """Else what is opened next gets its number, and the rest of the image."""
    gate = GatedFile.gate = Gate()

    class GatedDisk(OsDisk):
        def open(self, path: str, *, create: bool = False) -> OsFile:
            return GatedFile(path, create=create)

    async def body() -> AsyncIterator[bytes]:
        yield bytes(WRITE_BYTES)
        await asyncio.sleep(WAIT_S)

    async def test(received: ReceivedFiles, _: ThreadWorker) -> None:
        task = asyncio.create_task(received.save(message(), body(), ignored))
        await reached(gate)
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
        gate.open.set()
        await ended(task)
        assert os.fstat(other).st_size == 0
        os.close(other)
        (tmp_path / "other").unlink()

    run(tmp_path, test, GatedDisk())
    assert not names(tmp_path)


def test_a_sender_that_hangs_up_at_once_leaves_no_descriptor(tmp_path: Path) -> None:
    async def test(received: ReceivedFiles, worker: ThreadWorker) -> None:
        gate = Gate()
        worker.submit(gate, lambda result, error: None)
        await reached(gate)
        before = descriptors()
        tasks = [asyncio.create_task(received.save(message(index), whole(b"x"), ignored)) for index in range(10)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        for task in tasks:
            await ended(task)
        assert descriptors() == before

    run(tmp_path, test)
    assert not names(tmp_path)


def test_a_sender_that_hangs_up_late_leaves_no_backend(
    tmp_path: Path, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    make = LmdbImports.make

    def gated(self: LmdbImports, image: str, path: str, snapshot: Snapshot, pauses: Pauses) -> None:
        gate()
        make(self, image, path, snapshot, pauses)

    monkeypatch.setattr(LmdbImports, "make", gated)

    async def test(received: ReceivedFiles, _: ThreadWorker) -> None:
        delivered: list[int] = []
        task = asyncio.create_task(received.save(message(), whole(image), lambda: delivered.append(INDEX)))
        await reached(gate)
        task.cancel()
        gate.open.set()
        await ended(task)
        assert not delivered

    run(tmp_path, test)
    assert not names(tmp_path)


def test_a_sender_that_hangs_up_ends_the_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take minutes, for nobody; and a stop waits for its end."""
    begun = Event()

    def endless(_image: str, _target: str, *, fsync: bool, pauses: Pauses) -> None:
        begun.set()
        while True:
            pauses()

    monkeypatch.setattr(importing, "import_image", endless)

    async def test(received: ReceivedFiles, _: ThreadWorker) -> None:
        tasks = [asyncio.create_task(received.save(message(index), whole(b"x"), ignored)) for index in range(2)]
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        stopping = asyncio.create_task(received.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        for task in tasks:
            task.cancel()
        for task in tasks:
            await ended(task)
        await asyncio.wait_for(stopping, WAIT_S)
        assert not names(tmp_path)

    run(tmp_path, test)


def test_what_a_sender_that_hangs_up_has_brought_is_delivered(tmp_path: Path, image: bytes) -> None:
    """Once it has its name somebody has to care for it; it is durable by then."""
    gate = Gate()

    class GatedDisk(OsDisk):
        def sync_dir(self, path: str) -> None:
            gate()
            super().sync_dir(path)

    async def test(received: ReceivedFiles, _: ThreadWorker) -> None:
        delivered: list[list[str]] = []
        task = asyncio.create_task(received.save(message(), whole(image), lambda: delivered.append(names(tmp_path))))
        await reached(gate)
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not delivered
        gate.open.set()
        await ended(task)
        assert len(delivered) == 1 and NAME in delivered[0]
        assert names(tmp_path) == [NAME]

    run(tmp_path, test, GatedDisk())


def test_the_same_again_while_it_is_installed(tmp_path: Path, image: bytes) -> None:
    """The leader has not heard that it arrived. The file that is about to become the live one stays what it is."""

    async def test(received: ReceivedFiles, _: ThreadWorker) -> None:
        await received.save(message(), whole(image), ignored)
        backend = received.open(INDEX)
        live: Any = received._live
        told: list[BaseException | None] = []
        received.adopt(INDEX, backend, told.append)
        ((path, adopted),) = live.replaced
        before = Path(path).stat().st_ino
        await received.save(message(), whole(image), ignored)
        assert Path(path).stat().st_ino == before and names(tmp_path) == [NAME]
        Path(path).unlink()
        (tmp_path / f"{INDEX - 1:016x}.snap.db").touch()
        adopted(None)
        assert told == [None] and not names(tmp_path)

    run(tmp_path, test)
