"""One run: a cluster, its clients and its bad luck, all from one seed; then healing, and a look at everything.

Safety phase: faults happen, every promise is checked as it goes. Then the world heals, and what was promised for a
healthy cluster is required: a leader, answers, members that agree, watchers that were told everything, no lease left.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from random import Random
from typing import Any

from ratifyd.proto import rpc_pb2 as pb
from ratifyd.proto.etcdserver_pb2 import Metadata
from ratifyd.server.server import MemberRemoved
from ratifyd.storage.recover import RecoveryRefused
from ratifyd.storage.walread import WalCorrupt, WalSnapshotMissing
from simulation.authmodel import ROOT
from simulation.checkers import Violation
from simulation.checkers.auth import AuthChecker
from simulation.checkers.duties import CompactionChecker, check_alarm
from simulation.checkers.lease import LeaseChecker
from simulation.checkers.linearizability import LinearizabilityChecker
from simulation.checkers.locks import LockChecker
from simulation.checkers.raft import RaftChecker
from simulation.checkers.search import SearchChecker
from simulation.checkers.state import StateChecker
from simulation.checkers.watch import WatchChecker
from simulation.clients import Client, Keeper, Watcher, Writer
from simulation.clock import MemberClock, SimClock
from simulation.connection import Connection
from simulation.disk import Crashed
from simulation.faults import Nemesis
from simulation.history import History, Operation
from simulation.knobs import turned
from simulation.machine import Machine, SimMember
from simulation.model import Model
from simulation.network import SimNetwork
from simulation.options import Options
from simulation.users import USERS, Governor, Locker

HEAL_S = 30.0
"""A healthy cluster must be of one mind after so long."""
PROBE_S = 10.0
LEASE_S = 25.0
"""Time in which every lease of the clients has ended."""
STOP_S = 20.0
"""A member with a disk of the usual pace has stopped after so long."""
QUEUE_CHECK_CALLBACKS = 500
TRACE_LINES = 4000


class World:
    """A cluster and everything around it."""

    def __init__(self, options: Options, *, trace: bool = False) -> None:
        self.options = options
        self.random = Random(f"world {options.seed}")
        self.clock = SimClock(0.0)
        self.network = SimNetwork(self.clock, options, Random(f"network {options.seed}"))
        self.machines = self.network.machines
        self.connections: list[Connection] = []
        self.history = History()
        self.model = Model(options.min_ttl_s)
        self.raft_checker = RaftChecker(self)
        self.state_checker = StateChecker(self)
        self.revision_seen = 1
        self.restarts = 0
        self.healing = False
        self.violation: Violation | None = None
        self.trace_lines: deque[str] | None = deque(maxlen=TRACE_LINES) if trace else None
        if trace:
            self.network.trace = self.trace
        self.passwords: dict[str, list[str]] = {}
        """Those that users may have."""
        self.committed_at: list[float] = []
        """When each entry was first committed anywhere, by index - 1."""
        self.governor = Governor(self, "governor")
        self.clients = self._draw_clients()
        self.nemesis = Nemesis(self)
        self._callbacks = 0

    def _draw_clients(self) -> list[Client]:
        options = self.options
        clients: list[Client] = [
            Writer(self, f"w{number}", USERS[number % len(USERS)]) for number in range(options.clients)
        ]
        clients += [Keeper(self, f"l{number}") for number in range(options.keepers)]
        clients += [Watcher(self, f"v{number}", USERS[0] if number % 2 else ROOT) for number in range(options.watchers)]
        clients += [Locker(self, f"o{number}") for number in range(options.lockers)]
        return [*clients, self.governor] if options.users else clients

    def trace(self, text: str) -> None:
        """Note an event for whoever reads the trace; costs nothing when nobody does."""
        if self.trace_lines is not None:
            self.trace_lines.append(f"{self.clock.now:10.4f} {text}")

    # --- the run ---------------------------------------------------------------------------------------------------

    def run(self) -> Violation | None:
        """Run it all; what was broken, if anything was."""
        try:
            with turned(self.options):
                self.begin()
                self.pass_time(self.options.duration_s)
                self.finish()
        except Violation as violation:
            self.violation = self.violation or violation
        return self.violation

    def begin(self) -> None:
        """Start the cluster and its clients."""
        founders = [Machine(number, self.network) for number in range(self.options.members)]
        urls = ",".join(f"{machine.name}={machine.url}" for machine in founders)
        for machine in founders:
            machine.founders = urls
            self.draw_clock(machine)
            self.clock.call_later(self.random.random() * 0.3, self.boot, machine)
        for client in self.clients:
            self.clock.call_later(0.5, client.start)
        self.nemesis.start()
        self.clock.call_later(0.5, self._administer)

    def pass_time(self, seconds: float) -> None:
        """Let time pass; raises the first violation."""
        self.clock.run_to(self.clock.now + seconds)
        if self.violation is not None:
            raise self.violation

    def finish(self) -> None:
        """Heal, require that all is well, and check the whole history."""
        self.heal()
        self._require_agreement()
        for client in self.clients:
            client.stopped = not client.until_checked
        self.pass_time(5.0)
        self._require_answers()
        self._await_leases()
        for client in self.clients:
            client.stopped = True
        self.pass_time(1.0)
        self._require_agreement()  # at this very moment: compactions of the members' own go on
        self.state_checker.finish(self.voting())  # one that was removed, and was never told, may be anywhere
        LinearizabilityChecker(self.model, self.history.operations).finish(self)
        WatchChecker(self.model).finish(self)
        LeaseChecker().finish(self)
        LockChecker().finish(self)
        CompactionChecker().finish(self)
        AuthChecker(self).finish(self)
        if self.options.short_history:
            SearchChecker(self.history.operations).finish(self)

    # --- machines --------------------------------------------------------------------------------------------------

    def draw_clock(self, machine: Machine) -> None:
        """Give a machine its own pace and date."""
        drift = self.options.clock_drift
        machine.clock_rate = 1 + self.random.uniform(-drift, drift)
        machine.wall_offset = self.random.uniform(-100, 100) if drift else 0.0

    def living(self) -> list[SimMember]:
        """Members that run, in order of their machines."""
        return [machine.member for machine in self.machines if machine.member is not None]

    def boot(self, machine: Machine) -> None:
        """Start a member on its machine, unless one runs there or its disk is of no more use."""
        if machine.member is not None or machine.removed or machine.lost or self.violation is not None:
            return
        machine.lives += 1
        random = Random(f"life {self.options.seed} {machine.number} {machine.lives}")
        clock = MemberClock(
            self.clock,
            rate=machine.clock_rate,
            base=random.uniform(100, 1000),
            wall_offset=machine.wall_offset,
            crashed=lambda: self._stopped(machine, random),
            failed=self.failed,
            after=partial(self._after, machine),
        )
        self.nemesis.begin_start(machine, clock)
        try:
            member = SimMember(machine, self.options, random, clock)
        except Crashed:
            clock.dead = True
            if random.random() < 0.7:
                machine.disk.crash(random)
            else:
                machine.disk.abandon()
            self.trace(f"m{machine.number} crashes while it starts")
            self.network.situations.seen("crash: while starting")
            self.clock.call_later(random.uniform(0.05, 2.0), self.boot, machine)
            return
        except (WalCorrupt, WalSnapshotMissing, RecoveryRefused) as error:
            clock.dead = True
            self._refused(machine, error)
            return
        except OSError as error:
            clock.dead = True
            if not machine.disk.fail:
                self.failed(Violation("recovery", f"m{machine.number} cannot start from a sound disk: {error}"))
                return
            machine.disk.abandon()
            self.trace(f"m{machine.number} cannot start: {error}")
            self.clock.call_later(random.uniform(0.5, 2.0), self.boot, machine)
            return
        machine.member = member
        member.on_failure = self._ended
        self.restarts += machine.lives > 1
        self.trace(f"m{machine.number} starts, life {machine.lives}, index {member.state.consistent_index}")
        try:
            self.raft_checker.begin(member)
            self.state_checker.begin(member)
        except Violation as violation:
            self.failed(violation)
        member.start()

    def _refused(self, machine: Machine, error: Exception) -> None:
        if not self.nemesis.flipped(machine):
            self.failed(Violation("recovery", f"m{machine.number} refuses to start on a sound disk: {error}"))
            return
        self.trace(f"m{machine.number} refuses its damaged disk: {error}")
        self.network.situations.seen("disk: damage is refused")
        machine.lost = True

    def crash(self, machine: Machine, *, power: bool, down_s: float | None = None) -> None:
        """End the process of a machine, with or without what it had not synced."""
        member = machine.member
        if member is None:
            return
        self.network.situations.crashed(member)
        self._bury(machine, member)
        if power:
            machine.disk.crash(member.random)
        else:
            machine.disk.abandon()
        self.trace(f"m{machine.number} {'loses power' if power else 'is killed'}")
        if down_s is None:
            down_s = member.random.uniform(0.05, 0.5 if self.healing else member.random.choice((0.1, 0.5, 4.0)))
        self.clock.call_later(down_s, self.boot, machine)

    def shut_down(self, machine: Machine) -> None:
        """Stop a member as its operator does: what was applied is in its backend when it ends, and it does end."""
        member = machine.member
        if member is None or member.stopping:
            return
        self.trace(f"m{machine.number} is told to stop")
        member.stopping = True
        member.server.leave()
        member.server.stop()
        applied = member.state.consistent_index
        overdue = member.clock.call_later(STOP_S, self._stop_overdue, machine, member)

        def closed(error: BaseException | None) -> None:
            overdue.cancel()
            self._ended_now(machine, member)

        def settled() -> None:
            if member.committer.committed_index < applied:
                self.failed(Violation("stop", f"m{machine.number} has applied {applied}, and stops with less"))
            member.wal.close(closed)

        member.committer.sync(settled)

    def _stop_overdue(self, machine: Machine, member: SimMember) -> None:
        if machine.slowness > 1.0:
            member.clock.call_later(STOP_S, self._stop_overdue, machine, member)
        elif machine.member is member:
            self.failed(Violation("stop", f"m{machine.number} has not stopped after {STOP_S} s"))

    def _stopped(self, machine: Machine, random: Random) -> None:
        """The process has stopped in the middle of something."""
        if machine.disk.crash_at is not None:
            self.network.situations.seen("crash: a disk step is the last")
        self.crash(machine, power=random.random() < 0.7)

    def _bury(self, machine: Machine, member: SimMember) -> None:
        member.clock.dead = True
        member.loop.close()
        member.transport.close()
        machine.member = None
        for connection in self.connections:
            if connection.member is member:
                connection.hang_up()
        self.connections = [connection for connection in self.connections if not connection.over]

    def _ended(self, member: SimMember) -> None:
        """A member has given up."""
        machine = member.machine
        failure = member.failure
        if isinstance(failure, MemberRemoved):
            machine.removed = True
            if member.server.is_leader:
                self.network.situations.seen("members: the leader is removed")
            self.trace(f"m{machine.number} was removed")
        elif not self.nemesis.disk_faulted(machine):
            self.failed(Violation("member", f"m{machine.number} died: {failure!r}"))
            return
        else:
            self.trace(f"m{machine.number} gives up: {failure!r}")
        self.clock.call_soon(self._ended_now, machine, member)

    def _ended_now(self, machine: Machine, member: SimMember) -> None:
        if machine.member is member:
            self._bury(machine, member)
            machine.disk.abandon()
            self.clock.call_later(member.random.uniform(0.1, 2.0), self.boot, machine)

    # --- membership ------------------------------------------------------------------------------------------------

    def _administer(self) -> None:
        """Start members that were added, as an operator does; and have all members keep up their streams."""
        members = self.living()
        for member in members:
            member.transport.dial()
        if members:
            latest = max(members, key=lambda member: member.state.consistent_index)
            present = {machine.member_id for machine in self.machines}
            for known in latest.state.members.sorted():
                machine = self.network.machine_at(known.peer_urls[0]) if known.peer_urls else None
                if machine is not None and not machine.lives and known.id not in present:
                    ids = Metadata(NodeID=known.id, ClusterID=latest.state.members.cluster_id)
                    machine.joined = ids.SerializeToString()
                    machine.member_id = known.id
                    self.boot(machine)
        self.clock.call_later(0.5, self._administer)

    # --- what members do -------------------------------------------------------------------------------------------

    def _after(self, machine: Machine) -> None:
        member = machine.member
        if member is None or self.violation is not None:
            return
        self._callbacks += 1
        try:
            if member.moved():
                self.raft_checker.observe(member)
                self.state_checker.observe(member)
            if self._callbacks % QUEUE_CHECK_CALLBACKS == 0:
                self.state_checker.queues(member)
        except Violation as violation:
            self.failed(violation)

    def failed(self, error: Exception) -> None:
        """Something is wrong: the run ends here."""
        if self.violation is None:
            self.violation = error if isinstance(error, Violation) else Violation("exception", repr(error))
            self.violation.__cause__ = None if isinstance(error, Violation) else error
            self.clock.halted = True
            self.trace(f"VIOLATION {self.violation}")

    def committed(self, index: int, data: bytes) -> None:
        """An entry is committed."""
        applied = self.model.apply(index, data)
        self.committed_at.append(self.clock.now)
        self.revision_seen = self.model.revision
        check_alarm(self, applied)
        if self.trace_lines is not None:
            request = str(applied.request).replace("\n", " ")[:150]
            self.trace(f"committed {index}: {applied.kind} {request} -> revision {applied.revision} {applied.error}")

    def expected(self, index: int) -> tuple[int, int, int, int, bool]:
        """(revision, compacted, leases, auth revision, auth enabled) after an entry."""
        if not index:
            return 1, -1, 0, 1, False
        applied = self.model.applied[index - 1]
        rights = applied.rights
        return applied.revision, applied.compacted, applied.leases, rights.revision, rights.enabled

    def answered(self, operation: Operation) -> None:
        """A client has its answer."""
        self.network.note(b"%d %d" % (operation.member, operation.status or 0))
        self.network.situations.answered(operation)
        if self.trace_lines is not None:
            self.trace(str(operation))

    # --- healing ---------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """End all faults, and start whoever can be started."""
        self.healing = True
        self.trace("healing")
        self.nemesis.stop()
        self.network.heal()
        for connection in self.connections:
            connection.go_on()
        for machine in self.machines:
            machine.slowness = 1.0
            machine.disk.fail.clear()
            machine.disk.crash_at = None
            if machine.member is not None:
                machine.member.clock.crash_at = -1
                machine.member.clock.resume()
            elif machine.lives:
                self.clock.call_later(self.random.random(), self.boot, machine)

    def _require_agreement(self) -> None:
        """All members that live come to agree, with a leader, in time."""
        deadline = self.clock.now + HEAL_S
        while not self.agreed():
            if self.clock.now >= deadline:
                raise Violation("liveness", f"no agreement {HEAL_S} s after healing: {self._situation()}")
            if self.clock.now >= deadline - HEAL_S / 2:
                for client in self.clients:  # a learner on a slow link may be left behind by a leader that needs nobody
                    client.stopped = not client.until_checked
            self.pass_time(0.25)

    def agreed(self) -> bool:
        """Whether all members serve, know the same leader and have applied as much."""
        members = self.voting()
        if not members or not all(member.ready or member.server.is_learner for member in members):
            return False
        if any(machine.member is None and self._should_live(machine) for machine in self.machines):
            return False
        leaders = {member.server.leader_id for member in members}
        return len(leaders) == 1 and leaders != {0} and len({member.server.node.applied for member in members}) == 1

    def voting(self) -> list[SimMember]:
        """Living members that the cluster knows, those it has removed left out."""
        members = self.living()
        latest = max(members, key=lambda member: member.state.consistent_index, default=None)
        if latest is None:
            return []
        return [member for member in members if member.server.member_id in latest.state.members.members]

    def _should_live(self, machine: Machine) -> bool:
        return bool(machine.lives) and not machine.removed and not machine.lost

    def _situation(self) -> str:
        parts = []
        for machine in self.machines:
            member = machine.member
            if member is None:
                parts.append(f"m{machine.number}{' lost' * machine.lost}{' removed' * machine.removed} down")
                continue
            raft = member.raft
            voters = [other.number for other in self.machines if other.member_id in raft.config.voters]
            parts.append(
                f"m{machine.number} {raft.role.name} term {raft.term} leader {raft.leader_id:x} applied "
                f"{member.server.node.applied} committed {raft.log.committed} last {raft.log.last_index} ready "
                f"{member.ready} voters {voters}"
            )
        return "; ".join(parts)

    def _require_answers(self) -> None:
        """Every member answers a write and a read."""
        for member in self.voting():
            if member.server.is_learner:
                continue
            probe = Client(self, f"probe{member.machine.number}")
            probe.attach(member)
            done: list[Operation] = []
            for kind, request in self._probes(member):
                deadline = self.clock.now + PROBE_S
                count = len(done)
                probe.ask(kind, request, done.append)
                while len(done) == count and self.clock.now < deadline:
                    self.pass_time(0.05)
                if len(done) == count or not (
                    done[-1].ok or done[-1].error == "etcdserver: mvcc: database space exceeded"
                ):
                    raise Violation("liveness", f"a healthy member does not answer: {done[-1:]} {self._situation()}")
            probe.hang_up()

    def _probes(self, member: SimMember) -> list[tuple[str, Any]]:
        value = b"probe.%d.%d" % (member.machine.number, int(self.clock.now * 1000))
        probes: list[tuple[str, Any]] = [
            ("put", pb.PutRequest(key=b"k0", value=value)),
            ("range", pb.RangeRequest(key=b"k0")),
        ]
        if self.model.rights.enabled:
            root = pb.AuthenticateRequest(name=ROOT, password=self.passwords[ROOT][-1])
            probes.insert(0, ("authenticate", root))
        return probes

    def _await_leases(self) -> None:
        deadline = self.clock.now + LEASE_S
        while self.model.leases and self.clock.now < deadline:
            self.pass_time(0.5)
