"""Hashes of the store: etcd's HashKV, the hash of a compaction, and the hash over all buckets.

All are CRC-32C. They equal etcd's for the same history, whatever the progress of compactions. Long ones are generators:
each step hashes one slice of rows, the result is the generator's return value (`finish` runs one to its end).
"""

from collections.abc import Generator, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

import google_crc32c

from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.mvcc.index import Index
from ratifyd.mvcc.records import row_key
from ratifyd.ports import Row
from ratifyd.schema import (
    BUCKETS,
    CONSISTENT_INDEX,
    KEY,
    META,
    REVISION_BYTES,
    STORAGE_VERSION,
    TERM,
    encode_revision,
)

T = TypeVar("T")

CACHED_HASHES = 10
"""Hashes of compactions that are remembered."""

BYTES_PER_SLICE = 1 << 20
"""Values read in one slice of whatever walks over the rows, for rows may be large."""

_LOCAL_META = frozenset((CONSISTENT_INDEX, TERM, STORAGE_VERSION))
"""Rows of bucket `meta` that differ between members by nature."""

_crc32c = google_crc32c.extend


class KvHash(NamedTuple):
    """Hash of all revisions up to `revision`, with the rows at or below `compact_revision` reduced to the visible."""

    hash: int
    compact_revision: int
    revision: int


def finish(steps: Generator[int, None, T]) -> T:
    """Run a sliced computation to its end and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


class HashCache:
    """The newest compaction hashes, by revision."""

    __slots__ = ("hashes",)

    def __init__(self) -> None:
        self.hashes: list[KvHash] = []

    def add(self, found: KvHash) -> None:
        """Remember a hash, forgetting the one of the oldest revision when there are too many."""
        self.hashes = sorted([*self.hashes, found], key=lambda known: known.revision)[-CACHED_HASHES:]

    def get(self, revision: int) -> KvHash | None:
        """The hash of a compaction to `revision`."""
        for known in self.hashes:
            if known.revision == revision:
                return known
        return None


class CompactionHasher:
    """Hash of what a compaction to `revision` scans, as etcd takes it: HashKV as of the compaction before.

    Unlike for HashKV, etcd's keep set is never empty here: every revision has a change, and the newest one of its key
    at the compacted revision itself is kept, be it a tombstone. Where that is all, the two differ, and a check may call
    a member corrupt that has yet to compact: such a hash is not to be kept.
    """

    __slots__ = ("_crc", "_lower", "_previous", "_revision")

    def __init__(self, *, revision: int, previous: int) -> None:
        self._revision = revision
        self._previous = previous
        self._lower, _ = _compacted_rows(previous)
        self._crc = _crc32c(0, KEY)

    def add(self, rows: Sequence[Row], removed: Sequence[bytes]) -> None:
        """Take the next rows, of which `removed` do not survive this compaction."""
        if removed and removed[0] < self._lower:
            left_out = {row for row in removed if row < self._lower}
            rows = [row for row in rows if row[0] not in left_out]
        self._crc = _crc32c(self._crc, b"".join(chain.from_iterable(rows)))

    def result(self) -> KvHash:
        """The hash, once all rows were taken."""
        return KvHash(self._crc, self._previous, self._revision)


def _compacted_rows(compacted: int) -> tuple[bytes, bytes]:
    """Upper bound of the rows at or below a compacted revision, and the first of those exactly at it."""
    if compacted < 0:
        return b"", b""
    return encode_revision(compacted + 1, 0), encode_revision(compacted, 0)


def hash_revisions(
    buffer: WriteBuffer, index: Index, *, revision: int, compacted: int, rows: int
) -> Generator[int, None, KvHash]:
    """HashKV at `revision` (etcd HashByRev), `rows` per slice. The caller holds off compactions beyond `compacted`."""
    crc = _crc32c(0, KEY)
    if revision < 0:
        return KvHash(crc, compacted, revision)
    lower, compacted_first = _compacted_rows(compacted)
    upper = encode_revision(revision + 1, 0)
    shows_any: bool | None = None
    start = b""
    while True:
        found, following = buffer.scan(KEY, start, upper, rows, BYTES_PER_SLICE)
        if start >= lower:
            crc = _crc32c(crc, b"".join(chain.from_iterable(found)))
        else:
            parts: list[bytes] = []
            for row, value in found:
                if row < lower:
                    if len(row) != REVISION_BYTES and row >= compacted_first:
                        continue
                    key = row_key(value)
                    if index.visible(key, upper) != row:
                        if shows_any is None:
                            shows_any = yield from _shows_any(index, revision, rows)
                        # Where nothing is alive etcd takes what it finds; what is still to be removed must not count.
                        if shows_any or index.visible(key, lower) != row:
                            continue
                parts += (row, value)
            crc = _crc32c(crc, b"".join(parts))
        if following is None:
            return KvHash(crc, compacted, revision)
        start = following
        yield len(found)


def _shows_any(index: Index, revision: int, rows: int) -> Generator[int, None, bool]:
    """Whether any key is alive at `revision`."""
    cursor = b""
    while True:
        names, found = index.slice(cursor, None, revision, rows)
        if found:
            return True
        if len(names) < rows:
            return False
        cursor = names[-1] + b"\0"
        yield 0


def hash_buckets(buffer: WriteBuffer, rows: int) -> Generator[int, None, int]:
    """Hash over all buckets (etcd Maintenance.Hash) as they are at the first step, `rows` per slice."""
    view = buffer.view()
    try:
        crc = 0
        for bucket in BUCKETS:
            crc = _crc32c(crc, bucket)
            cursor: bytes | None = b""
            while cursor is not None:
                found, cursor = view.scan(bucket, cursor, None, rows, BYTES_PER_SLICE)
                kept = [row for row in found if row[0] not in _LOCAL_META] if bucket == META else found
                crc = _crc32c(crc, b"".join(chain.from_iterable(kept)))
                yield len(found)
        return crc
    finally:
        view.close()
