"""Keys that came since the last time are taken out of Python's garbage collection."""

import asyncio
import gc
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
