"""The codec against the h2 package as client: same bytes, cut anywhere, must mean the same."""

import struct
from typing import Any

import h2.config
import h2.connection
import h2.events
from hypothesis import given, settings
from hypothesis import strategies as st

from ratifyd.wire.events import Call, HalfClosed, HttpRequest, Message, Opened, Writable
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.limits import Limits

MESSAGES = st.lists(st.one_of(st.binary(max_size=20), st.sampled_from([bytes(5_000), bytes(40_000)])), max_size=3)
TIMEOUTS = st.sampled_from([None, None, "5S", "1234567u", "20m"])
METADATA = st.lists(st.tuples(st.sampled_from(["token", "x-a", "x-b"]), st.text("abz019", max_size=9)), max_size=2)
CALL = st.tuples(MESSAGES, TIMEOUTS, METADATA, st.booleans(), st.integers(1, 20_000))


def message(data: bytes) -> bytes:
    return struct.pack(">BI", 0, len(data)) + data


def client() -> h2.connection.H2Connection:
    config = h2.config.H2Configuration(client_side=True, header_encoding=None)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    return connection


def start(peer: h2.connection.H2Connection, call: Any) -> int:
    messages, timeout, metadata, separate_end, cut = call
    stream_id = peer.get_next_available_stream_id()
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", f"/test.Echo/M{len(messages)}"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *([("grpc-timeout", timeout)] if timeout else []),
        *metadata,
    ]
    body = b"".join(message(data) for data in messages)
    peer.send_headers(stream_id, headers, end_stream=not body and not separate_end)
    if body or separate_end:
        size = min(cut, 16_384, max(len(body), 1))
        for at in range(0, len(body), size):
            peer.send_data(stream_id, body[at : at + size], end_stream=not separate_end and at + size >= len(body))
        if separate_end:
            peer.end_stream(stream_id)
    return stream_id


class Server:
    """What a session would make of the events, in a form that does not depend on how reads were cut."""

    def __init__(self) -> None:
        self.connection = GrpcConnection(Limits())
        self.heads: dict[int, tuple[Any, ...]] = {}
        self.messages: dict[int, list[bytes]] = {}
        self.ended: list[int] = []

    def receive(self, data: bytes) -> None:
        for event in self.connection.receive(data):
            if isinstance(event, Call | Opened):
                assert event.stream_id not in self.heads
                head = event.head
                self.heads[event.stream_id] = (head.path, head.timeout_s, sorted(head.metadata.items()), head.authority)
                self.messages[event.stream_id] = [event.message] if isinstance(event, Call) else []
            elif isinstance(event, Message):
                self.messages[event.stream_id].append(event.data)
            else:
                assert isinstance(event, HalfClosed)
            if isinstance(event, Call | HalfClosed):
                self.ended.append(event.stream_id)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    parts = []
    turn = 0
    while data:
        size = sizes[turn % len(sizes)]
        parts.append(data[:size])
        data = data[size:]
        turn += 1
    return parts


@given(st.lists(CALL, min_size=1, max_size=6), st.lists(st.integers(1, 30_000), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_reads_may_be_cut_anywhere(calls: list[Any], sizes: list[int]) -> None:
    peer = client()
    first = peer.data_to_send()
    whole, pieces = Server(), Server()
    for server in (whole, pieces):
        server.receive(first)
    peer.receive_data(whole.connection.data_to_send())
    pieces.connection.data_to_send()
    sent = {start(peer, call): call for call in calls}
    data = peer.data_to_send()
    whole.receive(data)
    for part in cut(data, sizes):
        pieces.receive(part)
    assert whole.heads == pieces.heads
    assert whole.messages == pieces.messages == {stream_id: call[0] for stream_id, call in sent.items()}
    assert sorted(whole.ended) == sorted(pieces.ended) == sorted(sent)


def test_byte_by_byte_equals_whole() -> None:
    peer = client()
    data = peer.data_to_send()
    calls = [([b"a"], "5S", [], False, 9), ([b"b", b"c"], None, [("token", "t")], True, 3), ([], None, [], True, 1)]
    for call in calls:
        start(peer, call)
    data += peer.data_to_send()
    whole, pieces = Server(), Server()
    whole.receive(data)
    for i in range(len(data)):
        pieces.receive(data[i : i + 1])
    assert (whole.heads, whole.messages, whole.ended) == (pieces.heads, pieces.messages, pieces.ended)
    assert sorted(whole.ended) == [1, 3, 5]


def test_every_split_in_two() -> None:
    peer = client()
    data = peer.data_to_send()
    start(peer, ([b"one"], "5S", [], False, 99))
    start(peer, ([b"two"], "6S", [], True, 99))
    data += peer.data_to_send()
    expected = {1: [b"one"], 3: [b"two"]}
    for at in range(len(data) + 1):
        server = Server()
        server.receive(data[:at])
        server.receive(data[at:])
        assert server.messages == expected, at
        assert server.ended == [1, 3]


ANSWER = st.sampled_from(["reply", "large reply", "fail", "stream", "stream then fail", "reset"])


@given(
    st.lists(ANSWER, min_size=1, max_size=8),
    st.sampled_from([0, 10, 1_000, 65_535]),
    st.integers(1, 50_000),
)
@settings(max_examples=30, deadline=None)
def test_answers_are_valid_to_the_client(answers: list[str], initial_window: int, step: int) -> None:
    """h2 raises on any frame, window or state violation of ours; what arrives is what was sent."""
    peer = client()
    peer.update_settings({4: initial_window})
    server = GrpcConnection(Limits())
    events: list[Any] = []
    expected: dict[int, bytes] = {}
    status: dict[int, bytes | None] = {}
    for answer in answers:
        stream_id = start(peer, ([answer.encode()], None, [], False, 99))
        expected[stream_id] = b""
        status[stream_id] = b"9" if "fail" in answer else None if answer == "reset" else b"0"
    for event in server.receive(peer.data_to_send()):
        assert isinstance(event, Call)
        send_answer(server, event, answers[(event.stream_id - 1) // 2], expected)
    for turn in range(300):
        step = min(step + 7 * turn, 50_000)
        events += peer.receive_data(server.data_to_send())
        peer.increment_flow_control_window(step)
        for stream_id in expected:
            if status[stream_id] is not None and server.queued_bytes(stream_id):
                peer.increment_flow_control_window(step, stream_id)
        assert all(isinstance(event, Writable) for event in server.receive(peer.data_to_send()))
        if not server.open_streams:
            break
    events += peer.receive_data(server.data_to_send())
    received = dict.fromkeys(expected, b"")
    ended: dict[int, bytes | None] = {}
    for event in events:
        if isinstance(event, h2.events.DataReceived):
            received[event.stream_id] += event.data
        elif isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
            found = dict(event.headers)
            if b"grpc-status" in found:
                ended[event.stream_id] = found[b"grpc-status"]
        elif isinstance(event, h2.events.StreamReset):
            ended[event.stream_id] = None
    assert ended == status
    assert received == expected
    assert server.open_streams == 0
    assert not server.closed


def send_answer(server: GrpcConnection, call: Call, answer: str, expected: dict[int, bytes]) -> None:
    stream_id = call.stream_id
    if answer == "reset":
        server.reset(stream_id, 8)
    elif answer == "fail":
        server.fail(stream_id, 9, "no")
    elif "reply" in answer:
        data = call.message * (9_000 if "large" in answer else 1)
        server.reply(stream_id, data)
        expected[stream_id] = message(data)
    else:
        for size in (10, 40_000, 0):
            server.send_message(stream_id, bytes(size))
            expected[stream_id] += message(bytes(size))
        if "fail" in answer:
            server.fail(stream_id, 9, "late")
        else:
            server.finish(stream_id)


@given(st.binary(max_size=50_000), st.integers(1, 16_384), st.booleans())
@settings(max_examples=25, deadline=None)
def test_http_requests(body: bytes, size: int, declared: bool) -> None:
    peer = client()
    server = GrpcConnection(Limits())
    headers = [(":method", "PUT"), (":scheme", "http"), (":path", "/v3/kv"), (":authority", "a")]
    if declared:
        headers.append(("content-length", str(len(body))))
    peer.send_headers(1, headers)
    for at in range(0, len(body), size):
        peer.send_data(1, body[at : at + size])
    peer.end_stream(1)
    (event,) = server.receive(peer.data_to_send())
    assert isinstance(event, HttpRequest)
    assert event.body == body
    server.respond(1, 200, [(b"content-type", b"text/plain")], body[:60_000])
    found = peer.receive_data(server.data_to_send())
    assert b"".join(event.data for event in found if isinstance(event, h2.events.DataReceived)) == body[:60_000]
    assert any(isinstance(event, h2.events.StreamEnded) for event in found)
