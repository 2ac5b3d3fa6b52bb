"""What a leader does: append, replicate, commit, confirm reads, hand over (Raft §5.3, §5.4.2, §8; thesis §3.10, §6.4).

Appends may leave before the leader's own copy is durable; its own copy counts towards the quorum only afterwards.
Only entries of the leader's own term are committed by counting (§5.4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ratifyd.raft import confchange
from ratifyd.raft.codec import DecodeError, change_of_entry, entry_of_change
from ratifyd.raft.log import payload_bytes
from ratifyd.raft.messages import (
    AnyConfChange,
    Entry,
    EntryKind,
    Message,
    MessageKind,
    ReadState,
    Snapshot,
)
from ratifyd.raft.progress import Progress, ProgressState
from ratifyd.raft.quorum import VoteResult, joint_committed_index, joint_vote_result
from ratifyd.raft.roles import Role

if TYPE_CHECKING:
    from ratifyd.raft.core import Raft


def take_office(raft: Raft) -> None:
    """Become leader and append the empty entry whose commit also commits everything before it."""
    raft.become(Role.LEADER, raft.term, raft.id)
    own = raft.progress[raft.id]
    own.become_replicate()
    own.recent_active = True
    # There may be a pending change anywhere in the log: none may follow before all of it is applied.
    raft.pending_conf_index = raft.log.last_index
    _append_new(raft, [Entry(raft.term, raft.log.last_index + 1)])


def tick(raft: Raft) -> None:
    """Let one tick pass; the caller has counted it in `election_elapsed`."""
    raft.heartbeat_elapsed += 1
    if raft.election_elapsed >= raft.election_ticks:
        raft.election_elapsed = 0
        if raft.check_quorum:
            _check_quorum(raft)
            if raft.role is not Role.LEADER:
                return
        if raft.transfer_target:
            raft.transfer_target = 0
            _maybe_leave_joint(raft)  # which the transfer may have held up
    if raft.heartbeat_elapsed >= raft.heartbeat_ticks:
        raft.heartbeat_elapsed = 0
        _broadcast_heartbeat(raft)


def propose(raft: Raft, datas: Sequence[bytes]) -> bool:
    """Append entries with these data and replicate them; see `Raft.propose`."""
    size_bytes = sum(map(len, datas))
    if not _may_append(raft, size_bytes):
        return False
    raft.log.append_new(raft.term, datas, size_bytes)
    if len(raft.progress) > 1:
        _broadcast_append(raft)
    return True


def propose_conf_change(raft: Raft, change: AnyConfChange) -> bool:
    """Append a configuration change and replicate it; see `Raft.propose_conf_change`."""
    kind, data = entry_of_change(change)
    index = raft.log.last_index + 1
    if _conf_change_obstacle(raft, change) is not None or not _may_append(raft, len(data)):
        return False
    raft.pending_conf_index = index
    _append_new(raft, [Entry(raft.term, index, data, kind)])
    return True


def read_index(raft: Raft, request: Message) -> None:
    """Answer a read request as soon as it is certain that this member still leads."""
    if len(request.entries) != 1:
        return
    if raft.log.term(raft.log.committed) != raft.term:
        # Until an entry of its own term is committed, a leader does not know what is (thesis §6.4).
        raft.postponed_reads.append(request)
    elif raft.is_singleton or raft.options.lease_reads:
        _answer_read(raft, request, raft.log.committed)
    else:
        raft.reads.add(request, raft.log.committed)
        raft.reads.acknowledge(raft.id, raft.reads.heartbeat_context())
        _broadcast_heartbeat(raft)


def own_entries_durable(raft: Raft) -> None:
    """Count the leader's own copy of what just became durable."""
    own = raft.progress.get(raft.id)
    if own is not None and own.maybe_update(raft.log.stable) and _maybe_commit(raft):
        _commit_advanced(raft)


def entries_applied(raft: Raft, entries: Sequence[Entry]) -> None:
    """Release the quota of applied entries, and leave a joint configuration if it is time to."""
    log = raft.log
    if log.applied == log.last_index:
        raft.uncommitted_bytes = 0
    else:
        # Entries of earlier terms were never counted, hence the floor.
        raft.uncommitted_bytes = max(0, raft.uncommitted_bytes - payload_bytes(entries))
    _maybe_leave_joint(raft)


def configuration_changed(raft: Raft) -> None:
    """React to a new configuration being in force."""
    if raft.id not in raft.progress or raft.is_learner:
        if raft.options.step_down_on_removal:
            raft.become(Role.FOLLOWER, raft.term)
        return
    if _maybe_commit(raft):
        _commit_advanced(raft)
    else:
        for member in raft.progress:
            if member != raft.id:
                _maybe_send_append(raft, member, send_if_empty=False)
    _answer_confirmed_reads(raft)
    if raft.transfer_target and raft.transfer_target not in raft.config.all_voters:
        raft.transfer_target = 0


def unreachable(raft: Raft, member: int) -> None:
    """Stop sending ahead: an append is probably lost."""
    progress = raft.progress[member]
    if progress.state is ProgressState.REPLICATE:
        progress.become_probe()


def snapshot_ended(raft: Raft, member: int, ok: bool) -> None:
    """Probe again after a snapshot, from its end or from where the member was before."""
    progress = raft.progress[member]
    if progress.state is not ProgressState.SNAPSHOT:
        return
    if not ok:
        progress.pending_snapshot = 0
    progress.become_probe()
    # Wait for the member's answer, or after a failure for its next heartbeat, before the next append.
    progress.paused = True


def snapshot_message(raft: Raft, member: int, snapshot: Snapshot) -> Message | None:
    """Return the message with the snapshot a member waits for, noting its true index; None if it does not wait."""
    progress = raft.progress[member]
    if progress.state is not ProgressState.SNAPSHOT:
        return None
    progress.become_snapshot(snapshot.meta.index)
    return Message(MessageKind.SNAP, to=member, sender=raft.id, term=raft.term, snapshot=snapshot)


def _maybe_leave_joint(raft: Raft) -> None:
    """Propose the end of an automatic joint configuration once the entry that began it is applied."""
    log = raft.log
    if raft.config.auto_leave and log.applied >= raft.pending_conf_index and _may_append(raft, 0):
        raft.pending_conf_index = log.last_index + 1
        _append_new(raft, [Entry(raft.term, raft.pending_conf_index, b"", EntryKind.CONF_CHANGE_V2)])


def _check_quorum(raft: Raft) -> None:
    active = {
        member: progress.recent_active
        for member, progress in raft.progress.items()
        if member not in raft.config.learners
    }
    if joint_vote_result(raft.config.voters, raft.config.outgoing, active) is not VoteResult.WON:
        raft.tracer.mark("raft.quorum_lost", member=raft.id, term=raft.term)
        raft.become(Role.FOLLOWER, raft.term)
    for member, progress in raft.progress.items():
        if member != raft.id:
            progress.recent_active = False


def _may_append(raft: Raft, size_bytes: int) -> bool:
    uncommitted = raft.uncommitted_bytes
    if raft.id not in raft.progress:
        reason = "removed"
    elif raft.transfer_target:
        reason = "leader transfer"
    elif size_bytes and uncommitted > 0 and 0 < raft.max_uncommitted_bytes < uncommitted + size_bytes:
        reason = "too much uncommitted"
    else:
        raft.uncommitted_bytes = uncommitted + size_bytes
        return True
    raft.tracer.mark("raft.proposal_dropped", member=raft.id, reason=reason)
    return False


def _append_new(raft: Raft, entries: list[Entry]) -> None:
    raft.log.append(entries)
    if len(raft.progress) > 1:
        _broadcast_append(raft)


def _conf_change_obstacle(raft: Raft, change: AnyConfChange) -> str | None:
    leaves_joint = confchange.leaves_joint(confchange.as_v2(change))
    obstacle = None
    if raft.pending_conf_index > raft.log.applied:
        obstacle = "another change may be pending"
    elif raft.config.is_joint and not leaves_joint:
        obstacle = "the joint configuration must be left first"
    elif not raft.config.is_joint and leaves_joint:
        obstacle = "there is no joint configuration to leave"
    if obstacle is None or not raft.options.validate_conf_changes:
        return None
    raft.tracer.mark("raft.conf_change_refused", member=raft.id, reason=obstacle)
    return obstacle


def _proposal_forwarded(raft: Raft, message: Message) -> None:
    """Append what a follower passed on; changes that may not be are replaced by empty entries."""
    if not message.entries or not _may_append(raft, payload_bytes(message.entries)):
        return
    entries = []
    for index, entry in enumerate(message.entries, raft.log.last_index + 1):
        kind, data = entry.kind, entry.data
        if kind is not EntryKind.NORMAL:
            if _may_change(raft, entry):
                raft.pending_conf_index = index
            else:
                kind, data = EntryKind.NORMAL, b""
        entries.append(Entry(raft.term, index, data, kind))
    _append_new(raft, entries)


def _may_change(raft: Raft, entry: Entry) -> bool:
    try:
        return _conf_change_obstacle(raft, change_of_entry(entry)) is None
    except DecodeError:
        return False


def _broadcast_append(raft: Raft) -> None:
    for member in raft.progress:
        if member != raft.id:
            _maybe_send_append(raft, member, send_if_empty=True)


def _maybe_send_append(raft: Raft, member: int, *, send_if_empty: bool) -> bool:
    """Send the next entries, or the commit index alone, or call for a snapshot; False if nothing was sent."""
    progress = raft.progress[member]
    if progress.is_paused:
        return False
    log = raft.log
    previous = progress.next_index - 1
    previous_term = log.term(previous)
    if previous_term is None:
        return _maybe_want_snapshot(raft, member, progress)
    entries: list[Entry] = []
    size_bytes = 0
    # A full window still lets empty appends through: their answers tell if the messages in flight were lost.
    if progress.next_index <= log.last_index and not (progress.state is ProgressState.REPLICATE and progress.is_full):
        entries, size_bytes = log.slice_from(progress.next_index, raft.max_message_bytes)
    if not entries and not send_if_empty:
        return False
    raft.messages.append(
        Message(MessageKind.APP, member, raft.id, raft.term, previous_term, previous, entries, log.committed)
    )
    progress.sent_entries(len(entries), size_bytes)
    progress.sent_commit = log.committed
    return True


def _maybe_want_snapshot(raft: Raft, member: int, progress: Progress) -> bool:
    if not progress.recent_active:
        return False
    progress.become_snapshot(raft.log.applied)
    raft.snapshots_wanted.append(member)
    raft.tracer.mark("raft.snapshot_wanted", member=raft.id, follower=member)
    return True


def _broadcast_heartbeat(raft: Raft) -> None:
    context = raft.reads.heartbeat_context()
    for member, progress in raft.progress.items():
        if member != raft.id:
            # Never more than the member is known to have: it could not tell a wrong entry from a committed one.
            commit = min(progress.match, raft.log.committed)
            raft.send(Message(MessageKind.HEARTBEAT, to=member, commit=commit, context=context))
            progress.sent_commit = commit


def _maybe_commit(raft: Raft) -> bool:
    if len(raft.progress) == 1:
        (only,) = raft.progress.values()
        index = only.match
    else:
        matches = {member: progress.match for member, progress in raft.progress.items()}
        index = joint_committed_index(raft.config.voters, raft.config.outgoing, matches)
    if index > raft.log.committed and raft.log.term(index) == raft.term:
        raft.log.commit_to(index)
        return True
    return False


def _commit_advanced(raft: Raft) -> None:
    if raft.postponed_reads:
        requests, raft.postponed_reads = raft.postponed_reads, []
        for request in requests:
            read_index(raft, request)
    if len(raft.progress) > 1:
        _broadcast_append(raft)


def _append_answered(raft: Raft, message: Message) -> None:
    progress = raft.progress.get(message.sender)
    if progress is None:
        return
    progress.recent_active = True
    if message.reject:
        _append_rejected(raft, message, progress)
        return
    index = message.index
    if not progress.maybe_update(index) and not (
        # An acknowledgement without news still proves that a probed member is back.
        progress.match == index and progress.state is ProgressState.PROBE
    ):
        return
    if progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.state is ProgressState.REPLICATE:
        progress.free_inflight(index)
    elif progress.match + 1 >= raft.log.first_index:
        # Whatever snapshot it was, the member can be served from the log again.
        progress.become_probe()
        progress.become_replicate()
    if _maybe_commit(raft):
        _commit_advanced(raft)
    elif progress.can_bump_commit(raft.log.committed):
        _maybe_send_append(raft, message.sender, send_if_empty=True)
    while _maybe_send_append(raft, message.sender, send_if_empty=False):
        pass
    if message.sender == raft.transfer_target and progress.match == raft.log.last_index:
        raft.send(Message(MessageKind.TIMEOUT_NOW, to=message.sender))


def _append_rejected(raft: Raft, message: Message, progress: Progress) -> None:
    hint = message.reject_hint
    if message.log_term > 0:
        # Entries of ours above the member's term at the hint cannot be in its log: skip them.
        hint, _ = raft.log.conflict_hint(hint, message.log_term)
    if progress.maybe_decrease(message.index, hint):
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        _maybe_send_append(raft, message.sender, send_if_empty=True)


def _heartbeat_answered(raft: Raft, message: Message) -> None:
    progress = raft.progress.get(message.sender)
    if progress is None:
        return
    progress.recent_active = True
    progress.paused = False
    if progress.match < raft.log.last_index or progress.state is ProgressState.PROBE:
        _maybe_send_append(raft, message.sender, send_if_empty=True)
    if message.context:
        raft.reads.acknowledge(message.sender, message.context)
        _answer_confirmed_reads(raft)


def _answer_confirmed_reads(raft: Raft) -> None:
    for request, index in raft.reads.take_confirmed(raft.config.voters, raft.config.outgoing):
        _answer_read(raft, request, index)


def _answer_read(raft: Raft, request: Message, index: int) -> None:
    if not request.sender or request.sender == raft.id:
        raft.read_states.append(ReadState(index, request.entries[0].data))
    else:
        answer = Message(MessageKind.READ_INDEX_RESP, to=request.sender, index=index, entries=request.entries)
        raft.send(answer)


def _transfer_requested(raft: Raft, message: Message) -> None:
    target = message.sender
    progress = raft.progress.get(target)
    if progress is None or target in raft.config.learners or target == raft.transfer_target:
        return
    raft.transfer_target = 0
    if target == raft.id:
        return
    raft.election_elapsed = 0  # the transfer has one election timeout
    raft.transfer_target = target
    if progress.match == raft.log.last_index:
        raft.send(Message(MessageKind.TIMEOUT_NOW, to=target))
    else:
        _maybe_send_append(raft, target, send_if_empty=True)


STEPS: Mapping[MessageKind, Callable[[Raft, Message], None]] = {
    MessageKind.PROP: _proposal_forwarded,
    MessageKind.READ_INDEX: read_index,
    MessageKind.APP_RESP: _append_answered,
    MessageKind.HEARTBEAT_RESP: _heartbeat_answered,
    MessageKind.TRANSFER_LEADER: _transfer_requested,
}
