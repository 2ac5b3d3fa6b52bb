"""Removal of superseded rows after a compaction was accepted: in slices, oldest revision first.

One scan over the rows up to the compacted revision trims the index, deletes what no read can see any more and hashes
what etcd would hash. Jobs run in order. A crash in between is harmless: the scan starts over on what is left.
Knows neither when it may run nor how fast.
"""

from collections import deque

from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.mvcc.hash import BYTES_PER_SLICE, CompactionHasher, HashCache
from ratifyd.mvcc.index import Index
from ratifyd.mvcc.records import row_key
from ratifyd.schema import FINISHED_COMPACT, KEY, META, REVISION_BYTES, encode_revision


class _Job:
    """One accepted compaction: its revision, the hash of what it keeps, whether that hash covers everything."""

    __slots__ = ("cursor", "first_of_revision", "hasher", "revision", "shows_any", "upper")

    def __init__(self, revision: int, hasher: CompactionHasher | None) -> None:
        self.revision = revision
        self.hasher = hasher
        self.shows_any = False
        """Whether any key is alive at the revision."""
        self.cursor: bytes | None = b""
        self.first_of_revision = encode_revision(revision, 0)
        self.upper = encode_revision(revision + 1, 0)


class Compaction:
    """The queue of accepted compactions of one store."""

    __slots__ = ("_buffer", "_hashes", "_index", "_jobs", "removed")

    def __init__(self, buffer: WriteBuffer, index: Index, hashes: HashCache) -> None:
        self._buffer = buffer
        self._index = index
        self._hashes = hashes
        self._jobs: deque[_Job] = deque()
        self.removed = 0

    @property
    def running(self) -> bool:
        """Whether an accepted compaction has rows left to look at."""
        return bool(self._jobs)

    @property
    def revision(self) -> int:
        """The revision of the compaction under way, -1 if there is none."""
        return self._jobs[0].revision if self._jobs else -1

    def schedule(self, revision: int, *, previous: int, complete: bool) -> None:
        """Queue a compaction to `revision`; its hash is remembered only if the one before (`previous`) is complete."""
        hasher = CompactionHasher(revision=revision, previous=previous) if complete else None
        self._jobs.append(_Job(revision, hasher))

    def step(self, max_rows: int) -> bool:
        """Look at up to `max_rows` rows; whether anything is left to do."""
        if not self._jobs:
            return False
        job = self._jobs[0]
        buffer, compact_key = self._buffer, self._index.compact_key
        assert job.cursor is not None, "a finished compaction goes on"
        rows, job.cursor = buffer.scan(KEY, job.cursor, job.upper, max_rows, BYTES_PER_SLICE)
        upper, first = job.upper, job.first_of_revision
        removed = [row for row, value in rows if not compact_key(row_key(value), row, upper, first)]
        buffer.delete_many(KEY, removed)
        self.removed += len(removed)
        if job.hasher is not None:
            job.hasher.add(rows, removed)
            if not job.shows_any:
                job.shows_any = any(len(row) == REVISION_BYTES for row in {row for row, _ in rows}.difference(removed))
        if job.cursor is not None:
            return True
        self._finish(job)
        return bool(self._jobs)

    def _finish(self, job: _Job) -> None:
        self._buffer.put(META, FINISHED_COMPACT, encode_revision(job.revision, 0))
        if job.hasher is not None and job.shows_any:  # else HashKV before this compaction is another one
            self._hashes.add(job.hasher.result())
        self._jobs.popleft()
