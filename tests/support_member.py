"""A whole member without threads, sockets, files or real time: Server, Node, Raft, State and Wal on simulated ports."""

from random import Random
from typing import Any

from ratifyd.apply.requests import Row
from ratifyd.apply.state import State
from ratifyd.auth.tokens import SimpleTokens
from ratifyd.config import Config
from ratifyd.embed.bootstrap import NewCluster
from ratifyd.errors import EtcdError
from ratifyd.membership import Membership
from ratifyd.metrics import Metrics
from ratifyd.proto.etcdserver_pb2 import Metadata
from ratifyd.raft.core import Raft
from ratifyd.raft.log import RaftLog
from ratifyd.raft.messages import Snapshot, SnapshotMeta
from ratifyd.server.parts import Parts
from ratifyd.server.server import Server
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.recover import DataDir, Recovered, lock_data_dir, recover
from ratifyd.storage.snapshots import SnapshotFiles, SnapshotStore
from ratifyd.storage.syncpolicy import SyncPolicy
from ratifyd.storage.wal import Wal
from ratifyd.storage.walread import LogReading, WalContents
from ratifyd.storage.worker import SoonWorker
from simulation.clock import SimClock
from simulation.disk import SimDisk, StepWorker

DIR = DataDir("d")
SEGMENT_BYTES = 1 << 10


class NoTracer:
    def mark(self, name: str, **fields: object) -> None: ...


class Outbox:
    """`ports.Transport` that keeps what is sent."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, messages: Any) -> None:
        self.messages += messages

    def send_snapshot(self, message: Any, size: int, open_image: Any, done: Any) -> None:
        self.messages.append(message)

    def add_peer(self, member_id: int, urls: Any) -> None: ...

    def remove_peer(self, member_id: int) -> None: ...

    def update_peer(self, member_id: int, urls: Any) -> None: ...

    def add_remote(self, member_id: int, urls: Any) -> None: ...

    def active_since(self, member_id: int) -> float | None:
        return None


class Nobody:
    """`ports.PeerCalls`, `Images` and `ReceivedBackends` of a member that is alone: asking it fails the test."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of a member that is alone")


class Machine:
    """What outlives a process: the disk, and the backend's acknowledged rows."""

    def __init__(self) -> None:
        self.disk = SimDisk()
        self.disk.make_dirs("d")
        self.disk.sync_dir("")
        self.backend: MemoryBackend | None = None

    def crash(self, random: Random) -> None:
        """Lose power."""
        self.disk.crash(random)


class Snapshotter(SnapshotStore):
    """The real one, remembering what it was told; without slots, so that a test may replace its methods."""

    def __init__(self, files: SnapshotFiles, wal: Wal, worker: Any) -> None:
        super().__init__(files, wal, worker, keep_files=1, keep_segments=1)
        self.saved: list[SnapshotMeta] = []
        self.released = 0

    def save(self, snapshot: Snapshot, done: Any) -> None:
        def saved(error: BaseException | None) -> None:
            if error is None:
                self.saved.append(snapshot.meta)
            done(error)

        super().save(snapshot, saved)

    def release(self, index: int) -> None:
        self.released = index
        super().release(index)


class Member:
    """One life of a member on a machine. With `stepped`, jobs of its workers wait until a test runs them."""

    def __init__(
        self,
        machine: Machine | None = None,
        *,
        clock: SimClock | None = None,
        stepped: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.machine = machine = machine or Machine()
        self.clock = clock = clock or SimClock()
        self.config = config = Config(
            **{"data_dir": "d", "initial_cluster": "default=http://localhost:2380", **options}
        )
        make: Any = StepWorker if stepped else lambda: SoonWorker(clock.call_soon)
        self.wal_worker, self.backend_worker, self.snapshot_worker = make(), make(), make()
        self.password_worker = make()
        entropy = Random(seed).randbytes
        self.failures: list[BaseException] = []
        old = machine.backend
        machine.backend = self.backend = (
            MemoryBackend(self.backend_worker) if old is None else old.survivor(self.backend_worker)
        )
        recovered = self._recover()
        ids = Metadata.FromString(recovered.metadata)
        members = Membership(ids.NodeID, ids.ClusterID)
        self.state = State(self.backend, members, min_ttl_s=2)
        for _ in self.state.restore():
            pass
        meta = recovered.snapshot.meta
        self.raft = self._raft(recovered, ids.NodeID, seed)
        self.transport = Outbox()
        self.snapshotter = Snapshotter(SnapshotFiles(machine.disk, DIR.snap), self.wal, self.snapshot_worker)
        self.metrics = Metrics()
        self.server = Server(
            config,
            Parts(
                clock=clock,
                raft=self.raft,
                wal=self.wal,
                state=self.state,
                backend=self.backend,
                transport=self.transport,
                calls=Nobody(),
                images=Nobody(),
                received=Nobody(),
                snapshot_store=self.snapshotter,
                snapshot_index=meta.index,
                jitter=lambda: 0.0,
                tokens=SimpleTokens(ttl_s=config.auth_token_ttl_s, now=clock.time, entropy=entropy),
                password_worker=self.password_worker,
                entropy=entropy,
                fail=self.fail,
            ),
            self.metrics,
        )

    def _recover(self) -> Recovered:
        disk = self.machine.disk
        lock_data_dir(disk, DIR)
        recovered = recover(disk, DIR, open_backend=lambda path: self.backend, open_wal=self._open_wal)
        self.fresh = recovered.fresh
        if recovered.fresh:
            first = NewCluster(self.config)
            recovered.metadata, recovered.entries = first.metadata, first.entries
            recovered.hard_state = first.hard_state
            recovered.wal = Wal.create(
                disk,
                DIR.wal,
                first.metadata,
                worker=self.wal_worker,
                segment_bytes=SEGMENT_BYTES,
                entries=first.entries,
                hard_state=first.hard_state,
                policy=SyncPolicy(in_place_bytes=-1),
            )
        assert recovered.wal is not None
        self.wal = recovered.wal
        return recovered

    def _raft(self, recovered: Recovered, member_id: int, seed: int) -> Raft:
        meta = recovered.snapshot.meta
        return Raft(
            member_id,
            election_ticks=self.config.election_ticks,
            heartbeat_ticks=1,
            pre_vote=True,
            check_quorum=True,
            max_message_bytes=1 << 20,
            max_inflight=512,
            max_uncommitted_bytes=1 << 30,
            random=Random(seed),
            log=RaftLog(meta.index, meta.term, recovered.entries),
            hard_state=recovered.hard_state,
            conf_state=recovered.conf_state,
            applied=recovered.applied,
            tracer=NoTracer(),
        )

    def fail(self, error: BaseException) -> None:
        self.failures.append(error)
        self.server.halt()

    def start(self) -> "Member":
        """Start, and run until the member is ready."""
        self.server.start()
        self.settle()
        return self

    def settle(self) -> None:
        """Run everything that can happen without time passing."""
        workers = [
            worker
            for worker in (self.wal_worker, self.backend_worker, self.snapshot_worker, self.password_worker)
            if isinstance(worker, StepWorker)
        ]
        self.clock.run()
        while any(worker.run_one() for worker in workers):
            self.clock.run()

    def restart(self, **options: Any) -> "Member":
        """Lose power, keeping whatever was synced, and come back."""
        self.server.stop()
        self.machine.crash(Random(0))
        return Member(self.machine, clock=self.clock, **options).start()

    def call(self, row: Row, request: Any) -> "Waiter":
        """Propose a request."""
        waiter = Waiter()
        self.server.propose(row, request.SerializeToString(), waiter)
        return waiter

    def do(self, row: Row, request: Any) -> bytes:
        """Propose, run until it is answered, and give the answer's body; raises its error."""
        waiter = self.call(row, request)
        self.settle()
        return waiter.body

    def check(self) -> None:
        """No failure, and the store is consistent."""
        if self.failures:
            raise self.failures[0]
        self.state.store.check()
        self.state.leases.check()

    def hash_kv(self, revision: int = 0) -> tuple[int, int]:
        """HashKV and the compacted revision it was taken with."""
        steps = self.state.store.hash_kv(revision)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                return stop.value.hash, stop.value.compact_revision

    def _open_wal(self, directory: str, meta: SnapshotMeta, reading: LogReading) -> tuple[Wal, WalContents]:
        return Wal.open(
            self.machine.disk,
            directory,
            snapshot_index=meta.index,
            snapshot_term=meta.term,
            reading=reading,
            worker=self.wal_worker,
            segment_bytes=SEGMENT_BYTES,
            policy=SyncPolicy(in_place_bytes=-1),
        )


class Waiter:
    """Takes the answer to a proposal, exactly once."""

    def __init__(self) -> None:
        self.answers: list[tuple[bytes, EtcdError | None]] = []

    def __call__(self, body: bytes, error: EtcdError | None) -> None:
        assert not self.answers, "answered twice"
        self.answers.append((body, error))

    @property
    def done(self) -> bool:
        return bool(self.answers)

    @property
    def error(self) -> EtcdError | None:
        assert self.answers, "not answered"
        return self.answers[0][1]

    @property
    def body(self) -> bytes:
        if self.error is not None:
            raise self.error
        return self.answers[0][0]
