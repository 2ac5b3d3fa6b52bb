"""Log and backend on real threads: order and isolation while the loop goes on."""

import asyncio
from pathlib import Path
from random import Random

from ratifyd import schema
from ratifyd.raft.messages import Entry, HardState
from ratifyd.storage.disk import OsDisk
from ratifyd.storage.lmdb import LmdbBackend
from ratifyd.storage.syncpolicy import SyncPolicy
from ratifyd.storage.wal import Wal
from ratifyd.storage.worker import ThreadWorker


class Alternating(SyncPolicy):
    def __init__(self) -> None:
        super().__init__()
        self._random = Random(1)

    def in_place(self, size: int) -> bool:
        return self._random.random() < 0.5


def test_the_log_answers_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = ThreadWorker(loop)
        wal = Wal.create(
            OsDisk(), str(tmp_path / "wal"), b"\x08\x01", worker=worker, segment_bytes=8192, policy=Alternating()
        )
        order: list[int] = []
        for index in range(1, 301):
            entry = Entry(1, index, b"%d" % index * 30)
            if wal.append([entry], HardState(1, 1, index - 1), lambda _, index=index: order.append(index)):  # type: ignore[misc]
                order.append(index)
            if index % 7 == 0:
                await asyncio.sleep(0)
        wal.close()
        await worker.close()
        assert order == list(range(1, 301))
        worker = ThreadWorker(loop)
        wal, contents = Wal.open(OsDisk(), str(tmp_path / "wal"), snapshot_index=0, snapshot_term=0, worker=worker)
        assert [entry.index for entry in contents.entries] == order
        wal.close()
        await worker.close()

    asyncio.run(main())


def test_the_backend_keeps_its_readers_apart(tmp_path: Path) -> None:
    """Each commit rewrites all rows with its number: a read that saw two numbers would have seen half a commit."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = ThreadWorker(loop)
        backend = LmdbBackend(str(tmp_path / "db"), worker=worker, map_bytes=1 << 30)
        keys = [b"%03d" % number for number in range(300)]
        first = backend.view()
        for round_number in range(1, 13):
            done: asyncio.Future[BaseException | None] = loop.create_future()
            text = b"%d" % round_number
            backend.commit({schema.LEASE: dict.fromkeys(keys, text)}, done.set_result)
            if round_number % 4 == 0:
                backend.defragment(lambda error: None)
            while not done.done():
                rows = backend.range(schema.LEASE, b"\0", None)
                assert {value for _, value in rows} <= {b"%d" % (round_number - 1)}
                await asyncio.sleep(0)
            assert await done is None
            assert {value for _, value in backend.range(schema.LEASE, b"\0", None)} == {text}
        assert first.range(schema.LEASE, b"\0", None) == []
        first.close()
        await worker.close()
        backend.close()

    asyncio.run(main())
