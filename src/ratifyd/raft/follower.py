"""What a follower does: take the leader's entries, heartbeats and snapshots, and pass requests on to it.

Answers to appends and snapshots leave after the append: they let the leader count this member towards a quorum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ratifyd.raft import confchange
from ratifyd.raft.codec import entry_of_change
from ratifyd.raft.messages import AnyConfChange, Entry, Message, MessageKind, ReadState, Snapshot

if TYPE_CHECKING:
    from ratifyd.raft.core import Raft


def conf_change_entry(change: AnyConfChange) -> Entry:
    """Return the entry that carries a change, without term and index."""
    kind, data = entry_of_change(change)
    return Entry(0, 0, data, kind)


def forward_read(raft: Raft, request: Message) -> None:
    """Pass a read request on to the leader, keeping its origin."""
    raft.messages.append(
        Message(MessageKind.READ_INDEX, to=raft.leader_id, sender=request.sender or raft.id, entries=request.entries)
    )


def _hear_leader(raft: Raft, message: Message) -> None:
    raft.election_elapsed = 0
    raft.leader_id = message.sender


def _append(raft: Raft, message: Message) -> None:
    _hear_leader(raft, message)
    log = raft.log
    entries = message.entries
    last_new = message.index + len(entries)
    if entries and (entries[0].index != message.index + 1 or entries[-1].index != last_new):
        raft.tracer.mark("raft.append_malformed", member=raft.id, sender=message.sender)
        return
    if message.index < log.committed:
        raft.send_after_append(Message(MessageKind.APP_RESP, to=message.sender, index=log.committed))
        return
    if not log.matches(message.index, message.log_term):
        _reject(raft, message)
        return
    position = log.first_conflict(entries)
    if position < len(entries):
        log.append(entries[position:] if position else entries)
    log.commit_to(min(message.commit, last_new))
    raft.send_after_append(Message(MessageKind.APP_RESP, to=message.sender, index=last_new))


def _reject(raft: Raft, message: Message) -> None:
    hint, hint_term = raft.log.conflict_hint(min(message.index, raft.log.last_index), message.log_term)
    raft.send_after_append(
        Message(
            MessageKind.APP_RESP,
            to=message.sender,
            index=message.index,
            reject=True,
            reject_hint=hint,
            log_term=hint_term,
        )
    )


def _heartbeat(raft: Raft, message: Message) -> None:
    _hear_leader(raft, message)
    raft.log.commit_to(message.commit)
    raft.send(Message(MessageKind.HEARTBEAT_RESP, to=message.sender, context=message.context))


def _snapshot(raft: Raft, message: Message) -> None:
    _hear_leader(raft, message)
    if message.snapshot is not None and _restores(raft, message.snapshot):
        raft.restore(message.snapshot)
        raft.tracer.mark("raft.snapshot_restored", member=raft.id, index=raft.log.last_index)
    raft.send_after_append(Message(MessageKind.APP_RESP, to=message.sender, index=raft.log.committed))


def _restores(raft: Raft, snapshot: Snapshot) -> bool:
    """Whether the snapshot must replace the log; one that the log already contains only moves the commit index."""
    meta = snapshot.meta
    if meta.index <= raft.log.committed:
        return False
    state = meta.conf_state
    if raft.id not in (*state.voters, *state.learners, *state.voters_outgoing):
        raft.tracer.mark("raft.snapshot_refused", member=raft.id, reason="not a member")
        return False
    if meta.term > raft.term or not confchange.is_possible(state):
        raft.tracer.mark("raft.snapshot_refused", member=raft.id, reason="impossible")
        return False
    if raft.log.matches(meta.index, meta.term):
        raft.log.commit_to(meta.index)
        return False
    return True


def _forward_proposal(raft: Raft, message: Message) -> None:
    if raft.leader_id and raft.options.forward_proposals:
        raft.messages.append(
            Message(MessageKind.PROP, to=raft.leader_id, sender=message.sender or raft.id, entries=message.entries)
        )


def _forward_read(raft: Raft, message: Message) -> None:
    if raft.leader_id:
        forward_read(raft, message)


def _read_answered(raft: Raft, message: Message) -> None:
    if len(message.entries) == 1:
        raft.read_states.append(ReadState(message.index, message.entries[0].data))


def _forward_transfer(raft: Raft, message: Message) -> None:
    if raft.leader_id:
        raft.messages.append(
            Message(MessageKind.TRANSFER_LEADER, to=raft.leader_id, sender=message.sender, term=raft.term)
        )


STEPS: Mapping[MessageKind, Callable[[Raft, Message], None]] = {
    MessageKind.PROP: _forward_proposal,
    MessageKind.APP: _append,
    MessageKind.HEARTBEAT: _heartbeat,
    MessageKind.SNAP: _snapshot,
    MessageKind.TRANSFER_LEADER: _forward_transfer,
    MessageKind.READ_INDEX: _forward_read,
    MessageKind.READ_INDEX_RESP: _read_answered,
}
