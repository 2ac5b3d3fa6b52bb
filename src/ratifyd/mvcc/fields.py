"""Rows read lately, as the fields they are in the answer to a Range: a dict look-up, no search in the backend.

What is stored at a revision never changes, so nothing here is ever out of date; only another backend makes it so
(`clear`). Rows are kept when they are read for the second time, so that who reads everything once drives out nothing.
Bounded in bytes by two generations: rows go to the young one, which becomes the old one when it is full, and the old
one is forgotten but for what was asked for again.
"""

from collections.abc import Callable

from ratifyd.proto import fast

MAX_BYTES = 32 << 20
"""What all rows may take in memory, both generations."""
MAX_SEEN = 10_000
"""Ranges that may have been read once."""
_ROW_BYTES = 150
"""What a row takes besides its content: an object, its place in the dict."""

Read = Callable[[list[bytes]], list[bytes]]


class FieldCache:
    """Fields of bucket `key`, by encoded revision; what is not here comes from `read`."""

    __slots__ = ("_generation_bytes", "_old", "_read", "_seen", "_size", "_young")

    def __init__(self, read: Read, max_bytes: int = MAX_BYTES) -> None:
        self._read = read
        self._generation_bytes = max_bytes // 2
        self._size = 0
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._seen: set[bytes] = set()
        """The first rows of what was read once."""

    def get_many(self, rows: list[bytes]) -> list[bytes]:
        """The KeyValues of rows that exist, each as field `kvs` of a RangeResponse."""
        found = list(map(self._young.get, rows))
        return self._complete(rows, found) if None in found else found  # type: ignore[return-value]

    def clear(self) -> None:
        """Forget everything: the rows are of a backend that was replaced."""
        self._size = 0
        self._young, self._old = {}, {}
        self._seen.clear()

    def _complete(self, rows: list[bytes], found: list[bytes | None]) -> list[bytes]:
        missing = [row for row, field in zip(rows, found) if field is None]
        fields = list(map(self._old.get, missing))
        if fields.count(None) == len(fields):
            fresh = fast.kv_fields(self._read(missing))
            again = self._is_seen(missing[0])
        else:
            unknown = [row for row, field in zip(missing, fields) if field is None]
            read = iter(fast.kv_fields(self._read(unknown)))
            fresh = [field or next(read) for field in fields]
            again = True
        if again:
            self._keep(missing, fresh)
        if len(fresh) == len(rows):
            return fresh
        rest = iter(fresh)
        return [field or next(rest) for field in found]

    def _is_seen(self, row: bytes) -> bool:
        """Whether what begins with this row was read before; notes that it was."""
        seen = self._seen
        if row in seen:
            return True
        if len(seen) >= MAX_SEEN:
            seen.clear()
        seen.add(row)
        return False

    def _keep(self, rows: list[bytes], fields: list[bytes]) -> None:
        size = sum(map(len, fields)) + _ROW_BYTES * len(fields)
        if size > self._generation_bytes:
            return
        if self._size + size > self._generation_bytes:
            self._old, self._young, self._size = self._young, {}, 0
        self._young.update(zip(rows, fields))
        self._size += size
