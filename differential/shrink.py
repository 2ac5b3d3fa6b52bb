"""Shorten a failing sequence by replaying parts of it on fresh servers, within a time budget."""

import time
from collections.abc import Callable, Sequence

from differential.operations import Operation
from differential.pairs import session
from differential.runner import Difference

_TIMEOUT_S = 1.5
"""Shorter than for a first run: a sequence that fails by silence is replayed many times."""


async def replay(operations: Sequence[Operation], left: str, right: str) -> Difference | None:
    """The first difference that these operations show on a fresh pair."""
    async with session(left, right, timeout_s=_TIMEOUT_S) as both:
        for operation in operations:
            found = await both.execute(operation)
            if found is not None:
                return found
        return await both.finish()


def same_kind(one: Difference, other: Difference) -> bool:
    """Whether two differences look like one bug: same call, same place in the answer."""
    paths = [each.operation.path if each.operation else "" for each in (one, other)]
    places = [each.problems[0].partition(":")[0] for each in (one, other)]
    return paths[0] == paths[1] and places[0] == places[1]


async def shrink(
    operations: Sequence[Operation],
    found: Difference,
    left: str,
    right: str,
    *,
    budget_s: float,
    progress: Callable[[str], None],
) -> tuple[list[Operation], Difference]:
    """The shortest sequence found in time that shows a difference of the same kind, and that difference."""
    best, difference = list(operations), found
    deadline = time.monotonic() + budget_s
    size = 1
    while size < len(operations) and time.monotonic() < deadline:
        progress(f"shrinking: {len(best)} operations, trying the last {size}")
        seen = await replay(operations[-size:], left, right)
        if seen is not None and same_kind(seen, difference):
            best, difference = list(operations[-size:])[: seen.step], seen
            break
        size *= 4
    for kind in dict.fromkeys((each.kind, each.path) for each in best):
        candidate = [each for each in best[:-1] if (each.kind, each.path) != kind] + best[-1:]
        if time.monotonic() > deadline or len(candidate) == len(best):
            continue
        progress(f"shrinking: {len(best)} operations, trying without {kind[1]}")
        seen = await replay(candidate, left, right)
        if seen is not None and same_kind(seen, difference):
            best, difference = candidate[: seen.step], seen
    chunk = max(1, len(best) // 2)
    while time.monotonic() < deadline:
        reduced = False
        at = 0
        while at < len(best) - 1 and time.monotonic() < deadline:
            # The last operation shows the difference, so it stays.
            candidate = best[:at] + best[min(at + chunk, len(best) - 1) :]
            progress(f"shrinking: {len(best)} operations, trying {len(candidate)}")
            seen = await replay(candidate, left, right)
            if seen is not None and same_kind(seen, difference):
                best, difference, reduced = candidate[: seen.step], seen, True
            else:
                at += chunk
        if chunk == 1 and not reduced:
            break
        chunk = max(1, chunk // 2)
    return best, difference
