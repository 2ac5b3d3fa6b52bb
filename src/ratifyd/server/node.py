"""`Node.turn`: one replica at work, in one function.

External events never act. They leave work in the inbox or a queue and call `wake()`, which schedules one turn, so
everything that arrived together is done together: one raft step, one WAL batch, one flush per connection.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from ratifyd.apply.cluster import change_members
from ratifyd.apply.entries import Outcome, apply_entry
from ratifyd.apply.requests import PUT
from ratifyd.errors import EtcdError, MemberNotEnoughStarted, RequestError
from ratifyd.membership import Change
from ratifyd.ports import Done
from ratifyd.raft.codec import decode_conf_change
from ratifyd.raft.confstate import encode_conf_state_json
from ratifyd.raft.messages import ConfChange, ConfChangeKind, Entry, EntryKind, Message, MessageKind, Snapshot
from ratifyd.raft.ready import Ready
from ratifyd.raft.roles import Role
from ratifyd.server.parts import Parts
from ratifyd.server.proposals import Proposals
from ratifyd.server.reads import Reads
from ratifyd.server.timing import Timing

log = logging.getLogger("ratifyd.server")

TURN_ENTRIES = 256
"""Entries proposed, and entries applied, in one turn at most.

While the next ones are at work the clients of the first read their answers and ask again. With all in one turn, clients
and member would wait for each other by turns. With fewer, each sync of the log would serve fewer.
"""

TURN_S = 0.02
"""Applying begins with no further entry in a turn that has taken so long: each may read thousands of keys."""

MAX_HELD = 10_000
"""Messages with proposals kept while leadership changes hands, an election timeout at most."""


class Node:
    """The replica: raft, log and state, driven turn by turn."""

    __slots__ = (
        "_after_turn",
        "_answered",
        "_appended",
        "_awake",
        "_clock",
        "_fail",
        "_has_room",
        "_held",
        "_leader",
        "_messages",
        "_saving",
        "_settled",
        "_settling",
        "_snapshot_store",
        "_timing",
        "_transport",
        "_turning",
        "_unapplied",
        "_usual",
        "_wal",
        "applied",
        "at_end",
        "installing",
        "on_leader_change",
        "on_member_change",
        "on_outcome",
        "on_snapshot",
        "on_snapshot_wanted",
        "proposals",
        "raft",
        "reads",
        "state",
        "stopped",
    )

    def __init__(
        self, parts: Parts, proposals: Proposals, reads: Reads, timing: Timing, *, has_room: Callable[[], bool]
    ) -> None:
        """`has_room` says whether the write buffer takes more."""
        self.raft = parts.raft
        self.state = parts.state
        self.proposals = proposals
        self.reads = reads
        self.applied = parts.raft.log.applied
        self.stopped = False
        self.on_outcome: Callable[[Outcome], None] = lambda outcome: None
        self.on_leader_change: Callable[[], None] = lambda: None
        self.on_member_change: Callable[[Change], None] = lambda change: None
        self.on_snapshot: Callable[[Snapshot], None] = lambda snapshot: None
        self.on_snapshot_wanted: Callable[[int], None] = lambda member: None
        self.installing = False
        """Whether a durable snapshot from the leader is replacing the state: nothing is applied or read meanwhile."""
        self.at_end: Callable[[], None] = lambda: None
        self._answered = parts.answered
        self._clock = parts.clock
        self._wal = parts.wal
        self._transport = parts.transport
        self._snapshot_store = parts.snapshot_store
        self._saving = False
        self._settled = 0
        """Entries up to here are committed, and the log says so durably."""
        self._settling = False
        self._timing = timing
        self._fail = parts.fail
        self._has_room = has_room
        self._appended: deque[Ready] = deque()
        self._messages: list[Message] = []
        self._held: list[Message] = []
        self._unapplied: deque[Entry] = deque()
        self._usual = PUT
        """The kind of the last entry: the next one is likely to be of the same."""
        self._after_turn: list[Callable[[], None]] = []
        self._leader = (parts.raft.leader_id, parts.raft.term)
        self._awake = False
        self._turning = False

    def wake(self) -> None:
        """Have a turn soon; any number of calls before it make one turn."""
        if not self._awake and not self.stopped:
            self._awake = True
            self._clock.call_soon(self._guarded_turn)

    def after_turn(self, callback: Callable[[], None]) -> None:
        """Call once at the end of the present or the coming turn: how sessions flush their answers together."""
        self._after_turn.append(callback)
        if not self._awake and not self._turning:  # also when stopped
            self._awake = True
            self._clock.call_soon(self._guarded_turn)

    def receive(self, messages: Sequence[Message]) -> None:
        """Take messages from other members."""
        self._messages.extend(messages)
        self.wake()

    def _guarded_turn(self) -> None:
        self._awake = False
        self._turning = True
        try:
            if not self.stopped:
                self.turn()
            callbacks, self._after_turn = self._after_turn, []
            self._turning = False
            if callbacks:
                for callback in callbacks:
                    callback()
                self._answered()
            if not self.stopped:
                self.at_end()
        except Exception as error:  # whatever it was, the state can no longer be trusted: end the member
            self._fail(error)

    def turn(self) -> None:
        """Everything that is ready to happen, in the order that durability demands."""
        raft = self.raft
        while self._appended:
            self._durable(self._appended.popleft())
        if self._held and raft.leader_id and not raft.transfer_target:
            self._messages = self._held + self._messages
            self._held = []
        if self._messages:
            messages, self._messages = self._messages, []
            for message in messages:
                if raft.transfer_target and message.kind is MessageKind.PROP:
                    self._hold(message)
                else:
                    raft.step(message)
        if self.proposals.own:
            self._propose_own()
        if self.proposals.queued and raft.leader_id:
            self._propose()
        if self.proposals.changes and raft.leader_id:
            self._propose_changes()
        self._advance()
        if self._leader != (raft.leader_id, raft.term):
            self._leader = (raft.leader_id, raft.term)
            self.on_leader_change()  # before reads ask the new leader: only those of the old one fail
        if self.reads.can_open and raft.leader_id:
            raft.read_index(self.reads.open_batch())
            self._advance()
        if raft.log.snapshot is None:  # else what is not applied yet is in it, and raft's members are its own already
            self._apply_some()
        self.proposals.gap = raft.log.committed - self.applied
        if self.reads.local or (self.reads.confirmed and not self.installing):
            began = self._timing.begin_reads()
            if self.reads.run(-1 if self.installing else self.applied):
                self.wake()
            self._timing.end_reads(began)

    def _hold(self, message: Message) -> None:
        """Keep another member's proposals while leadership is handed over: raft would drop them without a word."""
        if len(self._held) < MAX_HELD:
            self._held.append(message)

    def installed(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot that has replaced the state."""
        self.applied = snapshot.meta.index
        self.raft.applied_to(self.applied)
        self.installing = self.raft.log.snapshot is not None  # another one may have come meanwhile
        self.wake()

    def _propose_own(self) -> None:
        """Propose what this member wants as the leader, now or never: another leader must not get it from us."""
        own, self.proposals.own = self.proposals.own, []
        if self.raft.role is not Role.LEADER or not self.raft.propose(own):
            self.proposals.withdraw(own)

    def _propose(self) -> None:
        queued = self.proposals.queued
        if not self.raft.propose(queued[:TURN_ENTRIES]):
            return  # leadership is on its way elsewhere, or too much is uncommitted: they wait
        self.proposals.queued = queued[TURN_ENTRIES:]
        if self.proposals.queued:
            self.wake()

    def _propose_changes(self) -> None:
        self.proposals.drop_unwanted_changes()
        propose = self.raft.propose_conf_change
        self.proposals.changes = [change for change in self.proposals.changes if not propose(change)]

    def _advance(self) -> None:
        raft = self.raft
        while not self._saving and (ready := raft.ready()) is not None:
            if ready.messages:
                self._transport.send(ready.messages)  # may leave before our own sync
            if ready.snapshot is not None:
                self._save_snapshot(ready, ready.snapshot)
            elif ready.must_append and self._wal.append(ready.entries, ready.hard_state, self._append_done(ready)):
                self._durable(ready)
            if ready.snapshots_wanted:
                for member in ready.snapshots_wanted:
                    self.on_snapshot_wanted(member)
            for read_state in ready.read_states:
                self.reads.confirm(read_state.context, read_state.index, self.applied)
            self._unapplied.extend(ready.committed)

    def _append_done(self, ready: Ready) -> Done:
        def done(error: BaseException | None) -> None:
            if error is not None:
                self._fail(error)
                return
            self._appended.append(ready)
            self.wake()

        return done

    def _save_snapshot(self, ready: Ready, snapshot: Snapshot) -> None:
        """Record an incoming snapshot ahead of everything raft may hand out after it."""
        self._saving = True

        def saved(error: BaseException | None) -> None:
            if error is not None:
                self._fail(error)
                return
            if self.stopped:
                return  # the log takes no more
            self._saving = False
            if self._wal.append(ready.entries, ready.hard_state, self._append_done(ready)):
                self._appended.append(ready)
            self.wake()

        self._snapshot_store.save(snapshot, saved)

    def _durable(self, ready: Ready) -> None:
        self.raft.appended(ready)
        if ready.messages_after_append:
            self._transport.send(ready.messages_after_append)  # votes and acknowledgements: only after the sync
        if ready.snapshot is not None:
            self.installing = True
            self._unapplied.clear()
            self.on_snapshot(ready.snapshot)

    def _apply_some(self) -> None:
        """Apply committed entries up to the budget; the rest gets a turn of its own."""
        unapplied = self._unapplied
        if not unapplied or not self._has_room():
            return  # a backend that is behind wakes us when it has caught up
        state, on_outcome = self.state, self.on_outcome
        waiters = self.proposals.waiters
        timing = self._timing
        now, quick_s = timing.now, timing.quick_s
        normal = EntryKind.NORMAL
        row, quick = self._usual, 0  # of the entries since `since`, each of which took next to nothing
        since = before = began = timing.begin_work()
        for _ in range(min(TURN_ENTRIES, len(unapplied))):
            entry = unapplied.popleft()
            if entry.kind is normal:
                index = entry.index
                outcome = apply_entry(state, index, entry.term, entry.data, waiters)
                self.applied = index
                if outcome is not None:
                    after = now()
                    _, its_row, answer, body, error, raise_nospace = outcome
                    if after - before < quick_s and its_row is row and error is None:
                        quick += 1
                    else:
                        if quick:
                            timing.quick_entries(row, quick, before - since)
                        row, quick = timing.entry(entry.data, outcome, after - before), 0
                        since = after
                    before = after
                    if answer is not None:
                        answer(body, error)
                    if raise_nospace or not its_row.quiet:
                        on_outcome(outcome)
                    if not quick and after - began > TURN_S:
                        break
            elif entry.index <= self._settled or self._settle():
                self._apply_conf_change(entry)
                self.applied = entry.index
            else:
                unapplied.appendleft(entry)
                break
        if quick:
            timing.quick_entries(row, quick, before - since)
        self._usual = row
        if unapplied and not self._settling:
            self.wake()
        self.raft.applied_to(self.applied)

    def _settle(self) -> bool:
        """Have the log say durably what is committed, before members change; False: `wake` follows.

        Those that a change removes go once they hear of it. To find out again that it is committed would take their
        votes, so nobody may act on it, and tell them, who could forget it.
        """
        if self._settling:
            return False
        committed = self.raft.log.committed

        def settled(error: BaseException | None) -> None:
            self._settling = False
            if error is not None:
                self._fail(error)
                return
            self._settled = committed
            self.wake()

        if self._wal.append((), self.raft.take_commit(), settled):
            self._settled = committed
        else:
            self._settling = True
        return not self._settling

    def _apply_conf_change(self, entry: Entry) -> None:
        if entry.index <= self.state.consistent_index:
            return  # the end of the log was lost: the backend has this one, and raft its members from there
        conf_change, change = _read_change(entry)
        error: EtcdError | None = None
        if change is None or not self.raft.allows(conf_change):
            error = MemberNotEnoughStarted()
        if change is not None and error is None:
            try:
                change_members(self.state, change)
            except RequestError as refused:
                error = refused
        self.state.consistent_index = entry.index
        self.state.term = entry.term
        # What is refused is still a step of raft, to no effect.
        in_force = conf_change if error is None else ConfChange(conf_change.kind, 0)
        conf_state = self.raft.apply_conf_change(in_force)
        self.state.conf_state_json = encode_conf_state_json(conf_state)
        if change is not None and error is None:
            self.on_member_change(change)
        self.proposals.changed(conf_change.id, error)

    def stop(self) -> None:
        """Take no further turns; what was answered before still leaves."""
        self.stopped = True
        if self._after_turn and not self._awake:
            self._awake = True
            self._clock.call_soon(self._guarded_turn)


def _read_change(entry: Entry) -> tuple[ConfChange, Change | None]:
    """The change an entry carries, for raft and for the members; None if it cannot be read, or is of raft's other kind.

    Then it has no effect, on every member alike, where etcd would panic (as a normal entry: apply.requests.decode).
    """
    conf_change = ConfChange(ConfChangeKind.UPDATE_NODE, 0)
    if entry.kind is EntryKind.CONF_CHANGE:
        with suppress(ValueError):
            conf_change = decode_conf_change(entry.data)
            return conf_change, Change.decode(int(conf_change.kind), conf_change.node_id, conf_change.context)
    log.warning("passed over a membership change that cannot be read", extra={"fields": {"index": entry.index}})
    return conf_change, None
