"""What this project wants to reach beside etcd on the same machine, and whether results do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.clusters import MEMBERS
from benchmarks.compare import IDLE
from benchmarks.keyspace import load_case, restart_case, size_case, sizes_in
from benchmarks.load import ALONE
from benchmarks.records import METRICS, Record, shown
from benchmarks.report import noisy, spread

MILLION = 1_000_000
FLAT_FROM, FLAT_TO, FLAT_LIMIT = 10_000, 10 * MILLION, 1.3
IDLE_LIMIT_PERCENT = 1.0
NOT_MEASURED = "not measured"
BUSY = ", on a busy machine"
NOISE_PROOF = ("resident_bytes",)
NAMED = 5
"""How many exceptions are named."""

Records = Mapping[str, Record]


class Verdict(NamedTuple):
    """One row of the table; `met` is None when the figures are not there, or were taken on a busy machine."""

    words: str
    wanted: str
    measured: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Target:
    """A limit on the ratio of ratifyd to etcd in one figure of one case."""

    words: str
    case: str
    metric: str
    limit: float

    def verdict(self, records: Records) -> Verdict:
        """Whether the median of the rounds' ratios keeps the limit."""
        more = METRICS[self.metric].more_is_better
        times = "" if self.limit == 1 else f"{self.limit:g} times "
        wanted = f"{'at least' if more else 'at most'} {times}etcd's"
        record = records.get(self.case)
        if record is None or not record.ratio(self.metric):
            return Verdict(self.words, wanted, NOT_MEASURED, None)
        ratio, range_ = record.ratio(self.metric), spread(record.ratios(self.metric))
        measured = f"{ratio:.2f} ({range_})" if range_ else f"{ratio:.2f}"
        if self.metric not in NOISE_PROOF and noisy(record):
            return Verdict(self.words, wanted, measured + BUSY, None)
        return Verdict(self.words, wanted, measured, ratio >= self.limit if more else ratio <= self.limit)


TARGETS = (
    Target("puts a second, 100x10", "put/100x10", "rate", 1.7),
    Target("puts a second, 1000x1", "put/1000x1", "rate", 1.7),
    Target("a lone put, p50", "put/1x1", "p50_us", 1.0),
    Target("gets a second, 100x10", "range/100x10", "rate", 2.0),
    Target("gets a second, 1000x1", "range/1000x1", "rate", 1.3),
    Target("a lone get, p50", "range/1x1", "p50_us", 1.0),
    Target("serializable gets a second, 100x10", "range-serializable/100x10", "rate", 2.0),
    Target("transactions a second, 100x10", "txn/100x10", "rate", 1.5),
    Target("reads of 1,000 keys a second, 100x10", "prefix-1000/100x10", "rate", 2.0),
    Target("watch events a second, 1 key, 1,000 watchers", "watch-fan-out/10x1", "rate", 1.0),
    Target("watch events a second, 1,000 keys, 10 watchers each", "watch-many-keys/10x1", "rate", 1.0),
    Target("keep-alives a second, 100x10", "lease-keepalive/100x10", "rate", 1.5),
    Target("puts a second of three members, 100x10", f"{MEMBERS}-members/put/100x10/leader", "rate", 1.5),
    Target("resident memory with a million keys", size_case(MILLION), "resident_bytes", 1.0),
    Target("the same after a restart", restart_case(MILLION), "resident_bytes", 1.0),
    Target("restart with a million keys", restart_case(MILLION), "start_s", 1.0),
)


def _tails(records: Records) -> Verdict:
    """Where the median is better the 99th percentile is no worse."""
    words, wanted = "p99 wherever p50 is better", "at most etcd's"
    better = [
        record
        for record in records.values()
        if not noisy(record) and {"p50_us", "p99_us"} <= record.metrics.keys() and 0 < record.ratio("p50_us") < 1
    ]
    if not better:
        return Verdict(words, wanted, NOT_MEASURED, None)
    worse = [record for record in better if round(record.ratio("p99_us"), 2) > 1]
    worse.sort(key=lambda record: record.ratio("p99_us"), reverse=True)
    measured = f"so in {len(better) - len(worse)} of {len(better)} cases"
    if worse:
        named = ", ".join(f"{record.case} {record.ratio('p99_us'):.2f}" for record in worse[:NAMED])
        measured += f"; not in {named}{' and others' if len(worse) > NAMED else ''}"
    return Verdict(words, wanted, measured, not worse)


def _growth(records: Records, load: str, metric: str) -> dict[int, float]:
    """ratifyd's figure at each size measured in peace, over the one at the smallest."""
    there = {size: records.get(load_case(size, load, ALONE)) for size in sizes_in(records) if size >= FLAT_FROM}
    found = {size: record.medians(metric)[1] for size, record in there.items() if record and not noisy(record)}
    return {size: figure / found[min(found)] for size, figure in found.items()}


def _flat(records: Records, load: str) -> Verdict:
    """A lone request costs about the same however many keys there are.

    The processor time is named beside it: the client's own time, the same at every size, hides no growth in that.
    """
    words = f"a lone {load}, p50, from {FLAT_FROM:,} to {FLAT_TO:,} keys"
    wanted = f"grows at most {FLAT_LIMIT:g} times"
    growth, cpu = _growth(records, load, "p50_us"), _growth(records, load, "cpu_us")
    if len(growth) < 2:
        return Verdict(words, wanted, NOT_MEASURED, None)
    most, largest = max(growth.values()), max(growth)
    measured = f"{most:.2f} up to {largest:,} keys (server CPU {max(cpu.values()):.2f})"
    whole = min(growth) <= FLAT_FROM and largest >= FLAT_TO
    return Verdict(words, wanted, measured, most <= FLAT_LIMIT if whole else None)


def _idle(records: Records) -> Verdict:
    words, wanted = "CPU of an idle member", f"under {IDLE_LIMIT_PERCENT:g} % of a core"
    if IDLE not in records:
        return Verdict(words, wanted, NOT_MEASURED, None)
    percent, calm = records[IDLE].medians("idle_percent")[1], not noisy(records[IDLE])
    return Verdict(words, wanted, f"{shown('idle_percent', percent)} %", percent < IDLE_LIMIT_PERCENT if calm else None)


def verdicts(records: Records) -> Iterator[Verdict]:
    """Every target in turn."""
    for target in TARGETS:
        yield target.verdict(records)
    yield _tails(records)
    yield _flat(records, "get")
    yield _flat(records, "put")
    yield _idle(records)
