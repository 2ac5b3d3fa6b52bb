"""Backends on a simulated machine: named by a file of its disk, so that renames and crashes treat them as any file.

The file holds a token, the machine remembers the rows behind each token. A commit is durable when its job has run, and
visible when that is acknowledged; a crash in between keeps it.
"""

from collections import deque
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

from ratifyd.ports import BackendView, Done, Rows, Worker
from ratifyd.storage.memory import MemoryBackend
from simulation.clock import MemberClock
from simulation.disk import SimDisk

_TOKEN_BYTES = 8


class SimWorker:
    """One background thread: jobs in order, each after some time, answers a little later."""

    def __init__(self, clock: MemberClock, random: Random, latency_s: Callable[[], float]) -> None:
        self._clock = clock
        self._random = random
        self._latency_s = latency_s
        self._jobs: deque[tuple[Callable[[], Any], Callable[[Any, BaseException | None], object]]] = deque()

    def submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], object]) -> None:
        """Run a job when its turn comes."""
        self._jobs.append((job, done))
        if len(self._jobs) == 1:
            self._clock.call_later(self._latency_s(), self._run)

    def _run(self) -> None:
        job, done = self._jobs[0]
        result, failure = None, None
        try:
            result = job()
        except Exception as error:  # as a worker does: the submitter decides
            failure = error
        self._jobs.popleft()
        if self._random.random() < 0.5:
            self._clock.call_soon(done, result, failure)
        else:
            self._clock.call_later(self._random.random() * 0.001, self._answer, done, result, failure)
        if self._jobs:
            self._clock.call_later(self._latency_s(), self._run)

    def _answer(self, done: Callable[[Any, BaseException | None], object], result: Any, error: Any) -> None:
        done(result, error)


class SimBackend(MemoryBackend):
    """A backend file that is open."""

    __slots__ = ("_files", "_landed", "_path", "_token")

    def __init__(self, files: "BackendFiles", path: str, token: bytes, worker: Worker) -> None:
        super().__init__(worker)
        self._files = files
        self._path = path
        self._token = token
        self._landed: deque[Rows] = deque()

    def recovered(self, worker: Worker) -> "SimBackend":
        """What another process finds in the file."""
        other = SimBackend(self._files, self._path, self._token, worker)
        other.take(self.survivor(worker))
        for rows in self._landed:
            other.write(rows)
        return other

    def commit(self, rows: Rows, done: Done) -> None:
        """As the base, durable from the moment its job has run."""

        def land() -> None:
            self._files.disk.step("commit")
            self._landed.append(rows)

        def landed(_: None, error: BaseException | None) -> None:
            if error is None:
                self.write(self._landed.popleft())
            done(error)

        self._worker.submit(land, landed)

    def defragment(self, done: Done) -> None:
        """Rewrite the file, in order with commits."""
        self._worker.submit(lambda: self._files.disk.step("defragment"), lambda _, error: done(error))

    def own_view(self) -> BackendView:
        """The last commit, pinned."""
        return self.view()

    def replace(self, source: str, done: Done) -> None:
        """Make the backend at `source` this one."""

        def adopt() -> "tuple[bytes, MemoryBackend]":
            token = self._files.token_of(source)
            self._files.rename(source, self._path)
            return token, self._files.rows_of(token)

        def adopted(found: "tuple[bytes, MemoryBackend] | None", error: BaseException | None) -> None:
            if found is not None:
                self._token = found[0]
                self.take(found[1])
                self._files.opened(self._token, self)
            done(error)

        self._worker.submit(adopt, adopted)


class BackendFiles:
    """All backends of a machine."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self._backends: dict[bytes, SimBackend] = {}
        self._tokens = count(1)

    def open(self, path: str, worker: Worker) -> SimBackend:
        """Open or create a backend."""
        token = self.token_of(path) if self.disk.exists(path) else b""
        known = self._backends.get(token)
        if known is not None:
            backend = known.recovered(worker)
            backend._path = path
        else:
            token = self._create(path)
            backend = SimBackend(self, path, token, worker)
        self._backends[token] = backend
        return backend

    def create(self, path: str, rows: Rows, worker: Worker) -> None:
        """Make a backend of these rows; neither it nor its name is durable."""
        token = self._write_token(path)
        self._backends[token] = backend = SimBackend(self, path, token, worker)
        backend.write(rows)

    def token_of(self, path: str) -> bytes:
        """What identifies the rows behind a file."""
        return self.disk.open(path).pread(_TOKEN_BYTES, 0)

    def rows_of(self, token: bytes) -> MemoryBackend:
        """The rows behind a token."""
        return self._backends[token]

    def opened(self, token: bytes, backend: SimBackend) -> None:
        """Have a token stand for what this open backend holds."""
        self._backends[token] = backend

    def rename(self, old: str, new: str) -> None:
        """Rename durably."""
        self.disk.rename(old, new)
        self.disk.sync_dir(new.rpartition("/")[0])

    def _create(self, path: str) -> bytes:
        token = self._write_token(path)
        self.disk.open(path).datasync()
        self.disk.sync_dir(path.rpartition("/")[0])
        return token

    def _write_token(self, path: str) -> bytes:
        token = next(self._tokens).to_bytes(_TOKEN_BYTES, "big")
        self.disk.open(path, create=True).pwrite(token, 0)
        return token
