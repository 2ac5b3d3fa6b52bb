"""Files of results: they grow, the newest record of a case counts, several make one."""

from pathlib import Path

import pytest

from benchmarks.recorder import Progress, Recorder, duration
from benchmarks.records import Record, Results, merge, shown
from benchmarks.report import table
from tests.unit.benchmarks.support_results import DATE, environment, record


def test_a_file_holds_what_was_written(tmp_path: Path) -> None:
    results = Results([environment()], [record("put/1x1", rate=1000.0, p50_us=99.0)])
    results.write(tmp_path / "file.json")
    assert Results.read(tmp_path / "file.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize("text", ['{"schema": 2, "environments": [], "records": []}', "[]", "{"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError):
        Results.read(tmp_path / "file.json")


def test_the_newest_record_of_a_case_counts() -> None:
    old, new = record("put/1x1", DATE, rate=1.0), record("put/1x1", "2026-03-01T00:00:00+00:00", rate=2.0)
    other = record("range/1x1", rate=3.0)
    for records in ([old, other, new], [new, other, old]):
        newest = Results([environment()], records).newest()
        assert newest == {"put/1x1": new, "range/1x1": other}


def test_merged_records_keep_their_environments() -> None:
    first = Results([environment()], [record("put/1x1", rate=1.0)])
    second = Results(
        [environment(cores=64), environment()], [record("range/1x1", rate=1.0), record("txn/1x1", rate=1.0)]
    )
    second.records[1].environment = 1
    whole = merge([first, second])
    assert [whole.environments[each.environment]["cores"] for each in whole.records] == [4, 64, 4]
    assert len(whole.environments) == 2


def test_ratios_compare_the_rounds() -> None:
    made = Record("put/1x1", 0, DATE, 0.0)
    for first, second in ((100.0, 200.0), (50.0, 150.0), (100.0, 100.0)):
        made.add(0, rate=first)
        made.add(1, rate=second)
    assert made.ratios("rate") == [2.0, 3.0, 1.0]
    assert made.ratio("rate") == 2.0
    assert made.medians("rate") == (100.0, 150.0)


def test_a_figure_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no metric is called rat"):
        record("put/1x1").add(0, rat=1.0)


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("p50_us", 123.4, "0.123"),
        ("rate", 12345.6, "12,346"),
        ("resident_bytes", 2.0**30, "1,024"),
        ("start_s", 0, "0"),
    ],
)
def test_figures_are_shown_in_their_unit(metric: str, value: float, words: str) -> None:
    assert shown(metric, value) == words


def test_every_case_is_written_as_soon_as_it_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.json"
    recorder = Recorder(Results(), environment(), Progress(100.0), path)
    with recorder.case("put/1x1", 40.0) as made:
        made.add(0, rate=1.0)
        made.add(1, rate=2.0)
    with pytest.raises(RuntimeError), recorder.cases(["a/1x1", "b/1x1"]):
        assert list(Results.read(path).newest()) == ["put/1x1"]
        raise RuntimeError
    found = Results.read(path)
    assert [each.case for each in found.records] == ["put/1x1"], "a case that failed leaves nothing"
    assert found.environments == [environment()]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("0%  0s gone, 1m40s left  put/1x1")
    assert " 40%  " in lines[1] and lines[1].endswith("a/1x1, b/1x1")


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0s"), (59, "59s"), (90, "1m30s"), (3661, "1h01m")])
def test_durations_are_read_easily(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_table_marks_what_was_measured_on_a_busy_machine() -> None:
    calm, busy = record("put/1x1", rate=1000.0), record("range/1x1", p50_us=100.0)
    busy.others_cores = 1.5
    lines = table([environment()], [calm, busy]).splitlines()
    assert "Abacus 9000, 4 cores, 16 GiB" in lines[0]
    assert lines[3].split() == ["put/1x1:", "throughput", "(/s)", "1,000", "2,000", "2.00", "1.90-2.10"]
    assert lines[4].split() == ["range/1x1*:", "p50", "(ms)", "0.1", "0.08", "0.80", "0.76-0.84"]
    assert lines[-1].startswith("* other processes kept more than 0.2 cores busy")
    assert "* other" not in table([environment()], [calm])
