"""The leader's lease duty by itself: what a renewal waits for when rests of leases are in the log."""

from collections.abc import Callable
from typing import cast

from ratifyd.apply.entries import Answer
from ratifyd.errors import EtcdError, NotLeader, RequestTooManyRequests, Timeout
from ratifyd.lease import LeaseBook
from ratifyd.proto.rpc_pb2 import LeaseCheckpointRequest
from ratifyd.server.leader import Leadership
from ratifyd.server.leases import LeaseService
from ratifyd.server.leasing import Leasing
from simulation.clock import SimClock

LEASE, TTL_S = 7, 1000
Proposed = list[tuple[LeaseCheckpointRequest, Answer]]


class Bench:
    """A leader with one lease; what it proposes is applied when the test says so."""

    def __init__(self) -> None:
        self.book = LeaseBook()
        self.book.grant(LEASE, TTL_S)
        self.now = 0.0
        self.checkpoints: Proposed = []
        self.answers: list[int | None] = []
        self.leasing = Leasing(
            self.book,
            lambda body, answer: None,
            lambda body, answer: self.checkpoints.append((LeaseCheckpointRequest.FromString(body), answer)),
            now=lambda: self.now,
            extend_s=1.0,
            checkpoints=True,
        )
        self.leasing.promote(self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.leasing.tick(self.now)

    def apply(self, error: EtcdError | None = None) -> None:
        """The oldest proposal is committed and applied, or its proposer gives up."""
        request, answer = self.checkpoints.pop(0)
        if error is None:
            for point in request.checkpoints:
                self.book.checkpoint(point.ID, point.remaining_TTL)
        answer(b"", error)

    def renew(self) -> None:
        self.leasing.renew(LEASE, self.now, self.answers.append)

    @property
    def left_for_another_leader(self) -> int:
        return self.book.leases[LEASE].effective_ttl_s


def promised(bench: Bench, act: Callable[[], None] = lambda: None) -> None:
    """Whenever the client has been promised the whole time, another leader would grant it too."""
    act()
    if bench.answers:
        assert bench.answers == [TTL_S]
        assert bench.left_for_another_leader == TTL_S


def test_a_renewal_is_answered_when_the_rest_is_off_the_record() -> None:
    bench = Bench()
    bench.pass_time(301)
    bench.apply()
    assert bench.left_for_another_leader == 700
    bench.renew()
    promised(bench)
    assert bench.left_for_another_leader == 700, "the log alone decides"
    assert not bench.answers
    bench.apply()
    promised(bench)
    assert bench.answers
    assert bench.leasing.remaining_s(bench.book.leases[LEASE], bench.now) == TTL_S
    bench.renew()
    assert bench.answers == [TTL_S, TTL_S]
    assert not bench.checkpoints


def test_a_rest_still_on_its_way_through_the_log_counts_too() -> None:
    bench = Bench()
    bench.pass_time(301)
    bench.renew()
    while bench.checkpoints:
        promised(bench, bench.apply)
    assert bench.answers == [TTL_S]


def test_a_checkpoint_nobody_waits_for_any_more_may_still_be_applied() -> None:
    bench = Bench()
    bench.pass_time(301)
    request, _ = bench.checkpoints[0]
    bench.apply(Timeout())
    bench.renew()
    assert not bench.answers
    for point in request.checkpoints:
        bench.book.checkpoint(point.ID, point.remaining_TTL)
    promised(bench, bench.apply)
    assert bench.answers == [TTL_S]


def test_a_checkpoint_that_was_refused_is_made_again() -> None:
    """While leadership is handed over nothing is proposed; if that comes to nothing the leader goes on."""
    bench = Bench()
    bench.pass_time(301)
    bench.apply(NotLeader())
    bench.pass_time(1)
    assert not bench.checkpoints
    bench.pass_time(2)
    bench.apply(RequestTooManyRequests())
    bench.pass_time(3)
    bench.apply()
    assert bench.left_for_another_leader == 694
    bench.pass_time(0)
    bench.pass_time(299)
    assert not bench.checkpoints
    bench.pass_time(1)
    bench.apply()
    assert bench.left_for_another_leader == 394


def test_a_checkpoint_that_was_refused_stands_in_no_renewals_way() -> None:
    bench = Bench()
    bench.pass_time(301)
    bench.apply(NotLeader())
    bench.renew()
    promised(bench)
    assert bench.answers and not bench.checkpoints
    bench.pass_time(3)
    assert [point.remaining_TTL for point in bench.checkpoints[0][0].checkpoints] == [997]


def test_a_lease_that_is_gone_needs_no_other_checkpoint() -> None:
    bench = Bench()
    bench.pass_time(301)
    bench.book.revoke(LEASE)
    bench.apply(NotLeader())
    bench.pass_time(3)
    assert not bench.checkpoints


def test_a_renewal_whose_clearing_fails_is_not_confirmed() -> None:
    bench = Bench()
    bench.pass_time(301)
    bench.apply()
    bench.renew()
    bench.apply(Timeout())
    assert bench.answers == [None]


def test_a_lease_that_went_meanwhile_is_not_renewed() -> None:
    bench = Bench()
    bench.pass_time(301)
    bench.apply()
    bench.renew()
    bench.book.revoke(LEASE)
    bench.apply()
    assert bench.answers == [0]


def test_another_leader_meanwhile_is_asked_instead() -> None:
    bench = Bench()
    bench.pass_time(301)
    bench.apply()
    bench.renew()
    bench.leasing.demote()
    bench.leasing.promote(bench.now)
    bench.apply()
    assert bench.answers == [None]


def test_a_leader_that_stood_still_asks_before_it_renews_for_another_member() -> None:
    """Another one may lead by now, and have ended the lease."""
    bench = Bench()
    led: list[bool] = [False, True]
    service = LeaseService(
        SimClock(),
        bench.book,
        bench.leasing,
        cast("Leadership", None),
        confirm=lambda then: then(led.pop(0)),
        caught_up=lambda then: then(True),
    )
    answers: list[tuple[int | None, bool]] = []
    service.renew_here(LEASE, lambda ttl, in_time: answers.append((ttl, in_time)))
    assert (answers, bench.leasing.renewed_total) == ([(None, True)], 0)
    service.renew_here(LEASE, lambda ttl, in_time: answers.append((ttl, in_time)))
    assert (answers[1:], bench.leasing.renewed_total) == ([(TTL_S, True)], 1)
