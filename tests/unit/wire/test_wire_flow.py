"""Flow control in both directions (RFC 9113 §5.2, §6.9), queueing and fairness."""

import struct
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from ratifyd.wire.events import Call, Message, Reset, Writable
from ratifyd.wire.limits import Limits

DATA, HEADERS, _, RST_STREAM, SETTINGS, _, _, _, WINDOW_UPDATE = range(9)
FLOW = 3
Peer = Any


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


def message(data: bytes) -> bytes:
    return struct.pack(">BI", 0, len(data)) + data


def window(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, struct.pack(">I", increment))


def initial_window(size: int) -> bytes:
    return struct.pack(">HI", 4, size)


def sent(peer: Peer) -> dict[int, int]:
    """DATA bytes by stream."""
    totals: dict[int, int] = {}
    for kind, _, stream_id, payload in peer.frames():
        if kind == DATA:
            assert len(payload) <= 16_384
            totals[stream_id] = totals.get(stream_id, 0) + len(payload)
    return totals


def test_stream_window_holds_back_data_and_trailers(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(settings=initial_window(10))
    peer.send(peer.call(1))
    peer.connection.reply(1, bytes(20))
    found = peer.frames()
    assert [kind for kind, *_ in found] == [HEADERS, DATA]
    assert len(found[1][3]) == 10
    assert peer.connection.queued_bytes(1) == 15
    assert peer.connection.open_streams == 1
    peer.send(window(1, 14))
    assert sent(peer) == {1: 14}
    peer.send(window(1, 1))
    assert [(kind, flags) for kind, flags, *_ in peer.frames()] == [(DATA, 0), (HEADERS, 5)]
    assert peer.connection.open_streams == 0


def test_connection_window_holds_back_and_is_shared_fairly(peer: Peer) -> None:
    peer.send(b"".join(peer.call(stream_id) for stream_id in (1, 3, 5)) + b"".join(window(i, 2**20) for i in (1, 3, 5)))
    for stream_id in (1, 3, 5):
        peer.connection.reply(stream_id, bytes(200_000))
    assert sent(peer) == {1: 65_535}
    peer.send(window(0, 16_384 * 6))
    assert sent(peer) == {1: 32_768, 3: 32_768, 5: 32_768}
    peer.send(window(0, 2**20))
    assert sum(sent(peer).values()) == 3 * 200_005 - 65_535 - 6 * 16_384
    assert peer.connection.open_streams == 0


def test_a_blocked_stream_does_not_block_others(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(settings=initial_window(100))
    peer.send(peer.call(1) + peer.call(3))
    peer.connection.reply(1, bytes(1_000))
    peer.connection.reply(3, bytes(50))
    assert sent(peer) == {1: 100, 3: 55}


def test_settings_change_open_windows_even_below_zero(make_peer: Callable[..., Peer]) -> None:
    """§6.9.2."""
    peer = make_peer(settings=initial_window(100))
    peer.send(peer.call(1) + peer.call(3))
    peer.connection.send_message(1, bytes(995))
    assert sent(peer) == {1: 100}
    peer.send(frame(SETTINGS, 0, 0, initial_window(40)))
    assert sent(peer) == {}
    peer.send(window(1, 60))
    assert sent(peer) == {}
    peer.send(window(1, 5))
    assert sent(peer) == {1: 5}
    peer.send(frame(SETTINGS, 0, 0, initial_window(1_000)))
    assert sent(peer) == {1: 895}
    peer.connection.reply(3, bytes(995))
    assert sent(peer) == {3: 1_000}


def test_reply_respects_a_window_update_on_its_stream(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(settings=initial_window(0))
    peer.send(peer.call(1) + window(1, 30))
    peer.connection.reply(1, bytes(25))
    assert sent(peer) == {1: 30}
    assert peer.connection.open_streams == 0


def test_window_update_before_the_request_is_whole(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(settings=initial_window(0))
    (event,) = peer.send(peer.headers(1) + window(1, 12) + frame(DATA, 1, 1, message(b"m")))
    assert isinstance(event, Call)
    peer.connection.reply(1, b"1234567")
    assert sent(peer) == {1: 12}


def test_writable_below_low_water(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(Limits(send_low_water_bytes=1_000), settings=initial_window(0))
    peer.send(peer.call(1))
    peer.connection.send_message(1, bytes(495))
    assert peer.send(window(1, 500)) == []
    peer.connection.send_message(1, bytes(2_995))
    assert peer.send(window(1, 1_999)) == []
    (event,) = peer.send(window(1, 1))
    assert isinstance(event, Writable)
    assert event.stream_id == 1
    assert peer.connection.queued_bytes(1) == 1_000
    assert peer.send(window(1, 1_000)) == []


def test_reset_drops_the_queue(peer: Peer) -> None:
    peer.send(peer.call(1) + peer.call(3))
    peer.connection.reply(1, bytes(100_000))
    peer.connection.reply(3, bytes(10))
    assert sent(peer) == {1: 65_535}
    peer.send(window(1, 2**20))
    (event,) = peer.send(frame(RST_STREAM, 0, 1, bytes(4)))
    assert isinstance(event, Reset)
    peer.send(window(0, 2**20))
    assert sent(peer) == {3: 15}
    assert peer.connection.open_streams == 0


def test_nothing_is_sent_after_finish(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(settings=initial_window(0))
    peer.send(peer.headers(1))
    peer.connection.reply(1, b"abc")
    peer.connection.send_message(1, b"more")
    peer.connection.fail(1, 2, "no")
    assert peer.connection.queued_bytes(1) == 8
    assert peer.send(frame(DATA, 0, 1, message(b"late"))) == []
    peer.send(window(1, 100))
    assert [kind for kind, *_ in peer.frames()] == [HEADERS, DATA, HEADERS, RST_STREAM]


def test_receive_windows_reopen(make_peer: Callable[..., Peer]) -> None:
    limits = Limits(stream_window_bytes=100_000, connection_window_bytes=200_000, max_message_bytes=10**6)
    peer = make_peer(limits)
    body = message(bytes(500_000))
    peer.send(peer.headers(1))
    stream_window, connection_window = 100_000, 200_000
    events = []
    for start in range(0, len(body), 16_384):
        part = body[start : start + 16_384]
        stream_window -= len(part)
        connection_window -= len(part)
        assert stream_window >= 0
        assert connection_window >= 0
        events += peer.send(frame(DATA, 0, 1, part))
        for kind, _, stream_id, payload in peer.frames():
            assert kind == WINDOW_UPDATE
            if stream_id:
                stream_window += int.from_bytes(payload, "big")
            else:
                connection_window += int.from_bytes(payload, "big")
    assert [len(event.data) for event in events if type(event) is Message] == [500_000]


def test_padding_counts_and_pipelined_calls_reopen_the_connection(make_peer: Callable[..., Peer]) -> None:
    """§6.9.1: the whole payload counts."""
    peer = make_peer(Limits(connection_window_bytes=65_535))
    padded = frame(DATA, 8, 1, b"\xff" + message(bytes(95)) + bytes(255))
    peer.send(peer.headers(1) + padded * 50)
    peer.frames()
    peer.send(b"".join(peer.call(3 + 2 * i, bytes(995)) for i in range(20)))
    updates = [
        (sid, int.from_bytes(payload, "big")) for kind, _, sid, payload in peer.frames() if kind == WINDOW_UPDATE
    ]
    assert updates == [(0, 50 * 356 + 20 * 1_000)]


def test_connection_window_violation(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(Limits(connection_window_bytes=65_535))
    peer.send(b"".join(peer.call(1 + 2 * i, bytes(10_000)) for i in range(7)))
    assert peer.error() == ("connection", FLOW)


@pytest.mark.parametrize("seed", range(20))
def test_messages_sent_alike_are_those_sent_one_by_one(make_peer: Callable[..., Peer], seed: int) -> None:
    """Whatever the windows and the frame size: the same bytes on the stream, the same counts, all windows kept."""
    draw = Random(seed)
    settings = initial_window(draw.choice((0, 100, 20_000, 2**20))) + struct.pack(
        ">HI", 5, draw.choice((16_384, 2**20))
    )
    together, apart = peers = [make_peer(settings=settings) for _ in range(2)]
    for peer in peers:
        peer.send(peer.headers(1))
    data = {id(peer): b"" for peer in peers}
    for _ in range(30):
        if draw.random() < 0.6:
            width = draw.randrange(4)
            head, tail = draw.randbytes(draw.choice((0, 30))), draw.randbytes(draw.choice((0, 300, 9_000)))
            middles = [draw.randbytes(width) for _ in range(draw.choice((1, 2, 100)))]
            together.connection.send_alike(1, head, middles, tail)
            for middle in middles:
                apart.connection.send_message(1, head + middle + tail)
        else:
            opened = window(draw.choice((0, 1)), draw.choice((1, 1_000, 100_000)))
            for peer in peers:
                peer.send(opened)
        for peer in peers:
            data[id(peer)] += b"".join(payload for kind, _, _, payload in peer.frames() if kind == DATA)
        assert data[id(together)] == data[id(apart)]
        assert together.connection.queued_bytes(1) == apart.connection.queued_bytes(1)
    sent = [each.connection.traffic.client_sent_bytes_total for each in (together, apart)]
    assert sent[0] == sent[1] > 0
    for peer in peers:
        peer.send(window(0, 2**30) + window(1, 2**30))
        data[id(peer)] += b"".join(payload for kind, _, _, payload in peer.frames() if kind == DATA)
        assert peer.connection.queued_bytes(1) == 0
    assert data[id(together)] == data[id(apart)]
    together.connection.send_alike(3, b"", [b""], b"")  # nobody is there any more
    assert not together.connection.has_output


@pytest.mark.parametrize("seed", range(20))
def test_messages_sent_to_each_are_those_sent_one_by_one(make_peer: Callable[..., Peer], seed: int) -> None:
    """Whatever the windows, the frame size and the state of the streams: the same frames and counts."""
    draw = Random(seed)
    settings = initial_window(draw.choice((60, 3_000, 2**20))) + struct.pack(">HI", 5, draw.choice((16_384, 2**20)))
    together, apart = peers = [make_peer(settings=settings) for _ in range(2)]
    for peer in peers:
        peer.send(b"".join(peer.headers(stream_id) for stream_id in (1, 3, 5)))
    largest = draw.choice((30, 30, 20_000))
    for _ in range(40):
        if draw.random() < 0.7:
            stream_ids = draw.choices((1, 3, 5, 9), k=draw.choice((1, 5)))
            head = draw.randbytes(draw.choice((0, 20)))
            rests = [draw.randbytes(draw.randrange(largest)) for _ in stream_ids]
            together.connection.send_each(stream_ids, head, rests)
            for stream_id, rest in zip(stream_ids, rests):
                apart.connection.send_message(stream_id, head + rest)
        else:
            news = draw.choice((window(0, 10_000), window(0, 100_000), window(3, 1_000), frame(DATA, 1, 5)))
            for peer in peers:
                peer.send(news)
        states = [peer.connection for peer in peers]
        assert together.frames() == apart.frames()
        assert (
            len(
                {
                    (each.queued, each.traffic.client_sent_bytes_total, each._send_window, each._unread)
                    for each in states
                }
            )
            == 1
        )
        assert len({tuple(each.queued_bytes(stream_id) for stream_id in (1, 3, 5)) for each in states}) == 1


def test_messages_sent_to_each_who_does_not_read_end_the_streams(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(Limits(max_unread_bytes=10_000))
    peer.send(peer.headers(1) + peer.headers(3))
    peer.connection.stalled = True
    for _ in range(12):
        peer.connection.send_each([1, 3], bytes(500), [b"a", b"b"])
        peer.connection.data_to_send()
    assert not peer.connection.is_open(1)


def test_messages_sent_alike_to_one_who_does_not_read_end_the_stream(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(Limits(max_unread_bytes=10_000))
    peer.send(peer.headers(1))
    peer.connection.stalled = True
    for _ in range(12):
        peer.connection.send_alike(1, b"", [b"a", b"b"], bytes(500))
        peer.connection.data_to_send()
    assert not peer.connection.is_open(1)
