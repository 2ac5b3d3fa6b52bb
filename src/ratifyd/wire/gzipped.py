"""Messages that a client has compressed, as grpc-go reads them. Answers are never compressed."""

import zlib

from ratifyd.errors import Code

GZIP = b"gzip"
READABLE = frozenset((b"", GZIP))
"""Encodings of messages that are read; none is the name of those that are not compressed."""

_HEADER_BYTES = 10  # RFC 1952 §2.3, without optional fields
_WITH_GZIP_HEADER = 31
_HEADER_ERRORS = ("incorrect header check", "unknown compression method", "unknown header flags", "header crc mismatch")
_TRAILER_ERRORS = ("incorrect data check", "incorrect length check")


class Unreadable(ValueError):
    """A compressed message that cannot be had; carries what to answer."""

    def __init__(self, text: str, code: int = Code.INTERNAL) -> None:
        self.code = code
        super().__init__(text)


def gunzip(data: bytes, limit: int) -> bytes:
    """The message, of at most `limit` bytes. Raises Unreadable, in grpc-go's words but for places in the data.

    One member of the format only: no client writes more, and tiny ones by the thousand would take for ever.
    """
    if len(data) < _HEADER_BYTES:
        raise Unreadable(f"grpc: failed to decompress the message: {'unexpected ' if data else ''}EOF")
    inflater = zlib.decompressobj(_WITH_GZIP_HEADER)
    try:
        message = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise _unreadable(str(error)) from None
    if len(message) > limit:
        text = f"grpc: received message after decompression larger than max {limit}"
        raise Unreadable(text, Code.RESOURCE_EXHAUSTED)
    if not inflater.eof:
        raise Unreadable("grpc: failed to read decompressed data: unexpected EOF")
    if inflater.unused_data:
        raise Unreadable("grpc: failed to read decompressed data: gzip: invalid header")
    return message


def _unreadable(found: str) -> Unreadable:
    if any(text in found for text in _HEADER_ERRORS):
        return Unreadable("grpc: failed to decompress the message: gzip: invalid header")
    if any(text in found for text in _TRAILER_ERRORS):
        return Unreadable("grpc: failed to read decompressed data: gzip: invalid checksum")
    return Unreadable("grpc: failed to read decompressed data: flate: corrupt input")
