"""`python -m benchmarks clusters`: three members of each kind in turn, through the leader and through a follower,
and how long a killed leader is missed.

Only one cluster runs at a time, as six members on one machine would measure each other. Every round starts both kinds
afresh, so the ratio of a round compares neighbours in time.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc

from benchmarks.cases import Case, all_cases
from benchmarks.compare import QUOTA_BYTES, Progress, Side, median
from benchmarks.load import LoadError, Shape, find_h2load
from benchmarks.process import file_system, machine
from harness.clusters import Cluster
from harness.servers import KINDS, EtcdServer, StartFailed
from harness.stubs import Client
from ratifyd.proto import rpc_pb2

MEMBERS = 3
THROUGH = ("leader", "follower")
CASES = ("put", "range")
SHAPES = (Shape(1, 1), Shape(100, 10))
FAILOVER_LIMIT_S = 30.0
ATTEMPT_S = 2.0
WRITES_BEFORE = 20


@dataclass(slots=True)
class ClusterReport:
    """Per title the figures of each kind, one a round: requests a second, and seconds of failovers."""

    rates: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failovers_s: dict[str, list[float]] = field(default_factory=dict)

    def add(self, title: str, kind: str, rate: float) -> None:
        """Note what one run reached."""
        self.rates.setdefault(title, {}).setdefault(kind, []).append(rate)


class Writer(threading.Thread):
    """Puts one after the other through one member, and notes when each that was acknowledged began and ended."""

    def __init__(self, server: EtcdServer) -> None:
        super().__init__(daemon=True)
        self._endpoint = server.client_endpoint
        self._over = threading.Event()
        self.acknowledged: list[tuple[float, float]] = []

    def run(self) -> None:
        request = rpc_pb2.PutRequest(key=b"failover/" + self._endpoint.encode(), value=b"v" * 256)
        with Client(self._endpoint) as client:
            while not self._over.is_set():
                began = time.monotonic()
                try:
                    client.kv.Put(request, timeout=ATTEMPT_S)
                except grpc.RpcError:
                    self._over.wait(0.005)
                else:
                    self.acknowledged.append((began, time.monotonic()))

    def finish(self) -> None:
        """Stop writing."""
        self._over.set()
        self.join(2 * ATTEMPT_S)


def failover_s(cluster: Cluster) -> float:
    """Kill the leader with SIGKILL; seconds until a write that began afterwards is acknowledged by a survivor."""
    leader = cluster.leader()
    writers = [Writer(server) for server in cluster.running if server is not leader]
    try:
        for writer in writers:
            writer.start()
        _await(lambda: all(len(writer.acknowledged) >= WRITES_BEFORE for writer in writers))
        killed_at = time.monotonic()
        leader.kill()
        _await(lambda: any(writer.acknowledged[-1][0] > killed_at for writer in writers))
    finally:
        for writer in writers:
            writer.finish()
    first = min(end for writer in writers for began, end in writer.acknowledged if began > killed_at)
    leader.restart()
    cluster.leader()
    return first - killed_at


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + FAILOVER_LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise LoadError(f"no write was acknowledged within {FAILOVER_LIMIT_S:.0f} s")
        time.sleep(0.001)


def measure(kind: str, report: ClusterReport, cases: Sequence[Case], plan: argparse.Namespace, say: Progress) -> None:
    """One round of one kind, on a fresh cluster."""
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster([kind] * MEMBERS, [f"--quota-backend-bytes={QUOTA_BYTES}"]))
        leader = cluster.leader()
        servers = dict(zip(THROUGH, (leader, cluster.followers()[0]), strict=True))
        sides = {through: stack.enter_context(Side(server)) for through, server in servers.items()}
        sides["leader"].fill()
        for case in cases:
            for through, side in sides.items():
                title = f"{case.title} through the {through}"
                say(f"{title}, {kind}")
                warm = side.run(case, max(case.shape.in_flight, 100))
                warm = side.run(case, int(warm.rate * plan.seconds * 0.2))
                report.add(title, kind, side.run(case, int(warm.rate * plan.seconds)).rate)
        for number in range(plan.failovers):
            say(f"failover {number + 1}/{plan.failovers}, {kind}")
            report.failovers_s.setdefault(kind, []).append(failover_s(cluster))


def table(report: ClusterReport, names: tuple[str, str]) -> str:
    """Reference, subject, ratio of the medians, spread of the ratio over the rounds."""
    rows = [("", *names, "ratio", "spread")]
    for title, rates in report.rates.items():
        first, second = (rates[name] for name in names)
        ratios = [b / a for a, b in zip(first, second, strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        rows.append(
            (f"{title} (req/s)", f"{median(first):,.0f}", f"{median(second):,.0f}", f"{median(ratios):.2f}", spread)
        )
    if report.failovers_s:
        first, second = (report.failovers_s[name] for name in names)
        spread = "; ".join(f"{min(values):.2f}-{max(values):.2f} s" for values in (first, second))
        ratio = median(second) / median(first)
        rows.append(("failover (s)", f"{median(first):.2f}", f"{median(second):.2f}", f"{ratio:.2f}", spread))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _say_round(say: Progress, number: int, text: str) -> None:
    say(f"round {number}: {text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks clusters",
        description="Measure clusters of three ratifyd members against clusters of three etcd members, in turn.",
        epilog="Example: python -m benchmarks clusters --rounds 3 --failovers 5 --json clusters.json",
    )
    parser.add_argument("--rounds", type=int, default=3, help="alternations between the kinds (default 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measured run (default 3)")
    parser.add_argument("--failovers", type=int, default=3, help="leaders to kill in each round (default 3; 0: none)")
    parser.add_argument("--reference", choices=KINDS, default="etcd", help="first kind (default etcd)")
    parser.add_argument("--subject", choices=KINDS, default="ratifyd", help="second kind (default ratifyd)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here too")
    return parser


def main(argv: Sequence[str], say: Progress) -> int:
    """Measure, print the table, write the JSON file; 1 when a server or h2load fails."""
    arguments = _parser().parse_args(argv)
    names = (arguments.reference, arguments.subject)
    cases = [case for case in all_cases() if case.name in CASES and case.shape in SHAPES]
    report = ClusterReport()
    try:
        find_h2load()
        for number in range(arguments.rounds):
            for kind in names:
                measure(kind, report, cases, arguments, partial(_say_round, say, number + 1))
    except (LoadError, StartFailed) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    about = {"machine": machine(), "file_system": file_system(Path(tempfile.gettempdir())), "members": MEMBERS}
    sys.stderr.write("\n")
    sys.stdout.write(
        f"{about['machine']}, {MEMBERS} members, data on {about['file_system']}\n\n{table(report, names)}\n"
    )
    if arguments.json:
        figures = {"about": about, "rates": report.rates, "failovers_s": report.failovers_s}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0
