"""`Server`: one member as its API sees it: propose, read, and the facts of the moment; with its duties on the clock."""

import logging
from collections.abc import Callable
from typing import Any, Protocol

from ratifyd import schema
from ratifyd.apply import requests
from ratifyd.apply.entries import Answer, Outcome, admit
from ratifyd.apply.requests import Row
from ratifyd.auth.identity import ANONYMOUS, NEWEST_REVISION, ROOT, Identity
from ratifyd.config import Config
from ratifyd.config.values import show_duration
from ratifyd.errors import Compacted, EtcdError, Stopped
from ratifyd.membership import Change, ChangeKind, Member, hex_id
from ratifyd.metrics import Metrics
from ratifyd.ports import Timer
from ratifyd.proto import fast
from ratifyd.proto.rpc_pb2 import NOSPACE, AlarmRequest, CompactionRequest, LeaseGrantResponse
from ratifyd.raft.messages import Snapshot
from ratifyd.raft.roles import Role
from ratifyd.server.authentication import Authentication
from ratifyd.server.committer import Committer
from ratifyd.server.compaction import AutoCompactor, CompactionRunner
from ratifyd.server.corruption import CorruptionChecks
from ratifyd.server.health import Health
from ratifyd.server.installing import SnapshotInstaller
from ratifyd.server.leader import Leadership
from ratifyd.server.leases import APPLY_TIMEOUT_S, LeaseService
from ratifyd.server.leasing import Leasing
from ratifyd.server.members import MemberChanges
from ratifyd.server.node import Node
from ratifyd.server.parts import Parts
from ratifyd.server.proposals import Proposals, RequestIds
from ratifyd.server.quota import Quota
from ratifyd.server.reads import Read, Reads
from ratifyd.server.sending import SnapshotSender
from ratifyd.server.slices import Slices
from ratifyd.server.snapshots import Snapshots
from ratifyd.server.timing import Timing
from ratifyd.server.traces import Traces
from ratifyd.server.versions import Publisher, VersionMonitor
from ratifyd.version import ETCD_VERSION, minor_of

REQUEST_TIMEOUT_S = 5.0
"""Time a request may take besides two election timeouts (etcd ServerConfig.ReqTimeout)."""
STALE_TICKS = 3
"""Heartbeats without a turn after which a leader makes sure that it still is one before it touches leases."""
LATE_TICKS = 2
"""Heartbeat intervals after which a heartbeat is late (etcd contention.NewTimeoutDetector)."""
LATE_HEARTBEAT = (
    "leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk"
)
REMOVED_DELAY_S = 1.0
"""Time a removed member has to let others know what it has applied (etcd delayedApplyTimeout)."""
FIRST_TICKS_PERIOD_S = 0.05
FIRST_TICKS_LIMIT_S = 5.0
"""How long a starting member looks for others before it lets its first election timeout run in full."""


class MemberRemoved(Exception):
    """This member is no longer part of its cluster: it stops, and its data is of no more use."""


LEADERLESS_TIMEOUTS = 3
"""Election timeouts without a leader after which streams that want one end (etcd maxNoLeaderCnt)."""

log = logging.getLogger("ratifyd.server")
requests_log = logging.getLogger("ratifyd.api")
"""Where calls are logged, at level debug each of them."""


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
        self.auth = parts.state.auth
        self.backend = parts.backend
        self.members = parts.state.members
        self.member_id = parts.raft.id
        self.cluster_id = self.members.cluster_id
        self.headers = fast.HeaderEncoder(self.cluster_id, self.member_id)
        self.quota = Quota(config.quota_backend_bytes, parts.backend.size)
        self.state.over_quota = self.quota.exceeded_by
        self.tokens = self.auth.tokens = parts.tokens
        self._tick_s = config.heartbeat_interval_ms / 1000
        self._stale_s = STALE_TICKS * self._tick_s
        election_s = config.election_timeout_ms / 1000
        self.timeout_s = timeout_s = REQUEST_TIMEOUT_S + 2 * election_s
        now = parts.clock.time
        ids = RequestIds(self.member_id, int(parts.clock.wall() * 1000))
        self.proposals = Proposals(ids, max_bytes=config.max_request_bytes, timeout_s=timeout_s, now=now)
        self.reads = Reads(ids.next, timeout_s=timeout_s, now=now)
        self.traces = Traces(parts.clock.wall, self.member_id)
        self.reads.on_run = self.traces.reads
        self.committer = Committer(
            parts.state,
            parts.clock,
            interval_s=config.backend_batch_interval_s,
            limit=config.backend_batch_limit,
            fail=parts.fail,
            wake=self._committed,
        )
        self.slices = Slices(parts.clock, parts.fail)
        self.timing = Timing(parts.stopwatch or now, config, metrics, self.store, self.header)
        self.node = Node(parts, self.proposals, self.reads, self.timing, has_room=self.committer.has_room)
        self._connect(parts, election_s)
        self._take_duties(parts, election_s)
        self._cluster_version = self.members.cluster_version
        self._ticked_at = now()
        self._next_tick: Timer | None = None
        self._led = False
        """Whether this member led at the last tick."""
        self._confirming = False
        self._awaiting_applied: list[tuple[int, float, Callable[[bool], None]]] = []
        self.on_ready: Callable[[], None] = lambda: None
        self.jitter = parts.jitter
        self.fail = parts.fail
        self.watch_streams = 0
        self.hashes_running = 0
        self.held_bytes = 0
        self.snapshots_running = 0
        self.images = parts.images
        self.health = Health(stops_on_defrag=config.features["StopGRPCServiceOnDefrag"])
        self.needing_leader: dict[NeedsLeader, None] = {}
        self._leaderless_ticks = 0
        self._raising_nospace = False
        self.lasting: dict[object, Callable[[EtcdError], None]] = {}
        """Requests that may take for ever, streams above all, and how to end them."""
        self.leaving = False
        """This member is about to stop: it takes no more streams."""

    def _connect(self, parts: Parts, election_s: float) -> None:
        """What ties the node to other members: leadership, snapshots both ways, membership."""
        config, timeout_s = self.config, self.timeout_s
        self.transport = parts.transport
        self.leadership = Leadership(parts, timeout_s=timeout_s, election_s=election_s, tick_s=self._tick_s)
        self.sender = SnapshotSender(parts, self.committer, self.metrics)
        self.installer = SnapshotInstaller(parts, self.committer, self._installed)
        self.node.on_outcome = self._applied
        self.node.on_leader_change = self._leader_changed
        self.node.on_member_change = self._member_changed
        self.node.on_snapshot_wanted = self.sender.send
        self.node.on_snapshot = self.installer.install
        self.node.at_end = self._turn_ended
        self.snapshots = Snapshots(
            parts,
            self.committer,
            count=config.snapshot_count,
            catchup=config.snapshot_catchup_entries,
            may_compact=lambda: self.sender.idle,
        )
        self.changes = MemberChanges(
            parts, self.proposals, self.leadership, strict=config.strict_reconfig_check, wake=self.node.wake
        )

    def _take_duties(self, parts: Parts, election_s: float) -> None:
        """What a member does by itself, most of it only while it leads."""
        config = self.config
        self.compaction = CompactionRunner(
            self.store,
            parts.clock,
            self.timing,
            self.metrics,
            batch=config.compaction_batch_limit,
            pause_s=config.compaction_sleep_interval_s,
            fail=parts.fail,
        )
        self.leasing = Leasing(
            self.state.leases,
            lambda body, answer: self._propose_own(requests.LEASE_REVOKE, body, answer, self._root),
            lambda body, answer: self._propose_own(requests.LEASE_CHECKPOINT, body, answer, ANONYMOUS),
            now=parts.clock.time,
            extend_s=election_s,
            checkpoints=config.features["LeaseCheckpoint"],
        )
        self.leases = LeaseService(
            parts.clock,
            self.state.leases,
            self.leasing,
            self.leadership,
            confirm=self.confirm_leadership,
            caught_up=self.when_applied,
        )
        self.auto_compactor = AutoCompactor(
            config.auto_compaction_mode,
            config.retention_s or config.retention_revisions,
            lambda: self.store.revision,
            self._compact,
            now=parts.clock.time(),
        )
        self.authentication = Authentication(parts, cost=config.bcrypt_cost, read=self.read, propose=self.propose)
        self.publisher = Publisher(self.members, config.name, config.advertise_client_urls, self, self._published)
        self.versions = VersionMonitor(self.members, parts.calls, self)
        self.corruption = CorruptionChecks(
            self.store,
            self.slices,
            self.members,
            parts.calls,
            self,
            timeout_s=self.timeout_s,
            period_s=config.corrupt_check_time_s,
            compact_period_s=config.compact_hash_check_time_s if config.features["CompactHashCheck"] else 0,
            now=parts.clock.time(),
        )

    # --- what the API asks for -------------------------------------------------------------------------------------

    def propose(
        self,
        row: Row,
        body: bytes,
        answer: Answer,
        request: Any = None,
        identity: Identity = ANONYMOUS,
        *,
        disputed: bool = False,
    ) -> None:
        """Send a request through raft; `answer` is called once, at the latest when its time is up.

        `request` is `body` decoded, as the row applies it, when the caller has it at hand. `identity` is whose it is.
        `disputed`: members of etcd might do it though we refuse, so that it is proposed only if we do not. So is
        everything while an alarm is on: members of etcd 3.5 then do not look at rights, nor at other alarms.
        """
        if disputed or self.state.alarms:
            request = row.read(body) if request is None else request
            try:
                admit(self.state, row, request, identity)
            except EtcdError:  # by now it may be allowed
                self.read(self._propose_admitted, (row, body, answer, request, identity))
                return
        try:
            self.proposals.add(row, body, answer, request, identity)
        except EtcdError as error:
            answer(b"", error)
            return
        self.node.wake()

    def _propose_admitted(self, argument: tuple[Row, bytes, Answer, Any, Identity], error: EtcdError | None) -> None:
        row, body, answer, request, identity = argument
        try:
            if error is not None:
                raise error
            admit(self.state, row, request, identity)
        except EtcdError as refused:
            answer(b"", refused)
        else:
            self.propose(row, body, answer, request, identity)

    def _propose_own(self, row: Row, body: bytes, answer: Answer, identity: Identity) -> None:
        """As `propose`, of what only the leader may want: refused at once when this member turns out not to lead."""
        try:
            if self.state.alarms:
                admit(self.state, row, row.read(body), identity)
            self.proposals.add_own(row, body, answer, identity)
        except EtcdError as error:
            answer(b"", error)
            return
        self.node.wake()

    def propose_encoded(self, encode: Callable[[int], bytes], answer: Answer) -> None:
        """Send an entry of another form through raft; `encode` makes it from its request id."""
        try:
            self.proposals.add_encoded(encode, answer)
        except EtcdError as error:
            answer(b"", error)
            return
        self.node.wake()

    def read(self, read: Read, argument: Any) -> None:
        """Run a linearizable read."""
        self.reads.queued.append((read, argument))
        self.node.wake()

    def read_local(self, read: Read, argument: Any) -> None:
        """Run a read of whatever this member has, with the others of this turn."""
        self.reads.local.append((read, argument))
        self.node.wake()

    def header(self) -> bytes:
        """ResponseHeader field of an answer about the present state."""
        return self.headers.header(self.store.revision, self.node.raft.term)

    @property
    def is_leader(self) -> bool:
        """Whether this member leads, as far as it knows."""
        return self.node.raft.role is Role.LEADER

    @property
    def is_beside_older(self) -> bool:
        """Whether the version of the cluster leaves room for members of etcd before 3.6."""
        version = self.members.cluster_version
        return version != "" and minor_of(version) < minor_of(ETCD_VERSION)

    @property
    def is_learner(self) -> bool:
        """Whether this member does not vote, and so refuses most requests."""
        local = self.members.local
        return local is not None and local.is_learner

    @property
    def leader_id(self) -> int:
        """The leader this member knows of; 0 for none."""
        return self.node.raft.leader_id

    @property
    def _root(self) -> Identity:
        """Who the member is itself where it must be somebody (semantics 9.35).

        At a revision of the auth store that no change outdates: etcd before 3.5.13 would refuse, where we apply.
        """
        return Identity(ROOT, NEWEST_REVISION) if self.auth.enabled else ANONYMOUS

    @property
    def storage_version(self) -> str:
        """Schema version of the backend; "" before there is any.

        3.5 has a term in it, and no record of the version (etcd UnsafeDetectSchemaVersion).
        """
        recorded = self.state.buffer.get(schema.META, schema.STORAGE_VERSION)
        if recorded is not None:
            return recorded.decode()
        return "3.5.0" if self.state.buffer.get(schema.META, schema.TERM) else ""

    def leads_surely(self, now: float) -> bool:
        """Whether this member leads and need not ask: see `confirm_leadership`."""
        if self._confirming or now - self._ticked_at > self._stale_s:
            return False
        return self.node.raft.role is Role.LEADER and self.leasing.is_primary

    def _is_awake(self) -> bool:
        return self.clock.time() - self._ticked_at <= self._stale_s

    def confirm_leadership(self, confirmed: Callable[[bool], None]) -> None:
        """Find out whether this member still leads, and have it know all that its predecessors have committed.

        One that was not stopped or stalled lately, and has applied an entry of its own term, need not ask.
        """
        if self.leads_surely(self.clock.time()):
            confirmed(True)
        elif not self.is_leader and self._is_awake():
            confirmed(False)
        else:
            self.read(_confirm, (self, confirmed))

    def when_applied(self, then: Callable[[bool], None]) -> None:
        """Call `then(True)` when everything committed now is applied, `then(False)` if that takes too long."""
        self.when_index_applied(self.node.raft.log.committed, then, timeout_s=APPLY_TIMEOUT_S)

    def when_index_applied(self, index: int, then: Callable[[bool], None], *, timeout_s: float) -> None:
        """Call `then(True)` when this entry is applied, `then(False)` if that takes too long."""
        if self.node.applied >= index:
            then(True)
        else:
            self._awaiting_applied.append((index, self.clock.time() + timeout_s, then))

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
        self.quota.announce()
        self.state.room = self.quota.room()
        if self.store.compacting:
            self.compaction.start()
        for member in self.members.sorted():
            self._reach(member)
        self._ticked_at = self.clock.time()
        self._tick()
        if self.config.initial_election_tick_advance:
            self._advance_first_ticks(self.clock.time() + FIRST_TICKS_LIMIT_S)
        self.node.wake()

    def leave(self) -> None:
        """End what would keep clients for ever, so that they look for another member; short requests may finish."""
        self.leaving = True
        for end in list(self.lasting.values()):
            end(Stopped())

    def halt(self) -> None:
        """Take no further turns and write nothing more: the member has failed."""
        self.node.stop()
        self.committer.stop()

    def stop(self) -> None:
        """Answer what still waits and take no further turns."""
        self.compaction.stop()
        self.installer.stop()
        self.authentication.stop()
        self.slices.stop()
        self.proposals.stop()
        self.reads.stop()
        self.node.stop()
        if self._next_tick is not None:
            self._next_tick.cancel()

    def _tick(self) -> None:
        if self.node.stopped:
            return
        self._next_tick = self.clock.call_later(self._tick_s, self._tick)
        try:
            self._ticked(self.clock.time())
        except Exception as error:  # as in a turn: a member that cannot do its duties must not linger
            self.fail(error)

    def _ticked(self, now: float) -> None:
        since = now - self._ticked_at
        stale = since > self._stale_s
        self._ticked_at = now
        self.traces.ticked()
        self.timing.ticked(every_call=requests_log.isEnabledFor(logging.DEBUG))
        if self.is_leader and self._led and since > LATE_TICKS * self._tick_s:
            self._heartbeats_late(since)
        self._led = self.is_leader
        self.node.raft.tick()
        self._watch_leader()
        self.proposals.expire(now, self.leadership.why_timed_out)
        self.reads.expire(now)
        if (context := self.reads.retry(now)) is not None:
            self.node.raft.read_index(context)
        self.committer.tick(now)
        self.tokens.sweep(now)
        if self._awaiting_applied:
            self._tell_applied(now)
        if self.is_leader:
            if stale and len(self.members.members) > 1:
                self._confirm_before_expiry()
            elif not self._confirming:
                self.leasing.tick(now)
            self.versions.tick(now)
        self.auto_compactor.tick(now, leading=self.is_leader)
        self.corruption.tick(now, leading=self.is_leader)
        if self.leader_id:
            self.publisher.tick(now)
        self.node.wake()

    def _heartbeats_late(self, since: float) -> None:
        """The other members have waited too long to hear from this leader."""
        for member in self.members.members:
            if member != self.member_id:
                self.metrics.heartbeat_send_failures_total += 1
                fields = {
                    "to": hex_id(member),
                    "heartbeat-interval": show_duration(self._tick_s),
                    "expected-duration": show_duration(LATE_TICKS * self._tick_s),
                    "exceeded-duration": show_duration(since - LATE_TICKS * self._tick_s),
                }
                log.warning(LATE_HEARTBEAT, extra={"fields": fields})

    def _advance_first_ticks(self, until: float) -> None:
        """Once other members are connected, use up most of the first election timeout (semantics 14.2)."""
        if self.node.stopped or self.leader_id or self.clock.time() > until:
            return
        others = [member for member in self.members.members if member != self.member_id]
        if sum(self.transport.active_since(member) is not None for member in others) > 1:
            for _ in range(self.config.election_ticks - 2):
                self.node.raft.tick()
            self.node.wake()
        else:
            self.clock.call_later(FIRST_TICKS_PERIOD_S, self._advance_first_ticks, until)

    def _confirm_before_expiry(self) -> None:
        """This process stood still: another member may lead, and have renewed what looks expired here."""
        self._confirming = True

        def confirmed(_: None, error: EtcdError | None) -> None:
            self._confirming = False

        self.read(confirmed, None)

    def _tell_applied(self, now: float) -> None:
        awaiting, self._awaiting_applied = self._awaiting_applied, []
        for index, deadline, then in awaiting:
            if self.node.applied >= index:
                then(True)
            elif now >= deadline:
                then(False)
            else:
                self._awaiting_applied.append((index, deadline, then))

    def _watch_leader(self) -> None:
        """End the streams that want a leader when there has been none for three election timeouts (semantics 7.25)."""
        if self.leader_id:
            self._leaderless_ticks = 0
            return
        self._leaderless_ticks += 1
        if self._leaderless_ticks >= LEADERLESS_TIMEOUTS * self.config.election_ticks:
            for stream in list(self.needing_leader):
                stream.leader_lost()

    def promote_leases(self) -> None:
        """Have this clock decide about leases once this member leads and has applied an entry of its own term.

        Everything that its predecessors have committed is applied by then (semantics 8.16).
        """
        if not self.leasing.is_primary and self.is_leader and self.state.term == self.node.raft.term:
            self.leasing.promote(self.clock.time())

    def _turn_ended(self) -> None:
        raft = self.node.raft
        self.promote_leases()
        if not raft.leader_id and raft.role is Role.FOLLOWER and raft.is_singleton:
            raft.campaign()  # nobody else could: no need to wait for an election timeout
            if raft.role is not Role.FOLLOWER:  # else a change of members is to be applied first
                self.node.wake()
        self.snapshots.maybe_take(self.node.applied)
        if self._awaiting_applied:
            self._tell_applied(self.clock.time())
        hub = self.state.hub
        if hub.has_work and hub.catch_up():
            self.node.wake()
        if self.state.warnings:
            warnings, self.state.warnings = self.state.warnings, []
            for message, fields in warnings:
                log.warning(message, extra={"fields": fields})

    def _applied(self, outcome: Outcome) -> None:
        row = outcome.row
        if outcome.raise_nospace:
            self.raise_nospace()
        if row is requests.LEASE_GRANT or row is requests.LEASE_REVOKE:
            self.leasing.changed(self.clock.time())
            if outcome.error is None:
                self._count_lease(outcome)
        elif row is requests.COMPACTION and outcome.error is None:
            self.compaction.start()
        elif row is requests.CLUSTER_VERSION_SET:
            self._cluster_version_set()
        elif row is requests.DOWNGRADE_INFO_SET or row is requests.CLUSTER_MEMBER_ATTR_SET:
            self.versions.hurry()

    def _count_lease(self, outcome: Outcome) -> None:
        if outcome.row is requests.LEASE_GRANT:
            self.metrics.lease_granted_total += 1
            self.metrics.lease_ttl_seconds.observe(LeaseGrantResponse.FromString(outcome.body).TTL)
        else:
            self.metrics.lease_revoked_total += 1

    def _cluster_version_set(self) -> None:
        version, before = self.members.cluster_version, self._cluster_version
        self._cluster_version = version
        log.info("set cluster version", extra={"fields": {"cluster-version": version}})
        if before and minor_of(version) < minor_of(before):
            # A member of the older version that joins now would die of the entry that once raised it.
            self.snapshots.cut()

    def _member_changed(self, change: Change) -> None:
        member = self.members.members.get(change.member.id)
        fields: dict[str, object] = {
            "cluster-id": hex_id(self.cluster_id),
            "local-member-id": hex_id(self.member_id),
            "member-id": hex_id(change.member.id),
        }
        if change.kind == ChangeKind.REMOVE_NODE:
            log.info("removed member", extra={"fields": fields})
            if change.member.id == self.member_id:
                self.clock.call_later(REMOVED_DELAY_S, self.removed)
            else:
                self.transport.remove_peer(change.member.id)
            return
        assert member is not None, "changed member is unknown"
        fields |= {"peer-urls": list(member.peer_urls), "is-learner": member.is_learner}
        log.info("promoted member" if change.is_promote else "added or updated member", extra={"fields": fields})
        if member.id == self.member_id or change.is_promote:
            return
        self._reach(member, moved=change.kind == ChangeKind.UPDATE_NODE)
        self.versions.hurry()

    def _reach(self, member: Member, *, moved: bool = False) -> None:
        """Talk to another member at its URLs; to none without, or with bad ones, which etcd lets into the log."""
        if member.id == self.member_id:
            return
        try:
            self.transport.add_peer(member.id, member.peer_urls)
            if moved:
                self.transport.update_peer(member.id, member.peer_urls)
        except ValueError as error:
            fields = {"member-id": hex_id(member.id), "error": str(error)}
            log.error("a member cannot be reached", extra={"fields": fields})
            self.transport.remove_peer(member.id)

    def removed(self) -> None:
        """End the member: the cluster has gone on without it."""
        if not self.node.stopped:
            self.fail(
                MemberRemoved(
                    f"member {hex_id(self.member_id)} has been removed from cluster {hex_id(self.cluster_id)}; to let "
                    "it take part again, delete its data directory, add it as a new member and start it with "
                    "--initial-cluster-state=existing"
                )
            )

    def _installed(self, snapshot: Snapshot) -> None:
        """The state was replaced by the leader's: talk to the members it names, and to no others."""
        members = self.members
        for member in members.sorted():
            self._reach(member, moved=True)
        for gone in members.removed:
            self.transport.remove_peer(gone)
        if self.store.compacting:
            self.compaction.start()
        self._cluster_version = members.cluster_version
        self.state.room = self.quota.room()
        self.snapshots.installed(snapshot.meta.index)
        self.node.installed(snapshot)
        log.info(
            "applied snapshot",
            extra={"fields": {"snapshot-index": snapshot.meta.index, "revision": self.store.revision}},
        )

    def _leader_changed(self) -> None:
        raft = self.node.raft
        now = self.clock.time()
        self.leadership.changed(now)
        self.reads.leader_changed()
        if raft.leader_id:
            self.metrics.leader_changes_seen_total += 1
            self.publisher.tick(now)
        self.leasing.demote()  # until it is known what was granted, renewed and ended before
        if raft.role is Role.LEADER:
            self.versions.hurry()
            self.versions.tick(now)
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
        self.state.room = self.quota.room()
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


def _confirm(argument: tuple[Server, Callable[[bool], None]], error: EtcdError | None) -> None:
    server, confirmed = argument
    if error is None:
        server.promote_leases()
    confirmed(error is None and server.is_leader)
