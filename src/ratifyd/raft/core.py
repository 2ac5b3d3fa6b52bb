"""One member's raft: its state, its inputs and the work it hands out.

Behaves as etcd's raft library with asynchronous storage writes. Deterministic: time is counted in `tick` calls,
randomness is injected, nothing is logged. The rules of the roles are in `leader`, `follower` and `election`, which
work on the attributes below; everybody else reads them and calls the methods. Requests for votes leave only after the
own vote is durable: a leader must not forget, in a crash, the term in which it has already sent entries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ratifyd.raft import confchange, election, follower, leader
from ratifyd.raft.confchange import Configuration
from ratifyd.raft.messages import (
    AnyConfChange,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageKind,
    ReadState,
    Snapshot,
)
from ratifyd.raft.progress import Progress
from ratifyd.raft.reads import ReadQueue
from ratifyd.raft.ready import Ready
from ratifyd.raft.roles import ROLE_CHANGES, Role
from ratifyd.raft.status import Status, status_of

if TYPE_CHECKING:
    from random import Random

    from ratifyd.ports import Tracer
    from ratifyd.raft.log import RaftLog

Step = Callable[["Raft", Message], None]

MAX_FORWARDED_BYTES = 1 << 20
"""What one message to the leader carries of proposals, unless it is a single one (etcd sends each by itself)."""

_LOCAL_KINDS = frozenset(
    {
        MessageKind.HUP,
        MessageKind.BEAT,
        MessageKind.UNREACHABLE,
        MessageKind.SNAP_STATUS,
        MessageKind.CHECK_QUORUM,
    }
)
_RESPONSE_KINDS = frozenset(
    {
        MessageKind.APP_RESP,
        MessageKind.VOTE_RESP,
        MessageKind.HEARTBEAT_RESP,
        MessageKind.READ_INDEX_RESP,
        MessageKind.PRE_VOTE_RESP,
    }
)
_IS_LOCAL = tuple(kind in _LOCAL_KINDS for kind in MessageKind)
_IS_TERMLESS = tuple(kind in (MessageKind.PROP, MessageKind.READ_INDEX) for kind in MessageKind)
_IS_RESPONSE = tuple(kind in _RESPONSE_KINDS for kind in MessageKind)


def _ignore(_: Raft, __: Message) -> None:
    """Take no notice: this role has no use for such a message."""


def _steps(*tables: Mapping[MessageKind, Step]) -> tuple[Step, ...]:
    table = dict(election.STEPS)
    for more in tables:
        table.update(more)
    return tuple(table.get(kind, _ignore) for kind in MessageKind)


_STEPS: dict[Role, tuple[Step, ...]] = {
    Role.FOLLOWER: _steps(follower.STEPS, election.FOLLOWER_STEPS),
    Role.PRE_CANDIDATE: _steps(election.PRE_CANDIDATE_STEPS),
    Role.CANDIDATE: _steps(election.CANDIDATE_STEPS),
    Role.LEADER: _steps(leader.STEPS),
}


@dataclass(slots=True, frozen=True)
class Options:
    """Behaviour of etcd's raft library that etcd itself leaves as it is here."""

    lease_reads: bool = False
    """Answer reads without asking a quorum, trusting clocks; needs check_quorum."""
    forward_proposals: bool = True
    step_down_on_removal: bool = False
    """A leader that a change removes resigns at once instead of leading on without a vote."""
    validate_conf_changes: bool = True


_DEFAULT_OPTIONS = Options()


class Raft:
    """Consensus of one member. Drive it with the methods; after any of them, drain `ready`."""

    __slots__ = (
        "_in_flight",
        "_saved",
        "_syncing",
        "check_quorum",
        "config",
        "election_elapsed",
        "election_ticks",
        "heartbeat_elapsed",
        "heartbeat_ticks",
        "id",
        "leader_id",
        "log",
        "max_inflight",
        "max_inflight_bytes",
        "max_message_bytes",
        "max_uncommitted_bytes",
        "messages",
        "messages_after_append",
        "options",
        "own_messages",
        "pending_conf_index",
        "postponed_reads",
        "pre_vote",
        "progress",
        "random",
        "randomized_timeout",
        "read_states",
        "reads",
        "role",
        "snapshots_wanted",
        "steps",
        "term",
        "tracer",
        "transfer_target",
        "uncommitted_bytes",
        "vote",
        "votes",
    )

    def __init__(
        self,
        member_id: int,
        *,
        election_ticks: int,
        heartbeat_ticks: int,
        pre_vote: bool,
        check_quorum: bool,
        max_message_bytes: int,
        max_inflight: int,
        max_uncommitted_bytes: int,
        random: Random,
        log: RaftLog,
        hard_state: HardState,
        conf_state: ConfState,
        applied: int,
        tracer: Tracer,
        max_inflight_bytes: int = 0,
        options: Options = _DEFAULT_OPTIONS,
    ) -> None:
        """Start as a follower from durable state; takes ownership of `log`.

        `conf_state` is the configuration as of `applied`. Limits of 0 bytes mean no limit, except that a message limit
        of 0 means one entry per message.
        """
        assert member_id and 0 < heartbeat_ticks < election_ticks and max_inflight > 0
        assert check_quorum or not options.lease_reads
        assert not max_inflight_bytes or max_inflight_bytes >= max_message_bytes
        self.id = member_id
        self.election_ticks = election_ticks
        self.heartbeat_ticks = heartbeat_ticks
        self.pre_vote = pre_vote
        self.check_quorum = check_quorum
        self.max_message_bytes = max_message_bytes
        self.max_inflight = max_inflight
        self.max_inflight_bytes = max_inflight_bytes
        self.max_uncommitted_bytes = max_uncommitted_bytes
        self.options = options
        self.random = random
        self.tracer = tracer
        self.log = log
        self.term = hard_state.term
        self.vote = hard_state.vote
        log.commit_to(max(hard_state.commit, applied))
        if applied > log.applied:
            log.applied_to(applied)
        self._saved = hard_state
        self.config: Configuration = confchange.restore(conf_state)
        self.progress: dict[int, Progress] = dict.fromkeys(sorted(self.config.members), self._new_progress(1))
        self.messages: list[Message] = []
        self.messages_after_append: list[Message] = []
        self.own_messages: list[Message] = []
        self.read_states: list[ReadState] = []
        self.snapshots_wanted: list[int] = []
        self._in_flight: deque[Ready] = deque()
        self._syncing = 0
        self.role = Role.FOLLOWER
        self.election_elapsed = self.heartbeat_elapsed = self.randomized_timeout = 0
        self.become(Role.FOLLOWER, self.term)

    # Inputs

    def step(self, message: Message) -> None:
        """Take a message from another member."""
        kind = message.kind
        if (
            _IS_LOCAL[kind]
            or (not message.term and not _IS_TERMLESS[kind])
            or (_IS_RESPONSE[kind] and message.sender not in self.progress)
        ):
            self.tracer.mark("raft.message_refused", member=self.id, kind=kind.name, sender=message.sender)
            return
        self.process(message)

    def tick(self) -> None:
        """Let one tick of time pass."""
        self.election_elapsed += 1
        if self.role is Role.LEADER:
            leader.tick(self)
        elif self.election_elapsed >= self.randomized_timeout and self.is_promotable:
            self.election_elapsed = 0
            election.start(self)

    def campaign(self) -> None:
        """Start an election now, if this member may."""
        election.start(self)

    def propose(self, datas: Sequence[bytes]) -> bool:
        """Append entries with these data, all or none, or forward them to the leader.

        False: dropped, for there is no leader, leadership is being transferred, or too much is uncommitted. True is no
        promise either: what was forwarded, or appended by a leader that fails, may be lost.
        """
        if not datas:
            return True
        if self.role is Role.LEADER:
            return leader.propose(self, datas)
        return self._forward([Entry(0, 0, data) for data in datas])

    def propose_conf_change(self, change: AnyConfChange) -> bool:
        """Propose a configuration change, or forward it to the leader.

        False also when the leader (this member) knows an unapplied change, or the change does not fit the current
        configuration; a leader that gets such a change from a follower appends an empty entry in its place.
        """
        if self.role is Role.LEADER:
            return leader.propose_conf_change(self, change)
        return self._forward([follower.conf_change_entry(change)])

    def read_index(self, context: bytes) -> bool:
        """Ask for a linearizable read; answered by a ReadState with this context, or never. False: no leader known."""
        request = Message(MessageKind.READ_INDEX, entries=[Entry(0, 0, context)])
        if self.role is Role.LEADER:
            leader.read_index(self, request)
            return True
        if not self.leader_id or self.role is not Role.FOLLOWER:
            return False
        follower.forward_read(self, request)
        return True

    def transfer_leader(self, target: int) -> None:
        """Hand leadership to `target`, or ask the leader to; given up after an election timeout."""
        self.process(Message(MessageKind.TRANSFER_LEADER, sender=target))

    def forget_leader(self) -> None:
        """As a follower, forget the leader: an early vote for another member is possible again."""
        if self.role is Role.FOLLOWER and not self.options.lease_reads:
            self.leader_id = 0

    def report_unreachable(self, member: int) -> None:
        """Report that a message to `member` may be lost."""
        if self.role is Role.LEADER and member in self.progress:
            leader.unreachable(self, member)

    def report_snapshot(self, member: int, ok: bool) -> None:
        """Report how sending a snapshot to `member` ended."""
        if self.role is Role.LEADER and member in self.progress:
            leader.snapshot_ended(self, member, ok)

    def snapshot_message(self, member: int, snapshot: Snapshot) -> Message | None:
        """Return the message that brings `member` a snapshot, or None if it no longer wants one from this member."""
        if self.role is not Role.LEADER or member not in self.progress:
            return None
        return leader.snapshot_message(self, member, snapshot)

    # Outputs

    def ready(self) -> Ready | None:
        """Hand out all work there is, or None."""
        log, saved = self.log, self._saved
        committed, snapshot = log.committed, log.snapshot
        votes_changed = self.term != saved.term or self.vote != saved.vote
        has_entries = log.written < log.compacted + len(log.entries)
        appliable = log.applying < committed and log.applying < log.stable and snapshot is None
        has_snapshot = snapshot is not None and not log.snapshot_taken
        if not (
            has_entries
            or votes_changed
            or appliable
            or self.messages
            or self.messages_after_append
            or self.own_messages
            or self.read_states
            or self.snapshots_wanted
            or has_snapshot
        ):
            return None
        must_sync = has_entries or votes_changed or has_snapshot
        hard_state = None
        if must_sync and (votes_changed or committed != saved.commit):
            # That more is committed alone is no reason to write: the log proves it again after a crash.
            hard_state = self._saved = HardState(self.term, self.vote, committed)
        if self.messages_after_append and not must_sync and not self._syncing:
            # Whatever these messages promise is durable already.
            self.messages += self.messages_after_append
            self.messages_after_append = []
        must_append = must_sync or bool(self.messages_after_append or self.own_messages)
        ready = Ready(
            self.messages,
            self.messages_after_append,
            self.own_messages,
            log.take_unwritten() if has_entries else [],
            hard_state,
            log.take_snapshot() if has_snapshot else None,
            log.take_committed() if appliable else [],
            self.read_states,
            self.snapshots_wanted,
            must_append,
            must_sync,
        )
        self.messages, self.messages_after_append, self.own_messages = [], [], []
        self.read_states, self.snapshots_wanted = [], []
        if must_append:
            log.begin_append()
            self._in_flight.append(ready)
            self._syncing += must_sync
        return ready

    def take_commit(self) -> HardState:
        """Hand out the hard state with what is committed, for a caller who cannot wait for the next entries."""
        self._saved = self._saved._replace(commit=self.log.committed)
        return self._saved

    def appended(self, ready: Ready) -> None:
        """Note that everything a Ready gave to the WAL is durable; in the order the Readys were handed out."""
        oldest = self._in_flight.popleft()
        assert ready is oldest, "appends must be reported in order"
        self._syncing -= ready.must_sync
        self.log.finish_append()
        for message in ready.own:
            self.process(message)
        if self.role is Role.LEADER:
            leader.own_entries_durable(self)

    def applied_to(self, index: int) -> None:
        """Note that committed entries, or the incoming snapshot, up to `index` were applied."""
        entries = self.log.applied_to(index)
        if self.role is Role.LEADER:
            leader.entries_applied(self, entries)

    def apply_conf_change(self, change: AnyConfChange) -> ConfState:
        """Switch to the configuration after a committed change; call before `applied_to` covers its entry.

        Raises InvalidConfChange; a change refused by the application is passed with node id 0.
        """
        self._switch_to(confchange.apply(self.config, change))
        if self.role is Role.LEADER:
            leader.configuration_changed(self)
        return self.config.conf_state()

    def allows(self, change: AnyConfChange) -> bool:
        """Whether `apply_conf_change` would take this change."""
        try:
            confchange.apply(self.config, change)
        except confchange.InvalidConfChange:
            return False
        return True

    def compact(self, index: int) -> None:
        """Forget log entries up to `index`, which must be applied and covered by a durable snapshot or backend."""
        self.log.compact(index)

    # Facts

    @property
    def conf_state(self) -> ConfState:
        """The configuration in force."""
        return self.config.conf_state()

    @property
    def is_learner(self) -> bool:
        return self.id in self.config.learners

    @property
    def is_singleton(self) -> bool:
        """Whether this member alone is a quorum; a removed leader never is, even if one voter is left."""
        return len(self.config.voters) == 1 and self.id in self.config.voters and not self.config.outgoing

    @property
    def is_promotable(self) -> bool:
        """Whether this member may become leader: a voter with no snapshot waiting to be installed."""
        return self.id in self.progress and not self.is_learner and self.log.snapshot is None

    def status(self) -> Status:
        """Return a picture of this member."""
        return status_of(self)

    # For the modules of this room

    def process(self, message: Message) -> None:
        """Take a message from another member or from this one; term 0 marks one that is valid in every term."""
        term = message.term
        if term and term != self.term:
            if term < self.term:
                election.answer_lower_term(self, message)
                return
            if not election.accept_higher_term(self, message):
                return
        self.steps[message.kind](self, message)

    def send(self, message: Message) -> None:
        """Queue a message of this term that may leave at once."""
        message.sender = self.id
        message.term = self.term
        self.messages.append(message)

    def send_after_append(self, message: Message) -> None:
        """Queue a message of this term that must wait until everything before it is durable."""
        message.sender = self.id
        message.term = self.term
        self.messages_after_append.append(message)

    def become(self, role: Role, term: int, leader_id: int = 0) -> None:
        """Change role and term, forgetting everything that belongs to the old ones.

        A pre-candidate is still in its old term: it keeps timers, vote and progress.
        """
        assert role in ROLE_CHANGES[self.role], f"{self.role} cannot become {role}"
        if role is not self.role or term != self.term:
            self.tracer.mark("raft.role", member=self.id, role=role.value, term=term, leader=leader_id)
        self.role = role
        self.steps = _STEPS[role]
        self.leader_id = leader_id
        self.votes: dict[int, bool] = {}
        if role is Role.PRE_CANDIDATE:
            return
        if term != self.term:
            self.term = term
            self.vote = 0
        self.election_elapsed = self.heartbeat_elapsed = 0
        self.randomized_timeout = self.election_ticks + self.random.randrange(self.election_ticks)
        self.transfer_target = 0
        self.pending_conf_index = 0
        self.uncommitted_bytes = 0
        self.reads = ReadQueue()
        self.postponed_reads: list[Message] = []
        next_index = self.log.last_index + 1
        self.progress = {member: self._new_progress(next_index) for member in self.progress}
        if self.id in self.progress:
            self.progress[self.id].match = self.log.stable

    def restore(self, snapshot: Snapshot) -> None:
        """Replace log and configuration by an incoming snapshot."""
        self.log.restore(snapshot)
        self.progress = {}
        self._switch_to(confchange.restore(snapshot.meta.conf_state))

    def _switch_to(self, config: Configuration) -> None:
        self.config = config
        known = self.progress
        self.progress = {}
        for member in sorted(config.members):
            progress = known.get(member)
            if progress is None:
                # A new member counts as active until it had a chance to answer, or check-quorum might fail for it.
                progress = self._new_progress(max(self.log.last_index, 1))
                progress.recent_active = True
            self.progress[member] = progress
        self.tracer.mark("raft.configuration", member=self.id, config=config)

    def _new_progress(self, next_index: int) -> Progress:
        return Progress(next_index, max_inflight=self.max_inflight, max_inflight_bytes=self.max_inflight_bytes)

    def _forward(self, entries: list[Entry]) -> bool:
        if not self.leader_id or self.role is not Role.FOLLOWER or not self.options.forward_proposals:
            self.tracer.mark("raft.proposal_dropped", member=self.id, reason="no leader")
            return False
        size, first = 0, 0
        for end, entry in enumerate(entries):
            size += len(entry.data)
            if size > MAX_FORWARDED_BYTES and end > first:
                self._send_proposals(entries[first:end])
                size, first = len(entry.data), end
        self._send_proposals(entries[first:])
        return True

    def _send_proposals(self, entries: list[Entry]) -> None:
        self.messages.append(Message(MessageKind.PROP, to=self.leader_id, sender=self.id, entries=entries))
