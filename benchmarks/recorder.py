"""Keeps the records of a run: writes each into the file as soon as it is complete, and shows how far the run is."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.records import Record, Results
from benchmarks.surroundings import Others

BAR = 24


def duration(seconds: float) -> str:
    """90 is `1m30s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


class Progress:
    """A bar on stderr with the time that is left; one line a case where stderr is no terminal.

    Work is counted in the seconds it was estimated to take; how these compare with real ones corrects the rest.
    """

    def __init__(self, total_s: float) -> None:
        self._total = total_s
        self._done = 0.0
        self._began = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._line = ""

    def _left(self) -> str:
        if not self._done:
            return duration(self._total)
        return duration((time.monotonic() - self._began) / self._done * max(self._total - self._done, 0.0))

    def _write(self, text: str) -> None:
        share = min(self._done / self._total, 1.0) if self._total else 1.0
        filled = round(share * BAR)
        elapsed = duration(time.monotonic() - self._began)
        line = f"{'#' * filled}{'.' * (BAR - filled)} {share:4.0%}  {elapsed} gone, {self._left()} left  {text}"
        sys.stderr.write(f"\r{line[:119]:<119}" if self._terminal else f"{line}\n")
        sys.stderr.flush()

    def case(self, title: str) -> None:
        """A case begins."""
        self._write(title)

    def say(self, text: str) -> None:
        """What is going on, for those who watch."""
        if self._terminal:
            self._write(text)

    def advance(self, seconds: float) -> None:
        """So much of the estimated work is done."""
        self._done += seconds

    def close(self) -> None:
        """Leave the line."""
        if self._terminal:
            sys.stderr.write("\n")


@dataclass(slots=True)
class Recorder:
    """Where the cases of one run leave their figures."""

    results: Results
    environment: dict[str, Any]
    progress: Progress
    path: Path | None = None

    @contextmanager
    def case(self, title: str, estimate_s: float = 0.0) -> Iterator[Record]:
        """A record to fill; kept, and written, unless the block raises."""
        with self.cases([title]) as records:
            yield records[title]
        self.progress.advance(estimate_s)

    @contextmanager
    def cases(self, titles: Sequence[str]) -> Iterator[dict[str, Record]]:
        """Records that are filled in turns, and kept together."""
        self.progress.case(", ".join(titles[:2]) + (", ..." if titles[2:] else ""))
        date, load_average = datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0]
        number = self.results.environment(self.environment)
        records = {title: Record(title, number, date, load_average) for title in titles}
        others, began = Others(), time.monotonic()
        yield records
        for record in records.values():
            record.seconds = round(time.monotonic() - began, 3)
            record.others_cores = round(others.cores(), 3)
        self.results.records.extend(records.values())
        if self.path is not None:
            self.results.write(self.path)

    def say(self, text: str) -> None:
        """What is going on."""
        self.progress.say(text)
