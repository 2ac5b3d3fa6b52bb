"""Servers for the tests with real clients: one per kind and worker, and a pair that must answer alike."""

import itertools
from collections.abc import Iterator

import pytest

from differential.pairs import start_pair
from harness.servers import EtcdServer

_numbers = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--against") or "ratifyd"
        metafunc.parametrize("kind", chosen.split(","), scope="session")


@pytest.fixture(scope="session")
def server(kind: str) -> Iterator[EtcdServer]:
    """A running server with default limits, shared."""
    with EtcdServer(kind, ["--unsafe-no-fsync"]) as running:
        yield running


@pytest.fixture(scope="session")
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[EtcdServer, EtcdServer]]:
    """etcd on the left, the kind under test on the right, with equal ids."""
    chosen = (request.config.getoption("--against") or "ratifyd").split(",")
    servers = start_pair("etcd", chosen[-1])
    yield servers
    for each in servers:
        each.stop()


@pytest.fixture
def prefix() -> str:
    """Keys under this prefix belong to this test; it ends with a slash."""
    return f"interop{next(_numbers)}/"
