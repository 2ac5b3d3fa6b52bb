"""HTTP/2 conformance, by section of RFC 9113 (the cases of h2spec's list, and some more)."""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from ratifyd.wire.events import Call, HalfClosed, HttpRequest, Message, Opened, Reset
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.limits import Limits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
NO_ERROR, PROTOCOL, INTERNAL, FLOW, _, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, _, CALM = range(12)
Peer = Any
Script = Callable[[Peer], bytes]


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


def word(value: int) -> bytes:
    return struct.pack(">I", value)


def setting(key: int, value: int) -> bytes:
    return struct.pack(">HI", key, value)


def message(data: bytes) -> bytes:
    return struct.pack(">BI", 0, len(data)) + data


def split_headers(peer: Peer, stream_id: int, at: int = 3, flags: int = 0) -> tuple[bytes, bytes]:
    block = peer.headers(stream_id)[9:]
    return frame(HEADERS, flags, stream_id, block[:at]), block[at:]


CASES: list[tuple[str, Script, tuple[str, int]]] = [
    ("4.1 reserved bit is ignored, size counts", lambda p: frame(PING, 0, 0, b"1234567"), ("connection", SIZE)),
    (
        "4.2 DATA above SETTINGS_MAX_FRAME_SIZE",
        lambda p: p.headers(1) + frame(DATA, 0, 1, bytes(16_385)),
        ("connection", SIZE),
    ),
    ("4.2 HEADERS above SETTINGS_MAX_FRAME_SIZE", lambda p: frame(HEADERS, 4, 1, bytes(16_385)), ("connection", SIZE)),
    ("4.2 unknown frame above it", lambda p: frame(99, 0, 0, bytes(16_385)), ("connection", SIZE)),
    ("4.3 bad header block", lambda p: frame(HEADERS, 5, 1, b"\x80"), ("connection", COMPRESSION)),
    ("4.3 bad trailer block", lambda p: p.headers(1) + frame(HEADERS, 5, 1, b"\x80"), ("connection", COMPRESSION)),
    (
        "4.3 PRIORITY inside a block",
        lambda p: split_headers(p, 1)[0] + frame(PRIORITY, 0, 3, bytes(5)),
        ("connection", PROTOCOL),
    ),
    ("4.3 DATA inside a block", lambda p: split_headers(p, 1)[0] + frame(DATA, 1, 1, b"x"), ("connection", PROTOCOL)),
    (
        "4.3 HEADERS of another stream inside a block",
        lambda p: split_headers(p, 1)[0] + p.headers(3),
        ("connection", PROTOCOL),
    ),
    ("5.1 idle: DATA", lambda p: frame(DATA, 1, 1, b"x"), ("connection", PROTOCOL)),
    ("5.1 idle: RST_STREAM", lambda p: frame(RST_STREAM, 0, 1, word(8)), ("connection", PROTOCOL)),
    ("5.1 idle: WINDOW_UPDATE", lambda p: frame(WINDOW_UPDATE, 0, 1, word(8)), ("connection", PROTOCOL)),
    ("5.1 idle: CONTINUATION", lambda p: frame(CONTINUATION, 4, 1, b""), ("connection", PROTOCOL)),
    ("5.1 half-closed: DATA", lambda p: p.call(1) + frame(DATA, 0, 1, b"x"), ("stream", CLOSED)),
    ("5.1 half-closed: HEADERS", lambda p: p.call(1) + p.headers(1, flags=5), ("stream", CLOSED)),
    ("5.1 half-closed by HEADERS: DATA", lambda p: p.headers(1, flags=5) + frame(DATA, 1, 1, b"x"), ("stream", CLOSED)),
    ("5.1 half-closed: CONTINUATION", lambda p: p.call(1) + frame(CONTINUATION, 4, 1, b""), ("connection", PROTOCOL)),
    ("5.1.1 even stream id", lambda p: p.headers(2), ("connection", PROTOCOL)),
    ("5.1.1 stream id 0", lambda p: p.headers(0), ("connection", PROTOCOL)),
    ("5.1.1 smaller id than an open one", lambda p: p.headers(5) + p.headers(3), ("connection", PROTOCOL)),
    (
        "5.3.1 HEADERS that depends on itself",
        lambda p: frame(HEADERS, 0x24, 1, word(1) + b"\0" + p.headers(1)[9:]),
        ("connection", PROTOCOL),
    ),
    (
        "5.3.1 PRIORITY that depends on itself",
        lambda p: p.headers(1) + frame(PRIORITY, 0, 1, word(1) + b"\0"),
        ("stream", PROTOCOL),
    ),
    ("6.1 DATA on stream 0", lambda p: frame(DATA, 1, 0, b"x"), ("connection", PROTOCOL)),
    (
        "6.1 padding as long as the payload",
        lambda p: p.headers(1) + frame(DATA, 9, 1, b"\x05test!"[:5]),
        ("connection", PROTOCOL),
    ),
    ("6.1 padded DATA without padding length", lambda p: p.headers(1) + frame(DATA, 8, 1), ("connection", SIZE)),
    ("6.2 padding as long as the payload", lambda p: frame(HEADERS, 0xC, 1, b"\x09abc"), ("connection", PROTOCOL)),
    ("6.2 HEADERS too short for its priority", lambda p: frame(HEADERS, 0x24, 1, b"\0\0"), ("connection", SIZE)),
    ("6.3 PRIORITY on stream 0", lambda p: frame(PRIORITY, 0, 0, bytes(5)), ("connection", PROTOCOL)),
    ("6.3 PRIORITY size", lambda p: p.headers(1) + frame(PRIORITY, 0, 1, bytes(4)), ("stream", SIZE)),
    ("6.4 RST_STREAM on stream 0", lambda p: frame(RST_STREAM, 0, 0, word(8)), ("connection", PROTOCOL)),
    ("6.4 RST_STREAM size", lambda p: p.headers(1) + frame(RST_STREAM, 0, 1, bytes(3)), ("connection", SIZE)),
    ("6.5 SETTINGS ack with payload", lambda p: frame(SETTINGS, 1, 0, setting(3, 1)), ("connection", SIZE)),
    ("6.5 SETTINGS on a stream", lambda p: frame(SETTINGS, 0, 1, setting(3, 1)), ("connection", PROTOCOL)),
    ("6.5 SETTINGS size", lambda p: frame(SETTINGS, 0, 0, bytes(3)), ("connection", SIZE)),
    ("6.5.2 ENABLE_PUSH", lambda p: frame(SETTINGS, 0, 0, setting(2, 2)), ("connection", PROTOCOL)),
    ("6.5.2 INITIAL_WINDOW_SIZE", lambda p: frame(SETTINGS, 0, 0, setting(4, 2**31)), ("connection", FLOW)),
    ("6.5.2 MAX_FRAME_SIZE too small", lambda p: frame(SETTINGS, 0, 0, setting(5, 16_383)), ("connection", PROTOCOL)),
    ("6.5.2 MAX_FRAME_SIZE too large", lambda p: frame(SETTINGS, 0, 0, setting(5, 2**24)), ("connection", PROTOCOL)),
    ("6.6 PUSH_PROMISE", lambda p: frame(PUSH_PROMISE, 4, 1, word(2)), ("connection", PROTOCOL)),
    ("6.7 PING on a stream", lambda p: frame(PING, 0, 1, bytes(8)), ("connection", PROTOCOL)),
    ("6.7 PING size", lambda p: frame(PING, 0, 0, bytes(6)), ("connection", SIZE)),
    ("6.8 GOAWAY on a stream", lambda p: frame(GOAWAY, 0, 1, bytes(8)), ("connection", PROTOCOL)),
    ("6.8 GOAWAY size", lambda p: frame(GOAWAY, 0, 0, bytes(7)), ("connection", SIZE)),
    ("6.9 WINDOW_UPDATE of 0", lambda p: frame(WINDOW_UPDATE, 0, 0, word(0)), ("connection", PROTOCOL)),
    (
        "6.9 WINDOW_UPDATE of 0 on a stream",
        lambda p: p.headers(1) + frame(WINDOW_UPDATE, 0, 1, word(0)),
        ("stream", PROTOCOL),
    ),
    ("6.9 WINDOW_UPDATE size", lambda p: frame(WINDOW_UPDATE, 0, 0, bytes(3)), ("connection", SIZE)),
    ("6.9.1 connection window overflow", lambda p: frame(WINDOW_UPDATE, 0, 0, word(2**31 - 1)), ("connection", FLOW)),
    (
        "6.9.1 stream window overflow",
        lambda p: p.headers(1) + frame(WINDOW_UPDATE, 0, 1, word(2**31 - 1)),
        ("stream", FLOW),
    ),
    (
        "6.9.1 overflow on a stream that awaits its answer",
        lambda p: p.call(1) + frame(WINDOW_UPDATE, 0, 1, word(2**31 - 1)),
        ("stream", FLOW),
    ),
    (
        "6.9.2 overflow by SETTINGS",
        lambda p: p.headers(1) + frame(WINDOW_UPDATE, 0, 1, word(2**30)) + frame(SETTINGS, 0, 0, setting(4, 2**31 - 1)),
        ("connection", FLOW),
    ),
    (
        "6.10 CONTINUATION of another stream",
        lambda p: split_headers(p, 1)[0] + frame(CONTINUATION, 4, 3, b""),
        ("connection", PROTOCOL),
    ),
    (
        "6.10 CONTINUATION after END_HEADERS",
        lambda p: p.headers(1) + frame(CONTINUATION, 4, 1, b""),
        ("connection", PROTOCOL),
    ),
    ("8.1 second HEADERS without END_STREAM", lambda p: p.headers(1) + p.headers(1), ("stream", PROTOCOL)),
    (
        "8.1 pseudo-header in trailers",
        lambda p: p.headers(1) + p.headers(1, [(":method", "POST")], flags=5),
        ("stream", PROTOCOL),
    ),
    (
        "8.1.1 content-length above the body",
        lambda p: p.headers(1, content_length="99") + frame(DATA, 1, 1, message(b"a")),
        ("stream", PROTOCOL),
    ),
    (
        "8.1.1 content-length below the body",
        lambda p: p.headers(1, content_length="1") + frame(DATA, 1, 1, message(b"a")),
        ("stream", PROTOCOL),
    ),
    ("8.1.1 content-length that is no number", lambda p: p.headers(1, content_length="-1"), ("stream", PROTOCOL)),
    ("8.2.1 upper-case name", lambda p: p.headers(1, [*REQUEST, ("X-TEST", "v")]), ("stream", PROTOCOL)),
    ("8.2.1 forbidden byte in a name", lambda p: p.headers(1, [*REQUEST, ("x test", "v")]), ("stream", PROTOCOL)),
    ("8.2.1 line break in a value", lambda p: p.headers(1, x="a\r\nb"), ("stream", PROTOCOL)),
    ("8.2.1 NUL in :path", lambda p: p.headers(1, path="/a\0"), ("stream", PROTOCOL)),
    ("8.2.2 connection", lambda p: p.headers(1, connection="keep-alive"), ("stream", PROTOCOL)),
    ("8.2.2 transfer-encoding", lambda p: p.headers(1, transfer_encoding="chunked"), ("stream", PROTOCOL)),
    ("8.2.2 te", lambda p: p.headers(1, te="trailers, deflate"), ("stream", PROTOCOL)),
    ("8.3 unknown pseudo-header", lambda p: p.headers(1, [(":test", "v"), *REQUEST]), ("stream", PROTOCOL)),
    ("8.3 response pseudo-header", lambda p: p.headers(1, [(":status", "200"), *REQUEST]), ("stream", PROTOCOL)),
    ("8.3 pseudo-header after a field", lambda p: p.headers(1, [*REQUEST[1:], REQUEST[0]]), ("stream", PROTOCOL)),
    (
        "8.3 pseudo-header after a timeout",
        lambda p: p.headers(1, [("grpc-timeout", "1S"), *REQUEST]),
        ("stream", PROTOCOL),
    ),
    ("8.3.1 empty :path", lambda p: p.headers(1, path=""), ("stream", PROTOCOL)),
    ("8.3.1 no :method", lambda p: p.headers(1, method=None), ("stream", PROTOCOL)),
    ("8.3.1 no :scheme", lambda p: p.headers(1, scheme=None), ("stream", PROTOCOL)),
    ("8.3.1 no :path", lambda p: p.headers(1, path=None), ("stream", PROTOCOL)),
    ("8.3.1 :path twice", lambda p: p.headers(1, [REQUEST[2], *REQUEST]), ("stream", PROTOCOL)),
    ("8.5 CONNECT", lambda p: p.headers(1, method="CONNECT", scheme=None, path=None), ("stream", PROTOCOL)),
]
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/etcdserverpb.KV/Range"),
    (":authority", "localhost:2379"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


@pytest.mark.parametrize(("script", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "bytewise"])
def test_errors(peer: Peer, script: Script, expected: tuple[str, int], whole: bool) -> None:
    data = script(peer)
    for part in [data] if whole else [data[i : i + 1] for i in range(len(data))]:
        peer.send(part)
    assert peer.error() == expected
    assert peer.connection.closed == (expected[0] == "connection")
    if expected[0] == "connection":
        assert peer.send(frame(PING, 0, 0, bytes(8))) == []
        assert not peer.connection.has_output
    else:  # the connection, header compression included, goes on
        (event,) = peer.send(peer.call(11, x="later"))
        assert isinstance(event, Call)


def test_preface_and_settings_exchange(make_peer: Callable[..., Peer]) -> None:
    """§3.4."""
    peer = make_peer(handshake=False)
    first = peer.frames()
    assert first[0][0] == SETTINGS
    assert first[0][1] == 0
    assert peer.send(PREFACE + frame(SETTINGS, 0, 0)) == []
    assert peer.frames() == [(SETTINGS, 1, 0, b"")]
    assert peer.send(frame(SETTINGS, 1, 0)) == []
    assert not peer.connection.has_output


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"\0"])
def test_bad_preface(start: bytes, make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(handshake=False)
    peer.frames()
    peer.send(start)
    assert peer.error() == ("connection", PROTOCOL)


@pytest.mark.parametrize("first", [frame(PING, 0, 0, bytes(8)), frame(SETTINGS, 1, 0), frame(HEADERS, 5, 1, b"\x82")])
def test_first_frame_must_be_settings(first: bytes, make_peer: Callable[..., Peer]) -> None:
    """§3.4."""
    peer = make_peer(handshake=False)
    peer.frames()
    peer.send(PREFACE + first)
    assert peer.error() == ("connection", PROTOCOL)


def test_announced_settings_follow_the_limits() -> None:
    limits = Limits(
        max_concurrent_streams=7, stream_window_bytes=70_000, header_table_bytes=100, max_frame_bytes=20_000
    )
    data = GrpcConnection(limits).data_to_send()
    size = int.from_bytes(data[:3], "big")
    found = dict(struct.iter_unpack(">HI", data[9 : 9 + size]))
    assert found == {1: 100, 3: 7, 4: 70_000, 5: 20_000, 6: limits.max_header_list_bytes}
    assert data[9 + size :] == frame(WINDOW_UPDATE, 0, 0, word(limits.connection_window_bytes - 65_535))


def test_harmless_frames_are_ignored(peer: Peer) -> None:
    """§4.1 unknown types and flags, §5.5, §6.3, §6.5.2 unknown settings, §6.7 unasked PING ack, §6.8."""
    reset_later = peer.headers(1) + frame(RST_STREAM, 0, 1, word(8))
    quiet = (
        frame(0x16, 0xFF, 0, bytes(8))
        + frame(0x20, 0, 77, b"any")
        + frame(PRIORITY, 0, 9, word(3) + b"\x10")
        + frame(PING, 1, 0, bytes(8))
        + reset_later
        + frame(PRIORITY, 0, 1, word(3) + b"\x10")
        + frame(WINDOW_UPDATE, 0, 1, word(5))
        + frame(RST_STREAM, 0, 1, word(8))
        + frame(GOAWAY, 0, 0, bytes(8) + b"bye")
    )
    assert peer.send(quiet) == []
    assert peer.frames() == []
    peer.send(frame(SETTINGS, 0, 0, setting(0x99, 5)))
    assert peer.frames() == [(SETTINGS, 1, 0, b"")]
    peer.send(frame(PING, 0xFE, 0x80000000, b"abcdefgh"))  # undefined flags and the reserved bit
    assert peer.frames() == [(PING, 1, 0, b"abcdefgh")]


def test_header_block_over_continuation_frames(peer: Peer) -> None:
    """§4.3, §6.10."""
    first, rest = split_headers(peer, 1)
    data = first + b"".join(frame(CONTINUATION, 0, 1, rest[i : i + 1]) for i in range(20))
    events = peer.send(data + frame(CONTINUATION, 4, 1, rest[20:]) + frame(DATA, 1, 1, message(b"m")))
    assert [type(event) for event in events] == [Call]
    assert events[0].head.path == b"/etcdserverpb.KV/Range"


def test_padding_and_priority_are_stripped(peer: Peer) -> None:
    """§6.1, §6.2."""
    block = peer.headers(1)[9:]
    headers = frame(HEADERS, 0x2C, 1, b"\x03" + word(0) + b"\x10" + block + bytes(3))
    (event,) = peer.send(headers + frame(DATA, 9, 1, b"\x02" + message(b"m") + bytes(2)))
    assert isinstance(event, Call)
    assert event.message == b"m"


def test_trailers_end_a_request(peer: Peer) -> None:
    """§8.1."""
    (event,) = peer.send(peer.headers(1) + frame(DATA, 0, 1, message(b"m")) + peer.headers(1, [("x", "y")], flags=5))
    assert isinstance(event, Call)
    events = peer.send(peer.headers(3))
    events += peer.send(peer.headers(3, [("x", "y")], flags=5))
    assert [type(event) for event in events] == [Opened, HalfClosed]


def test_frames_of_a_stream_we_reset_are_ignored(peer: Peer) -> None:
    """§5.1, closed: they were under way."""
    peer.send(peer.headers(1))
    peer.connection.reset(1, CANCEL)
    assert peer.error() == ("stream", CANCEL)
    late = frame(DATA, 0, 1, b"x") + peer.headers(1, [("x", "y")], flags=5) + frame(RST_STREAM, 0, 1, word(8))
    assert peer.send(late) == []
    assert peer.frames() == []
    (event,) = peer.send(peer.call(3, x="z"))  # header compression stayed in step
    assert event.head.metadata == {b"x": [b"z"]}


@pytest.mark.parametrize("known", [False, True], ids=["before the session knows", "after"])
def test_frames_of_a_stream_the_client_has_reset_are_ignored(make_peer: Callable[..., Peer], known: bool) -> None:
    """Against §5.1, as etcd does; they count for the windows."""
    peer = make_peer(Limits(connection_window_bytes=65_535))
    head, gone = peer.headers(1), frame(RST_STREAM, 0, 1, word(CANCEL))
    for data in [head, gone] if known else [head + gone]:
        peer.send(data)
    late = peer.headers(1, [("x", "y")], flags=5) + frame(DATA, 1, 1, b"x")
    assert peer.send(frame(DATA, 0, 1, bytes(16_384)) * 2 + late) == []
    assert peer.frames() == [(WINDOW_UPDATE, 0, 0, word(2 * 16_384 + 1))]
    (event,) = peer.send(peer.call(3, x="z"))  # header compression stayed in step
    assert isinstance(event, Call) and event.head.metadata == {b"x": [b"z"]}


def test_rst_stream_reports_what_the_session_knows(peer: Peer) -> None:
    """§6.4."""
    assert peer.send(peer.headers(1) + frame(RST_STREAM, 0, 1, word(8))) == []
    events = peer.send(peer.call(3) + frame(RST_STREAM, 0, 3, word(CANCEL)))
    assert [type(event) for event in events] == [Call, Reset]
    assert (events[1].stream_id, events[1].code) == (3, CANCEL)
    peer.connection.reply(3, b"too late")
    assert peer.frames() == []
    assert peer.connection.open_streams == 0


def test_skipped_stream_ids_close(peer: Peer) -> None:
    """§5.1.1."""
    assert len(peer.send(peer.call(1) + peer.call(9) + peer.call(11))) == 3
    peer.send(frame(DATA, 0, 5, b"x"))
    assert peer.error() == ("connection", CLOSED)


def test_refused_streams(make_peer: Callable[..., Peer]) -> None:
    """§5.1.2; the refused block still updates the header table (§4.3)."""
    peer = make_peer(Limits(max_concurrent_streams=2))
    events = peer.send(peer.call(1) + peer.call(3) + peer.call(5, x="new"))
    assert [event.stream_id for event in events] == [1, 3]
    assert peer.error() == ("stream", REFUSED)
    peer.connection.reply(1, b"")
    (event,) = peer.send(peer.call(7, x="new"))
    assert event.head.metadata == {b"x": [b"new"]}


def test_response_headers_above_the_frame_size_use_continuation(peer: Peer) -> None:
    """§4.2, §6.10."""
    peer.send(peer.call(1))
    peer.connection.fail(1, 13, "x" * 40_000)
    found = peer.frames()
    assert [(kind, flags) for kind, flags, _, _ in found] == [(HEADERS, 1), (CONTINUATION, 0), (CONTINUATION, 4)]
    peer.decoder.max_header_list_size = 100_000
    fields = dict(peer.decoder.decode(b"".join(payload for *_, payload in found)))
    assert fields["grpc-message"] == "x" * 40_000


def test_large_frames_when_the_peer_allows(make_peer: Callable[..., Peer]) -> None:
    """§4.2."""
    peer = make_peer(settings=setting(5, 40_000))
    peer.send(peer.call(1))
    peer.connection.reply(1, bytes(30_000))
    assert [len(payload) for kind, _, _, payload in peer.frames() if kind == DATA] == [30_005]


def test_new_settings_are_acknowledged_before_they_are_used(make_peer: Callable[..., Peer]) -> None:
    """§6.5.3: until then the peer holds us to the old ones; grpc's core ends the stream otherwise."""
    peer = make_peer(settings=setting(4, 100))
    peer.send(peer.call(1) + frame(WINDOW_UPDATE, 0, 0, word(1 << 20)))
    peer.connection.reply(1, bytes(70_000))
    assert [len(payload) for kind, _, _, payload in peer.frames() if kind == DATA] == [100]
    peer.send(frame(SETTINGS, 0, 0, setting(4, 50_000) + setting(5, 30_000)))
    found = [(kind, flags, len(payload)) for kind, flags, _, payload in peer.frames()]
    assert found == [(SETTINGS, 1, 0), (DATA, 0, 30_000), (DATA, 0, 19_900)]
    peer.send(frame(SETTINGS, 0, 0, setting(4, 40_000)) + frame(WINDOW_UPDATE, 0, 1, word(10_001)))
    found = [(kind, flags, len(payload)) for kind, flags, _, payload in peer.frames()]
    assert found == [(SETTINGS, 1, 0), (DATA, 0, 1)]


def test_settings_that_change_no_window_leave_the_streams_alone(
    make_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are charged as one frame without content, however many streams wait."""
    peer = make_peer(settings=setting(4, 100))
    for stream_id in range(1, 100, 2):
        peer.send(peer.call(stream_id))
        peer.connection.reply(stream_id, bytes(200))
    looked_at: list[object] = []
    monkeypatch.setattr(GrpcConnection, "_pump", lambda self, stream: looked_at.append(stream))
    for window in (100, 100, 50):
        peer.send(frame(SETTINGS, 0, 0, setting(4, window) + setting(5, 30_000)))
    assert not looked_at
    peer.send(frame(SETTINGS, 0, 0, setting(4, 60)))
    assert len(looked_at) == 50


def _ask(peer: Peer, stream_id: int, how: str) -> None:
    """Have a stream answered, in each of the ways that begin with a header block."""
    connection = peer.connection
    if how == "refused":
        peer.send(peer.call(stream_id, content_type="application/grpc-web"))
        return
    peer.send(peer.call(stream_id) if how != "page" else peer.headers(stream_id, content_type="text/plain", flags=5))
    if how == "reply":
        connection.reply(stream_id, b"answer")
    elif how == "failure":
        connection.fail(stream_id, 13, "x" * 16_400)
    elif how == "page":
        connection.respond(stream_id, 200, [(b"x", b"y" * 40_000)], b"")
    elif how == "stream":
        connection.send_headers(stream_id)


_BEGINNINGS = ["reply", "failure", "page", "stream", "refused"]


@pytest.mark.parametrize("how", _BEGINNINGS)
@pytest.mark.parametrize("late", [False, True], ids=["first settings", "later settings"])
def test_a_client_that_shrinks_its_header_table_is_told_that_it_is_not_used(
    make_peer: Callable[..., Peer], how: str, late: bool
) -> None:
    """RFC 7541 §4.2: once, at the start of the next header block. nghttp2 and Node's http2 insist on it."""
    small = setting(1, 100) + setting(1, 0) + setting(1, 8_192) + setting(1, 50)
    peer = make_peer(settings=b"" if late else small)
    if late:
        peer.send(peer.call(1))
        peer.connection.reply(1, b"before")
        peer.answer(1)
        peer.send(frame(SETTINGS, 0, 0, small))
    peer.decoder.max_allowed_table_size = 0
    peer.decoder.max_header_list_size = 100_000
    seen = 0
    for stream_id, each in enumerate([how, *_BEGINNINGS], 1):
        _ask(peer, 2 * stream_id + 1, each)
        found = peer.frames()
        blocks = b"".join(payload for kind, _, _, payload in found if kind in (HEADERS, CONTINUATION))
        assert max(len(payload) for *_, payload in found) <= 16_384
        assert blocks.startswith(b"\x20") == (stream_id == 1)
        seen += len(peer.decoder.decode(blocks))
    assert seen > 10


def test_a_table_that_shrinks_while_trailers_wait(make_peer: Callable[..., Peer]) -> None:
    """The next header block is the next one sent, not the next one made."""
    peer = make_peer(settings=setting(4, 8))
    peer.send(peer.call(1) + peer.headers(3, content_type="text/plain", flags=5))
    peer.connection.reply(1, b"answer")
    peer.connection.respond(3, 200, [], b"larger than that")
    peer.answer(1)
    peer.send(frame(SETTINGS, 0, 0, setting(1, 0)) + frame(WINDOW_UPDATE, 0, 3, word(100)))
    assert [(kind, payload) for kind, _, _, payload in peer.frames()] == [
        (SETTINGS, b""), (DATA, b"han that"), (DATA, b""),
    ]  # fmt: skip
    peer.send(frame(WINDOW_UPDATE, 0, 1, word(100)))
    (kind, _, _, payload) = peer.frames()[-1]
    assert (kind, payload[:1]) == (HEADERS, b"\x20")
    assert peer.decoder.decode(payload) == [("grpc-status", "0")]
    peer.send(peer.call(5))
    peer.connection.reply(5, b"")
    assert [kind for kind, *_ in peer.frames()] == [HEADERS, DATA, HEADERS]


def test_http_requests(peer: Peer) -> None:
    """Requests that are not gRPC come whole and are answered with `respond`."""
    headers = peer.headers(1, content_type="application/json", content_length="7")
    assert peer.send(headers + frame(DATA, 0, 1, b'{"a"')) == []
    (event,) = peer.send(frame(DATA, 1, 1, b":1}"))
    assert isinstance(event, HttpRequest)
    assert (event.method, event.path, event.body) == (b"POST", b"/etcdserverpb.KV/Range", b'{"a":1}')
    assert (b"content-type", b"application/json") in event.headers
    peer.connection.respond(1, 200, [(b"content-type", b"application/json")], b"{}")
    assert peer.answer(1) == ([(":status", "200"), ("content-type", "application/json")], b"{}")
    (event,) = peer.send(peer.headers(3, method="GET", content_type=None, path="/version", flags=5))
    assert (event.method, event.path, event.body) == (b"GET", b"/version", b"")
    peer.connection.respond(3, 404, [], b"", end=False)
    peer.connection.send_body(3, b"one")
    peer.connection.send_body(3, b"two", end=True)
    assert peer.answer(3) == ([(":status", "404")], b"onetwo")
    assert peer.connection.open_streams == 0


def test_http_body_limit(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(Limits(max_http_body_bytes=10))
    assert peer.send(peer.headers(1, content_type="text/plain") + frame(DATA, 0, 1, bytes(11))) == []
    assert peer.answer(1)[0] == [(":status", "413")]
    assert peer.connection.open_streams == 0


def test_messages_over_many_reads(peer: Peer) -> None:
    body = b"".join(message(bytes([65 + i]) * i * 50) for i in range(20))
    data = peer.headers(1) + b"".join(frame(DATA, 0, 1, body[i : i + 33]) for i in range(0, len(body), 33))
    data += frame(DATA, 1, 1)
    events = []
    for i in range(0, len(data), 57):
        events += peer.send(data[i : i + 57])
    assert type(events[0]) is Opened
    assert type(events[-1]) is HalfClosed
    assert [event.data for event in events if type(event) is Message] == [bytes([65 + i]) * i * 50 for i in range(20)]
