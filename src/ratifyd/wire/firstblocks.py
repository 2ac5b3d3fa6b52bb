"""What the first header block of a connection means, shared by all connections: clients of a kind begin alike.

Without this, a new connection spends most of its time on decoding what hundreds before it have sent. Nothing is kept
that may be a secret: no block with metadata but that of `_PUBLIC`, none with a field marked as never to be indexed.
"""

from typing import NamedTuple

from ratifyd.wire.headers import Head
from ratifyd.wire.hpack import Decoder, Entry, Trace

_MAX_BLOCKS = 128
_MAX_BLOCK_BYTES = 512
_MAX_FIELDS = 64
_PUBLIC = frozenset((b"accept-encoding", b"grpc-accept-encoding", b"client-api-version", b"hasleader"))


class FirstBlock(NamedTuple):
    """A block decoded by a fresh decoder."""

    head: Head
    """Of the request, without a route: routes are a session's own."""
    fields: tuple[Entry, ...]
    trace: Trace
    """What the block leaves behind in the decoder."""
    size: int
    """Of the header list, as SETTINGS_MAX_HEADER_LIST_SIZE counts."""

    def request(self) -> Head:
        """The request, for one connection."""
        return _copy(self.head)


class FirstBlocks:
    """A bounded cache of them, by their bytes."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, FirstBlock] = {}

    def take(self, block: bytes, decoder: Decoder, max_size: int) -> FirstBlock | None:
        """The meaning of a block, which the decoder then has decoded; None if it has to."""
        if not decoder.is_fresh:
            return None
        first = self._known.get(block)
        if first is None or first.size > max_size:
            return None
        decoder.adopt(first.trace)
        return first

    def keep(self, block: bytes, decoder: Decoder, fields: list[Entry], head: Head) -> None:
        """Take note of a block which the decoder, fresh before, has decoded."""
        if (
            len(block) > _MAX_BLOCK_BYTES
            or len(fields) > _MAX_FIELDS
            or head.timeout_s is not None
            or decoder.never_indexed
            or not _PUBLIC.issuperset(head.metadata)
        ):
            return
        trace = decoder.lend()
        if trace is None:
            return
        if len(self._known) >= _MAX_BLOCKS:
            self._known.clear()
        size = sum(field.size for field in fields)
        self._known[block] = FirstBlock(_copy(head), tuple(fields), trace, size)


def _copy(head: Head) -> Head:
    return Head(
        head.path, None, head.metadata, head.authority, head.user_agent, head.content_length, encoding=head.encoding
    )
