"""Hot messages as byte joins: the bytes protobuf itself would produce, at a fraction of the cost.

Every function is the twin of a message of the *_pb2 modules and yields exactly its serialisation (fields ascending,
zero values left out); tests compare the two. A message that is a field of another stays bytes throughout. Bodies are
responses without their header field (number 1): header bytes and body bytes, concatenated, are the message.
Deliberately knows nothing of stores, requests in progress, or which header belongs to which answer.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeVar

Buffer = TypeVar("Buffer", bytes, memoryview)

_LOW_BITS: Final = 14
_LOW_MASK: Final = (1 << _LOW_BITS) - 1
_TWO_TABLES: Final = 1 << 2 * _LOW_BITS
_MASK_64: Final = (1 << 64) - 1

_ENDS: Final = [bytes((bits,)) for bits in range(0x80)]
_CONTINUES: Final = [bytes((bits | 0x80,)) for bits in range(0x80)]
_WHOLE: Final = (*_ENDS, *(low + high for high in _ENDS[1:] for low in _CONTINUES))
"""Varints of at most 14 bits."""
_CONTINUED: Final = tuple(low + high for high in _CONTINUES for low in _CONTINUES)
"""The low 14 bits of a longer varint."""


def varint(number: int) -> bytes:
    """Encode an int64 or uint64; negative numbers take ten bytes."""
    if 0 <= number < _TWO_TABLES:
        if number <= _LOW_MASK:
            return _WHOLE[number]
        return _CONTINUED[number & _LOW_MASK] + _WHOLE[number >> _LOW_BITS]
    number &= _MASK_64
    return _CONTINUED[number & _LOW_MASK] + _high_varint(number >> _LOW_BITS)


@lru_cache(maxsize=256)
def _high_varint(number: int) -> bytes:
    # Request and lease ids of one process share their upper bits: these are nearly always in the cache.
    out = b""
    while number > _LOW_MASK:
        out += _CONTINUED[number & _LOW_MASK]
        number >>= _LOW_BITS
    return out + _WHOLE[number]


class _Heads(dict[int, bytes]):
    """Tag and length of a length-delimited field by length, made when first needed; long ones are not kept."""

    __slots__ = ("tag",)

    def __init__(self, field: int) -> None:
        self.tag = varint(field << 3 | 2)

    def __missing__(self, length: int) -> bytes:
        head = self.tag + varint(length)
        if length <= _LOW_MASK:
            self[length] = head
        return head


_HEADS: Final = tuple(_Heads(field) for field in range(16))
_HEADS_1: Final = _HEADS[1]
_HEADS_2: Final = _HEADS[2]
_HEADS_3: Final = _HEADS[3]
_HEADS_5: Final = _HEADS[5]
_HEADS_11: Final = _HEADS[11]
_HEADER_HEADS: Final = _Heads(100)
_SHORT_HEADS: Final = {field: tuple(map(_Heads(field).__getitem__, range(1024))) for field in (2, 3, 11)}
"""The same for lengths up to 1023 of repeated fields: a tuple is quicker than a dict where there are many."""


def length_prefixed(field: int, data: bytes) -> bytes:
    """Encode a bytes, string or message field by its number: tag, length, `data`."""
    if field < 16:
        return _HEADS[field][len(data)] + data
    return varint(field << 3 | 2) + varint(len(data)) + data


def _repeated(field: int, items: Sequence[bytes]) -> list[bytes]:
    """Pieces of a repeated field: heads and items in turn."""
    parts = [b""] * (2 * len(items))
    short = _SHORT_HEADS[field]
    try:
        parts[::2] = [short[len(item)] for item in items]
    except IndexError:
        heads = _HEADS[field]
        parts[::2] = [heads[len(item)] for item in items]
    parts[1::2] = items
    return parts


# ---- mvccpb


def key_value(key: bytes, create_revision: int, mod_revision: int, version: int, value: bytes, lease: int = 0) -> bytes:
    """mvccpb.KeyValue of a live key: `key` is not empty; both revisions and the version are at least 1."""
    if _LOW_MASK < create_revision < _TWO_TABLES:  # `varint` of the usual ones, without the calls
        created = _CONTINUED[create_revision & _LOW_MASK] + _WHOLE[create_revision >> _LOW_BITS]
    else:
        created = varint(create_revision)
    if mod_revision == create_revision:
        modified = created
    elif _LOW_MASK < mod_revision < _TWO_TABLES:
        modified = _CONTINUED[mod_revision & _LOW_MASK] + _WHOLE[mod_revision >> _LOW_BITS]
    else:
        modified = varint(mod_revision)
    number = _WHOLE[version] if version <= _LOW_MASK else varint(version)
    if value:
        head = _HEADS_5[len(value)]
        kv = b"".join((_HEADS_1[len(key)], key, b"\x10", created, b"\x18", modified, b"\x20", number, head, value))
    else:
        kv = b"".join((_HEADS_1[len(key)], key, b"\x10", created, b"\x18", modified, b"\x20", number))
    return kv + b"\x30" + varint(lease) if lease else kv


def tombstone(key: bytes, mod_revision: int = 0) -> bytes:
    """mvccpb.KeyValue of a deletion: as stored (only the key), or with `mod_revision` as an event carries it."""
    if mod_revision:
        return b"".join((_HEADS_1[len(key)], key, b"\x18", varint(mod_revision)))
    return _HEADS_1[len(key)] + key


def event(kv: bytes, deleted: bool, prev_kv: bytes | None) -> bytes:
    """mvccpb.Event around encoded key-values."""
    kind = b"\x08\x01" if deleted else b""
    if prev_kv is None:
        return kind + _HEADS_2[len(kv)] + kv
    return b"".join((kind, _HEADS_2[len(kv)], kv, _HEADS_3[len(prev_kv)], prev_kv))


# ---- Response headers


class HeaderEncoder:
    """The header field of one member's responses, tag and length included."""

    __slots__ = ("_heads", "_last", "_prefix", "_revision", "_suffix", "_term")

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self._prefix = (b"\x08" + varint(cluster_id) if cluster_id else b"") + (
            b"\x10" + varint(member_id) if member_id else b""
        )
        self._revision = 0
        self._last = b""
        self._set_term(0)

    def header(self, revision: int, term: int) -> bytes:
        """etcdserverpb.ResponseHeader as field 1; to be followed by a body."""
        if term != self._term:
            self._set_term(term)
        elif revision == self._revision:
            return self._last
        if revision:
            encoded = varint(revision)
            last = self._heads[len(encoded)] + encoded + self._suffix
        else:
            last = length_prefixed(1, self._prefix + self._suffix)
        self._revision = revision
        self._last = last
        return last

    def _set_term(self, term: int) -> None:
        prefix = self._prefix
        suffix = b"\x20" + varint(term) if term else b""
        self._term = term
        self._suffix = suffix
        # By the length of the revision's varint: everything in front of it.
        rest = len(prefix) + 1 + len(suffix)
        self._heads = [b"\x0a" + varint(rest + length) + prefix + b"\x18" for length in range(11)]
        self._revision = 0
        self._last = length_prefixed(1, prefix + suffix)


def revision_header(revision: int) -> bytes:
    """etcdserverpb.ResponseHeader with nothing but the revision, as field 1: answers inside a Txn's carry it."""
    if not revision:
        return b"\x0a\x00"
    encoded = varint(revision)
    return b"\x0a" + _ENDS[len(encoded) + 1] + b"\x18" + encoded


# ---- etcdserverpb responses


def put_response(header: bytes, prev_kv: bytes | None) -> bytes:
    """etcdserverpb.PutResponse."""
    return header if prev_kv is None else header + _HEADS_2[len(prev_kv)] + prev_kv


def kv_fields(kvs: Sequence[bytes]) -> list[bytes]:
    """Encoded key-values, each as field `kvs` of an etcdserverpb.RangeResponse."""
    heads = _HEADS_2
    return [heads[len(kv)] + kv for kv in kvs]


def range_response_of(header: bytes, fields: Sequence[bytes], more: bool, count: int) -> bytes:
    """etcdserverpb.RangeResponse of what `kv_fields` makes."""
    return b"".join((header, *fields, b"\x18\x01" if more else b"", b"\x20" + varint(count) if count else b""))


def range_response(header: bytes, kvs: Sequence[bytes], more: bool, count: int) -> bytes:
    """etcdserverpb.RangeResponse of encoded key-values."""
    if len(kvs) == 1:
        kv = kvs[0]
        if count == 1 and not more:
            return b"".join((header, _HEADS_2[len(kv)], kv, b"\x20\x01"))
    parts = [header]
    if kvs:
        parts += _repeated(2, kvs)
    if more:
        parts.append(b"\x18\x01")
    if count:
        parts.append(b"\x20" + varint(count))
    return b"".join(parts)


def range_body(kvs: Sequence[bytes], more: bool, count: int) -> bytes:
    """etcdserverpb.RangeResponse without its header."""
    return range_response(b"", kvs, more, count)


def delete_response(header: bytes, deleted: int, prev_kvs: Sequence[bytes]) -> bytes:
    """etcdserverpb.DeleteRangeResponse with the number of deleted keys."""
    out = header + b"\x10" + varint(deleted) if deleted else header
    return out + b"".join(_repeated(3, prev_kvs)) if prev_kvs else out


def delete_body(deleted: int, prev_kvs: Sequence[bytes]) -> bytes:
    """etcdserverpb.DeleteRangeResponse without its header."""
    return delete_response(b"", deleted, prev_kvs)


_PUT_IN_TXN_HEADS: Final = tuple(bytes((0x12, length + 3, 0x0A, length + 1, 0x18)) for length in range(11))
"""By the length of the revision's varint: all that stands before it."""


def put_in_txn(revision: int, body: bytes) -> bytes:
    """etcdserverpb.ResponseOp of a Put inside a Txn, with the body of its answer."""
    if body:
        return length_prefixed(2, revision_header(revision) + body)
    encoded = varint(revision)
    return _PUT_IN_TXN_HEADS[len(encoded)] + encoded


def txn_response(header: bytes, succeeded: bool, responses: Sequence[bytes]) -> bytes:
    """etcdserverpb.TxnResponse of encoded etcdserverpb.ResponseOp."""
    if len(responses) == 1:
        only = responses[0]
        return b"".join((header, b"\x10\x01" if succeeded else b"", _HEADS_3[len(only)], only))
    return b"".join((header, b"\x10\x01" if succeeded else b"", *_repeated(3, responses)))


_TXN_OF_PUT_HEADS: Final = tuple(
    tuple(succeeded + bytes((0x1A, length + 5)) + _PUT_IN_TXN_HEADS[length] for length in range(11))
    for succeeded in (b"", b"\x10\x01")
)
"""By whether the txn succeeded and the length of the revision's varint: all that stands before it."""


def txn_of_put_body(succeeded: bool, revision: int) -> bytes:
    """etcdserverpb.TxnResponse, without its header, of a txn that has put one key."""
    encoded = varint(revision)
    return _TXN_OF_PUT_HEADS[succeeded][len(encoded)] + encoded


def txn_body(succeeded: bool, responses: Sequence[bytes]) -> bytes:
    """etcdserverpb.TxnResponse without its header."""
    return txn_response(b"", succeeded, responses)


def watch_response(
    header: bytes,
    watch_id: int,
    events: Sequence[bytes] = (),
    *,
    created: bool = False,
    canceled: bool = False,
    compact_revision: int = 0,
    cancel_reason: str = "",
    fragment: bool = False,
) -> bytes:
    """etcdserverpb.WatchResponse of encoded events."""
    out = header + watch_id_field(watch_id)
    if created or canceled or compact_revision or cancel_reason or fragment:
        out += _watch_state(created, canceled, compact_revision, cancel_reason, fragment)
    return out + watch_events(events) if events else out


def watch_id_field(watch_id: int) -> bytes:
    """What an etcdserverpb.WatchResponse has between its header and its events."""
    return b"\x10" + varint(watch_id) if watch_id else b""


def watch_events(events: Sequence[bytes]) -> bytes:
    """What an etcdserverpb.WatchResponse ends with: encoded events."""
    if len(events) == 1:
        only = events[0]
        return _HEADS_11[len(only)] + only
    return b"".join(_repeated(11, events))


def _watch_state(created: bool, canceled: bool, compact_revision: int, cancel_reason: str, fragment: bool) -> bytes:
    return b"".join(
        (
            b"\x18\x01" if created else b"",
            b"\x20\x01" if canceled else b"",
            b"\x28" + varint(compact_revision) if compact_revision else b"",
            length_prefixed(6, cancel_reason.encode()) if cancel_reason else b"",
            b"\x38\x01" if fragment else b"",
        )
    )


def keep_alive_body(lease_id: int, ttl: int) -> bytes:
    """etcdserverpb.LeaseKeepAliveResponse of a lease, whose id is not 0."""
    return b"".join((b"\x10", varint(lease_id), b"\x18" + varint(ttl) if ttl else b""))


# ---- Log entries


def request_header(request_id: int, username: str = "", auth_revision: int = 0) -> bytes:
    """etcdserverpb.RequestHeader."""
    out = b"\x08" + varint(request_id) if request_id else b""
    if username:
        out += length_prefixed(2, username.encode("utf-8", "surrogateescape"))
    if auth_revision:
        out += b"\x18" + varint(auth_revision)
    return out


def internal_raft_request(tag: bytes, body: bytes, header: bytes) -> bytes:
    """etcdserverpb.InternalRaftRequest of one encoded request under its field's `tag`, and an encoded RequestHeader."""
    # The header's number is 100; one-byte tags (up to 15) come before it, all others are 1000 and above.
    if len(tag) == 1:
        return b"".join((tag, varint(len(body)), body, _HEADER_HEADS[len(header)], header))
    return b"".join((_HEADER_HEADS[len(header)], header, tag, varint(len(body)), body))


@lru_cache(maxsize=256)
def _around_id(high: int) -> tuple[bytes, bytes]:
    """Of a header with nothing but an id, as the last field of an entry: what is before and after the id's low bits."""
    rest = _high_varint(high)
    return _HEADER_HEADS[3 + len(rest)] + b"\x08", rest


def entry_of(number: int, body: bytes, request_id: int) -> bytes:
    """As `internal_raft_request` of a field up to 15 and a header with nothing but an id, which is at least 1 << 14."""
    before, rest = _around_id(request_id >> _LOW_BITS)
    return b"".join((_HEADS[number][len(body)], body, before, _CONTINUED[request_id & _LOW_MASK], rest))


def split_internal_raft_request(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Field number of the request in a log entry, its bytes, and those of the header; nothing inside them is checked.

    None for anything but one request with a number from 3 to 15, then a header below 128 bytes, as `propose` writes
    hot requests: `message_fields` may still find one.
    """
    try:
        tag = data[0]
        length = data[1]
        at = 2
        if length > 0x7F:
            length, at = _long_length(data)
        end = at + length
        rest = data[end + 2]
        if tag & 0x87 != 2 or tag < 0x1A or data[end : end + 2] != b"\xa2\x06" or rest > 0x7F:
            return None
    except IndexError:
        return None
    start = end + 3
    return (tag >> 3, data[at:end], data[start:]) if len(data) == start + rest else None


def _long_length(data: bytes) -> tuple[int, int]:
    # At least two bytes from offset 1; a length beyond 35 bits is left with its bit 35 set: past any end.
    length = shift = 0
    for at in range(1, 7):
        byte = data[at]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length, at + 1
        shift += 7
    return 1 << 35, 7


def message_fields(data: bytes) -> dict[int, bytes]:
    """Messages inside a message, by field number; of one that comes twice, both, which is how protobuf merges them.

    Fields of other kinds are passed over. Raises ValueError when the bytes end early or make no sense.
    """
    fields: dict[int, bytes] = {}
    for number, content in message_field_list(data):
        fields[number] = fields.get(number, b"") + content
    return fields


def message_field_list(data: Buffer) -> list[tuple[int, Buffer]]:
    """As `message_fields`, each field for itself, in order."""
    fields: list[tuple[int, Buffer]] = []
    at = 0
    try:
        while at < len(data):
            tag, at = read_varint(data, at)
            if tag < 8:
                raise ValueError("a field of number 0")
            value, at = read_varint(data, at)
            if tag & 7 == 2:
                at += value
                if at > len(data):
                    raise ValueError("a field goes on beyond the end")
                fields.append((tag >> 3, data[at - value : at]))
            elif tag & 7:
                raise ValueError(f"a field of wire type {tag & 7}")
    except IndexError:
        raise ValueError("a number goes on beyond the end") from None
    return fields


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number of 64 bits, and where it ends. Raises IndexError, ValueError."""
    number = data[at]
    at += 1
    if number < 0x80:
        return number, at
    number &= 0x7F
    for shift in range(7, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & _MASK_64, at
    raise ValueError("a number of more than ten bytes")
