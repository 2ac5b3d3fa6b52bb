"""A server under load, and the proof that it answered what it was asked."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from types import TracebackType
from typing import Self

import grpc

from benchmarks.bulk import send_all
from benchmarks.cases import KEYS, Case, fill_requests
from benchmarks.load import LoadError, LoadResult, run_latencies_us, run_load
from benchmarks.process import cpu_seconds
from harness.servers import EtcdServer
from harness.stubs import Client
from harness.users import READWRITE, Metadata, enable_auth, login
from ratifyd.proto import rpc_pb2

QUOTA_BYTES = 32 * 2**30
USER = "bench"
EVERY_KEY = (READWRITE, b"\x00", b"\x00")
START_LIMIT_S = 600.0
STOP_LIMIT_S = 120.0
_PROBE_KEY = b"probe/key"
_QUIET_SHARE = 0.03
_LOOK_S = 0.5

Names = tuple[str, str]
"""Kinds of the reference and of the subject, as `harness.servers` has them."""


class MeasuredServer(EtcdServer):
    """A server with room for much data."""

    def __init__(self, kind: str, data_dir: Path) -> None:
        quota = f"--quota-backend-bytes={QUOTA_BYTES}"
        super().__init__(kind, [quota], data_dir, start=False, start_timeout_s=START_LIMIT_S)

    def start_and_get(self) -> float:
        """Start; seconds until a get was answered."""
        began = time.monotonic()
        self.start()
        with Client(self.client_endpoint) as client:
            client.kv.Range(rpc_pb2.RangeRequest(key=_PROBE_KEY), timeout=START_LIMIT_S, wait_for_ready=True)
        return time.monotonic() - began


class Side:
    """One running server with a channel for single calls beside the load."""

    def __init__(self, server: EtcdServer) -> None:
        self.server = server
        self._client = Client(server.client_endpoint)
        self._auth = False

    def switch_auth_on(self) -> None:
        """From now on requests carry the token of a user whose role may read and write every key."""
        enable_auth(self._client, **{USER: (EVERY_KEY,)})
        self._auth = True

    def metadata(self) -> Metadata:
        """A fresh token, if auth is on."""
        return login(self._client, USER) if self._auth else ()

    def call(self, method: str, message: bytes, timeout_s: float = 30.0, metadata: Metadata = ()) -> bytes:
        """One unary call, bytes in and bytes out; raises grpc.RpcError unless the status is OK."""
        return self._client.raw(method, message, timeout=timeout_s, metadata=metadata)

    def revision(self, metadata: Metadata = ()) -> int:
        """The store's revision."""
        request = rpc_pb2.RangeRequest(key=_PROBE_KEY).SerializeToString()
        reply = self.call("/etcdserverpb.KV/Range", request, metadata=metadata)
        return int(rpc_pb2.RangeResponse.FromString(reply).header.revision)

    def fill(self, numbers: range = range(KEYS)) -> None:
        """Write the rows the cases read, or fewer of them."""
        send_all(self.server.client_endpoint, list(fill_requests(numbers)))

    def run(self, case: Case, requests: int) -> LoadResult:
        """One verified run: every request answered OK, and every write in the store."""
        shown = self.metadata()
        sample = len(self.call(case.method, case.message, metadata=shown)) + 5
        before = self.revision(shown)
        endpoint = self.server.client_endpoint
        headers = [*case.headers, *(f"{name}: {value}" for name, value in shown)]
        result = run_load(endpoint, case.method, case.message, case.shape, requests, headers=headers)
        after = self.revision(shown)
        if after - before != (result.requests if case.writes else 0):
            raise LoadError(f"{case.title}: {result.requests} requests moved the revision by {after - before}")
        # A reply grows by a byte or two when the revision in it needs a longer varint.
        low, high = result.requests * sample, result.requests * (sample + 4)
        if not low <= result.data_bytes <= high:
            raise LoadError(f"{case.title}: {result.data_bytes} bytes of replies, expected {low} to {high}")
        return result

    def latencies_us(self, case: Case, requests: int) -> list[int]:
        """Microseconds of single requests, with as many in flight as the case's shape says."""
        headers = [*case.headers, *(f"{name}: {value}" for name, value in self.metadata())]
        endpoint = self.server.client_endpoint
        return run_latencies_us(endpoint, case.method, case.message, requests, case.shape, headers)

    def settle(self, limit_s: float = 60.0) -> None:
        """Wait until what goes on behind answered requests is over: the server idles for a moment."""
        deadline = time.monotonic() + limit_s
        busy = 1.0
        while busy > _QUIET_SHARE and time.monotonic() < deadline:
            before = cpu_seconds(self.server.pid)
            time.sleep(_LOOK_S)
            busy = (cpu_seconds(self.server.pid) - before) / _LOOK_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


@contextmanager
def installed(kind: str, directory: Path | None) -> Iterator[MeasuredServer]:
    """A server of this kind, not started, with an empty directory; stopped and removed at the end."""
    with TemporaryDirectory(prefix="bench-", dir=directory, ignore_cleanup_errors=True) as data:
        server = MeasuredServer(kind, Path(data) / "data")
        try:
            yield server
        finally:
            if server.running:
                server.terminate(STOP_LIMIT_S)
            server.stop()


@contextmanager
def running(kind: str, directory: Path | None) -> Iterator[Side]:
    """A fresh server of this kind."""
    with installed(kind, directory) as server:
        server.start()
        with Side(server) as side:
            yield side


@contextmanager
def pair(names: Names, directory: Path | None) -> Iterator[Sequence[Side]]:
    """A fresh server of each kind, side by side; the one not under load idles."""
    with ExitStack() as stack:
        yield [stack.enter_context(running(kind, directory)) for kind in names]


def room(directory: Path | None) -> int:
    """Free bytes where data directories go."""
    return shutil.disk_usage(directory or gettempdir()).free


def failure(error: Exception) -> str:
    """What to tell about a run that ended early."""
    return str(error.details()) if isinstance(error, grpc.RpcError) and hasattr(error, "details") else str(error)
