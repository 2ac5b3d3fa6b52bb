"""Requests that announce their content-length (RFC 9113 §8.1.1): as quick as others, and held to it."""

import struct

import hpack
import pytest

from ratifyd.wire.events import Call, Event, HalfClosed, Message, Opened
from ratifyd.wire.frames import PREFACE
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.limits import Limits

MESSAGE = b"\0\0\0\0\x03abc"


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream_id) + payload


def headers(encoder: hpack.Encoder, stream_id: int, length: int) -> bytes:
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/etcdserverpb.KV/Put"),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("content-length", str(length)),
    ]
    return frame(1, 4, stream_id, encoder.encode(fields))


def started() -> GrpcConnection:
    connection = GrpcConnection(Limits())
    connection.receive(PREFACE + frame(4, 0, 0, b""))
    connection.data_to_send()
    return connection


def test_whole_requests_are_one_event_each() -> None:
    encoder, connection = hpack.Encoder(), started()
    for stream_id in (1, 3, 5):
        data = headers(encoder, stream_id, len(MESSAGE)) + frame(0, 1, stream_id, MESSAGE)
        (event,) = connection.receive(data)
        assert isinstance(event, Call)
        assert event.message == b"abc"


def test_headers_first_then_all_data() -> None:
    encoder, connection = hpack.Encoder(), started()
    data = b"".join(headers(encoder, stream_id, len(MESSAGE)) for stream_id in (1, 3, 5))
    data += b"".join(frame(0, 1, stream_id, MESSAGE) for stream_id in (1, 3, 5))
    events = connection.receive(data)
    assert [type(event) for event in events] == [Call, Call, Call]


def test_data_in_a_later_read() -> None:
    encoder, connection = hpack.Encoder(), started()
    events: list[Event] = connection.receive(headers(encoder, 1, len(MESSAGE)))
    events += connection.receive(frame(0, 1, 1, MESSAGE))
    assert [type(event) for event in events] == [Opened, Message, HalfClosed]


@pytest.mark.parametrize("length", [0, 7, 9, 10_000])
@pytest.mark.parametrize("together", [True, False])
def test_another_length_is_a_stream_error(length: int, together: bool) -> None:
    encoder, connection = hpack.Encoder(), started()
    parts = [headers(encoder, 1, length), frame(0, 1, 1, MESSAGE)]
    events: list[Event] = []
    for part in [b"".join(parts)] if together else parts:
        events += connection.receive(part)
    assert not any(isinstance(event, Call | HalfClosed) for event in events)
    assert frame(3, 0, 1, struct.pack(">I", 1)) in connection.data_to_send()  # RST_STREAM, PROTOCOL_ERROR
    assert not connection.closed
