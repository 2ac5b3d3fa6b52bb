"""Compaction in the background, and the automatic compactor's schedules (semantics 6.4-6.10)."""

from collections.abc import Callable

import pytest

from ratifyd.apply import requests
from ratifyd.proto.rpc_pb2 import CompactionRequest, PutRequest
from ratifyd.server.compaction import AutoCompactor
from tests.support_member import Member

HOUR = 3600.0


class Asked:
    """Stands for the cluster: its revision, what was asked of it and when, and whether it says yes."""

    def __init__(self, mode: str, retention: float) -> None:
        self.now = 1000.0
        self.start = self.now
        self.revision = 1
        self.asked: list[tuple[float, int]] = []
        self.willing = True
        self.held: list[Callable[[bool], None]] | None = None
        self.compactor = AutoCompactor(mode, retention, lambda: self.revision, self.compact, now=self.now)

    def compact(self, revision: int, done: Callable[[bool], None]) -> None:
        self.asked.append((round((self.now - self.start) / 60, 1), revision))
        if self.held is not None:
            self.held.append(done)
        else:
            done(self.willing)

    def run(self, minutes: float, *, growth: int = 1, leading: bool = True) -> None:
        """Let minutes pass in ticks of six seconds; the revision grows by `growth` a minute."""
        end = self.now + minutes * 60
        while self.now < end - 1e-6:
            self.compactor.tick(self.now, leading=leading)
            self.now += 6
            if growth and round(self.now - self.start) % 60 == 0:
                self.revision += growth


def test_periodic_keeps_a_window_of_its_period() -> None:
    """Twelve hours: nothing for as long, then every hour to what was current as long before, and one sample more."""
    asked = Asked("periodic", 12 * HOUR)
    asked.run(12 * 60)
    assert asked.asked == []
    asked.run(3 * 60)
    assert asked.asked == [(720.0, 1), (780.0, 55), (840.0, 115)]


def test_short_periods_compact_once_a_period() -> None:
    asked = Asked("periodic", 10 * 60)
    asked.run(41)
    assert asked.asked == [(10.0, 1), (20.0, 10), (30.0, 20), (40.0, 30)]


@pytest.mark.parametrize("period_s", [5.0, 59 * 60.0, HOUR, 24 * HOUR])
def test_late_ticks_shift_nothing(period_s: float) -> None:
    """Ticks come a little late, each by another while; compactions are a period, then an hour at most apart."""
    asked = Asked("periodic", period_s)
    interval_s = min(period_s, HOUR)
    late = 0.0
    while asked.now < asked.start + period_s + 5.5 * interval_s:
        late = (late + 0.037) % 0.1
        asked.compactor.tick(asked.now + late * interval_s / 60, leading=True)
        asked.revision += 1
        asked.now += interval_s / 600
    times = [minute * 60 for minute, _ in asked.asked]
    assert len(times) == 6
    for number, time in enumerate(times):
        assert time == pytest.approx(period_s + number * interval_s, abs=interval_s / 100 + 6)


def test_periodic_skips_what_did_not_move() -> None:
    asked = Asked("periodic", HOUR)
    asked.run(61, growth=0)
    asked.run(60, growth=0)
    assert asked.asked == [(60.0, 1)]
    asked.revision = 50
    asked.run(120, growth=0)
    assert [revision for _, revision in asked.asked] == [1, 50]


def test_a_failure_is_tried_again_at_the_next_sample() -> None:
    asked = Asked("periodic", HOUR)
    asked.willing = False
    asked.run(66.2)
    assert [minute for minute, _ in asked.asked] == [60.0, 66.0]
    asked.willing = True
    asked.run(120)
    minutes = [minute for minute, _ in asked.asked]
    assert minutes == [60.0, 66.0, 72.0, 132.0]


def test_one_request_at_a_time() -> None:
    asked = Asked("periodic", HOUR)
    asked.held = []
    asked.run(100)
    assert len(asked.asked) == 1
    asked.held.pop()(True)
    asked.run(60)
    assert len(asked.asked) == 2


def test_only_a_leader_compacts_but_everybody_takes_samples() -> None:
    asked = Asked("periodic", HOUR)
    asked.run(90, leading=False)
    assert asked.asked == []
    asked.run(6.1)
    ((minute, revision),) = asked.asked
    assert minute == 90.0
    assert revision == 25  # of the time when it did not lead


def test_revision_mode_keeps_so_many_every_five_minutes() -> None:
    asked = Asked("revision", 100)
    asked.run(5.1, growth=10)
    assert asked.asked == []
    asked.revision = 101
    asked.run(5, growth=0)
    assert asked.asked == [(10.0, 1)]
    asked.run(5, growth=0)
    assert len(asked.asked) == 1  # same target
    asked.revision = 150
    asked.run(5, growth=0, leading=False)
    assert len(asked.asked) == 1
    asked.run(5, growth=0)
    assert asked.asked[1:] == [(25.0, 50)]


def test_revision_mode_tries_again_after_a_failure() -> None:
    asked = Asked("revision", 100)
    asked.revision = 200
    asked.willing = False
    asked.run(10.1, growth=0)
    assert [revision for _, revision in asked.asked] == [100, 100]


def test_no_retention_no_compaction() -> None:
    for mode in ("periodic", "revision"):
        asked = Asked(mode, 0)
        asked.run(600)
        assert asked.asked == []


def test_a_member_compacts_itself() -> None:
    member = Member(auto_compaction_mode="revision", auto_compaction_retention="3").start()
    for _ in range(10):
        member.do(requests.PUT, PutRequest(key=b"k"))
    member.clock.advance(299)
    assert member.state.store.compacted == -1
    member.clock.advance(2)
    assert member.state.store.compacted == 11 - 3
    member.clock.advance(1)
    assert not member.state.store.compacting
    member.check()


@pytest.fixture
def written() -> Member:
    member = Member(compaction_batch_limit=40, compaction_sleep_interval_s=4.0).start()
    for _ in range(50):
        member.do(requests.PUT, PutRequest(key=b"k"))
    return member


def test_rows_go_in_tenths_of_a_batch_with_a_tenth_of_the_pause(written: Member) -> None:
    done: list[float] = []
    written.server.compaction.wait(lambda: done.append(0))
    assert done == [0]  # nothing runs
    started = written.clock.now
    written.do(requests.COMPACTION, CompactionRequest(revision=51))
    written.server.compaction.wait(lambda: done.append(written.clock.now - started))
    assert written.state.store.compacting
    removed = [written.state.store.rows_compacted]
    while written.state.store.compacting:
        written.clock.advance(0.4)
        removed.append(written.state.store.rows_compacted)
    assert removed == [*range(4, 49, 4), 49]
    assert 3 < done[1] < 6
    written.check()


def test_a_restart_goes_on(written: Member) -> None:
    written.do(requests.COMPACTION, CompactionRequest(revision=51))
    written.clock.advance(1.5)
    assert written.state.store.compacting
    again = written.restart(compaction_batch_limit=40, compaction_sleep_interval_s=4.0)
    assert again.state.store.compacted == 51
    again.clock.advance(10)
    assert not again.state.store.compacting
    again.check()
    assert len(again.state.buffer.range(b"key", b"\0", None)) == 1


def test_a_stopped_member_touches_its_store_no_more(written: Member) -> None:
    written.do(requests.COMPACTION, CompactionRequest(revision=51))
    before = written.state.store.rows_compacted
    written.server.stop()
    written.clock.advance(60)
    assert written.state.store.rows_compacted == before
    assert not written.failures
