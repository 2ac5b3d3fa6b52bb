"""The write buffer between the state machine and the backend: what is not yet committed, for all buckets.

Two generations: writes go to the active one; `seal` turns it into the flushing one and hands it to the backend in a
single transaction. Reads look in active, flushing, then the backend. A deletion is a row whose value is None. At most
one generation is flushing; when its commit is acknowledged it is dropped. Decides nothing about *when* to seal.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import itemgetter
from typing import Protocol

from ratifyd.ports import Backend, BackendView, Done, Row, Scanned
from ratifyd.schema import BUCKETS, KEY

_Table = dict[bytes, bytes | None]
_MISSING = b"missing"


class _Base(Protocol):
    """What both a backend and a view of it can do."""

    def get(self, bucket: bytes, key: bytes) -> bytes | None: ...

    def get_many(self, bucket: bytes, keys: Iterable[bytes]) -> list[bytes | None]: ...

    def range(self, bucket: bytes, start: bytes, end: bytes | None) -> list[Row]: ...

    def scan(self, bucket: bytes, start: bytes, end: bytes | None, rows: int, max_bytes: int) -> Scanned: ...


class _Generation:
    """Uncommitted rows by bucket. Keys are only ever added, so a sorted list of them is stale iff it is shorter."""

    __slots__ = ("_order", "tables")

    def __init__(self, tables: dict[bytes, _Table]) -> None:
        self.tables = tables
        self._order: dict[bytes, list[bytes]] = {}

    def slice(self, bucket: bytes, start: bytes, end: bytes | None) -> list[bytes]:
        """Keys in [start, end), sorted."""
        table = self.tables[bucket]
        if not table:
            return []
        order = self._order.get(bucket)
        if order is None or len(order) != len(table):
            order = self._sort(bucket, table, order or [])
        last = len(order) if end is None else bisect_left(order, end)
        return order[bisect_left(order, start) : last]

    def _sort(self, bucket: bytes, table: _Table, order: list[bytes]) -> list[bytes]:
        added = list(islice(reversed(table), len(table) - len(order)))
        added.sort()
        at = bisect_left(order, added[0])
        if at == len(order) or added[-1] < order[at]:
            order[at:at] = added  # behind all, or between two: what a compaction removes lies before what is put
        else:
            order += added
            order.sort()
        self._order[bucket] = order
        return order


def _generation() -> _Generation:
    return _Generation({bucket: {} for bucket in BUCKETS})


class _Layered:
    """Reads through two generations of rows and what lies beneath."""

    __slots__ = ("_active", "_base", "_flushing")

    def __init__(self, active: _Generation, flushing: _Generation | None, base: _Base) -> None:
        self._active = active
        self._flushing = flushing
        self._base = base

    def get(self, bucket: bytes, key: bytes) -> bytes | None:
        """The value of a row, None when absent."""
        value = self._active.tables[bucket].get(key, _MISSING)
        if value is not _MISSING:
            return value
        if self._flushing is not None:
            value = self._flushing.tables[bucket].get(key, _MISSING)
            if value is not _MISSING:
                return value
        return self._base.get(bucket, key)

    def get_many(self, bucket: bytes, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of many rows, in the order asked."""
        active = self._active.tables[bucket]
        flushing = self._flushing.tables[bucket] if self._flushing is not None else {}
        if not active and not flushing:
            return self._base.get_many(bucket, keys)
        values = list(map(active.get, keys))
        if None not in values:
            return values
        missing = []
        for position, value in enumerate(values):
            if value is None:
                key = keys[position]
                if key in active:
                    continue
                if key in flushing:
                    values[position] = flushing[key]
                else:
                    missing.append(position)
        if len(missing) == len(keys):
            return self._base.get_many(bucket, keys)
        if missing:
            for position, value in zip(missing, self._base.get_many(bucket, [keys[p] for p in missing])):
                values[position] = value
        return values

    def range(self, bucket: bytes, start: bytes, end: bytes | None) -> list[Row]:
        """Rows with start <= key < end in key order."""
        newer = self._overlay(bucket, start, end)
        rows = self._base.range(bucket, start, end)
        return _merged(rows, newer) if newer else rows

    def scan(self, bucket: bytes, start: bytes, end: bytes | None, rows: int, max_bytes: int) -> Scanned:
        """As `range`, in slices: about `rows` rows, possibly none, whose values come to `max_bytes` at most or are one.

        Also the key to go on from, None when the range is at its end.
        """
        found, cursor = self._base.scan(bucket, start, end, rows, max_bytes)
        bound = end if cursor is None else cursor
        for generation in (self._active, self._flushing):
            if generation is not None and len(keys := generation.slice(bucket, start, bound)) > rows:
                bound = cursor = keys[rows]
        newer = self._overlay(bucket, start, bound)
        if not newer:
            return found, cursor
        if bound is not None and found and found[-1][0] >= bound:
            found = found[: bisect_left(found, bound, key=itemgetter(0))]
        found = _merged(found, newer)
        size = 0
        for position, (key, value) in enumerate(found):
            size += len(value)
            if size >= max_bytes and position + 1 < len(found):
                return found[: position + 1], key + b"\0"
        return found, cursor

    def _overlay(self, bucket: bytes, start: bytes, end: bytes | None) -> _Table:
        """Uncommitted rows of a range in key order."""
        table = self._active.tables[bucket]
        newer: _Table = {key: table[key] for key in self._active.slice(bucket, start, end)}
        if self._flushing is None:
            return newer
        keys = self._flushing.slice(bucket, start, end)
        if not keys:
            return newer
        table = self._flushing.tables[bucket]
        older: _Table = {key: table[key] for key in keys}
        if not newer:
            return older
        in_order = keys[-1] < next(iter(newer))
        older.update(newer)
        return older if in_order else {key: older[key] for key in sorted(older)}


def _merged(rows: list[Row], newer: _Table) -> list[Row]:
    """Rows of the backend with the uncommitted ones of the same range over them; both in key order."""
    if None not in newer.values() and not (rows and rows[-1][0] >= next(iter(newer))):
        return rows + list(newer.items())  # type: ignore[arg-type]  # no None among them
    merged: _Table = dict(rows)
    merged.update(newer)
    return [(key, value) for key in sorted(merged) if (value := merged[key]) is not None]


class BufferView(_Layered):
    """A pinned view of buffer and backend: stays as it was while writes and commits go on. Close it."""

    __slots__ = ("_close",)

    def __init__(self, active: _Generation, flushing: _Generation | None, view: BackendView) -> None:
        super().__init__(active, flushing, view)
        self._close: Callable[[], None] = view.close

    def close(self) -> None:
        """Release the backend's view."""
        self._close()


class WriteBuffer(_Layered):
    """The mutable buffer of one member.

    `revisions` is the active table of bucket `key`, offered for direct reads and writes on the hot path; it changes
    identity at every seal, so never keep it across one.
    """

    __slots__ = ("_backend", "revisions")

    def __init__(self, backend: Backend) -> None:
        super().__init__(_generation(), None, backend)
        self._backend = backend
        self.revisions: _Table = self._active.tables[KEY]

    @property
    def pending(self) -> int:
        """Rows in the active generation."""
        return sum(map(len, self._active.tables.values()))

    @property
    def flushing(self) -> bool:
        """Whether a sealed generation awaits its commit."""
        return self._flushing is not None

    def put(self, bucket: bytes, key: bytes, value: bytes) -> None:
        """Set a row."""
        self._active.tables[bucket][key] = value

    def delete(self, bucket: bytes, key: bytes) -> None:
        """Remove a row, present or not."""
        self._active.tables[bucket][key] = None

    def delete_many(self, bucket: bytes, keys: Iterable[bytes]) -> None:
        """Remove rows, present or not."""
        self._active.tables[bucket].update(dict.fromkeys(keys))

    def seal(self, done: Done | None = None) -> bool:
        """Hand the active generation to the backend; False if it is empty or another one is still flushing.

        `done` is called on the loop with None or the error; after an error the member must stop.
        """
        rows = {bucket: table for bucket, table in self._active.tables.items() if table}
        if self._flushing is not None or not rows:
            return False
        self._flushing = sealed = self._active
        self._active = _generation()
        self.revisions = self._active.tables[KEY]

        def committed(error: BaseException | None) -> None:
            if error is None and self._flushing is sealed:
                self._flushing = None
            if done is not None:
                done(error)

        self._backend.commit(rows, committed)
        return True

    def discard(self) -> None:
        """Forget all uncommitted rows: the backend was replaced by a snapshot that contains or supersedes them."""
        self._active, self._flushing = _generation(), None
        self.revisions = self._active.tables[KEY]

    def view(self) -> BufferView:
        """Pin the present state; costs a copy of the active generation's tables."""
        tables = {bucket: table.copy() for bucket, table in self._active.tables.items()}
        return BufferView(_Generation(tables), self._flushing, self._backend.view())
