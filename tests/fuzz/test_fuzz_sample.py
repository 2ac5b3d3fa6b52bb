"""A sample of every fuzzing target, the same on every run; and what fuzzing has found, input by input.

`python -m fuzzing` runs as many as there is time for.
"""

import logging
from collections.abc import Iterator

import pytest

from fuzzing.engine import outcome, run_target
from fuzzing.target import Target
from fuzzing.targets import TARGETS


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is refused is logged as such, thousands of times."""
    logging.disable(logging.ERROR - 1)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_a_sample_of_each_target(name: str) -> None:
    target = TARGETS[name]
    report = run_target(target, seed="sample", inputs=target.sample)
    assert report.inputs >= target.sample
    assert not report.failures, "\n".join(map(str, report.failures.values()))


FOUND: list[tuple[str, list[str], str]] = [
    ("apply", ["a206020801a25100"], "a cluster version that is none"),
    ("apply", ["0803a251140a12687474703a2f2f3132372e302e302e313a31"], "a cluster version that is none"),
    ("apply", ["080512035055541a0f2f302f76657273696f7b908f352e30"], "a path of the old form that is no text"),
    (
        "apply",
        [
            "080612035055541a172f302f6d656d626572732f312f6174747269627574657322287b226e616d65223a2261222c22636c69656e745552"
            "4c8000000022687474703a2f2f613a31225d7d"
        ],
        "attributes of the old form that are no text",
    ),
    ("config_file", [(b"watch-progress-notify-interval: " + b"9" * 400).hex()], "a duration beyond all floats"),
    ("requests", ["020a01631201621807"], "an entry whose first byte is that of the old form"),
    ("json_out", ["300801"], "a number in the place of a list"),
    ("json_out", ["000802"], "a number in the place of bytes"),
    ("json_out", ["2c10631201ff"], "bytes in the place of a number"),
    ("json_out", ["350801"], "a number in the place of a text"),
    ("claims", [(b'{"username":"a","revision":3,"exp":1' + b"0" * 400 + b"}").hex()], "an end beyond all floats"),
    ("conf_state", ["7b22766f74657273223a5b31653430325d7d"], "an infinite member"),
    ("conf_state", [b'{"a":'.hex() * 1500], "nested too deeply"),
    (
        "peer_messages",
        [
            "080e10011802200228063a11080010021807220902ee40501a0800100218082212ad02df737557ef9094d3ae39ed7e98c4bac9",
            "08081001",
        ],
        "a heartbeat of no term after an election: the log could not be read again",
    ),
    (
        "peer_messages",
        ["080e100120ffffffffffffffffff0130023a06080010005803621043616d706169676e5472616e73666572"],
        "the last term there is",
    ),
]
"""Target, inputs from a fresh start, and what was the matter."""


@pytest.mark.parametrize(("name", "inputs", "matter"), FOUND, ids=[f"{name}: {what}" for name, _, what in FOUND])
def test_what_was_found(name: str, inputs: list[str], matter: str) -> None:
    assert outcome(TARGETS[name], [bytes.fromhex(each) for each in inputs]) is None


# --- the engine itself


def _needle(data: bytes) -> None:
    if b"needle" in data:
        raise KeyError(len(data))


def test_a_failure_is_found_reduced_and_told() -> None:
    target = Target(
        "planted", lambda: [b"haystack " * 20 + b"needlf" + b" haystack" * 20], lambda: _needle, (ValueError,)
    )
    told = []
    report = run_target(target, seed="1", inputs=60_000, told=told.append)
    (failure,) = report.failures.values()
    assert told == [failure]
    assert failure.inputs == (b"needle",)
    assert "--targets planted --input 6e6565646c65" in str(failure)


def test_time_and_memory_are_watched() -> None:
    hungry = Target("hungry", lambda: [b"x"], lambda: lambda data: bytes(1 << 20), memory_bytes=1 << 19)
    assert any("TooMuchMemory" in each for each in run_target(hungry, seed="1", inputs=4000).failures)

    lazy = Target("lazy", lambda: [b"x"], lambda: lambda data: sum(range(1_000_000)), cpu_s=0.001)
    assert any("TooSlow" in each for each in run_target(lazy, seed="1", inputs=2).failures)


def test_state_that_fails_at_the_end_of_a_batch_is_reduced_to_its_inputs() -> None:
    class Counter:
        def __init__(self) -> None:
            self.seen: list[bytes] = []

        def __call__(self, data: bytes) -> None:
            self.seen.append(data)

        def finish(self) -> None:
            assert sum(b"!" in each for each in self.seen) < 2

    target = Target("state", lambda: [b"a!", b"b"], Counter, batch=20, keeps_state=True)
    (failure,) = run_target(target, seed="1", inputs=100).failures.values()
    assert failure.inputs == (b"!", b"!")
