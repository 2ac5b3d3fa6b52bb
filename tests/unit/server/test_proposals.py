"""Proposals: ids, one answer each, deadlines, refusals, and what is forgotten with them."""

import pytest

from ratifyd.apply import requests
from ratifyd.apply.requests import decode
from ratifyd.errors import (
    ContextDeadlineExceeded,
    EtcdError,
    RequestTooLarge,
    RequestTooManyRequests,
    Stopped,
    Timeout,
)
from ratifyd.proto.rpc_pb2 import PutRequest
from ratifyd.raft.messages import ConfChange, ConfChangeKind
from ratifyd.server.proposals import MAX_GAP, Proposals, RequestIds
from simulation.clock import SimClock
from tests.support_member import Waiter

BODY = PutRequest(key=b"k", value=b"v").SerializeToString()


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture
def proposals(clock: SimClock) -> Proposals:
    return Proposals(RequestIds(0x12345, 0x1_0203_0405_0607), max_bytes=200, timeout_s=7, now=clock.time)


def add(proposals: Proposals, body: bytes = BODY, gap: int = 0) -> Waiter:
    waiter = Waiter()
    proposals.gap = gap
    proposals.add(requests.PUT, body, waiter)
    return waiter


def test_ids_hold_member_time_and_counter() -> None:
    ids = RequestIds(0x12345, 0x1_0203_0405_0607)
    assert ids.next() == 0x2345_0304_0506_0701
    assert ids.next() == 0x2345_0304_0506_0702


def test_the_counter_wraps_inside_its_48_bits() -> None:
    ids = RequestIds(0x7, 0xFF_FFFF_FFFF)
    first = ids.next()
    for _ in range(254):
        ids.next()
    assert first == 0x0007_FFFF_FFFF_FF01
    assert ids.next() == 0x0007_0000_0000_0000


def take(proposals: Proposals) -> list[bytes]:
    """What the node does when raft has accepted everything queued."""
    queued, proposals.queued = proposals.queued, []
    return queued


def test_an_entry_is_etcds_request_with_the_waiters_id(proposals: Proposals) -> None:
    add(proposals)
    (data,) = take(proposals)
    _, row, request, _ = decode(data)
    assert (row, request.key, request.value) == (requests.PUT, b"k", b"v")
    assert list(proposals.waiters) == [data]
    assert not proposals.queued
    assert take(proposals) == []


def test_an_answer_comes_once_and_only_to_its_waiter(proposals: Proposals) -> None:
    first, second = Waiter(), Waiter()
    for waiter in (first, second):
        proposals.add_change(ConfChange(ConfChangeKind.REMOVE_NODE, 5), waiter, timeout_s=1, wanted=lambda: True)
    request_id = proposals.changes[1].id
    proposals.changed(request_id, None)
    proposals.changed(request_id, Timeout())
    proposals.changed(12345, None)
    assert second.done
    assert second.error is None
    assert not first.done


def why(since: float) -> EtcdError:
    """The error of a request that was proposed."""
    return Timeout()


def test_a_request_that_was_never_proposed_ends_with_its_deadline_only(proposals: Proposals, clock: SimClock) -> None:
    waiter = add(proposals)
    proposals.expire(clock.now + 7, why)
    assert isinstance(waiter.error, ContextDeadlineExceeded)


def test_membership_changes_have_deadlines_of_their_own(proposals: Proposals, clock: SimClock) -> None:
    soon, late = Waiter(), Waiter()
    change = ConfChange(ConfChangeKind.REMOVE_NODE, 5)
    proposals.add_change(change, late, timeout_s=1000, wanted=lambda: True)
    proposals.add_change(change, soon, timeout_s=1, wanted=lambda: True)
    assert len({change.id for change in proposals.changes}) == 2
    proposals.expire(clock.now + 1, why)
    assert isinstance(soon.error, ContextDeadlineExceeded)
    assert not late.done
    (left,) = proposals.changes
    proposals.changes.clear()
    proposals.changed(left.id, None)
    assert late.done
    proposals.expire(clock.now + 2000, why)


def test_time_runs_out(proposals: Proposals, clock: SimClock) -> None:
    early = add(proposals)
    clock.now += 5
    late = add(proposals)
    take(proposals)
    proposals.expire(clock.now + 1.99, why)
    assert not early.done
    proposals.expire(clock.now + 2, why)
    assert isinstance(early.error, Timeout)
    assert not late.done
    assert proposals.failed_total == 1


def test_what_nobody_waits_for_is_not_proposed_any_more(proposals: Proposals, clock: SimClock) -> None:
    """Without a leader requests queue up; kept after their time they would fill the memory, and then the log."""
    add(proposals)
    clock.now += 7
    live = add(proposals)
    proposals.expire(clock.now, why)
    (data,) = take(proposals)
    assert list(proposals.waiters) == [data]
    assert not live.done


def test_decoded_requests_go_with_their_proposal(proposals: Proposals, clock: SimClock) -> None:
    request = requests.PUT.read(BODY)
    proposals.add(requests.PUT, BODY, Waiter(), request)
    ((_, _, request_id, row, carried, identity),) = proposals.waiters.values()
    assert carried is request
    again = decode(proposals.queued[0])
    assert (request_id, row, identity) == (again[0], again[1], again[3])
    assert (carried.key, carried.value) == (again[2].key, again[2].value)
    proposals.expire(clock.now + 7, why)
    assert not proposals.waiters
    assert not proposals.queued


def test_refusals_come_at_once(proposals: Proposals) -> None:
    with pytest.raises(RequestTooLarge):
        add(proposals, PutRequest(key=b"k", value=bytes(200)).SerializeToString())
    add(proposals, gap=MAX_GAP)
    with pytest.raises(RequestTooManyRequests):
        add(proposals, gap=MAX_GAP + 1)
    assert len(proposals.waiters) == len(proposals.queued) == 1


def test_the_limit_is_on_the_whole_entry(proposals: Proposals) -> None:
    def size(value: int) -> bytes:
        return PutRequest(key=b"k", value=bytes(value)).SerializeToString()

    add(proposals, size(150))
    (data,) = take(proposals)
    room = 200 - len(data)
    add(proposals, size(150 + room))
    assert len(take(proposals)[0]) == 200
    with pytest.raises(RequestTooLarge):
        add(proposals, size(151 + room))


def test_a_stop_answers_everybody(proposals: Proposals) -> None:
    waiters = [add(proposals) for _ in range(3)]
    proposals.stop()
    assert all(isinstance(waiter.error, Stopped) for waiter in waiters)
    assert not proposals.queued
    with pytest.raises(Stopped):
        add(proposals)


def test_a_change_nobody_waits_for_is_never_proposed(proposals: Proposals) -> None:
    """Its client gave up while there was no leader: one elected a day later must not carry it out."""
    waits = {1: True, 2: True}
    waiters = {number: Waiter() for number in waits}
    for number, waiter in waiters.items():
        change = ConfChange(ConfChangeKind.REMOVE_NODE, number)
        proposals.add_change(change, waiter, timeout_s=86400, wanted=lambda number=number: waits[number])  # type: ignore[misc]
    proposals.drop_unwanted_changes()
    assert [change.node_id for change in proposals.changes] == [1, 2]
    waits[1] = False
    proposals.expire(1, lambda since: Timeout())
    assert [change.node_id for change in proposals.changes] == [2]
    assert proposals.pending == 1
    (proposed,), proposals.changes = proposals.changes, []
    waits[2] = False
    proposals.drop_unwanted_changes()
    proposals.changed(proposed.id, None)
    assert waiters[2].answers == [(b"", None)]
