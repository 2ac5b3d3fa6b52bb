"""Elections (Raft §5.2, §5.4.1; thesis §4.2.3 leases, §9.6 pre-vote): terms, votes and candidates.

A vote binds only once it is durable, so vote answers and the requests of a candidate, whose own vote is implied, leave
after the append. A pre-vote promises nothing: it changes neither term nor vote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ratifyd.raft import follower, leader
from ratifyd.raft.messages import Message, MessageKind
from ratifyd.raft.quorum import VoteResult, joint_vote_result
from ratifyd.raft.roles import Role

if TYPE_CHECKING:
    from ratifyd.raft.core import Raft

TRANSFER_CONTEXT = b"CampaignTransfer"
"""Marks a vote request made at the leader's own wish; it overrides leases."""

MAX_TERMS_AHEAD = 1 << 32
"""Whoever is further ahead than elections could have taken anybody is broken, and would soon use up all terms."""

_RESPONSES = {MessageKind.VOTE: MessageKind.VOTE_RESP, MessageKind.PRE_VOTE: MessageKind.PRE_VOTE_RESP}
_FROM_LEADER = frozenset({MessageKind.APP, MessageKind.HEARTBEAT, MessageKind.SNAP})


def start(raft: Raft, *, transfer: bool = False) -> None:
    """Start an election unless this member leads, may not, or has committed membership changes yet to apply."""
    if raft.role is Role.LEADER or not raft.is_promotable:
        return
    if raft.log.has_conf_change(raft.log.applied, raft.log.committed):
        raft.tracer.mark("raft.campaign_refused", member=raft.id, reason="unapplied conf change")
        return
    if raft.pre_vote and not transfer:
        _campaign_pre_vote(raft)
    else:
        _campaign(raft, TRANSFER_CONTEXT if transfer else b"")


def accept_higher_term(raft: Raft, message: Message) -> bool:
    """Follow a message into its higher term if its kind demands that; False if it must be ignored."""
    kind = message.kind
    if message.term - raft.term > MAX_TERMS_AHEAD and raft.term:
        raft.tracer.mark("raft.message_refused", member=raft.id, kind=kind.name, sender=message.sender)
        return False
    if kind is MessageKind.VOTE or kind is MessageKind.PRE_VOTE:
        in_lease = raft.check_quorum and raft.leader_id and raft.election_elapsed < raft.election_ticks
        if in_lease and message.context != TRANSFER_CONTEXT:
            raft.tracer.mark("raft.vote_ignored", member=raft.id, sender=message.sender, term=message.term)
            return False
    if kind is MessageKind.PRE_VOTE or (kind is MessageKind.PRE_VOTE_RESP and not message.reject):
        return True  # speaks of a term that does not exist yet
    raft.become(Role.FOLLOWER, message.term, message.sender if kind in _FROM_LEADER else 0)
    return True


def answer_lower_term(raft: Raft, message: Message) -> None:
    """Tell senders that are behind, where staying silent could leave one of us stuck."""
    kind = message.kind
    if kind is MessageKind.HEARTBEAT or kind is MessageKind.APP:
        if raft.check_quorum or raft.pre_vote or not raft.is_promotable:
            # A leader of an older term cannot learn of ours by vote requests if leases or pre-vote hold those back, or
            # if we may not campaign at all (where etcd stays silent, and the member behind for good).
            raft.send_after_append(Message(MessageKind.APP_RESP, to=message.sender))
    elif kind is MessageKind.PRE_VOTE:
        # Else a candidate from before pre-vote was switched on, ahead in term but behind in its log, could deadlock us.
        raft.send_after_append(Message(MessageKind.PRE_VOTE_RESP, to=message.sender, reject=True))


def vote_requested(raft: Raft, message: Message) -> None:
    """Answer a request for a vote or pre-vote."""
    kind, candidate = message.kind, message.sender
    can_vote = (
        raft.vote == candidate
        or (not raft.vote and not raft.leader_id)
        or (kind is MessageKind.PRE_VOTE and message.term > raft.term)
    )
    # Learners vote too: one may have been promoted without knowing it yet, and its vote may be needed.
    granted = can_vote and raft.log.is_up_to_date(message.index, message.log_term)
    # A granted pre-vote echoes the future term it was asked for, or the asker would ignore the answer as stale.
    answer = Message(
        _RESPONSES[kind], to=candidate, sender=raft.id, term=message.term if granted else raft.term, reject=not granted
    )
    raft.messages_after_append.append(answer)
    if granted and kind is MessageKind.VOTE:
        raft.election_elapsed = 0
        raft.vote = candidate


def _campaign_pre_vote(raft: Raft) -> None:
    raft.become(Role.PRE_CANDIDATE, raft.term)
    _count_vote(raft, raft.id, True)
    if raft.role is not Role.PRE_CANDIDATE:
        return
    for request in _vote_requests(raft, MessageKind.PRE_VOTE, raft.term + 1):
        raft.messages.append(request)


def _campaign(raft: Raft, context: bytes) -> None:
    raft.become(Role.CANDIDATE, raft.term + 1)
    raft.vote = raft.id
    raft.own_messages.append(Message(MessageKind.VOTE_RESP, to=raft.id, sender=raft.id, term=raft.term))
    for request in _vote_requests(raft, MessageKind.VOTE, raft.term):
        request.context = context
        raft.messages_after_append.append(request)


def _vote_requests(raft: Raft, kind: MessageKind, term: int) -> list[Message]:
    log = raft.log
    return [
        Message(kind, to=voter, sender=raft.id, term=term, log_term=log.last_term, index=log.last_index)
        for voter in sorted(raft.config.all_voters)
        if voter != raft.id
    ]


def _vote_answered(raft: Raft, message: Message) -> None:
    _count_vote(raft, message.sender, not message.reject)


def _count_vote(raft: Raft, voter: int, granted: bool) -> None:
    raft.votes.setdefault(voter, granted)
    result = joint_vote_result(raft.config.voters, raft.config.outgoing, raft.votes)
    if result is VoteResult.WON:
        if raft.role is Role.PRE_CANDIDATE:
            _campaign(raft, b"")
        else:
            leader.take_office(raft)
    elif result is VoteResult.LOST:
        raft.become(Role.FOLLOWER, raft.term)


def _leader_appeared(raft: Raft, message: Message) -> None:
    raft.become(Role.FOLLOWER, message.term, message.sender)
    follower.STEPS[message.kind](raft, message)


def _timeout_now(raft: Raft, _: Message) -> None:
    # No pre-vote: the leader itself asks, so nobody is being disrupted (thesis §3.10).
    start(raft, transfer=True)


STEPS: Mapping[MessageKind, Callable[[Raft, Message], None]] = {
    MessageKind.VOTE: vote_requested,
    MessageKind.PRE_VOTE: vote_requested,
}
"""What every role does."""

FOLLOWER_STEPS: Mapping[MessageKind, Callable[[Raft, Message], None]] = {
    MessageKind.TIMEOUT_NOW: _timeout_now,
}

PRE_CANDIDATE_STEPS: Mapping[MessageKind, Callable[[Raft, Message], None]] = {
    MessageKind.PRE_VOTE_RESP: _vote_answered,
    MessageKind.APP: _leader_appeared,
    MessageKind.HEARTBEAT: _leader_appeared,
    MessageKind.SNAP: _leader_appeared,
}

CANDIDATE_STEPS: Mapping[MessageKind, Callable[[Raft, Message], None]] = {
    MessageKind.VOTE_RESP: _vote_answered,
    MessageKind.APP: _leader_appeared,
    MessageKind.HEARTBEAT: _leader_appeared,
    MessageKind.SNAP: _leader_appeared,
}
