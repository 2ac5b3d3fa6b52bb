"""Keys that came since the last time are taken out of Python's garbage collection; a member that stops is not."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from ratifyd.embed import collecting
from ratifyd.embed.collecting import FREEZE_KEYS, CollectorPace


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def is_walked(made: object) -> bool:
    """Whether collections look at an object; those that are frozen are not among the collector's."""
    return any(each is made for each in gc.get_objects())


def test_what_is_there_is_frozen_at_the_start_and_after_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "PERIOD_S", 0.0)
    keys = 7

    async def looked() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async def run() -> None:
        nonlocal keys
        first: list[list[bytes]] = [[]]
        pace = CollectorPace(asyncio.get_running_loop(), lambda: keys)
        pace.start()
        assert not is_walked(first)
        second: list[list[bytes]] = [[]]
        keys += FREEZE_KEYS - 1
        await looked()
        assert is_walked(second), "too few keys to matter"
        keys += 1
        await looked()
        assert not is_walked(second)
        keys = 0
        await looked()
        third: list[list[bytes]] = [[]]
        keys = FREEZE_KEYS
        await looked()
        assert not is_walked(third), "keys that come after others were deleted are new"
        pace.stop()
        fourth: list[list[bytes]] = [[]]
        keys = 3 * FREEZE_KEYS
        await looked()
        assert is_walked(fourth), "it was stopped"

    asyncio.run(run())


class Cycle:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


def pace_of(keys: int = 0) -> CollectorPace:
    return CollectorPace(asyncio.get_running_loop(), lambda: keys)


def test_what_a_stopped_member_was_can_be_collected() -> None:
    async def run() -> None:
        for _ in range(2):
            member = Cycle()
            gone = weakref.ref(member)
            pace = pace_of()
            pace.start()
            del member
            gc.collect()
            assert gone() is not None, "it is frozen"
            pace.stop()
            assert gone() is not None, "the stop itself does not collect"
            gc.collect()
            assert gone() is None
            assert not gc.get_freeze_count()

    asyncio.run(run())


def test_the_thresholds_of_the_process_come_back_with_the_last_stop() -> None:
    async def run() -> None:
        gc.set_threshold(701, 11, 12)
        before = gc.get_threshold()
        for _ in range(2):
            first, second = pace_of(), pace_of()
            first.start()
            during = gc.get_threshold()
            assert during != before
            second.start()
            first.stop()
            first.stop()  # again does nothing
            assert gc.get_threshold() == during
            pace_of().stop()  # nor does that of a member that never started
            assert gc.get_threshold() == during
            second.stop()
            assert gc.get_threshold() == before

    asyncio.run(run())


def test_the_others_collect_what_a_stopped_member_was_and_freeze_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        member = Cycle()
        gone = weakref.ref(member)
        first = pace_of()
        first.start()
        del member
        monkeypatch.setattr(collecting, "PERIOD_S", 0.0)
        second = pace_of(keys=3)
        second.start()
        kept: list[list[bytes]] = [[]]
        first.stop()
        assert is_walked(kept)
        assert gone() is not None
        for _ in range(3):
            await asyncio.sleep(0)
        assert gone() is None
        assert not is_walked(kept)
        later: list[list[bytes]] = [[]]
        for _ in range(3):
            await asyncio.sleep(0)
        assert is_walked(later), "once is enough"
        second.stop()

    asyncio.run(run())


def test_a_stop_while_another_member_collects_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of several loops stop at any time of each other, even in a collection, which runs finalizers."""

    async def run() -> None:
        kept, stopped, collecting_one = pace_of(), pace_of(), pace_of()
        for pace in (kept, stopped, collecting_one):
            pace.start()
        stopped.stop()
        collect = gc.collect
        stops: list[threading.Thread] = []

        def collecting_slowly() -> int:
            if not stops:
                stops.append(threading.Thread(target=collecting_one.stop))
                stops[0].start()
                stops[0].join(0.1)  # it waits for us, or is forgotten
            return collect()

        monkeypatch.setattr(gc, "collect", collecting_slowly)
        collecting._COLLECTOR.go_on(grown=False)
        stops[0].join(10)
        monkeypatch.undo()
        assert not gc.get_freeze_count(), "it thawed all after the collection"
        assert collecting._COLLECTOR.go_on(grown=False), "and is collected at the next turn"
        kept.stop()

    asyncio.run(run())
