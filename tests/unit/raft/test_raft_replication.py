"""A leader's dealings with its followers: probing, windows, commit news, lost messages, proposals and their limits."""

import pytest

from ratifyd.raft.codec import encode_entry
from ratifyd.raft.core import MAX_FORWARDED_BYTES, Options, Raft
from ratifyd.raft.log import LogLost, RaftLog
from ratifyd.raft.messages import ConfState, Entry, Message, MessageKind, Snapshot, SnapshotMeta
from ratifyd.raft.progress import ProgressState
from tests.unit.raft.network import ELECTION_TICKS, Net, drain, elect, entries_of, make_raft

APP, APP_RESP, PROP = MessageKind.APP, MessageKind.APP_RESP, MessageKind.PROP
PROBE, REPLICATE, SNAPSHOT = ProgressState.PROBE, ProgressState.REPLICATE, ProgressState.SNAPSHOT


def leader_of_two(**options: int) -> Raft:
    """A leader whose only follower is in REPLICATE and up to date."""
    raft = elect(make_raft(1, [1, 2], **options))
    ack(raft, 1)
    drain(raft)
    return raft


def ack(raft: Raft, index: int, sender: int = 2) -> None:
    raft.step(Message(APP_RESP, to=1, sender=sender, term=raft.term, index=index))


def reject(raft: Raft, index: int, hint: int, hint_term: int, sender: int = 2) -> None:
    raft.step(Message(APP_RESP, 1, sender, raft.term, log_term=hint_term, index=index, reject=True, reject_hint=hint))


def appends(messages: list[Message], to: int = 2) -> list[tuple[int, int]]:
    """Previous index and number of entries of the appends to a follower."""
    return [(m.index, len(m.entries)) for m in messages if m.kind is APP and m.to == to]


def propose(raft: Raft, count: int, size: int = 1) -> list[Message]:
    messages = []
    for _ in range(count):
        assert raft.propose([b"x" * size])
        messages += drain(raft)
    return messages


def heartbeat_answer(raft: Raft, sender: int = 2, context: bytes = b"") -> list[Message]:
    raft.step(Message(MessageKind.HEARTBEAT_RESP, to=1, sender=sender, term=raft.term, context=context))
    return drain(raft)


# Probing


def test_a_probed_follower_gets_one_append_until_it_answers_or_shows_a_sign_of_life() -> None:
    raft = elect(make_raft(1, [1, 2]))
    assert propose(raft, 3) == []
    assert raft.progress[2].state is PROBE
    assert appends(heartbeat_answer(raft)) == [(0, 4)]
    assert propose(raft, 2) == []


def test_an_answer_turns_probing_into_streaming() -> None:
    raft = elect(make_raft(1, [1, 2]))
    propose(raft, 2)
    ack(raft, 1)
    assert raft.progress[2].state is REPLICATE
    assert appends(drain(raft))[0] == (1, 2)


def test_an_answer_without_news_turns_a_probe_back_into_streaming() -> None:
    raft = leader_of_two()
    raft.report_unreachable(2)
    assert raft.progress[2].state is PROBE
    assert appends(heartbeat_answer(raft)) == [(1, 0)]
    ack(raft, 1)
    assert raft.progress[2].state is REPLICATE


def test_a_rejection_is_followed_by_a_probe_at_the_hint() -> None:
    raft = elect(make_raft(1, [1, 2], terms=[1] * 8))
    reject(raft, 8, hint=3, hint_term=1)
    assert appends(drain(raft)) == [(3, 6)]
    ack(raft, 9)
    assert raft.log.committed == 9


def test_a_stale_rejection_is_ignored() -> None:
    raft = elect(make_raft(1, [1, 2], terms=[1] * 8))
    reject(raft, 5, hint=2, hint_term=1)
    assert drain(raft) == []
    assert raft.progress[2].next_index == 9


@pytest.mark.parametrize(
    ("leader_log", "hint", "hint_term", "probe"),
    [
        ([1, 3, 3, 3, 5, 5, 5, 5, 5], 6, 2, 1),
        ([1, 1, 2, 2, 4, 4], 5, 3, 4),
        ([2, 2, 2], 2, 0, 2),
    ],
)
def test_the_leader_skips_what_the_follower_cannot_have(
    leader_log: list[int], hint: int, hint_term: int, probe: int
) -> None:
    raft = elect(make_raft(1, [1, 2], terms=leader_log))
    reject(raft, len(leader_log), hint=hint, hint_term=hint_term)
    assert appends(drain(raft))[0][0] == probe


@pytest.mark.parametrize(
    ("follower_log", "previous", "hint", "hint_term"),
    [
        ([1, 3, 3, 4, 4, 5, 5, 5, 6], (8, 3), 3, 3),
        ([1, 1], (8, 3), 2, 1),
        ([5, 5], (2, 3), 0, 0),
        ([], (4, 2), 0, 0),
    ],
)
def test_the_follower_skips_what_the_leader_cannot_have(
    follower_log: list[int], previous: tuple[int, int], hint: int, hint_term: int
) -> None:
    raft = make_raft(terms=follower_log)
    index, term = previous
    raft.step(Message(APP, to=1, sender=2, term=9, index=index, log_term=term))
    (answer,) = drain(raft)
    assert (answer.reject, answer.index, answer.reject_hint, answer.log_term) == (True, index, hint, hint_term)


def test_an_append_before_the_commit_index_is_answered_with_it() -> None:
    raft = make_raft(terms=[1, 1, 1], commit=3)
    raft.step(Message(APP, to=1, sender=2, term=1, index=1, log_term=1, entries=[Entry(1, 2), Entry(1, 3)]))
    assert [(m.kind, m.index, m.reject) for m in drain(raft)] == [(APP_RESP, 3, False)]


def test_an_append_whose_entries_do_not_follow_one_another_is_refused() -> None:
    raft = make_raft(terms=[1])
    raft.step(Message(APP, to=1, sender=2, term=1, index=1, log_term=1, entries=[Entry(1, 3)]))
    assert drain(raft) == []
    assert raft.log.last_index == 1


def test_a_commit_beyond_the_log_means_that_the_log_was_lost() -> None:
    raft = make_raft(terms=[1])
    with pytest.raises(LogLost):
        raft.step(Message(MessageKind.HEARTBEAT, to=1, sender=2, term=1, commit=2))


# Windows


def test_no_more_messages_in_flight_than_allowed() -> None:
    raft = leader_of_two(max_inflight=3)
    assert appends(propose(raft, 5)) == [(1, 1), (2, 1), (3, 1)]
    assert raft.progress[2].is_full and raft.progress[2].is_paused
    ack(raft, 3)
    assert appends(drain(raft))[-1] == (4, 2)


def test_no_more_bytes_in_flight_than_allowed() -> None:
    raft = leader_of_two(max_message_bytes=100, max_inflight_bytes=250)
    assert appends(propose(raft, 5, size=90)) == [(1, 1), (2, 1), (3, 1)]
    ack(raft, 2)
    assert appends(drain(raft)) == [(4, 1)]


def test_a_full_window_lets_one_empty_append_through_per_sign_of_life() -> None:
    raft = leader_of_two(max_inflight=2)
    propose(raft, 5)
    assert appends(heartbeat_answer(raft)) == [(3, 0)]
    assert raft.progress[2].is_paused
    assert propose(raft, 1) == []
    assert appends(heartbeat_answer(raft)) == [(3, 0)]


def test_old_acknowledgements_do_not_open_the_window() -> None:
    raft = leader_of_two(max_inflight=2)
    propose(raft, 4)
    ack(raft, 1)
    assert drain(raft) == []
    assert raft.progress[2].is_full


def test_appends_are_cut_to_the_message_limit_but_carry_at_least_one_entry() -> None:
    raft = elect(make_raft(1, [1, 2], max_message_bytes=250))
    for size in (80, 80, 80, 1000, 10):
        raft.propose([b"x" * size])
    drain(raft)
    ack(raft, 1)
    assert appends(drain(raft))[-4:] == [(1, 2), (3, 1), (4, 1), (5, 1)]


def test_a_follower_far_behind_gets_messages_filled_to_the_limit() -> None:
    raft = elect(make_raft(1, [1, 2], max_message_bytes=20_000))
    for _ in range(30):
        raft.propose([b"x" * 10] * 100)
    drain(raft)
    ack(raft, 1)
    sent = [m for m in drain(raft) if len(m.entries) > 1]
    sizes = [sum(len(encode_entry(entry)) for entry in m.entries) for m in sent]
    assert sum(len(m.entries) for m in sent) == 3000
    assert all(20_000 - 25 < size <= 20_000 for size in sizes[:-1])


def test_a_limit_of_zero_sends_entries_one_by_one() -> None:
    raft = leader_of_two(max_message_bytes=0)
    raft.propose([b"", b"", b""])
    assert appends(drain(raft)) == [(1, 1)]
    ack(raft, 2)
    assert appends(drain(raft)) == [(2, 1), (3, 1)]


def test_after_lost_messages_a_rejection_restarts_from_the_last_match() -> None:
    raft = leader_of_two()
    propose(raft, 4)
    reject(raft, 4, hint=1, hint_term=1)
    assert raft.progress[2].state is PROBE
    assert appends(drain(raft)) == [(1, 4)]


def test_an_unreachable_follower_is_probed() -> None:
    raft = leader_of_two()
    propose(raft, 2)
    raft.report_unreachable(2)
    progress = raft.progress[2]
    assert (progress.state, progress.next_index, progress.inflight) == (PROBE, 2, 0)


# Commit news


def test_followers_hear_of_a_commit_at_once() -> None:
    raft = leader_of_two()
    propose(raft, 1)
    ack(raft, 2)
    assert [(m.kind, m.commit) for m in drain(raft)] == [(APP, 2)]


def test_a_follower_that_lagged_hears_of_the_commit_when_it_acknowledges() -> None:
    raft = elect(make_raft())
    ack(raft, 1, 2)
    ack(raft, 1, 3)
    drain(raft)
    propose(raft, 1)
    ack(raft, 2, 3)
    drain(raft)
    raft.progress[2].sent_commit = 1
    ack(raft, 2, 2)
    assert [(m.to, m.commit) for m in drain(raft)] == [(2, 2)]


def test_heartbeats_tell_no_more_than_the_follower_is_known_to_have() -> None:
    raft = elect(make_raft())
    ack(raft, 1, 2)
    drain(raft)
    raft.tick()
    assert [(m.to, m.commit) for m in drain(raft)] == [(2, 1), (3, 0)]


# Snapshots


def leader_with_compacted_log() -> Raft:
    log = RaftLog(10, 1, entries_of(*[1] * 12)[10:])
    return elect(make_raft(1, [1, 2], log=log, term=1, commit=12, applied=11))


def test_a_follower_behind_the_log_waits_for_a_snapshot() -> None:
    raft = leader_with_compacted_log()
    reject(raft, 12, hint=3, hint_term=1)
    ready = raft.ready()
    assert ready is not None and ready.snapshots_wanted == [2]
    assert raft.progress[2].state is SNAPSHOT
    assert propose(raft, 3) == []
    assert heartbeat_answer(raft) == []


def test_a_silent_follower_gets_no_snapshot() -> None:
    raft = leader_with_compacted_log()
    raft.progress[2].next_index = 3
    raft.progress[2].recent_active = False
    raft.propose([b"x"])
    ready = raft.ready()
    assert ready is not None and ready.snapshots_wanted == []


def snapshot_at(index: int) -> Snapshot:
    return Snapshot(SnapshotMeta(index, 1, ConfState((1, 2))))


def test_the_snapshot_message_names_the_term_and_moves_the_follower_behind_the_snapshot() -> None:
    raft = leader_with_compacted_log()
    assert raft.snapshot_message(2, snapshot_at(12)) is None
    reject(raft, 12, hint=3, hint_term=1)
    message = raft.snapshot_message(2, snapshot_at(12))
    assert message is not None
    assert (message.kind, message.to, message.sender, message.term) == (MessageKind.SNAP, 2, 1, 2)
    assert (raft.progress[2].pending_snapshot, raft.progress[2].next_index) == (12, 13)


def test_a_member_that_no_longer_leads_sends_no_snapshot() -> None:
    raft = leader_with_compacted_log()
    reject(raft, 12, hint=3, hint_term=1)
    raft.step(Message(MessageKind.HEARTBEAT, to=1, sender=2, term=9))
    assert raft.snapshot_message(2, snapshot_at(12)) is None


@pytest.mark.parametrize(("ok", "next_index"), [(True, 13), (False, 1)])
def test_after_a_snapshot_the_follower_is_probed(ok: bool, next_index: int) -> None:
    raft = leader_with_compacted_log()
    reject(raft, 12, hint=3, hint_term=1)
    raft.snapshot_message(2, snapshot_at(12))
    raft.report_snapshot(2, ok)
    progress = raft.progress[2]
    assert (progress.state, progress.next_index, progress.is_paused) == (PROBE, next_index, True)
    raft.report_snapshot(2, not ok)
    assert progress.next_index == next_index


def test_an_acknowledgement_that_reaches_the_log_ends_the_wait_whatever_the_snapshot() -> None:
    raft = leader_with_compacted_log()
    reject(raft, 12, hint=3, hint_term=1)
    raft.snapshot_message(2, snapshot_at(12))
    ack(raft, 9)
    assert raft.progress[2].state is SNAPSHOT
    ack(raft, 11)
    assert raft.progress[2].state is REPLICATE
    assert appends(drain(raft)) == [(11, 2)]


# Proposals


def test_proposals_need_a_leader() -> None:
    assert not make_raft().propose([b"x"])
    raft = make_raft()
    raft.campaign()
    assert not raft.propose([b"x"])


def test_a_follower_forwards_proposals_without_a_term() -> None:
    net = Net(*(make_raft(member) for member in (1, 2, 3)))
    net.campaign(1)
    assert net.propose(2, b"a", b"b")
    forwarded = next(m for m in net.delivered if m.kind is PROP)
    assert (forwarded.to, forwarded.sender, forwarded.term) == (1, 2, 0)
    assert [entry.data for entry in net.applied[3]] == [b"", b"a", b"b"]


def test_large_proposals_are_forwarded_one_by_one() -> None:
    """All in one they may be more than a stream takes, and hold everything else up."""
    net = Net(*(make_raft(member) for member in (1, 2, 3)))
    net.campaign(1)
    large = MAX_FORWARDED_BYTES + 1
    datas = [b"a" * large, b"b", b"c" * (large - 2), b"d" * large, b"e", b"f"]
    assert net.propose(2, *datas)
    forwarded = [[len(entry.data) for entry in m.entries] for m in net.delivered if m.kind is PROP]
    assert forwarded == [[large], [1, large - 2], [large], [1, 1]]
    assert [entry.data for entry in net.applied[3]] == [b"", *datas]


def test_forwarding_can_be_switched_off() -> None:
    raft = make_raft(2, options=Options(forward_proposals=False))
    raft.step(Message(MessageKind.HEARTBEAT, to=2, sender=1, term=1))
    assert not raft.propose([b"x"])
    raft.step(Message(PROP, to=2, sender=3, entries=[Entry(0, 0, b"x")]))
    assert [m.kind for m in drain(raft)] == [MessageKind.HEARTBEAT_RESP]


def test_a_proposal_over_the_uncommitted_limit_is_dropped_whole() -> None:
    raft = leader_of_two(max_uncommitted_bytes=100)
    assert raft.propose([b"x" * 60])
    assert not raft.propose([b"x" * 20, b"y" * 21])
    assert raft.log.last_index == 2
    assert raft.propose([b"x" * 40])
    assert raft.propose([b""])
    assert not raft.propose([b"x"])
    drain(raft)
    ack(raft, 4)
    drain(raft)
    assert raft.uncommitted_bytes == 0
    assert raft.propose([b"x" * 100])


def test_one_proposal_larger_than_the_limit_is_taken_when_nothing_is_uncommitted() -> None:
    raft = leader_of_two(max_uncommitted_bytes=100)
    assert raft.propose([b"x" * 5000])
    assert not raft.propose([b"x"])


def test_applied_entries_release_the_limit_one_by_one() -> None:
    raft = leader_of_two(max_uncommitted_bytes=100)
    raft.propose([b"x" * 40])
    raft.propose([b"x" * 50])
    ready = raft.ready()
    assert ready is not None
    raft.appended(ready)
    ack(raft, 3)
    raft.applied_to(2)
    assert raft.uncommitted_bytes == 50
    assert not raft.propose([b"x" * 51])
    assert raft.propose([b"x" * 50])


def test_no_data_is_no_proposal() -> None:
    raft = elect(make_raft(1, [1]))
    assert raft.propose([])
    assert raft.ready() is None
    raft.step(Message(PROP, to=1, sender=2))
    assert raft.ready() is None


@pytest.mark.parametrize("kind", [MessageKind.HUP, MessageKind.BEAT, MessageKind.CHECK_QUORUM, MessageKind.UNREACHABLE])
def test_local_messages_are_not_taken_from_the_network(kind: MessageKind) -> None:
    raft = leader_of_two()
    before = raft.status()
    raft.step(Message(kind, to=1, sender=2))
    assert raft.ready() is None
    assert raft.status() == before


def test_answers_of_strangers_are_not_taken() -> None:
    raft = leader_of_two()
    raft.step(Message(APP_RESP, to=1, sender=9, term=8, index=1))
    assert raft.term == 1


def test_a_cluster_with_every_tenth_message_lost_keeps_going() -> None:
    net = Net(*(make_raft(member, max_inflight=2) for member in (1, 2, 3)))
    net.campaign(1)
    for number in range(20):
        net.lost_kinds = {APP} if number % 3 == 0 else {APP_RESP} if number % 3 == 1 else set()
        net.propose(1, b"%d" % number)
    net.heal()
    net.tick(ELECTION_TICKS // 2)
    assert {raft.log.applied for raft in net.members.values()} == {21}
