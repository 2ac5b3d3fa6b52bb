"""Is a backend file sound enough to be mapped? LMDB itself believes every byte, and a wrong one ends the process.

Reads the file page by page, not through a map, so that an unreadable sector is an error and not a signal. Checks the
meta pages and both trees they lead to: page numbers, kinds, bounds and order of nodes, the counts that LMDB keeps, and
that no page has two uses. The bytes of keys and values may be anything: LMDB has no checksums, as bbolt has none.

A file has two meta pages, the last two commits. When only the older one is sound the newer is given up: the log has
what is missing.
"""

import os
import struct
from functools import lru_cache
from operator import ge
from struct import Struct
from typing import NamedTuple

from ratifyd.storage.failures import RESTORE_OR_REPLACE

_MAGIC = 0xBEEFC0DE
_BBOLT_MAGIC = (0xED0CDAED).to_bytes(4, "little")
"""Where LMDB has its own."""
_VERSION = 1
_HEADER_BYTES = 16
_NODE_BYTES = 8
_MAX_DEPTH = 32
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
_BIG, _SUBTREE = 1, 2
_EMPTY = (1 << 64) - 1
_MIN_PAGE_BYTES, _MAX_PAGE_BYTES = 512, 65536

_header = Struct("<QHHHH").unpack_from
_node = Struct("<HHHH").unpack_from
_number = Struct("<Q").unpack_from
_meta_head = Struct("<IIQQ")
_tree = Struct("<IHHQQQQQ")
_meta_tail = Struct("<QQ")
_META_BYTES = _HEADER_BYTES + _meta_head.size + 2 * _tree.size + _meta_tail.size
_TXN_OFFSET = _META_BYTES - 8


class BackendDamaged(Exception):
    """The file is damaged; the message says where, and what to do."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"backend {path} is damaged: {reason}. {RESTORE_OR_REPLACE}")


class BackendOfEtcd(Exception):
    """The file is etcd's, and nothing is wrong with it; the message says what to do."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"backend {path} is a bbolt file, as etcd has it and `etcdutl snapshot restore` makes it; ratifyd keeps "
            "its own in LMDB. It is not damaged, and was not changed. Start etcd on this data directory, then add "
            "ratifyd to it as a member with a data directory of its own (etcdctl member add), which gets all the data"
        )


class _Damage(Exception):
    """Something that LMDB never writes."""


class _Tree(NamedTuple):
    page_bytes: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


class _Meta(NamedTuple):
    slot: int
    page_bytes: int
    free: _Tree
    main: _Tree
    last_page: int
    txn: int


def check_backend(path: str, *, sync: bool = False) -> str:
    """Make sure that the backend at `path` can be opened; a file without bytes is sound.

    `sync` makes durable what a process that was killed may have left to the kernel: the log may be cut behind it.
    When only the commit before the last one is sound the file goes back to it, and what was wrong is returned.
    Raises BackendDamaged, BackendOfEtcd.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if sync:
            os.fdatasync(fd)
        if not os.fstat(fd).st_size:
            return ""
        if os.pread(fd, len(_BBOLT_MAGIC), _HEADER_BYTES) == _BBOLT_MAGIC:
            raise BackendOfEtcd(path)
        metas, reasons = _read_metas(fd, path)
        for meta in sorted(metas, key=lambda meta: meta.txn, reverse=True):
            try:
                _Checker(fd, meta).check()
            except (_Damage, struct.error) as damage:
                reasons.append(str(damage))
                continue
            if reasons:
                _keep_only(fd, meta)
            return "; ".join(reasons)
        raise BackendDamaged(path, "; ".join(reasons))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)


def _read_metas(fd: int, path: str) -> tuple[list[_Meta], list[str]]:
    """The meta pages that can be right, and what is wrong with the others."""
    metas, reasons = [], []
    page_bytes = 0
    for slot in (0, 1):
        sizes = (page_bytes,) if page_bytes else tuple(4096 << shift for shift in range(5)) if slot else (4096,)
        for size in sizes:
            try:
                meta = _decode_meta(os.pread(fd, _META_BYTES, slot * size), slot)
            except (_Damage, struct.error) as damage:
                if size == sizes[-1]:
                    reasons.append(f"meta page {slot}: {damage}")
                continue
            metas.append(meta)
            page_bytes = meta.page_bytes
            break
    if len(reasons) == 2:
        raise BackendDamaged(path, "; ".join(reasons))
    return metas, reasons


def _decode_meta(data: bytes, slot: int) -> _Meta:
    if len(data) < _META_BYTES:
        raise _Damage("the file ends within it")
    number, _, flags, _, _ = _header(data)
    magic, version, _, map_bytes = _meta_head.unpack_from(data, _HEADER_BYTES)
    at = _HEADER_BYTES + _meta_head.size
    free, main = _Tree(*_tree.unpack_from(data, at)), _Tree(*_tree.unpack_from(data, at + _tree.size))
    last_page, txn = _meta_tail.unpack_from(data, at + 2 * _tree.size)
    if (number, flags, magic, version) != (slot, _META, _MAGIC, _VERSION):
        raise _Damage("it is no meta page of LMDB")
    page_bytes = free.page_bytes
    if not _MIN_PAGE_BYTES <= page_bytes <= _MAX_PAGE_BYTES or page_bytes & page_bytes - 1:
        raise _Damage(f"it tells of pages of {page_bytes} bytes")
    if not 1 <= last_page < 1 << 40 or map_bytes >> 60:
        raise _Damage(f"it tells of {last_page} pages in {map_bytes} bytes")
    return _Meta(slot, page_bytes, free, main, last_page, txn)


def _keep_only(fd: int, meta: _Meta) -> None:
    """Overwrite the other meta page with a copy of this one that counts as older."""
    page = bytearray(os.pread(fd, meta.page_bytes, meta.slot * meta.page_bytes))
    other = 1 - meta.slot
    page[:8] = other.to_bytes(8, "little")
    page[_TXN_OFFSET : _TXN_OFFSET + 8] = max(0, meta.txn - 1).to_bytes(8, "little")
    os.pwrite(fd, page, other * meta.page_bytes)
    os.fsync(fd)


@lru_cache
def _pointers(count: int) -> Struct:
    return Struct(f"<{count}H")


class _Checker:
    """One commit of a file: each page is read once and has one use."""

    def __init__(self, fd: int, meta: _Meta) -> None:
        self._fd = fd
        self._meta = meta
        self._page_bytes = meta.page_bytes
        self._used = bytearray(os.fstat(fd).st_size // meta.page_bytes)
        self._used[:2] = b"\1\1"

    def check(self) -> None:
        """Raise _Damage unless all is well."""
        buckets = _TreeCheck(self, self._meta.main, "the list of buckets", keep=True)
        for name, value in buckets.rows:
            if len(value) != _tree.size:
                raise _Damage("the list of buckets holds something else")
            _TreeCheck(self, _Tree(*_tree.unpack(value)), f"bucket {name.decode(errors='replace')}")
        free = _TreeCheck(self, self._meta.free, "the list of free pages", keep=True, integers=True)
        known = len(self._used) - 1
        for _, value in free.rows:
            known = max(known, self._check_free(value))
        if known < self._meta.last_page:
            raise _Damage(f"it tells of {self._meta.last_page + 1} pages, but nothing is known of those behind {known}")

    def _check_free(self, value: bytes) -> int:
        """The highest page that is free."""
        count = _number(value)[0] if len(value) >= 8 else len(value)
        if 8 * (count + 1) > len(value):
            raise _Damage("the list of free pages is cut short")
        used, last = self._used, self._meta.last_page
        numbers = Struct(f"<{count}Q").unpack_from(value, 8)
        for number in numbers:
            if not 2 <= number <= last:
                raise _Damage(f"page {number} of {last + 1} is listed as free")
            if number < len(used):  # pages given up by the commit that made them may never have been written
                if used[number]:
                    raise _Damage(f"page {number} is listed as free and in use")
                used[number] = 1
        return max(numbers, default=0)

    def read(self, number: int, pages: int = 1) -> bytes:
        """Pages that are used for the first time."""
        if not 2 <= number <= number + pages - 1 <= self._meta.last_page:
            raise _Damage(f"a reference to page {number} of {self._meta.last_page + 1}")
        if number + pages > len(self._used):
            raise _Damage(f"the file ends before page {number + pages - 1}, which is in use")
        if any(self._used[number : number + pages]):
            raise _Damage(f"page {number} has two uses")
        self._used[number : number + pages] = b"\1" * pages
        data = os.pread(self._fd, pages * self._page_bytes, number * self._page_bytes)
        if _number(data)[0] != number:
            raise _Damage(f"page {number} holds something else")
        return data

    def read_large(self, number: int, size: int) -> tuple[bytes, int]:
        """A value on pages of its own, and how many they are."""
        pages = (_HEADER_BYTES - 1 + size) // self._page_bytes + 1
        data = self.read(number, pages)
        _, _, flags, low, high = _header(data)
        if flags != _OVERFLOW or low | high << 16 != pages:
            raise _Damage(f"page {number} is none of a large value")
        return data[_HEADER_BYTES : _HEADER_BYTES + size], pages


class _TreeCheck:
    """Reads one tree from its root on; `rows` are its keys and values if they are to be kept."""

    def __init__(
        self, checker: _Checker, tree: _Tree, name: str, *, keep: bool = False, integers: bool = False
    ) -> None:
        self.rows: list[tuple[bytes, bytes]] = []
        self._checker = checker
        self._name = name
        self._keep = keep
        self._integers = integers
        self._branches = self._leaves = self._large_pages = self._entries = 0
        self._last = b""
        if tree.root != _EMPTY:
            if not 1 <= tree.depth <= _MAX_DEPTH:
                raise _Damage(f"{name} claims to be {tree.depth} pages deep")
            self._visit(tree.root, tree.depth, b"")
        if (self._branches, self._leaves, self._large_pages, self._entries) != tree[3:7]:
            raise _Damage(f"{name} does not have the pages and rows that it counts")

    def _visit(self, number: int, depth: int, low: bytes) -> None:
        """Read what is below a page; no key may be less than `low`."""
        page = self._checker.read(number)
        _, _, flags, lower, upper = _header(page)
        size = len(page)
        count = (lower - _HEADER_BYTES) >> 1
        if flags != (_LEAF if depth == 1 else _BRANCH) or not count or not _HEADER_BYTES < lower <= upper <= size:
            raise _Damage(f"page {number} of {self._name} is unreadable")
        at = _pointers(count).unpack_from(page, _HEADER_BYTES)
        if min(at) < upper or max(at) > size - _NODE_BYTES:
            raise _Damage(f"page {number} of {self._name} points outside itself")
        if depth == 1:
            self._leaves += 1
            self._entries += count
            self._visit_leaf(page, number, at, upper, low)
        else:
            self._branches += 1
            self._visit_branch(page, number, at, depth, low)

    def _visit_branch(self, page: bytes, number: int, at: tuple[int, ...], depth: int, low: bytes) -> None:
        for place, start in enumerate(at):
            first, second, third, key_bytes = _node(page, start)
            key = page[start + _NODE_BYTES : start + _NODE_BYTES + key_bytes]
            if place:  # the first has none that counts
                low = key[::-1] if self._integers else key
                if low <= self._last or len(key) != key_bytes:
                    raise _Damage(f"page {number} of {self._name} is out of order")
            self._visit(first | second << 16 | third << 32, depth - 1, low)

    def _visit_leaf(self, page: bytes, number: int, at: tuple[int, ...], upper: int, low: bytes) -> None:
        keys: list[bytes] = []
        filled = 0
        for start in at:
            first, second, flags, key_bytes = _node(page, start)
            end = start + _NODE_BYTES + key_bytes
            keys.append(page[start + _NODE_BYTES : end])
            size = first | second << 16
            if not flags:
                filled += end + size - start + 1 & -2
            elif flags == _BIG:
                filled += end + 8 - start + 1 & -2
                value, pages = self._checker.read_large(_number(page, end)[0], size)
                self._large_pages += pages
            elif flags == _SUBTREE and self._keep:
                filled += end + size - start + 1 & -2
            else:
                raise _Damage(f"page {number} of {self._name} has a row of an unknown kind")
            if self._keep:
                self.rows.append((keys[-1], value if flags == _BIG else page[end : end + size]))
        if upper + filled != len(page):
            raise _Damage(f"the rows of page {number} of {self._name} do not fill it")
        if self._integers:
            keys = [key[::-1] for key in keys]
        if keys[0] < low or (self._entries > len(keys) and keys[0] <= self._last):
            raise _Damage(f"page {number} of {self._name} is out of order")
        if any(map(ge, keys, keys[1:])):
            raise _Damage(f"the rows of page {number} of {self._name} are out of order")
        self._last = keys[-1]
