"""Which cases a command measures: those asked for, and of these the ones that a file of results lacks."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.records import Results
from tests.unit.benchmarks.support_results import environment, everything, record


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles that a run would measure, in order; nothing is started."""
    titles: list[str] = []

    def compare(names: Any, cases: Any, loads: Any, others: Any, *rest: Any) -> None:
        titles.extend([case.title for case in cases] + [title for title, _, _ in loads] + others)

    def checked(arguments: Any, estimate_s: float, *runs: Any) -> int:
        for run in runs:
            if getattr(run, "func", None) is None:
                run(names=("etcd", "ratifyd"), recorder=None)
            else:
                titles.append(f"{run.func.__module__} {run.keywords.get('sizes', '')}".strip())
        return 0

    monkeypatch.setattr(command, "compare", compare)
    monkeypatch.setattr(command, "checked", checked)
    return titles


def test_patterns_choose(measured: list[str]) -> None:
    assert command.main(["--cases", "put/1x1,mixed,idle"]) == 0
    assert measured == ["put/1x1", "mixed/1x1", "mixed/10x1", "mixed/100x10", "mixed/1000x1", "idle"]


def test_nothing_to_measure_is_an_error(measured: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--cases", "putt"]) == 2
    assert "no case is left" in capsys.readouterr().err
    assert measured == []


def test_only_what_is_missing(measured: list[str], tmp_path: Path) -> None:
    noisy = record("put/10x1", rate=1.0)
    noisy.others_cores = 1.0
    Results([environment()], [record("put/1x1", rate=1.0), noisy]).write(tmp_path / "file.json")
    options = ["--cases", "put", "--missing", "--into", str(tmp_path / "file.json")]
    assert command.main(options) == 0
    assert measured == ["put/100x10", "put/1000x1"]
    measured.clear()
    assert command.main([*options, "--redo-noisy"]) == 0
    assert measured == ["put/10x1", "put/100x10", "put/1000x1"]


def test_all_goes_on_where_it_was_interrupted(measured: list[str], tmp_path: Path) -> None:
    options = ["all", "--keys", "10000,2000000", "--into", str(tmp_path / "file.json")]
    results = everything()
    results.write(tmp_path / "file.json")
    assert command.main(options) == 0
    assert measured == ["benchmarks.keyspace [2000000]"]
    measured.clear()
    results.records = [each for each in results.records if each.case not in ("txn/1x1", "upkeep/quiet")]
    results.newest()["keyspace-10000/restart"].others_cores = 1.0
    results.write(tmp_path / "file.json")
    assert command.main([*options, "--redo-noisy"]) == 0
    assert measured == ["txn/1x1", "benchmarks.keyspace [10000]", "benchmarks.keyspace [2000000]", "benchmarks.upkeep"]
