"""Rows read lately, as the fields they are in the answer to a Range: a dict look-up, no search in the backend.

What is stored at a revision never changes, so nothing here is ever out of date; only another backend makes it so
(`clear`). Bounded in bytes by two generations: rows go to the young one, which becomes the old one when it is full, and
the old one is forgotten unless it was asked for again. Long reads, which would only drive out the rest, pass it by.
"""

from collections.abc import Callable

from ratifyd.proto import fast

MAX_BYTES = 32 << 20
"""What all rows may take in memory, both generations."""
_ROW_BYTES = 150
"""What a row takes besides its content: an object, its place in the dict."""

Read = Callable[[list[bytes]], list[bytes]]


class FieldCache:
    """Fields of bucket `key`, by encoded revision; what is not here comes from `read`."""

    __slots__ = ("_generation_bytes", "_old", "_read", "_size", "_young")

    def __init__(self, read: Read, max_bytes: int = MAX_BYTES) -> None:
        self._read = read
        self._generation_bytes = max_bytes // 2
        self._size = 0
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}

    def get_many(self, rows: list[bytes]) -> list[bytes]:
        """The KeyValues of rows that exist, each as field `kvs` of a RangeResponse."""
        found = list(map(self._young.get, rows))
        return self._complete(rows, found) if None in found else found  # type: ignore[return-value]

    def clear(self) -> None:
        """Forget everything: the rows are of a backend that was replaced."""
        self._size = 0
        self._young, self._old = {}, {}

    def _complete(self, rows: list[bytes], found: list[bytes | None]) -> list[bytes]:
        fresh = {row: self._old.get(row) for row, field in zip(rows, found) if field is None}
        missing = [row for row, field in fresh.items() if field is None]
        fresh.update(zip(missing, fast.kv_fields(self._read(missing))))
        fields = [field or fresh[row] for row, field in zip(rows, found)]
        self._keep(fresh)  # type: ignore[arg-type]  # no None is left
        return fields  # type: ignore[return-value]

    def _keep(self, fresh: dict[bytes, bytes]) -> None:
        self._size += sum(map(len, fresh.values())) + _ROW_BYTES * len(fresh)
        if self._size > self._generation_bytes:
            self._old, self._young = self._young, {}
            self._size = sum(map(len, fresh.values())) + _ROW_BYTES * len(fresh)
            if self._size > self._generation_bytes:
                self._size = 0
                return
        self._young.update(fresh)
