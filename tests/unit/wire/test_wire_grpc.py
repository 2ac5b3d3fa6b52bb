"""gRPC over HTTP/2: requests, answers, refusals in grpc-go's words."""

import gzip
import random
import struct
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import pytest

from ratifyd.wire.events import Call, Event, HalfClosed, Message, Opened, Reset
from ratifyd.wire.headers import percent_encode, quote
from ratifyd.wire.limits import Limits

DATA, HEADERS, _, RST_STREAM = range(4)
WINDOW_UPDATE = 8
OK = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0")]
Peer = Any


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


def message(data: bytes, compressed: int = 0) -> bytes:
    return struct.pack(">BI", compressed, len(data)) + data


def types(events: list[object]) -> list[type]:
    return [type(event) for event in events]


def test_whole_request_in_one_read_is_a_call(peer: Peer) -> None:
    events = peer.send(peer.call(1, b"one") + peer.call(3, b"two") + peer.call(5, b""))
    assert [(type(event), event.stream_id, event.message) for event in events] == [
        (Call, 1, b"one"),
        (Call, 3, b"two"),
        (Call, 5, b""),
    ]
    head = events[1].head
    assert (head.path, head.authority, head.timeout_s) == (b"/etcdserverpb.KV/Range", b"localhost:2379", None)
    assert events[2].head is head  # equal blocks share their head


@pytest.mark.parametrize("order", ["interleaved", "empty end", "two frames", "end in trailers"])
def test_other_shapes_of_a_call(peer: Peer, order: str) -> None:
    whole = message(b"request")
    data = {
        "interleaved": lambda: peer.headers(1) + peer.headers(3) + frame(DATA, 1, 3, whole) + frame(DATA, 1, 1, whole),
        "empty end": lambda: peer.headers(1) + frame(DATA, 0, 1, whole) + frame(DATA, 1, 1),
        "two frames": lambda: peer.headers(1) + frame(DATA, 0, 1, whole[:7]) + frame(DATA, 1, 1, whole[7:]),
        "end in trailers": lambda: peer.headers(1) + frame(DATA, 0, 1, whole) + peer.headers(1, [("a", "b")], flags=5),
    }[order]()
    events = peer.send(data)
    assert set(types(events)) == {Call}
    assert {event.message for event in events} == {b"request"}
    for event in events:
        peer.connection.reply(event.stream_id, b"")
    assert peer.connection.open_streams == 0
    assert RST_STREAM not in [kind for kind, *_ in peer.frames()]


def test_streaming_request(peer: Peer) -> None:
    assert types(peer.send(peer.headers(1))) == [Opened]
    events = peer.send(frame(DATA, 0, 1, message(b"a") + message(b"b") + message(b"c")[:3]))
    assert [event.data for event in events] == [b"a", b"b"]
    assert types(peer.send(frame(DATA, 1, 1, message(b"c")[3:]))) == [Message, HalfClosed]


def test_two_messages_in_one_read_are_no_call(peer: Peer) -> None:
    events = peer.send(peer.headers(1) + frame(DATA, 1, 1, message(b"a") + message(b"b")))
    assert types(events) == [Opened, Message, Message, HalfClosed]


def test_request_without_a_message(peer: Peer) -> None:
    assert types(peer.send(peer.headers(1, flags=5))) == [Opened, HalfClosed]


def test_reply(peer: Peer) -> None:
    peer.send(peer.call(1))
    peer.connection.reply(1, b"answer")
    found = peer.frames()
    assert [(kind, flags, sid) for kind, flags, sid, _ in found] == [(HEADERS, 4, 1), (DATA, 0, 1), (HEADERS, 5, 1)]
    assert [*peer.decoder.decode(found[0][3]), *peer.decoder.decode(found[2][3])] == OK
    assert found[1][3] == message(b"answer")
    assert peer.connection.open_streams == 0
    peer.connection.reply(1, b"again")
    peer.connection.fail(1, 2, "again")
    assert not peer.connection.has_output


def test_reply_before_the_request_ended_resets_without_error(peer: Peer) -> None:
    """RFC 9113 §8.1."""
    peer.send(peer.headers(1))
    peer.connection.reply(1, b"answer")
    found = peer.frames()
    assert found[-1] == (RST_STREAM, 0, 1, bytes(4))
    assert peer.send(frame(DATA, 1, 1, message(b"late"))) == []
    assert not peer.connection.has_output


def test_streaming_answer(peer: Peer) -> None:
    peer.send(peer.call(1))
    peer.connection.send_headers(1)
    peer.connection.send_headers(1)
    assert peer.answer(1) == (OK[:2], b"")
    peer.connection.send_message(1, b"a")
    peer.connection.send_message(1, b"b")
    peer.connection.finish(1)
    assert peer.answer(1) == (OK[2:], message(b"a") + message(b"b"))


def test_fail_is_trailers_only_or_trailers(peer: Peer) -> None:
    peer.send(peer.call(1) + peer.call(3))
    peer.connection.fail(1, 9, "caf\u00e9 100%\n")
    found = peer.frames()
    assert [(kind, flags) for kind, flags, *_ in found] == [(HEADERS, 5)]
    assert peer.decoder.decode(found[0][3]) == [
        *OK[:2],
        ("grpc-status", "9"),
        ("grpc-message", "caf%C3%A9 100%25%0A"),
    ]
    peer.connection.send_message(3, b"a")
    peer.connection.fail(3, 14, "gone")
    assert peer.answer(3) == ([*OK[:2], ("grpc-status", "14"), ("grpc-message", "gone")], message(b"a"))


def test_unknown_streams_are_ignored(peer: Peer) -> None:
    connection = peer.connection
    connection.reply(1, b"")
    connection.fail(1, 2, "")
    connection.send_headers(1)
    connection.send_message(1, b"")
    connection.finish(1)
    connection.respond(1, 200, [], b"")
    connection.reset(1, 8)
    assert connection.queued_bytes(1) == 0
    assert not connection.has_output


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1H", 3600.0), ("2M", 120.0), ("99999999S", 99_999_999.0), ("5m", 0.005), ("250000u", 0.25), ("7n", 7e-9)],
)
def test_timeout(peer: Peer, value: str, seconds: float) -> None:
    for stream_id in (1, 3, 5):  # parsed, from the shape cache, from the block cache
        (event,) = peer.send(peer.call(stream_id, grpc_timeout=value))
        assert event.head.timeout_s == pytest.approx(seconds)


def test_heads_that_differ_in_timeout_share_the_rest(peer: Peer) -> None:
    route = object()
    heads = []
    for stream_id in (1, 3, 5):
        (event,) = peer.send(peer.call(stream_id, grpc_timeout=f"{stream_id}S"))
        heads.append(event.head)
        if stream_id == 3:
            event.head.route = route
    assert [head.timeout_s for head in heads] == [1.0, 3.0, 5.0]
    assert heads[2].route is route
    assert heads[2].metadata is heads[0].metadata


@pytest.mark.parametrize(
    ("changes", "http_status", "code", "text"),
    [
        ({"grpc_timeout": "S"}, "400", "13", 'malformed grpc-timeout: transport: timeout string is too short: "S"'),
        (
            {"grpc_timeout": "5x"},
            "400",
            "13",
            'malformed grpc-timeout: transport: timeout unit is not recognized: "5x"',
        ),
        (
            {"grpc_timeout": "123456789S"},
            "400",
            "13",
            'malformed grpc-timeout: transport: timeout string is too long: "123456789S"',
        ),
        (
            {"grpc_timeout": "-5S"},
            "400",
            "13",
            'malformed grpc-timeout: strconv.ParseUint: parsing "-5": invalid syntax',
        ),
        ({"grpc_timeout": "0S"}, "200", "4", "context deadline exceeded"),
        ({"content_type": "application/grpcx"}, "415", "3", 'invalid gRPC request content-type "application/grpcx"'),
        (
            {"method": "GET"},
            "405",
            "13",
            'Received a HEADERS frame with :method "GET" which should be POST',
        ),
        (
            {"x_bin": "a?=="},
            "400",
            "13",
            'malformed binary metadata "a?==" in header "x-bin": illegal base64 data at input byte 1',
        ),
    ],
)
def test_refused_requests(peer: Peer, changes: dict[str, str], http_status: str, code: str, text: str) -> None:
    for stream_id in (1, 3):
        assert peer.send(peer.headers(stream_id, **changes)) == []
        found = peer.frames()
        assert [(kind, flags) for kind, flags, *_ in found] == [(HEADERS, 5), (RST_STREAM, 0)]
        assert found[1][3] == bytes(4)
        assert peer.decoder.decode(found[0][3]) == [
            (":status", http_status),
            OK[1],
            ("grpc-status", code),
            ("grpc-message", text),
        ]
        assert peer.send(frame(DATA, 1, stream_id, message(b"m"))) == []
    assert types(peer.send(peer.call(5))) == [Call]


def test_repeated_host_is_refused(peer: Peer) -> None:
    """gRFC A41."""
    block = peer.encoder.encode(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/a/b"),
            ("content-type", "application/grpc"),
            ("host", "a"),
            ("host", "b"),
        ]
    )
    assert peer.send(frame(HEADERS, 5, 1, block)) == []
    assert peer.answer(1)[0][:3] == [(":status", "400"), OK[1], ("grpc-status", "13")]


def test_compressed_requests(peer: Peer) -> None:
    """A call, a stream of both kinds of messages, one over many frames, and headers that are the same each time."""
    data = message(gzip.compress(b"request"), 1)
    for stream_id in (1, 3, 5):
        (call,) = peer.send(peer.headers(stream_id, grpc_encoding="gzip") + frame(DATA, 1, stream_id, data))
        assert call == Call(stream_id, call.head, b"request") and call.head.metadata == {}
        peer.connection.reply(stream_id, b"plain")
        assert peer.answer(stream_id)[1] == message(b"plain")
    events = peer.send(peer.headers(7, grpc_encoding="gzip", grpc_timeout="9S") + frame(DATA, 0, 7, data * 2))
    events += peer.send(frame(DATA, 0, 7, message(b"plain") + data[:9])) + peer.send(frame(DATA, 1, 7, data[9:]))
    assert types(events) == [Opened, *4 * [Message], HalfClosed]
    assert [each.data for each in events[1:5]] == [b"request", b"request", b"plain", b"request"]
    assert types(peer.send(peer.call(9, grpc_encoding="gzip", grpc_timeout="8S"))) == [Call]


def test_requests_compressed_in_an_unknown_way_are_the_sessions_affair(peer: Peer) -> None:
    """It tells an unknown method first."""
    (call,) = peer.send(peer.headers(1, grpc_encoding="zstd") + frame(DATA, 1, 1, message(b"x", 1)))
    assert (type(call), call.head.encoding) == (Call, b"zstd")
    (call,) = peer.send(peer.call(3, grpc_encoding="identity"))
    assert call.head.encoding == b""


@pytest.mark.parametrize("encoding", [None, "identity"])
def test_compressed_messages_of_no_encoding(peer: Peer, encoding: str | None) -> None:
    assert peer.send(peer.headers(1, grpc_encoding=encoding) + frame(DATA, 1, 1, message(b"x", 1))) == []
    text = "grpc: compressed flag set with identity or empty encoding"
    assert peer.answer(1)[0][2:] == [("grpc-status", "13"), ("grpc-message", text)]


_ZIPPED = gzip.compress(b"abc", mtime=0)
_INVALID = "grpc: failed to decompress the message: gzip: invalid header"
_READING = "grpc: failed to read decompressed data: "


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "grpc: failed to decompress the message: EOF"),
        (_ZIPPED[:9], "grpc: failed to decompress the message: unexpected EOF"),
        (b"x" * 30, _INVALID),
        (_ZIPPED[:2] + b"\7" + _ZIPPED[3:], _INVALID),
        (_ZIPPED[:12], _READING + "unexpected EOF"),
        (_ZIPPED[:-1], _READING + "unexpected EOF"),
        (_ZIPPED[:-8] + b"abcd" + _ZIPPED[-4:], _READING + "gzip: invalid checksum"),
        (_ZIPPED[:-1] + b"\1", _READING + "gzip: invalid checksum"),
        (_ZIPPED[:10] + b"\xff" * 9, _READING + "flate: corrupt input"),
        (_ZIPPED + b"x" * 40, _READING + "gzip: invalid header"),
        (_ZIPPED * 2, _READING + "gzip: invalid header"),
        (gzip.compress(bytes(101), mtime=0), "grpc: received message after decompression larger than max 100"),
        (gzip.compress(bytes(50_000), mtime=0)[:-8], "grpc: received message after decompression larger than max 100"),
    ],
)
def test_broken_compressed_messages(make_peer: Callable[..., Peer], data: bytes, text: str) -> None:
    peer = make_peer(Limits(max_message_bytes=100))
    assert peer.send(peer.headers(1, grpc_encoding="gzip") + frame(DATA, 1, 1, message(data, 1))) == []
    code = "8" if "larger" in text else "13"
    assert peer.answer(1)[0] == [*OK[:2], ("grpc-status", code), ("grpc-message", text)]
    opened = peer.headers(3, grpc_encoding="gzip") + frame(DATA, 0, 3, message(gzip.compress(bytes(100)), 1))
    assert types(peer.send(opened)) == [Opened, Message]
    (event,) = peer.send(frame(DATA, 0, 3, message(data, 1) + message(b"more")))
    assert (type(event), event.code) == (Reset, 0)
    assert peer.answer(3)[0][-1] == ("grpc-message", text)
    assert peer.connection.open_streams == 0


def test_what_comes_out_of_compressed_messages_is_bounded(make_peer: Callable[..., Peer]) -> None:
    """Else two kilobytes would become as many megabytes, as often as the client likes."""
    limits = Limits(max_message_bytes=10_000, expansion_burst_bytes=100_000, expansion_refill_bytes_per_s=50_000.0)
    peer = make_peer(limits)
    small = message(gzip.compress(bytes(10_000)), 1)
    for stream_id in range(1, 21, 2):
        peer.send(peer.headers(stream_id, grpc_encoding="gzip") + frame(DATA, 1, stream_id, small))
    peer.send(peer.headers(21, grpc_encoding="gzip") + frame(DATA, 1, 21, small))
    assert peer.answer(21)[0][-2:] == [("grpc-status", "8"), ("grpc-message", "too much compressed data")]
    peer.now = 1.0
    (call,) = peer.send(peer.headers(23, grpc_encoding="gzip") + frame(DATA, 1, 23, small))
    assert call.message == bytes(10_000)
    peer.now = 2.0
    noise = message(gzip.compress(random.Random(1).randbytes(9_000)), 1)
    for stream_id in range(25, 525, 2):  # what does not grow costs nothing
        assert types(peer.send(peer.headers(stream_id, grpc_encoding="gzip") + frame(DATA, 1, stream_id, noise)))


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (message(b"x" * 101), "8", "grpc: received message larger than max (101 vs. 100)"),
        (message(b"x", compressed=1), "13", "grpc: compressed flag set with identity or empty encoding"),
        (message(b"x", compressed=2), "13", "grpc: received unexpected payload format 2"),
        (message(b"xyz")[:6], "13", "unexpected EOF"),
    ],
)
def test_refused_messages(make_peer: Callable[..., Peer], data: bytes, code: str, text: str) -> None:
    peer = make_peer(Limits(max_message_bytes=100))
    assert peer.send(peer.headers(1) + frame(DATA, 1, 1, data)) == []
    assert peer.answer(1)[0] == [*OK[:2], ("grpc-status", code), ("grpc-message", text)]
    assert types(peer.send(peer.headers(3))) == [Opened]
    (event,) = peer.send(frame(DATA, 1, 3, data))  # a session that knows of the stream is told
    assert (type(event), event.code) == (Reset, 0)
    assert peer.answer(3)[0][-1] == ("grpc-message", text)
    assert peer.connection.open_streams == 0


def test_message_at_the_limit(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(Limits(max_message_bytes=100))
    (event,) = peer.send(peer.call(1, bytes(100)))
    assert event.message == bytes(100)


def test_metadata(peer: Peer) -> None:
    extra = [
        ("token", "abc"),
        ("hasleader", "true"),
        ("trace-bin", "AAEC"),
        ("trace-bin", "AA==,_w".replace("_", "/")),
        ("twice", "1"),
        ("twice", "2"),
        ("user-agent", "grpc-go/1.38.0"),
        ("grpc-accept-encoding", "gzip"),
    ]
    block = peer.headers(1)[9:] + peer.encoder.encode(extra)
    (event,) = peer.send(frame(HEADERS, 4, 1, block) + frame(DATA, 1, 1, message(b"")))
    assert event.head.metadata == {
        b"token": [b"abc"],
        b"hasleader": [b"true"],
        b"trace-bin": [b"\0\1\2", b"\0", b"\xff"],
        b"twice": [b"1", b"2"],
        b"grpc-accept-encoding": [b"gzip"],
    }
    assert event.head.user_agent == b"grpc-go/1.38.0"


def test_host_stands_in_for_authority(peer: Peer) -> None:
    """gRFC A41."""
    (event,) = peer.send(peer.call(1, authority=None, host="h"))
    assert event.head.authority == b"h"


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc;charset=utf-8"])
def test_grpc_content_types(peer: Peer, content_type: str) -> None:
    assert types(peer.send(peer.call(1, content_type=content_type))) == [Call]


def test_requests_with_content_length(peer: Peer) -> None:
    for stream_id in (1, 3):
        assert types(peer.send(peer.call(stream_id, b"seven77", content_length="12"))) == [Call]


def test_percent_encoding_and_quoting() -> None:
    assert percent_encode("a b%~\x7f\u20ac") == b"a b%25~%7F%E2%82%AC"
    assert quote(b'a"\\\n\x01\xff\xe2\x82\xac') == '"a\\"\\\\\\n\\x01\\xff\u20ac"'


def test_messages_of_a_stream_however_they_are_cut(make_peer: Callable[..., Peer]) -> None:
    """One frame that is one message takes a short way; everything else gathers."""
    texts = [b"one", b"", b"three" * 50, b"4"]
    whole = b"".join(message(text) for text in texts)
    cuts = [
        [len(whole)],
        [*accumulate(len(message(text)) for text in texts)],
        [3, 9, 20, len(whole)],
        [8, 10, len(whole)],
    ]
    for ends in cuts:
        peer = make_peer()
        peer.send(peer.headers(1))
        peer.send(frame(DATA, 0, 1, message(b"first")))
        got: list[Event] = []
        for start, end in pairwise([0, *ends]):
            got += peer.send(frame(DATA, 0, 1, whole[start:end]))
        assert [event.data for event in got if isinstance(event, Message)] == texts
        assert peer.connection.traffic.client_received_bytes_total == 5 + sum(map(len, texts))
        assert types(peer.send(frame(DATA, 1, 1))) == [HalfClosed]
        assert types(peer.send(frame(DATA, 0, 1, message(b"late")))) == [Reset]
        assert (RST_STREAM, 0, 1) in [each[:3] for each in peer.frames()]


def test_windows_are_given_back_for_whole_messages(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(Limits(stream_window_bytes=65_535, connection_window_bytes=1 << 20))
    peer.send(peer.headers(1))
    sent = 0
    for _ in range(20):
        peer.send(frame(DATA, 0, 1, message(b"x" * 10_000)))
        sent += 10_005
    given = [int.from_bytes(each[3]) for each in peer.frames() if each[0] == WINDOW_UPDATE and each[2] == 1]
    assert sent - 65_535 // 2 <= sum(given) <= sent


def test_a_large_answer_in_parts_is_what_it_is_in_one(make_peer: Callable[..., Peer]) -> None:
    settings = struct.pack(">HI", 4, 1 << 22)
    parts = [bytes([number]) * (number * 3_000 + 1) for number in range(30)]
    answers = []
    for send in ("reply", "reply_parts"):
        peer = make_peer(settings=settings)
        peer.send(frame(WINDOW_UPDATE, 0, 0, (1 << 19).to_bytes(4)))
        peer.send(peer.call(1))
        getattr(peer.connection, send)(1, b"".join(parts) if send == "reply" else parts)
        frames = peer.frames()
        for _ in range(40):
            peer.send(frame(WINDOW_UPDATE, 0, 0, (40_000).to_bytes(4)))
            frames += peer.frames()
        assert frames[-1][:2] == (HEADERS, 5)
        data = [payload for kind, _, _, payload in frames if kind == DATA]
        assert all(len(payload) <= 16_384 for payload in data)
        answers.append(b"".join(data))
    assert answers == [message(b"".join(parts))] * 2
