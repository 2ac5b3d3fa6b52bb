"""Messages read and written by hand, against protobuf: the same bytes are taken, with the same values, and made."""

from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.message import DecodeError

from fuzzing.mutate import plain, protobuf
from fuzzing.target import Target
from fuzzing.targets.samples import filled
from ratifyd.apply.txn import PARSER_NESTING, Txn, parse_proposed, parse_txn
from ratifyd.errors import TooManyOps
from ratifyd.mvcc.fields import FieldCache
from ratifyd.proto import fast
from ratifyd.proto.canonical import canonical, rewritten
from ratifyd.proto.kv_pb2 import Event, KeyValue
from ratifyd.proto.light import Swap, condition_of, read_compare, read_delete_range, read_put, read_range
from ratifyd.proto.raft_internal_pb2 import InternalRaftRequest, RequestHeader
from ratifyd.proto.rpc_pb2 import (
    AuthRoleGrantPermissionRequest,
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseKeepAliveResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    ResponseHeader,
    TxnRequest,
    TxnResponse,
    WatchResponse,
)

_SIMPLE: tuple[tuple[Any, Any], ...] = (
    (read_put, PutRequest),
    (read_range, RangeRequest),
    (read_delete_range, DeleteRangeRequest),
)
_AROUND = (b"", b"\x00", b"\x12\x01v", b"\xff\xff")
SEEDS_PER_KIND = 30


# --- requests --------------------------------------------------------------------------------------------------------


def _request_seeds() -> list[bytes]:
    random = Random("messages")
    found = [
        bytes((0,)) + PutRequest(key=b"k" * size, value=b"v" * length).SerializeToString()
        for size in (1, 127, 128)
        for length in (0, 1, 127, 128, 300, 16_384)
    ]
    found += [bytes((kind,)) + RangeRequest(key=b"key").SerializeToString() for kind in (1, 2)]
    for target, field in enumerate(("version", "create_revision", "mod_revision", "value", "lease")):
        for number in (0, 1, 300, 1 << 40, -1):
            wanted: Any = b"v" * abs(number % 301) if field == "value" else number
            compare = Compare(key=b"k", target=target, result=number % 4, **{field: wanted})  # type: ignore[arg-type]
            found.append(b"\x03" + compare.SerializeToString())
            txn = TxnRequest(compare=[compare])
            txn.success.add(request_put=PutRequest(key=b"k", value=b"v" * (number % 400)))
            txn.failure.add(request_range=RangeRequest(key=b"k"))
            txn.failure.add(request_delete_range=DeleteRangeRequest(key=b"k"))
            found.append(b"\x04" + txn.SerializeToString())
            del txn.failure[1:]
            found.append(b"\x04" + txn.SerializeToString())
            del txn.failure[:]
            found.append(b"\x04" + txn.SerializeToString())
    for size in (128, 140, 200):  # the end of the key reads as the value's tag, the tag as its length
        txn = TxnRequest(compare=[Compare(key=b"k", target=Compare.MOD, mod_revision=1)])
        txn.success.add(request_put=PutRequest(key=b"k" * (size - 1) + b"\x12", value=b"v" * 17))
        found.append(b"\x04" + txn.SerializeToString())
    kinds = (PutRequest, RangeRequest, DeleteRangeRequest, Compare, TxnRequest)
    for number, kind in enumerate(kinds):
        found += [bytes((number,)) + filled(kind, random).SerializeToString() for _ in range(SEEDS_PER_KIND)]
    return found


def request(random: Random, data: bytes, other: bytes) -> bytes:
    """Change the message behind the byte that says what it is."""
    return data[:1] + (protobuf if random.random() < 0.6 else plain)(random, data[1:], other[1:])


def _read(data: bytes) -> None:
    """Read by hand, with other bytes around, what protobuf reads; raises DecodeError where both do."""
    if not data:
        return
    kind, body = data[0] % (len(_SIMPLE) + 2), data[1:]
    before, after = _AROUND[len(data) % 4], _AROUND[data[0] // 64]
    whole, at, end = before + body + after, len(before), len(before) + len(body)
    if kind < len(_SIMPLE):
        read, message = _SIMPLE[kind]
        _agree(lambda: _seen(message, read(whole, at, end)), lambda: _seen(message, message.FromString(body)))
    elif kind == len(_SIMPLE):
        _agree(lambda: read_compare(whole, at, end), lambda: condition_of(Compare.FromString(body)))
    else:
        _agree(lambda: _txn(_shallow(body)), lambda: _txn(Txn.of(TxnRequest.FromString(body))))


def _agree(ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    try:
        expected = theirs()
    except DecodeError:
        found = ours()
        raise AssertionError(f"protobuf refuses what was read as {found!r:.300}") from None
    assert ours() == expected, "read otherwise than by protobuf"


def _shallow(data: bytes) -> Txn | Swap:
    """Raises DecodeError for what only protobuf finds too deep, too."""
    try:
        found = parse_txn(data)
    except TooManyOps as error:
        raise DecodeError from error
    if isinstance(found, Txn) and _depth(found) > PARSER_NESTING:
        raise DecodeError
    return found


def _depth(txn: Txn) -> int:
    inner = [one for branch in (txn.success, txn.failure) for kind, one in branch if kind == "request_txn"]
    return 1 + max(map(_depth, inner)) if inner else 0


def _seen(message: Any, found: Any) -> list[object]:
    return [getattr(found, field.name) for field in message.DESCRIPTOR.fields]


def _txn(txn: Txn | Swap) -> object:
    kind = (txn.nested, txn.is_read_only) if isinstance(txn, Txn) else (False, False)
    return kind, list(txn.compare), _branch(txn.success), _branch(txn.failure)


_MESSAGES = {"request_put": PutRequest, "request_range": RangeRequest, "request_delete_range": DeleteRangeRequest}


def _branch(operations: Any) -> list[object]:
    return [
        (kind, None if kind is None else _txn(found) if kind == "request_txn" else _seen(_MESSAGES[kind], found))
        for kind, found in operations
    ]


# --- answers ---------------------------------------------------------------------------------------------------------

_HEADER = ResponseHeader(cluster_id=7, member_id=8, revision=9, raft_term=10)
_HEADER_BYTES = fast.length_prefixed(1, _HEADER.SerializeToString())


def _stored(kvs: Any) -> list[bytes]:
    return [kv.SerializeToString() for kv in kvs]


def _key_value(message: Any) -> bytes:
    if not (message.key and message.create_revision and message.mod_revision and message.version):
        message.key, message.create_revision, message.mod_revision, message.version = b"k", 1, 1, 1
    message.version = message.version & ((1 << 63) - 1) or 1
    return fast.key_value(
        message.key, message.create_revision, message.mod_revision, message.version, message.value, message.lease
    )


def _event(message: Any) -> bytes:
    message.kv.SetInParent()
    message.type = Event.DELETE if message.type else Event.PUT
    previous = message.prev_kv.SerializeToString() if message.HasField("prev_kv") else None
    return fast.event(message.kv.SerializeToString(), message.type == Event.DELETE, previous)


def _put_response(message: Any) -> bytes:
    previous = message.prev_kv.SerializeToString() if message.HasField("prev_kv") else None
    return fast.put_response(_HEADER_BYTES, previous)


def _range_response(message: Any) -> bytes:
    kvs = _stored(message.kvs)
    rows = [b"%d" % number for number in range(len(kvs))]
    cache = FieldCache(lambda wanted: [kvs[int(row)] for row in wanted])
    found = fast.range_response(_HEADER_BYTES, kvs, message.more, message.count)
    for part in (rows[:1], rows, rows[1:], rows):  # read, kept, and half of it kept
        fields = cache.get_many(part) if part else []
        assert fields == fast.kv_fields([kvs[int(row)] for row in part]), "kept fields are others"
    assert found == fast.range_response_of(
        _HEADER_BYTES, cache.get_many(rows) if rows else [], message.more, message.count
    )
    return found


def _delete_response(message: Any) -> bytes:
    return fast.delete_response(_HEADER_BYTES, message.deleted, _stored(message.prev_kvs))


def _txn_response(message: Any) -> bytes:
    return fast.txn_response(_HEADER_BYTES, message.succeeded, _stored(message.responses))


def _watch_response(message: Any) -> bytes:
    return fast.watch_response(
        _HEADER_BYTES,
        message.watch_id,
        _stored(message.events),
        created=message.created,
        canceled=message.canceled,
        compact_revision=message.compact_revision,
        cancel_reason=message.cancel_reason,
        fragment=message.fragment,
    )


def _keep_alive(message: Any) -> bytes:
    message.ID = message.ID or 1
    return _HEADER_BYTES + fast.keep_alive_body(message.ID, message.TTL)


def _header(message: Any) -> bytes:
    return fast.request_header(message.ID, message.username, message.auth_revision)


def _encoder(message: Any) -> bytes:
    encoder = fast.HeaderEncoder(message.cluster_id, message.member_id)
    encoder.header(message.revision, message.raft_term // 2)
    found = encoder.header(message.revision, message.raft_term)
    assert found == encoder.header(message.revision, message.raft_term)
    return found.removeprefix(fast.length_prefixed(1, message.SerializeToString()))


_WRITERS: tuple[tuple[Any, Callable[[Any], bytes]], ...] = (
    (KeyValue, _key_value),
    (Event, _event),
    (PutResponse, _put_response),
    (RangeResponse, _range_response),
    (DeleteRangeResponse, _delete_response),
    (TxnResponse, _txn_response),
    (WatchResponse, _watch_response),
    (LeaseKeepAliveResponse, _keep_alive),
    (RequestHeader, _header),
    (InternalRaftRequest, lambda message: b""),
    (ResponseHeader, _encoder),
)


def _answer_seeds() -> list[bytes]:
    random = Random("answers")
    return [
        bytes((number,)) + filled(kind, random).SerializeToString()
        for number, (kind, _) in enumerate(_WRITERS)
        for _ in range(SEEDS_PER_KIND)
    ]


def _write(data: bytes) -> None:
    """What protobuf reads is written by hand as protobuf writes it. Raises DecodeError where it reads nothing."""
    if not data:
        return
    kind, write = _WRITERS[data[0] % len(_WRITERS)]
    if kind is InternalRaftRequest:
        _split(data[1:])
        return
    message = kind.FromString(data[1:])
    message.DiscardUnknownFields()
    if "header" in kind.DESCRIPTOR.fields_by_name:
        message.header.CopyFrom(_HEADER)
    if kind is WatchResponse:
        message.cancel_reason = message.cancel_reason[:100]
    found = write(message)
    assert found == (b"" if kind is ResponseHeader else message.SerializeToString()), (
        "written otherwise than by protobuf"
    )


def _split(data: bytes) -> None:
    """An entry that is split by hand has the parts that protobuf finds. Raises DecodeError where it finds none."""
    parts = fast.split_internal_raft_request(data)
    try:
        message = InternalRaftRequest.FromString(data)
    except DecodeError:
        if parts is not None:
            _refused(*parts)
        raise
    if parts is None:
        return
    number, body, header = parts
    assert RequestHeader.FromString(header) == message.header
    for field, content in message.ListFields():
        if field.number != 100:
            assert field.number == number
            assert type(content).FromString(body) == content


def _refused(number: int, body: bytes, header: bytes) -> None:
    """What is inside the parts is for others to read: they find that it is nothing."""
    field = InternalRaftRequest.DESCRIPTOR.fields_by_number.get(number)
    try:
        RequestHeader.FromString(header)
        if field is not None:
            type(getattr(InternalRaftRequest(), field.name)).FromString(body)
    except DecodeError:
        return
    raise AssertionError("protobuf refuses what was split")


# --- what is proposed of requests ------------------------------------------------------------------------------------


_PROPOSED = (PutRequest, DeleteRangeRequest, LeaseGrantRequest, AuthRoleGrantPermissionRequest, TxnRequest)
_ANY_LEVELS = 1000
_MAX_OPS = 128
_SURE_NESTING = 25
"""Txns inside each other of which protobuf forgets all that is unknown."""


def _proposed_seeds() -> list[bytes]:
    random = Random("proposed")
    return [
        bytes((number,)) + filled(kind, random).SerializeToString()
        for number, kind in enumerate(_PROPOSED)
        for _ in range(SEEDS_PER_KIND)
    ]


def _propose(data: bytes) -> None:
    """What is proposed has one meaning, whoever reads it. Raises DecodeError, TooManyOps."""
    if not data:
        return
    kind: Any = _PROPOSED[data[0] % len(_PROPOSED)]
    if kind is not TxnRequest:
        proposed = canonical(kind, data[1:])[1]
        whole = kind.FromString(data[1:])
        whole.DiscardUnknownFields()
        assert proposed == whole.SerializeToString(), "proposed otherwise than read"
        return
    found, proposed = parse_proposed(data[1:], _MAX_OPS)
    if isinstance(found, Txn) and _depth(found) > _SURE_NESTING:
        return
    whole = TxnRequest.FromString(proposed)
    whole.DiscardUnknownFields()
    assert whole.SerializeToString() == rewritten(kind, proposed, _ANY_LEVELS), "protobuf reads it otherwise"
    assert _txn(found) == _txn(Txn.of(whole)), "read otherwise than proposed"


TARGETS = (
    Target("messages_proposed", _proposed_seeds, lambda: _propose, (DecodeError, TooManyOps), (request,)),
    Target("messages_in", _request_seeds, lambda: _read, (DecodeError,), (request,)),
    Target("messages_out", _answer_seeds, lambda: _write, (DecodeError,), (request,)),
)
