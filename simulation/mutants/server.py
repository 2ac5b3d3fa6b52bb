"""Mistakes of raft, of requests and reads, of the store and watchers, leases, users, duties and services."""

from __future__ import annotations

from typing import Any

from ratifyd.api import identity, kv
from ratifyd.api import watch as api_watch
from ratifyd.api.candidacy import Candidacy
from ratifyd.apply.state import State
from ratifyd.auth.store import AuthStore
from ratifyd.lease import LeaseBook, LeaseTimer
from ratifyd.membership import Membership
from ratifyd.mvcc import compaction, store
from ratifyd.mvcc.index import Index
from ratifyd.mvcc.watch import WatchHub
from ratifyd.raft import confchange, core, election, follower, leader
from ratifyd.raft.core import Options, Raft
from ratifyd.raft.log import RaftLog
from ratifyd.raft.messages import Message, MessageKind
from ratifyd.raft.roles import Role
from ratifyd.server import node
from ratifyd.server.authentication import Authentication
from ratifyd.server.compaction import AutoCompactor
from ratifyd.server.corruption import CorruptionChecks
from ratifyd.server.leasing import Leasing
from ratifyd.server.proposals import RequestIds
from ratifyd.server.reads import Reads
from ratifyd.server.server import Server
from simulation.mutants.planting import Patch, mutant


def _step(patch: Patch, kind: MessageKind, step: Any, roles: tuple[Role, ...] = tuple(Role)) -> None:
    """Have raft take messages of a kind otherwise."""
    for role in roles:
        steps = list(core._STEPS[role])
        steps[kind] = step
        patch(core._STEPS, role, tuple(steps))  # type: ignore[arg-type]


# --- raft ------------------------------------------------------------------------------------------------------------


@mutant
def commit_without_quorum(patch: Patch) -> None:
    """One member less than a majority commits."""

    def index(incoming: Any, outgoing: Any, matches: Any) -> int:
        found = sorted(matches.get(voter, 0) for voter in incoming)
        return int(found[min(len(found) - 1, (len(found) - 1) // 2 + 1)])

    patch(leader, "joint_committed_index", index)


@mutant
def count_own_copy_early(patch: Patch) -> None:
    """The leader counts its own entries before they are durable, and lets them be applied."""
    finish = RaftLog.begin_append

    def begin(self: Any) -> None:
        finish(self)
        self.stable = self.written

    patch(RaftLog, "begin_append", begin)

    def ready(self: Any) -> Any:
        found = original(self)
        if self.role is Role.LEADER:
            leader.own_entries_durable(self)
        return found

    original = Raft.ready
    patch(Raft, "ready", ready)


@mutant
def vote_twice(patch: Patch) -> None:
    """A vote already given does not keep a member from giving another."""

    def requested(raft: Any, message: Any) -> None:
        raft.vote = 0
        election.vote_requested(raft, message)

    _step(patch, MessageKind.VOTE, requested, (Role.FOLLOWER,))


@mutant
def vote_for_a_shorter_log(patch: Patch) -> None:
    """Votes go to candidates that lack entries, too."""
    patch(RaftLog, "is_up_to_date", lambda self, index, term: True)


@mutant
def append_without_a_check(patch: Patch) -> None:
    """A follower takes entries whatever it has before them, as long as there is no gap."""
    patch(RaftLog, "matches", lambda self, index, term: index <= self.last_index)


@mutant
def keep_conflicting_entries(patch: Patch) -> None:
    """Entries of an older term are not replaced by the leader's."""

    def first_conflict(self: Any, entries: Any) -> int:
        return next((at for at, entry in enumerate(entries) if self.term(entry.index) is None), len(entries))

    patch(RaftLog, "first_conflict", first_conflict)


@mutant
def answer_before_append(patch: Patch) -> None:
    """Votes and acknowledgements leave before what they promise is durable."""

    def ready(self: Any) -> Any:
        found = original(self)
        if found is not None:
            found.messages = found.messages + found.messages_after_append
            found.messages_after_append = []
        return found

    original = Raft.ready
    patch(Raft, "ready", ready)


@mutant
def heartbeat_commits_too_much(patch: Patch) -> None:
    """Heartbeats carry the commit index whether or not the follower has the entries."""

    def send(self: Any, message: Any) -> None:
        if message.kind is MessageKind.HEARTBEAT:
            message.commit = self.log.committed
        original(self, message)

    original = Raft.send
    patch(Raft, "send", send)

    def heartbeat(raft: Any, message: Message) -> None:
        message.commit = min(message.commit, raft.log.last_index)
        follower._heartbeat(raft, message)

    _step(patch, MessageKind.HEARTBEAT, heartbeat, (Role.FOLLOWER,))


@mutant
def change_members_early(patch: Patch) -> None:
    """A configuration is in force on the leader as soon as it is proposed, and several may be under way."""

    def propose(raft: Any, change: Any) -> bool:
        raft.pending_conf_index = 0
        if not original(raft, change):
            return False
        raft._switch_to(confchange.apply(raft.config, change))
        return True

    original = leader.propose_conf_change
    patch(leader, "propose_conf_change", propose)


@mutant
def change_members_before_the_log_knows(patch: Patch) -> None:
    """A member acts on a change of members, and tells those it removes, while it may still forget that it committed."""
    patch(node.Node, "_settle", lambda self: True)


@mutant
def removed_members_stay(patch: Patch) -> None:
    """A member that hears of its removal from others lives on."""
    patch(Server, "removed", lambda self: None)


@mutant
def learners_are_counted(patch: Patch) -> None:
    """What learners have counts towards the quorum."""

    def maybe_commit(raft: Any) -> bool:
        matches = sorted(progress.match for progress in raft.progress.values())
        index = matches[len(matches) - len(raft.config.voters) // 2 - 1]
        if index > raft.log.committed and raft.log.term(index) == raft.term:
            raft.log.commit_to(index)
            return True
        return False

    patch(leader, "_maybe_commit", maybe_commit)


# --- requests and reads ----------------------------------------------------------------------------------------------


@mutant
def answer_before_commit(patch: Patch) -> None:
    """Writes are acknowledged as soon as they are proposed."""

    def propose(self: Any, row: Any, body: bytes, answer: Any, *rest: Any, **named: Any) -> None:
        answered: list[bool] = []

        def once(body: bytes, error: Any) -> None:
            if not answered:
                answered.append(True)
                answer(body, error)

        original(self, row, body, once, *rest, **named)
        self.clock.call_later(0.002, once, b"", None)

    original = Server.propose
    patch(Server, "propose", propose)


@mutant
def propose_twice(patch: Patch) -> None:
    """Now and then a request stays queued after it was proposed."""

    def propose(self: Any) -> None:
        queued = self.proposals.queued
        original(self)
        if not self.raft.term % 2 and self.proposals.pending > 1:
            self.proposals.queued = list(queued)

    original = node.Node._propose
    patch(node.Node, "_propose", propose)


@mutant
def skip_read_index(patch: Patch) -> None:
    """A leader answers reads without making sure that it leads."""

    def read(raft: Any, request: Any) -> None:
        leader._answer_read(raft, request, raft.log.committed)

    patch(leader, "read_index", read)
    _step(patch, MessageKind.READ_INDEX, read, (Role.LEADER,))


@mutant
def trust_the_clock(patch: Patch) -> None:
    """A leader believes in its lease, also after its process stood still (etcd issue 20418)."""

    def init(self: Any, member_id: int, **rest: Any) -> None:
        original(self, member_id, options=Options(lease_reads=True), **rest)

    original = Raft.__init__
    patch(Raft, "__init__", init)


@mutant
def leader_trusts_itself_awoken(patch: Patch) -> None:
    """A leader whose process stood still renews leases before it knows whether it still leads."""

    def leads_surely(self: Server, now: float) -> bool:
        return self.node.raft.role is Role.LEADER and self.leasing.is_primary and self._is_awake()

    patch(Server, "leads_surely", leads_surely)


@mutant
def read_locally(patch: Patch) -> None:
    """Linearizable reads are answered from what this member happens to have."""
    patch(Server, "read", lambda self, read, argument: read(argument, None))


@mutant
def read_before_the_term_commits(patch: Patch) -> None:
    """A new leader answers reads before an entry of its own term is committed."""

    def read(raft: Any, request: Any) -> None:
        if raft.is_singleton:
            leader._answer_read(raft, request, raft.log.committed)
            return
        raft.reads.add(request, raft.log.committed)
        raft.reads.acknowledge(raft.id, raft.reads.heartbeat_context())
        leader._broadcast_heartbeat(raft)

    patch(leader, "read_index", read)
    _step(patch, MessageKind.READ_INDEX, read, (Role.LEADER,))


@mutant
def read_before_applied(patch: Patch) -> None:
    """Confirmed reads do not wait until their index is applied."""
    original = Reads.run
    patch(Reads, "run", lambda self, applied: original(self, 1 << 62))


@mutant
def request_ids_repeat(patch: Patch) -> None:
    """Request ids begin anew in each life, and are the same on all members."""

    def init(self: Any, member_id: int, unix_ms: int) -> None:
        original(self, 0, 0)

    original = RequestIds.__init__
    patch(RequestIds, "__init__", init)


# --- store and watch -------------------------------------------------------------------------------------------------


@mutant
def compaction_one_too_far(patch: Patch) -> None:
    """Compaction removes what may still be read at its own revision."""

    def schedule(self: Any, revision: int, *, previous: int, complete: bool) -> None:
        original(self, revision + 1, previous=previous, complete=complete)

    original = compaction.Compaction.schedule
    patch(compaction.Compaction, "schedule", schedule)


@mutant
def compaction_forgets_tombstones(patch: Patch) -> None:
    """The tombstone at the compacted revision goes, so that a watch from there misses it (etcd issue 19179)."""

    def compact_key(self: Any, key: bytes, row: bytes, bound: bytes, last: bytes) -> bool:
        return original(self, key, row, bound, bound)

    original = Index.compact_key
    patch(Index, "compact_key", compact_key)


@mutant
def revision_lost_by_compaction(patch: Patch) -> None:
    """The revision is that of the last row, and a compaction removes it if it is a deletion (etcd issue 17780)."""
    compaction_forgets_tombstones(patch)

    def restore(self: Any) -> None:
        revision = self.revision
        original(self)
        self.revision = revision

    original = store.Store._restore_compaction
    patch(store.Store, "_restore_compaction", restore)


@mutant
def watch_gap_on_compaction(patch: Patch) -> None:
    """Watchers whose history is compacted go on as if nothing was missing."""

    def choose(self: Any, max_watchers: int) -> Any:
        return list(self._lagging)

    patch(WatchHub, "_choose", choose)


@mutant
def watch_drops_when_full(patch: Patch) -> None:
    """Events that a slow client has no room for are forgotten (etcd issue 17529)."""

    def offer(self: Any, watcher: Any, revision: int, events: Any) -> bool:
        original(self, watcher, revision, events)
        return True

    original = api_watch.WatchStream.offer
    patch(api_watch.WatchStream, "offer", offer)


@mutant
def watch_future_ignored(patch: Patch) -> None:
    """A watch on a future revision is told of what comes before it (etcd issue 20221)."""

    def add(self: Any, keys: Any, start_revision: int, **rest: Any) -> Any:
        return original(self, keys, min(start_revision, self.store.revision + 1), **rest)

    original = WatchHub.add
    patch(WatchHub, "add", add)


@mutant
def watch_back_in_time(patch: Patch) -> None:
    """After a snapshot from the leader, watchers are told everything again (etcd issue 15271)."""

    def restore(self: Any, revision: int) -> None:
        watchers = [watcher for audience in self.synced.audiences() for watcher in audience.watchers]
        original(self, revision)
        for watcher in watchers:
            watcher.next_revision = max(1, self.store.compacted)

    original = WatchHub.restore
    patch(WatchHub, "restore", restore)


@mutant
def watch_lost_on_snapshot(patch: Patch) -> None:
    """After a snapshot from the leader, watchers go on from its revision, whatever lies in between."""

    def take_over(self: Any, other: Any) -> None:
        original(self, other)
        for watcher in self._hub._lagging:
            watcher.next_revision = max(watcher.next_revision, self.revision + 1)

    original = store.Store.take_over
    patch(store.Store, "take_over", take_over)


@mutant
def progress_too_early(patch: Patch) -> None:
    """Progress is told while events are still to come (etcd issue 15220)."""
    patch(WatchHub, "is_current", lambda self, watcher: True)


# --- leases ----------------------------------------------------------------------------------------------------------


@mutant
def renewal_ignored(patch: Patch) -> None:
    """Keeping a lease alive is acknowledged, but does not move its end."""

    def renew(self: Any, leases: Any, now: float) -> bool:
        return all(self.remaining(lease.id, now) > 0 for lease in leases)

    patch(LeaseTimer, "renew_unexpired", renew)


@mutant
def lease_never_ends(patch: Patch) -> None:
    """Expired leases are not revoked."""
    patch(LeaseTimer, "expired", lambda self, now, limit=0: [])


@mutant
def revoke_keeps_keys(patch: Patch) -> None:
    """A lease ends without the last of its keys."""

    def revoke(self: Any, lease_id: int) -> Any:
        return original(self, lease_id)[:-1]

    original = LeaseBook.revoke
    patch(LeaseBook, "revoke", revoke)


@mutant
def checkpoint_outlives_renewal(patch: Patch) -> None:
    """A lease is kept alive, but the rest of it that is in the log stays as it was."""

    def renew(self: Any, lease_id: int, now: float, answer: Any) -> None:
        lease = self._book.leases.get(lease_id)
        if lease is None or self._timer is None:
            original(self, lease_id, now, answer)
            return
        left, lease.remaining_s = lease.remaining_s, 0
        original(self, lease_id, now, answer)
        lease.remaining_s = left

    original = Leasing.renew
    patch(Leasing, "renew", renew)


@mutant
def checkpoints_are_lost(patch: Patch) -> None:
    """A new leader gives every lease its whole time again."""
    patch(LeaseTimer, "_ttl", lambda self, lease: max(lease.ttl_s, self._min_ttl_s))


# --- users -----------------------------------------------------------------------------------------------------------


@mutant
def snapshot_keeps_rights(patch: Patch) -> None:
    """A snapshot from the leader replaces everything but users and rights (etcd issue 14571)."""

    def take_over(self: Any, other: Any) -> None:
        auth = self.auth
        kept = auth.enabled, auth.revision, auth.users, auth.roles
        original(self, other)
        auth.enabled, auth.revision, auth.users, auth.roles = kept

    original = State.take_over
    patch(State, "take_over", take_over)


@mutant
def rights_of_an_older_revision(patch: Patch) -> None:
    """A request is carried out although rights have changed since it was admitted."""

    def granted(self: Any, identity: Any) -> Any:
        return original(self, identity._replace(revision=identity.revision and self.revision))

    original = AuthStore._granted
    patch(AuthStore, "_granted", granted)


@mutant
def rights_are_remembered(patch: Patch) -> None:
    """What a user may do is not worked out anew when a role is changed."""
    patch(AuthStore, "put_role", lambda self, role: self.roles.__setitem__(role.name, role))


@mutant
def reads_are_not_checked(patch: Patch) -> None:
    """Everybody with a token may read everything."""

    def check(server: Any, head: Any, key: bytes, range_end: bytes) -> Any:
        return identity.present_identity(server, identity.token_of(head))

    patch(kv, "check_read", check)


@mutant
def old_passwords_are_good(patch: Patch) -> None:
    """A user's first password stays good when it is changed."""
    first: dict[tuple[int, str], bytes] = {}

    def check(self: Any, attempt: Any, hashed: bytes) -> None:
        original(self, attempt, first.setdefault((id(self._auth), attempt.name), hashed))

    original = Authentication._check
    patch(Authentication, "_check", check)


# --- duties and services ---------------------------------------------------------------------------------------------


@mutant
def lock_without_waiting(patch: Patch) -> None:
    """Whoever asks for a lock gets it."""
    patch(Candidacy, "_queue", lambda self: self._won(self))


@mutant
def auto_compaction_of_the_present(patch: Patch) -> None:
    """Automatic compaction leaves no history at all."""

    def periodic(self: Any, due: float) -> None:
        samples, self._samples = self._samples, [self._samples[-1]]
        original(self, due)
        self._samples = samples

    original = AutoCompactor._periodic
    patch(AutoCompactor, "_periodic", periodic)


@mutant
def compaction_by_revisions_one_too_far(patch: Patch) -> None:
    """Automatic compaction by revisions leaves one less than it was told to."""

    def tick(self: Any, now: float, *, leading: bool) -> None:
        spared = self._mode == "revision" and self._retention > 0
        self._retention -= spared
        original(self, now, leading=leading)
        self._retention += spared

    original = AutoCompactor.tick
    patch(AutoCompactor, "tick", tick)


@mutant
def sound_members_are_called_corrupt(patch: Patch) -> None:
    """Hashes are compared whatever revision they are of."""
    original = CorruptionChecks.peer_hashes
    patch(CorruptionChecks, "peer_hashes", lambda self, revision, done: original(self, 0, done))


@mutant
def corruption_goes_unnoticed(patch: Patch) -> None:
    """Nobody is told that hashes differ."""
    patch(CorruptionChecks, "raise_alarm", lambda self, member: None)


@mutant
def snapshot_keeps_members(patch: Patch) -> None:
    """A snapshot from the leader replaces everything but the addresses of members."""

    def take_over(self: Any, other: Any) -> None:
        for member in list(other.members):
            if member in self.members:
                other.members[member] = self.members[member]
        original(self, other)

    original = Membership.take_over
    patch(Membership, "take_over", take_over)


@mutant
def leaderless_streams_stay(patch: Patch) -> None:
    """Streams that want a leader go on without one."""
    patch(Server, "_watch_leader", lambda self: None)
