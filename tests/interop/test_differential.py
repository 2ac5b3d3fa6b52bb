"""etcd and the server under test answer alike; etcd against etcd shows that the comparison itself is sound."""

import asyncio

import pytest

from differential.generator import Generator
from differential.pairs import session
from differential.runner import Difference
from differential.scenarios import SCENARIOS, run_scenario
from differential.users import UserGenerator


@pytest.mark.parametrize("seed", [101, 102])
def test_random_sequences(kind: str, seed: int) -> None:
    async def script() -> Difference | None:
        async with session("etcd", kind) as both:
            generator = Generator(seed)
            for _ in range(1200):
                found = await both.execute(generator.next(both))
                if found is not None:
                    return found
            return await both.finish()

    assert asyncio.run(script()) is None


def test_random_sequences_with_users(kind: str) -> None:
    async def script() -> Difference | None:
        async with session("etcd", kind) as both:
            generator = UserGenerator(103)
            for _ in range(1500):
                found = await both.execute(generator.next(both))
                if found is not None:
                    return found
            return await both.finish()

    assert asyncio.run(script()) is None


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios(kind: str, name: str) -> None:
    slow = ("lease keep-alive",)
    if kind == "etcd" and name in slow:
        pytest.skip("waits for several seconds; run for the server under test only")
    assert asyncio.run(run_scenario(name, "etcd", kind)) == []
