"""First header blocks that connections share: whoever takes one from another goes on as if it had decoded it itself."""

import struct
from dataclasses import replace
from random import Random
from typing import Any

import hpack

from fuzzing.mutate import plain
from fuzzing.target import Target
from fuzzing.targets.wire import frame
from ratifyd.wire import grpc
from ratifyd.wire.events import Call
from ratifyd.wire.firstblocks import FirstBlocks
from ratifyd.wire.frames import PREFACE
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.headers import Head
from ratifyd.wire.limits import Limits

CONVERSATIONS = 60
MAX_REQUESTS = 12
_LIMITS = Limits(max_concurrent_streams=4)
_NARROW = replace(_LIMITS, max_header_list_bytes=300)
_FIELDS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/etcdserverpb.KV/Put"),
    (":authority", "example:2379"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)
_MORE = (
    ("user-agent", "etcd"),
    ("grpc-accept-encoding", "gzip"),
    ("client-api-version", "3.5.1"),
    ("hasleader", "true"),
    ("grpc-timeout", "5S"),
    ("token", "secret"),
    ("te", "trailers"),
    ("accept-encoding", "long" * 40),
)


class _Unshared(FirstBlocks):
    """Every connection decodes for itself."""

    def take(self, *_: Any) -> None:
        return None


def _seeds() -> list[bytes]:
    """Header blocks of one connection, the first byte of each its length; the byte before them chooses the limits."""
    found = []
    for number in range(CONVERSATIONS):
        random = Random(f"first blocks {number}")
        encoder = hpack.Encoder()
        if random.random() < 0.2:
            encoder.header_table_size = random.choice((0, 60, 200, 4096))
        blocks = []
        for _ in range(random.randint(1, 4)):
            if random.random() < 0.2:
                encoder = hpack.Encoder()  # so that what others begin with comes later here
            fields: list[Any] = [*_FIELDS, *random.sample(_MORE, random.choice((0, 0, 1, 2)))]
            if random.random() < 0.1:
                fields[-1] = hpack.NeverIndexedHeaderTuple(*fields[-1])
            blocks.append(encoder.encode(fields, huffman=random.random() < 0.5))
        found.append(bytes((number,)) + b"".join(bytes((min(len(each), 255),)) + each[:255] for each in blocks))
    return found


def _told(event: Any, route: str) -> list[object]:
    """An event in full; and the route is set, as a session does, so that heads of two connections are told apart."""
    names = event._fields if isinstance(event, Call) else event.__slots__
    told: list[object] = [type(event).__name__]
    for name in names:
        value = getattr(event, name)
        told.append([getattr(value, each) for each in value.__slots__] if hasattr(value, "__slots__") else value)
        if isinstance(value, Head):
            value.route = route
    return told


def _blocks(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    while data and len(found) < MAX_REQUESTS:
        found.append(data[1 : 1 + data[0]])
        data = data[1 + data[0] :]
    return found


def _converse(blocks: list[bytes], known: FirstBlocks, limits: Limits) -> list[object]:
    """What a connection says, to its session and to its client, about requests with these header blocks."""
    before, grpc._FIRST_BLOCKS = grpc._FIRST_BLOCKS, known
    try:
        connection = GrpcConnection(limits)
        connection.receive(PREFACE + frame(4, 0, 0, b""), 0.0)
        told: list[object] = []
        for number, block in enumerate(blocks):
            if connection.closed:
                break
            stream_id = 2 * number + 1
            body = struct.pack(">BI", 0, 1) + b"m"
            for event in connection.receive(frame(1, 4, stream_id, block) + frame(0, 1, stream_id, body), 1.0):
                told.append(_told(event, "its own"))
                if isinstance(event, Call) and not connection.closed:
                    connection.reply(event.stream_id, b"")
            told.append(connection.data_to_send())
        return [*told, connection.closed]
    finally:
        grpc._FIRST_BLOCKS = before


def _share(data: bytes) -> None:
    if not data:
        return
    limits, blocks = (_NARROW if data[0] % 3 == 0 else _LIMITS), _blocks(data[1:])
    shared = FirstBlocks()
    expected = _converse(blocks, _Unshared(), limits)
    for block in blocks:
        _converse([block, *blocks], shared, _LIMITS)  # and goes on with what it has given others
    for _ in range(2):
        assert _converse(blocks, shared, limits) == expected, "whoever takes a block goes on otherwise"


TARGETS = (Target("first_blocks", _seeds, lambda: _share, shapes=(plain,)),)
