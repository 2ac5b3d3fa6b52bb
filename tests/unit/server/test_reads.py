"""Reads: batches, retries, errors, and the wait for the applied index."""

from typing import Any

import pytest

from ratifyd.errors import EtcdError, LeaderChanged, Stopped, Timeout
from ratifyd.schema import decode_u64
from ratifyd.server.reads import BYTES_A_TURN, RETRY_S, SECONDS_A_TURN, Reads
from simulation.clock import SimClock


class Log:
    """Reads that were run, and what they were told."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, str]] = []

    def __call__(self, argument: Any, error: EtcdError | None) -> None:
        self.seen.append((argument, "" if error is None else type(error).__name__))


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture
def reads(clock: SimClock) -> Reads:
    ids = iter(range(100, 200))
    return Reads(lambda: next(ids), timeout_s=7, now=clock.time)


@pytest.fixture
def log() -> Log:
    return Log()


def test_all_that_wait_share_one_context(reads: Reads, log: Log) -> None:
    reads.after(log, "a")
    reads.after(log, "b")
    context = reads.open_batch()
    assert decode_u64(context) == 100
    reads.after(log, "c")
    assert not reads.can_open  # one batch at a time
    reads.confirm(context, 5)
    reads.run(4)
    assert not log.seen
    reads.run(5)
    assert log.seen == [("a", ""), ("b", "")]
    assert reads.can_open
    reads.confirm(reads.open_batch(), 4)
    reads.run(5)
    assert log.seen[2:] == [("c", "")]


def test_another_context_confirms_nothing(reads: Reads, log: Log) -> None:
    reads.after(log, "a")
    old = reads.open_batch()
    reads.leader_changed()
    reads.after(log, "b")
    reads.open_batch()
    reads.confirm(old, 1)
    reads.run(9)
    assert log.seen == [("a", LeaderChanged.__name__)]


def test_batches_run_in_order_of_confirmation(reads: Reads, log: Log) -> None:
    for name, index in (("a", 3), ("b", 3), ("c", 8)):
        reads.after(log, name)
        reads.confirm(reads.open_batch(), index)
    reads.run(7)
    assert [name for name, _ in log.seen] == ["a", "b"]
    reads.run(8)
    assert [name for name, _ in log.seen] == ["a", "b", "c"]


def test_an_unanswered_batch_is_asked_for_again_and_given_up(reads: Reads, log: Log, clock: SimClock) -> None:
    assert reads.retry(clock.now) is None
    reads.after(log, "a")
    context = reads.open_batch()
    assert reads.retry(clock.now + RETRY_S / 2) is None
    assert reads.retry(clock.now + RETRY_S) == context
    assert reads.retry(clock.now + 1.5 * RETRY_S) is None
    assert reads.retry(clock.now + 7) is None
    assert log.seen == [("a", Timeout.__name__)]


def test_a_leader_change_fails_only_what_was_asked_of_the_old_one(reads: Reads, log: Log) -> None:
    reads.after(log, "confirmed")
    reads.confirm(reads.open_batch(), 9)
    reads.after(log, "asked")
    reads.open_batch()
    reads.after(log, "queued")
    reads.leader_changed()
    assert log.seen == [("asked", LeaderChanged.__name__)]
    reads.run(9)
    assert log.seen[1:] == [("confirmed", "")]
    assert reads.can_open


def test_reads_that_no_leader_takes_time_out(reads: Reads, log: Log, clock: SimClock) -> None:
    """Semantics 12.6; they would otherwise wait, and hold their requests, as long as there is no leader."""
    start = clock.now
    for tick in range(100):
        if tick in (0, 10, 50):
            reads.after(log, tick)
        reads.expire(start + tick * 0.1)
        due = [name for name in (0, 10, 50) if tick * 0.1 - name * 0.1 >= 7 - 1e-9]
        assert [name for name, _ in log.seen] == due
    assert {error for _, error in log.seen} == {Timeout.__name__}
    reads.after(log, 100)
    for tick in range(100, 170):
        reads.expire(start + tick * 0.1)
    assert [name for name, _ in log.seen] == [0, 10, 50]


def test_time_in_the_queue_ends_with_a_batch(reads: Reads, log: Log, clock: SimClock) -> None:
    reads.after(log, "a")
    reads.expire(clock.now)
    reads.open_batch()
    reads.after(log, "b")
    reads.expire(clock.now + 7)
    assert not log.seen
    reads.expire(clock.now + 14)
    assert log.seen == [("b", Timeout.__name__)]


def test_a_stop_answers_everybody(reads: Reads, log: Log) -> None:
    reads.after(log, "confirmed")
    reads.confirm(reads.open_batch(), 9)
    reads.after(log, "asked")
    reads.open_batch()
    reads.after(log, "queued")
    reads.stop()
    assert sorted(log.seen) == [(name, Stopped.__name__) for name in ("asked", "confirmed", "queued")]
    reads.run(99)
    assert len(log.seen) == 3


def test_late_answers_are_counted_and_logged(
    reads: Reads, log: Log, clock: SimClock, caplog: pytest.LogCaptureFixture
) -> None:
    reads.after(log, "a")
    context = reads.open_batch()
    clock.now += RETRY_S
    assert reads.retry(clock.now) == context
    (retried,) = caplog.records
    assert retried.getMessage() == "waiting for ReadIndex response took too long, retrying"
    assert retried.fields == {"sent-request-id": 100, "retry-timeout": "500ms"}  # type: ignore[attr-defined]
    assert (reads.slow_total, reads.failed_total) == (0, 0)
    reads.leader_changed()
    reads.leader_changed()  # nothing is open any more
    assert (reads.slow_total, reads.failed_total) == (0, 1)
    reads.confirm(context, 5)
    assert caplog.records[-1].getMessage().startswith("ignored out-of-date read index response; local node")
    assert caplog.records[-1].fields == {"received-request-id": 100}  # type: ignore[attr-defined]
    reads.confirm(b"odd", 5)
    assert caplog.records[-1].fields == {"received-request-id": 0}  # type: ignore[attr-defined]
    assert reads.slow_total == 2
    reads.after(log, "b")
    reads.open_batch()
    clock.now += 7
    assert reads.retry(clock.now) is None
    assert caplog.records[-1].getMessage().startswith("timed out waiting for read index response")
    assert caplog.records[-1].fields == {"timeout": "7s"}  # type: ignore[attr-defined]
    assert reads.slow_total == 3


def test_local_reads_wait_for_nothing_but_the_turn(reads: Reads, log: Log) -> None:
    reads.after(log, "asked")
    reads.confirm(reads.open_batch(), 9)
    reads.local.append((log, "local"))
    assert not reads.run(8)
    assert log.seen == [("local", "")]
    reads.local.append((log, "late"))
    reads.stop()
    assert sorted(log.seen[1:]) == [("asked", Stopped.__name__), ("late", Stopped.__name__)]


def test_a_turn_answers_no_more_bytes_than_it_may(reads: Reads) -> None:
    """The rest keeps its place, and neither kind of read waits for the other."""
    answered: list[str] = []
    told: list[int] = []

    def answer(argument: tuple[str, int], error: EtcdError | None) -> int:
        answered.append(argument[0])
        return argument[1]

    reads.on_run = lambda closed, confirmed, run, index, applied: told.append(index)
    half = BYTES_A_TURN // 2
    for name in ("a", "b", "c"):
        reads.after(answer, (name, half))
    reads.confirm(reads.open_batch(), 5)
    reads.after(answer, ("d", 1))
    reads.confirm(reads.open_batch(), 6)
    for name in ("x", "y", "z"):
        reads.local.append((answer, (name, half)))
    assert reads.run(6)
    assert answered == ["a", "b", "x", "y"]
    reads.local.append((answer, ("last", 0)))
    assert not reads.run(6)
    assert answered[4:] == ["c", "d", "z", "last"]
    assert told == [5, 6]


def test_reads_that_take_long_are_answered_in_several_turns(reads: Reads, clock: SimClock) -> None:
    done: list[int] = []

    def slow(number: int, error: EtcdError | None) -> int:
        clock.now += SECONDS_A_TURN / 2
        done.append(number)
        return 1

    for number in range(4):
        reads.after(slow, number)
        reads.local.append((slow, 10 + number))
    reads.confirm(reads.open_batch(), 5)
    turns = []
    while reads.run(5):
        turns.append(len(done))
    assert turns == [4]
    assert sorted(done) == [0, 1, 2, 3, 10, 11, 12, 13]
