"""The page about results: targets met and missed, tables in order, plots that are drawn from the figures."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.page import SECTIONS, main, render
from benchmarks.plots import PLOTS, draw
from benchmarks.records import Results
from benchmarks.targets import TARGETS, verdicts
from tests.unit.benchmarks.support_results import SIZES, environment, everything, record

ROOT = Path(__file__).resolve().parents[3]
SVG = "{http://www.w3.org/2000/svg}"


def met(results: Results) -> dict[str, bool | None]:
    return {verdict.words: verdict.met for verdict in verdicts(results.newest())}


def test_every_target_names_a_case_that_is_measured() -> None:
    known = everything().newest()
    assert [target.case for target in TARGETS if target.case not in known] == []
    assert None not in met(everything()).values()


def test_targets_are_met_by_the_median_of_the_ratios() -> None:
    results = everything()
    assert all(met(results).values())
    results.records = [
        record("put/100x10", rate=1000.0),
        record("restart", start_s=1.0),
    ]
    results.records[0].metrics["rate"][1][:] = [1690.0, 1690.0]
    assert met(results)["puts a second, 100x10"] is False
    results.records[0].metrics["rate"][1][:] = [1710.0, 1710.0]
    assert met(results)["puts a second, 100x10"] is True
    assert met(results)["gets a second, 100x10"] is None


def test_less_is_better_of_times() -> None:
    results = everything()
    results.newest()["put/1x1"].metrics["p50_us"][1][:] = [101.0, 101.0]
    assert met(results)["a lone put, p50"] is False


def test_a_busy_machine_decides_nothing_but_memory() -> None:
    results = everything()
    for each in results.records:
        each.others_cores = 1.0
    assert {words for words, verdict in met(results).items() if verdict is not None} == {
        "resident memory with a million keys",
        "the same after a restart",
    }
    verdict = next(verdicts(results.newest()))
    assert verdict.measured == "2.00 (1.90-2.10), on a busy machine"


def test_tails_count_where_the_median_is_better() -> None:
    results = everything()
    put, get = results.newest()["put/100x10"], results.newest()["range/100x10"]
    put.metrics["p99_us"][1][:] = [480.0, 480.0]
    get.metrics["p99_us"][1][:] = [900.0, 900.0]
    get.metrics["p50_us"][1][:] = [110.0, 110.0]
    verdict = next(each for each in verdicts(results.newest()) if each.words.startswith("p99"))
    assert verdict.met is False
    assert verdict.measured.endswith("; not in put/100x10 1.20")


@pytest.mark.parametrize(("p50_us", "expected"), [(99.0, True), (120.0, False)])
def test_growth_with_size_is_of_ratifyd_alone(p50_us: float, expected: bool) -> None:
    results = everything()
    results.newest()[f"keyspace-{SIZES[-1]}/get/1x1"].metrics["p50_us"][1][:] = [p50_us, p50_us]
    assert met(results)["a lone get, p50, from 10,000 to 10,000,000 keys"] is expected


def test_growth_up_to_fewer_keys_decides_nothing() -> None:
    results = everything()
    results.records = [each for each in results.records if str(SIZES[-1]) not in each.case]
    verdict = next(each for each in verdicts(results.newest()) if each.words.startswith("a lone get, p50, from"))
    assert verdict.met is None
    assert verdict.measured == "1.00 up to 1,000,000 keys (server CPU 1.00)"


def test_the_page_shows_every_case_once(tmp_path: Path) -> None:
    results = everything(note="Taken on a train.")
    text = render(results, "file.json", "images", list(PLOTS))
    for case in results.newest():
        assert text.count(f"| `{case}`") == 1, case
    assert "## Others" not in text
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        "Hardware and versions",
        "Targets",
        *SECTIONS,
        "How it is measured",
    ]
    assert "> **Taken on a train.**" in text
    assert "Abacus 9000, 4 cores" in text
    assert "| `put/1x1` | throughput (/s) | 1,000 | 2,000 | 2.00 | 1.90-2.10 |" in text
    puts = re.findall(r"\| `(put/\S+)`", text)
    assert puts == ["put/1x1", "put/10x1", "put/100x10", "put/1000x1"]


def test_the_page_marks_cases_of_a_busy_machine() -> None:
    results = everything()
    results.newest()["put/1x1"].others_cores = 1.0
    text = render(results, "file.json", "images", [])
    assert text.count("`\\* |") == 1
    assert "| `put/1x1`\\* |" in text
    assert "![" not in text


def test_a_page_about_nothing_is_refused() -> None:
    with pytest.raises(ValueError):
        render(Results(), "file.json", "images", [])


def test_plots_show_the_figures(tmp_path: Path) -> None:
    records = everything().newest()
    written = draw(records, ("etcd", "ratifyd"), tmp_path)
    assert [path.stem for path in written] == list(PLOTS)
    for path in written:
        words = {"".join(each.itertext()) for each in ElementTree.parse(path).iter(f"{SVG}text")}
        assert {"etcd", "ratifyd"} <= words, path.name
    words = {"".join(each.itertext()) for each in ElementTree.parse(written[0]).iter(f"{SVG}text")}
    assert {"put, a second", "1000x1", "connections x streams", "2.00x"} <= words


def test_plots_without_figures_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "memory.svg").write_text("of earlier results")
    records = Results([environment()], [record("put/1x1", rate=1000.0)]).newest()
    written = draw(records, ("etcd", "ratifyd"), tmp_path)
    assert written == [tmp_path / "throughput.svg"] == list(tmp_path.iterdir())
    before = written[0].read_bytes()
    draw(records, ("etcd", "ratifyd"), tmp_path)
    assert written[0].read_bytes() == before, "the same figures make the same file"


def test_the_command_merges_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Results([environment()], [record("put/1x1", rate=1.0)]).write(tmp_path / "old.json")
    newer = record("put/1x1", "2026-05-01T00:00:00+00:00", rate=7000.0)
    Results([environment()], [newer]).write(tmp_path / "new.json")
    page = tmp_path / "results.md"
    assert main([str(tmp_path / "new.json"), str(tmp_path / "old.json"), "--page", str(page)]) == 0
    assert "| `put/1x1` | throughput (/s) | 7,000 | 14,000 |" in page.read_text()
    assert "[new.json](new.json), [old.json](old.json)" in page.read_text()
    assert "(results/throughput.svg)" in page.read_text()
    assert (tmp_path / "results" / "throughput.svg").exists()
    assert main([str(tmp_path / "none.json"), "--page", str(page)]) == 1
    assert "none.json" in capsys.readouterr().err


def test_the_page_of_the_documents_is_current() -> None:
    docs = ROOT / "docs"
    results = Results.read(docs / "benchmarks" / "results.json")
    plots = [path.stem for path in (docs / "benchmarks").glob("*.svg")]
    expected = render(results, "[results.json](benchmarks/results.json)", "benchmarks", plots)
    assert (docs / "benchmarks.md").read_text() == expected, (
        "run python -m benchmarks report docs/benchmarks/results.json"
    )
