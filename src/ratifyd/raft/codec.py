"""raftpb bytes, written by hand: what etcd 3.5's WAL and peers read and write.

Encoders write gogo/protobuf's form, as etcd 3.5 and 3.6 do: every non-repeated scalar is present, fields ascend, empty
data and context are left out, and a message always carries a snapshot. Decoders take that form and the form of etcd
3.7 (unset fields left out, any order), skip unknown fields, accept packed and unpacked id lists, and raise
`DecodeError` on anything else. The local storage fields of raftpb.Message (vote, responses) are not ours.
"""

from collections.abc import Iterable
from functools import lru_cache

from ratifyd.raft.messages import (
    AnyConfChange,
    ConfChange,
    ConfChangeKind,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    Snapshot,
    SnapshotMeta,
)

_MASK64 = (1 << 64) - 1
_ENTRY_KINDS = tuple(EntryKind)
_MESSAGE_KINDS = tuple(MessageKind)
_CONF_CHANGE_KINDS = tuple(ConfChangeKind)
_TRANSITIONS = tuple(ConfChangeTransition)


class DecodeError(ValueError):
    """These bytes are not the raftpb message they should be."""


_LOW_BYTES = tuple(bytes((low | 0x80,)) for low in range(128))
_ONE_BYTE = tuple(bytes((value,)) for value in range(128))


def encode_varint(value: int) -> bytes:
    """Encode an unsigned 64-bit integer as protobuf does."""
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return _LOW_BYTES[value & 0x7F] + _ONE_BYTE[value >> 7]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_DATA_HEADS = (b"", *(b"\x22" + encode_varint(size) for size in range(1, 1024)))
_EMPTY_SNAPSHOT_FIELD = b"\x4a\x0a\x12\x08\x0a\x02\x28\x00\x10\x00\x18\x00"
_USUAL_END = _EMPTY_SNAPSHOT_FIELD + b"\x50\x00\x58\x00"  # no snapshot, not rejected, no hint


def encode_entry(entry: Entry) -> bytes:
    """Encode one raftpb.Entry."""
    return encode_entries((entry,))[0]


def encode_entries(entries: Iterable[Entry]) -> list[bytes]:
    """Encode raftpb.Entry objects, one bytes object each; neighbours share their work."""
    encoded: list[bytes] = []
    append = encoded.append
    term = kind = high = -1
    head = rest = b""
    for entry in entries:
        if entry.term != term or entry.kind != kind:
            term, kind = entry.term, entry.kind
            head = b"\x08%c\x10%b\x18" % (kind, encode_varint(term))
        index = entry.index
        if index >> 7 != high:
            high = index >> 7
            rest = encode_varint(high)
        number = _LOW_BYTES[index & 0x7F] + rest if high else index.to_bytes(1)
        data = entry.data
        size = len(data)
        append(head + number + (_DATA_HEADS[size] if size < 1024 else b"\x22" + encode_varint(size)) + data)
    return encoded


def entry_size(entry: Entry) -> int:
    """Length of the encoded entry in bytes, without encoding it."""
    size = 6 + (entry.term.bit_length() - 1) // 7 + (entry.index.bit_length() - 1) // 7
    if not entry.term:
        size += 1
    if not entry.index:
        size += 1
    length = len(entry.data)
    if length:
        size += 2 + (length.bit_length() - 1) // 7 + length
    return size


def encode_hard_state(state: HardState) -> bytes:
    """Encode a raftpb.HardState."""
    return _vote_fields(state.term, state.vote) + encode_varint(state.commit)


@lru_cache(maxsize=16)
def _vote_fields(term: int, vote: int) -> bytes:
    """All in front of the commit index, which changes with every batch while these stay for a whole term."""
    return b"\x08%b\x10%b\x18" % (encode_varint(term), encode_varint(vote))


def encode_conf_state(state: ConfState) -> bytes:
    """Encode a raftpb.ConfState, its id lists unpacked as etcd writes them."""
    parts = [b"\x08" + encode_varint(member) for member in state.voters]
    parts += [b"\x10" + encode_varint(member) for member in state.learners]
    parts += [b"\x18" + encode_varint(member) for member in state.voters_outgoing]
    parts += [b"\x20" + encode_varint(member) for member in state.learners_next]
    parts.append(b"\x28\x01" if state.auto_leave else b"\x28\x00")
    return b"".join(parts)


def encode_snapshot_meta(meta: SnapshotMeta) -> bytes:
    """Encode a raftpb.SnapshotMetadata."""
    conf_state = encode_conf_state(meta.conf_state)
    return b"\x0a%b%b\x10%b\x18%b" % (
        encode_varint(len(conf_state)),
        conf_state,
        encode_varint(meta.index),
        encode_varint(meta.term),
    )


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Encode a raftpb.Snapshot."""
    meta = encode_snapshot_meta(snapshot.meta)
    tail = b"\x12%b%b" % (encode_varint(len(meta)), meta)
    if not snapshot.data:
        return tail
    return b"\x0a%b%b%b" % (encode_varint(len(snapshot.data)), snapshot.data, tail)


@lru_cache(maxsize=1024)
def _message_head(kind: int, to: int, sender: int, term: int) -> bytes:
    """Encode the first fields of a Message, which are always the same few; ids are long numbers."""
    return b"\x08%c\x10%b\x18%b\x20%b\x28" % (kind, encode_varint(to), encode_varint(sender), encode_varint(term))


def encode_message(message: Message) -> bytes:
    """Encode a raftpb.Message."""
    varint = encode_varint
    head = b"%b%b\x30%b" % (
        _message_head(message.kind, message.to, message.sender, message.term),
        varint(message.log_term),
        varint(message.index),
    )
    snapshot, reject, context = message.snapshot, message.reject, message.context
    if snapshot is None and not (reject or context or message.reject_hint):
        tail = b"\x40%b%b" % (varint(message.commit), _USUAL_END)
    else:
        parts = [b"\x40", varint(message.commit)]
        if snapshot is None:
            parts.append(_EMPTY_SNAPSHOT_FIELD)
        else:
            encoded = encode_snapshot(snapshot)
            parts += b"\x4a", varint(len(encoded)), encoded
        parts.append(b"\x50%c\x58%b" % (reject, varint(message.reject_hint)))
        if context:
            parts += b"\x62", varint(len(context)), context
        tail = b"".join(parts)
    if not message.entries:
        return head + tail
    parts = [head]
    for entry in encode_entries(message.entries):
        parts += b"\x3a", varint(len(entry)), entry
    parts.append(tail)
    return b"".join(parts)


def encode_conf_change(change: ConfChange) -> bytes:
    """Encode a raftpb.ConfChange."""
    head = b"\x08%b\x10%c\x18%b" % (encode_varint(change.id), change.kind, encode_varint(change.node_id))
    if not change.context:
        return head
    return b"%b\x22%b%b" % (head, encode_varint(len(change.context)), change.context)


def encode_conf_change_v2(change: ConfChangeV2) -> bytes:
    """Encode a raftpb.ConfChangeV2."""
    parts = [b"\x08%c" % change.transition]
    for single in change.changes:
        inner = b"\x08%c\x10%b" % (single.kind, encode_varint(single.node_id))
        parts.append(b"\x12%c%b" % (len(inner), inner))
    if change.context:
        parts.append(b"\x1a" + encode_varint(len(change.context)) + change.context)
    return b"".join(parts)


def decode_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Decode one varint; returns its value, cut to 64 bits, and the offset behind it."""
    value = shift = 0
    try:
        byte = data[offset]
        if byte < 0x80:
            return byte, offset + 1
        while True:
            byte = data[offset]
            offset += 1
            if byte < 0x80:
                return (value | byte << shift) & _MASK64, offset
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise DecodeError("varint is longer than ten bytes")
    except IndexError:
        raise DecodeError("varint is cut short") from None


def decode_entry(data: bytes) -> Entry:
    """Decode one raftpb.Entry."""
    entry = _decode_usual_entry(data)
    return entry if entry is not None else _decode_any_entry(data)


def _decode_usual_entry(data: bytes) -> Entry | None:
    """Decode an entry in the layout all known writers use, read in place; None for any other, or a broken one."""
    try:
        kind = data[1]
        if data[0] != 0x08 or kind > 2 or data[2] != 0x10:
            return None
        term = data[3]
        offset = 4
        if term >= 0x80:
            term, offset = decode_varint(data, 3)
        if data[offset] != 0x18:
            return None
        # Up to three bytes of index and two of size are read in place: a restart does this for the whole log.
        index = data[offset + 1]
        offset += 2
        if index >= 0x80:
            index += (data[offset] << 7) - 0x80
            offset += 1
            if index >= 0x4000:
                index += (data[offset] << 14) - 0x4000
                offset += 1
                if index >= 0x200000:
                    index, offset = decode_varint(data, offset - 3)
        if offset == len(data):
            return Entry(term, index, b"", _ENTRY_KINDS[kind])
        if data[offset] != 0x22:
            return None
        size = data[offset + 1]
        offset += 2
        if size >= 0x80:
            size += (data[offset] << 7) - 0x80
            offset += 1
            if size >= 0x4000:
                size, offset = decode_varint(data, offset - 2)
    except IndexError:
        return None
    payload = data[offset:]
    return Entry(term, index, payload, _ENTRY_KINDS[kind]) if len(payload) == size else None


def _decode_any_entry(data: bytes) -> Entry:
    kind = term = index = 0
    payload = b""
    for tag, number, chunk in _fields(data):
        if tag == 0x10:
            term = number
        elif tag == 0x18:
            index = number
        elif tag == 0x22:
            payload = chunk
        elif tag == 0x08:
            kind = number
    if kind >= len(_ENTRY_KINDS):
        raise DecodeError(f"unknown entry type {kind}")
    return Entry(term, index, payload, _ENTRY_KINDS[kind])


def decode_hard_state(data: bytes) -> HardState:
    """Decode a raftpb.HardState."""
    term = vote = commit = 0
    for tag, number, _ in _fields(data):
        if tag == 0x08:
            term = number
        elif tag == 0x10:
            vote = number
        elif tag == 0x18:
            commit = number
    return HardState(term, vote, commit)


def decode_conf_state(data: bytes) -> ConfState:
    """Decode a raftpb.ConfState."""
    lists: tuple[list[int], ...] = ([], [], [], [])
    auto_leave = False
    for tag, number, chunk in _fields(data):
        field, wire = tag >> 3, tag & 7
        if 1 <= field <= 4:
            if wire == 0:
                lists[field - 1].append(number)
            elif wire == 2:
                lists[field - 1].extend(_packed(chunk))
        elif tag == 0x28:
            auto_leave = number != 0
    voters, learners, outgoing, learners_next = map(tuple, lists)
    return ConfState(voters, learners, outgoing, learners_next, auto_leave)


def decode_snapshot_meta(data: bytes) -> SnapshotMeta:
    """Decode a raftpb.SnapshotMetadata."""
    index = term = 0
    conf_state = ConfState()
    for tag, number, chunk in _fields(data):
        if tag == 0x0A:
            conf_state = decode_conf_state(chunk)
        elif tag == 0x10:
            index = number
        elif tag == 0x18:
            term = number
    return SnapshotMeta(index, term, conf_state)


def decode_snapshot(data: bytes) -> Snapshot:
    """Decode a raftpb.Snapshot."""
    payload = b""
    meta = SnapshotMeta()
    for tag, _, chunk in _fields(data):
        if tag == 0x0A:
            payload = chunk
        elif tag == 0x12:
            meta = decode_snapshot_meta(chunk)
    return Snapshot(meta, payload)


def decode_message(data: bytes) -> Message:
    """Decode a raftpb.Message; an empty snapshot field counts as none."""
    message = _decode_usual_message(data)
    return message if message is not None else _decode_any_message(data)


@lru_cache(maxsize=1024)
def _id_in(data: bytes) -> tuple[int, int]:
    """Decode the varint that begins ten bytes of a message: a member's id, one of a few; and its length."""
    return decode_varint(data, 0)


def _decode_usual_message(data: bytes) -> Message | None:
    """Decode a message without a snapshot in etcd's layout, read in place; None for any other, or a broken one."""
    try:
        kind = data[1]
        if data[0] != 0x08 or data[2] != 0x10 or kind >= len(_MESSAGE_KINDS):
            return None
        to, size = _id_in(data[3:13])
        offset = 3 + size
        if data[offset] != 0x18:
            return None
        sender, size = _id_in(data[offset + 1 : offset + 11])
        offset += 1 + size
        if data[offset] != 0x20:
            return None
        term = data[offset + 1]
        offset += 2
        if term >= 0x80:
            term, offset = decode_varint(data, offset - 1)
        if data[offset] != 0x28:
            return None
        log_term = data[offset + 1]
        offset += 2
        if log_term >= 0x80:
            log_term, offset = decode_varint(data, offset - 1)
        if data[offset] != 0x30:
            return None
        index, offset = decode_varint(data, offset + 1)
        entries = []
        while data[offset] == 0x3A:
            size, offset = decode_varint(data, offset + 1)
            entries.append(decode_entry(data[offset : offset + size]))
            offset += size
        if data[offset] != 0x40:
            return None
        commit, offset = decode_varint(data, offset + 1)
        known = _MESSAGE_KINDS[kind]
        if data[offset:] == _USUAL_END:
            return Message(known, to, sender, term, log_term, index, entries, commit)
        tail = offset + len(_EMPTY_SNAPSHOT_FIELD)
        if data[offset:tail] != _EMPTY_SNAPSHOT_FIELD or data[tail] != 0x50 or data[tail + 2] != 0x58:
            return None
        reject = data[tail + 1]
        if reject >= 0x80:
            return None
        hint, offset = decode_varint(data, tail + 3)
        context = b""
        if offset != len(data):
            if data[offset] != 0x62:
                return None
            size, offset = decode_varint(data, offset + 1)
            context = data[offset:]
            if len(context) != size:
                return None
    except IndexError:
        return None
    return Message(known, to, sender, term, log_term, index, entries, commit, None, reject != 0, hint, context)


def _decode_any_message(data: bytes) -> Message:
    numbers = [0] * 12
    entries: list[Entry] = []
    snapshot: Snapshot | None = None
    context = b""
    for tag, number, chunk in _fields(data):
        if tag & 7 == 0:
            if tag < 0x60:
                numbers[tag >> 3] = number
        elif tag == 0x3A:
            entries.append(decode_entry(chunk))
        elif tag == 0x4A:
            snapshot = None if chunk == _EMPTY_SNAPSHOT_FIELD[2:] else decode_snapshot(chunk)
        elif tag == 0x62:
            context = chunk
    _, kind, to, sender, term, log_term, index, _, commit, _, reject, reject_hint = numbers
    if kind >= len(_MESSAGE_KINDS):
        raise DecodeError(f"unknown message type {kind}")
    if snapshot is not None and not snapshot.meta.index:
        snapshot = None
    return Message(
        _MESSAGE_KINDS[kind],
        to,
        sender,
        term,
        log_term,
        index,
        entries,
        commit,
        snapshot,
        reject != 0,
        reject_hint,
        context,
    )


def decode_conf_change(data: bytes) -> ConfChange:
    """Decode a raftpb.ConfChange."""
    change_id = kind = node_id = 0
    context = b""
    for tag, number, chunk in _fields(data):
        if tag == 0x08:
            change_id = number
        elif tag == 0x10:
            kind = number
        elif tag == 0x18:
            node_id = number
        elif tag == 0x22:
            context = chunk
    return ConfChange(_conf_change_kind(kind), node_id, context, change_id)


def decode_conf_change_v2(data: bytes) -> ConfChangeV2:
    """Decode a raftpb.ConfChangeV2; no bytes at all mean: leave the joint configuration."""
    transition = 0
    changes: list[ConfChangeSingle] = []
    context = b""
    for tag, number, chunk in _fields(data):
        if tag == 0x08:
            transition = number
        elif tag == 0x12:
            changes.append(_decode_conf_change_single(chunk))
        elif tag == 0x1A:
            context = chunk
    if transition >= len(_TRANSITIONS):
        raise DecodeError(f"unknown conf change transition {transition}")
    return ConfChangeV2(tuple(changes), _TRANSITIONS[transition], context)


def entry_of_change(change: AnyConfChange) -> tuple[EntryKind, bytes]:
    """Return the entry type and data that carry a configuration change."""
    if isinstance(change, ConfChange):
        return EntryKind.CONF_CHANGE, encode_conf_change(change)
    return EntryKind.CONF_CHANGE_V2, encode_conf_change_v2(change)


def change_of_entry(entry: Entry) -> AnyConfChange:
    """Return the configuration change an entry carries."""
    if entry.kind == EntryKind.CONF_CHANGE:
        return decode_conf_change(entry.data)
    if entry.kind == EntryKind.CONF_CHANGE_V2:
        return decode_conf_change_v2(entry.data)
    raise DecodeError("a normal entry carries no configuration change")


def _decode_conf_change_single(data: bytes) -> ConfChangeSingle:
    kind = node_id = 0
    for tag, number, _ in _fields(data):
        if tag == 0x08:
            kind = number
        elif tag == 0x10:
            node_id = number
    return ConfChangeSingle(_conf_change_kind(kind), node_id)


def _conf_change_kind(kind: int) -> ConfChangeKind:
    if kind >= len(_CONF_CHANGE_KINDS):
        raise DecodeError(f"unknown conf change type {kind}")
    return _CONF_CHANGE_KINDS[kind]


def _packed(data: bytes) -> list[int]:
    numbers = []
    offset = 0
    while offset < len(data):
        number, offset = decode_varint(data, offset)
        numbers.append(number)
    return numbers


def _fields(data: bytes) -> list[tuple[int, int, bytes]]:
    """Split a message into (tag, varint value, bytes value); fixed-width fields, which raftpb has none of, are skipped.

    One- and two-byte varints are read in place: nearly all of them are that short.
    """
    fields: list[tuple[int, int, bytes]] = []
    append = fields.append
    offset, end = 0, len(data)
    while offset < end:
        tag = data[offset]
        offset += 1
        if tag >= 0x80:
            tag, offset = decode_varint(data, offset - 1)
        wire = tag & 7
        if wire == 1 or wire == 5:
            offset += 8 if wire == 1 else 4
        elif wire == 0 or wire == 2:
            if offset < end and (number := data[offset]) < 0x80:
                offset += 1
            else:
                number, offset = decode_varint(data, offset)
            if wire == 0:
                append((tag, number, b""))
            else:
                append((tag, 0, data[offset : offset + number]))
                offset += number
        else:
            raise DecodeError(f"wire type {wire} does not occur in raftpb")
        if tag < 8:
            raise DecodeError("field number 0")
    if offset > end:
        raise DecodeError("field is cut short")
    return fields
