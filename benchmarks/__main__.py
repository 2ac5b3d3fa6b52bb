"""Command line: `python -m benchmarks` compares single members; further commands are listed in COMMANDS."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import clusters, keyspace, micro, page, upkeep
from benchmarks.cases import all_cases, fits, patterns_of
from benchmarks.compare import IDLE, MEMORY, START, Plan, compare
from benchmarks.generator import LOADS, all_loads
from benchmarks.options import add_common, checked
from benchmarks.recorder import Recorder
from benchmarks.records import Results
from benchmarks.report import noisy
from benchmarks.sides import Names

QUICK = Plan(rounds=1, seconds=0.2, idle_s=1.0, starts=1, lone_requests=200, warm_up=False)


def _parser() -> argparse.ArgumentParser:
    names = ", ".join([*dict.fromkeys(case.name for case in all_cases()), *LOADS, START, IDLE])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure ratifyd against a real etcd on this machine; load comes from h2load and from our own.",
        epilog="Other commands: `python -m benchmarks COMMAND --help` with " + ", ".join(COMMANDS) + ".",
    )
    parser.add_argument("--cases", type=patterns_of, default=[], metavar="PATTERNS", help=f"names: {names}")
    parser.add_argument("--missing", action="store_true", help="only the cases the file of --into does not have yet")
    parser.add_argument("--idle-seconds", type=float, default=10.0, help="length of the idle measurement (default 10)")
    parser.add_argument("--quick", action="store_true", help="a functional sample: one very short round of everything")
    _add_known(parser)
    add_common(parser, rounds=5)
    return parser


def _plan(arguments: argparse.Namespace) -> Plan:
    if arguments.quick:
        return QUICK
    return Plan(arguments.rounds, arguments.seconds, arguments.idle_seconds, starts=5, lone_requests=3000)


def _known(arguments: argparse.Namespace) -> set[str]:
    """Cases that need not be measured again."""
    if arguments.into is None or not arguments.into.exists():
        return set()
    records = Results.read(arguments.into).newest().values()
    return {record.case for record in records if not (arguments.redo_noisy and noisy(record))}


def _add_known(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--redo-noisy", action="store_true", help="take cases measured on a busy machine as missing from the file"
    )


def _comparison(arguments: argparse.Namespace) -> tuple[Callable[..., None], float] | None:
    """The run asked for and how long it takes; None when no case is left."""
    known = _known(arguments) if arguments.missing else set()

    def wanted(title: str) -> bool:
        return fits(title, arguments.cases) and title not in known

    cases = [case for case in all_cases() if wanted(case.title)]
    loads = [load for load in all_loads() if wanted(load[0])]
    others = [title for title in (START, IDLE) if wanted(title)]
    if not (cases or loads or others):
        return None
    if not arguments.cases and not known:
        others.append(MEMORY)  # means something only after the same load on both
    plan = _plan(arguments)
    estimate_s = plan.around_s + plan.case_s * len(cases) + plan.load_s * len(loads)

    def run(names: Names, recorder: Recorder) -> None:
        compare(names, cases, loads, others, plan, arguments.dir, recorder)

    return run, estimate_s


def run_compare(argv: Sequence[str]) -> int:
    """Compare single members."""
    arguments = _parser().parse_args(argv)
    found = _comparison(arguments)
    if found is None:
        sys.stderr.write("no case is left\n")
        return 0 if arguments.missing else 2
    run, estimate_s = found
    return checked(arguments, estimate_s, run)


def run_all(argv: Sequence[str]) -> int:
    """Everything there is into one file, then the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks all",
        description="Every command in turn into one file of results. Started again after an interruption it goes on "
        "with the commands (and, of the comparison, the cases) that are missing from the file.",
    )
    parser.add_argument("--keys", type=keyspace.sizes_of, default=[10_000, 1_000_000], help="sizes of keyspaces")
    parser.add_argument("--revisions", type=int, default=1_000_000, help="revisions to compact")
    parser.add_argument("--restarts", type=int, default=3, help="restarts at each size")
    parser.add_argument("--failovers", type=int, default=3, help="leaders to kill in each round")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page here at the end")
    _add_known(parser)
    add_common(parser, rounds=5)
    arguments = parser.parse_args(argv)
    if arguments.into is None:
        parser.error("--into is needed")
    arguments.missing, arguments.cases, arguments.rate = True, [], upkeep.RATE
    compared = _parser().parse_args([], argparse.Namespace(**vars(arguments)))
    arguments.rounds = (arguments.rounds + 1) // 2  # of what starts with fresh data each time
    known = _known(arguments)
    runs: list[tuple[Callable[..., None], float]] = []
    found = _comparison(compared)
    if found is not None:
        runs.append(found)
    for size in arguments.keys:
        if not known.issuperset(keyspace.titles(size)):
            run = partial(keyspace.measure, sizes=[size], plan=arguments, directory=arguments.dir)
            runs.append((run, keyspace.estimate_s([size], arguments)))
    if not known.issuperset(upkeep.PHASES):
        runs.append((partial(upkeep.measure, plan=arguments), upkeep.estimate_s(arguments)))
    if clusters.FAILOVER not in known:
        runs.append((partial(clusters.measure, plan=arguments), clusters.estimate_s(arguments)))
    status = checked(arguments, sum(estimate for _, estimate in runs), *(run for run, _ in runs)) if runs else 0
    if not status and arguments.page:
        status = page.main([str(arguments.into), "--page", str(arguments.page)])
    return status


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "all": run_all,
    "clusters": clusters.main,
    "keyspace": keyspace.main,
    "upkeep": upkeep.main,
    "report": page.main,
    "micro": micro.main,
}


def main(argv: Sequence[str]) -> int:
    """Run a command, or the comparison."""
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    return run_compare(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
