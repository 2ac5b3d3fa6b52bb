"""Runs targets: makes inputs, calls, judges, and reduces what fails to something short.

An input fails by an exception its target does not document, by taking too long, or by taking too much memory. A sample
of the inputs runs under a line tracer; one that reaches new lines joins the corpus, so that changes build on it.
"""

import signal
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import ratifyd
from fuzzing.target import Run, Target

TRACED = 1 / 200
MEASURED = 1 / 1000
CORPUS_LIMIT = 4000
HANG_S = 30
SHOWN = 2000
"""CPU time after which one call counts as endless."""
REDUCTIONS = 1500
_SOURCE = str(Path(ratifyd.__file__).parent)


class TooSlow(Exception):
    """One input took longer than its target allows."""


class TooMuchMemory(Exception):
    """One input took more memory than its target allows."""


class Hang(BaseException):
    """One input does not come to an end."""


@dataclass(frozen=True)
class Failure:
    """A documented promise broken; `inputs` bring it about from a fresh start."""

    target: str
    seed: str
    inputs: tuple[bytes, ...]
    error: str
    where: str

    @property
    def signature(self) -> str:
        """Equal for what is likely the same bug."""
        return f"{self.target} {self.error.partition('(')[0]} {self.where}"

    def __str__(self) -> str:
        inputs = " ".join(data.hex() or "-" for data in self.inputs)
        if len(inputs) > SHOWN:
            inputs = f"{inputs[:SHOWN]}... ({len(self.inputs)} inputs, {sum(map(len, self.inputs))} bytes)"
        return (
            f"{self.target}, seed {self.seed}: {self.error}\n  at {self.where}\n"
            f"repeat with: python -m fuzzing --targets {self.target} --input {inputs}"
        )


@dataclass
class Report:
    """What a run came to."""

    target: str
    inputs: int = 0
    refused: int = 0
    cpu_s: float = 0.0
    lines: int = 0
    corpus: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)


class Tracer:
    """The lines of ratifyd's code that were ever reached."""

    def __init__(self) -> None:
        self.lines: set[tuple[str, int]] = set()
        self._codes: dict[Any, bool] = {}

    def news(self, run: Callable[[], object]) -> bool:
        """Call it; whether a line was new. Lets exceptions through."""
        before = len(self.lines)
        old = sys.gettrace()
        sys.settrace(self._call)
        try:
            run()
        finally:
            sys.settrace(old)
            self.new = len(self.lines) > before
        return self.new

    new = False

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        ours = self._codes.get(code)
        if ours is None:
            ours = self._codes[code] = code.co_filename.startswith(_SOURCE)
        return self._line if ours else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def run_target(
    target: Target,
    *,
    seed: str,
    inputs: int,
    deadline: float = float("inf"),
    told: Callable[[Failure], object] = lambda failure: None,
) -> Report:
    """Run a target until so many inputs have been tried, or the deadline (monotonic time) has come."""
    report = Report(target.name)
    tracer = Tracer()
    corpus = list(target.seeds())
    began = time.process_time()
    with _hang_guard():
        _first(target, corpus, report, tracer, seed, told)
        number = 0
        while report.inputs < inputs and time.monotonic() < deadline:
            number += 1
            _run_batch(
                target, f"{seed}.{number}", min(target.batch, inputs - report.inputs), corpus, tracer, report, told
            )
    report.cpu_s = time.process_time() - began
    report.lines, report.corpus = len(tracer.lines), len(corpus)
    return report


def _first(
    target: Target,
    corpus: Sequence[bytes],
    report: Report,
    tracer: Tracer,
    seed: str,
    told: Callable[[Failure], object],
) -> None:
    """The seeds themselves, traced, so that only more than they reach is news."""
    run = target.start()
    for at, data in enumerate(corpus):
        error = _attempt(target, run, data, tracer=tracer)
        report.inputs += 1
        if error is not None and not isinstance(error, target.errors):
            _note(target, f"{seed} seed {at}", (data,), error, report, told)
            run = target.start()
    _end(target, run)


def _run_batch(
    target: Target,
    seed: str,
    count: int,
    corpus: list[bytes],
    tracer: Tracer,
    report: Report,
    told: Callable[[Failure], object],
) -> None:
    random = Random(f"{target.name} {seed}")
    chance = random.random
    shapes, errors = target.shapes, target.errors
    run = target.start()
    history: list[bytes] = []
    for _ in range(count):
        size = len(corpus)
        data = corpus[int(chance() * size)]
        data = shapes[int(chance() * len(shapes))](random, data, corpus[int(chance() * size)])
        if target.keeps_state:
            history.append(data)
        report.inputs += 1
        how = chance()
        traced = how < TRACED
        error = _attempt(
            target, run, data, tracer=tracer if traced else None, measured=TRACED <= how < TRACED + MEASURED
        )
        if error is not None:
            if isinstance(error, errors):
                report.refused += 1
            else:
                _note(target, seed, tuple(history) or (data,), error, report, told)
                run, history = target.start(), []
                continue
        if traced and tracer.new and size < CORPUS_LIMIT:
            corpus.append(data)
    error = _end(target, run)
    if error is not None:
        _note(target, seed, tuple(history), error, report, told)


def _end(target: Target, run: Run) -> BaseException | None:
    """Look at what a batch has left behind, where a target has a way to."""
    finish = getattr(run, "finish", None)
    if finish is None:
        return None
    try:
        finish()
    except Exception as error:
        return error
    return None


def _attempt(
    target: Target, run: Run, data: bytes, *, tracer: Tracer | None = None, measured: bool = False
) -> BaseException | None:
    """The exception an input ends with, if any."""
    _rearm()
    began = time.thread_time()
    try:
        if tracer is not None:
            tracer.news(lambda: run(data))
            return None
        if measured:
            _measure(target, run, data)
            return None
        run(data)
    except (Exception, Hang) as error:
        return error
    took = time.thread_time() - began
    return TooSlow(f"{took:.2f} s for {len(data)} bytes") if took > target.cpu_s else None


def _measure(target: Target, run: Run, data: bytes) -> None:
    tracemalloc.start(1)
    try:
        run(data)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if peak > target.memory_bytes + 200 * len(data):
        raise TooMuchMemory(f"{peak} bytes for {len(data)}")


def _rearm() -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)


@contextmanager
def _hang_guard() -> Iterator[None]:
    def hang(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {HANG_S} s")

    before = signal.signal(signal.SIGVTALRM, hang)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


# --- failures --------------------------------------------------------------------------------------------------------


def _note(
    target: Target,
    seed: str,
    inputs: tuple[bytes, ...],
    error: BaseException,
    report: Report,
    told: Callable[[Failure], object],
) -> None:
    failure = Failure(target.name, seed, inputs, _describe(error), _where(error))
    if failure.signature in report.failures:
        return
    report.failures[failure.signature] = failure = _reduced(target, failure)
    told(failure)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}({error})"[:500]


def _where(error: BaseException) -> str:
    """The deepest line of ours it passed through."""
    while error.__cause__ is not None:
        error = error.__cause__
    found, in_source = "?", False
    trace = error.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if _SOURCE in path or not in_source:
            in_source = _SOURCE in path
            found = f"{Path(path).name}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return found


def outcome(target: Target, inputs: Sequence[bytes]) -> Failure | None:
    """Try inputs one after the other from a fresh start; how they fail, None if they do not."""
    run = target.start()
    for data in inputs:
        error = _attempt(target, run, data)
        if error is not None and not isinstance(error, target.errors):
            return Failure(target.name, "", tuple(inputs), _describe(error), _where(error))
    error = _end(target, run)
    return None if error is None else Failure(target.name, "", tuple(inputs), _describe(error), _where(error))


def _reduced(target: Target, failure: Failure) -> Failure:
    """The same failure with fewer inputs and fewer bytes."""
    budget = [REDUCTIONS if not target.keeps_state else REDUCTIONS // 10]

    def fails(inputs: Sequence[bytes]) -> bool:
        budget[0] -= 1
        found = outcome(target, inputs)
        return found is not None and found.signature == failure.signature

    if not fails(failure.inputs):
        return failure
    inputs = list(failure.inputs)
    if len(inputs) > 1 and fails(inputs[-1:]):
        inputs = inputs[-1:]
    inputs = _fewer(inputs, fails, budget)
    for at in range(len(inputs)):
        if budget[0] <= 0:
            break
        letters = [inputs[at][i : i + 1] for i in range(len(inputs[at]))]

        def fails_with(pieces: Sequence[bytes], at: int = at) -> bool:
            return fails([*inputs[:at], b"".join(pieces), *inputs[at + 1 :]])

        inputs[at] = b"".join(_fewer(letters, fails_with, budget))
    return Failure(failure.target, failure.seed, tuple(inputs), failure.error, failure.where)


def _fewer(pieces: list[bytes], fails: Callable[[Sequence[bytes]], bool], budget: list[int]) -> list[bytes]:
    """Leave out runs of pieces, ever shorter ones, as long as it still fails."""
    size = len(pieces) // 2
    while size and budget[0] > 0:
        at = 0
        while at < len(pieces) and budget[0] > 0:
            fewer = pieces[:at] + pieces[at + size :]
            if fewer and fails(fewer):
                pieces = fewer
            else:
                at += size
        size //= 2
    return pieces
