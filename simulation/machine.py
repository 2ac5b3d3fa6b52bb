"""A machine and the member that runs on it: the server's own parts on simulated ports.

A `Machine` outlives its processes: disk, backends, address. A `SimMember` is one life: it recovers, works, and ends by
a crash or because it gave up.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from ratifyd.api.peers import PeerPages
from ratifyd.api.routes import build_routes
from ratifyd.apply.state import State
from ratifyd.auth.tokens import SimpleTokens
from ratifyd.config import Config
from ratifyd.embed.bootstrap import NewCluster
from ratifyd.embed.host import MemberHost
from ratifyd.embed.images import BackendImages
from ratifyd.embed.received import ReceivedFiles
from ratifyd.membership import Membership
from ratifyd.metrics import Metrics
from ratifyd.proto.etcdserver_pb2 import Metadata
from ratifyd.raft.core import Raft
from ratifyd.raft.log import RaftLog
from ratifyd.raft.messages import SnapshotMeta
from ratifyd.server.parts import Parts
from ratifyd.server.server import Server
from ratifyd.storage.recover import DataDir, Recovered, lock_data_dir, recover
from ratifyd.storage.snapshots import SnapshotFiles, SnapshotStore
from ratifyd.storage.syncpolicy import SyncPolicy
from ratifyd.storage.wal import Wal
from ratifyd.storage.walread import LogReading, WalContents
from simulation.backend import BackendFiles, SimBackend, SimWorker
from simulation.clock import MemberClock, SimTimer
from simulation.disk import SimDisk, WorkerSyncs
from simulation.images import SimImports
from simulation.network import SimCalls, SimNetwork, SimTransport
from simulation.tasks import SimLoop

if TYPE_CHECKING:
    from simulation.options import Options

DIR = DataDir("d")
MAX_JOB_S = 3.0
"""Longest job of a slow disk: one begun shortly before the disk is healed must not look like a member that hangs."""


class SometimesInPlace(SyncPolicy):
    """Some syncs on the loop, some behind it, some on the thread."""

    def __init__(self, in_place: float, in_kernel: float, random: Random) -> None:
        super().__init__()
        self._in_place = in_place
        self._in_kernel = in_kernel
        self._random = random

    def in_place(self, size: int) -> bool:
        return self._random.random() < self._in_place

    def in_kernel(self, size: int) -> bool:
        return self._random.random() < self._in_kernel


class Unhurried:
    """The clock of what takes time by itself: a callback that is wanted soon runs a little later."""

    def __init__(self, clock: MemberClock, later_s: Callable[[], float]) -> None:
        self._clock = clock
        self._later_s = later_s

    def call_soon(self, callback: Callable[..., object], *args: Any) -> SimTimer:
        later_s = self._later_s()
        return self._clock.call_later(later_s, callback, *args) if later_s else self._clock.call_soon(callback, *args)


class Machine:
    """Disk, backends and address of one member, and who runs there."""

    def __init__(self, number: int, network: SimNetwork) -> None:
        self.number = number
        self.name = f"m{number}"
        self.url = f"http://{self.name}:2380"
        self.network = network
        self.disk = SimDisk()
        self.disk.make_dirs("d")
        self.disk.sync_dir("")
        self.backends = BackendFiles(self.disk)
        self.member: SimMember | None = None
        self.member_id = 0
        self.joined: bytes = b""
        """Metadata of a member that joins a running cluster; empty for a founder."""
        self.founders = ""
        self.slowness = 1.0
        self.clock_rate = 1.0
        self.wall_offset = 0.0
        self.lives = 0
        self.removed = False
        self.corrupted = False
        """Whether its data were changed behind its back."""
        self.lost = False
        """Whether its disk is damaged beyond use."""
        network.machines.append(self)

    def told_removed(self) -> None:
        """Another member says that this one was removed."""
        member = self.member
        if member is not None:
            member.clock.run(member.server.removed)


class SimMember:
    """One life of a member."""

    def __init__(self, machine: Machine, options: Options, random: Random, clock: MemberClock) -> None:
        """Recover; raises what recovery raises."""
        self.machine = machine
        self.options = options
        self.clock = clock
        self.random = random
        self.ready = self.stopping = False
        self.failure: BaseException | None = None
        self.images = 0
        """How many have come from other members."""
        self.on_failure: Callable[[SimMember], object] = lambda member: None
        self.config = config = _config(machine, options)
        disk = machine.disk
        self.wal_worker = self._worker(options.sync_s)
        self.syncs = WorkerSyncs(self._worker(options.sync_s))
        self.backend_worker = self._worker(options.commit_s)
        image_worker = self._worker(options.sync_s)
        lock_data_dir(disk, DIR)
        recovered = recover(disk, DIR, open_backend=self._open_backend, open_wal=self._open_wal)
        self.fresh = recovered.fresh
        if recovered.fresh:
            self._begin(recovered)
        assert recovered.wal is not None and isinstance(recovered.backend, SimBackend)
        self.wal = recovered.wal
        self.backend = recovered.backend
        ids = Metadata.FromString(recovered.metadata)
        machine.member_id = ids.NodeID
        members = Membership(ids.NodeID, ids.ClusterID, config.max_learners)
        self.state = State(self.backend, members, min_ttl_s=options.min_ttl_s)
        for _ in self.state.restore():
            pass
        self.recovered_index = self.state.consistent_index
        self.transport = SimTransport(machine.network, machine)
        self.metrics = Metrics()
        self.loop = SimLoop(clock)
        self.received = self._received(image_worker)
        self.host = MemberHost(members, (machine.url,), self.metrics, self.received)
        self.raft = self._raft(recovered, ids.NodeID)
        parts = Parts(
            clock=clock,
            raft=self.raft,
            wal=self.wal,
            state=self.state,
            backend=self.backend,
            transport=self.transport,
            calls=SimCalls(machine.network, machine),
            images=BackendImages(self.backend, image_worker),
            received=self.received,
            snapshot_store=SnapshotStore(
                SnapshotFiles(disk, DIR.snap),
                self.wal,
                self._worker(options.sync_s),
                keep_files=config.max_snapshots,
                keep_segments=config.max_wals,
            ),
            snapshot_index=recovered.snapshot.meta.index,
            jitter=random.random,
            tokens=SimpleTokens(ttl_s=config.auth_token_ttl_s, now=clock.time, entropy=random.randbytes),
            password_worker=self._worker(options.sync_s),
            entropy=random.randbytes,
            fail=self._fail,
        )
        self.server = self.host.server = Server(config, parts, self.metrics)
        self.committer = self.server.committer
        self._take_time()
        self.pages = PeerPages(self.server)
        self.routes = build_routes(self.metrics.rpcs)
        self.server.on_ready = self._on_ready
        self._place: tuple[int, int, int, object, int, object, int, int] = (-1, -1, -1, None, -1, None, -1, -1)

    def moved(self) -> bool:
        """Whether it has come on since this was asked last: its term, its log, or what it has applied."""
        raft, state = self.raft, self.state
        log, store = raft.log, state.store
        entries = log.entries
        last = entries[-1] if entries else None
        index, committed, term, role, compacted, before, revision, store_compacted = self._place
        if (
            last is before
            and committed == log.committed
            and index == state.consistent_index
            and term == raft.term
            and role is raft.role
            and revision == store.revision
            and compacted == log.compacted
            and store_compacted == store.compacted
        ):
            return False
        self._place = (
            state.consistent_index,
            log.committed,
            raft.term,
            raft.role,
            log.compacted,
            last,
            store.revision,
            store.compacted,
        )
        return True

    def start(self) -> None:
        """Begin to tick, and to answer other members."""
        if self.machine.joined and self.fresh:
            for other in self.machine.network.machines:
                if other is not self.machine and other.member_id:
                    self.transport.add_remote(other.member_id, (other.url,))
        self.clock.run(self.server.start)

    def _on_ready(self) -> None:
        self.ready = True

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
            self.server.halt()
            self.on_failure(self)

    # --- parts -----------------------------------------------------------------------------------------------------

    def _worker(self, seconds: float) -> SimWorker:
        draw, machine = self.random.random, self.machine

        def latency_s() -> float:
            latency = seconds * (0.2 + 1.6 * draw()) * machine.slowness
            return latency if latency < MAX_JOB_S else MAX_JOB_S

        return SimWorker(self.clock, self.random, latency_s)

    def _restore_s(self) -> float:
        return self.options.restore_s * 2 * self.random.random() if self.machine.network.faulty else 0.0

    def _take_time(self) -> None:
        """Have what the server does in slices last."""
        paces: Any = ((self.server.installer, self._restore_s), (self.server.slices, self._slice_s))
        for part, pace in paces:
            part._clock = Unhurried(self.clock, pace)

    def _slice_s(self) -> float:
        return 0.02 * self.random.random() if self.options.wide and self.machine.network.faulty else 0.0

    def _received(self, worker: SimWorker) -> ReceivedFiles:
        machine = self.machine
        imports = SimImports(machine.backends, worker)
        return ReceivedFiles(machine.disk, DIR.snap, self.backend, imports, worker, self.loop, self.metrics, fsync=True)

    def _policy(self) -> SyncPolicy:
        return SometimesInPlace(self.options.in_place, self.options.in_kernel, self.random)

    def _open_backend(self, path: str) -> SimBackend:
        return self.machine.backends.open(path, self.backend_worker)

    def _open_wal(self, directory: str, meta: SnapshotMeta, reading: LogReading) -> tuple[Wal, WalContents]:
        before = len(self._broken(directory))
        wal, contents = Wal.open(
            self.machine.disk,
            directory,
            snapshot_index=meta.index,
            snapshot_term=meta.term,
            reading=reading,
            worker=self.wal_worker,
            syncs=self.syncs,
            segment_bytes=self.options.segment_bytes,
            policy=self._policy(),
            clock=self.clock.time,
        )
        if len(self._broken(directory)) > before:
            self.machine.network.situations.seen("disk: a torn write is cut")
        return wal, contents

    def _broken(self, directory: str) -> list[str]:
        """Copies of segments that a torn write was cut off."""
        return [name for name in self.machine.disk.list(directory) if name.endswith(".broken")]

    def _begin(self, recovered: Recovered) -> None:
        if self.machine.joined:
            recovered.metadata = self.machine.joined
        else:
            first = NewCluster(self.config)
            recovered.metadata, recovered.entries = first.metadata, first.entries
            recovered.hard_state = first.hard_state
        recovered.wal = Wal.create(
            self.machine.disk,
            DIR.wal,
            recovered.metadata,
            worker=self.wal_worker,
            syncs=self.syncs,
            segment_bytes=self.options.segment_bytes,
            entries=recovered.entries,
            hard_state=recovered.hard_state if recovered.entries else None,
            policy=self._policy(),
            clock=self.clock.time,
        )

    def _raft(self, recovered: Recovered, member_id: int) -> Raft:
        meta = recovered.snapshot.meta
        return Raft(
            member_id,
            election_ticks=self.config.election_ticks,
            heartbeat_ticks=1,
            pre_vote=self.config.pre_vote,
            check_quorum=True,
            max_message_bytes=self.options.max_message_bytes,
            max_inflight=self.options.max_inflight,
            max_uncommitted_bytes=1 << 30,
            random=self.random,
            log=RaftLog(meta.index, meta.term, recovered.entries),
            hard_state=recovered.hard_state,
            conf_state=recovered.conf_state,
            applied=recovered.applied,
            tracer=self.machine.network.situations,
        )


def _config(machine: Machine, options: Options) -> Config:
    by_revisions = options.auto_compaction_revisions
    return Config(
        name=machine.name,
        data_dir=DIR.path,
        initial_cluster=machine.founders,
        initial_advertise_peer_urls=(machine.url,),
        advertise_client_urls=(f"http://{machine.name}:2379",),
        heartbeat_interval_ms=options.heartbeat_ms,
        election_timeout_ms=options.heartbeat_ms * options.election_ticks,
        pre_vote=options.pre_vote,
        snapshot_count=options.snapshot_count,
        snapshot_catchup_entries=options.catchup_entries,
        backend_batch_interval_s=options.commit_interval_s,
        backend_batch_limit=options.commit_limit,
        compaction_batch_limit=options.compaction_batch,
        compaction_sleep_interval_s=0.02,
        quota_backend_bytes=options.quota_bytes,
        watch_progress_notify_interval_s=options.progress_interval_s,
        max_snapshots=2,
        max_wals=2,
        bcrypt_cost=4,
        auto_compaction_mode="revision" if by_revisions else "periodic",
        auto_compaction_retention=str(by_revisions) if by_revisions else f"{options.auto_compaction_s}s",
        corrupt_check_time_s=options.corrupt_check_s,
        compact_hash_check_time_s=options.compact_hash_check_s,
        feature_gates=",".join(_features(options)),
    )


def _features(options: Options) -> list[str]:
    found = []
    if options.compact_hash_check_s:
        found.append("CompactHashCheck=true")
    if options.lease_checkpoint_s:
        found += ["LeaseCheckpoint=true", "LeaseCheckpointPersist=true"]
    return found
