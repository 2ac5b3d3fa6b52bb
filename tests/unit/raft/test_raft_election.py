"""Elections beyond the paper: pre-vote, check-quorum and leases, leader transfer, learners and who may campaign."""

import pytest

from ratifyd.raft.codec import encode_conf_change
from ratifyd.raft.core import Raft
from ratifyd.raft.election import MAX_TERMS_AHEAD
from ratifyd.raft.log import RaftLog
from ratifyd.raft.messages import (
    ConfChange,
    ConfChangeKind,
    ConfState,
    Entry,
    EntryKind,
    Message,
    MessageKind,
    Snapshot,
    SnapshotMeta,
)
from ratifyd.raft.roles import Role
from tests.unit.raft.network import ELECTION_TICKS, Net, drain, elect, make_raft

PRE_VOTE, PRE_VOTE_RESP = MessageKind.PRE_VOTE, MessageKind.PRE_VOTE_RESP
VOTE, VOTE_RESP = MessageKind.VOTE, MessageKind.VOTE_RESP
APP_RESP = MessageKind.APP_RESP


def cluster(**options: bool) -> Net:
    net = Net(*(make_raft(member, **options) for member in (1, 2, 3)))
    net.campaign(1)
    assert net.leaders() == [1]
    return net


# Pre-vote (thesis §9.6)


def test_a_pre_candidate_keeps_term_and_vote_and_asks_for_the_next_term() -> None:
    raft = make_raft(terms=[1, 1], term=4, vote=2, pre_vote=True)
    raft.campaign()
    requests = drain(raft)
    assert (raft.role, raft.term, raft.vote) == (Role.PRE_CANDIDATE, 4, 2)
    assert [(m.kind, m.to, m.term, m.index, m.log_term) for m in requests] == [
        (PRE_VOTE, 2, 5, 2, 1),
        (PRE_VOTE, 3, 5, 2, 1),
    ]


def test_granting_a_pre_vote_promises_nothing() -> None:
    raft = make_raft(term=4)
    raft.election_elapsed = 3
    for candidate in (2, 3):
        raft.step(Message(PRE_VOTE, to=1, sender=candidate, term=5))
    answers = drain(raft)
    assert [(m.kind, m.to, m.term, m.reject) for m in answers] == [
        (PRE_VOTE_RESP, 2, 5, False),
        (PRE_VOTE_RESP, 3, 5, False),
    ]
    assert (raft.term, raft.vote, raft.election_elapsed) == (4, 0, 3)


def test_a_refused_pre_vote_carries_the_own_term() -> None:
    raft = make_raft(terms=[3, 3], term=7)
    raft.step(Message(PRE_VOTE, to=1, sender=2, term=8, index=1, log_term=3))
    raft.step(Message(PRE_VOTE, to=1, sender=3, term=6, index=9, log_term=9))
    assert [(m.to, m.term, m.reject) for m in drain(raft)] == [(2, 7, True), (3, 7, True)]


def test_a_majority_of_pre_votes_starts_the_real_election() -> None:
    raft = make_raft(pre_vote=True)
    raft.campaign()
    drain(raft)
    raft.step(Message(PRE_VOTE_RESP, to=1, sender=3, term=1))
    assert (raft.role, raft.term, raft.vote) == (Role.CANDIDATE, 1, 1)
    assert [m.kind for m in drain(raft)] == [VOTE, VOTE]


def test_a_refusal_with_a_higher_term_ends_the_pre_candidacy() -> None:
    raft = make_raft(pre_vote=True)
    raft.campaign()
    drain(raft)
    raft.step(Message(PRE_VOTE_RESP, to=1, sender=3, term=6, reject=True))
    assert (raft.role, raft.term) == (Role.FOLLOWER, 6)


def test_with_pre_vote_a_member_that_was_cut_off_does_not_disturb_the_leader() -> None:
    net = cluster(pre_vote=True, check_quorum=True)
    net.isolate(3)
    net.tick(3 * ELECTION_TICKS)
    assert net[3].role is Role.PRE_CANDIDATE
    assert net[3].term == 1
    net.heal()
    net.tick(3)
    assert net.leaders() == [1]
    assert (net[1].term, net[3].role, net[3].leader_id) == (1, Role.FOLLOWER, 1)


def test_a_candidate_ahead_in_term_but_behind_in_its_log_does_not_block_pre_vote() -> None:
    """A cluster switching pre-vote on: the one candidate in a higher term can never win, the others must go past it."""
    net = Net(make_raft(1, terms=[1, 1], pre_vote=True), make_raft(2, terms=[1], term=5, pre_vote=True))
    for raft in net.members.values():
        raft.apply_conf_change(ConfChange(ConfChangeKind.REMOVE_NODE, 3))
    net.campaign(1)
    net.campaign(1)
    assert net.leaders() == [1]


# Check-quorum and leases (thesis §6.2, §4.2.3)


def test_a_leader_that_hears_nobody_resigns_within_two_intervals() -> None:
    net = cluster(check_quorum=True)
    net.isolate(1)
    net.tick(2 * ELECTION_TICKS, 1)
    assert net[1].role is Role.FOLLOWER
    assert net[1].leader_id == 0


def test_a_leader_that_hears_a_majority_stays() -> None:
    net = cluster(check_quorum=True)
    net.isolate(3)
    net.tick(3 * ELECTION_TICKS, 1, 2)
    assert net.leaders() == [1]
    assert net[1].term == 1


@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE])
def test_who_heard_from_a_leader_lately_ignores_vote_requests(kind: MessageKind) -> None:
    net = cluster(check_quorum=True)
    for member in (1, 2):
        net[member].step(Message(kind, to=member, sender=3, term=9, index=9, log_term=9))
        assert drain(net[member]) == []
        assert net[member].term == 1


def test_after_an_interval_without_a_leader_requests_are_heard_again() -> None:
    net = cluster(check_quorum=True)
    net[2].randomized_timeout = 2 * ELECTION_TICKS - 1
    for _ in range(ELECTION_TICKS):
        net[2].tick()
    net[2].step(Message(VOTE, to=2, sender=3, term=9, index=9, log_term=9))
    assert net[2].vote == 3


@pytest.mark.parametrize("kind", [MessageKind.APP, MessageKind.HEARTBEAT])
@pytest.mark.parametrize("options", [{"check_quorum": True}, {"pre_vote": True}])
def test_a_leader_of_an_older_term_is_told_of_the_newer_one(kind: MessageKind, options: dict[str, bool]) -> None:
    raft = make_raft(term=5, **options)
    raft.step(Message(kind, to=1, sender=2, term=3))
    (answer,) = drain(raft)
    assert (answer.kind, answer.to, answer.term, answer.index) == (MessageKind.APP_RESP, 2, 5, 0)


def test_without_leases_it_is_left_to_the_next_election() -> None:
    raft = make_raft(term=5)
    raft.step(Message(MessageKind.HEARTBEAT, to=1, sender=2, term=3))
    assert drain(raft) == []


def test_a_learner_in_a_higher_term_says_so_for_it_will_never_campaign() -> None:
    raft = make_raft(4, learners=[4], term=5)
    raft.step(Message(MessageKind.HEARTBEAT, to=4, sender=2, term=3))
    assert [(m.kind, m.to, m.term) for m in drain(raft)] == [(MessageKind.APP_RESP, 2, 5)]


def test_a_member_stuck_in_a_higher_term_frees_itself() -> None:
    net = cluster(check_quorum=True)
    net.isolate(3)
    net.tick(4 * ELECTION_TICKS)
    assert net[3].term > 1
    net.heal()
    net.tick(4 * ELECTION_TICKS)
    assert len(net.leaders()) == 1
    assert len({raft.term for raft in net.members.values()}) == 1


def test_forgetting_the_leader_lifts_the_lease() -> None:
    net = cluster(check_quorum=True)
    for member in (2, 3):
        net[member].forget_leader()
    assert net[2].leader_id == 0
    net[2].step(Message(VOTE, to=2, sender=3, term=2, index=1, log_term=1))
    assert net[2].vote == 3


# Leader transfer (thesis §3.10)


def test_leadership_moves_to_a_member_that_is_up_to_date_at_once() -> None:
    net = cluster(check_quorum=True, pre_vote=True)
    net[1].transfer_leader(3)
    net.settle()
    assert net.leaders() == [3]
    kinds = [m.kind for m in net.delivered if m.term > 1 or m.kind is MessageKind.TIMEOUT_NOW]
    assert kinds[:2] == [MessageKind.TIMEOUT_NOW, VOTE]
    assert next(m for m in net.delivered if m.kind is VOTE and m.sender == 3).context == b"CampaignTransfer"


def test_a_follower_passes_the_wish_on() -> None:
    net = cluster()
    net[2].transfer_leader(3)
    net.settle()
    assert net.leaders() == [3]


def test_a_member_behind_is_first_brought_up_to_date() -> None:
    net = cluster()
    net.isolate(3)
    net.propose(1, b"x")
    net.heal()
    net[1].transfer_leader(3)
    net.work(1)
    assert net[1].transfer_target == 3
    net.tick()
    assert net.leaders() == [3]
    assert net[3].log.term(2) == 1


def test_meanwhile_proposals_are_dropped() -> None:
    net = cluster()
    net.isolate(3)
    net[1].transfer_leader(3)
    assert not net.propose(1, b"x")
    assert not net[1].propose_conf_change(ConfChange(ConfChangeKind.ADD_NODE, 4))


def test_a_transfer_is_given_up_after_an_election_timeout() -> None:
    net = cluster()
    net.isolate(3)
    net[1].transfer_leader(3)
    net.tick(ELECTION_TICKS - 1, 1)
    assert net[1].transfer_target == 3
    net.tick(1, 1)
    assert net[1].transfer_target == 0
    assert net.propose(1, b"x")


def test_a_second_wish_replaces_the_first_and_one_for_the_leader_cancels() -> None:
    net = cluster()
    net.isolate(3)
    net[1].transfer_leader(3)
    net[1].transfer_leader(2)
    assert net[1].transfer_target == 2
    net[1].transfer_leader(1)
    assert net[1].transfer_target == 0


@pytest.mark.parametrize("target", [4, 9])
def test_learners_and_strangers_cannot_take_over(target: int) -> None:
    net = Net(*(make_raft(member, learners=[4]) for member in (1, 2, 3, 4)))
    net.campaign(1)
    net[1].transfer_leader(target)
    assert net[1].transfer_target == 0


def test_a_target_that_is_removed_ends_the_transfer() -> None:
    raft = elect(make_raft())
    raft.transfer_leader(3)
    raft.apply_conf_change(ConfChange(ConfChangeKind.REMOVE_NODE, 3))
    assert raft.transfer_target == 0


def test_who_may_not_campaign_ignores_the_call_to_take_over() -> None:
    raft = make_raft(4, learners=[4], term=2)
    raft.step(Message(MessageKind.TIMEOUT_NOW, to=4, sender=1, term=2))
    assert raft.role is Role.FOLLOWER


# Who may campaign


def ticks_of_two_timeouts(raft: Raft) -> None:
    for _ in range(4 * ELECTION_TICKS):
        raft.tick()


def test_a_learner_never_campaigns_but_votes() -> None:
    raft = make_raft(4, learners=[4])
    ticks_of_two_timeouts(raft)
    raft.campaign()
    assert raft.role is Role.FOLLOWER
    raft.step(Message(VOTE, to=4, sender=2, term=1))
    assert [(m.kind, m.reject) for m in drain(raft)] == [(VOTE_RESP, False)]


def test_a_removed_or_unknown_member_never_campaigns() -> None:
    raft = make_raft(9, voters=[1, 2, 3])
    ticks_of_two_timeouts(raft)
    assert raft.role is Role.FOLLOWER


def test_nobody_campaigns_over_a_committed_membership_change_not_applied_yet() -> None:
    change = encode_conf_change(ConfChange(ConfChangeKind.ADD_NODE, 4))
    log = RaftLog(entries=[Entry(1, 1, change, EntryKind.CONF_CHANGE), Entry(1, 2)])
    raft = make_raft(log=log, term=1, commit=1)
    ready = raft.ready()
    assert ready is not None
    raft.campaign()
    assert raft.role is Role.FOLLOWER
    raft.apply_conf_change(ConfChange(ConfChangeKind.ADD_NODE, 4))
    raft.applied_to(1)
    raft.campaign()
    assert raft.role is Role.CANDIDATE


def test_nobody_campaigns_while_a_snapshot_waits_to_be_installed() -> None:
    raft = make_raft()
    snapshot = Snapshot(SnapshotMeta(5, 1, ConfState((1, 2, 3))))
    raft.step(Message(MessageKind.SNAP, to=1, sender=2, term=1, snapshot=snapshot))
    ready = raft.ready()
    assert ready is not None and ready.snapshot == snapshot
    raft.campaign()
    assert raft.role is Role.FOLLOWER
    raft.appended(ready)
    raft.applied_to(5)
    raft.campaign()
    assert raft.role is Role.CANDIDATE


def test_a_leader_that_campaigns_stays_leader() -> None:
    raft = elect(make_raft())
    raft.campaign()
    assert (raft.role, raft.term) == (Role.LEADER, 1)


@pytest.mark.parametrize("pre_vote", [False, True])
def test_a_single_voter_elects_itself(pre_vote: bool) -> None:
    raft = make_raft(voters=[1], pre_vote=pre_vote, check_quorum=True)
    raft.campaign()
    assert drain(raft) == []
    assert (raft.role, raft.term, raft.log.applied) == (Role.LEADER, 1, 1)
    ticks_of_two_timeouts(raft)
    assert raft.role is Role.LEADER


def test_a_term_that_no_election_can_have_reached_is_refused() -> None:
    """One broken message would take everybody there, and a few elections later no term is left."""
    net = cluster()
    term = net[1].term
    for kind in (APP_RESP, MessageKind.HEARTBEAT, VOTE):
        net[2].step(Message(kind, to=2, sender=3, term=term + MAX_TERMS_AHEAD + 1))
    assert net[2].term == term
    net[2].step(Message(APP_RESP, to=2, sender=3, term=term + MAX_TERMS_AHEAD - 1))
    assert net[2].term == term + MAX_TERMS_AHEAD - 1
    net.campaign(2)
    assert net.leaders() == [2]


def test_a_new_member_takes_any_term() -> None:
    raft = make_raft(1)
    raft.step(Message(MessageKind.HEARTBEAT, to=1, sender=2, term=1 << 62))
    assert (raft.term, raft.leader_id) == (1 << 62, 2)
