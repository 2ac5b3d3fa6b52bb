"""Concurrent writers against a live server that remember what was acknowledged, and the checks of it afterwards.

Every write goes to a key of its own, so one read of everything shows each acknowledged write at its revision, and shows
that an unanswered one happened once or never. Each worker also moves a counter by compare-and-swap transactions that
touch three keys at once, which shows torn transactions.
"""

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc

from harness import stubs
from ratifyd.keys import prefix_end
from ratifyd.proto import rpc_pb2

CALL_TIMEOUT_S = 10.0
RETRY_S = 0.05
PAGE = 1000


ENDED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""What a call comes to when its server is killed."""
UNMAPPED = frozenset({"raft proposal dropped", "raft: stopped", "context deadline exceeded"})
"""Errors of etcd's members that have no row in its table of codes."""


def explained(error: grpc.RpcError) -> bool:
    """Whether members that die, hang, lose each other or hand over leadership explain this; the outcome is unknown."""
    if error.code() is grpc.StatusCode.UNKNOWN:
        return error.details() in UNMAPPED
    return error.code() in ENDED or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


class Client:
    """The few calls the crash tests need, over one grpcio channel; errors are grpc.RpcError."""

    def __init__(self, endpoint: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._stubs = stubs.Client(endpoint)
        self._kv, self._lease, self._maintenance = self._stubs.kv, self._stubs.lease, self._stubs.maintenance

    def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """The revision of the write."""
        reply = self._kv.Put(rpc_pb2.PutRequest(key=key, value=value, lease=lease), timeout=self._timeout_s)
        return int(reply.header.revision)

    def txn(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        return self._kv.Txn(request, timeout=self._timeout_s)

    def range(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        return self._kv.Range(request, timeout=self._timeout_s)

    def get(self, key: bytes) -> bytes | None:
        kvs = self.range(rpc_pb2.RangeRequest(key=key)).kvs
        return bytes(kvs[0].value) if kvs else None

    def revision(self) -> int:
        """The store's revision, by a linearizable read."""
        return int(self._kv.Range(rpc_pb2.RangeRequest(key=b"\0"), timeout=self._timeout_s).header.revision)

    def rows(self, prefix: bytes = b"") -> Iterator[Any]:
        """KeyValues with a prefix, all at one revision, read in pages."""
        key, end, revision = prefix or b"\0", prefix_end(prefix) if prefix else b"\0", 0
        while True:
            request = rpc_pb2.RangeRequest(key=key, range_end=end, revision=revision, limit=PAGE)
            reply = self._kv.Range(request, timeout=self._timeout_s)
            yield from reply.kvs
            if not reply.more:
                return
            revision = revision or reply.header.revision
            key = bytes(reply.kvs[-1].key) + b"\0"

    def hash_kv(self, revision: int) -> int:
        return int(self._maintenance.HashKV(rpc_pb2.HashKVRequest(revision=revision), timeout=self._timeout_s).hash)

    def compact(self, revision: int, *, physical: bool = False) -> None:
        self._kv.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=physical), timeout=self._timeout_s)

    def grant(self, ttl_s: int) -> int:
        return int(self._lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=ttl_s), timeout=self._timeout_s).ID)

    def revoke(self, lease: int) -> None:
        self._lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease), timeout=self._timeout_s)

    def close(self) -> None:
        self._stubs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(slots=True)
class Written:
    """One write as its client saw it; revision 0: no answer."""

    key: bytes
    value: bytes
    revision: int


@dataclass(slots=True)
class Worker:
    """What one writer did; only its own thread appends."""

    number: int
    writes: list[Written] = field(default_factory=list)
    counter: int = 0
    """Highest acknowledged value of this worker's counter."""
    uncertain: bool = False
    """Whether a write ended without an answer, and may yet happen."""


class Workload:
    """Writers that go on until `stop` or until their server is gone; the history outlives the server."""

    def __init__(
        self,
        workers: int = 16,
        value_bytes: int = 64,
        *,
        persistent: bool = False,
        timeout_s: float = CALL_TIMEOUT_S,
        pause_s: float = 0,
    ) -> None:
        """`persistent` writers go on after errors that a change of leader explains, with the next of the servers they
        were given; others end with their server. `pause_s` lies between two writes of one writer."""
        self._persistent = persistent
        self._timeout_s, self._pause_s = timeout_s, pause_s
        self._workers = [Worker(number) for number in range(workers)]
        self._numbers = itertools.count()
        self._filler = b"." * value_bytes
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self._acknowledged = 0
        self.latest = Written(b"", b"", 0)
        """The acknowledged write with the highest revision."""
        self.unexpected: list[str] = []

    @property
    def acknowledged(self) -> int:
        """Answered writes so far, over all runs."""
        return self._acknowledged

    @contextmanager
    def running(self, *endpoints: str) -> Iterator[None]:
        """Write in the background; leaving stops the writers and waits for them."""
        self._stop.clear()
        threads = [threading.Thread(target=self._write, args=(worker, endpoints)) for worker in self._workers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def wait_acknowledged(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until that many more writes are answered."""
        target = self._acknowledged + count
        with self._progress:
            if not self._progress.wait_for(lambda: self._acknowledged >= target, timeout_s):
                raise TimeoutError(f"only {self._acknowledged} of {target} writes in time; {self.unexpected[:3]}")

    def _write(self, worker: Worker, endpoints: Sequence[str]) -> None:
        for endpoint in itertools.islice(itertools.cycle(endpoints), worker.number, None):
            with Client(endpoint, self._timeout_s) as client:
                if self._write_to(worker, client) or not self._persistent or self._stop.wait(RETRY_S):
                    return

    def _write_to(self, worker: Worker, client: Client) -> bool:
        """Write until told to stop (true) or until a write fails."""
        while not self._stop.wait(self._pause_s) if self._pause_s else not self._stop.is_set():
            step = self._put_one if next(self._numbers) % 3 else self._swap_one
            try:
                step(worker, client)
            except grpc.RpcError as error:
                if not (explained(error) if self._persistent else error.code() in ENDED):
                    self.unexpected.append(f"{error.code()} {error.details()}")
                worker.uncertain = True
                return self._stop.is_set()
        return True

    def _record(self, write: Written, revision: int) -> None:
        write.revision = revision
        with self._progress:
            self._acknowledged += 1
            if revision > self.latest.revision:
                self.latest = write
            self._progress.notify_all()

    def _put_one(self, worker: Worker, client: Client) -> None:
        number = next(self._numbers)
        write = Written(b"put/%d/%d" % (worker.number, number), b"%d" % number + self._filler, 0)
        worker.writes.append(write)
        self._record(write, client.put(write.key, write.value))

    def _swap_one(self, worker: Worker, client: Client) -> None:
        """Move the counter from what it holds to a fresh number; also write one key and move another."""
        number = next(self._numbers)
        counter = b"counter/%d" % worker.number
        expected = client.get(counter) or b""
        target = rpc_pb2.Compare(
            target=rpc_pb2.Compare.CompareTarget.VALUE if expected else rpc_pb2.Compare.CompareTarget.VERSION,
            key=counter,
        )
        if expected:
            target.value = expected
        write = Written(b"swap/%d/%d" % (worker.number, number), b"%d" % number, 0)
        worker.writes.append(write)
        ops = [
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=counter, value=write.value)),
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=write.key, value=write.value)),
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"at/%d/%d" % (worker.number, number))),
        ]
        if expected:
            old = b"at/%d/%s" % (worker.number, expected)
            ops.append(rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=old)))
        reply = client.txn(rpc_pb2.TxnRequest(compare=[target], success=ops))
        if not reply.succeeded and worker.uncertain:
            return  # an earlier write of this worker has happened after all
        if not reply.succeeded:
            self.unexpected.append(f"counter {worker.number} was not {expected!r}, yet nobody else writes it")
        worker.counter = number
        self._record(write, reply.header.revision)

    def last_revision(self) -> int:
        """The highest acknowledged revision."""
        return max((write.revision for worker in self._workers for write in worker.writes), default=0)

    def check(self, client: Client) -> None:
        """Assert that the server holds every acknowledged write, once, at its revision, and no half transaction."""
        assert not self.unexpected, self.unexpected[:5]
        assert client.revision() >= self.last_revision(), "the revision went back"
        rows = {bytes(row.key): row for row in client.rows()}
        for worker in self._workers:
            self._check_worker(worker, rows)
        expected = {write.key for worker in self._workers for write in worker.writes}
        found = {key for key in rows if key.startswith((b"put/", b"swap/"))}
        assert found <= expected, f"rows that nobody wrote: {sorted(found - expected)[:5]}"

    def _check_worker(self, worker: Worker, rows: dict[bytes, Any]) -> None:
        previous = 0
        for write in worker.writes:
            row = rows.get(write.key)
            if write.revision:
                assert row is not None, f"acknowledged write lost: {write.key!r} at revision {write.revision}"
                assert row.mod_revision == write.revision, f"{write.key!r} moved from {write.revision}"
                assert write.revision > previous, f"{write.key!r} was acknowledged out of order"
                previous = write.revision
            if row is not None:
                assert (bytes(row.value), row.version) == (write.value, 1), f"{write.key!r} was not written once"
        self._check_counter(worker, rows)

    def _check_counter(self, worker: Worker, rows: dict[bytes, Any]) -> None:
        counter = rows.get(b"counter/%d" % worker.number)
        swaps = [row for key, row in rows.items() if key.startswith(b"swap/%d/" % worker.number)]
        places = [row for key, row in rows.items() if key.startswith(b"at/%d/" % worker.number)]
        assert (counter.version if counter else 0) == len(swaps), "a transaction was applied in part or twice"
        if counter is None:
            assert not worker.counter
            return
        assert int(counter.value) >= worker.counter, f"counter {worker.number} went back"
        assert [bytes(row.key) for row in places] == [b"at/%d/%s" % (worker.number, counter.value)]
        assert places[0].mod_revision == counter.mod_revision == max(row.mod_revision for row in swaps)
