"""A disk in memory that loses what was not synced: `ports.Disk` for crash tests and the simulator.

Data is durable after `datasync` of its file, names after `sync_dir` of their directory. `crash(random)` keeps any
subset of the 512-byte sectors written since, and any prefix of the name changes since, as an ordered journal does.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random
from typing import Any

from ratifyd.ports import Done, File, Worker

SECTOR = 512


class _Inode:
    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.dirty: set[int] = set()
        self.locked_by: object | None = None

    def sync(self) -> None:
        data, durable = self.data, self.durable
        if len(durable) < len(data):
            durable.extend(bytes(len(data) - len(durable)))
        for sector in self.dirty:
            start = sector * SECTOR
            durable[start : start + SECTOR] = data[start : start + SECTOR]
        self.dirty.clear()


class SimFile:
    """An open file of a SimDisk."""

    def __init__(self, disk: SimDisk, inode: _Inode) -> None:
        self._disk = disk
        self._inode = inode

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self._inode.data[offset : offset + size])

    def pwrite(self, data: bytes, offset: int) -> None:
        self._disk.step("pwrite")
        inode = self._inode
        if offset > len(inode.data):
            inode.data.extend(bytes(offset - len(inode.data)))
        inode.data[offset : offset + len(data)] = data
        inode.dirty.update(range(offset // SECTOR, (offset + len(data) + SECTOR - 1) // SECTOR))

    def truncate(self, size: int) -> None:
        self._disk.step("truncate")
        inode = self._inode
        grown = bytes(max(0, size - len(inode.data)))
        inode.data[size:] = grown
        # Sizes are metadata: kept in order with the names, so a shorter size is durable at once here.
        del inode.durable[size:]

    def allocate(self, size: int) -> None:
        self._disk.step("allocate")
        if size > len(self._inode.data):
            self._inode.data.extend(bytes(size - len(self._inode.data)))

    def size(self) -> int:
        return len(self._inode.data)

    def datasync(self) -> None:
        try:
            self._disk.step("datasync")
        except OSError:
            self._disk.lose_some(self._inode)
            raise
        self._inode.sync()

    def lock(self) -> bool:
        if self._inode.locked_by not in (None, self):
            return False
        self._inode.locked_by = self
        return True

    def close(self) -> None:
        if self._inode.locked_by is self:
            self._inode.locked_by = None


class Crashed(BaseException):
    """The simulated machine stopped here."""


class SimDisk:
    """`ports.Disk`; every change counts as a step, and the disk can be told to crash or fail at one."""

    def __init__(self) -> None:
        self._names: dict[str, _Inode | None] = {"": None}
        self._durable: dict[str, _Inode | None] = {"": None}
        self._changes: list[tuple[str, dict[str, _Inode | None]]] = []
        self.steps = 0
        self.crash_at: int | None = None
        self.fail: dict[str, OSError] = {}

    def step(self, operation: str) -> None:
        if self.crash_at is not None and self.steps >= self.crash_at:
            raise Crashed
        self.steps += 1
        if operation in self.fail:
            raise self.fail[operation]

    def crash(self, random: Random) -> None:
        """Lose power: afterwards the disk holds one of the states the syncs allow. Files that were open are dead."""
        self.crash_at = None
        kept = random.randint(0, len(self._changes))
        names = dict(self._changes[kept - 1][1]) if kept else dict(self._durable)
        for inode in {id(inode): inode for inode in names.values() if inode is not None}.values():
            image = bytearray(inode.durable.ljust(len(inode.data), b"\0"))
            for sector in sorted(inode.dirty):
                if random.random() < 0.5:
                    start = sector * SECTOR
                    image[start : start + SECTOR] = inode.data[start : start + SECTOR]
            fresh = _Inode()
            fresh.data = image
            fresh.durable = bytearray(image)
            for path in [path for path, old in names.items() if old is inode]:
                names[path] = fresh
        self._names = names
        self._durable = dict(names)
        self._changes = []

    def abandon(self) -> None:
        """The process is gone, the machine is not: what was written stays, its locks do not."""
        self.crash_at = None
        for inode in self._names.values():
            if inode is not None:
                inode.locked_by = None

    def lose_some(self, inode: _Inode) -> None:
        """A failed sync: some of what it was to bring to the disk is there, the rest is dropped from memory, too."""
        inode.durable.extend(bytes(max(0, len(inode.data) - len(inode.durable))))
        for number, sector in enumerate(sorted(inode.dirty)):
            start = sector * SECTOR
            if (number + self.steps) % 2:
                inode.durable[start : start + SECTOR] = inode.data[start : start + SECTOR]
            else:
                inode.data[start : start + SECTOR] = inode.durable[start : start + SECTOR]
        inode.dirty.clear()

    def flip(self, path: str, offset: int, bit: int) -> None:
        """Change a bit of a file behind everybody's back."""
        inode = self._names[path]
        assert inode is not None
        inode.data[offset] ^= 1 << bit
        if offset < len(inode.durable):
            inode.durable[offset] ^= 1 << bit

    def size_of(self, path: str) -> int:
        """Bytes of a file."""
        inode = self._names[path]
        return 0 if inode is None else len(inode.data)

    def open(self, path: str, *, create: bool = False) -> SimFile:
        inode = self._names.get(path)
        if inode is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            self.step("create")
            inode = _Inode()
            self._names[path] = inode
            self._changed(path)
        return SimFile(self, inode)

    def exists(self, path: str) -> bool:
        return path in self._names

    def list(self, directory: str) -> list[str]:
        prefix = directory + "/"
        return sorted(
            path[len(prefix) :] for path in self._names if path.startswith(prefix) and "/" not in path[len(prefix) :]
        )

    def make_dirs(self, directory: str) -> None:
        self.step("make_dirs")
        parts = directory.split("/")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path not in self._names:
                self._names[path] = None
                self._changed(path)

    def rename(self, old: str, new: str) -> None:
        self.step("rename")
        if old not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", old)
        self._drop(new)
        for path in [path for path in self._names if path == old or path.startswith(old + "/")]:
            self._names[new + path[len(old) :]] = self._names.pop(path)
        self._changed(new)

    def remove(self, path: str) -> None:
        self.step("remove")
        del self._names[path]
        self._changed(path)

    def sync_dir(self, directory: str) -> None:
        self.step("sync_dir")
        # Journals commit in order: everything before the last change in this directory becomes durable too.
        last = max(
            (at for at, (path, _) in enumerate(self._changes, 1) if path.rpartition("/")[0] == directory), default=0
        )
        if last:
            self._durable = self._changes[last - 1][1]
            del self._changes[:last]

    def free_bytes(self, directory: str) -> int:
        return 1 << 40

    def _drop(self, tree: str) -> None:
        for path in [path for path in self._names if path == tree or path.startswith(tree + "/")]:
            del self._names[path]

    def _changed(self, path: str) -> None:
        self._changes.append((path, dict(self._names)))


class WorkerSyncs:
    """`ports.Syncs` by a worker: it decides when a sync is done, and the file how it went."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def begin(self, file: File, done: Done) -> None:
        """Sync the file in a job."""
        self._worker.submit(file.datasync, lambda _, error: done(error))


class StepWorker:
    """A worker whose jobs run when told to: `run()` runs all, with their answers."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = []

    def submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Keep a job for later."""
        self.jobs.append((job, done))

    def run_one(self) -> bool:
        """Run the oldest job and deliver its answer; False when there is none."""
        if not self.jobs:
            return False
        job, done = self.jobs.pop(0)
        try:
            result = job()
        except Crashed:
            raise
        except BaseException as error:  # as a worker does: the submitter decides
            done(None, error)
        else:
            done(result, None)
        return True

    def run(self) -> None:
        """Run all jobs, those they lead to as well."""
        while self.run_one():
            pass
