"""Images of other members' backends on their way in.

snap/tmp.<index>.<n>.received   what is coming in        snap/tmp.<index>.<n>.backend   being made of it
snap/<index>.snap.db            a complete backend, durable, waiting for raft to want it (storage.recover)
"""

import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from ratifyd.membership import hex_id
from ratifyd.metrics import Metrics
from ratifyd.ports import Backend, Disk, Done, File, Worker
from ratifyd.raft.messages import Message, Snapshot
from ratifyd.storage.snapshots import received_name
from ratifyd.storage.worker import Pauses

T = TypeVar("T")

WRITE_BYTES = 1 << 20
"""Bytes gathered before they are handed to the thread that writes them."""

log = logging.getLogger("ratifyd.embed")


class Loop(Protocol):
    """What an image's coroutine needs of the loop it runs on."""

    def time(self) -> float: ...

    def create_future(self) -> Any: ...


class Makes(Protocol):
    """Makes backends of images, and opens them."""

    def make(self, image: str, path: str, snapshot: Snapshot, pauses: Pauses) -> None:
        """Verify the file `image` and make a backend of it at `path`, which need not be durable.

        Raises ValueError, and GivenUp by `pauses`.
        """
        ...

    def open(self, path: str) -> Backend: ...


class Replaceable(Protocol):
    """The live backend."""

    def replace(self, source: str, done: Done) -> None:
        """Make the one at `source` this one."""
        ...


class _Incoming:
    """A file on its way in. One thread alone uses it, from its opening to its end: whoever waits may be cancelled."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._file: File | None = None
        self.size = 0

    def write(self, data: bytes) -> None:
        """Add to the end."""
        if self._file is None:
            self._file = self._disk.open(self._path, create=True)
        self._file.pwrite(data, self.size)
        self.size += len(data)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()


class ReceivedFiles:
    """Takes images from other members and makes backends of them; `server.parts.ReceivedBackends` over these."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        live: Replaceable,
        backends: Makes,
        worker: Worker,
        loop: Loop,
        metrics: Metrics,
        *,
        fsync: bool,
    ) -> None:
        self._metrics = metrics
        self._disk = disk
        self._directory = directory
        self._live = live
        self._backends = backends
        self._worker = worker
        self._loop = loop
        self._fsync = fsync
        self._count = 0
        self._saving = 0
        self._saved: Any = None
        """A future that `stop` waits for."""
        self._adopting: set[int] = set()

    async def save(self, message: Message, body: AsyncIterator[bytes], deliver: Callable[[], object]) -> None:
        """Store, verify and convert the image of a snapshot message, then `deliver`. Raises OSError and ValueError.

        Cancelled before the backend has its name, nothing is left of it; after that it is delivered all the same, as
        etcd does: it would be in nobody's care otherwise.
        """
        snapshot = message.snapshot
        if snapshot is None:
            raise ValueError("a snapshot message without a snapshot")
        began = self._loop.time()
        index = snapshot.meta.index
        self._count += 1
        path = f"{self._directory}/tmp.{index:016x}.{self._count}"
        pauses = Pauses()
        self._saving += 1
        try:
            size = await self._write(f"{path}.received", body)
            sync_s: float = await self._on_worker(partial(self._convert, path, snapshot, pauses))

            def in_place() -> None:
                self._metrics.snapshot_db_fsync_seconds.observe(sync_s)
                self._metrics.snapshot_db_save_seconds.observe(self._loop.time() - began)
                fields = {"index": index, "size-bytes": size, "from": hex_id(message.sender)}
                log.info("received and saved database snapshot", extra={"fields": fields})
                deliver()

            if index not in self._adopting:  # else it is here already, and must not change its file half way
                self._disk.rename(f"{path}.backend", self._path(index))
            await self._on_worker(self._sync_directory, in_place)
        finally:
            pauses.give_up()
            try:
                await self._on_worker(partial(self._discard, path))
            finally:
                self._ended()

    async def stop(self) -> None:
        """Wait for the end of what is being saved. Call when its senders were hung up on, which cancels it."""
        while self._saving:
            self._saved = self._loop.create_future()
            await self._saved

    def open(self, index: int) -> Backend:
        """Open the backend of a snapshot."""
        return self._backends.open(self._path(index))

    def adopt(self, index: int, opened: Backend, done: Done) -> None:
        """Rename it over the live one; older ones, whose senders hung up too late, go."""

        def adopted(error: BaseException | None) -> None:
            self._adopting.discard(index)
            done(error)
            if error is None:
                self._remove(lambda name: name <= adopted_name)

        adopted_name = received_name(index)
        opened.close()
        self._adopting.add(index)
        self._live.replace(self._path(index), adopted)

    def remove(self, index: int) -> None:
        """Delete the backend of a snapshot that raft did not want."""
        unwanted = received_name(index)
        self._remove(lambda name: name == unwanted)

    def _remove(self, chosen: Callable[[str], bool]) -> None:
        for name in self._disk.list(self._directory):
            if name.endswith((".snap.db", ".snap.db-lock")) and chosen(name.removesuffix("-lock")):
                self._disk.remove(f"{self._directory}/{name}")

    def _ended(self) -> None:
        self._saving -= 1
        if self._saved is not None and not self._saved.done():
            self._saved.set_result(None)

    def _path(self, index: int) -> str:
        return f"{self._directory}/{received_name(index)}"

    async def _write(self, path: str, body: AsyncIterator[bytes]) -> int:
        incoming = _Incoming(self._disk, path)
        gathered = bytearray()
        try:
            async for data in body:
                gathered += data
                if len(gathered) >= WRITE_BYTES:
                    await self._on_worker(partial(incoming.write, bytes(gathered)))
                    gathered.clear()
            await self._on_worker(partial(incoming.write, bytes(gathered)))
        finally:
            await self._on_worker(incoming.close)
        return incoming.size

    def _convert(self, path: str, snapshot: Snapshot, pauses: Pauses) -> float:
        """Make the backend, durable but for its name. Runs on the worker; returns the seconds its sync took."""
        converted = f"{path}.backend"
        self._backends.make(f"{path}.received", converted, snapshot, pauses)
        began = self._loop.time()
        if self._fsync:
            file = self._disk.open(converted)
            try:
                file.datasync()
            finally:
                file.close()
        return self._loop.time() - began

    def _sync_directory(self) -> None:
        if self._fsync:
            self._disk.sync_dir(self._directory)

    def _discard(self, path: str) -> None:
        name = path.rpartition("/")[2] + "."
        for found in self._disk.list(self._directory):
            if found.startswith(name):
                self._disk.remove(f"{self._directory}/{found}")

    def _on_worker(self, job: Callable[[], T], then: Callable[[], None] | None = None) -> Any:
        """A future of what a job on the worker gives. When it succeeds `then` is called, whoever waits or does not."""
        future = self._loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if then is not None and error is None:
                then()
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._worker.submit(job, done)
        return future
