"""Running seeds: one by one or on several processes, with a mutant or without, and shortening what fails."""

import gc
import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

from simulation.mutants import planted
from simulation.options import Options, draw
from simulation.record import RECORD
from simulation.scenarios import script_of
from simulation.world import World

_MISFITS = ("keyword argument", "positional argument", "has no attribute")
"""What a mutant fails with that has fallen behind the code it patches; it is no bug of the kind it stands for."""


@dataclass(slots=True)
class Result:
    """How a run went."""

    options: Options
    checker: str = ""
    """The promise that was broken; empty when none was."""
    violation: str = ""
    digest: int = 0
    cpu_s: float = 0.0
    virtual_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    situations: Counter[str] = field(default_factory=Counter)
    """How often each rare branch was taken."""
    trace: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.violation


@contextmanager
def _silent_logs() -> Iterator[None]:
    """Without the members' logs: a run has thousands of lines, and those of a fault are meant."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Without most of Python's search for garbage: what a run keeps is not garbage before its end."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def run_options(options: Options, mutant: str | None = None, *, trace: bool = False) -> Result:
    """One run."""
    began = time.process_time()
    with _silent_logs(), _seldom_collected(), planted(mutant):
        world = World(options, trace=trace)
        violation = world.run()
    result = Result(options, digest=world.network.digest, cpu_s=time.process_time() - began, virtual_s=world.clock.now)
    if violation is not None:
        result.checker, result.violation = violation.checker, str(violation)
        if violation.__cause__ is not None:
            result.violation += "\n" + "".join(traceback.format_exception(violation.__cause__))
    operations = world.history.operations
    result.counts.update(
        seeds=1,
        operations=len(operations),
        acknowledged=sum(operation.ok for operation in operations),
        entries=len(world.model.applied),
        events=sum(len(events) for record in world.history.watches for _, _, events in record.items),
        restarts=world.restarts,
        messages=world.network.sent,
        lost=world.network.lost,
        terms=world.raft_checker.terms,
    )
    result.faults = world.nemesis.counts
    result.situations = world.network.situations.counts
    result.trace = list(world.trace_lines or ())
    return result


def run_seed(seed: int, *, mutant: str | None = None, settings: Iterable[str] = (), trace: bool = False) -> Result:
    """The run of a seed."""
    return run_options(draw(seed).changed_by(list(settings)), mutant, trace=trace)


def run_seeds(
    seeds: Iterable[int], *, processes: int = 1, mutant: str | None = None, settings: Iterable[str] = ()
) -> Iterator[Result]:
    """The runs of many seeds, in order."""
    job = partial(run_seed, mutant=mutant, settings=tuple(settings))
    if processes == 1:
        yield from map(job, seeds)
        return
    with get_context("fork").Pool(processes) as pool:
        yield from pool.imap(job, seeds)


def catch(mutant: str, seeds: Iterable[int], settings: Iterable[str] = ()) -> tuple[int, Result | None]:
    """Run seeds until a mutant is caught: after how many, and how; None when none caught it."""
    count = 0
    for count, seed in enumerate(seeds, 1):
        result = run_seed(seed, mutant=mutant, settings=settings)
        if not result.ok:
            if any(name in result.violation for name in _MISFITS):
                raise RuntimeError(f"mutant {mutant} no longer fits the code: {result.violation}")
            return count, result
    return count, None


def catch_as_recorded(mutant: str) -> tuple[str, str]:
    """Catch a mutant the way the record says: by what, and the promise that it broke, empty when it got away."""
    way = RECORD[mutant]
    if way.scenario:
        return f"scenario {way.scenario}", _broken_by(way.scenario, mutant)
    count, result = catch(mutant, range(1, way.seeds + 1), way.settings)
    how = f"seed {count} of {way.seeds}" + (f" with {' '.join(way.settings)}" if way.settings else "")
    return how, result.violation if result else ""


def catch_all(mutants: Iterable[str], *, processes: int = 1) -> Iterator[tuple[str, str, str]]:
    """Catch mutants the way the record says, in order: name, by what, and the promise that was broken."""
    if processes == 1:
        yield from map(_catch_named, mutants)
        return
    with get_context("fork").Pool(processes) as pool:
        yield from pool.imap(_catch_named, mutants)


def _catch_named(mutant: str) -> tuple[str, str, str]:
    return mutant, *catch_as_recorded(mutant)


def _broken_by(scenario: str, mutant: str) -> str:
    with _silent_logs(), planted(mutant):
        try:
            script_of(scenario)()
        except Exception as error:  # whatever it is, it must not pass
            return f"{type(error).__name__}: {error}"
    return ""


def shrink(failed: Result, mutant: str | None, *, budget_s: float, tell: Callable[[str], None]) -> Result:
    """The simplest options found in time under which the same promise is still broken."""
    best = failed
    deadline = time.monotonic() + budget_s
    progress = True
    while progress and time.monotonic() < deadline:
        progress = False
        for candidate in _simpler(best):
            if time.monotonic() >= deadline:
                break
            result = run_options(candidate, mutant)
            if result.checker == failed.checker:
                best, progress = result, True
                tell(f"still fails: {' '.join(draw(best.options.seed).differences(best.options))}")
                break
    return best


def _simpler(result: Result) -> Iterator[Options]:
    """Variations with less in them, the most telling first."""
    options = result.options
    if result.virtual_s < options.duration_s:
        yield options.without(duration_s=result.virtual_s)
    for fault in options.faults:
        yield options.without(faults=tuple(each for each in options.faults if each != fault))
    plain: dict[str, object] = {
        "loss": 0.0,
        "duplicate": 0.0,
        "reorder": False,
        "delay_tail": 0.0,
        "clock_drift": 0.0,
        "in_place": 0.0,
        "in_kernel": 0.0,
        "watchers": 0,
        "keepers": 0,
        "quota_bytes": 0,
        "watch_queue_bytes": 0,
        "snapshot_count": 10_000,
        "pre_vote": True,
        "turn_entries": 1000,
    }
    for name, value in plain.items():
        if getattr(options, name) != value:
            yield options.without(**{name: value})
    if options.clients > 1:
        yield options.without(clients=options.clients - 1)
    if options.members > 1:
        yield options.without(members=options.members - 1)
    if options.keys > 1:
        yield options.without(keys=1)
