"""The plots of the page, as SVG: etcd beside ratifyd, medians, with bars from the smallest to the largest round."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.cases import SHAPES, VALUE, VALUE_SIZES
from benchmarks.clusters import MEMBERS, THROUGH
from benchmarks.generator import FAN_OUTS
from benchmarks.keyspace import load_case, restart_case, size_case, sizes_in
from benchmarks.load import ALONE, Shape
from benchmarks.records import METRICS, Record
from benchmarks.upkeep import PHASES

COLOURS = ("#4878a8", "#e1812c")
BUSY = Shape(100, 10)
PERCENTILES = ("p50_us", "p90_us", "p99_us", "p999_us")
WIDTH = 0.38
LABELLED = (1.0, 2.0, 5.0)
"""Marks in each decade of a logarithmic axis."""
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10.0,
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "grid.color": "#e4e4e4",
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
}

Records = Mapping[str, Record]
Names = tuple[str, str]
Point = tuple[str, str, str]
"""What stands under the axis, title of the record, metric."""


def compact(value: float) -> str:
    """1500 is `1.5k`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _axis(axis: Axes, title: str, unit: str, *, log: bool) -> None:
    axis.set_title(title, loc="left")
    axis.set_ylabel(unit)
    if log:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=LABELLED))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axis.grid(visible=False, axis="x")


def _errors(values: Sequence[Sequence[float]], middles: Sequence[float]) -> list[list[float]]:
    below = [middle - min(each) for each, middle in zip(values, middles, strict=True)]
    above = [max(each) - middle for each, middle in zip(values, middles, strict=True)]
    return [below, above]


def _sides(records: Records, points: Sequence[Point]) -> Iterator[tuple[int, list[list[float]], list[float]]]:
    """For both sides: which, the figures of each point, their medians; in the unit shown."""
    for side in (0, 1):
        scales = [METRICS[metric].per_unit for _, _, metric in points]
        figures = [
            [value / scale for value in records[case].metrics[metric][side]]
            for (_, case, metric), scale in zip(points, scales, strict=True)
        ]
        middles = [
            records[case].medians(metric)[side] / scale for (_, case, metric), scale in zip(points, scales, strict=True)
        ]
        yield side, figures, middles


def _bars(axis: Axes, records: Records, points: Sequence[Point], names: Names, *, log: bool) -> None:
    """Grouped bars; the ratio of the medians' rounds above each group."""
    tops, lowest = [0.0] * len(points), math.inf
    for side, figures, middles in _sides(records, points):
        places = [at + (side - 0.5) * WIDTH for at in range(len(points))]
        errors = _errors(figures, middles)
        axis.bar(places, middles, WIDTH, color=COLOURS[side], label=names[side], yerr=errors, ecolor="#333333")
        tops = [max(top, max(each)) for top, each in zip(tops, figures, strict=True)]
        lowest = min(lowest, *(min(each) for each in figures))
    for at, (top, (_, case, metric)) in enumerate(zip(tops, points, strict=True)):
        axis.annotate(f"{records[case].ratio(metric):.2f}x", (at, top), (0, 2), textcoords="offset points", ha="center")
    axis.set_xticks(range(len(points)), [label for label, _, _ in points])
    axis.set_ylim(lowest / 2 if log else 0, max(tops) * (2.5 if log else 1.12))


def _lines(axis: Axes, records: Records, points: Sequence[Point], names: Names, *, log: bool) -> None:
    """Lines over a logarithmic axis, where the points' labels are numbers."""
    along = [float(label) for label, _, _ in points]
    for side, figures, middles in _sides(records, points):
        errors = _errors(figures, middles)
        axis.errorbar(along, middles, errors, color=COLOURS[side], label=names[side], marker="o", ms=4, capsize=3)
    if not log:
        axis.set_ylim(bottom=0)
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(along, [compact(each) for each in along])


def _there(records: Records, points: Sequence[Point]) -> list[Point]:
    """The points whose figures are there, on both sides."""
    return [
        (label, case, metric)
        for label, case, metric in points
        if case in records and all(records[case].metrics.get(metric, ([], [])))
    ]


class Panel(NamedTuple):
    """One diagram of a figure: bars, or lines over the numbers that the points' labels are."""

    title: str
    points: Sequence[Point]
    lines: bool = False
    log: bool = False


def _figure(records: Records, names: Names, wanted: Sequence[Panel], columns: int, under: str) -> Figure | None:
    """Panels side by side; None when no panel has anything to show."""
    panels = [panel._replace(points=_there(records, panel.points)) for panel in wanted]
    panels = [panel for panel in panels if panel.points]
    if not panels:
        return None
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.0 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axis in grid.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(grid.flat, panels, strict=False):
        _axis(axis, panel.title, METRICS[panel.points[0][2]].unit, log=panel.log)
        if panel.lines:
            _lines(axis, records, panel.points, names, log=panel.log)
        else:
            _bars(axis, records, panel.points, names, log=panel.log)
        axis.set_xlabel(under)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return figure


def _throughput(records: Records, names: Names) -> Figure | None:
    cases = ("put", "range", "range-serializable", "txn", "mixed")
    panels = [
        Panel(f"{case}, a second", [(str(shape), f"{case}/{shape}", "rate") for shape in SHAPES]) for case in cases
    ]
    return _figure(records, names, panels, 3, "connections x streams")


def _latency(records: Records, names: Names) -> Figure | None:
    panels = []
    for shape, words in ((ALONE, "alone"), (BUSY, f"at {BUSY}")):
        for case in ("put", "range", "txn"):
            points = [(METRICS[metric].label, f"{case}/{shape}", metric) for metric in PERCENTILES]
            panels.append(Panel(f"{case}, {words}", points, log=True))
    return _figure(records, names, panels, 3, "")


def _value_sizes(records: Records, names: Names) -> Figure | None:
    sizes = sorted([(size, f"-{suffix}") for suffix, size in VALUE_SIZES.items()] + [(len(VALUE), "")])
    panels = []
    for case in ("put", "range"):
        points = [(f"{size}", f"{case}{suffix}/{BUSY}", "rate") for size, suffix in sizes]
        panels.append(Panel(f"{case} at {BUSY}, a second", points, log=True))
    return _figure(records, names, panels, 2, "bytes in a value")


def _watching(records: Records, names: Names) -> Figure | None:
    shapes = {watchers: ALONE if watchers == 1 else Shape(10, 1) for watchers in FAN_OUTS.values()}
    panels = []
    for metric, words in (
        ("rate", "events a second"),
        ("p99_us", "put to event, p99"),
        ("cpu_us", "server CPU an event"),
    ):
        points = [(f"{n}", f"{load}/{shapes[n]}", metric) for load, n in FAN_OUTS.items()]
        panels.append(Panel(words, points, lines=True, log=True))
    return _figure(records, names, panels, 3, "watchers of one key")


def _memory(records: Records, names: Names) -> Figure | None:
    wanted: tuple[tuple[str, Callable[[int], str], str], ...] = (
        ("resident memory after loading", size_case, "resident_bytes"),
        ("resident memory after a restart", restart_case, "resident_bytes"),
        ("data directory", size_case, "data_bytes"),
        ("restart until a get is answered", restart_case, "start_s"),
    )
    panels = []
    for words, title_of, metric in wanted:
        points = [(f"{size}", title_of(size), metric) for size in sizes_in(records)]
        panels.append(Panel(words, points, lines=True, log=True))
    return _figure(records, names, panels, 2, f"keys with values of {len(VALUE)} bytes")


def _cost(records: Records, names: Names) -> Figure | None:
    panels = []
    for load in ("get", "put"):
        for shape, metric, words in (
            (ALONE, "p50_us", "alone, p50"),
            (BUSY, "rate", f"at {BUSY}, a second"),
            (BUSY, "cpu_us", f"at {BUSY}, server CPU each"),
        ):
            points = [(f"{size}", load_case(size, load, shape), metric) for size in sizes_in(records)]
            panels.append(Panel(f"{load} {words}", points, lines=True))
    return _figure(records, names, panels, 3, "keys")


def _upkeep(records: Records, names: Names) -> Figure | None:
    panels = []
    for metric, words in (("p50_us", "gets and puts of others, p50"), ("p99_us", "p99"), ("max_us", "longest")):
        points = [(phase.partition("/")[2], phase, metric) for phase in PHASES]
        panels.append(Panel(words, points, log=True))
    return _figure(records, names, panels, 3, "meanwhile")


def _members(records: Records, names: Names) -> Figure | None:
    panels = []
    for case in ("put", "range"):
        for shape in (ALONE, BUSY):
            title = f"{MEMBERS}-members/{case}/{shape}"
            points = [(f"through the {through}", f"{title}/{through}", "rate") for through in THROUGH]
            panels.append(Panel(f"{case}, {shape}, a second", points))
    return _figure(records, names, panels, 2, "")


PLOTS: dict[str, Callable[[Records, Names], Figure | None]] = {
    "throughput": _throughput,
    "latency": _latency,
    "value-sizes": _value_sizes,
    "watch": _watching,
    "memory": _memory,
    "cost": _cost,
    "upkeep": _upkeep,
    "members": _members,
}
"""Every plot of the page, by the name of its file."""


def draw(records: Records, names: Names, directory: Path) -> list[Path]:
    """Write every plot that has something to show; the files. Plots of earlier results that now lack are removed."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(STYLE):
        for name, plot in PLOTS.items():
            path = directory / f"{name}.svg"
            path.unlink(missing_ok=True)
            figure = plot(records, names)
            if figure is not None:
                figure.savefig(path, format="svg", metadata={"Date": None})
                written.append(path)
    return written
