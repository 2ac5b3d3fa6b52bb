from pathlib import Path

from ratifyd.config import options
from ratifyd.config.help import help_text, reference_page

PAGE = Path(__file__).parents[3] / "docs/reference/configuration.md"


def test_help_names_every_flag_once() -> None:
    lines = help_text().splitlines()
    for row in options():
        assert sum(line.startswith(f"  --{row.flag} '") for line in lines) == 1, row.flag
    assert not [line for line in lines if len(line) > 140]


def test_help_shows_effective_defaults() -> None:
    text = help_text()
    assert "--quota-backend-bytes '2147483648'" in text
    assert "--backend-batch-interval '100ms'" in text
    assert "--data-dir '${name}.etcd'" in text


def test_reference_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference_page()


def test_every_table_row_has_as_many_cells_as_its_head() -> None:
    width = 0
    for line in reference_page().splitlines():
        cells = line.replace("\\|", "").count("|") if line.startswith("|") else 0
        assert cells in (0, width) or not width, line
        width = cells
