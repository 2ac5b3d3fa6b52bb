"""Records as a table for people, in a terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.records import METRICS, Record, metrics_of, shown

Row = tuple[str, str, str, str, str]
NOISY_CORES = 0.2


def described(environment: dict[str, Any]) -> str:
    """One line: hardware, system, versions."""
    return (
        f"{environment['processor']}, {environment['cores']} cores, {environment['memory_gib']} GiB, "
        f"Linux {environment['kernel']}, data on {environment['file_system']}, "
        f"Python {environment['python']}, {environment['h2load']}, "
        f"{environment['reference']} {environment['reference_version']}, "
        f"{environment['subject']} {environment['subject_version']}"
        f"{' at ' + environment['commit'] if environment['commit'] else ''}"
    )


def spread(ratios: Sequence[float]) -> str:
    """Smallest and largest of several."""
    return f"{min(ratios):.2f}-{max(ratios):.2f}" if len(ratios) > 1 else ""


def noisy(record: Record) -> bool:
    """Whether something else kept the machine busy."""
    return record.others_cores > NOISY_CORES


def _rows(record: Record) -> Iterator[Row]:
    for number, name in enumerate(metrics_of(record)):
        metric = METRICS[name]
        first, second = (shown(name, value) for value in record.medians(name))
        mark = "*" if noisy(record) and not number else ""
        title = f"{record.case}{mark}: {metric.label}" if not number else f"  {metric.label}"
        ratio = record.ratio(name)
        yield f"{title} ({metric.unit})", first, second, f"{ratio:.2f}" if ratio else "-", spread(record.ratios(name))


def table(environments: Sequence[dict[str, Any]], records: Sequence[Record]) -> str:
    """Aligned columns: reference, subject, ratio subject/reference, spread of the ratio over the rounds."""
    found = environments[records[-1].environment]
    rows: list[Row] = [("", found["reference"], found["subject"], "ratio", "spread")]
    rows += [row for record in records for row in _rows(record)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [described(found), ""]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines += ["", "Of rates more is better, of everything else less. ratio = second column / first column."]
    if any(noisy(record) for record in records):
        lines.append(f"* other processes kept more than {NOISY_CORES:g} cores busy meanwhile: measure again.")
    return "\n".join(lines)
