"""Floods, keepalive enforcement, graceful shutdown (RFC 9113 §6.8, §10.5; gRFC A8)."""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from ratifyd.wire.events import Call, Ponged
from ratifyd.wire.limits import Limits

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, _, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
CALM = ("connection", 11)
Peer = Any


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


def message(data: bytes) -> bytes:
    return struct.pack(">BI", 0, len(data)) + data


def ping(flags: int = 0) -> bytes:
    return frame(PING, flags, 0, b"12345678")


def reset(stream_id: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, struct.pack(">I", 8))


@pytest.mark.parametrize("known", [False, True], ids=["before the session knows", "after"])
def test_rapid_reset(make_peer: Callable[..., Peer], known: bool) -> None:
    """CVE-2023-44487."""
    peer = make_peer(Limits(reset_burst=50, reset_refill_per_s=10.0))
    stream_id = 1
    for _ in range(50):
        peer.send((peer.call(stream_id) if known else peer.headers(stream_id)) + reset(stream_id))
        stream_id += 2
    assert not peer.connection.closed
    peer.now = 1.0  # ten more
    for _ in range(10):
        peer.send(peer.headers(stream_id) + reset(stream_id))
        stream_id += 2
    assert not peer.connection.closed
    peer.send(peer.headers(stream_id) + reset(stream_id))
    assert peer.error() == CALM


def test_answered_calls_pay_for_resets(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(Limits(reset_burst=5, reset_refill_per_s=0.0))
    for stream_id in range(1, 400, 4):
        peer.send(peer.call(stream_id) + peer.call(stream_id + 2))
        peer.connection.reply(stream_id, b"")
        peer.send(reset(stream_id + 2))
    assert not peer.connection.closed


def test_skipped_stream_ids_pay_for_nothing(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(Limits(reset_burst=5, reset_refill_per_s=0.0))
    for stream_id in range(1, 1_000_000, 100_000):
        peer.send(peer.headers(stream_id) + reset(stream_id))
    assert peer.error() == CALM


def test_streams_broken_by_the_client_count_as_resets(make_peer: Callable[..., Peer]) -> None:
    """CVE-2025-8671."""
    peer = make_peer(Limits(reset_burst=5, reset_refill_per_s=0.0))
    zero = bytes(4)
    for stream_id in range(1, 13, 2):
        peer.send(peer.call(stream_id) + frame(WINDOW_UPDATE, 0, stream_id, zero))
    assert peer.connection.closed


@pytest.mark.parametrize(
    "flood",
    [
        frame(DATA, 0, 1),
        frame(PRIORITY, 0, 3, bytes(4) + b"\1"),
        frame(0x42, 0, 0, b"unknown"),
        frame(SETTINGS, 0, 0),
        reset(1),
    ],
    ids=["empty DATA", "PRIORITY", "unknown", "SETTINGS", "RST_STREAM of a closed stream"],
)
def test_frames_without_content(make_peer: Callable[..., Peer], flood: bytes) -> None:
    peer = make_peer(Limits(idle_frame_burst=100, idle_frame_refill_per_s=10.0))
    peer.send(peer.headers(1))
    peer.send(flood * 90)
    peer.now = 10.0
    peer.send(flood * 90)
    assert not peer.connection.closed
    peer.send(flood * 20)
    assert peer.error() == CALM


def test_content_for_streams_that_were_answered_early_is_no_flood(peer: Peer) -> None:
    """A client may have sent all of many large requests before it hears that they are refused."""
    content = frame(DATA, 0, 1, bytes(16_384))
    for stream_id in range(1, 120, 2):
        peer.send(peer.headers(stream_id) + frame(DATA, 0, stream_id, struct.pack(">BI", 0, 8_000_000)))
        for at in range(8):
            peer.send(content.replace(b"\0\0\0\1", struct.pack(">I", stream_id), 1) * 32)
            assert not peer.connection.closed, (stream_id, at)
    assert ("grpc-status", "8") in peer.answer(119)[0]
    (event,) = peer.send(peer.call(121))
    assert isinstance(event, Call)


@pytest.mark.parametrize(
    "flood", [frame(DATA, 0, 1), frame(DATA, 8, 1, b"\xff" + bytes(255))], ids=["empty", "padding"]
)
def test_empty_frames_for_a_stream_that_was_answered_are_a_flood(make_peer: Callable[..., Peer], flood: bytes) -> None:
    peer = make_peer(Limits(idle_frame_burst=100, idle_frame_refill_per_s=10.0))
    peer.send(peer.headers(1))
    peer.connection.fail(1, 5, "early")
    peer.frames()
    peer.send(flood * 100)
    assert not peer.connection.closed
    peer.send(flood)
    assert peer.error() == CALM


def test_queued_answers_are_bounded(make_peer: Callable[..., Peer]) -> None:
    limits = Limits(max_control_frames=100, min_ping_interval_s=0.0, idle_ping_interval_s=0.0)
    peer = make_peer(limits)
    for _ in range(5):
        peer.send(ping() * 100)
        assert len(peer.frames()) == 100
    peer.send(ping() * 10_000)
    assert len(peer.frames()) == 102  # one too many, and GOAWAY
    assert peer.connection.closed


@pytest.mark.parametrize("size", [0, 1, 4_000])
def test_continuation_flood(make_peer: Callable[..., Peer], size: int) -> None:
    """CVE-2024-27316."""
    peer = make_peer(Limits(max_continuation_frames=20, max_header_block_bytes=30_000))
    peer.send(frame(HEADERS, 0, 1, b"\x82"))
    for _ in range(21):
        peer.send(frame(CONTINUATION, 0, 1, bytes(size)))
    assert peer.error() == CALM


def test_header_list_size(make_peer: Callable[..., Peer]) -> None:
    """§6.5.2; grpc-go answers FRAME_SIZE_ERROR on the stream."""
    peer = make_peer(Limits(max_header_list_bytes=1_000))
    peer.send(peer.headers(1, x="v" * 1_000))
    assert peer.error() == ("stream", 6)
    peer.send(peer.headers(3, x="v" * 1_000))  # now a one-byte index
    assert peer.error() == ("stream", 6)
    (event,) = peer.send(peer.call(5))
    assert isinstance(event, Call)


def test_unfinished_messages_are_bounded_together(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(Limits(max_buffered_bytes=50_000))
    part = message(bytes(100_000))[:16_000]
    for stream_id in (1, 3, 5):
        peer.send(peer.headers(stream_id) + frame(DATA, 0, stream_id, part))
    assert peer.error() is None
    peer.send(peer.headers(7) + frame(DATA, 0, 7, part))
    assert peer.error() == ("stream", 11)
    peer.send(reset(1) + peer.headers(9) + frame(DATA, 0, 9, part))  # memory given back counts
    assert peer.error() is None


def strikes(peer: Peer, interval: float, count: int) -> bool:
    for _ in range(count):
        peer.now += interval
        peer.send(ping())
    return bool(peer.connection.closed)


def test_pings_with_a_stream_open(peer: Peer) -> None:
    """Two strikes are forgiven, the third ends the connection; the first ping has nothing to be too close to."""
    peer.now = 100.0
    peer.send(peer.headers(1))
    assert not strikes(peer, 5.0, 20)
    assert not strikes(peer, 4.0, 2)
    peer.frames()
    assert strikes(peer, 4.0, 1)
    found = [payload for kind, _, _, payload in peer.frames() if kind == GOAWAY]
    assert found == [struct.pack(">II", 1, 11) + b"too_many_pings"]


def test_pings_without_streams_count_against_two_hours(peer: Peer) -> None:
    assert not strikes(peer, 7_200.0, 5)
    assert not strikes(peer, 60.0, 2)
    assert strikes(peer, 60.0, 1)


def test_pings_without_streams_may_be_permitted(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(Limits(permit_ping_without_stream=True))
    assert not strikes(peer, 5.0, 50)


def test_answers_forgive_strikes(peer: Peer) -> None:
    for stream_id in range(1, 101, 2):
        assert not strikes(peer, 0.1, 2)
        peer.send(peer.call(stream_id))
        peer.connection.reply(stream_id, b"")
    assert not peer.connection.closed


def test_own_ping(peer: Peer) -> None:
    peer.connection.ping()
    ((kind, flags, _, payload),) = peer.frames()
    assert (kind, flags) == (PING, 0)
    (event,) = peer.send(frame(PING, 1, 0, payload))
    assert isinstance(event, Ponged)


def test_graceful_shutdown(peer: Peer) -> None:
    """§6.8: announced, confirmed by a PING, then drained."""
    connection = peer.connection
    peer.send(peer.call(1))
    connection.go_away()
    warning, probe = peer.frames()
    assert struct.unpack_from(">II", warning[3]) == (2**31 - 1, 0)
    (event,) = peer.send(peer.call(3))  # was under way
    assert isinstance(event, Call)
    peer.send(frame(PING, 1, 0, probe[3]))
    ((kind, _, _, payload),) = peer.frames()
    assert (kind, struct.unpack_from(">II", payload)) == (GOAWAY, (3, 0))
    assert peer.send(peer.call(5) + peer.headers(7) + frame(DATA, 0, 7, b"x")) == []
    assert peer.frames() == []
    connection.reply(1, b"")
    peer.frames()
    assert not connection.closed
    connection.reply(3, b"last")
    assert peer.answer(3)[0][-1] == ("grpc-status", "0")
    assert connection.closed


def test_second_go_away_does_not_wait(peer: Peer) -> None:
    peer.connection.go_away()
    peer.connection.go_away()
    assert [kind for kind, *_ in peer.frames()] == [GOAWAY, PING, GOAWAY]
    assert peer.connection.closed
    assert peer.send(peer.call(1)) == []


def test_caches_stay_small(peer: Peer) -> None:
    """Distinct headers of a long connection do not pile up."""
    for i in range(2_000):
        stream_id = 1 + 2 * i
        block = peer.headers(stream_id)[9:] + b"\x10\x01x\x04%04d" % i + b"\x10\x01y" + b"\x7f\x81\x07" + b"%01024d" % i
        peer.send(frame(HEADERS, 4, stream_id, block) + frame(DATA, 1, stream_id, message(b"")))
        peer.connection.reply(stream_id, b"")
        peer.connection.data_to_send()
    connection = peer.connection
    assert not connection.closed
    assert len(connection._blocks) <= 128
    assert len(connection._shapes) <= 128
    assert len(connection._decoder._remembered) <= 256


def test_settings_that_change_many_windows_cost_more(make_peer: Callable[..., Peer]) -> None:
    """Each one makes the server go through all streams."""
    peer = make_peer(Limits(idle_frame_burst=100, idle_frame_refill_per_s=0.0))
    for stream_id in range(1, 2_001, 2):
        peer.send(peer.headers(stream_id))
    change = [frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 70_000 + n)) for n in range(3)]
    peer.send(change[0])
    assert not peer.connection.closed
    peer.send(change[1] + change[2])
    assert peer.error() == CALM


def test_http_answers_nobody_reads_are_bounded(make_peer: Callable[..., Peer]) -> None:
    """They are answered without their bodies; bodies that come in pieces are cut."""
    peer = make_peer(Limits(max_unread_bytes=1_000_000), settings=struct.pack(">HI", 4, 0))
    connection = peer.connection
    for stream_id in range(1, 40, 2):
        assert peer.send(peer.headers(stream_id, content_type="text/plain", flags=5))
        if stream_id % 4 == 1:
            connection.respond(stream_id, 200, [], bytes(100_000))
        else:
            connection.respond(stream_id, 200, [], b"", end=False)
            connection.send_body(stream_id, bytes(100_000))
    assert 1_000_000 < connection.queued < 1_200_000
    assert connection.open_streams == 11 and connection.refused == list(range(23, 40, 2))
    answered = [peer.decoder.decode(payload) for kind, _, _, payload in peer.frames() if kind == HEADERS]
    assert answered == [[(":status", "200")]] * 11 + [[(":status", "503")]] * 9
    connection.send_body(3, b"x")
    assert peer.error() == ("stream", CALM[1]) and connection.refused[-1] == 3 and connection.queued == 1_000_000


@pytest.mark.parametrize("stalled", [False, True], ids=["no window", "no room in the socket"])
def test_answers_nobody_reads_are_bounded(make_peer: Callable[..., Peer], stalled: bool) -> None:
    peer = make_peer(Limits(max_unread_bytes=1_000_000))
    wide = struct.pack(">HI", 4, 2**31 - 1 if stalled else 0) + struct.pack(">HI", 5, 2**24 - 1)
    peer.send(frame(SETTINGS, 0, 0, wide) + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 65_536)))
    peer.connection.stalled = stalled
    held = 0
    for stream_id in range(1, 40, 2):
        peer.send(peer.call(stream_id))
        peer.connection.reply(stream_id, bytes(100_000))
        held += len(peer.connection.data_to_send())
    assert held + sum(peer.connection.queued_bytes(stream_id) for stream_id in range(1, 40, 2)) < 1_300_000
    assert peer.connection.open_streams == (0 if stalled else 10)
    peer.connection.stalled = False
    if not stalled:
        peer.send(b"".join(frame(WINDOW_UPDATE, 0, each, struct.pack(">I", 200_000)) for each in range(1, 22, 2)))
    peer.connection.data_to_send()
    peer.send(peer.call(41))
    peer.connection.reply(41, bytes(100_000))
    assert peer.connection.data_to_send() if stalled else peer.connection.queued_bytes(41) > 100_000


def test_too_many_header_fields(make_peer: Callable[..., Peer]) -> None:
    """An HPACK bomb: a byte each, and 4,000 bytes in the table."""
    peer = make_peer()
    peer.send(peer.headers(1, x="v" * 4_000))
    peer.send(frame(HEADERS, 4, 3, b"\xbe" * 2_049))
    assert peer.error() == CALM
