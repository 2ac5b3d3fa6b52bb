"""What is proposed of requests encoded in odd ways: what a real etcd would propose, read alike by every runtime."""

import tracemalloc
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from ratifyd.apply import txn as txn_module
from ratifyd.apply.txn import MAX_NESTING, Txn, parse_proposed
from ratifyd.errors import TooManyOps
from ratifyd.proto import canonical as canonical_module
from ratifyd.proto.auth_pb2 import Permission, UserAddOptions
from ratifyd.proto.canonical import WrongWireType, canonical
from ratifyd.proto.fast import length_prefixed, varint
from ratifyd.proto.rpc_pb2 import (
    AlarmRequest,
    AuthRoleGrantPermissionRequest,
    AuthUserAddRequest,
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

MOST = 1000
"""Operations that a txn may have."""
DATA = st.binary(max_size=3)
KEY = st.binary(min_size=1, max_size=3)
INT64 = st.sampled_from([0, 1, -1, 77, (1 << 63) - 1, -(1 << 63)])
UNKNOWN = (b"\x90\x03\x05", b"\x93\x03\x08\x01\x94\x03", b"\x92\x03\x02\x08\x01", b"\x95\x031234", b"\x91\x0312345678")
"""Fields that no request has, of every wire type."""

PUTS = st.builds(PutRequest, key=KEY, value=DATA, lease=INT64, prev_kv=st.booleans(), ignore_lease=st.booleans())
DELETES = st.builds(DeleteRangeRequest, key=KEY, range_end=DATA, prev_kv=st.booleans())
RANGES = st.builds(RangeRequest, key=KEY, range_end=DATA, limit=INT64, sort_order=st.integers(0, 2))
COMPARES = st.builds(Compare, key=KEY, range_end=DATA, target=st.integers(0, 4)) | st.builds(
    Compare, key=KEY, result=st.integers(0, 3), target=st.just(3), value=DATA
)
OPS = (
    st.builds(RequestOp, request_put=PUTS)
    | st.builds(RequestOp, request_delete_range=DELETES)
    | st.builds(RequestOp, request_range=RANGES)
)
TXNS = st.builds(TxnRequest, compare=st.lists(COMPARES, max_size=2), success=st.lists(OPS, max_size=3))
NESTED = st.builds(
    TxnRequest,
    success=st.lists(OPS, max_size=2),
    failure=st.lists(st.builds(RequestOp, request_txn=TXNS) | OPS, min_size=1, max_size=2),
)
OTHERS = (
    st.builds(CompactionRequest, revision=INT64, physical=st.booleans())
    | st.builds(LeaseGrantRequest, TTL=INT64, ID=INT64)
    | st.builds(AlarmRequest, action=st.sampled_from([-1, 0, 2]), memberID=st.sampled_from([0, 1 << 63]))
    | st.builds(AuthUserAddRequest, name=st.just("é"), options=st.builds(UserAddOptions, no_password=st.booleans()))
    | st.builds(AuthRoleGrantPermissionRequest, name=st.just("r"), perm=st.builds(Permission, key=KEY, range_end=DATA))
)


def encoded(message: Any, draw: Any) -> bytes:
    """A message as nobody would write it, and yet etcd reads it as this one."""
    pieces: list[bytes] = []
    for field in message.DESCRIPTOR.fields:
        tag = varint(field.number << 3 | (2 if field.message_type or field.type in (9, 12) else 0))
        value = getattr(message, field.name)
        if field.is_repeated:
            pieces += [tag + _delimited(encoded(each, draw)) for each in value]
        elif field.message_type:
            if message.HasField(field.name):
                pieces.append(tag + _delimited(encoded(value, draw)))
        elif field.containing_oneof and not message.HasField(field.name):
            continue
        elif field.type in (9, 12):
            pieces.append(tag + _delimited(value if isinstance(value, bytes) else value.encode()))
            if not field.containing_oneof and draw(st.booleans()):
                pieces.insert(-1, tag + b"\x01x")
        else:
            pieces.append(tag + _overlong(value & (1 << 64) - 1))
            if draw(st.booleans()):
                pieces.insert(-1, tag + b"\x7f" if field.type != 8 else tag + b"\x01")
    for unknown in draw(st.lists(st.sampled_from(UNKNOWN), max_size=2)):
        pieces.insert(draw(st.integers(0, len(pieces))), unknown)
    return b"".join(pieces)


def _delimited(data: bytes) -> bytes:
    return length_prefixed(1, data)[1:]


def _overlong(number: int) -> bytes:
    plain = varint(number)
    return plain if len(plain) > 8 else plain[:-1] + bytes((plain[-1] | 0x80, 0x80, 0))


@given(st.data(), PUTS | DELETES | OTHERS)
def test_odd_encodings(data: Any, message: Message) -> None:
    plain = message.SerializeToString(deterministic=True)
    assert canonical(type(message), encoded(message, data.draw)) == (message, plain)
    assert canonical(type(message), plain) == (message, plain)


@given(st.data(), TXNS | NESTED)
def test_odd_encodings_in_txns(data: Any, message: TxnRequest) -> None:
    plain = message.SerializeToString(deterministic=True)
    odd = encoded(message, data.draw)
    assert parse_proposed(odd, MOST)[1] == plain
    found, proposed = parse_proposed(plain, MOST)
    assert proposed == plain
    assert isinstance(found, Txn) or len(message.success) == 1


NOT_THE_END = b"\x0a\x01a\x12\x00"
"""A DeleteRange of a key, with an end that is there and empty: for Go's runtime, from that key on."""


@pytest.mark.parametrize("head", (b"", b"\x12\x05\x0a\x03\x0a\x01k"), ids=("alone", "after another"))
def test_an_empty_end_is_none(head: bytes) -> None:
    assert canonical(DeleteRangeRequest, NOT_THE_END)[1] == b"\x0a\x01a"
    txn = head + length_prefixed(2, length_prefixed(3, NOT_THE_END))
    assert parse_proposed(txn, MOST)[1] == head + b"\x12\x05\x1a\x03\x0a\x01a"
    compare = b"\x10\x03\x1a\x01c\x3a\x01v"
    txn = length_prefixed(1, compare + b"\x82\x04\x00")
    assert parse_proposed(txn + head, MOST)[1] == length_prefixed(1, compare) + head


def test_the_last_operation_in_one_place_counts() -> None:
    twice = b"\x12\x03\x0a\x01k" + b"\x12\x03\x12\x01v"
    assert parse_proposed(length_prefixed(2, twice), MOST)[1] == b"\x12\x05\x12\x03\x12\x01v"
    other = b"\x12\x03\x0a\x01k" + b"\x0a\x03\x0a\x01v"
    assert parse_proposed(length_prefixed(2, other), MOST)[1] == b"\x12\x05\x0a\x03\x0a\x01v"
    back = other + b"\x12\x03\x12\x01v"
    assert parse_proposed(length_prefixed(2, back), MOST)[1] == b"\x12\x05\x12\x03\x12\x01v"


def test_a_message_in_pieces_is_one() -> None:
    pieces = b"\x0a\x01r" + b"\x12\x03\x12\x01k" + b"\x12\x02\x08\x01"
    request, data = canonical(AuthRoleGrantPermissionRequest, pieces)
    assert data == b"\x0a\x01r\x12\x05\x08\x01\x12\x01k"
    assert request.perm == Permission(permType=Permission.WRITE, key=b"k")


def test_of_a_message_in_pieces_the_last_word_counts() -> None:
    pieces = b"\x0a\x01r" + b"\x12\x06\x12\x01k\x1a\x01z" + b"\x12\x04\x08\x00\x1a\x00"
    assert canonical(AuthRoleGrantPermissionRequest, pieces)[1] == b"\x0a\x01r\x12\x03\x12\x01k"


def test_a_message_in_many_pieces_is_put_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has been asked for a token yet."""
    sizes: list[int] = []
    real = canonical_module._rewrite

    def counted(fields: Any, data: Any, levels: int, left: list[int]) -> bytes:
        sizes.append(len(data))
        return real(fields, data, levels, left)

    monkeypatch.setattr(canonical_module, "_rewrite", counted)
    many = b"\x0a\x01r" + length_prefixed(2, length_prefixed(2, b"k" * 100_000)) + b"\x12\x00" * 40_000
    canonical(AuthRoleGrantPermissionRequest, many)
    assert sum(sizes) <= 2 * len(many)


def test_messages_inside_each_other_are_not_copied_at_each_level() -> None:
    put = length_prefixed(1, b"k") + length_prefixed(2, bytes(1 << 20))
    deep = nested(length_prefixed(2, length_prefixed(2, put)), 120)
    tracemalloc.start()
    try:
        parse_proposed(deep, MOST)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(deep)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        (DeleteRangeRequest, b"\x0a\x01q\x1a\x01x", "proto: wrong wireType = 2 for field PrevKv"),
        (PutRequest, b"\x0a\x01p\x12\x01v\x1a\x01x", "proto: wrong wireType = 2 for field Lease"),
        (PutRequest, b"\x08\x01", "proto: wrong wireType = 0 for field Key"),
        (PutRequest, b"\x0d\x01\x01\x01\x01", "proto: wrong wireType = 5 for field Key"),
        (PutRequest, b"\x0b\x0c", "proto: wrong wireType = 3 for field Key"),
        (AuthUserAddRequest, b"\x0a\x03zed\x12\x01p\x18\x01", "proto: wrong wireType = 0 for field Options"),
        (LeaseGrantRequest, b"\x0a\x01a", "proto: wrong wireType = 2 for field TTL"),
        (CompactionRequest, b"\x0a\x00", "proto: wrong wireType = 2 for field Revision"),
        (TxnRequest, b"\x12\x02\x08\x01", "proto: wrong wireType = 0 for field RequestRange"),
        (TxnRequest, b"\x08\x01", "proto: wrong wireType = 0 for field Compare"),
        (TxnRequest, b"\x0a\x05\x1a\x01k\x22\x00", "proto: wrong wireType = 2 for field Version"),
        (TxnRequest, b"\x12\x0a\x12\x03\x08\x01k\x12\x03\x0a\x01v", "proto: wrong wireType = 0 for field Key"),
        (TxnRequest, b"\x12\x0a\x12\x08\x0a\x01p\x12\x00\x1a\x01x", "proto: wrong wireType = 2 for field Lease"),
    ],
)
def test_a_known_field_of_another_wire_type(kind: Any, data: bytes, text: str) -> None:
    """Texts are those of a real etcd."""
    with pytest.raises(WrongWireType) as refused:
        parse_proposed(data, MOST) if kind is TxnRequest else canonical(kind, data)
    assert str(refused.value) == text


def nested(inner: bytes, levels: int) -> bytes:
    for _ in range(levels):
        inner = length_prefixed(2, length_prefixed(4, inner))
    return inner


@pytest.mark.parametrize("levels", (1, 29, 30, 31, 49, 50, 127, MAX_NESTING))
def test_in_txns_inside_each_other(levels: int) -> None:
    plain = b"\x12\x05\x1a\x03\x0a\x01a"
    assert parse_proposed(nested(plain, levels), MOST)[1] == nested(plain, levels)
    odd = length_prefixed(2, length_prefixed(3, NOT_THE_END) + UNKNOWN[1])
    assert parse_proposed(nested(odd, levels), MOST)[1] == nested(plain, levels)
    with pytest.raises(WrongWireType):
        parse_proposed(nested(b"\x12\x07\x12\x05\x0a\x01p\x1a\x00", levels), MOST)


def test_too_many_inside_each_other() -> None:
    with pytest.raises(TooManyOps):
        parse_proposed(nested(b"", MAX_NESTING + 1), MOST)


@pytest.mark.parametrize(
    "data",
    [
        b"\x12\x00\x0c",  # the end of a group that never began
        b"\x12\x00\x00\x01",  # number 0
        b"\x12\x00\x0a\x05a",  # ends early
        b"\x12\x00\x0a",
        b"\x12\x00\x90\x03" + b"\xff" * 10 + b"\x01",  # more than ten bytes
        b"\x12\x00\x93\x03\x08\x01",  # a group without end
        b"\x12\x00\x93\x03\x9c\x03",  # that ends as another
        b"\x12\x00\x97\x03",  # no wire type
        b"\x12\x00\x95\x03\x01",
        b"\x12\x00" + b"\x8a\x80\x80\x80\x10\x00",  # a number of more than 29 bits
    ],
)
def test_broken_ones(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_proposed(data, MOST)
    with pytest.raises(DecodeError):
        parse_proposed(nested(data, 60), MOST)
    with pytest.raises(DecodeError):
        canonical(PutRequest, data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x00" * 300_000,
        b"\x12\x00" * 300_000,
        b"\x1a\x00" * 300_000,
        b"\x20\x01" + b"\x0a\x00" * 90_000,
        length_prefixed(2, length_prefixed(4, b"\x0a\x00" * 300_000)),
        TxnRequest(
            success=[RequestOp(request_txn=TxnRequest(success=[RequestOp(request_put=PutRequest(key=b"k"))] * 120))]
            * 120
        ).SerializeToString(),
    ],
)
def test_what_has_too_many_operations_is_not_taken_apart(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message has room for a million, and nobody has been asked for a token yet."""
    read: list[int] = []
    for name in ("read_compare", "condition_of", "_operation"):
        real = getattr(txn_module, name)

        def counted(*arguments: Any, real: Any = real) -> Any:
            read.append(1)
            return real(*arguments)

        monkeypatch.setattr(txn_module, name, counted)
    with pytest.raises(TooManyOps):
        parse_proposed(data, 128)
    assert len(read) <= 3 * 128


def test_as_many_operations_as_are_allowed_are_read() -> None:
    puts = [RequestOp(request_put=PutRequest(key=b"%d" % number)) for number in range(20_000)]
    found, _ = parse_proposed(TxnRequest(success=puts).SerializeToString(), 20_000)
    assert isinstance(found, Txn) and len(found.success) == 20_000


@pytest.mark.parametrize("many", [b"\x48\x01" * 200_000, b"\x4b" + b"\x08\x01" * 200_000 + b"\x4c"])
def test_what_has_more_fields_than_anybody_writes_is_refused(many: bytes) -> None:
    with pytest.raises(DecodeError, match="too many"):
        canonical(PutRequest, b"\x0a\x01a" + many)
