"""`Server`: one member as its API sees it: propose, read, and the facts of the moment; with its duties on the clock."""

import logging
from collections.abc import Callable
from typing import Any, Protocol

from ratifyd import schema
from ratifyd.apply import requests
from ratifyd.apply.entries import Outcome
from ratifyd.apply.requests import Row
from ratifyd.config import Config
from ratifyd.errors import Compacted, EtcdError
from ratifyd.membership import hex_id
from ratifyd.metrics import Metrics
from ratifyd.proto import fast
from ratifyd.proto.rpc_pb2 import NOSPACE, AlarmRequest, CompactionRequest
from ratifyd.raft.roles import Role
from ratifyd.server.committer import Committer
from ratifyd.server.compaction import AutoCompactor, CompactionRunner
from ratifyd.server.leasing import Leasing
from ratifyd.server.node import Node
from ratifyd.server.parts import Parts
from ratifyd.server.proposals import Answer, Proposals, RequestIds
from ratifyd.server.quota import Quota
from ratifyd.server.reads import Read, Reads
from ratifyd.server.snapshots import Snapshots
from ratifyd.server.versions import Publisher, VersionMonitor

REQUEST_TIMEOUT_S = 5.0
"""Time a request may take besides two election timeouts (etcd ServerConfig.ReqTimeout)."""

LEADERLESS_TIMEOUTS = 3
"""Election timeouts without a leader after which streams that want one end (etcd maxNoLeaderCnt)."""

log = logging.getLogger("ratifyd.server")


class NeedsLeader(Protocol):
    """A stream that is not to outlive the loss of the leader."""

    def leader_lost(self) -> None:
        """There has been no leader for long."""
        ...


class Server:
    """A running member. All of it lives on the loop; nothing here blocks or awaits."""

    def __init__(self, config: Config, parts: Parts, metrics: Metrics) -> None:
        self.config = config
        self.metrics = metrics
        self.clock = parts.clock
        self.state = parts.state
        self.store = parts.state.store
        self.backend = parts.backend
        self.members = parts.state.members
        self.member_id = parts.raft.id
        self.cluster_id = self.members.cluster_id
        self.headers = fast.HeaderEncoder(self.cluster_id, self.member_id)
        self.quota = Quota(config.quota_backend_bytes, parts.backend.size)
        self.state.over_quota = self.quota.exceeded_by
        self._tick_s = config.heartbeat_interval_ms / 1000
        election_s = config.election_timeout_ms / 1000
        timeout_s = REQUEST_TIMEOUT_S + 2 * election_s
        now = parts.clock.time
        ids = RequestIds(self.member_id, int(parts.clock.wall() * 1000))
        self.proposals = Proposals(ids, max_bytes=config.max_request_bytes, timeout_s=timeout_s, now=now)
        self.reads = Reads(ids.next, timeout_s=timeout_s, now=now)
        self.committer = Committer(
            parts.state,
            parts.clock,
            interval_s=config.backend_batch_interval_s,
            limit=config.backend_batch_limit,
            fail=parts.fail,
            wake=self._committed,
        )
        self.node = Node(parts, self.proposals, self.reads, has_room=self.committer.has_room)
        self.node.on_outcome = self._applied
        self.node.on_leader_change = self._leader_changed
        self.node.at_end = self._turn_ended
        self.snapshots = Snapshots(
            parts, self.committer, count=config.snapshot_count, catchup=config.snapshot_catchup_entries
        )
        self.compaction = CompactionRunner(
            self.store,
            parts.clock,
            batch=config.compaction_batch_limit,
            pause_s=config.compaction_sleep_interval_s,
            fail=parts.fail,
        )
        self.leasing = Leasing(
            self.state.leases,
            lambda body, answer: self.propose(requests.LEASE_REVOKE, body, answer),
            extend_s=election_s,
        )
        self.auto_compactor = AutoCompactor(
            config.auto_compaction_mode,
            config.retention_s or config.retention_revisions,
            lambda: self.store.revision,
            self._compact,
            now=parts.clock.time(),
        )
        self.publisher = Publisher(
            self.member_id, config.name, config.advertise_client_urls, self.propose, self._published
        )
        self.versions = VersionMonitor(self.members, self.propose)
        self.on_ready: Callable[[], None] = lambda: None
        self.jitter = parts.jitter
        self.fail = parts.fail
        self.watch_streams = 0
        self.hashes_running = 0
        self.needing_leader: dict[NeedsLeader, None] = {}
        self._leaderless_ticks = 0
        self._raising_nospace = False

    # --- what the API asks for -------------------------------------------------------------------------------------

    def propose(self, row: Row, body: bytes, answer: Answer, request: Any = None) -> None:
        """Send a request through raft; `answer` is called once, at the latest when its time is up.

        `request` is `body` decoded, as the row applies it, when the caller has it at hand.
        """
        try:
            self.proposals.add(row, body, answer, gap=self.node.gap, request=request)
        except EtcdError as error:
            answer(b"", error)
            return
        self.node.wake()

    def read(self, read: Read, argument: Any) -> None:
        """Run a linearizable read."""
        self.reads.queued.append((read, argument))
        self.node.wake()

    def header(self) -> bytes:
        """ResponseHeader field of an answer about the present state."""
        return self.headers.header(self.store.revision, self.node.raft.term)

    @property
    def is_leader(self) -> bool:
        """Whether this member leads, as far as it knows."""
        return self.node.raft.role is Role.LEADER

    @property
    def leader_id(self) -> int:
        """The leader this member knows of; 0 for none."""
        return self.node.raft.leader_id

    @property
    def storage_version(self) -> str:
        """Schema version of the backend, "" before the cluster has decided on one that records it."""
        return (self.state.buffer.get(schema.META, schema.STORAGE_VERSION) or b"").decode()

    def raise_nospace(self) -> None:
        """Propose the NOSPACE alarm for this member (semantics 10.4)."""
        if self._raising_nospace:
            return
        self._raising_nospace = True
        request = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=self.member_id, alarm=NOSPACE)

        def answered(_body: bytes, _error: EtcdError | None) -> None:
            self._raising_nospace = False

        self.propose(requests.ALARM, request.SerializeToString(), answered)

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to tick."""
        if self.store.compacting:
            self.compaction.start()
        self._tick()
        self.node.wake()

    def stop(self) -> None:
        """Answer what still waits and take no further turns."""
        self.compaction.stop()
        self.proposals.stop()
        self.reads.stop()
        self.node.stop()

    def _tick(self) -> None:
        if self.node.stopped:
            return
        self.clock.call_later(self._tick_s, self._tick)
        try:
            self._ticked(self.clock.time())
        except Exception as error:  # as in a turn: a member that cannot do its duties must not linger
            self.fail(error)

    def _ticked(self, now: float) -> None:
        self.node.raft.tick()
        self._watch_leader()
        self.proposals.expire(now)
        self.reads.expire(now)
        if (context := self.reads.retry(now)) is not None:
            self.node.raft.read_index(context)
        self.committer.tick(now)
        if self.is_leader:
            self.leasing.tick(now)
            self.versions.tick(now)
        self.auto_compactor.tick(now, leading=self.is_leader)
        if self.leader_id:
            self.publisher.tick(now)
        self.node.wake()

    def _watch_leader(self) -> None:
        """End the streams that want a leader when there has been none for three election timeouts (semantics 7.25)."""
        if self.leader_id:
            self._leaderless_ticks = 0
            return
        self._leaderless_ticks += 1
        if self._leaderless_ticks >= LEADERLESS_TIMEOUTS * self.config.election_ticks:
            for stream in list(self.needing_leader):
                stream.leader_lost()

    def _turn_ended(self) -> None:
        raft = self.node.raft
        if raft.is_singleton and not raft.leader_id and raft.role is Role.FOLLOWER:
            raft.campaign()  # nobody else could: no need to wait for an election timeout
            self.node.wake()
        self.snapshots.maybe_take(self.node.applied)
        hub = self.state.hub
        if hub.has_work and hub.catch_up():
            self.node.wake()
        if self.state.warnings:
            warnings, self.state.warnings = self.state.warnings, []
            for message, fields in warnings:
                log.warning(message, extra={"fields": fields})

    def _applied(self, outcome: Outcome) -> None:
        row = outcome.row
        if row is requests.PUT or row is requests.TXN or row is requests.DELETE_RANGE:
            if outcome.raise_nospace:
                self.raise_nospace()
        elif row is requests.LEASE_GRANT or row is requests.LEASE_REVOKE:
            self.leasing.changed(self.clock.time())
            if outcome.raise_nospace:
                self.raise_nospace()
        elif row is requests.COMPACTION and outcome.error is None:
            self.compaction.start()
        elif row is requests.CLUSTER_VERSION_SET:
            log.info("set cluster version", extra={"fields": {"cluster-version": self.members.cluster_version}})

    def _leader_changed(self) -> None:
        raft = self.node.raft
        self.reads.leader_changed()
        now = self.clock.time()
        if raft.leader_id:
            self.publisher.tick(now)
        if raft.role is Role.LEADER:
            self.leasing.promote(now)
            self.versions.tick(now)
        else:
            self.leasing.demote()
        log.info(
            "raft role changed",
            extra={
                "fields": {
                    "local-member-id": hex_id(self.member_id),
                    "role": raft.role.name.lower(),
                    "term": raft.term,
                    "leader": hex_id(raft.leader_id),
                }
            },
        )

    def _compact(self, revision: int, done: Callable[[bool], None]) -> None:
        body = CompactionRequest(revision=revision).SerializeToString()

        def answered(_body: bytes, error: EtcdError | None) -> None:
            fields: dict[str, object] = {"revision": revision}
            if error is None:
                log.info("completed auto compaction", extra={"fields": fields})
            elif not isinstance(error, Compacted):
                log.warning("failed auto compaction", extra={"fields": {**fields, "error": error.message}})
            done(error is None or isinstance(error, Compacted))

        self.propose(requests.COMPACTION, body, answered)

    def _committed(self) -> None:
        self.node.wake()

    def _published(self) -> None:
        log.info(
            "published local member to cluster through raft",
            extra={
                "fields": {
                    "local-member-id": hex_id(self.member_id),
                    "name": self.config.name,
                    "client-urls": list(self.config.advertise_client_urls),
                    "cluster-id": hex_id(self.cluster_id),
                }
            },
        )
        self.on_ready()
