"""Results made up for the tests of what is written about them."""

from typing import Any

from benchmarks.cases import all_cases
from benchmarks.clusters import CASES, FAILOVER, MEMBERS, THROUGH
from benchmarks.clusters import SHAPES as MEMBER_SHAPES
from benchmarks.compare import IDLE, START
from benchmarks.generator import SPACE_LOADS, all_loads
from benchmarks.keyspace import SHAPES, load_case, restart_case, size_case
from benchmarks.records import Record, Results
from benchmarks.upkeep import PHASES

DATE = "2026-02-03T04:05:06+00:00"
SIZES = (10_000, 1_000_000, 10_000_000)
LATENCIES = {"p50_us": 100.0, "p90_us": 200.0, "p99_us": 400.0, "p999_us": 800.0}


def environment(**others: Any) -> dict[str, Any]:
    """A machine that does not exist."""
    return {
        "processor": "Abacus 9000",
        "cores": 4,
        "memory_gib": 16,
        "kernel": "6.1",
        "file_system": "ext4",
        "python": "3.12.1",
        "h2load": "h2load 1.2",
        "commit": "abc1234",
        "reference": "etcd",
        "reference_version": "3.5.1",
        "subject": "ratifyd",
        "subject_version": "0.1.0",
        "note": "",
        **others,
    }


def record(case: str, date: str = DATE, **metrics: float) -> Record:
    """Two rounds: etcd reaches the figures given, ratifyd twice the rates and 0.8 of all else, with some spread."""
    made = Record(case, 0, date, 0.5, 0.01, 12.0)
    for name, value in metrics.items():
        factor = 2.0 if name.endswith("rate") else 0.8
        for noise in (0.95, 1.05):
            made.add(0, **{name: value})
            made.add(1, **{name: value * factor * noise})
    return made


def everything(**others: Any) -> Results:
    """A record of every case there is."""
    records = [record(case.title, rate=1000.0, cpu_us=50.0, **LATENCIES) for case in all_cases()]
    records += [record(title, rate=500.0, cpu_us=90.0, p50_us=300.0, p99_us=900.0) for title, _, _ in all_loads()]
    records += [record(START, start_s=0.5), record(IDLE, idle_percent=0.6)]
    for size in SIZES:
        records.append(record(size_case(size), resident_bytes=size * 1e3, data_bytes=size * 2e3, key_bytes=700.0))
        records.append(record(restart_case(size), resident_bytes=size * 9e2, start_s=size / 1e6))
        for load in SPACE_LOADS:
            for shape in SHAPES:
                records.append(record(load_case(size, load, shape), rate=1e4, cpu_us=30.0, p50_us=99.0, p99_us=200.0))
    records += [record(phase, p50_us=100.0, p99_us=1e4, max_us=1e6, work_s=2.0) for phase in PHASES]
    for case in CASES:
        for shape in MEMBER_SHAPES:
            for through in THROUGH:
                records.append(record(f"{MEMBERS}-members/{case}/{shape}/{through}", rate=4000.0, **LATENCIES))
    records.append(record(FAILOVER, failover_s=1.5))
    return Results([environment(**others)], records)
