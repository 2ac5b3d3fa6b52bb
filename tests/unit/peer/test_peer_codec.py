"""Bytes of the streams: known examples, cuts, limits, and what is refused."""

import pytest

from ratifyd.peer.codec import (
    ENVELOPE_LIMIT,
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
from ratifyd.raft.codec import encode_entry, encode_message
from ratifyd.raft.messages import Entry, EntryKind, Message, MessageKind, Snapshot, SnapshotMeta


def u64(value: int) -> bytes:
    return value.to_bytes(8)


def app(index: int, *entries: Entry, term: int = 3, log_term: int = 3, commit: int = 0) -> Message:
    return Message(MessageKind.APP, 2, 1, term, log_term, index, list(entries), commit)


def entry(index: int, data: bytes = b"x", term: int = 3, kind: EntryKind = EntryKind.NORMAL) -> Entry:
    return Entry(term, index, data, kind)


def test_link_heartbeats_have_the_bytes_etcd_sends() -> None:
    assert MSGAPP_HEARTBEAT == b"\x00"
    body = bytes.fromhex("08081000180020002800300040004a0a12080a0228001000180050005800")
    assert u64(30) + body == MESSAGE_HEARTBEAT


def test_link_heartbeats_are_not_delivered() -> None:
    assert MsgAppDecoder(2, 1).feed(MSGAPP_HEARTBEAT * 3) == []
    assert MessageDecoder().feed(MESSAGE_HEARTBEAT * 3) == []
    short = bytes.fromhex("0808")  # as a writer that leaves zeros out sends it
    assert MessageDecoder().feed(u64(len(short)) + short) == []


def test_first_append_is_a_whole_message_and_the_next_is_entries_alone() -> None:
    encoder = MsgAppEncoder(SharedEntries())
    first, second, third = app(10, entry(11)), app(11, entry(12), entry(13), commit=11), app(13, commit=13)
    whole = encode_message(first)
    assert encoder.encode(first) == b"\x02" + u64(len(whole)) + whole
    pieces = [encode_entry(each) for each in second.entries]
    assert encoder.encode(second) == (
        b"\x01" + u64(2) + u64(len(pieces[0])) + pieces[0] + u64(len(pieces[1])) + pieces[1] + u64(11)
    )
    assert encoder.encode(third) == b"\x01" + u64(0) + u64(13)


@pytest.mark.parametrize(
    "other",
    [
        app(12, entry(13)),  # a gap
        app(11, entry(12, term=4), term=4),  # a new term
        app(11, entry(12), log_term=2),  # the one before is of an older term
    ],
    ids=["gap", "term", "log term"],
)
def test_an_append_that_does_not_follow_is_a_whole_message(other: Message) -> None:
    encoder, decoder = MsgAppEncoder(SharedEntries()), MsgAppDecoder(2, 1)
    first = app(10, entry(11))
    data = encoder.encode(first)
    assert encoder.encode(other)[0] == 2
    encoder, decoder = MsgAppEncoder(SharedEntries()), MsgAppDecoder(2, 1)
    data = encoder.encode(first) + encoder.encode(other)
    assert decoder.feed(data) == [first, other]


def test_followers_share_the_encoded_entries() -> None:
    shared = SharedEntries()
    encoders = [MsgAppEncoder(shared) for _ in range(2)]
    for encoder in encoders:
        encoder.encode(app(10, entry(11)))
    follow = app(11, entry(12), entry(13))
    one, two = (encoder.encode(follow) for encoder in encoders)
    assert one == two
    # Same first and last index, another term: other entries.
    changed = [Entry(4, 12, b"new"), Entry(4, 13, b"newer")]
    encoded = shared.encode(changed)
    assert encode_entry(changed[0]) in encoded and encode_entry(changed[1]) in encoded


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 130, 131, 16383, 16384, 16385, 16386, 70_000])
@pytest.mark.parametrize("index", [0, 1, 126, 127, 128, 16382, 16384, (1 << 40) + 126])
def test_entries_of_all_lengths_and_indexes(size: int, index: int) -> None:
    decoder, encoder = MsgAppDecoder(2, 1), MsgAppEncoder(SharedEntries())
    sent = [
        app(index, entry(index + 1, b"a" * size)),
        app(index + 1, entry(index + 2, b"b" * size), entry(index + 3, b"c" * size)),
        app(index + 3, entry(index + 4, b"d" * size, kind=EntryKind.CONF_CHANGE), commit=1 << 50),
    ]
    data = b"".join(encoder.encode(message) for message in sent)
    assert decoder.feed(data) == sent


def test_entries_in_the_form_of_newer_writers() -> None:
    """Zero fields left out, and fields in another order."""
    decoder = MsgAppDecoder(2, 1)
    first = app(0, entry(1))
    whole = encode_message(first)
    sparse = bytes.fromhex("10031802") + b"\x22\x01y"
    backwards = b"\x22\x01z" + bytes.fromhex("180310030800")
    data = b"\x02" + u64(len(whole)) + whole + b"\x01" + u64(2)
    for piece in (sparse, backwards):
        data += u64(len(piece)) + piece
    assert decoder.feed(data + u64(2)) == [first, app(1, entry(2, b"y"), entry(3, b"z"), commit=2)]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x03", "unknown type 3"),
        (b"\x02" + u64(1 << 40), "over the limit"),
        (b"\x01" + u64(1) + u64(1 << 62), "over the limit"),
        (b"\x02" + u64(2) + b"\xff\xff", "broken message"),
        (b"\x01" + u64(1) + u64(2) + b"\xff\xff", "broken entry"),
        (b"\x01" + u64(1 << 63) + u64(0), "entry 0 of term 0 where 1 of 0 should be"),
        (b"\x01" + u64(1) + u64(13) + encode_entry(Entry(0, 9, b"data!")), "entry 9 of term 0 where 1 of 0"),
        (b"\x01" + u64(1) + u64(13) + encode_entry(Entry(3, 1, b"data!")), "entry 1 of term 3 where 1 of 0"),
    ],
)
def test_what_a_msgapp_stream_must_not_carry(data: bytes, text: str) -> None:
    with pytest.raises(StreamCorrupt, match=text):
        MsgAppDecoder(2, 1).feed(data)


def test_an_endless_record_of_entries_is_refused() -> None:
    decoder = MsgAppDecoder(2, 1, limit=1000)
    decoder.feed(b"\x01" + u64(1 << 60))
    with pytest.raises(StreamCorrupt, match="over the limit of 1000"):
        for index in range(1, 100):
            data = encode_entry(Entry(0, index, b"x" * 20))
            decoder.feed(u64(len(data)) + data)


def test_lengths_alone_take_no_memory() -> None:
    decoder = MsgAppDecoder(2, 1)
    assert decoder.feed(b"\x02" + u64(500 << 20)) == []
    assert decoder.feed(b"12345") == []


@pytest.mark.parametrize(
    ("data", "text"), [(u64((512 << 20) + 1), "over the limit"), (u64(3) + b"\x08\xff\xff", "broken message")]
)
def test_what_a_message_stream_must_not_carry(data: bytes, text: str) -> None:
    with pytest.raises(StreamCorrupt, match=text):
        MessageDecoder().feed(data)


def test_messages_in_pieces() -> None:
    sent = [
        Message(MessageKind.HEARTBEAT, 2, 1, 4, entries=[], commit=9),
        Message(MessageKind.APP_RESP, 1, 2, 4, 0, 300, []),
    ]
    data = frame_message(sent[0]) + MESSAGE_HEARTBEAT + frame_message(sent[1])
    for size in (1, 2, 7, 8, 9, 50, len(data)):
        decoder = MessageDecoder()
        got = [each for at in range(0, len(data), size) for each in decoder.feed(data[at : at + size])]
        assert got == sent


def test_envelope_of_a_snapshot() -> None:
    message = Message(MessageKind.SNAP, 2, 1, 4, entries=[], snapshot=Snapshot(SnapshotMeta(9, 4), b"v2"))
    data = frame_message(message)
    for cut in range(len(data)):
        decoder = EnvelopeDecoder()
        assert decoder.feed(data[:cut]) is None
        assert decoder.feed(data[cut:] + b"image") == (message, b"image")
    with pytest.raises(StreamCorrupt, match="limit exceeded"):
        EnvelopeDecoder().feed(u64(ENVELOPE_LIMIT + 1))
