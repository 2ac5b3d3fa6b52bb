"""Raft's own promises (Raft figure 3): one leader per term, matching logs, complete leaders, one committed log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ratifyd.raft.messages import Entry, EntryKind
from ratifyd.raft.roles import Role
from simulation.checkers import Violation

if TYPE_CHECKING:
    from simulation.machine import SimMember
    from simulation.world import World


class RaftChecker:
    """Follows every member's log, and hands what is committed first to the model."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._leaders: dict[int, int] = {}
        self._known: dict[tuple[int, int], tuple[int, bytes]] = {}
        """(index, term) -> term before, data."""
        self._seen: dict[int, tuple[object, ...]] = {}
        self._seen_of = world.network.situations.seen
        self._last: dict[int, int] = {}
        self._checked: dict[int, int] = {}
        """Committed entries of each machine that were compared already."""
        self.committed: list[Entry] = []
        self._committed_in: list[int] = []
        """The term in which each of them was committed; an entry's own term may be an older one."""
        self.appeared: dict[tuple[int, int], float] = {}
        """When an entry was first in any log."""

    def begin(self, member: SimMember) -> None:
        """A life begins: what its log holds is looked at anew."""
        self._seen.pop(member.machine.number, None)
        self._checked[member.machine.number] = 0
        self._last.pop(member.machine.number, None)

    def observe(self, member: SimMember) -> None:
        """Look at a member's raft."""
        raft = member.raft
        log = raft.log
        number = member.machine.number
        last_index = log.compacted + len(log.entries)
        state = (log.committed, last_index, log.last_term, raft.term, raft.role)
        if self._seen.get(number) == state:
            return
        self._seen[number] = state
        if last_index < self._last.get(number, 0):
            self._seen_of("log: entries are replaced")
        self._last[number] = last_index
        self._match(member)
        if log.committed > self._checked[number]:
            self._commit(member)
        if raft.role is Role.LEADER:
            self._lead(member)

    def _match(self, member: SimMember) -> None:
        log, known = member.raft.log, self._known
        entries = log.entries
        for position in range(len(entries) - 1, -1, -1):
            entry = entries[position]
            before = entries[position - 1].term if position else log.compacted_term
            found = known.get((entry.index, entry.term))
            if found is None:
                known[entry.index, entry.term] = (before, entry.data)
                self.appeared[entry.index, entry.term] = self._world.clock.now
                if (
                    entry.kind in (EntryKind.CONF_CHANGE, EntryKind.CONF_CHANGE_V2)
                    and member.raft.role is Role.LEADER
                    and entry.term == member.raft.term
                ):
                    self._change_alone(member, entry)
                continue
            if found != (before, entry.data) and (position or log.compacted_term):
                text = f"member {member.machine.number} has another entry {entry.index} of term {entry.term}"
                raise Violation("log matching", text)
            return

    def _change_alone(self, member: SimMember, change: Entry) -> None:
        """A leader begins a change of members only when all that its log holds of such are applied."""
        log = member.raft.log
        if log.has_conf_change(log.applied, change.index - 1):
            text = f"leader {member.machine.number} begins {change.index} with another one not applied ({log.applied})"
            raise Violation("one change of members at a time", text)

    def _commit(self, member: SimMember) -> None:
        log, committed = member.raft.log, self.committed
        number = member.machine.number
        first = max(self._checked[number], log.compacted)
        for index in range(first + 1, log.committed + 1):
            entry = log.entries[index - log.compacted - 1]
            if index > len(committed):
                if index != len(committed) + 1:
                    text = f"member {number} has committed {index}, nobody {len(committed) + 1}"
                    raise Violation("state machine safety", text)
                if entry.term < member.raft.term and member.raft.role is Role.LEADER:
                    self._seen_of("log: an entry of an older term is committed")
                committed.append(entry)
                self._committed_in.append(member.raft.term)
                self._world.committed(index, entry.data if entry.kind is EntryKind.NORMAL else b"")
                continue
            agreed = committed[index - 1]
            if (agreed.term, agreed.data, agreed.kind) != (entry.term, entry.data, entry.kind):
                text = (
                    f"member {number} has committed entry {index} of term {entry.term}, others one of {agreed.term}: "
                    f"{entry.data[:60]!r}, {agreed.data[:60]!r}"
                )
                raise Violation("state machine safety", text)
        if 0 < log.compacted <= len(committed) and log.compacted_term != committed[log.compacted - 1].term:
            text = f"member {number} has compacted to {log.compacted} with another term"
            raise Violation("state machine safety", text)
        self._checked[number] = log.committed

    def _lead(self, member: SimMember) -> None:
        raft, number = member.raft, member.machine.number
        leader = self._leaders.get(raft.term)
        if leader == number:
            return
        if leader is not None:
            raise Violation("election safety", f"members {leader} and {number} both lead in term {raft.term}")
        self._leaders[raft.term] = number
        if any(other.raft.role is Role.LEADER for other in self._world.living() if other is not member):
            self._seen_of("leaders: an old one is still there")
        log = raft.log
        for index in range(max(log.compacted, 1), len(self.committed) + 1):
            if (
                self._committed_in[index - 1] > raft.term
            ):  # a late vote may still make a leader of a term that has passed
                continue
            if log.term(index) != self.committed[index - 1].term:
                text = f"leader {number} of term {raft.term} lacks committed entry {index}"
                raise Violation("leader completeness", text)

    @property
    def terms(self) -> int:
        """Terms that had a leader."""
        return len(self._leaders)
