"""The option that writes transcripts anew: `pytest tests/traces --rewrite`, then read the diff."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="replace the transcripts by what happens now")
