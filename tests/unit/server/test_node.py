"""Turns: what is answered when, with every disk job held back until the test lets it run."""

from itertools import pairwise
from random import Random
from typing import Any

import pytest

from ratifyd.apply import requests
from ratifyd.apply.requests import UnknownRequest
from ratifyd.errors import EtcdError, LeaderChanged, MemberNotEnoughStarted, Stopped
from ratifyd.membership import Change, ChangeKind
from ratifyd.membership import Member as ClusterMember
from ratifyd.ports import Backend, Done
from ratifyd.proto.rpc_pb2 import LeaseGrantRequest, PutRequest
from ratifyd.raft.codec import encode_conf_change
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
from ratifyd.server.node import TURN_ENTRIES, TURN_S
from ratifyd.storage.memory import MemoryBackend
from tests.support_member import Member, Waiter


@pytest.fixture
def member() -> Member:
    return Member(stepped=True).start()


def put(number: int = 0) -> PutRequest:
    return PutRequest(key=b"k%d" % number, value=b"v")


class Log:
    def __init__(self, member: Member) -> None:
        self.member = member
        self.seen: list[tuple[Any, str, int]] = []

    def __call__(self, argument: Any, error: EtcdError | None) -> None:
        self.seen.append((argument, "" if error is None else type(error).__name__, self.member.state.store.revision))


def test_nothing_is_answered_before_it_is_durable(member: Member) -> None:
    waiter = member.call(requests.PUT, put())
    member.clock.run()
    assert member.wal_worker.jobs
    assert not waiter.done
    assert member.state.store.revision == 1
    synced = member.machine.disk.steps
    member.wal_worker.run_one()
    assert member.machine.disk.steps > synced
    assert not waiter.done  # the turn is yet to come
    member.clock.run()
    assert waiter.body == b""
    assert member.state.store.revision == 2
    member.check()


def test_many_turns_wait_for_the_disk_in_order(member: Member) -> None:
    order: list[int] = []
    for number in range(5):

        def answered(_body: bytes, error: EtcdError | None, number: int = number) -> None:
            assert error is None
            order.append(number)

        member.server.propose(requests.PUT, put(number).SerializeToString(), answered)
        member.clock.run()
    assert not order
    member.settle()
    assert order == [0, 1, 2, 3, 4]
    assert member.state.store.revision == 6


def test_a_failed_sync_ends_the_member_and_answers_nothing(member: Member) -> None:
    waiter = member.call(requests.PUT, put())
    member.clock.run()
    member.machine.disk.fail["datasync"] = OSError(5, "I/O error")
    member.settle()
    assert [type(failure) for failure in member.failures] == [OSError]
    assert not waiter.done
    later = member.call(requests.PUT, put(1))
    member.clock.advance(60)
    assert not later.done
    assert member.state.store.revision == 1


def test_a_read_sees_every_write_answered_before_it(member: Member) -> None:
    log = Log(member)
    member.do(requests.PUT, put())
    member.server.read(log, "after one")
    member.clock.run()
    assert log.seen == [("after one", "", 2)]
    waiter = member.call(requests.PUT, put(1))
    member.server.read(log, "with a write on its way")
    member.settle()
    member.server.read(log, "after it")
    member.settle()
    assert waiter.done
    assert log.seen[2] == ("after it", "", 3)


def test_reads_run_after_the_writes_of_their_turn_are_applied(member: Member) -> None:
    """A read confirmed at an index above what is applied waits for it."""
    log = Log(member)
    first = member.call(requests.PUT, put())
    member.clock.run()
    member.wal_worker.run_one()  # durable; the turn that commits and applies it takes the read in, too
    member.server.read(log, "r")
    member.clock.run()
    assert first.done
    assert log.seen == [("r", "", 2)]


def test_no_read_is_answered_without_a_committed_entry_of_the_term() -> None:
    member = Member(stepped=True)
    log = Log(member)
    member.server.start()
    member.server.read(log, "early")
    member.clock.run()
    while not log.seen:
        assert member.raft.log.committed < member.raft.log.last_index or member.raft.role is not Role.LEADER
        assert member.wal_worker.run_one()
        member.clock.run()
    assert log.seen == [("early", "", 1)]  # and the new leader is no reason to fail it
    assert member.raft.log.term(member.raft.log.committed) == member.raft.term


def test_many_requests_are_proposed_and_applied_in_slices() -> None:
    member = Member().start()
    member.settle()
    before = member.raft.log.last_index
    waiters = [member.call(requests.PUT, put(number)) for number in range(2 * TURN_ENTRIES + 1)]
    logged, done = set(), set()
    while member.clock.run_one():
        logged.add(member.raft.log.last_index - before)
        done.add(sum(waiter.done for waiter in waiters))
    slices = [0, TURN_ENTRIES, 2 * TURN_ENTRIES, 2 * TURN_ENTRIES + 1]
    assert sorted(logged - {0}) == slices[1:]
    assert sorted(done) == slices


def test_what_one_sync_has_made_durable_is_applied_in_slices(member: Member) -> None:
    waiters = [member.call(requests.PUT, put(number)) for number in range(2 * TURN_ENTRIES + 1)]
    member.clock.run()
    while member.wal_worker.jobs:
        member.wal_worker.run_one()
    done = []
    while member.clock.run_one():
        done.append(sum(waiter.done for waiter in waiters))
    assert all(later - sooner <= TURN_ENTRIES for sooner, later in pairwise(done))
    member.settle()
    assert all(waiter.done for waiter in waiters)


def test_entries_that_take_long_are_applied_in_several_turns() -> None:
    member = Member().start()
    member.settle()
    now = 0.0

    def look() -> float:
        nonlocal now
        now += TURN_S / 2
        return now

    member.server.timing.now = look
    waiters = [member.call(requests.PUT, put(number)) for number in range(9)]
    done = []
    while member.clock.run_one():
        done.append(sum(waiter.done for waiter in waiters))
    assert max(later - sooner for sooner, later in pairwise(done)) <= 3
    assert done[-1] == 9


def test_apply_waits_for_a_backend_that_is_behind() -> None:
    member = Member(stepped=True, backend_batch_limit=10, backend_batch_interval_s=1000.0).start()
    waiters = [member.call(requests.PUT, put(number)) for number in range(10)]
    for _ in range(3):
        member.clock.run()
        member.wal_worker.run()
        waiters += [member.call(requests.PUT, put(number)) for number in range(10)]
    member.clock.run()
    member.wal_worker.run()
    member.clock.run()
    assert member.backend_worker.jobs
    done = sum(waiter.done for waiter in waiters)
    assert done < len(waiters)
    assert member.server.proposals.gap > 0
    member.settle()
    assert all(waiter.done for waiter in waiters)
    assert member.server.proposals.gap == 0
    member.check()


def test_an_apply_that_cannot_be_computed_ends_the_member(member: Member) -> None:
    before = member.call(requests.PUT, put())
    member.clock.run()
    member.raft.propose([b"\xca\x51\x00"])  # field 1305
    after = member.call(requests.PUT, put(1))
    member.settle()
    assert [type(failure) for failure in member.failures] == [UnknownRequest]
    assert before.done
    assert not after.done
    assert member.server.node.stopped


def test_answers_given_before_the_end_still_leave(member: Member) -> None:
    flushed: list[str] = []
    member.server.node.after_turn(lambda: flushed.append("one"))
    member.server.stop()
    member.clock.run()
    assert flushed == ["one"]
    member.server.node.after_turn(lambda: flushed.append("two"))
    member.clock.run()
    assert flushed == ["one", "two"]


def test_answers_of_a_turn_that_fails_still_leave(member: Member) -> None:
    flushed: list[str] = []
    member.server.node.after_turn(lambda: flushed.append("one"))
    member.server.node.at_end = lambda: 1 // 0
    member.clock.run()
    assert [type(failure) for failure in member.failures] == [ZeroDivisionError]
    assert flushed == ["one"]


def test_a_duty_that_fails_ends_the_member(member: Member) -> None:
    member.server.leasing = None  # type: ignore[assignment]
    member.clock.advance(0.2)
    assert [type(failure) for failure in member.failures] == [AttributeError]


def test_a_stop_answers_what_waits(member: Member) -> None:
    log = Log(member)
    waiter = member.call(requests.PUT, put())
    member.server.read(log, "r")
    member.clock.run()
    member.server.read(log, "later")
    member.server.stop()
    member.settle()
    assert isinstance(waiter.error, Stopped)
    assert {error for _, error, _ in log.seen} <= {"", Stopped.__name__}
    assert log.seen[-1][:2] == ("later", Stopped.__name__)
    assert not member.failures


def test_a_leader_change_fails_reads_under_way() -> None:
    member = Member(stepped=True)
    log = Log(member)
    node = member.server.node
    node.reads.after(log, "asked")
    node.reads.open_batch()
    member.server.start()
    member.settle()
    assert log.seen[0][:2] == ("asked", LeaderChanged.__name__)


def test_a_refused_membership_change_is_still_a_step(member: Member) -> None:
    known = next(iter(member.state.members.members.values()))
    before = member.state.consistent_index
    for other, peer_urls, removed in ((7, known.peer_urls, False), (8, (), True)):
        kind = ConfChangeKind.REMOVE_NODE if removed else ConfChangeKind.ADD_NODE
        change = Change(ChangeKind(int(kind)), ClusterMember(other, tuple(peer_urls)))
        waiter = Waiter()
        member.server.proposals._changing[other] = (waiter, member.clock.now + 7)
        assert member.raft.propose_conf_change(ConfChange(kind, other, change.context(), other))
        member.server.node.wake()
        member.settle()
        assert waiter.error is not None
    assert member.state.consistent_index == before + 2
    assert member.raft.conf_state.voters == (member.server.member_id,)
    assert list(member.state.members.members) == [member.server.member_id]
    member.do(requests.PUT, put())
    again = member.restart()
    assert list(again.state.members.members) == [member.server.member_id]
    assert again.state.store.revision == 2
    again.check()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (EntryKind.CONF_CHANGE, b"\xff"),
        (EntryKind.CONF_CHANGE, b"\x10\x09\x18\x07"),  # no such kind of change
        (EntryKind.CONF_CHANGE, encode_conf_change(ConfChange(ConfChangeKind.ADD_NODE, 7, b"[" * 100_000))),
        (EntryKind.CONF_CHANGE, encode_conf_change(ConfChange(ConfChangeKind.ADD_NODE, 7, b'{"id":8}'))),
        (EntryKind.CONF_CHANGE, encode_conf_change(ConfChange(ConfChangeKind.ADD_NODE, 7, b'{"id":7,"peerURLs":5}'))),
        (EntryKind.CONF_CHANGE_V2, b"\x12\x04\x08\x00\x10\x07"),
    ],
)
def test_a_change_that_cannot_be_read_changes_nothing(member: Member, kind: EntryKind, data: bytes) -> None:
    """etcd panics, on every member and at every restart; only a broken or hostile member proposes such things."""
    before = member.state.members.sorted()
    raft = member.raft
    raft.step(Message(MessageKind.PROP, to=raft.id, sender=9, entries=[Entry(0, 0, data, kind)]))
    member.server.node.wake()
    member.do(requests.PUT, put())
    assert member.state.members.sorted() == before
    member.check()
    again = member.restart()
    again.check()
    assert again.state.members.sorted() == before


def test_a_member_cannot_be_the_last_to_go(member: Member) -> None:
    """raft would be without voters: etcd panics."""
    errors: list[EtcdError | None] = []
    change = ConfChange(ConfChangeKind.REMOVE_NODE, member.raft.id)
    member.server.node.proposals.add_change(
        change, lambda body, error: errors.append(error), timeout_s=5, wanted=lambda: True
    )
    member.server.node.wake()
    member.settle()
    assert [type(error) for error in errors] == [MemberNotEnoughStarted]
    member.do(requests.PUT, put())
    member.check()


def test_a_sole_voter_waits_quietly_while_the_log_learns_of_a_change() -> None:
    """It cannot campaign before the change is applied, which waits for a sync: to try in each turn is to spin."""
    member = Member(backend_batch_interval_s=1000.0).start()
    member.server.committer.sync(lambda: None)  # from here on the backend knows of its only voter
    member.settle()
    own = ClusterMember(member.raft.id, ("http://localhost:2390",))
    waiter = Waiter()
    change = ConfChange(ConfChangeKind.UPDATE_NODE, own.id, Change(ChangeKind.UPDATE_NODE, own).context())
    member.server.node.proposals.add_change(change, waiter, timeout_s=5.0, wanted=lambda: True)
    member.server.node.wake()
    member.settle()
    assert waiter.done
    member.server.node.stop()
    member.machine.crash(Random(0))
    again = Member(member.machine, clock=member.clock, stepped=True)
    again.server.start()
    for _ in range(1000):
        if not again.clock.run_one():
            break
    else:
        raise AssertionError("turn follows turn to no effect")
    assert again.raft.role is Role.FOLLOWER
    again.settle()
    assert again.raft.role is Role.LEADER


def with_a_second_voter() -> Member:
    """A member whose backend knows that 9 is a voter too; nothing is committed in the background from here on."""
    member = Member(stepped=True, backend_batch_interval_s=1000.0).start()
    member.settle()
    waiter = Waiter()
    nine = Change(ChangeKind.ADD_NODE, ClusterMember(9, ("http://nine:2380",)))
    change = ConfChange(ConfChangeKind.ADD_NODE, 9, nine.context())
    member.server.node.proposals.add_change(change, waiter, timeout_s=5.0, wanted=lambda: True)
    member.server.node.wake()
    member.settle()
    assert waiter.done and waiter.error is None
    return member


def test_what_a_snapshot_supersedes_is_not_applied_while_it_is_recorded() -> None:
    """Its members are raft's already; and its commit index is not for the log before it is there itself."""
    member = with_a_second_voter()
    raft, node = member.raft, member.server.node
    term, last, before = raft.term + 1, raft.log.last_index, raft.log.last_term
    learner = Change(ChangeKind.ADD_LEARNER, ClusterMember(5, ("http://five:2380",), is_learner=True))
    added = encode_conf_change(ConfChange(ConfChangeKind.ADD_LEARNER_NODE, 5, learner.context(), 77))
    entries = [
        Entry(term, last + 1),
        Entry(term, last + 2, added, EntryKind.CONF_CHANGE),
        Entry(term, last + 3, b"overwritten elsewhere"),
    ]
    has_room, node._has_room = node._has_room, lambda: False  # the backend is behind
    sent = {"to": raft.id, "sender": 9, "term": term}
    node.receive(
        [Message(MessageKind.APP, **sent, log_term=before, index=last, entries=entries, commit=last + 2)]  # type: ignore[arg-type]
    )
    member.settle()
    meta = SnapshotMeta(last + 100, term + 1, ConfState(voters=tuple(sorted((raft.id, 9)))))
    node.receive([Message(MessageKind.SNAP, to=raft.id, sender=9, term=term + 1, snapshot=Snapshot(meta, b""))])
    member.clock.run()
    node._has_room = has_room
    node.wake()
    member.clock.run()
    while member.wal_worker.run_one():
        member.clock.run()
    assert raft.conf_state == meta.conf_state
    member.server.node.stop()
    member.machine.crash(Random(0))
    again = Member(member.machine, clock=member.clock, stepped=True)
    assert again.raft.log.committed <= last + 2


def test_a_change_of_members_that_the_backend_is_beyond_is_not_made_again() -> None:
    """The end of the log was lost, and comes again: of a member, too, that was removed before the backend's index."""
    member = with_a_second_voter()
    raft, node = member.raft, member.server.node
    term, last, before = raft.term + 1, raft.log.last_index, raft.log.last_term
    member.state.consistent_index = last + 2
    state, json = raft.conf_state, member.state.conf_state_json
    learner = Change(ChangeKind.ADD_LEARNER, ClusterMember(5, ("http://five:2380",), is_learner=True))
    added = encode_conf_change(ConfChange(ConfChangeKind.ADD_LEARNER_NODE, 5, learner.context(), 77))
    entries = [Entry(term, last + 1, added, EntryKind.CONF_CHANGE), Entry(term, last + 2)]
    sent = {"to": raft.id, "sender": 9, "term": term}
    node.receive(
        [Message(MessageKind.APP, **sent, log_term=before, index=last, entries=entries, commit=last + 2)]  # type: ignore[arg-type]
    )
    member.settle()
    assert not member.failures and node.applied == last + 2
    assert (raft.conf_state, member.state.conf_state_json) == (state, json)


def test_what_the_leader_wants_is_not_left_to_the_next_one() -> None:
    """A lease that ends while leadership is handed over: the next leader gives it all of its time again."""
    member = with_a_second_voter()
    raft, node = member.raft, member.server.node

    def acknowledge() -> None:
        member.settle()
        node.receive([Message(MessageKind.APP_RESP, to=raft.id, sender=9, term=raft.term, index=raft.log.last_index)])
        member.settle()

    acknowledge()
    granted = member.call(requests.LEASE_GRANT, LeaseGrantRequest(ID=7, TTL=2))
    acknowledge()
    assert granted.error is None and member.server.leasing.is_primary
    for _ in range(34):
        member.clock.advance(0.05)
        acknowledge()
    member.server.leadership.transfer(9, lambda error: None, timeout_s=5.0)
    member.transport.messages.clear()
    for _ in range(12):
        member.clock.advance(0.05)
        member.settle()
    assert raft.transfer_target == 9 and not node.proposals.waiters
    hello = Message(
        MessageKind.APP,
        to=raft.id,
        sender=9,
        term=raft.term + 1,
        log_term=raft.log.last_term,
        index=raft.log.last_index,
        entries=[Entry(raft.term + 1, raft.log.last_index + 1)],
        commit=raft.log.last_index,
    )
    node.receive([hello])
    member.settle()
    assert raft.leader_id == 9
    forwarded = [entry for sent in member.transport.messages if sent.kind is MessageKind.PROP for entry in sent.entries]
    assert not forwarded


def test_a_stop_while_a_snapshot_of_the_leader_is_recorded_ends(member: Member) -> None:
    """The log that closes writes what it was given, tells so, and takes no more."""
    raft = member.raft
    meta = SnapshotMeta(raft.log.last_index + 9, raft.term + 1, ConfState(voters=(raft.id, 9)))
    message = Message(MessageKind.SNAP, to=raft.id, sender=9, term=meta.term, snapshot=Snapshot(meta, b""))
    member.server.node.receive((message,))
    member.clock.run()
    assert member.snapshot_worker.run_one()
    assert len(member.wal_worker.jobs) == 1
    member.server.stop()
    ended: list[BaseException | None] = []
    member.wal.close(ended.append)
    member.settle()
    assert ended == [None]
    assert not member.failures


class Received:
    """Empty backends of snapshots; `adopted` has those that are to become the live one."""

    def __init__(self, member: Member) -> None:
        self.opened: list[int] = []
        self.closed: list[int] = []
        self.adopted: list[Done] = []
        self._member = member
        member.server.installer._received = self

    def open(self, index: int) -> Backend:
        closed = self.closed

        class Closing(MemoryBackend):
            def close(self) -> None:
                closed.append(index)

        self.opened.append(index)
        return Closing(self._member.backend_worker)

    def adopt(self, index: int, opened: Backend, done: Done) -> None:
        self.adopted.append(done)


def snapshot_at(index: int) -> Snapshot:
    return Snapshot(SnapshotMeta(index, 2), b"")


def test_a_stop_while_a_snapshot_is_installed_leaves_it_to_the_next_start(member: Member) -> None:
    """The workers that would rename its file are about to end. Nobody keeps the file open, and locked, beyond that."""
    received = Received(member)
    member.server.installer.install(snapshot_at(9))
    member.server.stop()
    member.settle()
    assert not received.adopted and received.closed == [9]
    member.check()


def test_a_stop_while_an_installation_waits_for_a_commit_can_still_bring_the_backend_up(member: Member) -> None:
    """The commit ends after the stop: the installation gives way, or the stop would wait for it for ever."""
    received = Received(member)
    member.call(requests.PUT, put())
    member.clock.run()
    while member.wal_worker.run_one():
        member.clock.run()
    synced: list[str] = []
    member.server.committer.sync(lambda: synced.append("before"))
    member.server.installer.install(snapshot_at(9))
    member.clock.run()
    assert member.state.buffer.flushing and not received.adopted
    member.server.stop()
    member.server.committer.sync(lambda: synced.append("at the stop"))
    member.settle()
    assert synced == ["before", "at the stop"] and not received.adopted
    member.check()


def test_a_stop_while_the_state_is_replaced_begins_with_no_other_snapshot(member: Member) -> None:
    """Nobody would be there to close it."""
    received = Received(member)
    member.server.installer.install(snapshot_at(9))
    member.settle()
    member.server.installer.install(snapshot_at(19))
    (adopted,) = received.adopted
    member.server.stop()
    told: list[Snapshot] = []
    member.server.installer._done = told.append
    adopted(None)
    member.settle()
    assert received.opened == [9] and not told
