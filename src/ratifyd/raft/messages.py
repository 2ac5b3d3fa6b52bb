"""The nouns of raft: entries, messages and states, as slotted objects named after raftpb's fields.

`Entry` and `Message` are plain slotted objects for speed; treat every one of them as immutable once it was handed to,
or received from, another room. Absent and zero are the same thing here, as they are to raft. Bytes are `codec`'s
business.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class EntryKind(IntEnum):
    """raftpb.EntryType."""

    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2


class MessageKind(IntEnum):
    """raftpb.MessageType, without the types that only ever travel inside one etcd process."""

    HUP = 0
    BEAT = 1
    PROP = 2
    APP = 3
    APP_RESP = 4
    VOTE = 5
    VOTE_RESP = 6
    SNAP = 7
    HEARTBEAT = 8
    HEARTBEAT_RESP = 9
    UNREACHABLE = 10
    SNAP_STATUS = 11
    CHECK_QUORUM = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESP = 16
    PRE_VOTE = 17
    PRE_VOTE_RESP = 18


class ConfChangeKind(IntEnum):
    """raftpb.ConfChangeType."""

    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER_NODE = 3


class ConfChangeTransition(IntEnum):
    """raftpb.ConfChangeTransition: how a change of several members uses joint consensus."""

    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2


@dataclass(slots=True)
class Entry:
    """One log entry. An empty normal entry is a new leader's no-op."""

    term: int
    index: int
    data: bytes = b""
    kind: EntryKind = EntryKind.NORMAL


class HardState(NamedTuple):
    """What a member must remember across restarts besides its log."""

    term: int = 0
    vote: int = 0
    commit: int = 0


@dataclass(slots=True, frozen=True)
class ConfState:
    """A membership configuration; joint while `voters_outgoing` is not empty. Ids ascend within each tuple."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


@dataclass(slots=True, frozen=True)
class SnapshotMeta:
    """The point of the log a snapshot stands for; index 0 means no snapshot."""

    index: int = 0
    term: int = 0
    conf_state: ConfState = ConfState()


@dataclass(slots=True, frozen=True)
class Snapshot:
    """A snapshot as it travels in a message; `data` is the application's."""

    meta: SnapshotMeta
    data: bytes = b""


@dataclass(slots=True)
class Message:
    """raftpb.Message; `sender` is its `from` field. Which fields mean something depends on `kind`."""

    kind: MessageKind
    to: int = 0
    sender: int = 0
    term: int = 0
    log_term: int = 0
    index: int = 0
    entries: Sequence[Entry] = ()
    commit: int = 0
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: int = 0
    context: bytes = b""


@dataclass(slots=True, frozen=True)
class ConfChange:
    """A change of one member (raftpb.ConfChange); `id` is the request id etcd threads through."""

    kind: ConfChangeKind
    node_id: int
    context: bytes = b""
    id: int = 0


@dataclass(slots=True, frozen=True)
class ConfChangeSingle:
    """One step of a `ConfChangeV2`."""

    kind: ConfChangeKind
    node_id: int


@dataclass(slots=True, frozen=True)
class ConfChangeV2:
    """Several changes as one (raftpb.ConfChangeV2); without changes and transition it leaves a joint configuration."""

    changes: tuple[ConfChangeSingle, ...] = ()
    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    context: bytes = b""


AnyConfChange = ConfChange | ConfChangeV2


@dataclass(slots=True, frozen=True)
class ReadState:
    """Answer to a read request: state applied up to `index` may serve it."""

    index: int
    context: bytes
