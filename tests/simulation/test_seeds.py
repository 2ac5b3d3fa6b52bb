"""The simulation: clean seeds, the same run twice, and bugs that it must find."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.mutants import MUTANTS, planted
from simulation.options import Options, draw
from simulation.record import RECORD
from simulation.runner import catch, catch_as_recorded, run_options, run_seed, run_seeds, shrink
from simulation.scenarios import script_of

ROOT = Path(__file__).resolve().parents[2]
CAUGHT_AT_ONCE = {
    "apply_twice": ("members=1", "faults=", "duration_s=6"),
    "answer_before_commit": ("members=3", "faults=kill", "fault_interval_s=0.7"),
    "read_locally": ("members=3", "faults=", "delay_max_s=0.05", "duration_s=8"),
    "lease_never_ends": ("members=1", "faults=", "keepers=2", "duration_s=8"),
    "index_ahead_of_data": ("members=1", "faults=kill", "fault_interval_s=0.5"),
    "vote_not_persisted": RECORD["vote_not_persisted"].settings,
}
"""Mutants, and the options under which a few seeds are enough at once."""


@pytest.mark.parametrize("seed", range(1, 7))
def test_seeds_are_clean(seed: int) -> None:
    result = run_seed(seed)
    assert result.ok, f"{result.violation}\npython -m simulation --seeds {seed}"
    assert result.counts["acknowledged"] > 0


@pytest.mark.slow
def test_many_seeds_are_clean() -> None:
    failed = [result for result in run_seeds(range(1000, 1500), processes=2) if not result.ok]
    assert not failed, [(result.options.seed, result.violation) for result in failed]


def test_a_seed_is_the_same_run_in_another_process() -> None:
    code = (
        "from simulation.runner import run_seed; r = run_seed(4); print(r.digest, r.counts['operations'], r.virtual_s)"
    )
    runs = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        runs.add(done.stdout)
    assert len(runs) == 1, runs


def test_a_run_leaves_logging_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    run_options(draw(3).changed_by(["duration_s=1"]))
    logging.getLogger("ratifyd").error("heard")
    assert caplog.messages == ["heard"]


def test_a_trace_does_not_change_the_run() -> None:
    options = draw(3)
    plain, traced = run_options(options), run_options(options, trace=True)
    assert plain.digest == traced.digest
    assert any("committed" in line for line in traced.trace)


@pytest.mark.parametrize("mutant", CAUGHT_AT_ONCE)
def test_mutants_are_caught(mutant: str) -> None:
    count, result = catch(mutant, range(1, 9), CAUGHT_AT_ONCE[mutant])
    assert result is not None, f"{mutant} survives {count} seeds"


def test_the_record_says_how_each_mutant_is_caught() -> None:
    assert set(RECORD) == set(MUTANTS)
    for mutant, way in RECORD.items():
        assert bool(way.seeds) != bool(way.scenario), mutant
        assert not way.scenario or script_of(way.scenario)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_mutant_is_caught(mutant: str) -> None:
    how, violation = catch_as_recorded(mutant)
    assert violation, f"{mutant} survives {how}"


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [mutant for mutant, way in RECORD.items() if way.settings])
def test_what_catches_a_mutant_spares_the_server(mutant: str) -> None:
    way = RECORD[mutant]
    failed = [result for result in run_seeds(range(1, way.seeds + 1), settings=way.settings) if not result.ok]
    assert not failed, [(result.options.seed, result.violation) for result in failed]


def test_mutants_leave_no_trace() -> None:
    before = run_seed(3).digest
    for name in MUTANTS:
        with planted(name):
            pass
    assert run_seed(3).digest == before


def test_shrinking_keeps_the_failure_and_drops_what_it_does_not_need() -> None:
    settings = CAUGHT_AT_ONCE["apply_twice"]
    failed = run_seed(1, mutant="apply_twice", settings=settings)
    told: list[str] = []
    small = shrink(failed, "apply_twice", budget_s=5.0, tell=told.append)
    assert small.checker == failed.checker
    assert small.options.clients <= failed.options.clients
    assert told
    again = draw(1).changed_by(draw(1).differences(small.options))
    assert again == small.options


def test_options_can_be_set_by_name() -> None:
    options = Options().changed_by(["members=5", "faults=kill,pause", "reorder=True", "loss=0.5"])
    assert (options.members, options.faults, options.reorder, options.loss) == (5, ("kill", "pause"), True, 0.5)
    with pytest.raises(ValueError, match="no option nonsense"):
        Options().changed_by(["nonsense=1"])
