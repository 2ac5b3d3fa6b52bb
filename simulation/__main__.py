"""Command line: seeds in, the first broken promise out; exit status 1 when there is one."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator

from simulation.mutants import MUTANTS
from simulation.options import draw
from simulation.runner import Result, catch, catch_all, run_options, run_seeds, shrink
from simulation.situations import never

SHOWN_LINES = 120
DEFAULT_SEEDS = range(1, 101)


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)  # noqa: T201


def report(failed: Result, options: argparse.Namespace) -> None:
    """Show a failure with the end of its trace, shortened if asked for."""
    seed = failed.options.seed
    say(f"seed {seed}: {failed.violation}")
    if options.shrink:
        failed = shrink(failed, options.mutant, budget_s=options.shrink, tell=say)
    traced = run_options(failed.options, options.mutant, trace=True)
    if traced.digest != failed.digest:
        say(f"the run cannot be repeated: digest {traced.digest:x}, before {failed.digest:x}")
    for line in traced.trace[-options.lines :]:
        say(line[:400])
    settings = draw(seed).differences(failed.options)
    again = f"python -m simulation --seeds {seed}" + (f" --mutant {options.mutant}" if options.mutant else "")
    say(f"\n{failed.options}\n\nrepeat with: {again}{''.join(f' --set {each}' for each in settings)} --trace")


def run(options: argparse.Namespace) -> int:
    """Run seeds until one fails."""
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    situations: Counter[str] = Counter()
    began, virtual_s, cpu_s = time.monotonic(), 0.0, 0.0
    failures = 0
    for result in run_seeds(
        options.seeds or DEFAULT_SEEDS, processes=options.processes, mutant=options.mutant, settings=options.set
    ):
        counts += result.counts
        faults += result.faults
        situations += result.situations
        virtual_s += result.virtual_s
        cpu_s += result.cpu_s
        if options.verbose:
            seed, numbers = result.options.seed, result.counts
            say(
                f"seed {seed}: {result.virtual_s:.1f} s in {result.cpu_s:.2f} s, {numbers['operations']} operations, "
                f"{numbers['restarts']} restarts, digest {result.digest:x}"
            )
        if result.ok and options.trace:
            for line in run_options(result.options, options.mutant, trace=True).trace:
                say(line)
        if not result.ok:
            failures += 1
            report(result, options)
            if not options.keep_going:
                break
    say(f"{dict(counts)}\nfaults: {dict(faults)}\nsituations: {dict(sorted(situations.items()))}")
    say(f"never: {'; '.join(never(situations)) or 'none'}")
    say(
        f"{failures} of {counts['seeds']} seeds failed; {virtual_s:.0f} cluster-seconds in {cpu_s:.0f} s of CPU and "
        f"{time.monotonic() - began:.0f} s: {virtual_s / max(cpu_s, 0.001):.0f} a second"
    )
    return 1 if failures else 0


def run_mutants(options: argparse.Namespace) -> int:
    """Catch every mutant: the way the record says, or with the seeds and settings that are given."""
    names = [options.mutant] if options.mutant else list(MUTANTS)
    missed = []
    began = time.monotonic()
    ways: Counter[str] = Counter()
    found = catch_all(names, processes=options.processes)
    if options.seeds or options.set:
        found = _catch_with(names, options.seeds or DEFAULT_SEEDS, options.set)
    for name, how, violation in found:
        if violation:
            ways[how.split()[0] + (" with settings" if " with " in how else "")] += 1
            say(f"{name}: {how}: {violation.splitlines()[0][:160]}")
        else:
            missed.append(name)
            say(f"{name}: NOT caught by {how}")
    caught = f"caught {len(names) - len(missed)} of {len(names)} in {time.monotonic() - began:.0f} s {dict(ways)}"
    say(f"{caught}; missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


def _catch_with(names: list[str], seeds: range, settings: list[str]) -> Iterator[tuple[str, str, str]]:
    for name in names:
        count, result = catch(name, seeds, settings)
        yield name, f"seed {count}", result.violation if result else ""


def _seeds(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, metavar="A..B", help="seeds (default 1..100)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="processes at work (default 1)")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="plant a bug, which should be caught")
    parser.add_argument("--mutants", action="store_true", help="plant each bug; catch it as recorded, or by --seeds")
    parser.add_argument("--shrink", type=float, nargs="?", const=60.0, default=0.0, metavar="S", help="shorten for S s")
    parser.add_argument("--trace", action="store_true", help="print the trace of each run")
    parser.add_argument("--lines", type=int, default=SHOWN_LINES, help="lines of a failed run's trace (default 120)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change an option of the swarm"
    )
    parser.add_argument("--keep-going", action="store_true", help="go on after a failure")
    parser.add_argument("--verbose", action="store_true", help="a line for each seed")
    options = parser.parse_args()
    return run_mutants(options) if options.mutants else run(options)


if __name__ == "__main__":
    sys.exit(main())
