"""raftpb bytes: golden samples as etcd writes them, and generated protobuf code as the oracle."""

import pytest

from ratifyd.proto import raft_pb2
from ratifyd.raft import codec
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

BIG = 2**64 - 1
CONF_STATE = ConfState((1, 2, BIG), (4,), (1, 2, 3), (3,), True)
ENTRIES = [
    Entry(2, 4),
    Entry(2, 127, b"x"),
    Entry(2, 128, b"y" * 127),
    Entry(3, 16_384, b"z" * 128),
    Entry(BIG, BIG, b"\0" * 70_000, EntryKind.CONF_CHANGE_V2),
    Entry(0, 0, b"proposal"),
]
MESSAGES = [
    Message(MessageKind.HEARTBEAT),
    Message(MessageKind.APP, 2, 1, 3, 3, 154, ENTRIES, 154),
    Message(MessageKind.APP_RESP, 1, 2, 3, 2, 9, (), 0, None, True, 7),
    Message(MessageKind.VOTE, 3, BIG, 5, 4, 10, context=b"CampaignTransfer"),
    Message(MessageKind.SNAP, 3, 1, 5, snapshot=Snapshot(SnapshotMeta(300, 4, CONF_STATE), b"data" * 100)),
    Message(MessageKind.READ_INDEX_RESP, 3, 1, 5, index=12, entries=[Entry(0, 0, b"12345678")]),
]


def test_golden_entry_of_a_new_leader() -> None:
    assert codec.encode_entry(Entry(2, 4)) == bytes.fromhex("080010021804")


def test_golden_hard_state() -> None:
    assert codec.encode_hard_state(HardState(1, 0, 3)) == bytes.fromhex("080110001803")


def test_golden_link_heartbeat_is_thirty_bytes_with_an_empty_snapshot() -> None:
    encoded = codec.encode_message(Message(MessageKind.HEARTBEAT))
    assert encoded.hex() == "0808100018002000280030004000" + "4a0a12080a02280010001800" + "50005800"
    assert len(encoded) == 30


def test_golden_conf_state_is_unpacked() -> None:
    assert codec.encode_conf_state(ConfState((1, 2, 3))) == bytes.fromhex("0801080208032800")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.index}")
def test_protobuf_reads_our_entries(entry: Entry) -> None:
    parsed = raft_pb2.Entry.FromString(codec.encode_entry(entry))
    assert (parsed.Type, parsed.Term, parsed.Index, parsed.Data) == (entry.kind, entry.term, entry.index, entry.data)
    assert all(parsed.HasField(name) for name in ("Type", "Term", "Index"))
    assert parsed.HasField("Data") == bool(entry.data)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.kind.name)
def test_protobuf_reads_our_messages_and_writes_the_same_bytes(message: Message) -> None:
    encoded = codec.encode_message(message)
    parsed = raft_pb2.Message.FromString(encoded)
    assert parsed.SerializeToString() == encoded
    numbers = (parsed.type, parsed.to, getattr(parsed, "from"), parsed.term, parsed.logTerm, parsed.index)
    assert numbers == (message.kind, message.to, message.sender, message.term, message.log_term, message.index)
    assert (parsed.commit, parsed.reject, parsed.rejectHint) == (message.commit, message.reject, message.reject_hint)
    assert parsed.context == message.context
    assert [(e.Term, e.Index, e.Data) for e in parsed.entries] == [(e.term, e.index, e.data) for e in message.entries]


def test_protobuf_reads_our_snapshot() -> None:
    snapshot = MESSAGES[4].snapshot
    assert snapshot is not None
    parsed = raft_pb2.Snapshot.FromString(codec.encode_snapshot(snapshot))
    state = parsed.metadata.conf_state
    assert (parsed.data, parsed.metadata.index, parsed.metadata.term) == (b"data" * 100, 300, 4)
    assert (tuple(state.voters), tuple(state.learners)) == ((1, 2, BIG), (4,))
    assert (tuple(state.voters_outgoing), tuple(state.learners_next), state.auto_leave) == ((1, 2, 3), (3,), True)


def test_messages_with_unset_fields_left_out_read_the_same() -> None:
    """The form of etcd 3.7 and later."""
    sparse = raft_pb2.Message(type=raft_pb2.MsgAppResp, to=1, term=7, index=3)
    assert codec.decode_message(sparse.SerializeToString()) == Message(
        MessageKind.APP_RESP, to=1, term=7, index=3, entries=[]
    )
    entry = raft_pb2.Entry(Term=5)
    assert codec.decode_entry(entry.SerializeToString()) == Entry(5, 0)
    assert codec.decode_entry(b"") == Entry(0, 0)


def test_messages_of_etcd_36_with_vote_and_responses_are_read() -> None:
    parsed = raft_pb2.Message.FromString(codec.encode_message(MESSAGES[1]))
    parsed.vote = 9
    parsed.responses.add(type=raft_pb2.MsgAppResp)
    assert codec.decode_message(parsed.SerializeToString()) == MESSAGES[1]


def test_fields_in_any_order_and_unknown_fields_are_read() -> None:
    unknown = b"\xf8\x01\x05" + b"\xfa\x01\x02hi" + b"\xfd\x01\0\0\0\0" + b"\xf9\x01" + b"\0" * 8
    assert codec.decode_entry(b"\x22\x01d" + unknown + b"\x18\x09\x10\x02") == Entry(2, 9, b"d")
    assert codec.decode_hard_state(unknown + b"\x18\x03\x08\x01") == HardState(1, 0, 3)


def test_packed_ids_are_read() -> None:
    assert codec.decode_conf_state(b"\x0a\x03\x01\x02\x03\x12\x02\x80\x01") == ConfState((1, 2, 3), (128,))


@pytest.mark.parametrize(
    "change",
    [
        ConfChange(ConfChangeKind.ADD_NODE, BIG, b'{"id":1}', 77),
        ConfChange(ConfChangeKind.REMOVE_NODE, 3),
        ConfChangeV2(),
        ConfChangeV2(
            (
                ConfChangeSingle(ConfChangeKind.ADD_LEARNER_NODE, BIG),
                ConfChangeSingle(ConfChangeKind.UPDATE_NODE, 2),
            ),
            ConfChangeTransition.JOINT_EXPLICIT,
            b"why",
        ),
    ],
)
def test_protobuf_writes_the_same_configuration_changes(change: ConfChange | ConfChangeV2) -> None:
    kind, data = codec.entry_of_change(change)
    if isinstance(change, ConfChange):
        assert kind is EntryKind.CONF_CHANGE
        old = raft_pb2.ConfChange.FromString(data)
        assert old.SerializeToString() == data
        assert (old.id, old.type, old.node_id, old.context) == (change.id, change.kind, change.node_id, change.context)
    else:
        assert kind is EntryKind.CONF_CHANGE_V2
        new = raft_pb2.ConfChangeV2.FromString(data)
        assert new.SerializeToString() == data
        assert [(c.type, c.node_id) for c in new.changes] == [(c.kind, c.node_id) for c in change.changes]
        assert (new.transition, new.context) == (change.transition, change.context)
    assert codec.change_of_entry(Entry(1, 1, data, kind)) == change


def test_an_entry_without_data_leaves_the_joint_configuration() -> None:
    assert codec.change_of_entry(Entry(1, 1, b"", EntryKind.CONF_CHANGE_V2)) == ConfChangeV2()


@pytest.mark.parametrize(
    "broken",
    [
        "08",
        "0880",
        "08ffffffffffffffffffff01",
        "2205",
        "22056869",
        "0b",
        "0002",
        "3d0000",
        "0803",
        "080310011801",
    ],
)
def test_broken_entries_are_refused(broken: str) -> None:
    with pytest.raises(codec.DecodeError):
        codec.decode_entry(bytes.fromhex(broken))


def test_message_types_of_the_future_are_refused() -> None:
    with pytest.raises(codec.DecodeError, match="message type 23"):
        codec.decode_message(b"\x08\x17")


def test_an_entry_cut_at_any_byte_never_reads_as_the_whole() -> None:
    whole = codec.encode_entry(Entry(300, 70_000, b"payload", EntryKind.CONF_CHANGE))
    for size in range(len(whole)):
        try:
            assert codec.decode_entry(whole[:size]) != codec.decode_entry(whole)
        except codec.DecodeError:
            continue
