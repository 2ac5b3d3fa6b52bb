"""Every member's state is that after some prefix of the one log, after a restart too; queues are short."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING

from ratifyd import schema
from simulation.authmodel import Rights
from simulation.checkers import Violation
from simulation.machine import DIR
from simulation.model import Book, Version

if TYPE_CHECKING:
    from simulation.machine import SimMember
    from simulation.world import World

MAX_QUEUE = 20_000
"""More than clients as few and messages as small as these can explain."""

LEFTOVERS = (".received", ".backend", ".snap.db")


class StateChecker:
    """Compares each member with the model at the member's own consistent index."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[int, tuple[int, int, int]] = {}
        self._encoded: dict[tuple[bytes, int], bytes] = {}
        """KeyValues as they must be stored, by key and revision."""
        self._index: dict[int, object] = {}
        """The key index of each machine's member: another one after the installation of a snapshot."""

    def begin(self, member: SimMember) -> None:
        """A life begins: its backend may not be ahead of the index it claims, nor behind."""
        self._seen.pop(member.machine.number, None)
        self._index.pop(member.machine.number, None)
        index = member.state.consistent_index
        if index > len(self._world.model.applied):
            text = f"member {member.machine.number} came back with index {index}, which nobody has committed"
            raise Violation("consistent index", text)
        self.observe(member)
        self.compare(member)

    def observe(self, member: SimMember) -> None:
        """Look at what a member has applied."""
        state = member.state
        number = member.machine.number
        index, revision = state.consistent_index, state.store.revision
        seen = (index, revision, state.store.compacted)
        if self._seen.get(number) == seen:
            return
        before = self._seen.get(number)
        if before is not None and (index < before[0] or revision < before[1] or seen[2] < before[2]):
            text = f"member {number} went from (index, revision, compacted) {before} to {seen}"
            raise Violation("revision monotonicity", text)
        self._seen[number] = seen
        if index > len(self._world.model.applied):
            text = f"member {number} has applied {index}, which is not committed"
            raise Violation("applied prefix", text)
        expected = self._world.expected(index)
        found = (revision, seen[2], len(state.leases.leases), state.auth.revision, state.auth.enabled)
        if found != expected:
            text = (
                f"member {number} at index {index} has (revision, compacted, leases, auth revision, auth enabled) "
                f"{found}, the log leads to {expected}"
            )
            raise Violation("applied prefix", text)
        if self._index.setdefault(number, state.store._index) is not state.store._index:
            self._index[number] = state.store._index  # another state has taken the place of this member's
            self.compare(member)

    def queues(self, member: SimMember) -> None:
        """Look at a member's queues, and at what is too long to compare every time."""
        self._compare_book(member)
        node = member.server.node
        sizes = {
            "messages": len(node._messages),
            "held": len(node._held),
            "proposals": node.proposals.pending,
            "queued": len(node.proposals.queued),
            "reads": len(node.reads.queued) + len(node.reads.local) + len(node.reads.confirmed),
            "unapplied": len(node._unapplied),
            "wal": len(member.wal._waiting),
        }
        long = {name: size for name, size in sizes.items() if size > MAX_QUEUE}
        if long:
            raise Violation("queues", f"member {member.machine.number}: {long}")

    def compare(self, member: SimMember) -> None:
        """Compare all rows with the model, at the member's own revision."""
        store, model = member.state.store, self._world.model
        number = member.machine.number
        try:
            store.check()
            member.state.leases.check()
        except AssertionError as error:
            raise Violation("store check", f"member {number}: {error}") from error
        rows = member.state.buffer.range(schema.KEY, b"\0", None)
        found = {(schema.decode_revision(row)[0], value) for row, value in rows if not schema.is_tombstone(row)}
        for name, versions in model.keys.items():
            last: Version | None = None
            for version in versions:
                if version.mod > store.revision:
                    break
                last = version
                if version.version and version.mod > store.compacted:
                    self._expect(number, version, found)
            kv = store.get(name)
            if (kv is None) != (last is None or not last.version):
                raise Violation("state", f"member {number}: {name!r} is {kv!r}, expected {last}")
            if last is not None and last.version:
                self._expect(number, last, found)
        self._compare_rights(member)
        self._compare_book(member)
        self._compare_members(member)

    def _compare_book(self, member: SimMember) -> None:
        """Leases with their times and keys, and alarms."""
        state, index = member.state, member.state.consistent_index
        wanted = self._world.model.applied[index - 1].book if index else Book({}, {}, frozenset())
        leases = state.leases.leases.values()
        found = Book(
            {lease.id: (lease.ttl_s, lease.remaining_s) for lease in leases},
            {key: lease.id for lease in leases for key in lease.keys},
            frozenset(state.alarms),
        )
        if found != wanted:
            raise Violation(
                "leases and alarms", f"member {member.machine.number} at {index}: {found}, expected {wanted}"
            )

    def _compare_members(self, member: SimMember) -> None:
        """Raft counts on those that the members' table names."""
        raft = member.raft
        if raft.log.snapshot is not None or member.server.node.installing:
            return  # raft is ahead
        found = (raft.config.all_voters, raft.config.learners)
        known = member.state.members.sorted()
        voters = frozenset(each.id for each in known if not each.is_learner)
        wanted = (voters, frozenset(each.id for each in known if each.is_learner))
        if found != wanted:
            text = (
                f"member {member.machine.number} at {member.state.consistent_index}: raft has {found}, members {wanted}"
            )
            raise Violation("raft's members", text)

    def _compare_rights(self, member: SimMember) -> None:
        auth, index = member.state.auth, member.state.consistent_index
        wanted = self._world.model.applied[index - 1].rights if index else Rights()
        users = {name: frozenset(user.roles) for name, user in auth.users.items()}
        roles = {
            name: frozenset((held.key, held.range_end, int(held.permType)) for held in role.permissions)
            for name, role in auth.roles.items()
        }
        if (users, roles) != (wanted.users, wanted.roles):
            text = f"member {member.machine.number} at index {index} has {users} {roles}, expected {wanted}"
            raise Violation("auth state", text)
        for name, user in auth.users.items():
            _, hashed = [each for each in self._world.model.passwords[name] if each[0] <= index][-1]
            if user.password != b64decode(hashed):
                raise Violation("auth state", f"member {member.machine.number} at {index}: another password of {name}")

    def _expect(self, number: int, version: Version, found: set[tuple[int, bytes]]) -> None:
        encoded = self._encoded.get((version.key, version.mod))
        if encoded is None:
            encoded = self._encoded[version.key, version.mod] = version.kv().SerializeToString()
        if (version.mod, encoded) not in found:
            raise Violation("state", f"member {number} at its revision lacks {version}")

    def _look_for_leftovers(self, member: SimMember) -> None:
        """What came from other members and is of no use any more is gone."""
        found = [name for name in member.machine.disk.list(DIR.snap) if name.endswith(LEFTOVERS)]
        if found and not member.server.node.installing and not member.loop.busy:
            raise Violation("leftovers", f"member {member.machine.number} keeps {found}")

    def finish(self, members: list[SimMember]) -> None:
        """All members hold the same."""
        views: dict[str, list[int]] = {}
        hashes: dict[tuple[int, int, int], list[int]] = {}
        for member in members:
            self.compare(member)
            self._look_for_leftovers(member)
            known = member.state.members
            found = {each.id: (sorted(each.peer_urls), each.name, each.is_learner) for each in known.sorted()}
            view = f"{sorted(found.items())} removed {sorted(known.removed)} version {known.cluster_version}"
            view += f" downgrade {known.downgrade_target}"
            views.setdefault(view, []).append(member.machine.number)
            steps = member.state.store.hash_kv()
            while True:
                try:
                    next(steps)
                except StopIteration as stop:
                    key = (stop.value.hash, stop.value.compact_revision, member.state.store.revision)
                    hashes.setdefault(key, []).append(member.machine.number)
                    break
        if len(views) > 1:
            raise Violation("equal membership", f"members: {views}")
        if len(hashes) > 1:
            raise Violation("equal HashKV", f"(hash, compacted, revision) -> members: {hashes}")
