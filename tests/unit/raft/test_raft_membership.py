"""Membership changes (thesis §4): simple and joint, leaving by itself or on demand, learners, what a leader refuses."""

import pytest

from ratifyd.raft import confchange
from ratifyd.raft.codec import change_of_entry
from ratifyd.raft.confchange import Configuration, InvalidConfChange
from ratifyd.raft.core import Options, Raft
from ratifyd.raft.log import RaftLog
from ratifyd.raft.messages import (
    AnyConfChange,
    ConfChange,
    ConfChangeKind,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeV2,
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

WORDS = {
    "v": ConfChangeKind.ADD_NODE,
    "l": ConfChangeKind.ADD_LEARNER_NODE,
    "r": ConfChangeKind.REMOVE_NODE,
    "u": ConfChangeKind.UPDATE_NODE,
}


def singles(text: str) -> tuple[ConfChangeSingle, ...]:
    return tuple(ConfChangeSingle(WORDS[word[0]], int(word[1:])) for word in text.split())


def one(text: str) -> ConfChange:
    (single,) = singles(text)
    return ConfChange(single.kind, single.node_id)


def several(text: str, transition: ConfChangeTransition = ConfChangeTransition.AUTO) -> ConfChangeV2:
    return ConfChangeV2(singles(text), transition)


def cluster(*voters: int, spare: tuple[int, ...] = (), **options: object) -> Net:
    """Voters with a common first entry, and members that know nothing yet."""
    members = [make_raft(m, voters, log=RaftLog(1, 1), term=1, commit=1, applied=1, **options) for m in voters]
    members += [make_raft(m, (), conf_state=ConfState(), **options) for m in spare]
    net = Net(*members)
    net.campaign(voters[0])
    assert net.leaders() == [voters[0]]
    return net


def change(net: Net, what: AnyConfChange, member: int = 1) -> bool:
    taken = net[member].propose_conf_change(what)
    net.settle()
    net.tick(2)
    return taken


def voters(raft: Raft) -> set[int]:
    return set(raft.config.voters)


# Legal steps


@pytest.mark.parametrize(
    ("start", "steps", "result"),
    [
        ("1 2 3", "v4", "1 2 3 4"),
        ("1 2 3", "r3", "1 2"),
        ("1 2 3", "l4", "1 2 3 | 4"),
        ("1 2 3", "l3", "1 2 | 3"),
        ("1 2 | 3", "v3", "1 2 3"),
        ("1 2 | 3", "r3", "1 2"),
        ("1 2 | 3", "l3", "1 2 | 3"),
        ("1 2", "v0", "1 2"),
        ("1 2", "r9", "1 2"),
        ("1 2", "u2", "1 2"),
        ("1 2 | 4 5", "r4 l5 l6", "1 2 | 5 6"),
    ],
)
def test_simple_changes(start: str, steps: str, result: str) -> None:
    def parse(text: str) -> Configuration:
        names, _, learning = text.partition("|")
        return Configuration(frozenset(map(int, names.split())), learners=frozenset(map(int, learning.split())))

    assert confchange.simple(parse(start), singles(steps)) == parse(result)


@pytest.mark.parametrize(
    ("start", "steps", "why"),
    [
        ({1}, "r1", "removed all voters"),
        ({1, 2, 3}, "v4 v5", "more than one voter"),
        ({1, 2, 3}, "r1 v4", "more than one voter"),
        ({1}, "l1", "removed all voters"),
    ],
)
def test_illegal_simple_changes(start: set[int], steps: str, why: str) -> None:
    with pytest.raises(InvalidConfChange, match=why):
        confchange.simple(Configuration(frozenset(start)), singles(steps))


def test_the_joint_phase_keeps_demoted_voters_voting_until_it_ends() -> None:
    joint = confchange.enter_joint(Configuration(frozenset({1, 2, 3})), singles("v4 l3 l5 r2"), auto_leave=False)
    assert joint == Configuration(
        frozenset({1, 4}), frozenset({1, 2, 3}), learners=frozenset({5}), learners_next=frozenset({3})
    )
    assert joint.members == {1, 2, 3, 4, 5}
    assert confchange.leave_joint(joint) == Configuration(frozenset({1, 4}), learners=frozenset({3, 5}))


def test_joint_phases_do_not_nest_and_can_only_be_left_when_entered() -> None:
    config = Configuration(frozenset({1, 2, 3}))
    joint = confchange.enter_joint(config, singles("v4 v5"), auto_leave=False)
    for illegal in (several("v6"), several("v6 v7"), one("v6")):
        with pytest.raises(InvalidConfChange):
            confchange.apply(joint, illegal)
    with pytest.raises(InvalidConfChange, match="non-joint"):
        confchange.leave_joint(config)
    with pytest.raises(InvalidConfChange, match="zero-voter"):
        confchange.enter_joint(Configuration(), singles("v1"), auto_leave=False)


@pytest.mark.parametrize(
    ("what", "joint", "auto_leave"),
    [
        (several("v4"), False, False),
        (several("v4 l5"), True, True),
        (several("v4", ConfChangeTransition.JOINT_IMPLICIT), True, True),
        (several("v4", ConfChangeTransition.JOINT_EXPLICIT), True, False),
    ],
)
def test_when_a_change_goes_through_a_joint_phase(what: ConfChangeV2, joint: bool, auto_leave: bool) -> None:
    config = confchange.apply(Configuration(frozenset({1, 2, 3})), what)
    assert (config.is_joint, config.auto_leave) == (joint, auto_leave)


@pytest.mark.parametrize(
    "state",
    [ConfState((1, 2), learners=(2,)), ConfState((1, 2), learners_next=(2,)), ConfState((1,), auto_leave=True)],
)
def test_impossible_stored_configurations_are_refused(state: ConfState) -> None:
    with pytest.raises(InvalidConfChange):
        confchange.restore(state)


# Through the log


def test_a_new_voter_catches_up_and_counts() -> None:
    net = cluster(1, spare=(2,))
    assert change(net, one("v2"))
    assert voters(net[1]) == voters(net[2]) == {1, 2}
    net.isolate(2)
    net.propose(1, b"x")
    assert net[1].log.committed == net[1].log.last_index - 1
    net.heal()
    net.tick(2)
    assert net[1].log.committed == net[2].log.committed == net[1].log.last_index


def test_a_learner_receives_all_and_counts_for_nothing_until_promoted() -> None:
    net = cluster(1, 2, spare=(3,))
    change(net, one("l3"))
    net.propose(1, b"x")
    assert net[3].log.applied == net[1].log.applied
    assert net[3].is_learner and not net[3].is_promotable
    net.isolate(2)
    net.propose(1, b"y")
    assert net[1].log.committed < net[1].log.last_index
    net.heal()
    net.tick(2)
    change(net, one("v3"))
    assert voters(net[3]) == {1, 2, 3}
    net.isolate(2)
    net.propose(1, b"z")
    assert net[1].log.committed == net[1].log.last_index


def test_a_removed_voter_no_longer_counts() -> None:
    net = cluster(1, 2)
    net.isolate(2)
    net[1].propose_conf_change(one("r2"))
    net.settle()
    assert voters(net[1]) == {1, 2}, "its own removal needs the old majority"
    net.heal()
    net.tick(2)
    assert voters(net[1]) == {1}
    net.isolate(2)
    net.propose(1, b"x")
    assert net[1].log.committed == net[1].log.last_index


def test_an_automatic_joint_phase_ends_by_itself() -> None:
    net = cluster(1, 2, 3, spare=(4, 5))
    change(net, several("r2 r3 v4 v5"))
    net.tick(4)
    for member in (1, 4, 5):
        assert net[member].config == Configuration(frozenset({1, 4, 5}))
    changes = [change_of_entry(e) for e in net.applied[1] if e.kind is not EntryKind.NORMAL]
    assert changes == [several("r2 r3 v4 v5"), ConfChangeV2()]
    assert net.applied[1][-1].data == b""


def test_an_explicit_joint_phase_waits_to_be_left() -> None:
    net = cluster(1, 2, 3, spare=(4,))
    change(net, several("v4", ConfChangeTransition.JOINT_EXPLICIT))
    assert net[1].config.is_joint
    assert not change(net, one("v5"))
    assert change(net, ConfChangeV2(context=b"done"))
    assert net[1].config == net[4].config == Configuration(frozenset({1, 2, 3, 4}))


def test_a_joint_phase_needs_both_majorities() -> None:
    net = cluster(1, 2, 3, spare=(4, 5))
    change(net, several("r2 r3 v4 v5", ConfChangeTransition.JOINT_EXPLICIT))
    for cut, commits in (((2, 3), False), ((4, 5), False), ((3, 5), True)):
        net.heal()
        net.tick(2)
        for member in cut:
            net.isolate(member)
        net.propose(1, b"x")
        assert (net[1].log.committed == net[1].log.last_index) == commits


def test_a_joint_phase_held_up_by_a_transfer_ends_when_that_is_given_up() -> None:
    raft = elect(make_raft(voters=[1, 2]))
    for index in (1, 2):
        raft.step(Message(MessageKind.APP_RESP, to=1, sender=2, term=1, index=index))
    drain(raft)
    assert raft.propose_conf_change(several("v3 v4"))
    ready = raft.ready()
    assert ready is not None
    raft.appended(ready)
    raft.step(Message(MessageKind.APP_RESP, to=1, sender=2, term=1, index=2))
    raft.transfer_leader(2)
    drain(raft)
    assert raft.config.is_joint and raft.log.last_index == 2
    for _ in range(ELECTION_TICKS):
        raft.tick()
    assert raft.transfer_target == 0
    assert raft.log.entries[-1].kind is EntryKind.CONF_CHANGE_V2


def test_a_new_leader_in_a_joint_configuration_ends_it() -> None:
    net = cluster(1, 2, 3, spare=(4, 5))
    net[1].propose_conf_change(several("v4 v5"))
    net.work(1)
    net.settle()
    net.isolate(1)
    net.tick(4 * ELECTION_TICKS, 2, 3, 4, 5)
    (leader,) = (m for m in net.leaders() if m != 1)
    assert net[leader].config == Configuration(frozenset({1, 2, 3, 4, 5}))


# What a leader refuses


def test_one_change_at_a_time() -> None:
    raft = elect(make_raft())
    raft.step(Message(MessageKind.APP_RESP, to=1, sender=2, term=1, index=1))
    drain(raft)
    assert raft.propose_conf_change(one("v4"))
    assert not raft.propose_conf_change(one("v5"))
    assert raft.log.last_index == 2
    raft.step(Message(MessageKind.APP_RESP, to=1, sender=2, term=1, index=2))
    drain(raft)
    assert raft.propose_conf_change(one("v5"))


def test_a_new_leader_waits_until_its_whole_log_is_applied() -> None:
    raft = elect(make_raft(terms=[1, 1]))
    assert not raft.propose_conf_change(one("v4"))


def test_a_forwarded_change_that_is_refused_becomes_an_empty_entry() -> None:
    net = cluster(1, 2, 3)
    net[1].propose_conf_change(one("v4"))
    net[2].propose_conf_change(one("v5"))
    net.settle()
    assert [(e.kind, e.data) for e in net.applied[2][-1:]] == [(EntryKind.NORMAL, b"")]
    assert voters(net[2]) == {1, 2, 3, 4}


def test_a_forwarded_change_that_cannot_be_read_becomes_an_empty_entry() -> None:
    raft = elect(make_raft(1, [1]))
    raft.step(Message(MessageKind.PROP, to=1, sender=2, entries=[Entry(0, 0, b"\xff", EntryKind.CONF_CHANGE)]))
    assert raft.log.entries[-1] == Entry(1, 2)


def test_changes_need_a_joint_phase_to_leave() -> None:
    raft = elect(make_raft(1, [1]))
    assert not raft.propose_conf_change(ConfChangeV2())


def test_validation_can_be_left_to_the_application() -> None:
    raft = elect(make_raft(1, [1], options=Options(validate_conf_changes=False)))
    assert raft.propose_conf_change(one("v2"))
    assert raft.propose_conf_change(one("v3"))


def test_a_change_the_application_refused_is_applied_as_nothing() -> None:
    raft = elect(make_raft())
    assert raft.apply_conf_change(ConfChange(ConfChangeKind.ADD_NODE, 0)) == ConfState((1, 2, 3))
    with pytest.raises(InvalidConfChange):
        raft.apply_conf_change(several("r1 r2 r3"))
    assert raft.conf_state == ConfState((1, 2, 3))


# The leader itself


def test_a_removed_leader_leads_on_without_a_vote_and_takes_no_proposals() -> None:
    net = cluster(1, 2, 3)
    change(net, one("r1"))
    assert net[1].role is Role.LEADER
    assert not net.propose(1, b"x")
    net.campaign(2)
    net.propose(2, b"y")
    assert net[2].log.committed == net[3].log.committed == net[2].log.last_index


@pytest.mark.parametrize("what", ["r1", "l1"])
def test_a_removed_or_demoted_leader_can_be_made_to_resign(what: str) -> None:
    net = cluster(1, 2, 3, options=Options(step_down_on_removal=True))
    change(net, one(what))
    assert net[1].role is Role.FOLLOWER


def test_a_new_member_counts_as_active_until_the_next_check() -> None:
    raft = elect(make_raft(1, [1], check_quorum=True))
    raft.apply_conf_change(one("v2"))
    for _ in range(ELECTION_TICKS):
        raft.tick()
    assert raft.role is Role.LEADER
    for _ in range(ELECTION_TICKS):
        raft.tick()
    assert raft.role is Role.FOLLOWER


def test_a_smaller_majority_commits_at_once() -> None:
    raft = elect(make_raft())
    drain(raft)
    assert raft.log.committed == 0
    raft.apply_conf_change(one("r3"))
    raft.apply_conf_change(one("r2"))
    assert raft.log.committed == 1


def test_status_shows_followers_and_learners() -> None:
    net = cluster(1, 2, spare=(3,))
    change(net, one("l3"))
    status = net[1].status()
    assert (status.role, status.leader_id, status.conf_state) == (Role.LEADER, 1, ConfState((1, 2), (3,)))
    assert {m: p.is_learner for m, p in status.progress.items()} == {1: False, 2: False, 3: True}
    assert {p.match for p in status.progress.values()} == {status.commit}
    assert net[2].status().progress == {}


@pytest.mark.parametrize(
    ("state", "term"),
    [
        (ConfState((1, 2, 3), learners=(2,)), 2),
        (ConfState((1, 2, 3), learners_next=(9,)), 2),
        (ConfState((1, 2, 3), auto_leave=True), 2),
        (ConfState((1, 2, 3)), 1 << 62),
    ],
)
def test_a_snapshot_that_cannot_be_is_not_taken(state: ConfState, term: int) -> None:
    """It would end the member, with its log replaced by then."""
    raft = make_raft(1, terms=(1,), commit=1)
    raft.step(Message(MessageKind.SNAP, to=1, sender=2, term=2, snapshot=Snapshot(SnapshotMeta(50, term, state))))
    assert raft.log.snapshot is None and raft.log.committed == 1
    assert [(m.kind, m.index) for m in drain(raft)] == [(MessageKind.APP_RESP, 1)]
