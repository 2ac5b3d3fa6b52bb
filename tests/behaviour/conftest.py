"""One server per kind and worker, shared by the API tests; every test works on keys of its own."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.servers import EtcdServer
from harness.stubs import Client
from harness.watch import WatchStream
from ratifyd.proto import rpc_pb2

_numbers = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--against") or "ratifyd"
        metafunc.parametrize("kind", chosen.split(","), scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("only")
        kind = getattr(item, "callspec", None) and item.callspec.params.get("kind")  # type: ignore[attr-defined]
        if marker is not None and kind not in marker.args:
            item.add_marker(pytest.mark.skip(reason=f"behaviour of {', '.join(marker.args)} only"))


@pytest.fixture(scope="session")
def server(kind: str) -> Iterator[EtcdServer]:
    """A running server with default limits, shared."""
    with EtcdServer(kind, ["--unsafe-no-fsync"]) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: EtcdServer) -> Iterator[Client]:
    """Stubs for the shared server."""
    with Client(server.client_endpoint) as stubs:
        yield stubs


@pytest.fixture
def start_server(kind: str) -> Iterator[Callable[..., tuple[EtcdServer, Client]]]:
    """Start a server of this test's own, with flags; returns it and stubs for it."""
    started: list[tuple[EtcdServer, Client]] = []

    def start(*flags: str, **options: Any) -> tuple[EtcdServer, Client]:
        own = EtcdServer(kind, ["--unsafe-no-fsync", *flags], **options)
        started.append((own, Client(own.client_endpoint)))
        return started[-1]

    yield start
    for own, stubs in started:
        stubs.close()
        own.stop()


@pytest.fixture
def fresh(start_server: Callable[..., tuple[EtcdServer, Client]]) -> Client:
    """Stubs for a new, empty server."""
    return start_server()[1]


@pytest.fixture
def prefix() -> bytes:
    """Keys under this prefix belong to this test; it ends with a slash."""
    return b"test%d/" % next(_numbers)


@pytest.fixture
def end(prefix: bytes) -> bytes:
    """The range end of everything under `prefix`."""
    return prefix[:-1] + b"0"


@pytest.fixture
def stream(client: Client) -> Iterator[WatchStream]:
    """A watch stream on the shared server."""
    with WatchStream(client) as opened:
        yield opened


@pytest.fixture
def new_lease(client: Client) -> Iterator[Callable[..., int]]:
    """Grant leases that are revoked after the test; returns the id."""
    granted: list[int] = []

    def grant(ttl: int = 600, lease: int = 0) -> int:
        granted.append(client.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease)).ID)
        return granted[-1]

    yield grant
    alive = {each.ID for each in client.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest()).leases}
    for lease in alive.intersection(granted):
        client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease))
