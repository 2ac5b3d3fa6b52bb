"""Side by side: two servers on this machine, the same load on each in turn, and the proof that it was answered.

Server and load generator share the cores, so figures hold only against figures of the same run: what counts is the
ratio of two neighbouring measurements, and its median over the rounds.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from benchmarks.cases import Case, fill_requests
from benchmarks.generator import Figures, run_generated
from benchmarks.load import LoadError, LoadResult, Shape, percentile, run_latencies_us, run_load
from benchmarks.process import cpu_seconds, private_bytes, resident_bytes
from harness.servers import EtcdServer
from harness.stubs import Client
from ratifyd.proto import rpc_pb2

QUOTA_BYTES = 16 * 2**30
LATENCY_PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_PROBE_KEY = b"probe/key"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    rounds: int
    seconds: float
    idle_s: float
    starts: int
    lone_requests: int
    warm_up: bool = True
    fewest_for_latency: int = 100
    """Requests so long that fewer are sent have their time told by their rate."""


@dataclass(slots=True)
class CaseResult:
    """Rates of one case, one figure a round; sides are in the order of the servers."""

    case: Case
    rates: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    cpu_us: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))

    @property
    def ratios(self) -> list[float]:
        """Second side over first, round by round."""
        return [second / first for first, second in zip(*self.rates, strict=True)]


@dataclass(slots=True)
class GeneratedResult:
    """Figures of one load of our own generator, one a round; sides are in the order of the servers."""

    title: str
    figures: tuple[list[Figures], list[Figures]] = field(default_factory=lambda: ([], []))
    cpu_us: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))

    @property
    def rates(self) -> tuple[list[float], list[float]]:
        """Things done a second, round by round."""
        first, second = ([each.rate for each in side] for side in self.figures)
        return first, second

    @property
    def ratios(self) -> list[float]:
        """Second side over first, round by round."""
        return [second / first for first, second in zip(*self.rates, strict=True)]


@dataclass(slots=True)
class Report:
    """Everything measured. Pairs hold the reference first, the subject second."""

    cases: list[CaseResult] = field(default_factory=list)
    generated: list[GeneratedResult] = field(default_factory=list)
    latencies_us: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    start_s: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    idle_percent: tuple[float, float] = (0.0, 0.0)
    resident_bytes: tuple[int, int] = (0, 0)
    private_bytes: tuple[int, int] = (0, 0)


class MeasuredServer(EtcdServer):
    """A server under load; `binary` replaces the command of its kind."""

    def __init__(self, kind: str, data_dir: Path, binary: str | None = None) -> None:
        self._binary = binary
        super().__init__(kind, [f"--quota-backend-bytes={QUOTA_BYTES}"], data_dir, start=False)

    def command(self) -> list[str]:
        command = super().command()
        if self._binary is None:
            return command
        first_flag = next(i for i, word in enumerate(command) if word.startswith("--name="))
        return [self._binary, *command[first_flag:]]


class Probe:
    """Single calls beside the load, over grpcio: what a reply weighs, and how far the revision is."""

    def __init__(self, endpoint: str) -> None:
        self._client = Client(endpoint)

    def call(self, method: str, message: bytes) -> bytes:
        """One unary call, bytes in and bytes out; raises grpc.RpcError unless the status is OK."""
        return self._client.raw(method, message, timeout=30)

    def revision(self) -> int:
        """The store's revision."""
        reply = self.call("/etcdserverpb.KV/Range", rpc_pb2.RangeRequest(key=_PROBE_KEY).SerializeToString())
        return int(rpc_pb2.RangeResponse.FromString(reply).header.revision)

    def close(self) -> None:
        self._client.close()


class Side:
    """One running server with its probe."""

    def __init__(self, server: EtcdServer) -> None:
        self.server = server
        self.probe = Probe(server.client_endpoint)

    def fill(self) -> None:
        """Write the rows the cases read."""
        for message in fill_requests():
            self.probe.call("/etcdserverpb.KV/Txn", message)

    def run(self, case: Case, requests: int) -> LoadResult:
        """One verified run: every request answered OK, and every write in the store."""
        sample = len(self.probe.call(case.method, case.message)) + 5
        before = self.probe.revision()
        endpoint = self.server.client_endpoint
        result = run_load(endpoint, case.method, case.message, case.shape, requests, headers=case.headers)
        after = self.probe.revision()
        if after - before != (result.requests if case.writes else 0):
            raise LoadError(f"{case.title}: {result.requests} requests moved the revision by {after - before}")
        # A reply grows by a byte or two when the revision in it needs a longer varint.
        low, high = result.requests * sample, result.requests * (sample + 4)
        if not low <= result.data_bytes <= high:
            raise LoadError(f"{case.title}: {result.data_bytes} bytes of replies, expected {low} to {high}")
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.probe.close()


@contextmanager
def running(kind: str, directory: Path | None, binary: str | None = None) -> Iterator[Side]:
    """A fresh server of this kind, stopped and removed at the end."""
    with TemporaryDirectory(prefix="bench-", dir=directory) as data:
        server = MeasuredServer(kind, Path(data) / "data", binary)
        try:
            server.start()
            with Side(server) as side:
                yield side
        finally:
            server.stop()


def measure_case(case: Case, sides: Sequence[Side], plan: Plan, progress: Progress) -> CaseResult:
    """Alternate between the sides; every run is preceded by a short warm-up that also sizes it."""
    result = CaseResult(case)
    for number in range(plan.rounds):
        for index, side in enumerate(sides):
            progress(f"{case.title} round {number + 1}/{plan.rounds} {side.server.kind}")
            warm = side.run(case, max(case.shape.in_flight, case.fewest))
            if plan.warm_up:
                warm = side.run(case, max(int(warm.rate * plan.seconds * 0.2), case.fewest))
            cpu_before = cpu_seconds(side.server.pid)
            run = side.run(case, max(int(warm.rate * plan.seconds), case.fewest))
            result.rates[index].append(run.rate)
            result.cpu_us[index].append((cpu_seconds(side.server.pid) - cpu_before) / run.requests * 1e6)
    return result


def measure_generated(
    title: str, load: str, shape: Shape, sides: Sequence[Side], plan: Plan, progress: Progress
) -> GeneratedResult:
    """Alternate between the sides with a load of our own generator."""
    result = GeneratedResult(title)
    for number in range(plan.rounds):
        for index, side in enumerate(sides):
            progress(f"{title} round {number + 1}/{plan.rounds} {side.server.kind}")
            cpu_before = cpu_seconds(side.server.pid)
            figures = run_generated(side.server.client_endpoint, load, shape, plan.seconds)
            result.figures[index].append(figures)
            result.cpu_us[index].append((cpu_seconds(side.server.pid) - cpu_before) / figures.count * 1e6)
    return result


def measure_latencies(
    cases: Sequence[Case], sides: Sequence[Side], plan: Plan, progress: Progress
) -> dict[str, tuple[list[float], list[float]]]:
    """Percentiles of requests sent one after the other, in microseconds, for each case of shape 1x1."""
    found = {}
    for case in cases:
        if case.shape != Shape(1, 1) or case.fewest < plan.fewest_for_latency:
            continue
        samples: tuple[list[int], list[int]] = ([], [])
        for _ in range(plan.rounds):
            for index, side in enumerate(sides):
                progress(f"{case.name} latency {side.server.kind}")
                samples[index].extend(
                    run_latencies_us(side.server.client_endpoint, case.method, case.message, plan.lone_requests)
                )
        first, second = ([float(percentile(side, p)) for p in LATENCY_PERCENTILES] for side in samples)
        found[case.name] = (first, second)
    return found


def measure_starts(
    kinds: Sequence[tuple[str, str | None]], directory: Path | None, plan: Plan, progress: Progress
) -> tuple[list[float], list[float]]:
    """Seconds from starting the process on an empty directory until its log says that it serves clients."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(plan.starts):
        for index, (kind, binary) in enumerate(kinds):
            progress(f"start {kind}")
            with TemporaryDirectory(prefix="bench-", dir=directory) as data:
                server = MeasuredServer(kind, Path(data) / "data", binary)
                started = time.monotonic()
                try:
                    server.start()
                    found[index].append(time.monotonic() - started)
                finally:
                    server.stop()
    return found


def measure_idle(sides: Sequence[Side], plan: Plan, progress: Progress) -> tuple[float, float]:
    """Percent of one core each server uses with no client at work; both are watched over the same seconds."""
    progress(f"idle for {plan.idle_s:g} s")
    before = [cpu_seconds(side.server.pid) for side in sides]
    started = time.monotonic()
    time.sleep(plan.idle_s)
    elapsed = time.monotonic() - started
    first, second = (
        100 * (cpu_seconds(side.server.pid) - used) / elapsed for side, used in zip(sides, before, strict=True)
    )
    return first, second


def compare(
    kinds: Sequence[tuple[str, str | None]],
    cases: Sequence[Case],
    loads: Sequence[tuple[str, str, Shape]],
    plan: Plan,
    directory: Path | None,
    progress: Progress,
) -> Report:
    """Run everything; `kinds` are (kind, binary) of the reference and of the subject, `loads` title, name and shape."""
    report = Report()
    report.start_s = measure_starts(kinds, directory, plan, progress)
    with ExitStack() as stack:
        sides = [stack.enter_context(running(kind, directory, binary)) for kind, binary in kinds]
        for side in sides:
            progress(f"fill {side.server.kind}")
            side.fill()
        report.idle_percent = measure_idle(sides, plan, progress)
        report.latencies_us = measure_latencies(cases, sides, plan, progress)
        for case in cases:
            report.cases.append(measure_case(case, sides, plan, progress))
        for title, load, shape in loads:
            report.generated.append(measure_generated(title, load, shape, sides, plan, progress))
        first, second = sides
        report.resident_bytes = resident_bytes(first.server.pid), resident_bytes(second.server.pid)
        report.private_bytes = private_bytes(first.server.pid), private_bytes(second.server.pid)
    return report


def median(values: Sequence[float]) -> float:
    """Median; 0 for nothing."""
    return statistics.median(values) if values else 0.0
