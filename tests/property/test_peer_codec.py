"""Streams between members: any messages, any cuts, any garbage."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ratifyd.peer.codec import (
    MESSAGE_HEARTBEAT,
    MSGAPP_HEARTBEAT,
    EnvelopeDecoder,
    MessageDecoder,
    MsgAppDecoder,
    MsgAppEncoder,
    SharedEntries,
    StreamCorrupt,
    frame_message,
)
from ratifyd.raft.messages import Entry, EntryKind, Message, MessageKind

LOCAL, REMOTE = 2, 1
u64s = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))
datas = st.one_of(st.binary(max_size=40), st.sampled_from([b"x" * 127, b"y" * 128, b"z" * 20_000]))


@st.composite
def appends(draw: st.DrawFn) -> list[Message]:
    """What a leader may send one follower: runs that follow each other, jumps, new terms."""
    term, index, log_term = draw(st.integers(1, 200)), draw(st.integers(0, 1 << 40)), 0
    sent = []
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.integers(0, 3)) == 0:
            index, log_term = draw(st.integers(0, 20_000)), draw(st.integers(0, term))
        if draw(st.integers(0, 3)) == 0:
            term += 1
        entries = []
        first = index
        entry_term = max(log_term, 1)
        for _ in range(draw(st.integers(0, 4))):
            index += 1
            entry_term = entry_term if draw(st.booleans()) else term
            if log_term == term:
                entry_term = term
            entries.append(Entry(entry_term, index, draw(datas), draw(st.sampled_from(EntryKind))))
        sent.append(Message(MessageKind.APP, LOCAL, REMOTE, term, log_term, first, entries, draw(u64s)))
        if entries:
            log_term = entries[-1].term
    return sent


@settings(max_examples=60)
@given(appends(), st.data())
def test_appends_survive_any_cuts(sent: list[Message], data: st.DataObject) -> None:
    shared = SharedEntries()
    encoder = MsgAppEncoder(shared)
    stream = b"".join(encoder.encode(message) + MSGAPP_HEARTBEAT * data.draw(st.integers(0, 2)) for message in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = MsgAppDecoder(LOCAL, REMOTE)
    got = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)]):
        got += decoder.feed(stream[start:end])
    assert got == sent


@settings(max_examples=15)
@given(appends())
def test_appends_survive_every_single_cut(sent: list[Message]) -> None:
    encoder = MsgAppEncoder(SharedEntries())
    stream = b"".join(encoder.encode(message) for message in sent)
    for cut in range(0, len(stream), max(1, len(stream) // 300)):
        decoder = MsgAppDecoder(LOCAL, REMOTE)
        assert decoder.feed(stream[:cut]) + decoder.feed(stream[cut:]) == sent
    decoder = MsgAppDecoder(LOCAL, REMOTE)
    if len(stream) < 2000:
        assert [each for at in range(len(stream)) for each in decoder.feed(stream[at : at + 1])] == sent


terms = st.one_of(st.integers(0, 300), u64s)
messages = st.builds(
    Message,
    st.sampled_from([kind for kind in MessageKind if kind not in {MessageKind.SNAP, MessageKind.APP}]),
    u64s,
    st.integers(1, (1 << 64) - 1),
    terms,
    u64s,
    u64s,
    st.lists(st.builds(Entry, u64s, u64s, datas, st.sampled_from(EntryKind)), max_size=3),
    u64s,
    st.none(),
    st.booleans(),
    u64s,
    st.binary(max_size=20),
)


@settings(max_examples=60)
@given(st.one_of(st.lists(messages, max_size=5), appends()), st.data())
def test_messages_survive_any_cuts(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(frame_message(message) + MESSAGE_HEARTBEAT * data.draw(st.integers(0, 1)) for message in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = MessageDecoder()
    got = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)]):
        got += decoder.feed(stream[start:end])
    assert got == sent


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_garbage_is_decoded_or_refused(pieces: list[bytes]) -> None:
    for decoder in (MsgAppDecoder(LOCAL, REMOTE, 1000), MessageDecoder(1000), EnvelopeDecoder(1000)):
        try:
            for piece in pieces:
                decoder.feed(piece)
                if isinstance(decoder, EnvelopeDecoder):
                    break
        except StreamCorrupt:
            continue


@settings(max_examples=100)
@given(appends(), st.data())
def test_flipped_bytes_are_decoded_or_refused(sent: list[Message], data: st.DataObject) -> None:
    encoder = MsgAppEncoder(SharedEntries())
    stream = bytearray(b"".join(encoder.encode(message) for message in sent) or b"\x00")
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    decoder = MsgAppDecoder(LOCAL, REMOTE)
    try:
        decoder.feed(bytes(stream))
    except StreamCorrupt:
        return
