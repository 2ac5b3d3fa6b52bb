"""Side by side: two servers on this machine, the same load on each in turn.

Server and load generator share the cores, so figures hold only against figures of the same run: what counts is the
ratio of two neighbouring measurements, and its median over the rounds.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.generator import Figures, Setting, run_generated
from benchmarks.load import Shape, percentile
from benchmarks.process import cpu_seconds, private_bytes, resident_bytes
from benchmarks.recorder import Recorder
from benchmarks.records import Record
from benchmarks.sides import Names, Side, installed, pair

PERCENTILES = {"p50_us": 50.0, "p90_us": 90.0, "p99_us": 99.0, "p999_us": 99.9}
LATENCY_SHARE = 0.3
"""How much of a measured run's length the one that times every request takes: writing its log costs."""
WARM_SHARE = 0.2
MEMORY = "memory/after the cases"
START = "start/empty"
IDLE = "idle"

GeneratedLoad = tuple[str, str, Shape]
"""Title, load of benchmarks.generator, shape."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    rounds: int
    seconds: float
    idle_s: float
    starts: int
    lone_requests: int
    """How many requests sent one after the other are timed."""
    warm_up: bool = True

    @property
    def case_s(self) -> float:
        """About how long a case takes."""
        return 2 * self.rounds * (self.seconds * (1 + WARM_SHARE + LATENCY_SHARE) + 0.6)

    @property
    def load_s(self) -> float:
        """About how long a load of our own generator takes."""
        return 2 * self.rounds * (self.seconds + 0.8)

    @property
    def around_s(self) -> float:
        """About how long starts, filling and idling take."""
        return 2 * self.starts + self.idle_s + 15.0


def measure_case(case: Case, sides: Sequence[Side], plan: Plan, recorder: Recorder, record: Record) -> None:
    """Alternate between the sides; every run is preceded by a short warm-up that also sizes it."""
    for number in range(plan.rounds):
        for index, side in enumerate(sides):
            recorder.say(f"{case.title} round {number + 1}/{plan.rounds} {side.server.kind}")
            warm = side.run(case, max(case.shape.in_flight, case.fewest))
            if plan.warm_up:
                warm = side.run(case, max(int(warm.rate * plan.seconds * WARM_SHARE), case.fewest))
            cpu_before = cpu_seconds(side.server.pid)
            run = side.run(case, max(int(warm.rate * plan.seconds), case.fewest))
            cpu_us = (cpu_seconds(side.server.pid) - cpu_before) / run.requests * 1e6
            record.add(index, rate=run.rate, cpu_us=cpu_us)
            timed = max(int(run.rate * plan.seconds * LATENCY_SHARE), case.fewest)
            if case.shape.in_flight == 1:
                timed = min(timed, plan.lone_requests)
            times_us = side.latencies_us(case, timed)
            record.add(index, **{name: float(percentile(times_us, at)) for name, at in PERCENTILES.items()})


def add_figures(record: Record, index: int, figures: Figures, cpu_s: float) -> None:
    """Note what a run of our own generator reached."""
    cpu_us = cpu_s / figures.count * 1e6
    record.add(index, rate=figures.rate, p50_us=figures.p50_us, p99_us=figures.p99_us, cpu_us=cpu_us)


def measure_generated(
    load: GeneratedLoad, sides: Sequence[Side], plan: Plan, recorder: Recorder, record: Record
) -> None:
    """Alternate between the sides with a load of our own generator."""
    title, name, shape = load
    for number in range(plan.rounds):
        for index, side in enumerate(sides):
            recorder.say(f"{title} round {number + 1}/{plan.rounds} {side.server.kind}")
            cpu_before = cpu_seconds(side.server.pid)
            endpoint, metadata = side.server.client_endpoint, side.metadata()
            setting = Setting(endpoint, shape.connections, shape.streams, plan.seconds, metadata=metadata)
            figures = run_generated(name, setting)
            add_figures(record, index, figures, cpu_seconds(side.server.pid) - cpu_before)


def measure_starts(names: Names, directory: Path | None, plan: Plan, record: Record) -> None:
    """Seconds from starting the process on an empty directory until it has answered a get."""
    for _ in range(plan.starts):
        for index, kind in enumerate(names):
            with installed(kind, directory) as server:
                record.add(index, start_s=server.start_and_get())


def measure_idle(sides: Sequence[Side], plan: Plan, record: Record) -> None:
    """Percent of one core each server uses with no client at work; both are watched over the same seconds."""
    before = [cpu_seconds(side.server.pid) for side in sides]
    started = time.monotonic()
    time.sleep(plan.idle_s)
    elapsed = time.monotonic() - started
    for index, (side, used) in enumerate(zip(sides, before, strict=True)):
        record.add(index, idle_percent=100 * (cpu_seconds(side.server.pid) - used) / elapsed)


def _measure_on(
    sides: Sequence[Side], cases: Sequence[Case], loads: Sequence[GeneratedLoad], plan: Plan, recorder: Recorder
) -> None:
    for case in cases:
        with recorder.case(case.title, plan.case_s) as record:
            measure_case(case, sides, plan, recorder, record)
    for load in loads:
        with recorder.case(load[0], plan.load_s) as record:
            measure_generated(load, sides, plan, recorder, record)


def compare(
    names: Names,
    cases: Sequence[Case],
    loads: Sequence[GeneratedLoad],
    others: Sequence[str],
    plan: Plan,
    directory: Path | None,
    recorder: Recorder,
) -> None:
    """Run the cases; `others` are wanted ones of START, IDLE and MEMORY."""
    if START in others:
        with recorder.case(START, plan.starts * 2.0) as record:
            measure_starts(names, directory, plan, record)
    plain = [case for case in cases if not case.auth], [load for load in loads if not load[1].endswith("-auth")]
    guarded = [case for case in cases if case.auth], [load for load in loads if load[1].endswith("-auth")]
    if any(plain) or IDLE in others:
        with pair(names, directory) as sides:
            _fill(sides, recorder)
            if IDLE in others:
                with recorder.case(IDLE, plan.idle_s) as record:
                    measure_idle(sides, plan, record)
            _measure_on(sides, *plain, plan, recorder)
            if MEMORY in others:
                with recorder.case(MEMORY) as record:
                    for index, side in enumerate(sides):
                        pid = side.server.pid
                        record.add(index, resident_bytes=resident_bytes(pid), private_bytes=private_bytes(pid))
    if any(guarded):
        with pair(names, directory) as sides:
            _fill(sides, recorder)
            for side in sides:
                side.switch_auth_on()
            _measure_on(sides, *guarded, plan, recorder)


def _fill(sides: Sequence[Side], recorder: Recorder) -> None:
    for side in sides:
        recorder.say(f"filling {side.server.kind}")
        side.fill()
        side.settle()
