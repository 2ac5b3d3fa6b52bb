"""What another member sends: raft's messages alone, and the three streams they come in."""

import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any
from zlib import crc32

from fuzzing.mutate import counted, plain, protobuf, typed_and_counted
from fuzzing.target import Run, Target
from ratifyd.peer.codec import (
    EnvelopeDecoder,
    MessageDecoder,
    MsgAppDecoder,
    MsgAppEncoder,
    SharedEntries,
    StreamCorrupt,
    frame_message,
)
from ratifyd.raft import codec
from ratifyd.raft.codec import DecodeError
from ratifyd.raft.messages import (
    ConfChange,
    ConfChangeKind,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    Snapshot,
    SnapshotMeta,
)

LOCAL, REMOTE = 1, 2


def _same(run: Run) -> Callable[[], Run]:
    return lambda: run


def messages(local: int = LOCAL, remote: int = REMOTE) -> list[Message]:
    """One or more of each kind, addressed to `local`."""
    random = Random("messages")
    found = []
    for kind in MessageKind:
        for _ in range(4):
            index = random.randrange(6)
            term = random.choice((0, 1, 2, 2, 3))
            count = random.choice((0, 1, 1, 3))
            entries = [Entry(max(term, 1), index + 1 + n, random.randbytes(n * 9)) for n in range(count)]
            if kind is MessageKind.PROP:
                entries = [Entry(0, 0, b"") for _ in entries]
            snapshot = None
            if kind is MessageKind.SNAP:
                snapshot = Snapshot(SnapshotMeta(9, 2, ConfState((local, remote))), b"data")
            context = random.choice((b"", bytes(8), b"CampaignTransfer"))
            found.append(
                Message(
                    kind,
                    local,
                    remote,
                    term,
                    random.randrange(3),
                    index,
                    entries,
                    random.randrange(4),
                    snapshot,
                    random.random() < 0.2,
                    random.randrange(5),
                    context,
                )
            )
    return found


CHANGES: tuple[ConfChange | ConfChangeV2, ...] = (
    ConfChange(ConfChangeKind.ADD_NODE, 7, b'{"id":7,"peerURLs":["http://a:1"],"isLearner":false}', 5),
    ConfChange(ConfChangeKind.ADD_LEARNER_NODE, 8, b'{"id":8,"peerURLs":["http://b:1"],"isLearner":true}', 6),
    ConfChange(ConfChangeKind.ADD_NODE, 8, b'{"id":8,"peerURLs":null,"isPromote":true}', 6),
    ConfChange(ConfChangeKind.UPDATE_NODE, 7, b'{"id":7,"peerURLs":["http://c:1"],"name":"x"}', 7),
    ConfChange(ConfChangeKind.REMOVE_NODE, 7, b"", 8),
    ConfChangeV2(
        (ConfChangeSingle(ConfChangeKind.ADD_NODE, 7), ConfChangeSingle(ConfChangeKind.REMOVE_NODE, 2)),
        ConfChangeTransition.JOINT_EXPLICIT,
        b"context",
    ),
    ConfChangeV2(),
)

_CODECS: tuple[tuple[Callable[[Any], bytes], Callable[[bytes], Any]], ...] = (
    (codec.encode_message, codec.decode_message),
    (codec.encode_entry, codec.decode_entry),
    (codec.encode_hard_state, codec.decode_hard_state),
    (codec.encode_conf_state, codec.decode_conf_state),
    (codec.encode_snapshot, codec.decode_snapshot),
    (codec.encode_conf_change, codec.decode_conf_change),
    (codec.encode_conf_change_v2, codec.decode_conf_change_v2),
)


def _codec_seeds() -> list[bytes]:
    things: list[tuple[int, Any]] = [(0, message) for message in messages()]
    things += [(1, Entry(3, 300, b"x" * 300)), (1, Entry(1, 2, b"y", EntryKind.CONF_CHANGE_V2))]
    things += [(2, HardState(3, 2, 1)), (3, ConfState((1, 2), (3,), (4,), (5,), True))]
    things += [(4, Snapshot(SnapshotMeta(3, 4, ConfState((1,))), b"data"))]
    things += [(5 if isinstance(change, ConfChange) else 6, change) for change in CHANGES]
    return [bytes((number,)) + _CODECS[number][0](thing) for number, thing in things]


def _codec(data: bytes) -> None:
    """Bytes read by the codec the first of them names; what is read can be written and is then read the same."""
    if data:
        encode, decode = _CODECS[data[0] % len(_CODECS)]
        thing = decode(data[1:])
        assert decode(encode(thing)) == thing, "written, it is something else"


def _stream(make: Callable[[], MessageDecoder | MsgAppDecoder]) -> Run:
    """A stream in pieces of any size says what it says in one; nothing it says breaks the rules of a log.

    What came in the same read as something broken is lost with it.
    """

    def run(data: bytes) -> None:
        whole = _outcome(make(), [data])
        random = Random(crc32(data))
        cuts = sorted(random.randrange(len(data) + 1) for _ in range(3))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)])]
        found = _outcome(make(), pieces)
        assert found[1] == whole[1], "cut in pieces, it breaks elsewhere"
        assert found[0] == whole[0] or whole[1], "cut in pieces, it is something else"
        for message in whole[0]:
            if message.kind is MessageKind.APP:
                _check_append(message)
        if whole[1]:
            raise StreamCorrupt

    return run


def _outcome(decoder: MessageDecoder | MsgAppDecoder, pieces: Sequence[bytes]) -> tuple[list[Message], bool]:
    found: list[Message] = []
    for piece in pieces:
        try:
            found += decoder.feed(piece)
        except StreamCorrupt:
            return found, True
    return found, False


def _check_append(message: Message) -> None:
    term = message.log_term
    for index, entry in enumerate(message.entries, message.index + 1):
        assert entry.index == index, "entries do not follow each other"
        assert term <= entry.term <= message.term, "terms go back, or ahead of the sender's"
        term = entry.term


def _appends() -> list[bytes]:
    found = []
    for count in (1, 3):
        encoder = MsgAppEncoder(SharedEntries())
        index, pieces = 5, []
        for number in range(4):
            entries = [Entry(2, index + 1 + n, bytes(n * 40 + number)) for n in range(count * (number % 2 + 1))]
            pieces.append(encoder.encode(Message(MessageKind.APP, LOCAL, REMOTE, 2, 2, index, entries, index)))
            index += len(entries)
        found += [b"".join(pieces), b"\0" + b"\0".join(pieces), pieces[0]]
    return found


def _envelope(data: bytes) -> None:
    decoder = EnvelopeDecoder()
    for at in range(0, len(data), 7):
        if decoder.feed(data[at : at + 7]) is not None:
            return


def _message_streams() -> list[bytes]:
    each = [frame_message(message) for message in messages()]
    return [*each, b"".join(each), b"".join(each[:9]), struct.pack(">Q", 1 << 40)]


TARGETS = (
    Target("raft_codec", _codec_seeds, _same(_codec), (DecodeError,), (plain, protobuf), sample=5000),
    Target(
        "msgapp",
        _appends,
        lambda: _stream(lambda: MsgAppDecoder(LOCAL, REMOTE)),
        (StreamCorrupt,),
        (plain, typed_and_counted, typed_and_counted),
        sample=3000,
    ),
    Target(
        "message_stream",
        _message_streams,
        lambda: _stream(MessageDecoder),
        (StreamCorrupt,),
        (plain, counted, counted),
        sample=1500,
    ),
    Target("envelope", _message_streams, _same(_envelope), (StreamCorrupt,), (plain, counted), sample=2000),
)
