"""What may leave before a write is durable and what may not, with several writes in flight; restart and recovery."""

from ratifyd.raft.core import Raft
from ratifyd.raft.log import RaftLog
from ratifyd.raft.messages import ConfState, Entry, HardState, Message, MessageKind, Snapshot, SnapshotMeta
from ratifyd.raft.ready import Ready
from ratifyd.raft.roles import Role
from tests.unit.raft.network import Net, drain, elect, make_raft

APP, APP_RESP, HEARTBEAT = MessageKind.APP, MessageKind.APP_RESP, MessageKind.HEARTBEAT


def take(raft: Raft) -> Ready:
    ready = raft.ready()
    assert ready is not None
    return ready


def append(raft: Raft, term: int, previous: tuple[int, int], *terms: int, commit: int = 0, sender: int = 2) -> None:
    index, log_term = previous
    entries = [Entry(entry_term, index + 1 + i, b"%d" % entry_term) for i, entry_term in enumerate(terms)]
    raft.step(Message(APP, raft.id, sender, term, log_term, index, entries, commit))


def kinds(messages: list[Message]) -> list[MessageKind]:
    return [message.kind for message in messages]


def test_nothing_to_do_is_none() -> None:
    raft = make_raft()
    assert raft.ready() is None
    raft.tick()
    assert raft.ready() is None


def test_a_vote_waits_for_the_disk() -> None:
    raft = make_raft()
    raft.step(Message(MessageKind.VOTE, to=1, sender=2, term=3))
    ready = take(raft)
    assert ready.messages == []
    assert kinds(ready.messages_after_append) == [MessageKind.VOTE_RESP]
    assert (ready.hard_state, ready.must_append, ready.must_sync) == (HardState(3, 2, 0), True, True)


def test_a_candidates_requests_and_its_own_vote_wait_for_the_disk() -> None:
    raft = make_raft()
    raft.campaign()
    ready = take(raft)
    assert ready.messages == []
    assert kinds(ready.messages_after_append) == [MessageKind.VOTE, MessageKind.VOTE]
    raft.step(Message(MessageKind.VOTE_RESP, to=1, sender=2, term=1))
    assert raft.role is Role.CANDIDATE
    raft.appended(ready)
    assert raft.role is Role.LEADER


def test_an_acknowledgement_waits_for_the_disk_a_heartbeat_answer_does_not() -> None:
    raft = make_raft(term=1)
    append(raft, 1, (0, 0), 1, 1)
    raft.step(Message(HEARTBEAT, to=1, sender=2, term=1, context=b"ctx"))
    ready = take(raft)
    assert kinds(ready.messages) == [MessageKind.HEARTBEAT_RESP]
    assert ready.messages[0].context == b"ctx"
    assert [(m.kind, m.index) for m in ready.messages_after_append] == [(APP_RESP, 2)]
    assert ready.must_sync


def test_an_acknowledgement_of_what_is_durable_leaves_at_once() -> None:
    raft = make_raft(terms=[1, 1])
    append(raft, 1, (1, 1), 1)
    ready = take(raft)
    assert [(m.kind, m.index) for m in ready.messages] == [(APP_RESP, 2)]
    assert not ready.must_append


def test_an_acknowledgement_of_what_is_in_flight_waits_behind_it() -> None:
    raft = make_raft(term=1)
    append(raft, 1, (0, 0), 1, 1)
    first = take(raft)
    append(raft, 1, (0, 0), 1, 1)
    second = take(raft)
    assert second.messages == []
    assert (second.must_append, second.must_sync, second.entries) == (True, False, [])
    assert kinds(second.messages_after_append) == [APP_RESP]
    raft.appended(first)
    raft.appended(second)


def test_a_leaders_entries_leave_before_its_own_disk_has_them() -> None:
    raft = elect(make_raft())
    raft.step(Message(APP_RESP, to=1, sender=2, term=1, index=1))
    drain(raft)
    raft.propose([b"x"])
    ready = take(raft)
    assert [(m.kind, m.to, m.entries) for m in ready.messages] == [(APP, 2, [Entry(1, 2, b"x")])]
    assert ready.must_sync and ready.entries == [Entry(1, 2, b"x")]


def test_a_leader_counts_itself_only_once_durable() -> None:
    raft = elect(make_raft(voters=[1]))
    raft.propose([b"x"])
    ready = take(raft)
    assert raft.log.committed == 1
    raft.appended(ready)
    assert raft.log.committed == 2


def test_others_may_commit_before_the_leaders_disk_but_it_applies_only_what_is_durable() -> None:
    raft = elect(make_raft())
    raft.propose([b"x"])
    ready = take(raft)
    for follower in (2, 3):
        raft.step(Message(APP_RESP, to=1, sender=follower, term=1, index=2))
    assert raft.log.committed == 2
    meanwhile = take(raft)
    assert [entry.index for entry in meanwhile.committed] == [1]
    assert not meanwhile.must_append
    raft.appended(ready)
    assert [entry.index for entry in take(raft).committed] == [2]


def test_a_follower_applies_only_what_is_durable() -> None:
    raft = make_raft(term=1)
    append(raft, 1, (0, 0), 1, 1, commit=2)
    ready = take(raft)
    assert ready.committed == []
    assert ready.hard_state == HardState(1, 0, 2)
    raft.appended(ready)
    assert [entry.index for entry in take(raft).committed] == [1, 2]


def test_writes_in_flight_are_reported_in_order() -> None:
    raft = elect(make_raft(voters=[1]))
    readys = []
    for data in (b"a", b"b", b"c"):
        raft.propose([data])
        readys.append(take(raft))
    assert [ready.entries[0].index for ready in readys] == [2, 3, 4]
    for committed, ready in enumerate(readys, 2):
        raft.appended(ready)
        assert raft.log.stable == raft.log.committed == committed
    raft.propose([b"d"])
    raft.propose([b"e"])
    later = [take(raft)]
    raft.propose([b"f"])
    later.append(take(raft))
    try:
        raft.appended(later[1])
    except AssertionError as error:
        assert "in order" in str(error)
    else:
        raise AssertionError("an append out of order was taken")


def test_late_news_of_overwritten_entries_acknowledges_nothing() -> None:
    """The ABA case: the entries of term 1 are overwritten in flight, twice, the second time by themselves."""
    raft = make_raft(voters=range(1, 6), term=1)
    append(raft, 1, (0, 0), 1, 1, 1, sender=2)
    first = take(raft)
    append(raft, 2, (0, 0), 2, 2, sender=3)
    second = take(raft)
    append(raft, 3, (0, 0), 1, 1, 1, sender=2)
    third = take(raft)
    assert [len(ready.entries) for ready in (first, second, third)] == [3, 2, 3]
    raft.appended(first)
    assert raft.log.stable == 0
    raft.appended(second)
    assert raft.log.stable == 0
    raft.appended(third)
    assert raft.log.stable == 3
    assert [entry.term for entry in raft.log.entries] == [1, 1, 1]


def test_truncation_keeps_what_lies_before_it() -> None:
    raft = make_raft(term=1)
    append(raft, 1, (0, 0), 1, 1, 1)
    first = take(raft)
    append(raft, 2, (1, 1), 2, sender=3)
    raft.appended(first)
    assert raft.log.stable == 1
    raft.appended(take(raft))
    assert raft.log.stable == 2


def test_a_stale_own_vote_does_not_count_in_a_later_election() -> None:
    raft = make_raft(voters=range(1, 4))
    raft.campaign()
    first = take(raft)
    raft.step(Message(HEARTBEAT, to=1, sender=3, term=1))
    raft.campaign()
    second = take(raft)
    raft.step(Message(MessageKind.VOTE_RESP, to=1, sender=2, term=2))
    raft.appended(first)
    assert raft.role is Role.CANDIDATE
    raft.appended(second)
    assert raft.role is Role.LEADER


def test_a_commit_index_is_no_reason_to_write_but_goes_along_with_entries() -> None:
    raft = make_raft(terms=[1, 1])
    raft.step(Message(HEARTBEAT, to=1, sender=2, term=1, commit=2))
    ready = take(raft)
    assert (len(ready.committed), ready.hard_state, ready.must_append) == (2, None, False)
    append(raft, 1, (2, 1), 1)
    ready = take(raft)
    assert (len(ready.entries), ready.hard_state, ready.must_sync) == (1, HardState(1, 0, 2), True)


# Restart


def test_a_restart_applies_what_was_committed_and_not_yet_applied() -> None:
    log = RaftLog(3, 1, [Entry(1, 4), Entry(2, 5), Entry(2, 6)])
    raft = make_raft(log=log, term=2, vote=3, commit=5, applied=4)
    assert (raft.term, raft.vote, raft.role) == (2, 3, Role.FOLLOWER)
    ready = take(raft)
    assert [entry.index for entry in ready.committed] == [5]
    assert not ready.must_append
    assert raft.log.last_index == 6


def test_applied_state_ahead_of_the_hard_state_counts_as_committed() -> None:
    raft = make_raft(terms=[1, 1, 1], commit=1, applied=3)
    assert raft.log.committed == 3
    append(raft, 1, (3, 1), 1)
    assert take(raft).hard_state == HardState(1, 0, 3)


def test_a_single_voter_restarts_and_serves_again() -> None:
    raft = make_raft(voters=[1], terms=[1, 1, 2], term=2, vote=1, commit=1)
    raft.campaign()
    drain(raft)
    assert (raft.role, raft.term, raft.log.applied) == (Role.LEADER, 3, 4)
    assert raft.read_index(b"r")
    assert [(s.index, s.context) for s in take(raft).read_states] == [(4, b"r")]


def test_a_leftover_tail_behind_a_snapshot_is_dropped_at_restart() -> None:
    """A WAL keeps entries that an incoming snapshot replaced; they are of lower terms than the snapshot."""
    log = RaftLog(10, 5, [Entry(3, 11), Entry(3, 12)])
    assert (log.last_index, log.last_term, log.stable) == (10, 5, 10)
    log = RaftLog(10, 5, [Entry(5, 11), Entry(6, 12), Entry(4, 13)])
    assert log.last_index == 12


def test_an_entry_sent_before_the_own_disk_had_it_is_not_reinvented_in_the_same_term() -> None:
    """Because votes are durable before they are asked for, a leader that forgets its entries has a higher term."""
    raft = make_raft()
    raft.campaign()
    ready = take(raft)
    durable = ready.hard_state
    raft.appended(ready)
    raft.step(Message(MessageKind.VOTE_RESP, to=1, sender=2, term=1))
    assert kinds(take(raft).messages) == [APP, APP]
    assert durable == HardState(1, 1, 0)
    again = make_raft(term=durable.term, vote=durable.vote)
    again.campaign()
    assert again.term == 2


# Snapshots


def snapshot(index: int, term: int, voters: tuple[int, ...] = (1, 2, 3)) -> Snapshot:
    return Snapshot(SnapshotMeta(index, term, ConfState(voters)), b"state")


def snap(index: int, term: int, message_term: int = 3, voters: tuple[int, ...] = (1, 2, 3)) -> Message:
    return Message(MessageKind.SNAP, to=1, sender=2, term=message_term, snapshot=snapshot(index, term, voters))


def test_an_incoming_snapshot_replaces_log_and_configuration() -> None:
    raft = make_raft(terms=[1, 1], commit=1)
    drain(raft)
    raft.step(snap(20, 3, voters=(1, 2, 4)))
    ready = take(raft)
    assert ready.snapshot == snapshot(20, 3, (1, 2, 4))
    assert (ready.hard_state, ready.must_sync) == (HardState(3, 0, 20), True)
    assert [(m.kind, m.index) for m in ready.messages_after_append] == [(APP_RESP, 20)]
    assert (raft.log.first_index, raft.log.last_index, raft.log.last_term) == (21, 20, 3)
    assert raft.conf_state.voters == (1, 2, 4)
    append(raft, 3, (20, 3), 3, commit=21)
    later = take(raft)
    raft.appended(ready)
    raft.appended(later)
    assert raft.ready() is None, "nothing is applied before the snapshot is installed"
    raft.applied_to(20)
    assert [entry.index for entry in take(raft).committed] == [21]


def test_a_snapshot_of_the_past_is_answered_with_the_commit_index() -> None:
    raft = make_raft(terms=[1, 1, 1], commit=3, applied=3)
    raft.step(snap(2, 1))
    assert [(m.kind, m.index) for m in drain(raft)] == [(APP_RESP, 3)]
    assert raft.log.last_index == 3


def test_a_snapshot_the_log_already_holds_only_moves_the_commit_index() -> None:
    raft = make_raft(terms=[1, 1, 1], commit=1)
    raft.step(snap(3, 1))
    ready = take(raft)
    assert ready.snapshot is None
    assert (raft.log.committed, raft.log.last_index) == (3, 3)


def test_a_snapshot_without_this_member_is_ignored() -> None:
    raft = make_raft(terms=[1], commit=1)
    raft.step(snap(9, 2, voters=(2, 3)))
    assert raft.log.last_index == 1
    assert raft.conf_state.voters == (1, 2, 3)


def test_writes_in_flight_before_a_snapshot_do_not_count_for_it() -> None:
    raft = make_raft(term=1)
    append(raft, 1, (0, 0), *[1] * 30)
    before = take(raft)
    raft.step(snap(20, 3))
    ready = take(raft)
    raft.appended(before)
    assert raft.log.stable < 20
    raft.appended(ready)
    assert raft.log.stable == 20


def test_compaction_keeps_the_term_of_the_last_entry_dropped() -> None:
    raft = make_raft(terms=[1, 1, 2, 2], commit=4)
    drain(raft)
    raft.compact(3)
    assert (raft.log.first_index, raft.log.term(3), raft.log.term(2)) == (4, 2, None)
    assert raft.log.size_bytes == 1
    raft.compact(2)
    assert raft.log.first_index == 4


def test_a_follower_behind_the_log_gets_a_snapshot_and_catches_up() -> None:
    net = Net(*(make_raft(member) for member in (1, 2, 3)))
    net.campaign(1)
    net.isolate(3)
    net.propose(1, b"a", b"b", b"c")
    net[1].compact(4)
    net.heal()
    net.tick(2)
    assert MessageKind.SNAP in kinds(net.delivered)
    net.propose(1, b"d")
    net.tick()
    assert net[3].log.applied == net[1].log.applied == 5
    assert net[3].log.entries == [Entry(1, 5, b"d")]
