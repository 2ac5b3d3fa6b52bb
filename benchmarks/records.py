"""What was measured, as records in a JSON file that grows: one record a case, the newest of a case counts.

The file: `{"schema": 1, "environments": [...], "records": [...]}`. An environment says what ran on what (see
benchmarks.surroundings); a record names its environment by number, and has for each metric the figures of every round,
of the reference (etcd) and of the subject (ratifyd).
"""

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA = 1
SIDES = ("reference", "subject")


class Metric(NamedTuple):
    """How a figure is called and read."""

    label: str
    unit: str
    more_is_better: bool = False
    per_unit: float = 1.0
    """Stored figure that makes one of the unit shown."""


METRICS = {
    "rate": Metric("throughput", "/s", True),
    "p50_us": Metric("p50", "ms", per_unit=1e3),
    "p90_us": Metric("p90", "ms", per_unit=1e3),
    "p99_us": Metric("p99", "ms", per_unit=1e3),
    "p999_us": Metric("p99.9", "ms", per_unit=1e3),
    "max_us": Metric("longest", "ms", per_unit=1e3),
    "cpu_us": Metric("server CPU each", "us"),
    "start_s": Metric("start until a get is answered", "s"),
    "idle_percent": Metric("CPU while idle", "% of a core"),
    "resident_bytes": Metric("resident memory", "MiB", per_unit=2.0**20),
    "private_bytes": Metric("of it private", "MiB", per_unit=2.0**20),
    "key_bytes": Metric("resident memory for each key", "B"),
    "load_rate": Metric("loading", "keys/s", True),
    "data_bytes": Metric("data directory", "MiB", per_unit=2.0**20),
    "work_s": Metric("the work takes", "s"),
    "failover_s": Metric("leader killed until a write is acknowledged", "s"),
}
"""Every metric a record may have, in the order of tables."""

Values = tuple[list[float], list[float]]


def median(values: Sequence[float]) -> float:
    """Median; 0 for nothing."""
    return statistics.median(values) if values else 0.0


@dataclass(slots=True)
class Record:
    """One case: for each metric the figures of both sides, one a round."""

    case: str
    environment: int
    date: str
    load_average: float
    """Of the last minute, when the case began."""
    others_cores: float = 0.0
    """Cores that processes other than ours kept busy meanwhile: what makes a run noisy."""
    seconds: float = 0.0
    """How long the case took."""
    metrics: dict[str, Values] = field(default_factory=dict)

    def add(self, side: int, **figures: float) -> None:
        """Note the figures of one round of one side."""
        for name, value in figures.items():
            if name not in METRICS:
                raise ValueError(f"no metric is called {name}")
            self.metrics.setdefault(name, ([], []))[side].append(float(f"{value:.6g}"))

    def medians(self, metric: str) -> tuple[float, float]:
        """Of the reference and of the subject."""
        first, second = self.metrics[metric]
        return median(first), median(second)

    def ratios(self, metric: str) -> list[float]:
        """Subject over reference, round by round: neighbours in time are compared. Empty without such a metric."""
        return [b / a for a, b in zip(*self.metrics.get(metric, ((), ())), strict=True) if a]

    def ratio(self, metric: str) -> float:
        """Median of the rounds' ratios; 0 when there is none."""
        return median(self.ratios(metric))


def _from_json(row: dict[str, Any]) -> Record:
    metrics = {name: (values[SIDES[0]], values[SIDES[1]]) for name, values in row["metrics"].items()}
    return Record(**{**row, "metrics": metrics})


def _as_json(record: Record) -> dict[str, Any]:
    metrics = {name: dict(zip(SIDES, values, strict=True)) for name, values in record.metrics.items()}
    return {**asdict(record), "metrics": metrics}


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return ",\n".join(json.dumps(row) for row in rows)


@dataclass(slots=True)
class Results:
    """Environments and the records made in them."""

    environments: list[dict[str, Any]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """What a file holds; ValueError when it is of another schema."""
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            raise ValueError(f"{path} does not hold results of schema {SCHEMA}")
        return cls(found["environments"], [_from_json(row) for row in found["records"]])

    def write(self, path: Path) -> None:
        """Replace the file in one step, so that an interrupted run keeps what it had."""
        rows = [_as_json(record) for record in self.records]
        lists = {"environments": self.environments, "records": rows}
        parts = [f'"{name}": [\n{_lines(each)}\n]' for name, each in lists.items()]
        beside = path.with_name(path.name + ".new")
        beside.write_text(",\n".join([f'{{"schema": {SCHEMA}', *parts]) + "}\n")
        beside.replace(path)

    def environment(self, found: dict[str, Any]) -> int:
        """Number of an environment, which is added when it is new."""
        if found not in self.environments:
            self.environments.append(found)
        return self.environments.index(found)

    def newest(self) -> dict[str, Record]:
        """The newest record of each case, in the order in which cases first appeared."""
        found: dict[str, Record] = {}
        for record in self.records:
            if record.case not in found or found[record.case].date <= record.date:
                found[record.case] = record
        return found


def merge(parts: Iterable[Results]) -> Results:
    """All results as one."""
    whole = Results()
    for part in parts:
        numbers = [whole.environment(each) for each in part.environments]
        for record in part.records:
            record.environment = numbers[record.environment]
            whole.records.append(record)
    return whole


def shown(metric: str, value: float) -> str:
    """A figure in its unit, with about three digits that count."""
    number = value / METRICS[metric].per_unit
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def metrics_of(record: Record) -> Iterator[str]:
    """Names of a record's metrics, in the order of METRICS."""
    yield from (name for name in METRICS if name in record.metrics)
