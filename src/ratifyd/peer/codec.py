"""Bytes of the two streams between members, without I/O (formats 9.3 and 9.4).

Encoders turn messages into bytes, decoders take bytes in any cuts and return the messages they complete. A decoder
keeps no more than it was sent: lengths are believed only to refuse records over the limit. Anything else that is wrong
raises `StreamCorrupt`, after which the decoder, and the connection it reads, are of no more use.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from ratifyd.raft.codec import DecodeError, decode_entry, decode_message, encode_entries, encode_message, encode_varint
from ratifyd.raft.messages import Entry, EntryKind, Message, MessageKind

RECORD_LIMIT: Final = 512 * 1024 * 1024
"""Longest record, in bytes."""
ENVELOPE_LIMIT: Final = 64 * 1024 * 1024
"""Longest message before a snapshot's image (etcd 3.6.14)."""

_U64 = Struct(">Q")
_HEARTBEAT_KIND, _ENTRIES_KIND, _MESSAGE_KIND = 0, 1, 2
_ENTRIES_HEAD = Struct(">BQ")
_NORMAL = EntryKind.NORMAL
_LOW_BYTES = tuple(bytes((low | 0x80,)) for low in range(128))

MSGAPP_HEARTBEAT: Final = bytes((_HEARTBEAT_KIND,))
"""Keeps an idle msgapp stream alive."""


class StreamCorrupt(ValueError):
    """The other side sent bytes that are not the stream they should be."""


def frame_message(message: Message) -> bytes:
    """Encode a message for the message stream, or for the head of a snapshot: its length, then raftpb bytes."""
    data = encode_message(message)
    return _U64.pack(len(data)) + data


MESSAGE_HEARTBEAT: Final = frame_message(Message(MessageKind.HEARTBEAT))
"""Keeps an idle message stream alive: a heartbeat from nobody to nobody."""


class SharedEntries:
    """The entries part of a record as last encoded: a leader sends most appends to every follower.

    Sound because an entry is the same wherever its index and term are (Raft §5.3, log matching).
    """

    __slots__ = ("_first", "_last", "_record", "_term")

    def __init__(self) -> None:
        self._first = self._last = self._term = -1
        self._record = b""

    def encode(self, entries: Sequence[Entry]) -> bytes:
        """Encode count and entries, each behind its length."""
        if not entries:
            return b"\x01\x00\x00\x00\x00\x00\x00\x00\x00"
        first, last = entries[0], entries[-1]
        if first.index == self._first and last.index == self._last and last.term == self._term:
            return self._record
        pieces = [_ENTRIES_HEAD.pack(_ENTRIES_KIND, len(entries))]
        pack = _U64.pack
        for entry in encode_entries(entries):
            pieces += (pack(len(entry)), entry)
        record = b"".join(pieces)
        self._first, self._last, self._term, self._record = first.index, last.index, last.term, record
        return record


class MsgAppEncoder:
    """Appends of one connection. What follows the previous message directly is sent as entries alone."""

    __slots__ = ("_index", "_shared", "_term")

    def __init__(self, shared: SharedEntries) -> None:
        self._term = self._index = 0
        self._shared = shared

    def encode(self, message: Message) -> bytes:
        """Encode the next MsgApp of this connection."""
        entries = message.entries
        term = message.term
        if message.index == self._index and message.log_term == self._term == term:
            self._index += len(entries)
            return self._shared.encode(entries) + _U64.pack(message.commit)
        data = encode_message(message)
        self._term = term
        self._index = entries[-1].index if entries else message.index
        return _ENTRIES_HEAD.pack(_MESSAGE_KIND, len(data)) + data


class _Buffer:
    """Bytes not yet decoded; `wanted` bytes must be there before it is worth looking again."""

    __slots__ = ("_pieces", "_size", "wanted")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self.wanted = 1

    def take(self, data: bytes) -> bytes:
        """Return everything there is when it is enough, else nothing."""
        if self._pieces:
            self._pieces.append(data)
            self._size += len(data)
            if self._size < self.wanted:
                return b""
            data = b"".join(self._pieces)
            self._pieces.clear()
            self._size = 0
        elif len(data) < self.wanted:
            self.keep(data, self.wanted)
            return b""
        return data

    def keep(self, rest: bytes, wanted: int) -> None:
        """Put back what could not be used until there are `wanted` bytes of it."""
        self.wanted = wanted
        if rest:
            self._pieces.append(rest)
            self._size = len(rest)


class MessageDecoder:
    """Reads the message stream."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = RECORD_LIMIT) -> None:
        self._buffer = _Buffer()
        self._limit = limit

    def feed(self, data: bytes) -> list[Message]:
        """Decode what `data` completes, link heartbeats left out. Raises StreamCorrupt."""
        messages: list[Message] = []
        data = self._buffer.take(data)
        offset, end, wanted = 0, len(data), 8
        while end - offset >= 8:
            (size,) = _U64.unpack_from(data, offset)
            if size > self._limit:
                raise StreamCorrupt(f"message of {size} bytes is over the limit of {self._limit}")
            if end - offset - 8 < size:
                wanted = 8 + size
                break
            offset += 8
            chunk = data[offset : offset + size]
            offset += size
            if chunk != _BARE_HEARTBEAT:
                message = decode_peer_message(chunk)
                if message.to or message.sender or message.kind != MessageKind.HEARTBEAT:
                    messages.append(message)
        if data:
            self._buffer.keep(data[offset:] if offset else data, wanted)
        return messages


_BARE_HEARTBEAT = MESSAGE_HEARTBEAT[8:]


class EnvelopeDecoder:
    """Reads the one message in front of a snapshot's image."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = ENVELOPE_LIMIT) -> None:
        self._buffer = _Buffer()
        self._buffer.wanted = 8
        self._limit = limit

    def feed(self, data: bytes) -> tuple[Message, bytes] | None:
        """Return the message and the first bytes of the image once they are there. Raises StreamCorrupt."""
        data = self._buffer.take(data)
        if not data:
            return None
        (size,) = _U64.unpack_from(data)
        if size > self._limit:
            raise StreamCorrupt("rafthttp: error limit exceeded")  # etcd's words: the text goes back to the sender
        if len(data) < 8 + size:
            self._buffer.keep(data, 8 + size)
            return None
        return decode_peer_message(data[8 : 8 + size]), data[8 + size :]


class MsgAppDecoder:
    """Reads the msgapp stream `remote` sends to `local`.

    Entries of a record must follow each other, as a log's do: raft would refuse anything else later and less clearly.
    """

    __slots__ = (
        "_buffer",
        "_entries",
        "_head",
        "_index",
        "_left",
        "_limit",
        "_local",
        "_messages",
        "_previous",
        "_record_bytes",
        "_remote",
        "_term",
    )

    def __init__(self, local: int, remote: int, limit: int = RECORD_LIMIT) -> None:
        self._local = local
        self._remote = remote
        self._limit = limit
        self._term = self._index = 0
        self._head = b""
        self._set_term(0)
        self._buffer = _Buffer()
        self._messages: list[Message] = []
        self._entries: list[Entry] | None = None  # of an unfinished entries record
        self._left = self._previous = self._record_bytes = 0

    def feed(self, data: bytes) -> list[Message]:
        """Decode what `data` completes, link heartbeats left out. Raises StreamCorrupt."""
        data = self._buffer.take(data)
        offset, end = 0, len(data)
        wanted = 1
        while offset < end:
            if self._entries is not None:
                offset, wanted = self._read_entries(data, offset)
                if wanted > 1:
                    break
                continue
            kind = data[offset]
            if kind == _HEARTBEAT_KIND:
                offset += 1
                continue
            if kind > _MESSAGE_KIND:
                raise StreamCorrupt(f"record of unknown type {kind}")
            if end - offset < 9:
                wanted = 9
                break
            (number,) = _U64.unpack_from(data, offset + 1)
            if kind == _ENTRIES_KIND:
                offset += 9
                self._entries = []
                self._left = number
                self._previous = self._index
                self._record_bytes = 0
                continue
            if number > self._limit:
                raise StreamCorrupt(f"message of {number} bytes is over the limit of {self._limit}")
            if end - offset - 9 < number:
                wanted = 9 + number
                break
            self._read_message(data[offset + 9 : offset + 9 + number])
            offset += 9 + number
        if data:
            self._buffer.keep(data[offset:] if offset else data, wanted)
        messages, self._messages = self._messages, []
        return messages

    def _set_term(self, term: int) -> None:
        """All entries of a record have the term of the one before them, so they begin with the same bytes."""
        self._term = term
        self._head = b"\x08\x00\x10%b\x18" % encode_varint(term)

    def _read_message(self, chunk: bytes) -> None:
        message = decode_peer_message(chunk)
        entries = message.entries
        self._set_term(message.term)
        self._index = entries[-1].index if entries else message.index
        if message.to or message.sender or message.kind != MessageKind.HEARTBEAT:
            self._messages.append(message)

    def _read_entries(self, data: bytes, offset: int) -> tuple[int, int]:
        """Read on in an entries record; returns the offset behind what was read and the bytes wanted there.

        More than one byte wanted: there is not enough. Else the record is complete.
        """
        entries = self._entries
        assert entries is not None
        head, term, index, left = self._head, self._term, self._index, self._left
        end, start, wanted = len(data), offset, 1
        high, rest = -1, b""
        unpack, append = _U64.unpack_from, entries.append
        while left:
            if end - offset < 8:
                wanted = 8
                break
            (size,) = unpack(data, offset)
            stop = offset + 8 + size
            if stop > end:
                if size > self._limit:
                    raise StreamCorrupt(f"entry of {size} bytes is over the limit of {self._limit}")
                wanted = 8 + size
                break
            index += 1
            if index >> 7 != high:
                high = index >> 7
                rest = encode_varint(high)
            usual = head + _LOW_BYTES[index & 0x7F] + rest if high else head + index.to_bytes(1)
            payload = None
            if data.startswith(usual, offset + 8):
                payload = _usual_payload(data, offset + 8 + len(usual), stop)
            if payload is not None:
                append(Entry(term, index, payload, _NORMAL))
            else:
                append(_other_entry(data[offset + 8 : stop], term, index))
            offset = stop
            left -= 1
        self._index, self._left = index, left
        self._record_bytes += offset - start
        if self._record_bytes > self._limit:
            raise StreamCorrupt(f"entries are over the limit of {self._limit} bytes")
        if left:
            return offset, wanted
        if end - offset < 8:
            return offset, 8
        (commit,) = unpack(data, offset)
        self._entries = None
        self._messages.append(
            Message(MessageKind.APP, self._local, self._remote, term, term, self._previous, entries, commit)
        )
        return offset + 8, 1


def _usual_payload(data: bytes, offset: int, stop: int) -> bytes | None:
    """Data field, or its absence, between two offsets; None for anything else, and for more than 16 KiB."""
    size = stop - offset - 2
    if size < 0:
        return b"" if size == -2 else None
    if data[offset] != 0x22:
        return None
    if size < 0x80:
        return data[offset + 2 : stop] if data[offset + 1] == size else None
    size -= 1
    if size < 0x4000 and data[offset + 1] == size & 0x7F | 0x80 and data[offset + 2] == size >> 7:
        return data[offset + 3 : stop]
    return None


def _other_entry(data: bytes, term: int, index: int) -> Entry:
    try:
        entry = decode_entry(data)
    except DecodeError as error:
        raise StreamCorrupt(f"broken entry: {error}") from error
    if entry.index != index or entry.term != term:
        raise StreamCorrupt(f"entry {entry.index} of term {entry.term} where {index} of {term} should be")
    return entry


def decode_peer_message(data: bytes) -> Message:
    """Decode a message that may be anybody's. Raises StreamCorrupt.

    Entries of an append follow each other and their terms do not fall, as in a log: one that was written down with
    others could not be read again.
    """
    try:
        message = decode_message(data)
    except DecodeError as error:
        raise StreamCorrupt(f"broken message: {error}") from error
    if message.entries and message.kind is MessageKind.APP:
        term = message.log_term
        for index, entry in enumerate(message.entries, message.index + 1):
            if entry.index != index or not entry.term or not term <= entry.term <= message.term:
                raise StreamCorrupt(f"entry {entry.index} of term {entry.term} in the place of entry {index}")
            term = entry.term
    return message
