"""Byte joins of ratifyd.proto.fast against protobuf's own serialisation of the same messages."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from ratifyd.apply.txn import Txn, parse_txn
from ratifyd.proto import fast
from ratifyd.proto.kv_pb2 import Event, KeyValue
from ratifyd.proto.raft_internal_pb2 import InternalRaftRequest, RequestHeader
from ratifyd.proto.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseKeepAliveResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    ResponseHeader,
    ResponseOp,
    TxnRequest,
    TxnResponse,
    WatchResponse,
)

short = settings(max_examples=60, deadline=None)

EDGES = st.sampled_from([0, 1, 127, 128, 16383, 16384, (1 << 28) - 1, 1 << 28, (1 << 35) - 1, 1 << 42, (1 << 63) - 1])
INT63 = st.one_of(EDGES, st.integers(0, (1 << 63) - 1))
POSITIVE = INT63.map(lambda number: number or 1)
INT64 = st.one_of(INT63, st.integers(-(1 << 63), -1))
UINT64 = st.one_of(EDGES, st.integers(0, (1 << 64) - 1))
DATA = st.one_of(st.binary(max_size=40), st.integers(0, 40_000).map(lambda size: b"x" * size))
KEY = DATA.map(lambda data: data or b"k")
REASON = st.one_of(st.just(""), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))


@st.composite
def key_values(draw: st.DrawFn) -> KeyValue:
    return KeyValue(
        key=draw(KEY),
        create_revision=draw(POSITIVE),
        mod_revision=draw(POSITIVE),
        version=draw(POSITIVE),
        value=draw(DATA),
        lease=draw(INT64),
    )


def joined(kv: KeyValue) -> bytes:
    return fast.key_value(kv.key, kv.create_revision, kv.mod_revision, kv.version, kv.value, kv.lease)


@short
@given(INT64)
def test_signed_varint(number: int) -> None:
    assert b"\x10" + fast.varint(number) == KeyValue(create_revision=number).SerializeToString() or number == 0


@short
@given(UINT64)
def test_unsigned_varint(number: int) -> None:
    assert fast.request_header(number) == RequestHeader(ID=number).SerializeToString()


def test_varint_of_zero_is_one_zero_byte() -> None:
    assert fast.varint(0) == b"\0"


@short
@given(DATA)
def test_length_prefixed(data: bytes) -> None:
    assert fast.length_prefixed(5, data) == b"\x2a" + fast.varint(len(data)) + data
    assert fast.length_prefixed(100, data) == b"\xa2\x06" + fast.varint(len(data)) + data


@short
@given(key_values())
def test_key_value(kv: KeyValue) -> None:
    assert joined(kv) == kv.SerializeToString()


@short
@given(KEY, INT63)
def test_tombstone(key: bytes, mod_revision: int) -> None:
    assert fast.tombstone(key, mod_revision) == KeyValue(key=key, mod_revision=mod_revision).SerializeToString()
    assert fast.tombstone(key) == KeyValue(key=key).SerializeToString()


@short
@given(key_values(), st.booleans(), st.none() | key_values())
def test_event(kv: KeyValue, deleted: bool, prev_kv: KeyValue | None) -> None:
    expected = Event(type=Event.DELETE if deleted else Event.PUT, kv=kv, prev_kv=prev_kv)
    previous = None if prev_kv is None else prev_kv.SerializeToString()
    assert fast.event(kv.SerializeToString(), deleted, previous) == expected.SerializeToString()


@short
@given(UINT64, UINT64, st.lists(st.tuples(INT63, UINT64), min_size=1, max_size=6))
def test_header_follows_revision_and_term(cluster_id: int, member_id: int, states: list[tuple[int, int]]) -> None:
    encoder = fast.HeaderEncoder(cluster_id, member_id)
    for revision, term in [state for state in states for _ in range(2)]:
        header = ResponseHeader(cluster_id=cluster_id, member_id=member_id, revision=revision, raft_term=term)
        assert encoder.header(revision, term) == PutResponse(header=header).SerializeToString()


def test_header_of_a_new_encoder_is_that_of_revision_and_term_zero() -> None:
    assert fast.HeaderEncoder(1, 2).header(0, 0) == b"\x0a\x04\x08\x01\x10\x02"


@short
@given(INT63)
def test_revision_header(revision: int) -> None:
    expected = PutResponse(header=ResponseHeader(revision=revision)).SerializeToString()
    assert fast.revision_header(revision) == expected


HEADER = ResponseHeader(cluster_id=7, member_id=8, revision=9, raft_term=10)
HEADER_BYTES = fast.length_prefixed(1, HEADER.SerializeToString())


@short
@given(st.none() | key_values())
def test_put_response(prev_kv: KeyValue | None) -> None:
    previous = None if prev_kv is None else prev_kv.SerializeToString()
    expected = PutResponse(header=HEADER, prev_kv=prev_kv)
    assert fast.put_response(HEADER_BYTES, previous) == expected.SerializeToString()


@short
@given(st.lists(key_values(), max_size=4), st.booleans(), INT63)
def test_range_response(kvs: list[KeyValue], more: bool, count: int) -> None:
    encoded = [kv.SerializeToString() for kv in kvs]
    for number in (count, len(kvs)):
        body = RangeResponse(kvs=kvs, more=more, count=number).SerializeToString()
        assert fast.range_body(encoded, more, number) == body
        assert fast.range_response(HEADER_BYTES, encoded, more, number) == HEADER_BYTES + body
        fields = fast.kv_fields(encoded)
        assert fast.range_response_of(HEADER_BYTES, fields, more, number) == HEADER_BYTES + body


@short
@given(INT63.filter(bool) | st.integers(-(1 << 63), -1), INT63)
def test_keep_alive_body(lease_id: int, ttl: int) -> None:
    body = LeaseKeepAliveResponse(ID=lease_id, TTL=ttl).SerializeToString()
    assert fast.keep_alive_body(lease_id, ttl) == body


@short
@given(INT63, st.lists(key_values(), max_size=4))
def test_delete_response(deleted: int, prev_kvs: list[KeyValue]) -> None:
    encoded = [kv.SerializeToString() for kv in prev_kvs]
    body = DeleteRangeResponse(deleted=deleted, prev_kvs=prev_kvs).SerializeToString()
    assert fast.delete_body(deleted, encoded) == body
    assert fast.delete_response(HEADER_BYTES, deleted, encoded) == HEADER_BYTES + body


@short
@given(st.booleans(), st.lists(key_values(), max_size=3))
def test_txn_response(succeeded: bool, kvs: list[KeyValue]) -> None:
    responses = [ResponseOp(response_range=RangeResponse(kvs=[kv], count=1)) for kv in kvs]
    encoded = [response.SerializeToString() for response in responses]
    body = TxnResponse(succeeded=succeeded, responses=responses).SerializeToString()
    assert fast.txn_body(succeeded, encoded) == body
    assert fast.txn_response(HEADER_BYTES, succeeded, encoded) == HEADER_BYTES + body


@short
@given(INT64, st.lists(key_values(), max_size=3), st.booleans(), st.booleans(), INT63, REASON, st.booleans())
def test_watch_response(
    watch_id: int,
    kvs: list[KeyValue],
    created: bool,
    canceled: bool,
    compact_revision: int,
    cancel_reason: str,
    fragment: bool,
) -> None:
    events = [Event(kv=kv) for kv in kvs]
    expected = WatchResponse(
        header=HEADER,
        watch_id=watch_id,
        created=created,
        canceled=canceled,
        compact_revision=compact_revision,
        cancel_reason=cancel_reason,
        fragment=fragment,
        events=events,
    )
    response = fast.watch_response(
        HEADER_BYTES,
        watch_id,
        [event.SerializeToString() for event in events],
        created=created,
        canceled=canceled,
        compact_revision=compact_revision,
        cancel_reason=cancel_reason,
        fragment=fragment,
    )
    assert response == expected.SerializeToString()


@short
@given(UINT64, REASON, INT63)
def test_request_header(request_id: int, username: str, auth_revision: int) -> None:
    expected = RequestHeader(ID=request_id, username=username, auth_revision=auth_revision)
    assert fast.request_header(request_id, username, auth_revision) == expected.SerializeToString()


@short
@given(UINT64, DATA, DATA)
def test_internal_raft_request_before_the_header(request_id: int, key: bytes, value: bytes) -> None:
    expected = InternalRaftRequest(header=RequestHeader(ID=request_id))
    expected.put.key = key
    expected.put.value = value
    body, header = expected.put.SerializeToString(), expected.header.SerializeToString()
    data = fast.internal_raft_request(b"\x22", body, header)
    assert data == expected.SerializeToString()
    assert fast.split_internal_raft_request(data) == (4, body, header)


@short
@given(UINT64, st.text(st.characters(exclude_categories=["Cs"])))
def test_internal_raft_request_after_the_header(request_id: int, name: str) -> None:
    expected = InternalRaftRequest(header=RequestHeader(ID=request_id))
    expected.auth_user_add.name = name
    tag = fast.varint(1100 << 3 | 2)
    body, header = expected.auth_user_add.SerializeToString(), expected.header.SerializeToString()
    assert fast.internal_raft_request(tag, body, header) == expected.SerializeToString()
    assert fast.split_internal_raft_request(expected.SerializeToString()) is None


@short
@given(st.binary(max_size=60))
def test_split_agrees_with_a_full_parse_or_declines(noise: bytes) -> None:
    whole = fast.internal_raft_request(b"\x42", noise, fast.request_header(5, "user", 6))
    assert fast.split_internal_raft_request(whole) == (8, noise, fast.request_header(5, "user", 6))
    for data in (noise, whole + noise, noise + whole):
        parts = fast.split_internal_raft_request(data)
        if parts is not None:
            number, body, header = parts
            assert fast.internal_raft_request(bytes((number << 3 | 2,)), body, header) == data or data[1] & 0x80


def test_split_declines_every_truncation() -> None:
    body = LeaseGrantRequest(TTL=5, ID=1 << 40).SerializeToString() * 40
    whole = fast.internal_raft_request(b"\x42", body, fast.request_header(1 << 60))
    assert fast.split_internal_raft_request(whole) == (8, body, fast.request_header(1 << 60))
    assert all(fast.split_internal_raft_request(whole[:size]) is None for size in range(len(whole)))
    assert fast.split_internal_raft_request(whole + b"\0") is None


def test_split_declines_what_needs_a_full_parse() -> None:
    header = fast.request_header(7)
    for tag in (b"\x0a", b"\x12", b"\x20", b"\xa2"):
        assert fast.split_internal_raft_request(tag + b"\x01a\xa2\x06" + bytes((len(header),)) + header) is None
    assert fast.split_internal_raft_request(b"\x22" + b"\xff" * 10 + b"a" * 20) is None
    long_header = fast.request_header(7, "u" * 200)
    assert fast.split_internal_raft_request(fast.internal_raft_request(b"\x22", b"", long_header)) is None


@short
@given(st.text(st.characters(exclude_categories=["Cs"])), UINT64, DATA, st.booleans())
def test_fields_of_a_message_are_protobufs(name: str, number: int, data: bytes, twice: bool) -> None:
    first = InternalRaftRequest(ID=number, header=RequestHeader(ID=number, username=name, auth_revision=number))
    first.put.key = data
    second = InternalRaftRequest(put={"value": b"v"}, header=RequestHeader(username=name + "2"))
    whole = first.SerializeToString() + (second.SerializeToString() if twice else b"")
    expected = InternalRaftRequest.FromString(whole)
    fields = fast.message_fields(whole)
    assert sorted(fields) == [4, 100]
    assert type(expected.put).FromString(fields[4]) == expected.put
    assert RequestHeader.FromString(fields[100]) == expected.header


@short
@given(st.binary(max_size=40))
def test_fields_of_noise_are_fields_or_an_error(noise: bytes) -> None:
    try:
        fields = fast.message_fields(noise)
    except ValueError:
        return
    assert sum(map(len, fields.values())) <= len(noise)


def test_fields_that_end_early() -> None:
    whole = InternalRaftRequest(ID=300, put={"key": b"k" * 200}).SerializeToString()
    complete = {0: {}, 3: {}}  # nothing at all, and the id alone
    for size in range(len(whole)):
        try:
            assert fast.message_fields(whole[:size]) == complete[size]
        except ValueError:
            assert size not in complete


@given(st.integers(3, 15), DATA, st.integers(1 << 14, (1 << 64) - 1))
def test_entry_of(number: int, body: bytes, request_id: int) -> None:
    header = fast.request_header(request_id)
    expected = fast.internal_raft_request(bytes((number << 3 | 2,)), body, header)
    assert fast.entry_of(number, body, request_id) == expected


# ---- Messages in parts


def seen(request: Any, message: Any) -> list[object]:
    """A request as whoever executes it sees it."""
    return [getattr(request, field.name) for field in message.DESCRIPTOR.fields]


@given(st.binary(max_size=40))
def test_a_txn_read_in_parts_is_the_txn_parsed_whole(noise: bytes) -> None:
    put = RequestOp(request_put=PutRequest(key=b"k", value=noise))
    read = RequestOp(request_range=RangeRequest(key=noise))
    delete = RequestOp(request_delete_range=DeleteRangeRequest(key=noise))
    compare = Compare(target=Compare.VALUE, key=b"k", value=noise)
    inner = TxnRequest(compare=[compare], success=[put, delete], failure=[read])
    nested = TxnRequest(success=[RequestOp(request_txn=inner), RequestOp()], failure=[read, read])
    only_reads = TxnRequest(success=[read])
    for request in (inner, nested, only_reads, TxnRequest(), TxnRequest(success=[RequestOp()])):
        for data in (request.SerializeToString(), request.SerializeToString() + noise):
            try:
                whole = Txn.of(TxnRequest.FromString(data))
            except DecodeError:
                with pytest.raises(DecodeError):
                    parse_txn(data)
                continue
            parts = parse_txn(data)
            if isinstance(parts, Txn):
                assert (parts.nested, parts.is_read_only) == (whole.nested, whole.is_read_only)
            assert parts.compare == whole.compare
            for mine, theirs in ((parts.success, whole.success), (parts.failure, whole.failure)):
                assert [kind for kind, _ in mine] == [kind for kind, _ in theirs]
                for (kind, one), (_, other) in zip(mine, theirs):
                    if kind is not None and kind != "request_txn":
                        assert seen(one, other) == seen(other, other)


@pytest.mark.parametrize("body", [b"", b"\x1a\x01x", b"x" * 300])
@pytest.mark.parametrize("revision", [1, 127, 128, 1 << 20, (1 << 63) - 1])
def test_put_in_txn(revision: int, body: bytes) -> None:
    expected = fast.length_prefixed(2, fast.revision_header(revision) + body)
    assert fast.put_in_txn(revision, body) == expected


@pytest.mark.parametrize("succeeded", [False, True])
@pytest.mark.parametrize("revision", [1, 127, 128, 1 << 20, (1 << 63) - 1])
def test_txn_of_put_body(revision: int, succeeded: bool) -> None:
    expected = fast.txn_body(succeeded, [fast.put_in_txn(revision, b"")])
    assert fast.txn_of_put_body(succeeded, revision) == expected
