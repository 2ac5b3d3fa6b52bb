"""The multi-version store: reads at any kept revision, writes as transactions of one revision, compaction, hashes.

The index (memory) says which revision of a key is in force, the write buffer and the backend hold its encoded
mvccpb.KeyValue; results are those bytes. One write transaction may be open at a time; all of it happens on the loop.
Anything long is sliced; a pin keeps compaction from removing what a sliced read still needs.
Knows nothing of leases (a lease is a number in the value), users, quotas or raft.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from struct import Struct
from types import TracebackType

from ratifyd import errors
from ratifyd.keys import KeyRange
from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.mvcc.compaction import Compaction
from ratifyd.mvcc.counts import Counts
from ratifyd.mvcc.fields import FieldCache
from ratifyd.mvcc.hash import BYTES_PER_SLICE, HashCache, KvHash, hash_buckets, hash_revisions
from ratifyd.mvcc.index import Index
from ratifyd.mvcc.records import decode, first_version_key, row_key
from ratifyd.mvcc.watch import Change, WatchHub
from ratifyd.ports import Row
from ratifyd.proto import fast
from ratifyd.schema import (
    FINISHED_COMPACT,
    KEY,
    META,
    REVISION_BYTES,
    SCHEDULED_COMPACT,
    decode_revision,
    encode_revision,
    encode_tombstone,
    is_revision,
)

ROWS_PER_SLICE = 1000
"""Rows looked at between two yields of sliced work."""

MAX_REVISION = (1 << 64) - 1
"""The highest that fits into an encoded revision."""
MAX_RESTORED = 1 << 62
"""Beyond it there is no room for what is yet to be written; only damage makes such a revision."""

_pack_revision = Struct(">QcQ").pack


class RangeResult:
    """Encoded mvccpb.KeyValues in key order, and the number of keys in the range whatever the limit.

    Where fields were asked for, each KeyValue is one of a RangeResponse.
    """

    __slots__ = ("count", "kvs")

    def __init__(self, kvs: list[bytes], count: int) -> None:
        self.kvs = kvs
        self.count = count


class Store:
    """The key space of one member, over its write buffer. `restore` must run to its end before anything else."""

    __slots__ = (
        "_buffer",
        "_compaction",
        "_fields",
        "_hashes",
        "_hub",
        "_index",
        "_pins",
        "attachments",
        "compacted",
        "counts",
        "revision",
    )

    def __init__(self, buffer: WriteBuffer, hub: WatchHub) -> None:
        self._buffer = buffer
        self._hub = hub
        self._hashes = HashCache()
        self._index = Index()
        self._compaction = Compaction(buffer, self._index, self._hashes)
        self._pins: list[int] = []
        self._fields = FieldCache(self._values)
        self.revision = 1
        self.compacted = -1
        self.attachments: dict[bytes, int] = {}
        self.counts = Counts()
        hub.bind(self)

    # ------------------------------------------------------------------ reads

    def check_revision(self, revision: int) -> None:
        """Raise FutureRev or Compacted unless `revision` can be read; 0 and below mean the latest."""
        if revision > self.revision:
            raise errors.FutureRev
        if 0 < revision < self.compacted:
            raise errors.Compacted

    def get(self, key: bytes, revision: int = 0) -> bytes | None:
        """The KeyValue of one key in force at `revision`. Raises FutureRev, Compacted."""
        if 0 < revision != self.revision:
            self.check_revision(revision)
            row = self._index.get(key, revision)
            return None if row is None else self.value(row)
        newest = self._index.newest.get(key)
        if newest is None:
            return None
        return self._buffer.revisions.get(newest) or self.value(newest)

    def history_of(self, key: bytes) -> tuple[int, int, int]:
        """Creation, last change and version of a key, all 0 if it does not exist; from memory alone."""
        index = self._index
        newest = index.newest.get(key)
        if newest is None:
            return 0, 0, 0
        return index.created(key), decode_revision(newest)[0], index.version(key)

    def value(self, row: bytes) -> bytes:
        """The stored KeyValue of an encoded revision that exists."""
        value = self._buffer.get(KEY, row)
        assert value is not None, f"no record of revision {decode_revision(row)}"
        return value

    def range(
        self, keys: KeyRange, *, revision: int = 0, limit: int = 0, count_only: bool = False, fields: bool = False
    ) -> RangeResult:
        """Read a range in key order at `revision` (0 and below: latest). Raises FutureRev, Compacted."""
        self.check_revision(revision)
        revision = revision if 0 < revision < self.revision else 0
        return self._range(keys, revision, limit, count_only=count_only, fields=fields)

    def created(self, keys: KeyRange, *, newest: bool, up_to: int) -> tuple[list[bytes], int, int]:
        """The oldest or newest of the live keys of a range that were created up to a revision (0: whenever).

        The one KeyValue, if there is any; how many keys it was chosen from; and how many the range holds.
        """
        index = self._index
        names = [] if keys.is_empty else index.latest_keys(keys.start, keys.end)
        chosen = [name for name in names if index.created(name) <= up_to] if up_to else names
        if not chosen:
            return [], 0, len(names)
        edge = max(chosen, key=index.created) if newest else min(chosen, key=index.created)
        return self._values([index.newest[edge]]), len(chosen), len(names)

    def count(self, keys: KeyRange, revision: int = 0) -> int:
        """Number of keys in a range at `revision`. Raises FutureRev, Compacted."""
        return self.range(keys, revision=revision, count_only=True).count

    @contextmanager
    def _pinned(self, revision: int) -> Iterator[None]:
        """Keep what is in force at `revision` from being compacted away."""
        self._pins.append(revision)
        try:
            yield
        finally:
            self._pins.remove(revision)

    def range_slices(
        self, keys: KeyRange, *, revision: int, limit: int = 0, rows: int = ROWS_PER_SLICE, count_only: bool = False
    ) -> Generator[list[bytes], None, int]:
        """Read a long range at the fixed `revision` > 0 in slices of at most `rows` KeyValues, which may be empty.

        The first step reads nothing yet. The result is the number of keys whatever the limit.

        Compactions beyond `revision` wait from the first step until the generator is exhausted or closed. Raises
        FutureRev, Compacted; never step it while `restore` runs.
        """
        with self._pinned(revision):
            self.check_revision(revision)
            total = self.count(keys) if revision == self.revision else -1
            index = self._index
            yield []
            cursor, left, counted, at_once = keys.start, 0 if count_only else limit or len(self._index), 0, 16
            while True:
                if self._index is not index:  # a restore: its history may begin later
                    self.check_revision(revision)
                    index = self._index
                names, found = index.slice(cursor, keys.end, revision, rows)
                counted += len(found)
                del found[left:]
                left -= len(found)
                at = 0
                while True:
                    values = self._values(found[at : at + at_once])
                    yield values
                    if self._index is not index:  # what is in force may be gone
                        self.check_revision(revision)
                    at += at_once
                    if values:
                        slice_rows = len(values) * BYTES_PER_SLICE // (sum(map(len, values)) + 1)
                        at_once = max(1, min(slice_rows, 16 * at_once, rows))
                    if at >= len(found):
                        break
                if len(names) < rows:
                    return counted
                if left <= 0 <= total:
                    return total
                cursor = names[-1] + b"\0"

    def history(self, first: int, max_rows: int, max_bytes: int) -> tuple[list[Row], int]:
        """Rows of whole revisions from `first` on, and the last revision they cover.

        About `max_rows` of them, fewer where they are large, but never less than a revision.
        """
        start = encode_revision(max(first, 0), 0)
        rows: list[Row] = []
        cursor: bytes | None = start
        while not rows and cursor is not None:
            rows, cursor = self._buffer.scan(
                KEY, cursor, encode_revision(self.revision + 1, 0), max_rows + 1, max_bytes
            )
        if cursor is None:
            return rows, self.revision
        last, _ = decode_revision(rows[-1][0])
        last_start = encode_revision(last, 0)
        if rows[0][0] < last_start:  # the last one may go on: it is for the next time
            while rows[-1][0] >= last_start:
                rows.pop()
            return rows, last - 1
        return self._buffer.range(KEY, last_start, encode_revision(last + 1, 0)), last

    def _range(self, keys: KeyRange, revision: int, limit: int, *, count_only: bool, fields: bool) -> RangeResult:
        """Read as of `revision`, 0 for what the index has last."""
        start, end = keys
        if end is not None and end <= start:
            return RangeResult([], 0)
        index = self._index
        if revision:
            rows, count = index.range(start, end, revision, limit)
        elif end is not None and len(end) == len(start) + 1 and end == start + b"\0":
            newest = index.newest.get(start)
            if newest is None:
                return RangeResult([], 0)
            rows, count = [newest], 1
        elif count_only:
            return RangeResult([], index.latest_count(start, end))
        else:
            rows = index.latest(start, end, limit)
            count = len(rows) if limit <= 0 or len(rows) < limit else index.latest_count(start, end)
        if count_only:
            return RangeResult([], count)
        return RangeResult(self._fields.get_many(rows) if fields else self._values(rows), count)

    def _values(self, rows: list[bytes]) -> list[bytes]:
        values = self._buffer.get_many(KEY, rows)
        assert None not in values, "a revision of the index has no record"
        return values  # type: ignore[return-value]

    # ------------------------------------------------------------------ writes

    def write(self) -> "WriteTxn":
        """Open the write transaction; use it as a context manager. Exactly one may be open."""
        return WriteTxn(self, self._buffer, self._index, self._hub)

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key in a transaction of its own, without a lease."""
        self.revision = revision = self.revision + 1
        row = _pack_revision(revision, b"_", 0)
        create, version, replaced = self._index.put(key, row, revision)
        kv = fast.key_value(key, create, revision, version, value)
        self._buffer.revisions[row] = kv
        if self._hub.synced.size:
            self._hub.notify(revision, [(key, row, kv, replaced)])

    # ------------------------------------------------------------------ compaction and hashes

    def compact(self, revision: int) -> None:
        """Make revisions below `revision` unreadable; rows go by `compaction_step`. Raises Compacted, FutureRev."""
        if revision <= self.compacted:
            raise errors.Compacted
        if revision > self.revision:
            raise errors.FutureRev
        buffer = self._buffer
        complete = buffer.get(META, SCHEDULED_COMPACT) == buffer.get(META, FINISHED_COMPACT)
        previous, self.compacted = self.compacted, revision
        buffer.put(META, SCHEDULED_COMPACT, encode_revision(revision, 0))
        self._compaction.schedule(revision, previous=previous, complete=complete)

    def compaction_step(self, max_rows: int = ROWS_PER_SLICE) -> bool:
        """Look at up to `max_rows` rows for removal; whether more is left.

        Does nothing while a sliced read is open that began before the compaction and needs what it removes. Reads that
        begin later are of what it keeps, so they cannot hold it up for ever.
        """
        if self._pins and min(self._pins) < self._compaction.revision:
            return True
        return self._compaction.step(max_rows)

    @property
    def compacting(self) -> bool:
        """Whether an accepted compaction still has rows to remove."""
        return self._compaction.running

    @property
    def compacting_to(self) -> int:
        """Revision of the compaction whose rows are being removed, -1 if there is none."""
        return self._compaction.revision

    @property
    def rows_compacted(self) -> int:
        """Rows removed by compaction since the last restore (etcd db_compaction_keys_total)."""
        return self._compaction.removed

    @property
    def compaction_hashes(self) -> list[KvHash]:
        """Hashes of the last compactions, oldest revision first."""
        return self._hashes.hashes

    def hash_kv(self, revision: int = 0, rows: int = ROWS_PER_SLICE) -> Generator[int, None, KvHash]:
        """HashKV at `revision` (0: latest), sliced; later compactions wait for it. Raises Compacted, FutureRev.

        Canceled is raised when the store is restored meanwhile.
        """
        # 0 asks for the latest revision, also where a compaction at 0 has left a hash.
        known = self._hashes.get(revision) if revision else None
        if known is not None:
            return known
        self.check_revision(revision)
        index, compacted = self._index, self.compacted
        steps = hash_revisions(self._buffer, index, revision=revision or self.revision, compacted=compacted, rows=rows)
        with self._pinned(compacted):
            while True:
                try:
                    done = next(steps)
                except StopIteration as stop:
                    result: KvHash = stop.value
                    return result
                yield done
                if self._index is not index:
                    raise errors.Canceled

    def hash(self, rows: int = ROWS_PER_SLICE) -> Generator[int, None, int]:
        """Hash over all buckets as they are at the first step, sliced (etcd Maintenance.Hash)."""
        return hash_buckets(self._buffer, rows)

    # ------------------------------------------------------------------ recovery and checking

    def exceeds(self, keys: KeyRange, revision: int, count: int) -> bool:
        """Whether reading a range at `revision` takes a look at more than `count` keys."""
        index = self._index
        if len(index) <= count or keys.is_empty:
            return False
        return index.exceeds(keys.start, keys.end, count, deleted=0 < revision < self.revision)

    @property
    def key_count(self) -> int:
        """Number of live keys."""
        return len(self._index.live)

    def restore(self) -> Iterator[int]:
        """Rebuild everything from the buffer's rows; yields after each slice with the rows or keys it took.

        Also for a replaced backend: all watchers become lagging. `attachments` then has the lease of each
        live key that has one, for the caller to take. An unfinished compaction goes on by `compaction_step`.
        """
        self._hub.restore(self.revision)
        self._fields.clear()
        self._index = index = Index()
        self._compaction = Compaction(self._buffer, index, self._hashes)
        self.revision, self.compacted = 1, -1
        leases: dict[bytes, int] = {}
        cursor: bytes | None = b"\0"
        while cursor is not None:
            rows, cursor = self._buffer.scan(KEY, cursor, None, ROWS_PER_SLICE, BYTES_PER_SLICE)
            _restore_rows(index, rows, leases)
            if rows:
                self.revision, _ = decode_revision(rows[-1][0])
            yield len(rows)
        yield from index.finish_restore(ROWS_PER_SLICE)
        self._restore_compaction()
        self.attachments = leases

    def take_over(self, other: "Store") -> None:
        """Become equal to a store restored from the backend that has just replaced ours; all watchers become lagging.

        `other` must not be used any more. What it did in slices, this does at once.
        """
        self._hub.restore(self.revision)
        self._fields.clear()
        self._index = other._index
        self._hashes = HashCache()
        self._compaction = Compaction(self._buffer, self._index, self._hashes)
        self.revision = other.revision
        self._restore_compaction()

    def _restore_compaction(self) -> None:
        finished = self._meta_revision(FINISHED_COMPACT)
        scheduled = self._meta_revision(SCHEDULED_COMPACT)
        self.revision = max(1, self.revision, finished, scheduled)
        if self.revision > MAX_RESTORED:
            raise ValueError(f"no history has {self.revision} revisions")
        self.compacted = max(finished, scheduled)
        if scheduled > finished:
            self._compaction.schedule(scheduled, previous=finished, complete=False)

    def _meta_revision(self, name: bytes) -> int:
        """Main revision recorded in bucket `meta`, -1 if none."""
        data = self._buffer.get(META, name)
        return -1 if data is None else decode_revision(data)[0]

    def check(self) -> None:
        """Assert that index and rows agree; for tests and the offline tool (reads everything)."""
        index = self._index
        index.check()
        rows = dict(self._buffer.range(KEY, b"\0", None))
        names = [*index.live, *index.dead]
        known = {row for key in names for row in index.revisions(key)}
        assert known <= rows.keys(), "the index knows revisions without a record"
        if not self._compaction.running:
            assert known == rows.keys(), "records that the index does not know"
        for key in names:
            for row in index.revisions(key):
                assert row_key(rows[row]) == key, f"record of another key at a revision of {key!r}"
                main, _ = decode_revision(row)
                assert main <= self.revision, f"revision {main} of {key!r} is in the future"
            newest = index.newest.get(key)
            if newest is not None:
                stored = decode(rows[newest])
                main, _ = decode_revision(newest)
                create, version = index.created(key), index.version(key)
                expected = fast.key_value(key, create, main, version, stored.value, stored.lease)
                assert rows[newest] == expected, f"record of {key!r} differs from the index"


def _restore_rows(index: Index, rows: list[Row], leases: dict[bytes, int]) -> None:
    """Take a slice of bucket `key` into the index, and the leases of its keys into `leases`.

    Raises ValueError, DecodeError or struct.error for rows that nobody has written like this.
    """
    _check_form([row for row, _ in rows])
    newest = index.newest
    revision_bytes, longer = 0, b""
    for row, data in rows:
        if row >= longer:  # than the revisions whose varint has this length
            main, _ = decode_revision(row)
            revision_bytes = len(fast.varint(main))
            longer = encode_revision(min(1 << 7 * revision_bytes, MAX_REVISION), 0)
        name = first_version_key(data, revision_bytes)
        if name is not None and name not in newest:
            newest[name] = row  # if it had a lease in an earlier life, the tombstone has ended that
            continue
        record = decode(data)
        key = record.key
        if row_key(data) != key:
            raise ValueError(f"the key of the record at {row!r:.100} comes twice")
        index.restore(key, row, create=record.create_revision, version=record.version)
        lease = record.lease
        if lease:
            leases[key] = lease
        elif leases:
            leases.pop(key, None)


def _check_form(rows: list[bytes]) -> None:
    """Require keys of bucket `key` to be revisions or tombstones. Raises ValueError."""
    if set(map(len, rows)) != {REVISION_BYTES} or b"".join(rows)[8::REVISION_BYTES].count(b"_") != len(rows):
        for row in rows:
            if not is_revision(row):
                raise ValueError(f"{row!r:.100} is no revision")


class WriteTxn:
    """All changes of one revision. Changes take effect in the store at once; the revision advances on a clean exit.

    After the first change no error is legal: an exception that leaves the block makes the store unusable.
    """

    __slots__ = ("_buffer", "_changes", "_hub", "_index", "_replaced", "_store", "revision")

    def __init__(self, store: Store, buffer: WriteBuffer, index: Index, hub: WatchHub) -> None:
        self._store = store
        self._buffer = buffer
        self._index = index
        self._hub = hub
        self._changes: list[Change] = []
        self._replaced: dict[bytes, bytes] | None = None
        self.revision = store.revision + 1
        """The main revision of this transaction's changes."""

    def __enter__(self) -> "WriteTxn":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._changes and kind is None:
            assert self._store.revision == self.revision - 1, "two write transactions at once"
            self._store.revision = self.revision
            self._hub.notify(self.revision, self._changes)

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return bool(self._changes)

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        """Set a key; `lease` is recorded, not attached."""
        revision = self.revision
        changes = self._changes
        row = _pack_revision(revision, b"_", len(changes))
        create, version, replaced = self._index.put(key, row, revision)
        kv = fast.key_value(key, create, revision, version, value, lease)
        self._buffer.revisions[row] = kv
        changes.append((key, row, kv, replaced))

    def delete_range(self, keys: KeyRange) -> list[bytes]:
        """Delete all live keys of a range; returns them in order."""
        start, end = keys
        index = self._index
        if keys.is_point:
            names = [start] if start in index.newest else []
        elif keys.is_empty:
            names = []
        else:
            names = index.latest_keys(start, end)
        revision = self.revision
        revisions = self._buffer.revisions
        changes = self._changes
        for name in names:
            row = encode_tombstone(revision, len(changes))
            replaced = index.tombstone(name, row)
            revisions[row] = fast.tombstone(name)
            changes.append((name, row, fast.tombstone(name, revision), replaced))
        return names

    def range(
        self, keys: KeyRange, *, revision: int = 0, limit: int = 0, count_only: bool = False, fields: bool = False
    ) -> RangeResult:
        """As `Store.range`, own changes included; with changes, `revision` may be this transaction's."""
        current = self.revision if self._changes else self.revision - 1
        if revision > current:
            raise errors.FutureRev
        if 0 < revision < self._store.compacted:
            raise errors.Compacted
        revision = revision if 0 < revision < current else 0
        return self._store._range(keys, revision, limit, count_only=count_only, fields=fields)

    def created(self, keys: KeyRange, *, newest: bool, up_to: int) -> tuple[list[bytes], int, int]:
        """As `Store.created`, own changes included."""
        return self._store.created(keys, newest=newest, up_to=up_to)

    def previous(self, key: bytes) -> bytes | None:
        """The KeyValue that this transaction's last change of `key` replaced, None if there was none."""
        changes = self._changes
        if changes and changes[-1][0] == key:
            replaced = changes[-1][3]
        else:
            if self._replaced is None or len(self._replaced) < len(changes):
                self._replaced = {change[0]: change[3] or b"" for change in changes}
            replaced = self._replaced.get(key, b"")
        return self._store.value(replaced) if replaced else None
