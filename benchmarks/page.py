"""`python -m benchmarks report`: the page about results, with its plots, from one or several files of results."""

import argparse
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.plots import draw
from benchmarks.records import METRICS, Record, Results, merge, metrics_of, shown
from benchmarks.report import NOISY_CORES, described, noisy, spread
from benchmarks.targets import verdicts

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
STAR = "\\*"
MARKS = {True: "yes", False: "**no**", None: "-"}

HEAD = """\
# Benchmarks

ratifyd beside a real etcd: the same machine, the same load, in turn, round after round. Every figure is the median of
the rounds, every ratio the median of the rounds' ratios of ratifyd to etcd; the spread is the smallest and the largest
of them. Of rates more is better, of everything else less. Server and load share the cores, so believe the ratios, not
the absolute figures. This page and its plots are made of {source} by `python -m benchmarks report`.
"""

METHOD = """\
## How it is measured

- Each case alternates between the servers, several rounds, after a warm-up. The other server idles meanwhile.
- Load comes from h2load where one request can be repeated, from `benchmarks/generator.py` where keys differ, streams
  stay open or watchers listen. That client is Python too and takes as much processor as a server, so it understates
  differences: both servers bear that alike. Keep-alives and watch events are read from plain frames, which is cheap.
- Replies are counted, and writes checked against the store's revision: a refused request fails the run.
- `100x10` is 100 connections with 10 streams each, all busy all the time. Percentiles come from runs of their own in
  which every request is timed. A lone request is one at a time on one connection.
- Values have 256 bytes unless the case says otherwise. Both servers run with their defaults (every write is synced),
  but for a raised quota. `-timeout` cases send `grpc-timeout`; `-auth` cases, with auth on, a user's token.
- Keyspaces are loaded by transactions of 100 puts. Restarts are polite (SIGTERM) and end with the first get answered;
  the file cache is warm. Resident memory includes what is mapped of the database file.
- Compaction and defragmentation happen under a light load at fixed times: a request that waits behind a stall counts
  from when it was due. A million revisions are 100,000 keys written 10 times.
- etcd 3.5.1 alone, without other members, answers a put before it has synced it, and loses it when the power fails (its
  issue 14370). Releases from 3.5.5 on wait for the sync, as ratifyd does: a lone put takes them longer. Beside 3.6.14
  (`--etcd`, five rounds of one second, the day this was written) a lone put's p50 was 0.68 of etcd's (0.58-0.90), that
  of a lone transaction 0.60 (0.43-1.14), and puts 100x10 came at 2.14 times its rate (1.97-2.69).
- Where a lone put's time goes, of some 430 us on this disk: 170-200 are the sync, 185 ratifyd's, the rest the client's.
  The 185 are 14 when puts come by the hundred: the rest is the waking of threads and cold caches. To be faster than a
  server that answers before the sync, ratifyd would have to do that, too.
- The interpreter's build matters: Debian's Python 3.11.2 takes an eighth less of the processor for a put than a 3.11.7
  that pyenv has built without profiles (`--enable-optimizations`). The hardware line names version and build.
- A star marks cases during which other processes kept more than {noisy:g} cores busy: those say little, and decide
  no target.
"""

SECTIONS = {
    "Throughput by concurrency": (
        "throughput",
        ("put", "range", "range-serializable", "txn", "mixed", "put-random", "txn-swap", "delete-range"),
    ),
    "Latency": ("latency", ()),
    "Values, prefixes, deadlines, auth": (
        "value-sizes",
        (
            *("put-16", "put-4k", "put-64k", "range-16", "range-4k", "range-64k"),
            *("prefix-10", "prefix-1000", "prefix-100000"),
            *("put-timeout", "range-timeout", "put-auth", "range-auth", "txn-auth", "mixed-auth"),
        ),
    ),
    "Watch and lease": (
        "watch",
        (
            *("watch-latency", "watch-fan-out-10", "watch-fan-out-100", "watch-fan-out", "watch-many-keys"),
            *("lease-grant", "lease-keepalive"),
        ),
    ),
    "What size costs: memory, disk, restart": ("memory", ("start", "idle", "memory")),
    "What size costs: gets and puts": ("cost", ("keyspace-*",)),
    "Compaction and defragmentation under load": ("upkeep", ("upkeep",)),
    "Three members": ("members", ("3-members",)),
}
"""Heading: the plot below it, and the names of the cases in its table."""

Rows = Iterator[str]


def _environments(results: Results, records: Mapping[str, Record]) -> Rows:
    dates: dict[str, list[str]] = {}
    for record in records.values():
        dates.setdefault(described(results.environments[record.environment]), []).append(record.date[:10])
    yield "## Hardware and versions\n"
    for words, days in dates.items():
        first, last = min(days), max(days)
        yield f"- {words} ({len(days)} cases, {first if first == last else f'{first} to {last}'})"
    yield ""


def _notes(results: Results, records: Mapping[str, Record]) -> Rows:
    notes = {results.environments[record.environment].get("note", "") for record in records.values()}
    for note in sorted(notes - {""}):
        yield f"> **{note}**\n"


def _targets(records: Mapping[str, Record]) -> Rows:
    yield "## Targets\n"
    yield "| | wanted | measured | met |"
    yield "|---|---|---|---|"
    for verdict in verdicts(records):
        yield f"| {verdict.words} | {verdict.wanted} | {verdict.measured} | {MARKS[verdict.met]} |"
    yield ""


def _table(records: Sequence[Record], names: tuple[str, str]) -> Rows:
    yield f"| case | figure | {names[0]} | {names[1]} | ratio | spread |"
    yield "|---|---|--:|--:|--:|---|"
    for record in records:
        for number, name in enumerate(metrics_of(record)):
            metric = METRICS[name]
            title = "" if number else f"`{record.case}`{STAR if noisy(record) else ''}"
            first, second = (shown(name, value) for value in record.medians(name))
            ratio = record.ratio(name)
            cells = (f"{ratio:.2f}" if ratio else "-", spread(record.ratios(name)))
            yield f"| {title} | {metric.label} ({metric.unit}) | {first} | {second} | {cells[0]} | {cells[1]} |"


def _place(record: Record, names: Sequence[str]) -> int | None:
    """Where in a section's names the case stands, if it does."""
    name = record.case.partition("/")[0]
    return next((at for at, wanted in enumerate(names) if fnmatch(name, wanted)), None)


def _natural(title: str) -> list[tuple[int, str]]:
    """A key that sorts 10x1 before 100x10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", title)]


def _chosen(records: Mapping[str, Record], names: Sequence[str]) -> list[Record]:
    """The records of a section, in the order of its names."""
    placed = [(place, record) for record in records.values() if (place := _place(record, names)) is not None]
    return [record for _, record in sorted(placed, key=lambda pair: (pair[0], _natural(pair[1].case)))]


def render(results: Results, source: str, images: str, plots: Collection[str]) -> str:
    """The page as text; these plots lie in the directory `images` beside it."""
    records = results.newest()
    if not records:
        raise ValueError("there is nothing in these results")
    latest = results.environments[max(records.values(), key=lambda record: record.date).environment]
    names = latest["reference"], latest["subject"]
    lines = [HEAD.format(source=source), *_notes(results, records), *_environments(results, records)]
    lines += _targets(records)
    shown_cases: set[str] = set()
    for heading, (plot, wanted) in SECTIONS.items():
        chosen = _chosen(records, wanted)
        shown_cases |= {record.case for record in chosen}
        if not chosen and plot not in plots:
            continue
        lines.append(f"## {heading}\n")
        lines += [f"![{heading}]({images}/{plot}.svg)\n"] if plot in plots else []
        lines += [*_table(chosen, names), ""] if chosen else []
    rest = [record for record in records.values() if record.case not in shown_cases]
    lines += ["## Others\n", *_table(rest, names), ""] if rest else []
    return "\n".join([*lines, METHOD.format(noisy=NOISY_CORES)])


def main(argv: Sequence[str]) -> int:
    """Write the page and its plots."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks report",
        description="Write the page about results and its plots (into a directory of the page's name).",
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="files of results; of a case the newest counts"
    )
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="default: docs/benchmarks.md")
    arguments = parser.parse_args(argv)
    try:
        results = merge(Results.read(path) for path in arguments.files)
        images: Path = arguments.page.with_suffix("")
        source = ", ".join(_named(path, arguments.page.parent) for path in arguments.files)
        latest = results.environments[results.records[-1].environment]
        drawn = draw(results.newest(), (latest["reference"], latest["subject"]), images)
        arguments.page.write_text(render(results, source, images.name, [path.stem for path in drawn]))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{arguments.page}\n")
    return 0


def _named(path: Path, beside: Path) -> str:
    whole = path.resolve()
    base = beside.resolve()
    if not whole.is_relative_to(base):
        return f"`{path.name}`"
    return f"[{path.name}]({whole.relative_to(base)})"
