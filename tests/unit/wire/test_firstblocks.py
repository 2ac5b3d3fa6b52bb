"""First header blocks are decoded once for all connections, and never where that could tell or change anything."""

import struct
from typing import Any

import pytest
from hpack import Encoder, NeverIndexedHeaderTuple

from ratifyd.wire import grpc
from ratifyd.wire.events import Call
from ratifyd.wire.firstblocks import FirstBlocks
from ratifyd.wire.frames import PREFACE
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.headers import Head
from ratifyd.wire.hpack import Decoder, HpackError
from ratifyd.wire.limits import Limits

PATH = "/etcdserverpb.KV/Range"
FIELDS: list[Any] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "example:2379"),
    ("user-agent", "test"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> FirstBlocks:
    blocks = FirstBlocks()
    monkeypatch.setattr(grpc, "_FIRST_BLOCKS", blocks)
    return blocks


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Blocks that were decoded."""
    blocks: list[bytes] = []
    decode = Decoder.decode

    def counted(self: Decoder, block: bytes) -> Any:
        blocks.append(block)
        return decode(self, block)

    monkeypatch.setattr(Decoder, "decode", counted)
    return blocks


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


def opened(limits: Limits | None = None) -> GrpcConnection:
    connection = GrpcConnection(limits or Limits())
    connection.receive(PREFACE + frame(4, 0, 0, b""))
    return connection


def request(connection: GrpcConnection, stream_id: int, block: bytes) -> list[Any]:
    data = b"\0" + struct.pack(">I", 1) + b"m"
    return connection.receive(frame(1, 4, stream_id, block) + frame(0, 1, stream_id, data))


def seen(head: Head) -> list[object]:
    return [getattr(head, name) for name in Head.__slots__]


def test_the_second_connection_decodes_nothing_and_reads_on_as_the_first(decoded: list[bytes]) -> None:
    encoder = Encoder()
    blocks = [
        encoder.encode(FIELDS),
        encoder.encode([*FIELDS, ("more", "of it")]),
        encoder.encode([*FIELDS, ("more", "of it")]),
        encoder.encode(FIELDS),
    ]
    answers = []
    for _ in range(3):
        connection = opened()
        calls = [call for at, block in enumerate(blocks) for call in request(connection, 2 * at + 1, block)]
        assert [type(call) for call in calls] == [Call] * len(blocks)
        answers.append([seen(call.head) for call in calls])
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0][Head.__slots__.index("path")] == PATH.encode()
    assert decoded.count(blocks[0]) == 1
    assert decoded.count(blocks[1]) == 3  # it came second, so its meaning hangs on what came before


def test_what_connections_share_is_not_changed_by_any_of_them() -> None:
    block = Encoder().encode(FIELDS)
    connections = [opened() for _ in range(3)]
    for connection in connections:
        assert len(request(connection, 1, block)) == 1
    for number, connection in enumerate(connections):  # the first has lent what the others have borrowed
        more = [(f"name-{number}", f"value {at}") for at in range(2)]
        encoder = Encoder()
        encoder.encode(FIELDS)
        for stream_id in (3, 5):
            ((_, head, _),) = request(connection, stream_id, encoder.encode([*FIELDS, *more]))
            assert head.metadata == {f"name-{number}".encode(): [b"value 0", b"value 1"]}
    assert len(request(opened(), 1, block)) == 1
    with pytest.raises(HpackError):
        Decoder().decode(b"\xbe")  # the first entry of the dynamic table


def test_a_request_is_one_connections_own() -> None:
    block = Encoder().encode(FIELDS)
    heads = []
    for _ in range(3):
        ((_, head, _),) = request(opened(), 1, block)
        assert head.route is None
        head.route = object()
        heads.append(head)
    assert len({id(head) for head in heads}) == len(heads)


@pytest.mark.parametrize(
    "field",
    [
        ("authorization", "secret"),
        ("token", "secret"),
        ("anything", "secret"),
        ("grpc-timeout", "1S"),
        NeverIndexedHeaderTuple("accept-encoding", "secret"),
    ],
    ids=lambda field: str(field[0]),
)
def test_what_may_be_secret_or_changes_is_not_kept(
    known: FirstBlocks, decoded: list[bytes], field: tuple[str, str]
) -> None:
    block = Encoder().encode([*FIELDS, field])
    for _ in range(2):
        assert len(request(opened(), 1, block)) == 1
    assert decoded == [block] * 2
    assert not known._known


def test_public_metadata_is_kept(decoded: list[bytes]) -> None:
    block = Encoder().encode([*FIELDS, ("client-api-version", "3.5.1"), ("hasleader", "true")])
    for _ in range(2):
        ((_, head, _),) = request(opened(), 1, block)
        assert head.metadata == {b"client-api-version": [b"3.5.1"], b"hasleader": [b"true"]}
    assert decoded == [block]


def test_a_block_is_taken_by_a_fresh_decoder_only(decoded: list[bytes]) -> None:
    block = Encoder().encode(FIELDS)
    request(opened(), 1, block)
    connection = opened()
    request(connection, 1, Encoder().encode([*FIELDS, ("more", "1")]))
    request(connection, 3, block)
    assert decoded.count(block) == 2


def test_a_smaller_limit_holds(decoded: list[bytes]) -> None:
    block = Encoder().encode(FIELDS)
    assert len(request(opened(), 1, block)) == 1
    assert request(opened(Limits(max_header_list_bytes=300)), 1, block) == []
    assert len(decoded) == 2


@pytest.mark.parametrize("update", [b"\x20", b"\x3f\xe1\x1f"], ids=["emptied", "as it is"])
def test_a_resized_table_is_not_shared(known: FirstBlocks, update: bytes) -> None:
    assert len(request(opened(), 1, update + Encoder().encode(FIELDS))) == 1
    assert not known._known


def test_they_are_bounded(known: FirstBlocks) -> None:
    for number in range(300):
        request(opened(), 1, Encoder().encode([*FIELDS[:4], ("user-agent", str(number)), *FIELDS[5:]]))
        assert 0 < len(known._known) <= 128
    size = len(known._known)
    request(opened(), 1, Encoder().encode([*FIELDS[:4], ("user-agent", "%" * 900), *FIELDS[5:]]))
    assert len(known._known) == size
