"""`python -m benchmarks clusters`: three members of each kind in turn, through the leader and through a follower,
and how long a killed leader is missed.

Only one cluster runs at a time, as six members on one machine would measure each other. Every round starts both kinds
afresh, so the ratio of a round compares neighbours in time.
"""

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import grpc

from benchmarks.cases import KEYS, Case, all_cases, fits, patterns_of
from benchmarks.compare import LATENCY_SHARE, PERCENTILES, WARM_SHARE
from benchmarks.load import LoadError, Shape, percentile
from benchmarks.options import add_common, checked
from benchmarks.recorder import Recorder
from benchmarks.records import Record
from benchmarks.sides import QUOTA_BYTES, Names, Side
from harness.clusters import Cluster
from harness.servers import EtcdServer
from harness.stubs import Client
from ratifyd.proto import rpc_pb2

MEMBERS = 3
FAILOVER = f"{MEMBERS}-members/failover"
THROUGH = ("leader", "follower")
CASES = ("put", "range")
SHAPES = (Shape(1, 1), Shape(100, 10))
ROWS = range(KEYS // 2 - 500, KEYS // 2 + 500)
"""Rows that are there: gets ask for one in the middle."""
FAILOVER_LIMIT_S = 30.0
ATTEMPT_S = 2.0
WRITES_BEFORE = 20


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


def case_title(case: Case, through: str) -> str:
    """Title of the record about one case through the leader or through a follower."""
    return f"{MEMBERS}-members/{case.name}/{case.shape}/{through}"


def _wanted(patterns: Sequence[str]) -> list[tuple[Case, str]]:
    chosen = [case for case in all_cases() if case.name in CASES and case.shape in SHAPES]
    titled = [(case, through) for case in chosen for through in THROUGH]
    return [(case, through) for case, through in titled if not patterns or fits(case_title(case, through), patterns)]


def estimate_s(plan: argparse.Namespace) -> float:
    """About how long a run takes."""
    run = plan.seconds * (1 + WARM_SHARE + LATENCY_SHARE) + 0.6
    return float(2 * plan.rounds * (8 + len(_wanted(plan.cases)) * run + plan.failovers * 4))


def _measure_case(side: Side, case: Case, index: int, plan: argparse.Namespace, record: Record) -> None:
    warm = side.run(case, max(case.shape.in_flight, 100))
    warm = side.run(case, max(int(warm.rate * plan.seconds * WARM_SHARE), 1))
    run = side.run(case, max(int(warm.rate * plan.seconds), 1))
    times_us = side.latencies_us(case, max(int(run.rate * plan.seconds * LATENCY_SHARE), 100))
    record.add(index, rate=run.rate, **{name: float(percentile(times_us, at)) for name, at in PERCENTILES.items()})


def _round(kind: str, index: int, plan: argparse.Namespace, records: dict[str, Record], recorder: Recorder) -> None:
    """One round of one kind, on a fresh cluster."""
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster([kind] * MEMBERS, [f"--quota-backend-bytes={QUOTA_BYTES}"]))
        leader = cluster.leader()
        servers = dict(zip(THROUGH, (leader, cluster.followers()[0]), strict=True))
        sides = {through: stack.enter_context(Side(server)) for through, server in servers.items()}
        sides["leader"].fill(ROWS)
        for case, through in _wanted(plan.cases):
            title = case_title(case, through)
            recorder.say(f"{title}, {kind}")
            _measure_case(sides[through], case, index, plan, records[title])
        for number in range(plan.failovers):
            recorder.say(f"failover {number + 1}/{plan.failovers}, {kind}")
            records[FAILOVER].add(index, failover_s=failover_s(cluster))


def measure(names: Names, plan: argparse.Namespace, recorder: Recorder) -> None:
    """Alternate between clusters of both kinds."""
    titles = [case_title(case, through) for case, through in _wanted(plan.cases)]
    titles += [FAILOVER] if plan.failovers else []
    with recorder.cases(titles) as records:
        for number in range(plan.rounds):
            for index, kind in enumerate(names):
                recorder.say(f"{MEMBERS} members, round {number + 1}/{plan.rounds}, {kind}")
                _round(kind, index, plan, records, recorder)
                recorder.progress.advance(estimate_s(plan) / plan.rounds / 2)


def parser() -> argparse.ArgumentParser:
    """The options of this command."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks clusters",
        description="Measure clusters of three ratifyd members against clusters of three etcd members, in turn.",
        epilog="Example: python -m benchmarks clusters --rounds 3 --failovers 5 --into results.json",
    )
    made.add_argument("--cases", type=patterns_of, default=[], metavar="PATTERNS", help="e.g. 3-members/put/*")
    made.add_argument("--failovers", type=int, default=3, help="leaders to kill in each round (default 3; 0: none)")
    add_common(made)
    return made


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, append to the file; 1 when a server or h2load fails."""
    plan = parser().parse_args(argv)
    return checked(plan, estimate_s(plan), partial(measure, plan=plan))
