"""`python -m benchmarks upkeep`: what compaction and defragmentation do to everybody else.

A light load, so many gets and puts a second at fixed times, runs all the while; requests count from the time at which
they were due, so one that had to wait behind a stall is as late as its client would find it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks.bulk import load_keys
from benchmarks.generator import ROOT
from benchmarks.keyspace import LOAD_S_A_KEY
from benchmarks.load import LoadError, percentile
from benchmarks.options import add_common, checked
from benchmarks.recorder import Recorder
from benchmarks.records import Record
from benchmarks.sides import Names, Side, running
from ratifyd.proto import rpc_pb2

QUIET, COMPACTION, DEFRAGMENTATION = "upkeep/quiet", "upkeep/compaction", "upkeep/defragmentation"
PHASES = (QUIET, COMPACTION, DEFRAGMENTATION)
TIMES_OVER = 10
"""How often each key is written: a compaction removes all revisions of a key but its last."""
RATE = 500.0
WORK_LIMIT_S = 600.0
PACED_LIMIT_S = 60.0
FEWEST = 20

Due = tuple[float, float]
"""When a request was due, in seconds of the monotonic clock, and how long after that it was answered, in us."""


@dataclass(slots=True)
class Steady:
    """A running light load."""

    process: "subprocess.Popen[str]"

    def finish(self) -> list[Due]:
        """End it; every request it made."""
        output, errors = self.process.communicate("", timeout=PACED_LIMIT_S)
        if self.process.returncode:
            raise LoadError(f"the light load failed:\n{errors[-2000:]}")
        return [(due, late_us) for due, late_us in json.loads(output)]


@contextmanager
def steady_load(endpoint: str, keys: int, rate: float) -> Iterator[Steady]:
    """Gets and puts in turn, `rate` of them a second, until finished."""
    command = [sys.executable, "-m", "benchmarks.paced", endpoint, str(keys), str(rate)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        yield Steady(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _compact(side: Side) -> None:
    request = rpc_pb2.CompactionRequest(revision=side.revision(), physical=True)
    side.call("/etcdserverpb.KV/Compact", request.SerializeToString(), WORK_LIMIT_S)


def _defragment(side: Side) -> None:
    request = rpc_pb2.DefragmentRequest().SerializeToString()
    side.call("/etcdserverpb.Maintenance/Defragment", request, WORK_LIMIT_S)


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    began = time.monotonic()
    work()
    return began, time.monotonic()


def add_phase(record: Record, index: int, spans: tuple[float, float], requests: Sequence[Due]) -> None:
    """Note the requests that were due within a phase."""
    began, ended = spans
    late_us = [late for due, late in requests if began <= due <= ended]
    if len(late_us) < FEWEST:
        # Work that is over so soon is judged by the requests that met it and those right after.
        late_us = [late for due, late in requests if due >= began][:FEWEST]
    record.add(
        index,
        p50_us=percentile(late_us, 50.0),
        p99_us=percentile(late_us, 99.0),
        max_us=max(late_us),
        work_s=ended - began,
    )


def _round(kind: str, index: int, plan: argparse.Namespace, records: dict[str, Record], recorder: Recorder) -> None:
    keys = max(plan.revisions // TIMES_OVER, 1)
    with running(kind, plan.dir) as side:

        def share(now: float) -> None:
            recorder.say(f"loading {plan.revisions:,} revisions into {kind}: {now:.0%}")

        load_keys(side.server.client_endpoint, keys, share, TIMES_OVER)
        side.settle()
        with steady_load(side.server.client_endpoint, keys, plan.rate) as load:
            # The load needs a moment to connect; its first second does not count.
            time.sleep(1.0 + plan.seconds)
            quiet = time.monotonic() - plan.seconds, time.monotonic()
            recorder.say(f"compaction, {kind}")
            compaction = _timed(partial(_compact, side))
            time.sleep(plan.seconds)
            recorder.say(f"defragmentation, {kind}")
            defragmentation = _timed(partial(_defragment, side))
            time.sleep(plan.seconds)
            requests = load.finish()
        for phase, span in zip(PHASES, (quiet, compaction, defragmentation), strict=True):
            add_phase(records[phase], index, span, requests)


def estimate_s(plan: argparse.Namespace) -> float:
    """About how long a run takes."""
    return float(2 * plan.rounds * (plan.revisions * LOAD_S_A_KEY * 1.5 + 3 * plan.seconds + 8))


def measure(names: Names, plan: argparse.Namespace, recorder: Recorder) -> None:
    """Each round on fresh servers, one after the other, because a compaction cannot be repeated."""
    with recorder.cases(PHASES) as records:
        for number in range(plan.rounds):
            for index, kind in enumerate(names):
                recorder.say(f"upkeep round {number + 1}/{plan.rounds} {kind}")
                _round(kind, index, plan, records, recorder)
                recorder.progress.advance(estimate_s(plan) / plan.rounds / 2)


def parser() -> argparse.ArgumentParser:
    """The options of this command."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks upkeep",
        description="Compaction and defragmentation under a light load: how long they take, and how late others get.",
    )
    made.add_argument("--revisions", type=int, default=1_000_000, help="revisions to compact (default 1000000)")
    made.add_argument("--rate", type=float, default=RATE, help=f"requests a second of the light load ({RATE:g})")
    add_common(made)
    return made


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, append to the file; 1 when a server or a load fails."""
    plan = parser().parse_args(argv)
    return checked(plan, estimate_s(plan), partial(measure, plan=plan))
