"""Command line: targets and a seed in, failures out; exit status 1 when there are any."""

import argparse
import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from fuzzing.engine import Failure, Report, outcome, run_target
from fuzzing.targets import TARGETS

DEFAULT_INPUTS = 20_000
SLICE = 50_000
"""Inputs of one job: a new seed after them."""


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201


def _job(name: str, seed: str, inputs: int, seconds: float) -> Report:
    logging.disable(logging.ERROR - 1)
    deadline = time.monotonic() + seconds if seconds else float("inf")
    return run_target(TARGETS[name], seed=seed, inputs=inputs, deadline=deadline)


def _add(total: Report, more: Report) -> list[Failure]:
    """Count a report; its failures that are new."""
    total.inputs += more.inputs
    total.refused += more.refused
    total.cpu_s += more.cpu_s
    total.lines, total.corpus = max(total.lines, more.lines), max(total.corpus, more.corpus)
    new = [failure for signature, failure in more.failures.items() if signature not in total.failures]
    total.failures.update(more.failures)
    return new


def run(options: argparse.Namespace) -> int:
    """Run the targets, in processes of their own."""
    totals = {name: Report(name) for name in options.targets}
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = []
        for name in options.targets:
            left, number = options.inputs, options.seed
            while left > 0:
                size = min(left, SLICE)
                jobs.append(pool.submit(_job, name, str(number), size, options.seconds))
                left, number = left - size, number + 1
        for job in jobs:
            report = job.result()
            for failure in _add(totals[report.target], report):
                say(f"{failure}\n")
            if options.verbose:
                say(f"{report.target}: {totals[report.target].inputs} inputs")
    for name, total in totals.items():
        rate = total.inputs / max(total.cpu_s, 0.001)
        say(
            f"{name:16} {total.inputs:9} inputs, {total.refused / max(total.inputs, 1):4.0%} refused, {rate:6.0f}/s, "
            f"{total.lines} lines, corpus {total.corpus}, {len(total.failures)} failures"
        )
    say(f"{sum(total.inputs for total in totals.values())} inputs")
    return 1 if any(total.failures for total in totals.values()) else 0


def repeat(name: str, inputs: list[bytes]) -> int:
    """Try given inputs."""
    failure = outcome(TARGETS[name], inputs)
    say("no failure" if failure is None else f"{failure.error}\n  at {failure.where}")
    return 0 if failure is None else 1


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m fuzzing", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=sorted(TARGETS), default=list(TARGETS), metavar="NAME")
    parser.add_argument("--inputs", type=int, default=DEFAULT_INPUTS, metavar="N", help="for each target")
    parser.add_argument("--seconds", type=float, default=0.0, metavar="S", help="at most, for each job")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="first of the seeds")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="processes at work (default 1)")
    parser.add_argument("--input", nargs="+", metavar="HEX", help="repeat a failure: inputs in hex, - for an empty one")
    parser.add_argument("--verbose", action="store_true", help="a line for each job that is done")
    options = parser.parse_args()
    if options.input:
        logging.disable(logging.ERROR - 1)
        return repeat(options.targets[0], [bytes.fromhex(each.replace("-", "")) for each in options.input])
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
