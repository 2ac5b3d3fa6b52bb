"""A Report as a table for people and as JSON for comparisons over time."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.compare import LATENCY_PERCENTILES, Report, median

Row = tuple[str, str, str, str, str]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _ratio(first: float, second: float) -> str:
    return f"{second / first:.2f}" if first else "-"


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.2f}-{max(values):.2f}" if len(values) > 1 else ""


def _case_rows(report: Report) -> Iterable[Row]:
    for result in report.cases:
        first, second = (median(rates) for rates in result.rates)
        title = f"{result.case.title} (req/s)"
        yield title, _number(first), _number(second), f"{median(result.ratios):.2f}", _spread(result.ratios)
        first, second = (median(cpu) for cpu in result.cpu_us)
        yield "  server CPU per request (us)", _number(first), _number(second), _ratio(first, second), ""


def _generated_rows(report: Report) -> Iterable[Row]:
    for result in report.generated:
        first, second = (median(rates) for rates in result.rates)
        unit = "events/s" if result.title.startswith("watch") else "req/s"
        yield (
            f"{result.title} ({unit})",
            _number(first),
            _number(second),
            f"{median(result.ratios):.2f}",
            _spread(result.ratios),
        )
        for name in ("p50_us", "p99_us"):
            first, second = (median([getattr(each, name) for each in side]) for side in result.figures)
            yield f"  {name[:3]} (us)", _number(first), _number(second), _ratio(first, second), ""
        first, second = (median(cpu) for cpu in result.cpu_us)
        yield "  server CPU each (us)", _number(first), _number(second), _ratio(first, second), ""


def _latency_rows(report: Report) -> Iterable[Row]:
    for name, (first, second) in report.latencies_us.items():
        for percent, a, b in zip(LATENCY_PERCENTILES, first, second, strict=True):
            yield f"{name} alone, p{percent:g} (us)", _number(a), _number(b), _ratio(a, b), ""


def _other_rows(report: Report) -> Iterable[Row]:
    first, second = (median(starts) for starts in report.start_s)
    yield "start to ready (s)", _number(first), _number(second), _ratio(first, second), ""
    first, second = report.idle_percent
    yield "idle CPU (% of a core)", _number(first), _number(second), _ratio(first, second), ""
    for title, pair in (("resident memory", report.resident_bytes), ("of it private", report.private_bytes)):
        first, second = (size / 2**20 for size in pair)
        yield f"{title} after the runs (MiB)", _number(first), _number(second), _ratio(first, second), ""


def table(report: Report, names: tuple[str, str]) -> str:
    """Aligned columns: reference, subject, ratio subject/reference, spread of the ratio over the rounds."""
    rows = [("", *names, "ratio", "spread"), *_case_rows(report), *_generated_rows(report)]
    rows += [*_latency_rows(report), *_other_rows(report)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    note = "req/s: more is better; everything else: less is better. ratio = second column / first column."
    return "\n".join([*lines, "", note])


def as_json(report: Report, names: tuple[str, str], about: dict[str, Any]) -> dict[str, Any]:
    """Every figure of every round."""
    cases = {
        result.case.title: {
            "rates": dict(zip(("reference", "subject"), result.rates, strict=True)),
            "cpu_us_per_request": dict(zip(("reference", "subject"), result.cpu_us, strict=True)),
            "ratio": median(result.ratios),
        }
        for result in report.cases
    }
    generated = {
        result.title: {
            "figures": {
                side: [asdict(each) for each in figures]
                for side, figures in zip(("reference", "subject"), result.figures, strict=True)
            },
            "cpu_us_each": dict(zip(("reference", "subject"), result.cpu_us, strict=True)),
            "ratio": median(result.ratios),
        }
        for result in report.generated
    }
    return {
        "about": {**about, "reference": names[0], "subject": names[1]},
        "cases": cases,
        "generated": generated,
        "latency_us": {
            name: {
                f"p{percent:g}": pair
                for percent, pair in zip(LATENCY_PERCENTILES, zip(*both, strict=True), strict=True)
            }
            for name, both in report.latencies_us.items()
        },
        "start_s": report.start_s,
        "idle_percent": report.idle_percent,
        "resident_bytes": report.resident_bytes,
        "private_bytes": report.private_bytes,
    }
