"""How long a loop stays awake after answers, driven round by round."""

from collections.abc import Callable
from itertools import pairwise

from ratifyd.net.lingering import LINGER_S, MOST_SKIPPED, Lingering


class Loop:
    """Rounds of a loop, each of which takes a tenth of the time that may be lingered."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ready: list[Callable[[], None]] = []
        self.yields = 0
        self.lingering = Lingering(self.ready.append, lambda: self.now, yield_core=self._yielded)

    def _yielded(self) -> None:
        self.yields += 1

    def round(self) -> bool:
        """Whether it would poll without waiting afterwards."""
        callbacks, self.ready[:] = self.ready[:], []
        for callback in callbacks:
            callback()
        self.now += LINGER_S / 10
        return bool(self.ready)

    def rounds_awake(self) -> int:
        count = 0
        while self.round():
            count += 1
            assert count < 1000, "it never sleeps"
        return count


def test_it_looks_for_a_while_and_then_sleeps() -> None:
    loop = Loop()
    loop.lingering.answered()
    assert loop.rounds_awake() in (10, 11)
    assert loop.yields in (9, 10), "the first round may find the next request at once: it yields to nobody"
    assert not loop.ready


def test_each_answer_makes_it_linger_anew() -> None:
    loop = Loop()
    for _ in range(50):
        loop.lingering.answered()
        for _ in range(5):
            assert loop.round()
    assert loop.rounds_awake() in range(4, 8)


def test_busy_rounds_yield_to_nobody() -> None:
    loop = Loop()
    for _ in range(50):
        loop.lingering.answered()
        loop.round()
    assert not loop.yields


def test_it_looks_ever_less_often_where_nothing_comes() -> None:
    loop = Loop()
    looked = []
    for number in range(1000):
        loop.lingering.answered()
        if loop.rounds_awake():
            looked.append(number)
    assert looked[:5] == [0, 2, 6, 14, 30]
    gaps = [after - before for before, after in pairwise(looked)]
    assert max(gaps) == MOST_SKIPPED + 1
    assert len(looked) < 25


def test_one_that_pays_makes_it_look_again_each_time() -> None:
    loop = Loop()
    while True:  # until it skips most
        loop.lingering.answered()
        if not loop.rounds_awake() and loop.now > 100 * LINGER_S:
            break
    while not loop.ready:
        loop.lingering.answered()
    loop.round()
    loop.lingering.answered()
    assert loop.rounds_awake()
    loop.lingering.answered()
    assert loop.rounds_awake(), "the answer before had paid"
