"""The fixed parts of bbolt pages: headers, metas and their numbers (bbolt file format version 2, little endian).

Shared by the reader and the writer; knows nothing of trees.
"""

from struct import Struct
from typing import NamedTuple

PAGE_BYTES = 4096
"""Page size of files we write: that of nearly every host; readers take it from the meta."""

BRANCH = 0x01
LEAF = 0x02
FREELIST = 0x10
META = 0x04

BUCKET_ROW = 0x01
"""Flag of a leaf row whose value is a bucket."""

HEADER_BYTES = 16
ELEMENT_BYTES = 16
BUCKET_BYTES = 16
NO_FREELIST = 0xFFFFFFFFFFFFFFFF
FIRST_DATA_PAGE = 2
MAX_KEY_BYTES = 32768

PAGE_HEADER = Struct("<QHHI")
"""Page id, flags, count, overflow."""

BUCKET_HEADER = Struct("<QQ")
"""Root page (0: the bucket follows inline), sequence."""

_MAGIC = 0xED0CDAED
_VERSION = 2
_META = Struct("<IIIIQQQQQ")
_CHECKSUM = Struct("<Q")
META_BYTES = _META.size + _CHECKSUM.size
_FNV_OFFSET = 0xCBF29CE484222325
_FNV_PRIME = 0x100000001B3
_PAGE_SIZES = frozenset(1 << shift for shift in range(9, 25))


class BboltCorrupt(Exception):
    """The file is no bbolt file, or not a sound one; the message says where."""


class Meta(NamedTuple):
    """One of the two records a file starts with; the valid one with the higher txid counts."""

    page_size: int
    root: int
    """Page of the root bucket."""
    sequence: int
    freelist: int
    """Page of the freelist, NO_FREELIST when it is not kept."""
    high_water: int
    """First page id never used."""
    txid: int


def fnv1a(data: bytes) -> int:
    """FNV-1a, 64 bits."""
    value = _FNV_OFFSET
    for byte in data:
        value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFFFFFFFFFF
    return value


def encode_meta(meta: Meta) -> bytes:
    """The 64 bytes that follow the page header of a meta page."""
    body = _META.pack(
        _MAGIC, _VERSION, meta.page_size, 0, meta.root, meta.sequence, meta.freelist, meta.high_water, meta.txid
    )
    return body + _CHECKSUM.pack(fnv1a(body))


def decode_meta(data: bytes) -> Meta | None:
    """The meta in those 64 bytes; None when they are no valid one."""
    if len(data) < META_BYTES:
        return None
    magic, version, page_size, _, root, sequence, freelist, high_water, txid = _META.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or page_size not in _PAGE_SIZES:
        return None
    if fnv1a(data[: _META.size]) != _CHECKSUM.unpack_from(data, _META.size)[0]:
        return None
    return Meta(page_size, root, sequence, freelist, high_water, txid)
