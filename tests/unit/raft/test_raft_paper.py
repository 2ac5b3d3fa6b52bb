"""The claims of the Raft paper and thesis about elections and replication, one test each, in their order."""

from collections.abc import Sequence

import pytest

from ratifyd.raft.core import Raft
from ratifyd.raft.log import RaftLog
from ratifyd.raft.messages import Entry, Message, MessageKind
from ratifyd.raft.roles import ROLE_CHANGES, Role
from tests.unit.raft.network import ELECTION_TICKS, Net, drain, elect, make_raft

APP, APP_RESP = MessageKind.APP, MessageKind.APP_RESP
VOTE, VOTE_RESP = MessageKind.VOTE, MessageKind.VOTE_RESP


def in_role(role: Role) -> Raft:
    """A member of three in this role; candidates and leaders are in term 1."""
    raft = make_raft()
    if role is Role.LEADER:
        return elect(raft)
    if role is Role.CANDIDATE:
        raft.campaign()
        drain(raft)
    elif role is Role.PRE_CANDIDATE:
        raft = make_raft(pre_vote=True)
        raft.campaign()
        drain(raft)
    assert raft.role is role
    return raft


def tick(raft: Raft, times: int) -> list[Message]:
    messages = []
    for _ in range(times):
        raft.tick()
        messages += drain(raft)
    return messages


# §5.1 Terms


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("kind", [APP, MessageKind.HEARTBEAT, VOTE, APP_RESP])
def test_a_higher_term_makes_anyone_a_follower_of_that_term(role: Role, kind: MessageKind) -> None:
    raft = in_role(role)
    raft.step(Message(kind, to=1, sender=2, term=raft.term + 3))
    assert (raft.role, raft.term) == (Role.FOLLOWER, 3 + in_role(role).term)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("kind", [APP, MessageKind.HEARTBEAT, APP_RESP, VOTE_RESP, MessageKind.SNAP])
def test_messages_of_older_terms_change_nothing(role: Role, kind: MessageKind) -> None:
    raft = in_role(role)
    raft.step(Message(MessageKind.VOTE, to=1, sender=3, term=5))
    if role is not Role.FOLLOWER:
        raft.campaign()
    drain(raft)
    before = raft.status()
    raft.step(Message(kind, to=1, sender=2, term=4, entries=[Entry(4, 1)], commit=1, index=0))
    assert raft.pre_vote or drain(raft) == []  # with pre-vote the sender is told, see test_raft_election
    assert raft.status() == before


def test_a_vote_request_of_an_older_term_is_not_granted() -> None:
    raft = make_raft(term=5)
    raft.step(Message(VOTE, to=1, sender=2, term=4, index=9, log_term=4))
    assert drain(raft) == []
    assert raft.vote == 0


def test_members_start_as_followers() -> None:
    assert make_raft().role is Role.FOLLOWER


# §5.2 Leader election


def test_a_leader_sends_heartbeats_every_interval() -> None:
    raft = elect(make_raft(heartbeat_ticks=2))
    assert tick(raft, 1) == []
    beats = tick(raft, 1)
    assert [(m.kind, m.to, m.term) for m in beats] == [
        (MessageKind.HEARTBEAT, 2, 1),
        (MessageKind.HEARTBEAT, 3, 1),
    ]


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_without_a_leader_an_election_starts_in_a_new_term_with_an_own_vote(role: Role) -> None:
    raft = in_role(role)
    term = raft.term
    requests = tick(raft, 2 * ELECTION_TICKS)
    assert raft.role is Role.CANDIDATE
    assert (raft.term, raft.vote) == (term + 1, raft.id)
    assert [(m.kind, m.to, m.term) for m in requests] == [(VOTE, 2, term + 1), (VOTE, 3, term + 1)]


@pytest.mark.parametrize(
    ("size", "granted", "rejected", "role"),
    [
        (1, 0, 0, Role.LEADER),
        (3, 1, 0, Role.LEADER),
        (3, 0, 0, Role.CANDIDATE),
        (3, 0, 1, Role.CANDIDATE),
        (3, 0, 2, Role.FOLLOWER),
        (3, 1, 1, Role.LEADER),
        (5, 2, 0, Role.LEADER),
        (5, 1, 3, Role.FOLLOWER),
        (5, 1, 2, Role.CANDIDATE),
        (4, 1, 1, Role.CANDIDATE),
        (4, 1, 2, Role.FOLLOWER),
    ],
)
def test_a_majority_decides_an_election(size: int, granted: int, rejected: int, role: Role) -> None:
    raft = make_raft(voters=range(1, size + 1))
    raft.campaign()
    drain(raft)
    answers = [False] * granted + [True] * rejected
    for voter, reject in enumerate(answers, 2):
        raft.step(Message(VOTE_RESP, to=1, sender=voter, term=1, reject=reject))
        drain(raft)
    assert raft.role is role


def test_one_vote_a_term_first_come_first_served() -> None:
    raft = make_raft()
    for candidate in (2, 3, 2):
        raft.step(Message(VOTE, to=1, sender=candidate, term=1))
    answers = [(m.to, m.reject) for m in drain(raft)]
    assert answers == [(2, False), (3, True), (2, False)]


def test_votes_that_arrive_twice_count_once() -> None:
    raft = make_raft(voters=range(1, 6))
    raft.campaign()
    drain(raft)
    for _ in range(3):
        raft.step(Message(VOTE_RESP, to=1, sender=2, term=1))
    assert raft.role is Role.CANDIDATE


@pytest.mark.parametrize("kind", [APP, MessageKind.HEARTBEAT])
def test_a_candidate_follows_a_leader_of_its_own_term(kind: MessageKind) -> None:
    raft = in_role(Role.CANDIDATE)
    raft.step(Message(kind, to=1, sender=3, term=1))
    assert (raft.role, raft.leader_id, raft.term) == (Role.FOLLOWER, 3, 1)


def test_election_timeouts_are_random_between_one_and_two_intervals() -> None:
    timeouts = set()
    raft = make_raft()
    for _ in range(200):
        raft.step(Message(MessageKind.HEARTBEAT, to=1, sender=2, term=raft.term + 1))
        drain(raft)
        ticks = 0
        while raft.role is Role.FOLLOWER:
            raft.tick()
            ticks += 1
        timeouts.add(ticks)
    assert timeouts == set(range(ELECTION_TICKS, 2 * ELECTION_TICKS))


def test_hearing_from_the_leader_or_voting_restarts_the_clock() -> None:
    raft = make_raft()
    for message in (
        Message(MessageKind.HEARTBEAT, to=1, sender=2, term=1),
        Message(APP, to=1, sender=2, term=1),
        Message(VOTE, to=1, sender=3, term=2),
    ):
        tick(raft, ELECTION_TICKS - 1)
        raft.step(message)
        assert raft.election_elapsed == 0


# §5.3 Log replication


def test_a_leader_appends_and_sends_what_is_proposed() -> None:
    raft = elect(make_raft())
    for follower in (2, 3):
        raft.step(Message(APP_RESP, to=1, sender=follower, term=1, index=1))
    drain(raft)
    assert raft.propose([b"a", b"b"])
    expected = [Entry(1, 2, b"a"), Entry(1, 3, b"b")]
    sent = drain(raft)
    assert [(m.kind, m.to, m.index, m.log_term, m.commit, m.entries) for m in sent] == [
        (APP, 2, 1, 1, 1, expected),
        (APP, 3, 1, 1, 1, expected),
    ]


@pytest.mark.parametrize(
    ("size", "acknowledging", "committed"),
    [(1, [], True), (3, [], False), (3, [2], True), (3, [2, 3], True), (5, [2], False), (5, [2, 3], True)],
)
def test_an_entry_is_committed_once_a_majority_has_it(size: int, acknowledging: Sequence[int], committed: bool) -> None:
    raft = elect(make_raft(voters=range(1, size + 1)))
    for follower in range(2, size + 1):
        raft.step(Message(APP_RESP, to=1, sender=follower, term=1, index=1))
    drain(raft)
    raft.propose([b"x"])
    drain(raft)
    for follower in acknowledging:
        raft.step(Message(APP_RESP, to=1, sender=follower, term=1, index=2))
    assert raft.log.committed == (2 if committed else 1)


def test_followers_learn_of_the_commit_and_apply_in_log_order() -> None:
    net = Net(*(make_raft(member) for member in (1, 2, 3)))
    net.campaign(1)
    net.propose(1, b"a", b"b")
    net.propose(1, b"c")
    for member in (1, 2, 3):
        assert [entry.data for entry in net.applied[member]] == [b"", b"a", b"b", b"c"]
        assert [entry.index for entry in net.applied[member]] == [1, 2, 3, 4]


def test_committing_an_entry_commits_all_before_it() -> None:
    raft = make_raft(terms=[1, 1, 2], term=2)
    elect(raft)
    raft.step(Message(APP_RESP, to=1, sender=2, term=3, index=4))
    assert raft.log.committed == 4


@pytest.mark.parametrize(
    ("index", "term", "reject", "hint"),
    [(0, 0, False, 0), (1, 1, False, 0), (2, 2, False, 0), (2, 3, True, 2), (1, 2, True, 1), (3, 3, True, 2)],
)
def test_a_follower_checks_the_entry_before(index: int, term: int, reject: bool, hint: int) -> None:
    raft = make_raft(terms=[1, 2], term=2, commit=0)
    raft.step(Message(APP, to=1, sender=2, term=3, index=index, log_term=term))
    (answer,) = drain(raft)
    assert (answer.kind, answer.reject, answer.index) == (APP_RESP, reject, index)
    assert answer.reject_hint == hint


@pytest.mark.parametrize(
    ("previous", "new", "result"),
    [
        ((2, 2), [Entry(3, 3)], [1, 2, 3]),
        ((1, 1), [Entry(3, 2), Entry(4, 3)], [1, 3, 4]),
        ((0, 0), [Entry(1, 1)], [1, 2]),
        ((0, 0), [Entry(3, 1)], [3]),
        ((1, 1), [Entry(2, 2)], [1, 2]),
        ((1, 1), [], [1, 2]),
    ],
)
def test_a_follower_drops_only_entries_that_conflict(
    previous: tuple[int, int], new: list[Entry], result: list[int]
) -> None:
    raft = make_raft(terms=[1, 2])
    index, term = previous
    raft.step(Message(APP, to=1, sender=2, term=4, index=index, log_term=term, entries=new))
    drain(raft)
    assert [entry.term for entry in raft.log.entries] == result
    assert raft.log.stable == len(result)


LEADER_LOG = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]


@pytest.mark.parametrize(
    "log",
    [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ],
    ids="abcdef",
)
def test_a_leader_brings_every_log_of_figure_7_in_line(log: list[int]) -> None:
    lead = make_raft(1, terms=LEADER_LOG, term=7)
    follower = make_raft(2, terms=log, term=7)
    net = Net(lead, follower, make_raft(3, terms=[], term=7))
    net.campaign(1)
    net.tick()
    net.propose(1, b"new")
    assert net.leaders() == [1]
    assert follower.log.entries == lead.log.entries
    assert follower.log.committed == lead.log.committed == 12


# §5.4 Safety


@pytest.mark.parametrize(
    ("log", "candidate", "granted"),
    [
        ([1], (1, 1), True),
        ([1], (2, 1), True),
        ([1, 1], (1, 1), False),
        ([1], (1, 2), True),
        ([1, 1], (1, 2), True),
        ([2], (1, 1), False),
        ([2], (9, 1), False),
        ([], (0, 0), True),
    ],
)
def test_votes_go_only_to_candidates_whose_log_is_as_complete(
    log: list[int], candidate: tuple[int, int], granted: bool
) -> None:
    raft = make_raft(terms=log)
    index, term = candidate
    raft.step(Message(VOTE, to=1, sender=2, term=3, index=index, log_term=term))
    (answer,) = drain(raft)
    assert (answer.kind, answer.reject) == (VOTE_RESP, not granted)
    assert raft.vote == (2 if granted else 0)


@pytest.mark.parametrize(("acknowledged", "committed"), [(1, 0), (2, 0), (3, 3)])
def test_only_entries_of_the_own_term_are_committed_by_counting_figure_8(acknowledged: int, committed: int) -> None:
    raft = elect(make_raft(terms=[1, 2], term=2))
    raft.step(Message(APP_RESP, to=1, sender=2, term=3, index=acknowledged))
    assert raft.log.committed == committed


def test_figure_8_what_a_majority_holds_from_an_old_term_can_still_be_overwritten() -> None:
    logs = {1: [1, 2], 2: [1, 2], 3: [1, 2], 4: [1], 5: [1, 3]}
    net = Net(*(make_raft(member, range(1, 6), terms=log, term=3) for member, log in logs.items()))
    net.isolate(5)
    net.lost_kinds = {APP}
    net.campaign(1)
    net.tick()
    assert net.leaders() == [1]
    assert net[1].log.committed == 0
    net.heal()
    net.campaign(5)  # in a term in which the others have voted
    net.campaign(5)
    net.tick()
    net.propose(5, b"x")
    assert net.leaders() == [5]
    for member in logs:
        assert [entry.term for entry in net.applied[member]] == [1, 3, 5, 5]


# Leader changes keep committed entries (§5.4.3), and stale leaders cannot commit


def test_committed_entries_survive_a_change_of_leader() -> None:
    net = Net(*(make_raft(member) for member in (1, 2, 3)))
    net.campaign(1)
    net.propose(1, b"kept")
    net.isolate(1)
    net.propose(1, b"lost")
    net.campaign(2)
    net.propose(2, b"next")
    net.heal()
    net.tick(2)
    for member in (1, 2, 3):
        assert [entry.data for entry in net.applied[member]] == [b"", b"kept", b"", b"next"]
    assert net.leaders() == [2]


def test_a_leader_cut_off_commits_nothing() -> None:
    net = Net(*(make_raft(member) for member in (1, 2, 3)))
    net.campaign(1)
    net.isolate(1)
    net.propose(1, b"x")
    assert net[1].log.committed == 1
    assert net[1].log.last_index == 2


def test_an_overwritten_follower_log_applies_only_the_new_leaders_entries() -> None:
    log = RaftLog(entries=[Entry(1, 1, b"a"), Entry(2, 2, b"stale"), Entry(2, 3, b"stale")])
    raft = make_raft(log=log, term=2)
    raft.step(Message(APP, to=1, sender=2, term=3, index=1, log_term=1, entries=[Entry(3, 2, b"b")], commit=2))
    ready = raft.ready()
    assert ready is not None and ready.committed == [Entry(1, 1, b"a")]
    assert ready.entries == [Entry(3, 2, b"b")]
    raft.appended(ready)
    ready = raft.ready()
    assert ready is not None and ready.committed == [Entry(3, 2, b"b")]


def test_roles_change_only_along_the_table() -> None:
    raft = in_role(Role.LEADER)
    assert ROLE_CHANGES[Role.LEADER] == (Role.FOLLOWER,)
    with pytest.raises(AssertionError, match="cannot become"):
        raft.become(Role.CANDIDATE, 2)
    with pytest.raises(AssertionError, match="cannot become"):
        in_role(Role.FOLLOWER).become(Role.LEADER, 1)
