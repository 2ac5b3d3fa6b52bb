"""No frame of ours is more than a client allows that counts strictly: a change holds once we have acknowledged it."""

import struct

import hpack
from hypothesis import given
from hypothesis import strategies as st

from ratifyd.wire.events import Opened
from ratifyd.wire.grpc import GrpcConnection
from ratifyd.wire.limits import Limits
from tests.unit.wire.conftest import DATA, HEADERS, PREFACE, REQUEST, SETTINGS, WINDOW_UPDATE, frame, message, word

ACK = 1
INITIAL_WINDOW, MAX_FRAME = 4, 5
DEFAULT_WINDOW, DEFAULT_FRAME = 65_535, 16_384
WIDE = 1 << 30
STREAMS = (1, 3, 5)

windows = st.sampled_from((0, 1, 1_000, 16_384, 30_000, 65_535, 200_000))
sizes = st.sampled_from((0, 1, 500, 16_379, 16_380, 40_000, 120_000))
streams = st.sampled_from(STREAMS)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("settings"), windows, st.sampled_from((16_384, 20_000, 100_000))),
        st.tuples(st.just("stream window"), streams, st.integers(1, 50_000)),
        st.tuples(st.just("connection window"), st.just(0), st.integers(1, 100_000)),
        st.tuples(st.just("send"), streams, sizes),
        st.tuples(st.just("send alike"), streams, sizes),
        st.tuples(st.just("send each"), st.just(0), sizes),
        st.tuples(st.just("read"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


class StrictClient:
    """Counts as grpc's core does, and fails where that ends a stream or the connection."""

    def __init__(self, wire: GrpcConnection) -> None:
        self.wire = wire
        self.window = DEFAULT_WINDOW
        self.initial = DEFAULT_WINDOW
        self.frame = DEFAULT_FRAME
        self.pending: list[tuple[int, int]] = [(DEFAULT_WINDOW, DEFAULT_FRAME)]
        self.windows = dict.fromkeys(STREAMS, DEFAULT_WINDOW)
        self.got = dict.fromkeys(STREAMS, b"")
        encoder = hpack.Encoder()
        wire.receive(PREFACE + frame(SETTINGS, 0, 0), 0.0)
        for stream in STREAMS:
            (event,) = wire.receive(frame(HEADERS, 4, stream, encoder.encode(REQUEST)), 0.0)
            assert type(event) is Opened

    def change(self, window: int, frame_bytes: int) -> None:
        self.pending.append((window, frame_bytes))
        settings = struct.pack(">HIHI", INITIAL_WINDOW, window, MAX_FRAME, frame_bytes)
        self.wire.receive(frame(SETTINGS, 0, 0, settings), 0.0)

    def widen(self, stream: int, size: int) -> None:
        if stream:
            self.windows[stream] += size
        else:
            self.window += size
        self.wire.receive(frame(WINDOW_UPDATE, 0, stream, word(size)), 0.0)

    def read(self) -> None:
        data = self.wire.data_to_send()
        at = 0
        while at < len(data):
            size, flags, stream = struct.unpack_from(">IBI", data, at)
            kind, size = size & 0xFF, size >> 8
            payload = data[at + 9 : at + 9 + size]
            at += 9 + size
            assert size <= self.frame, "a frame larger than was acknowledged"
            if kind == SETTINGS and flags & ACK:
                window, self.frame = self.pending.pop(0)
                for each in STREAMS:
                    self.windows[each] += window - self.initial
                self.initial = window
            elif kind == DATA:
                self.window -= size
                self.windows[stream] -= size
                assert not size or (self.window >= 0 and self.windows[stream] >= 0), "more than the windows allow"
                self.got[stream] += payload
            else:
                assert kind in (SETTINGS, HEADERS, WINDOW_UPDATE), kind
        assert at == len(data)


@given(steps)
def test_windows_and_frame_sizes_hold_once_they_are_acknowledged(steps: list[tuple[str, int, int]]) -> None:
    wire = GrpcConnection(Limits())
    client = StrictClient(wire)
    sent = dict.fromkeys(STREAMS, b"")
    for number, (what, where, size) in enumerate(steps):
        data = bytes([number]) * size
        if what == "settings":
            client.change(where, size)
        elif what.endswith("window"):
            client.widen(where, size)
        elif what == "send":
            wire.send_message(where, data)
            sent[where] += message(data)
        elif what == "send alike":
            wire.send_alike(where, data, [b"a", b"b"], b"c")
            sent[where] += message(data + b"ac") + message(data + b"bc")
        elif what == "send each":
            wire.send_each(STREAMS, data, [b"a", b"bb", b""])
            for stream, rest in zip(STREAMS, (b"a", b"bb", b"")):
                sent[stream] += message(data + rest)
        else:
            client.read()
    client.read()
    client.change(DEFAULT_WINDOW, DEFAULT_FRAME)
    for stream in (0, *STREAMS):
        client.widen(stream, WIDE)
    client.read()
    assert client.got == sent and not wire.queued
