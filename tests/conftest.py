"""Options shared by all tests, and the root of the checkout on the path so that `harness` can be imported."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes says more about the machine than about the code. A run repeats the examples of the run
# before, so that it fails for what was changed; other examples are `--hypothesis-profile=exploring`'s, and fuzzing's.
settings.register_profile("repeating", deadline=None, derandomize=True)
settings.register_profile("exploring", deadline=None, max_examples=2000)
settings.load_profile("repeating")

ROOT = Path(__file__).resolve().parent.parent

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--against",
        default=None,
        metavar="KINDS",
        help="servers for the tests over real processes: etcd, ratifyd or both with a comma between",
    )
    parser.addoption("--full", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only(*kinds): the behaviour holds for these kinds of server only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full") or "slow" in (config.getoption("-m") or ""):
        return
    skip = pytest.mark.skip(reason="slow; run with --full")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
