"""Header compression, RFC 7541: a decoder with its dynamic table, and stateless literals for what we send.

A decoded field is an `Entry`. Equal fields are the same object while the decoder remembers them, so a tuple of
entries is a cheap key for "the same request header again". A literal grpc-timeout, which changes from call to call,
is replaced by the entry `TIMEOUT` and returned apart.
"""

import re
from typing import NamedTuple

from ratifyd.wire.huffman import HuffmanError
from ratifyd.wire.huffman import decode as huffman_decode

ENTRY_OVERHEAD = 32
DEFAULT_TABLE_BYTES = 4_096
_MAX_INTEGER = 2**31 - 1
_REMEMBERED_ENTRIES = 256
_REMEMBERED_ENTRY_BYTES = 1_024
_TIMEOUT_NAME = b"grpc-timeout"


class HpackError(ValueError):
    """A block that cannot be decoded: COMPRESSION_ERROR for the connection."""


class Entry:
    """One header field; `size` counts as RFC 7541 §4.1. Compared by identity."""

    __slots__ = ("name", "size", "value")

    def __init__(self, name: bytes, value: bytes) -> None:
        self.name = name
        self.value = value
        self.size = len(name) + len(value) + ENTRY_OVERHEAD


TIMEOUT = Entry(_TIMEOUT_NAME, b"")

# RFC 7541 Appendix A, names with their values; index 0 is no entry.
_STATIC_FIELDS = (
    ":authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|:status=204|"
    ":status=206|:status=304|:status=400|:status=404|:status=500|accept-charset|accept-encoding=gzip, deflate|"
    "accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|authorization|cache-control|"
    "content-disposition|content-encoding|content-language|content-length|content-location|content-range|content-type|"
    "cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|"
    "last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|referer|refresh|"
    "retry-after|server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"
)


def _static_table() -> list[Entry]:
    table = [Entry(b"", b"")]
    for field in _STATIC_FIELDS.encode().split(b"|"):
        name, _, value = field.partition(b"=")
        table.append(Entry(name, value))
    return table


_STATIC = _static_table()
# The decoder's table starts as this: an indexed field's byte, 0x80 with the index, is its position.
_ALIGNED_STATIC = [_STATIC[0]] * 0x80 + _STATIC
_FIRST_DYNAMIC = len(_ALIGNED_STATIC)
_leading_indexes = re.compile(rb"[\x81-\xfe]*").match
_STATIC_INDEX = {(entry.name, entry.value): index for index, entry in enumerate(_STATIC) if index}
_STATIC_NAMES = {entry.name: index for index, entry in reversed(list(enumerate(_STATIC))) if index}


class Trace(NamedTuple):
    """What decoding has left behind in a decoder that was fresh before; shared, so not to be changed."""

    table: list[Entry]
    size: int
    remembered: dict[tuple[bytes, bytes], Entry]
    generation: int


_NO_TRACE = Trace(_ALIGNED_STATIC, 0, {}, 0)


class Decoder:
    """The receiving end of one connection. `generation` grows whenever the dynamic table changes."""

    __slots__ = ("_borrowed", "_capacity", "_limit", "_remembered", "_size", "_table", "generation", "never_indexed")

    def __init__(self, limit: int = DEFAULT_TABLE_BYTES) -> None:
        """`limit` is the SETTINGS_HEADER_TABLE_SIZE we announce; until the peer says otherwise it uses 4,096."""
        self._limit = limit
        self._capacity = DEFAULT_TABLE_BYTES
        self.adopt(_NO_TRACE)
        self.never_indexed = False
        """Whether there ever was a field that its sender wants to be nowhere remembered (§7.1.3)."""

    @property
    def is_fresh(self) -> bool:
        """Whether nothing that was decoded has left a trace."""
        return not self.generation and not self._remembered

    def lend(self) -> Trace | None:
        """For others to adopt; None if anything else has happened to the table than insertions."""
        if len(self._table) - _FIRST_DYNAMIC != self.generation:
            return None
        self._borrowed = True
        return Trace(self._table, self._size, self._remembered, self.generation)

    def adopt(self, trace: Trace) -> None:
        """Be as another decoder was. Most connections never change what they begin with: it is copied only then."""
        self._table = trace.table
        self._size = trace.size
        self._remembered = trace.remembered
        self.generation = trace.generation
        self._borrowed = True

    def _own(self) -> None:
        self._table = list(self._table)
        self._remembered = dict(self._remembered)
        self._borrowed = False

    def decode(self, block: bytes) -> tuple[list[Entry], bytes | None]:
        """Fields of a block in order, and the value of a literal grpc-timeout. Raises HpackError."""
        table = self._table
        timeout = None
        try:
            pos = _leading_indexes(block).end()  # type: ignore[union-attr]  # matches the empty string, too
            fields = list(map(table.__getitem__, block[:pos]))
            end = len(block)
            while pos < end:
                byte = block[pos]
                pos += 1
                if byte > 0x80:
                    if byte == 0xFF:
                        byte += block[pos]
                        pos += 1
                        if byte >= 0x17F:
                            byte, pos = _integer(block, pos - 1, 0xFF)
                    fields.append(table[byte])
                    continue
                if byte == 0x80:
                    raise HpackError("index 0")
                if byte >= 0x40:
                    mask = 0x3F
                elif byte < 0x20:
                    mask = 0x0F
                    if byte >= 0x10:
                        self.never_indexed = True
                else:
                    pos = self._resize(block, pos, byte & 0x1F, first=not fields)
                    table = self._table
                    continue
                index = byte & mask
                if index == mask:
                    index += block[pos]
                    pos += 1
                    if index >= mask + 0x80:
                        index, pos = _integer(block, pos - 1, mask)
                if index:
                    name = table[0x80 + index].name
                else:
                    name, pos = _string(block, pos)
                byte = block[pos]
                stop = pos + 1 + (byte & 0x7F)
                if byte > 0x80 and byte != 0xFF and stop <= end:  # short and Huffman-coded, as mostly
                    value = huffman_decode(block[pos + 1 : stop])
                    pos = stop
                else:
                    value, pos = _string(block, pos)
                if name == _TIMEOUT_NAME:
                    timeout = value
                    fields.append(TIMEOUT)
                    if mask == 0x3F:
                        self._insert(Entry(name, value))
                else:
                    entry = self._entry(name, value)
                    fields.append(entry)
                    if mask == 0x3F:
                        self._insert(entry)
                table = self._table  # it may be another one now
        except IndexError:
            raise HpackError("index out of range, or a block cut short") from None
        except HuffmanError as error:
            raise HpackError(str(error)) from None
        return fields, timeout

    def _entry(self, name: bytes, value: bytes) -> Entry:
        key = (name, value)
        entry = self._remembered.get(key)
        if entry is None:
            entry = Entry(name, value)
            if entry.size <= _REMEMBERED_ENTRY_BYTES:
                if self._borrowed:
                    self._own()
                if len(self._remembered) >= _REMEMBERED_ENTRIES:
                    self._remembered.clear()
                self._remembered[key] = entry
        return entry

    def _insert(self, entry: Entry) -> None:
        self.generation += 1
        if self._borrowed:
            self._own()
        table = self._table
        table.insert(_FIRST_DYNAMIC, entry)
        size = self._size + entry.size
        while size > self._capacity:
            size -= table.pop().size
        self._size = size

    def _resize(self, block: bytes, pos: int, capacity: int, *, first: bool) -> int:
        """Dynamic table size update (§4.2, §6.3): only at the start of a block, never above our limit."""
        if capacity == 0x1F:
            capacity, pos = _integer(block, pos, 0x1F)
        if not first or capacity > self._limit:
            raise HpackError("table size update")
        self.generation += 1
        if self._borrowed:
            self._own()
        self._capacity = capacity
        while self._size > capacity:
            self._size -= self._table.pop().size
        return pos


def _integer(block: bytes, pos: int, prefix: int) -> tuple[int, int]:
    """Continuation bytes of an integer whose prefix was all ones (§5.1)."""
    value = prefix
    shift = 0
    while True:
        byte = block[pos]
        pos += 1
        value += (byte & 0x7F) << shift
        if value > _MAX_INTEGER or shift > 28:
            raise HpackError("integer too large")
        if byte < 0x80:
            return value, pos
        shift += 7


def _string(block: bytes, pos: int) -> tuple[bytes, int]:
    """A string literal (§5.2)."""
    byte = block[pos]
    pos += 1
    length = byte & 0x7F
    if length == 0x7F:
        length, pos = _integer(block, pos, 0x7F)
    stop = pos + length
    if stop > len(block):
        raise HpackError("string cut short")
    if byte >= 0x80:
        return huffman_decode(block[pos:stop]), stop
    return block[pos:stop], stop


def encode_field(name: bytes, value: bytes) -> bytes:
    """One field without touching any dynamic table: indexed where the static table has it, else a plain literal."""
    index = _STATIC_INDEX.get((name, value))
    if index is not None:
        return bytes((0x80 | index,))
    index = _STATIC_NAMES.get(name)
    head = b"\0" + _encode_string(name) if index is None else _encode_integer(index, 0x0F, 0)
    return head + _encode_string(value)


def _encode_integer(value: int, mask: int, flags: int) -> bytes:
    if value < mask:
        return bytes((flags | value,))
    out = bytearray((flags | mask,))
    value -= mask
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _encode_string(value: bytes) -> bytes:
    return _encode_integer(len(value), 0x7F, 0) + value
