"""A backend without a file: the same contract as LMDB's, for embedded in-memory members, tests and the simulator.

Rows change only when a commit is acknowledged on the loop, so what a crash leaves is the last acknowledged commit.
Pinned views stay cheap: a commit saves the old rows it changes into each open view.
"""

from collections.abc import Iterable
from operator import itemgetter

from sortedcontainers import SortedDict

from ratifyd import schema
from ratifyd.ports import BackendView, Done, Row, Rows, Scanned, Worker

_ROW_OVERHEAD_BYTES = 16


class MemoryBackend:
    """`ports.Backend` over sorted dicts. Every call comes from the loop."""

    __slots__ = ("_buckets", "_size", "_views", "_worker")

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._buckets: dict[bytes, SortedDict] = {name: SortedDict() for name in schema.BUCKETS}
        self._views: list[_MemoryView] = []
        self._size = 0

    def survivor(self, worker: Worker) -> "MemoryBackend":
        """What a restarted process finds after a crash: the acknowledged rows, no view or commit of the old one."""
        other = MemoryBackend(worker)
        for name, rows in self._buckets.items():
            other._buckets[name].update(rows)
        other._size = self._size
        return other

    def get(self, bucket: bytes, key: bytes) -> bytes | None:
        """Value of a key, None when absent."""
        value: bytes | None = self._buckets[bucket].get(key)
        return value

    def get_many(self, bucket: bytes, keys: Iterable[bytes]) -> list[bytes | None]:
        """Values of keys, in their order."""
        return list(map(self._buckets[bucket].get, keys))

    def range(self, bucket: bytes, start: bytes, end: bytes | None) -> list[Row]:
        """Rows with start <= key < end in key order."""
        rows = self._buckets[bucket]
        return [(key, rows[key]) for key in rows.irange(start, end, inclusive=(True, False))]

    def scan(self, bucket: bytes, start: bytes, end: bytes | None, rows: int, max_bytes: int) -> Scanned:
        """The first `rows` rows of a range, fewer once their values come to `max_bytes`, and where to go on."""
        table = self._buckets[bucket]
        return _cut(((key, table[key]) for key in table.irange(start, end, inclusive=(True, False))), rows, max_bytes)

    def view(self) -> BackendView:
        """A view of the rows as they are now, until it is closed."""
        view = _MemoryView(self)
        self._views.append(view)
        return view

    def commit(self, rows: Rows, done: Done) -> None:
        """Apply a sealed batch; visible from the moment `done` is called."""

        def applied(_: None, error: BaseException | None) -> None:
            if error is None:
                self.write(rows)
            done(error)

        self._worker.submit(_nothing, applied)

    def size(self) -> int:
        """Bytes of all rows."""
        return self._size

    def size_in_use(self) -> int:
        """Bytes of all rows: nothing is ever free here."""
        return self._size

    def defragment(self, done: Done) -> None:
        """There is nothing to rewrite; answers in order with commits."""
        self._worker.submit(_nothing, lambda _, error: done(error))

    def close(self) -> None:
        """Nothing is held."""

    def take(self, other: "MemoryBackend") -> None:
        """Hold what another backend holds; views that are open stay as they are."""
        old = MemoryBackend(self._worker)
        old._buckets = self._buckets
        for view in self._views:
            view.move(old)
        self._views = []
        self._buckets = {name: SortedDict(rows) for name, rows in other._buckets.items()}
        self._size = other._size

    def write(self, batch: Rows) -> None:
        """Apply rows at once."""
        for bucket, changes in batch.items():
            rows = self._buckets[bucket]
            for view in self._views:
                view.keep(bucket, rows, changes)
            for key, value in changes.items():
                old = rows.get(key)
                if old is not None:
                    self._size -= len(key) + len(old) + _ROW_OVERHEAD_BYTES
                if value is None:
                    rows.pop(key, None)
                else:
                    rows[key] = value
                    self._size += len(key) + len(value) + _ROW_OVERHEAD_BYTES


class _MemoryView:
    """The backend as it was when the view was opened: rows changed since are remembered here."""

    __slots__ = ("_backend", "_closed", "_kept")

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self._closed = False
        self._kept: dict[bytes, dict[bytes, bytes | None]] = {}

    def move(self, backend: MemoryBackend) -> None:
        """Look at another backend, which holds the same rows."""
        self._backend = backend
        backend._views.append(self)

    def keep(self, bucket: bytes, rows: SortedDict, keys: Iterable[bytes]) -> None:
        """Remember what `keys` were before a commit, unless an earlier one changed them already."""
        kept = self._kept.setdefault(bucket, {})
        for key in keys:
            if key not in kept:
                kept[key] = rows.get(key)

    def get(self, bucket: bytes, key: bytes) -> bytes | None:
        kept = self._kept.get(bucket)
        if kept is not None and key in kept:
            return kept[key]
        return self._backend.get(bucket, key)

    def get_many(self, bucket: bytes, keys: Iterable[bytes]) -> list[bytes | None]:
        return [self.get(bucket, key) for key in keys]

    def range(self, bucket: bytes, start: bytes, end: bytes | None) -> list[Row]:
        kept = self._kept.get(bucket)
        if not kept:
            return self._backend.range(bucket, start, end)
        found = [row for row in self._backend.range(bucket, start, end) if row[0] not in kept]
        found += [
            (key, value)
            for key, value in kept.items()
            if value is not None and start <= key and (end is None or key < end)
        ]
        found.sort(key=itemgetter(0))
        return found

    def scan(self, bucket: bytes, start: bytes, end: bytes | None, rows: int, max_bytes: int) -> Scanned:
        return _cut(self.range(bucket, start, end), rows, max_bytes)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._backend._views.remove(self)


def _cut(found: Iterable[Row], rows: int, max_bytes: int) -> Scanned:
    """What `BackendView.scan` answers of the rows of a range."""
    taken: list[Row] = []
    for row in found:
        taken.append(row)
        max_bytes -= len(row[1])
        if len(taken) >= rows or max_bytes <= 0:
            return taken, row[0] + b"\0"
    return taken, None


def _nothing() -> None:
    return None
