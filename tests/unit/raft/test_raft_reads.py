"""ReadIndex (thesis §6.4): who may answer, when, and with which index."""

import pytest

from ratifyd.raft.core import Options, Raft
from ratifyd.raft.messages import ConfChange, ConfChangeKind, Entry, Message, MessageKind, ReadState
from ratifyd.raft.roles import Role
from tests.unit.raft.network import Net, drain, elect, make_raft

HEARTBEAT, HEARTBEAT_RESP = MessageKind.HEARTBEAT, MessageKind.HEARTBEAT_RESP


def established_leader(size: int = 3, **options: object) -> Raft:
    """A leader that has committed the first entry of its term."""
    raft = elect(make_raft(voters=range(1, size + 1), **options))
    for follower in range(2, size + 1):
        raft.step(Message(MessageKind.APP_RESP, to=1, sender=follower, term=1, index=1))
    drain(raft)
    assert raft.log.committed == 1
    return raft


def answer(raft: Raft, sender: int, context: bytes) -> None:
    raft.step(Message(HEARTBEAT_RESP, to=1, sender=sender, term=raft.term, context=context))


def reads(raft: Raft) -> list[tuple[int, bytes]]:
    states: list[ReadState] = []
    while (ready := raft.ready()) is not None:
        states += ready.read_states
        if ready.must_append:
            raft.appended(ready)
    return [(state.index, state.context) for state in states]


def test_a_leader_asks_a_majority_before_it_answers() -> None:
    raft = established_leader(5)
    assert raft.read_index(b"r")
    beats = drain(raft)
    assert [(m.kind, m.to) for m in beats] == [(HEARTBEAT, 2), (HEARTBEAT, 3), (HEARTBEAT, 4), (HEARTBEAT, 5)]
    (context,) = {m.context for m in beats}
    answer(raft, 2, context)
    answer(raft, 2, context)
    assert reads(raft) == []
    answer(raft, 3, context)
    assert reads(raft) == [(1, b"r")]


def test_the_index_is_that_of_the_moment_the_read_arrived() -> None:
    raft = established_leader()
    raft.read_index(b"r")
    beats = drain(raft)
    raft.propose([b"x"])
    drain(raft)
    raft.step(Message(MessageKind.APP_RESP, to=1, sender=2, term=1, index=2))
    drain(raft)
    answer(raft, 2, beats[0].context)
    assert reads(raft) == [(1, b"r")]


def test_confirming_a_read_confirms_those_before_it_in_order() -> None:
    raft = established_leader()
    contexts = []
    for name in (b"a", b"b", b"c"):
        raft.read_index(name)
        contexts.append(drain(raft)[0].context)
    answer(raft, 3, contexts[1])
    assert reads(raft) == [(1, b"a"), (1, b"b")]
    answer(raft, 2, contexts[0])
    assert reads(raft) == []
    answer(raft, 2, contexts[2])
    assert reads(raft) == [(1, b"c")]


def test_regular_heartbeats_carry_the_newest_read_in_case_the_first_got_lost() -> None:
    raft = established_leader()
    raft.read_index(b"r")
    drain(raft)
    raft.tick()
    beats = drain(raft)
    answer(raft, 2, beats[0].context)
    assert reads(raft) == [(1, b"r")]
    raft.tick()
    assert [m.context for m in drain(raft)] == [b"", b""]


@pytest.mark.parametrize("context", [b"", b"old", b"\xff" * 8])
def test_contexts_nobody_gave_confirm_nothing(context: bytes) -> None:
    raft = established_leader()
    raft.read_index(b"r")
    drain(raft)
    answer(raft, 2, context)
    assert reads(raft) == []


def test_a_new_leader_answers_only_after_a_commit_in_its_term() -> None:
    raft = elect(make_raft(terms=[1, 1], commit=1))
    raft.read_index(b"r")
    assert drain(raft) == []
    raft.step(Message(MessageKind.APP_RESP, to=1, sender=2, term=2, index=3))
    beats = [m for m in drain(raft) if m.kind is HEARTBEAT]
    answer(raft, 2, beats[0].context)
    assert reads(raft) == [(3, b"r")]


def test_a_single_voter_answers_at_once_but_not_before_a_commit_in_its_term() -> None:
    raft = make_raft(voters=[1], terms=[1, 1], commit=1)
    raft.campaign()
    ready = raft.ready()
    assert ready is not None
    raft.appended(ready)
    assert raft.role is Role.LEADER
    raft.read_index(b"early")
    ready = raft.ready()
    assert ready is not None and ready.read_states == []
    raft.appended(ready)
    assert reads(raft) == [(3, b"early")]
    raft.read_index(b"now")
    assert reads(raft) == [(3, b"now")]


def test_a_single_voter_with_a_learner_answers_at_once() -> None:
    raft = make_raft(voters=[1], learners=[2])
    raft.campaign()
    drain(raft)
    raft.step(Message(MessageKind.READ_INDEX, to=1, sender=2, entries=[Entry(0, 0, b"r")]))
    answers = [m for m in drain(raft) if m.kind is MessageKind.READ_INDEX_RESP]
    assert [(m.to, m.index, m.entries[0].data) for m in answers] == [(2, 1, b"r")]


def test_a_removed_leader_does_not_answer_for_the_one_voter_left() -> None:
    raft = established_leader(2)
    raft.apply_conf_change(ConfChange(ConfChangeKind.REMOVE_NODE, 1))
    assert raft.role is Role.LEADER
    raft.read_index(b"r")
    assert reads(raft) == []


def test_a_follower_asks_the_leader() -> None:
    net = Net(*(make_raft(member) for member in (1, 2, 3)))
    net.campaign(1)
    net[3].read_index(b"from 3")
    ready = net[3].ready()
    assert ready is not None
    (request,) = ready.messages
    assert (request.kind, request.to, request.sender, request.term) == (MessageKind.READ_INDEX, 1, 3, 0)
    net.queue.append(request)
    while net.queue:
        message = net.queue.popleft()
        net[message.to].step(message)
        if message.to == 3 and message.kind is MessageKind.READ_INDEX_RESP:
            break
        net.work(message.to)
    assert reads(net[3]) == [(1, b"from 3")]


def test_without_a_leader_a_read_is_dropped() -> None:
    assert not make_raft().read_index(b"r")
    raft = make_raft(pre_vote=True)
    raft.campaign()
    assert not raft.read_index(b"r")


def test_reads_die_with_the_term_of_office() -> None:
    raft = established_leader()
    raft.read_index(b"r")
    context = drain(raft)[0].context
    raft.step(Message(HEARTBEAT, to=1, sender=2, term=2))
    drain(raft)
    raft.campaign()
    drain(raft)
    raft.step(Message(MessageKind.VOTE_RESP, to=1, sender=2, term=3))
    drain(raft)
    answer(raft, 2, context)
    answer(raft, 3, context)
    assert reads(raft) == []


def test_a_cut_off_leader_answers_nothing() -> None:
    net = Net(*(make_raft(member) for member in (1, 2, 3)))
    net.campaign(1)
    net.isolate(1)
    net.campaign(2)
    net.propose(2, b"new")
    assert net[1].role is Role.LEADER
    net[1].read_index(b"r")
    assert reads(net[1]) == []


def test_acknowledgements_of_learners_do_not_count() -> None:
    raft = elect(make_raft(voters=[1, 2, 3], learners=[4]))
    raft.step(Message(MessageKind.APP_RESP, to=1, sender=2, term=1, index=1))
    drain(raft)
    raft.read_index(b"r")
    context = next(m.context for m in drain(raft) if m.kind is HEARTBEAT)
    answer(raft, 4, context)
    assert reads(raft) == []
    answer(raft, 3, context)
    assert reads(raft) == [(1, b"r")]


def test_a_smaller_quorum_releases_what_it_confirms() -> None:
    raft = established_leader(3)
    raft.read_index(b"r")
    drain(raft)
    raft.apply_conf_change(ConfChange(ConfChangeKind.REMOVE_NODE, 3))
    assert reads(raft) == []
    raft.apply_conf_change(ConfChange(ConfChangeKind.REMOVE_NODE, 2))
    assert reads(raft) == [(1, b"r")]


def test_lease_reads_are_answered_at_once_by_choice() -> None:
    raft = established_leader(3, check_quorum=True, options=Options(lease_reads=True))
    raft.read_index(b"r")
    assert reads(raft) == [(1, b"r")]
