"""Images of the backend on their way out, and those of other members on their way in.

snap/tmp.<index>.received    what is coming in           snap/tmp.<index>.backend     being made of it
snap/<index>.snap.db         a complete backend, durable, waiting for raft to want it (storage.recover)
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from time import perf_counter
from typing import Any, Protocol, TypeVar

from ratifyd import schema
from ratifyd.formats.v2 import V2Corrupt, V2Store, decode_v2
from ratifyd.membership import Member, hex_id
from ratifyd.metrics import Metrics
from ratifyd.ports import Backend, BackendView, Disk, Done, File, Worker
from ratifyd.raft.messages import Message, Snapshot
from ratifyd.server.parts import Image
from ratifyd.storage.exchange import Export, export_image, import_image
from ratifyd.storage.lmdb import BackendBroken, LmdbBackend
from ratifyd.storage.snapshots import received_name
from ratifyd.storage.worker import SoonWorker, ThreadWorker

T = TypeVar("T")

WRITE_BYTES = 1 << 20
"""Bytes gathered before they are handed to the thread that writes them."""

log = logging.getLogger("ratifyd.embed")


class _Image:
    """A laid out image over a view of its own."""

    def __init__(self, view: BackendView, export: Export, worker: Worker) -> None:
        self.view = view
        self._worker = worker
        self.size = export.size
        self._chunks = export.chunks

    def open(self) -> Iterator[bytes]:
        """The bytes, once."""
        return self._chunks

    def read(self, done: Callable[[bytes | None, BaseException | None], None]) -> None:
        """The next piece, made on the worker."""
        self._worker.submit(lambda: next(self._chunks, None), done)

    def close(self) -> None:
        """Let go of the view."""
        self.view.close()


class Pinnable(Protocol):
    """A backend whose last commit can be pinned for another thread."""

    def own_view(self) -> BackendView: ...


class BackendImages:
    """`server.parts.Images` over the live backend."""

    def __init__(self, backend: Pinnable, worker: Worker) -> None:
        self._backend = backend
        self._worker = worker

    def prepare(self, done: Callable[[Image | None, BaseException | None], None]) -> None:
        """Pin the last commit and lay its image out on the worker."""
        view = self._backend.own_view()

        def laid_out(export: Export | None, error: BaseException | None) -> None:
            if export is None:
                view.close()
                log.error("failed to make an image of the backend", exc_info=error)
                done(None, error)
            else:
                done(_Image(view, export, self._worker), None)

        self._worker.submit(lambda: export_image(view), laid_out)


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
        live: LmdbBackend,
        worker: ThreadWorker,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics,
        *,
        fsync: bool,
    ) -> None:
        self._metrics = metrics
        self._disk = disk
        self._directory = directory
        self._live = live
        self._worker = worker
        self._loop = loop
        self._fsync = fsync
        self._count = 0
        self._adopting: set[int] = set()

    async def save(self, message: Message, body: AsyncIterator[bytes]) -> None:
        """Store, verify and convert the image of a snapshot message. Raises OSError, ValueError and ImageRefused."""
        snapshot = message.snapshot
        if snapshot is None:
            raise ValueError("a snapshot message without a snapshot")
        began = self._loop.time()
        index = snapshot.meta.index
        self._count += 1
        path = f"{self._directory}/tmp.{index:016x}.{self._count}"
        try:
            size = await self._write(f"{path}.received", body)
            sync_s = await self._on_worker(partial(self._convert, path, snapshot))
            if index not in self._adopting:  # else it is here already, and must not change its file half way
                self._disk.rename(f"{path}.backend", self._path(index))
                await self._on_worker(self._sync_directory)
        except BackendBroken as error:
            raise ValueError(str(error)) from error
        finally:
            await self._on_worker(partial(self._discard, path))
        self._metrics.snapshot_db_fsync_seconds.observe(sync_s)
        self._metrics.snapshot_db_save_seconds.observe(self._loop.time() - began)
        fields = {"index": index, "size-bytes": size, "from": hex_id(message.sender)}
        log.info("received and saved database snapshot", extra={"fields": fields})

    def open(self, index: int) -> Backend:
        """Open the backend of a snapshot."""
        return LmdbBackend(self._path(index), worker=SoonWorker(self._loop.call_soon), fsync=self._fsync)

    def adopt(self, index: int, opened: Backend, done: Done) -> None:
        """Rename it over the live one; older ones, whose senders hung up too late, go."""

        def adopted(error: BaseException | None) -> None:
            self._adopting.discard(index)
            done(error)
            if error is None:
                self.drop(index)

        opened.close()
        self._adopting.add(index)
        self._live.replace(self._path(index), adopted)

    def drop(self, index: int) -> None:
        """Delete the backend of a snapshot that raft did not want, and older ones."""
        wanted = received_name(index)
        for name in self._disk.list(self._directory):
            if name.endswith((".snap.db", ".snap.db-lock")) and name.removesuffix("-lock") <= wanted:
                self._disk.remove(f"{self._directory}/{name}")

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

    def _convert(self, path: str, snapshot: Snapshot) -> float:
        """Make the backend, durable but for its name. Runs on the worker; returns the seconds its sync took."""
        converted = f"{path}.backend"
        imported = import_image(f"{path}.received", converted, fsync=False)
        if imported.consistent_index < snapshot.meta.index:
            raise ValueError(
                f"the image has applied index {imported.consistent_index}, its snapshot is of {snapshot.meta.index}"
            )
        _correct_members(converted, snapshot)
        began = perf_counter()
        if self._fsync:
            file = self._disk.open(converted)
            try:
                file.datasync()
            finally:
                file.close()
        return perf_counter() - began

    def _sync_directory(self) -> None:
        if self._fsync:
            self._disk.sync_dir(self._directory)

    def _discard(self, path: str) -> None:
        name = path.rpartition("/")[2] + "."
        for found in self._disk.list(self._directory):
            if found.startswith(name):
                self._disk.remove(f"{self._directory}/{found}")

    def _on_worker(self, job: Callable[[], T]) -> "asyncio.Future[T]":
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._worker.submit(job, done)
        return future


def _correct_members(path: str, snapshot: Snapshot) -> None:
    """Take the members from the snapshot's v2 data: etcd up to 3.5.19 never updates its own rows of them."""
    try:
        store = decode_v2(snapshot.data)
    except V2Corrupt:
        return  # etcd 3.8 sends none, and keeps its rows up to date
    backend = LmdbBackend(path, worker=SoonWorker(_at_once), fsync=False)
    try:
        rows = member_rows((key for key, _ in backend.range(schema.MEMBERS, b"", None)), store)
        failed: list[BaseException] = []
        for _ in range(2):  # so that the commit before the last one, which a damaged file goes back to, has them too
            backend.commit(rows, lambda error: failed.append(error) if error is not None else None)
        if failed:
            raise failed[0]
    finally:
        backend.close()


def member_rows(present: Iterable[bytes], store: V2Store) -> dict[bytes, dict[bytes, bytes | None]]:
    """The rows that bring the membership buckets, which hold members `present`, to what a snapshot's v2 data say."""
    members: dict[bytes, bytes | None] = dict.fromkeys(present)
    for member in store.members:
        record = Member(member.id, member.peer_urls, member.name, member.client_urls, member.is_learner)
        members[hex_id(member.id).encode()] = record.to_json()
    removed: dict[bytes, bytes | None] = {hex_id(member).encode(): b"removed" for member in store.removed}
    rows = {schema.MEMBERS: members, schema.MEMBERS_REMOVED: removed}
    if store.cluster_version:
        rows[schema.CLUSTER] = {schema.CLUSTER_VERSION: store.cluster_version.encode()}
    return rows


def _at_once(callback: Callable[..., object], *args: object) -> None:
    callback(*args)
