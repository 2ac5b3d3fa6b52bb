"""Reading bbolt files: etcd's backend and the image inside its snapshots (bbolt file format version 2).

Rows come lazily and in key order. Whatever the bytes are, the answer is rows or BboltCorrupt, in time proportional to
the file: no page is followed twice. Data pages carry no checksum in this format, so a changed byte within a value goes
unnoticed here; a digest over the image is the caller's. Nested buckets, which etcd never makes, are refused.
"""

from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from operator import lt
from struct import Struct

from ratifyd.formats.bboltpage import (
    BRANCH,
    BUCKET_BYTES,
    BUCKET_HEADER,
    BUCKET_ROW,
    ELEMENT_BYTES,
    FIRST_DATA_PAGE,
    FREELIST,
    HEADER_BYTES,
    LEAF,
    META_BYTES,
    NO_FREELIST,
    PAGE_HEADER,
    BboltCorrupt,
    Meta,
    decode_meta,
)

__all__ = ["BboltCorrupt", "BoltFile", "Pread", "Row", "newest_meta", "read_pages"]

Pread = Callable[[int, int], bytes]
"""pread(size, offset): at most `size` bytes from `offset`, fewer only at the end of the file."""

Row = tuple[bytes, bytes]
_MANY_FREE = 0xFFFF
_FREE_ID_BYTES = 8
_PROBED_PAGE_SIZES = tuple(1 << shift for shift in range(9, 25))


def read_pages(pread: Pread, size: int) -> "BoltFile":
    """Open a bbolt file of `size` bytes: choose the meta and read the names of its buckets. Raises BboltCorrupt."""
    meta = newest_meta(pread)
    if meta is None:
        raise BboltCorrupt("no valid meta page")
    if meta.high_water <= FIRST_DATA_PAGE or meta.high_water * meta.page_size > size:
        raise BboltCorrupt(f"{meta.high_water} pages of {meta.page_size} bytes in a file of {size} bytes")
    return BoltFile(pread, meta)


def newest_meta(pread: Pread) -> Meta | None:
    """The meta that counts: the valid one of the later transaction. None: no bbolt file, or both metas are damaged."""
    first = decode_meta(pread(META_BYTES, HEADER_BYTES))
    for page_size in _PROBED_PAGE_SIZES if first is None else (first.page_size,):
        second = decode_meta(pread(META_BYTES, page_size + HEADER_BYTES))
        if second is not None and second.page_size == page_size:
            return second if first is None or second.txid > first.txid else first
    return first


class BoltFile:
    """A bbolt file as of its last commit. Every method that reads raises BboltCorrupt."""

    __slots__ = ("_buckets", "_pread", "meta")

    def __init__(self, pread: Pread, meta: Meta) -> None:
        self._pread = pread
        self.meta = meta
        self._buckets: dict[bytes, bytes] = {}
        for rows in self._tree(meta.root, bytearray(meta.high_water), BUCKET_ROW):
            for name, value in rows:
                if len(value) < BUCKET_BYTES:
                    raise BboltCorrupt(f"bucket {name!r} has a header of {len(value)} bytes")
                self._buckets[name] = value

    def buckets(self) -> list[bytes]:
        """Names of all buckets, in order."""
        return list(self._buckets)

    def items(self, bucket: bytes) -> Iterator[Row]:
        """Rows of a bucket in key order; none when there is no such bucket."""
        for rows in self.leaves(bucket):
            yield from rows

    def leaves(self, bucket: bytes) -> Iterator[list[Row]]:
        """Rows of a bucket, a leaf page at a time: for those in a hurry."""
        value = self._buckets.get(bucket)
        if value is not None:
            yield from self._rows_of(value, bytearray(self.meta.high_water))

    def check(self) -> None:
        """Make sure of the whole file: every page used once or free, keys sorted and where their branch says."""
        for _ in self.audit():
            pass

    def audit(self) -> Iterator[tuple[bytes, list[Row]]]:
        """All rows as (bucket, rows of a leaf), checking as `check` does; what it yielded counts once it has ended."""
        meta = self.meta
        used = bytearray(meta.high_water)
        used[:FIRST_DATA_PAGE] = b"\1" * FIRST_DATA_PAGE
        if meta.freelist != NO_FREELIST:
            self._take_free(used)
        for _ in self._tree(meta.root, used, BUCKET_ROW):
            pass
        for name, value in self._buckets.items():
            for rows in self._rows_of(value, used):
                yield name, rows
        # Without a list of free pages, free is what nothing reaches.
        if meta.freelist != NO_FREELIST and (lost := used.find(0)) >= 0:
            raise BboltCorrupt(f"page {lost} is neither reachable nor free")

    def _rows_of(self, bucket: bytes, used: bytearray) -> Iterator[list[Row]]:
        root, _ = BUCKET_HEADER.unpack_from(bucket)
        if root:
            yield from self._tree(root, used, 0)
            return
        page = bucket[BUCKET_BYTES:]
        if len(page) < HEADER_BYTES:
            raise BboltCorrupt("an inline bucket without a page header")
        _, flags, count, _ = PAGE_HEADER.unpack_from(page)
        if flags != LEAF:
            raise BboltCorrupt(f"an inline bucket with page flags {flags:#x}")
        if count:
            yield _leaf_rows(page, count, 0, 0)

    def _tree(self, root: int, used: bytearray, row_flags: int) -> Iterator[list[Row]]:
        """Rows of each leaf below `root`, in order. `used` marks the pages taken so far, a byte each."""
        # Children still to visit: page, lowest key allowed, first key not allowed (None: no bound).
        pending: list[tuple[int, bytes, bytes | None]] = [(root, b"", None)]
        while pending:
            page, low, high = pending.pop()
            data, flags, count = self._page(page, used)
            if flags == LEAF:
                if not count:
                    continue
                rows = _leaf_rows(data, count, page, row_flags)
                first, last = rows[0][0], rows[-1][0]
            elif flags == BRANCH:
                keys, children = _branch_rows(data, count, page)
                first, last = keys[0], keys[-1]
                pending += reversed(list(zip(children, keys, [*keys[1:], high])))
            else:
                raise BboltCorrupt(f"page {page} of a tree has flags {flags:#x}")
            if first < low or (high is not None and last >= high):
                raise BboltCorrupt(f"page {page} holds keys its parent gives to another page")
            if flags == LEAF:
                yield rows

    def _page(self, page: int, used: bytearray) -> tuple[bytes, int, int]:
        """(bytes with overflow, flags, count) of a page that is now taken."""
        size, end = self.meta.page_size, len(used)
        if not FIRST_DATA_PAGE <= page < end:
            raise BboltCorrupt(f"page {page} is outside the file")
        data = self._read(size, page * size)
        number, flags, count, overflow = PAGE_HEADER.unpack_from(data)
        if number != page:
            raise BboltCorrupt(f"page {page} says it is page {number}")
        pages = overflow + 1
        if pages > end - page:
            raise BboltCorrupt(f"page {page} overflows the file")
        if used.find(1, page, page + pages) >= 0:
            raise BboltCorrupt(f"page {page} is used twice")
        used[page : page + pages] = b"\1" * pages
        if overflow:
            data += self._read(overflow * size, (page + 1) * size)
        return data, flags, count

    def _read(self, size: int, offset: int) -> bytes:
        data = self._pread(size, offset)
        if len(data) != size:
            raise BboltCorrupt(f"the file ends within the {size} bytes at {offset}")
        return data

    def _take_free(self, used: bytearray) -> None:
        """Mark the freelist page and every page it lists."""
        where = self.meta.freelist
        data, flags, count = self._page(where, used)
        if flags != FREELIST:
            raise BboltCorrupt(f"freelist page {where} has flags {flags:#x}")
        start = HEADER_BYTES
        if count == _MANY_FREE:
            count = int.from_bytes(data[start : start + _FREE_ID_BYTES], "little")
            start += _FREE_ID_BYTES
        if count * _FREE_ID_BYTES > len(data) - start:
            raise BboltCorrupt(f"freelist page {where} is too short for {count} pages")
        free = array("Q", data[start : start + count * _FREE_ID_BYTES])
        for page in free:
            if not FIRST_DATA_PAGE <= page < len(used) or used[page]:
                raise BboltCorrupt(f"page {page} cannot be free")
            used[page] = 1


def _leaf_rows(data: bytes, count: int, page: int, flags: int) -> list[Row]:
    """Rows of a leaf page, sorted and complete. All must carry `flags`."""
    table = _element_table(data, count, page)
    if table[::4] != (flags,) * count:
        raise BboltCorrupt(f"page {page} mixes rows and buckets")
    rows: list[Row] = []
    add = rows.append
    element = HEADER_BYTES
    start = element + ELEMENT_BYTES * count
    for position, key_size, value_size in zip(table[1::4], table[2::4], table[3::4]):
        # bbolt packs rows in order, so a position that is not the end of the row before betrays damage.
        if element + position != start:
            raise BboltCorrupt(f"page {page} has a row out of its place")
        middle = start + key_size
        end = middle + value_size
        add((data[start:middle], data[middle:end]))
        start = end
        element += ELEMENT_BYTES
    if start > len(data):
        raise BboltCorrupt(f"page {page} is too small for its rows")
    _check_sorted([row[0] for row in rows], page)
    return rows


def _branch_rows(data: bytes, count: int, page: int) -> tuple[list[bytes], list[int]]:
    """Keys and child pages of a branch page."""
    if not count:
        raise BboltCorrupt(f"branch page {page} is empty")
    table = _element_table(data, count, page)
    keys: list[bytes] = []
    element = HEADER_BYTES
    start = element + ELEMENT_BYTES * count
    for position, key_size in zip(table[::4], table[1::4]):
        if element + position != start:
            raise BboltCorrupt(f"page {page} has a key out of its place")
        end = start + key_size
        keys.append(data[start:end])
        start = end
        element += ELEMENT_BYTES
    if start > len(data):
        raise BboltCorrupt(f"page {page} is too small for its keys")
    _check_sorted(keys, page)
    return keys, [low | high << 32 for low, high in zip(table[2::4], table[3::4])]


def _element_table(data: bytes, count: int, page: int) -> tuple[int, ...]:
    """The elements of a page, four numbers each."""
    if HEADER_BYTES + ELEMENT_BYTES * count > len(data):
        raise BboltCorrupt(f"page {page} is too small for {count} elements")
    return _words(count).unpack_from(data, HEADER_BYTES)


def _check_sorted(keys: list[bytes], page: int) -> None:
    if not keys[0] or not all(map(lt, keys, islice(keys, 1, None))):
        raise BboltCorrupt(f"keys of page {page} are not in order")


@lru_cache(maxsize=1024)
def _words(elements: int) -> Struct:
    return Struct(f"<{4 * elements}I")
