"""Writing bbolt files: a sound, compact file from sorted rows, as a stream whose size is known before its first byte.

The rows are walked twice: `measure` lays the pages out, `chunks` makes their bytes, so memory holds a few pages only.
Pages follow bbolt's own rules (small buckets inline, at least two rows a page, overflow pages behind big ones) and an
empty freelist is kept, so bbolt opens the file without scanning it. Knows nothing of what rows mean.
"""

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain, islice
from operator import lt
from struct import Struct

from ratifyd.formats.bboltpage import (
    BRANCH,
    BUCKET_HEADER,
    BUCKET_ROW,
    ELEMENT_BYTES,
    FIRST_DATA_PAGE,
    FREELIST,
    HEADER_BYTES,
    LEAF,
    META,
    PAGE_BYTES,
    PAGE_HEADER,
    Meta,
    encode_meta,
)

Row = tuple[bytes, bytes]
OpenRows = Callable[[], Iterable[Sequence[Row]]]
"""Starts a walk over a bucket's rows, sorted, in slices of any length; every walk must bring the same rows."""

CHUNK_BYTES = 256 << 10
"""Chunks are about this long, a page more at most: longer only when a single row is."""

FILL = 0.9
"""Share of a page that is filled; etcd's own for rows that arrive in order."""

_TXID = 2
_MIN_ROWS = 2
_INLINE_SHARE = 4
_FREELIST_PAGE = FIRST_DATA_PAGE


class BoltImage:
    """A bbolt file in the making. After `measure` has ended, `size` is known and `chunks` may be taken, repeatedly."""

    __slots__ = ("_buckets", "_fill", "_meta", "_page_size")

    def __init__(self, buckets: Mapping[bytes, OpenRows], *, page_size: int = PAGE_BYTES, fill: float = FILL) -> None:
        """`fill` is the share of each page to use, up to 1."""
        self._buckets = sorted(buckets.items())
        self._page_size = page_size
        self._fill = fill
        self._meta: Meta | None = None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        assert self._meta is not None, "not measured yet"
        return self._meta.high_water * self._page_size

    def measure(self) -> Iterator[None]:
        """Lay the pages out; a step for each slice of rows. Raises ValueError when rows are not sorted."""
        pages = _Pages(self._page_size, self._fill, make_bytes=False)
        yield from pages.add_root(self._buckets)
        self._meta = Meta(self._page_size, pages.root, 0, _FREELIST_PAGE, pages.next, _TXID)

    def chunks(self) -> Iterator[bytes]:
        """The bytes of the file, `size` in all. Raises ValueError when the rows are not those that were measured.

        An empty chunk only gives the caller a chance to pause.
        """
        meta = self._meta
        assert meta is not None, "not measured yet"
        pages = _Pages(self._page_size, self._fill, make_bytes=True)
        yield self._front(meta)
        for _ in pages.add_root(self._buckets):
            yield pages.take() if pages.pending >= CHUNK_BYTES else b""
        if (pages.root, pages.next) != (meta.root, meta.high_water):
            raise ValueError("the rows changed between measuring and writing")
        yield pages.take()

    def _front(self, meta: Meta) -> bytes:
        """Both metas and the empty freelist. The older meta differs in its transaction only, as in bbolt's copies."""
        size = self._page_size
        pages = [(META, encode_meta(meta)), (META, encode_meta(meta._replace(txid=meta.txid - 1))), (FREELIST, b"")]
        return b"".join(
            (PAGE_HEADER.pack(number, flags, 0, 0) + body).ljust(size, b"\0")
            for number, (flags, body) in enumerate(pages)
        )


class _Pages:
    """Gives out page ids in file order and, unless only measuring, makes their bytes."""

    __slots__ = ("_limit", "_make_bytes", "_out", "_page_size", "_zeros", "next", "pending", "root")

    def __init__(self, page_size: int, fill: float, *, make_bytes: bool) -> None:
        self._page_size = page_size
        self._limit = int(page_size * fill) - HEADER_BYTES
        self._make_bytes = make_bytes
        self._out: list[bytes] = []
        self._zeros = bytes(page_size)
        self.pending = 0
        """Bytes ready to be taken."""
        self.next = _FREELIST_PAGE + 1
        self.root = 0

    def take(self) -> bytes:
        """The pages made since the last call."""
        data = b"".join(self._out)
        self._out.clear()
        self.pending = 0
        return data

    def add_root(self, buckets: Iterable[tuple[bytes, OpenRows]]) -> Iterator[None]:
        """Write all buckets, then the root bucket that names them."""
        rows: list[Row] = []
        for name, open_rows in buckets:
            header = yield from self._add_bucket(open_rows())
            rows.append((name, header))
        self.root = yield from self._add_tree([rows], BUCKET_ROW)

    def _add_bucket(self, slices: Iterable[Sequence[Row]]) -> Generator[None, None, bytes]:
        """Write a bucket's pages, none when it fits inline; its value in the root bucket."""
        source = iter(slices)
        head: list[Row] = []
        room = self._page_size // _INLINE_SHARE - HEADER_BYTES
        for rows in source:
            head += rows
            if len(head) * ELEMENT_BYTES + sum(len(key) + len(value) for key, value in head) > room:
                root = yield from self._add_tree(chain([head], source), 0)
                return BUCKET_HEADER.pack(root, 0)
        _check_sorted(head)
        return BUCKET_HEADER.pack(0, 0) + b"".join(_leaf_parts(0, 0, head, 0))

    def _add_tree(self, slices: Iterable[Sequence[Row]], flags: int) -> Generator[None, None, int]:
        """Write the pages of a tree, children before parents; its root page."""
        levels = _Levels(self._limit, self._add_branch)
        limit = self._limit
        rest: Sequence[Row] = ()
        for rows in slices:
            rows = [*rest, *rows]
            if not self._make_bytes:
                _check_sorted(rows)
            ends = list(accumulate([ELEMENT_BYTES + len(key) + len(value) for key, value in rows]))
            start = base = 0
            while (end := max(bisect_right(ends, base + limit, start), start + _MIN_ROWS)) < len(ends):
                levels.add(0, rows[start][0], self._add_leaf(rows[start:end], ends[end - 1] - base, flags))
                if self.pending >= CHUNK_BYTES:
                    yield
                base = ends[end - 1]
                start = end
            rest = rows[start:]
            yield
        size = sum(ELEMENT_BYTES + len(key) + len(value) for key, value in rest)
        page = self._add_leaf(rest, size, flags)
        return levels.finish(rest[0][0] if rest else b"", page)

    def _add_leaf(self, rows: Sequence[Row], size: int, flags: int) -> int:
        page, overflow, padding = self._place(HEADER_BYTES + size)
        if self._make_bytes:
            self._out += _leaf_parts(page, overflow, rows, flags)
            self._out.append(self._zeros[:padding])
        return page

    def _add_branch(self, rows: Sequence[tuple[bytes, int]], size: int) -> int:
        page, overflow, padding = self._place(HEADER_BYTES + size)
        if self._make_bytes:
            self._out += _branch_parts(page, overflow, rows)
            self._out.append(self._zeros[:padding])
        return page

    def _place(self, size: int) -> tuple[int, int, int]:
        """(page id, overflow, padding) for a node of `size` bytes."""
        pages = -(-size // self._page_size)
        page = self.next
        self.next += pages
        if self._make_bytes:
            self.pending += pages * self._page_size
        return page, pages - 1, pages * self._page_size - size


class _Levels:
    """The branch pages above the pages of one tree: a page is written as soon as its entries are known."""

    __slots__ = ("_add_page", "_levels", "_limit", "_sizes")

    def __init__(self, limit: int, add_page: Callable[[Sequence[tuple[bytes, int]], int], int]) -> None:
        self._limit = limit
        self._add_page = add_page
        self._levels: list[list[tuple[bytes, int]]] = []
        self._sizes: list[int] = []

    def add(self, level: int, key: bytes, page: int) -> None:
        """Name a finished page, by its smallest key, in the branch above."""
        if level == len(self._levels):
            self._levels.append([])
            self._sizes.append(0)
        self._levels[level].append((key, page))
        self._sizes[level] += ELEMENT_BYTES + len(key)
        # Two entries stay behind, so that the last page of a level has at least two as well.
        if self._sizes[level] > self._limit and len(self._levels[level]) >= 2 * _MIN_ROWS:
            self._flush(level, _MIN_ROWS)

    def finish(self, key: bytes, page: int) -> int:
        """Add the last page of the tree and close all levels; the root page."""
        if not self._levels:
            return page
        self.add(0, key, page)
        level = 0
        while level < len(self._levels) - 1 or len(self._levels[level]) > 1:
            self._flush(level, 0)
            level += 1
        return self._levels[level][0][1]

    def _flush(self, level: int, keep: int) -> None:
        """Write a branch page of all but the last `keep` entries."""
        entries = self._levels[level]
        cut = len(entries) - keep
        kept = sum(ELEMENT_BYTES + len(key) for key, _ in entries[cut:])
        page = self._add_page(entries[:cut], self._sizes[level] - kept)
        self._levels[level] = entries[cut:]
        self._sizes[level] = kept
        self.add(level + 1, entries[0][0], page)


def _check_sorted(rows: Sequence[Row]) -> None:
    keys = [key for key, _ in rows]
    if not all(map(lt, keys, islice(keys, 1, None))):
        raise ValueError("rows are not sorted by key")


def _leaf_parts(page: int, overflow: int, rows: Sequence[Row], flags: int) -> list[bytes]:
    """Header, elements, keys and values of a leaf page, without its padding."""
    count = len(rows)
    parts = [b"", b"", *chain.from_iterable(rows)]
    sizes = list(map(len, parts))
    key_sizes, value_sizes = sizes[2::2], sizes[3::2]
    table = [flags] * (4 * count)
    position = ELEMENT_BYTES * count
    positions = []
    for key_size, value_size in zip(key_sizes, value_sizes):
        positions.append(position)
        position += key_size + value_size - ELEMENT_BYTES
    table[1::4] = positions
    table[2::4] = key_sizes
    table[3::4] = value_sizes
    parts[0] = PAGE_HEADER.pack(page, LEAF, count, overflow)
    parts[1] = _leaf_table(count).pack(*table)
    return parts


def _branch_parts(page: int, overflow: int, rows: Sequence[tuple[bytes, int]]) -> list[bytes]:
    """Header, elements and keys of a branch page, without its padding."""
    table: list[int] = []
    position = ELEMENT_BYTES * len(rows)
    for key, child in rows:
        table += (position, len(key), child)
        position += len(key) - ELEMENT_BYTES
    header = PAGE_HEADER.pack(page, BRANCH, len(rows), overflow)
    return [header, _branch_table(len(rows)).pack(*table), *(key for key, _ in rows)]


@lru_cache(maxsize=512)
def _leaf_table(count: int) -> Struct:
    return Struct(f"<{4 * count}I")


@lru_cache(maxsize=512)
def _branch_table(count: int) -> Struct:
    return Struct("<" + "IIQ" * count)
