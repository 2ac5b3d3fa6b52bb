"""Members of a cluster in one process, with instant disks and a network under the test's control."""

from collections import deque
from collections.abc import Sequence
from random import Random

from ratifyd.raft.codec import change_of_entry
from ratifyd.raft.core import Options, Raft
from ratifyd.raft.log import RaftLog
from ratifyd.raft.messages import ConfState, Entry, EntryKind, HardState, Message, MessageKind, Snapshot, SnapshotMeta
from ratifyd.raft.ready import Ready
from ratifyd.raft.roles import Role

ELECTION_TICKS = 10


class Tracer:
    def __init__(self) -> None:
        self.marks: list[tuple[str, dict[str, object]]] = []

    def mark(self, name: str, **fields: object) -> None:
        self.marks.append((name, fields))


def entries_of(*terms: int) -> list[Entry]:
    """A log whose entries, from index 1 on, have these terms."""
    return [Entry(term, index, b"%d" % index) for index, term in enumerate(terms, 1)]


def make_raft(
    member: int = 1,
    voters: Sequence[int] = (1, 2, 3),
    *,
    learners: Sequence[int] = (),
    terms: Sequence[int] = (),
    term: int | None = None,
    vote: int = 0,
    commit: int = 0,
    log: RaftLog | None = None,
    conf_state: ConfState | None = None,
    pre_vote: bool = False,
    check_quorum: bool = False,
    max_message_bytes: int = 1 << 20,
    max_inflight: int = 256,
    max_inflight_bytes: int = 0,
    max_uncommitted_bytes: int = 0,
    heartbeat_ticks: int = 1,
    options: Options | None = None,
    applied: int = 0,
) -> Raft:
    """A member; `terms` gives its durable log."""
    return Raft(
        member,
        election_ticks=ELECTION_TICKS,
        heartbeat_ticks=heartbeat_ticks,
        pre_vote=pre_vote,
        check_quorum=check_quorum,
        max_message_bytes=max_message_bytes,
        max_inflight=max_inflight,
        max_inflight_bytes=max_inflight_bytes,
        max_uncommitted_bytes=max_uncommitted_bytes,
        random=Random(member),
        log=log if log is not None else RaftLog(entries=entries_of(*terms)),
        hard_state=HardState(max(terms, default=0) if term is None else term, vote, commit),
        conf_state=conf_state if conf_state is not None else ConfState(tuple(voters), tuple(learners)),
        applied=applied,
        tracer=Tracer(),
        options=options if options is not None else Options(),
    )


def drain(raft: Raft) -> list[Message]:
    """Carry out all work with an instant disk; return the messages to others, in order."""
    messages: list[Message] = []
    while (ready := raft.ready()) is not None:
        messages += ready.messages
        if ready.must_append:
            raft.appended(ready)
        messages += ready.messages_after_append
        if ready.snapshot is not None:
            raft.applied_to(ready.snapshot.meta.index)
        apply(raft, ready.committed)
    return messages


def apply(raft: Raft, entries: Sequence[Entry]) -> None:
    for entry in entries:
        if entry.kind is not EntryKind.NORMAL:
            raft.apply_conf_change(change_of_entry(entry))
        raft.applied_to(entry.index)


def elect(raft: Raft) -> Raft:
    """Make a member leader with the votes of all others, and let the network forget its messages."""
    raft.campaign()
    drain(raft)
    for kind in (MessageKind.PRE_VOTE_RESP, MessageKind.VOTE_RESP):
        for voter in sorted(raft.config.all_voters - {raft.id}):
            term = raft.term + 1 if kind is MessageKind.PRE_VOTE_RESP else raft.term
            if raft.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
                raft.step(Message(kind, to=raft.id, sender=voter, term=term))
                drain(raft)
    assert raft.role is Role.LEADER
    return raft


class Net:
    """Members joined by queues; everything is delivered in order unless it is cut or held."""

    def __init__(self, *members: Raft) -> None:
        self.members = {raft.id: raft for raft in members}
        self.applied: dict[int, list[Entry]] = {raft.id: [] for raft in members}
        self.queue: deque[Message] = deque()
        self.cut_links: set[tuple[int, int]] = set()
        self.lost_kinds: set[MessageKind] = set()
        self.slow_disks: dict[int, deque[Ready]] = {}
        self.delivered: list[Message] = []

    def __getitem__(self, member: int) -> Raft:
        return self.members[member]

    def isolate(self, member: int) -> None:
        self.cut_links |= {(member, other) for other in self.members} | {(other, member) for other in self.members}

    def heal(self) -> None:
        self.cut_links.clear()
        self.lost_kinds.clear()

    def slow_disk(self, member: int) -> None:
        self.slow_disks[member] = deque()

    def finish_write(self, member: int) -> None:
        ready = self.slow_disks[member].popleft()
        self._written(member, ready)
        self.work(member)
        self.settle()

    def work(self, member: int) -> None:
        raft = self.members[member]
        while (ready := raft.ready()) is not None:
            self.queue.extend(ready.messages)
            for peer in ready.snapshots_wanted:
                self._send_snapshot(raft, peer)
            self.applied[member] += ready.committed
            apply(raft, ready.committed)
            if ready.must_append:
                if member in self.slow_disks:
                    self.slow_disks[member].append(ready)
                else:
                    self._written(member, ready)

    def settle(self) -> None:
        """Let all members work and all messages arrive until nothing is left to do."""
        for member in self.members:
            self.work(member)
        while self.queue:
            message = self.queue.popleft()
            lost = (message.sender, message.to) in self.cut_links or message.kind in self.lost_kinds
            if lost or message.to not in self.members:
                continue
            self.delivered.append(message)
            self.members[message.to].step(message)
            self.work(message.to)

    def tick(self, times: int = 1, *members: int) -> None:
        for _ in range(times):
            for member in members or self.members:
                self.members[member].tick()
                self.work(member)
            self.settle()

    def campaign(self, member: int) -> None:
        self.members[member].campaign()
        self.settle()

    def propose(self, member: int, *datas: bytes) -> bool:
        taken = self.members[member].propose(datas)
        self.settle()
        return taken

    def leaders(self) -> list[int]:
        return [member for member, raft in self.members.items() if raft.role is Role.LEADER]

    def _written(self, member: int, ready: Ready) -> None:
        raft = self.members[member]
        raft.appended(ready)
        self.queue.extend(ready.messages_after_append)
        if ready.snapshot is not None:
            raft.applied_to(ready.snapshot.meta.index)

    def _send_snapshot(self, raft: Raft, peer: int) -> None:
        term = raft.log.term(raft.log.applied)
        assert term is not None
        message = raft.snapshot_message(peer, Snapshot(SnapshotMeta(raft.log.applied, term, raft.conf_state), b"image"))
        if message is not None:
            self.queue.append(message)
