"""Fixtures of the crash tests: which server they run against, and how often it is killed.

`RATIFYD_TEST_SERVER=etcd` runs them against a real etcd, which shows that the tests themselves are right;
`RATIFYD_TEST_KILLS=20` kills more often.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.clusters import KILLABLE, Cluster
from harness.servers import EtcdServer

StartServer = Callable[..., EtcdServer]
StartCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def kind() -> str:
    """The server under test."""
    return os.environ.get("RATIFYD_TEST_SERVER", "ratifyd")


@pytest.fixture(scope="session")
def kills() -> int:
    """How many kill -9 one test of the kind deals out."""
    return int(os.environ.get("RATIFYD_TEST_KILLS", "5"))


@pytest.fixture
def start_server(kind: str) -> Iterator[StartServer]:
    """Make servers of the kind under test; all are stopped at the end of the test."""
    with ExitStack() as stack:

        def make(*flags: str, start: bool = True, **options: object) -> EtcdServer:
            server = EtcdServer(kind, flags, start=False, **options)  # type: ignore[arg-type]
            stack.callback(server.stop)
            if start:
                server.start()
            return server

        yield make


@pytest.fixture
def start_cluster() -> Iterator[StartCluster]:
    """Make clusters; all are stopped at the end of the test."""
    with ExitStack() as stack:

        def make(
            *kinds: str,
            flags: tuple[str, ...] = (),
            own_flags: tuple[str, ...] = (),
            data_dirs: tuple[Path, ...] = (),
        ) -> Cluster:
            kinds = kinds or ("ratifyd",) * 3
            cluster = Cluster(kinds, flags, own_flags=own_flags, etcd_flags=KILLABLE, start=False)
            for member, data_dir in zip(cluster.members, data_dirs, strict=False):
                member.data_dir = data_dir
            stack.callback(cluster.stop)
            cluster.start()
            return cluster

        yield make
