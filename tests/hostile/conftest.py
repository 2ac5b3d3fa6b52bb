"""A server to be attacked, and a well-behaved client beside the attackers.

`RATIFYD_TEST_SERVER=etcd` attacks a real etcd: what it survives is a matter of record, not of these tests.
"""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles

import grpc
import pytest

from harness.servers import EtcdServer
from harness.stubs import Client
from ratifyd.proto import rpc_pb2

KIND = os.environ.get("RATIFYD_TEST_SERVER", "ratifyd")
PAUSE_S = 0.005
TIMEOUT_S = 20.0


class Neighbour:
    """Puts and reads a key, all the time; keeps how long each took."""

    def __init__(self, server: EtcdServer) -> None:
        self._client = Client(server.client_endpoint)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._over = threading.Event()
        self._round = threading.Event()
        self.took: list[float] = []
        self.failures: list[str] = []

    def _run(self) -> None:
        number = 0
        while not self._over.wait(PAUSE_S):
            number += 1
            began = time.monotonic()
            try:
                value = b"%d" % number
                self._client.kv.Put(rpc_pb2.PutRequest(key=b"neighbour", value=value), timeout=TIMEOUT_S)
                found = self._client.kv.Range(rpc_pb2.RangeRequest(key=b"neighbour"), timeout=TIMEOUT_S)
                assert found.kvs[0].value == value
            except (grpc.RpcError, AssertionError) as error:
                self.failures.append(repr(error))
            self.took.append(time.monotonic() - began)
            self._round.set()

    def __enter__(self) -> "Neighbour":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(TIMEOUT_S + 5)
        self._client.close()

    def mark(self) -> int:
        """Where the present moment is in `took`."""
        return len(self.took)

    def await_rounds(self, count: int) -> None:
        """Let so many more rounds go by."""
        target, deadline = len(self.took) + count, time.monotonic() + 60
        while len(self.took) < target:
            assert time.monotonic() < deadline, f"the neighbour is not served: {self.failures[-3:]}"
            self._round.wait(1)
            self._round.clear()

    def percentiles(self, since: int) -> tuple[float, float]:
        """p50 and p99 from a mark on."""
        took = self.took[since:] * 2
        cuts = quantiles(took, n=100)
        return cuts[49], cuts[98]


@pytest.fixture(scope="module")
def kind() -> str:
    return KIND


@pytest.fixture(scope="module")
def server(kind: str) -> Iterator[EtcdServer]:
    with EtcdServer(kind, ["--unsafe-no-fsync"]) as running:
        yield running


@pytest.fixture
def neighbour(server: EtcdServer) -> Iterator[Neighbour]:
    with Neighbour(server) as client:
        client.await_rounds(5)
        yield client


def resident_bytes(server: EtcdServer) -> int:
    """Memory of a server's process."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError
