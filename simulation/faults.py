"""Bad luck: what can happen to machines, disks, links, clocks and clients, one kind of fault a method.

Damage that nothing could survive is kept away: at most a minority of the disks is ever corrupted.
"""

from __future__ import annotations

import errno
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

from ratifyd.proto import rpc_pb2 as pb
from ratifyd.storage.walread import segment_names
from simulation.calls import CLUSTER, KV, MAINTENANCE
from simulation.clients import Client
from simulation.clock import MemberClock
from simulation.machine import DIR, Machine, SimMember

if TYPE_CHECKING:
    from simulation.world import World

MAX_MACHINES = 9


class Nemesis:
    """Draws faults, carries them out and ends them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = Random(f"nemesis {world.options.seed}")
        self.counts: Counter[str] = Counter()
        self.stopped = False
        self._starts = Random(f"starts {world.options.seed}")
        self._faulted: set[int] = set()
        self._flipped: set[int] = set()
        self._admin = Client(world, "admin")

    def start(self) -> None:
        """Begin once the cluster had a chance to come up."""
        if self.world.options.faults:
            self.world.clock.call_later(self.random.uniform(0, 3), self._strike)

    def stop(self) -> None:
        """No more of it."""
        self.stopped = True
        self._admin.hang_up()

    def disk_faulted(self, machine: Machine) -> bool:
        """Whether this machine's disk has been made to fail, so that its member may give up."""
        return machine.number in self._faulted

    def flipped(self, machine: Machine) -> bool:
        """Whether a bit of this machine's log was flipped."""
        return machine.number in self._flipped

    def _strike(self) -> None:
        if self.stopped:
            return
        options = self.world.options
        kind = self.random.choice(options.faults)
        if getattr(self, kind)() is not False:
            self.counts[kind] += 1
        self.world.clock.call_later(self.random.expovariate(1 / options.fault_interval_s), self._strike)

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _member(self) -> SimMember | None:
        members = self.world.living()
        return self.random.choice(members) if members else None

    def _duration(self) -> float:
        return self.random.choice((0.1, 0.5, 2.0, 4.0)) * self.random.uniform(0.5, 1.5)

    def _later(self, callback: Any, *args: Any) -> None:
        self.world.clock.call_later(self._duration(), self._unless_stopped, callback, *args)

    def _unless_stopped(self, callback: Any, *args: Any) -> None:
        if not self.stopped:
            callback(*args)

    def _leader(self) -> SimMember | None:
        return next((member for member in self.world.living() if member.server.is_leader), None)

    # --- processes -------------------------------------------------------------------------------------------------

    def kill(self) -> bool:
        member = self._member()
        if member is not None:
            self.world.crash(member.machine, power=False)
        return member is not None

    def power_loss(self) -> bool:
        member = self._member()
        if member is not None:
            self._unplug(member)
        return member is not None

    def blackout(self) -> None:
        """All machines lose power at once, or nearly so."""
        for member in self.world.living():
            self._unplug(member)

    def _unplug(self, member: SimMember) -> None:
        """Now, or in the middle of what the disk does next."""
        if self.random.random() < 0.5:
            self.world.crash(member.machine, power=True)
        else:
            disk = member.machine.disk
            disk.crash_at = disk.steps + self.random.randint(1, 4)

    def rolling_restart(self) -> None:
        for number, machine in enumerate(self.world.machines):
            self.world.clock.call_later(number * 1.5, self._unless_stopped, self._kill_machine, machine)

    def _kill_machine(self, machine: Machine) -> None:
        self.world.crash(machine, power=False)

    def shut_down(self) -> bool:
        """Stop a member in an orderly way; it is back soon."""
        member = self._member()
        if member is not None:
            self.world.shut_down(member.machine)
        return member is not None

    def crash_in_callback(self) -> bool:
        member = self._member()
        if member is not None:
            member.clock.crash_at = member.clock.callbacks + self.random.randint(1, 200)
        return member is not None

    def begin_start(self, machine: Machine, clock: MemberClock) -> None:
        """Perhaps have a start end between two steps of the disk, or what has started in one of its first callbacks."""
        share, random = self.world.options.start_crashes, self._starts
        if not share or self.stopped or random.random() >= share:
            return
        self.counts["crash_in_start"] += 1
        if random.random() < 0.7:
            machine.disk.crash_at = machine.disk.steps + random.randint(0, 12)
        else:
            clock.crash_at = random.randint(1, 30)

    def crash_in_disk_job(self) -> bool:
        member = self._member()
        if member is not None:
            disk = member.machine.disk
            disk.crash_at = disk.steps + self.random.randint(1, 80)
        return member is not None

    def crash_in_election(self) -> bool:
        """Take the leader away, and strike voters while a new one is being elected; all are back at once."""
        leader = self._leader()
        if leader is None:
            return False
        if self.random.random() < 0.3:
            self.isolate_leader()
        else:
            self.world.crash(leader.machine, power=True, down_s=0.01)
        self._stalk(self.world.clock.now + 4 * self.world.options.election_s)
        return True

    def _stalk(self, until: float) -> None:
        """Strike those that have just voted and do not know yet for whom it was good."""
        for member in self.world.living():
            raft = member.raft
            if raft.vote not in (0, raft.id) and not raft.leader_id and self.random.random() < 0.3:
                self.world.crash(member.machine, power=True, down_s=self.random.uniform(0.001, 0.02))
        if self.world.clock.now < until:
            self.world.clock.call_later(0.005, self._unless_stopped, self._stalk, until)

    def crash_in_install(self) -> bool:
        """Leave a follower behind until the log has gone on without it; strike it, or its leader, on its way back."""
        leader = self._leader()
        followers = [member for member in self.world.living() if member is not leader]
        if leader is None or not followers:
            return False
        member = self.random.choice(followers)
        self._isolate(member)
        chances = self.random.choice(((0.05, 0.0), (0.02, 0.5), (0.0, 0.5)))
        self._stalk_images(*chances, self.world.clock.now + 10.0)
        return True

    def _stalk_images(self, receiving: float, installing: float, until: float) -> None:
        """Strike those to whom an image is on its way, or who put one in the place of their state; or who send it."""
        random = self.random
        for member in self.world.living():
            chance = installing if member.server.node.installing else receiving if member.loop.busy else 0.0
            if random.random() < chance:
                leader = self._leader()
                struck = leader if leader is not None and random.random() < 0.2 else member
                self.world.trace(f"m{struck.machine.number} is struck while an image is on its way")
                if random.random() < 0.5:
                    self.world.crash(struck.machine, power=random.random() < 0.7)
                else:
                    disk = struck.machine.disk
                    disk.crash_at = disk.steps + random.randint(0, 6)
        if self.world.clock.now < until:
            later = random.uniform(0.002, 0.03)
            self.world.clock.call_later(later, self._unless_stopped, self._stalk_images, receiving, installing, until)

    def contend(self) -> None:
        """All election timers are about to run out, and two or more do at once, as if everybody had stood still."""
        members = self.world.living()
        candidates = self.random.sample(members, min(len(members), self.random.randint(2, 3)))
        for member in members:
            raft = member.raft
            if not member.server.is_leader:
                late = raft.randomized_timeout if member in candidates else raft.election_ticks
                raft.election_elapsed = max(raft.election_elapsed, late)

    def depose(self) -> bool:
        """Cut the leader off and have another one elected before it can notice; its clients stay with it."""
        leader = self._leader()
        if leader is None:
            return False
        self._isolate(leader)
        self.contend()
        return True

    def pause(self) -> bool:
        """Stop a process for a while, the leader more often than not."""
        member = self._leader() if self.random.random() < 0.5 else self._member()
        if member is None or member.clock.paused:
            return False
        self.world.trace(f"m{member.machine.number} is paused")
        member.clock.paused = True
        if self.random.random() < 0.4:
            self._isolate(member)
        self._later(self._resume, member)
        return True

    def _resume(self, member: SimMember) -> None:
        self.world.trace(f"m{member.machine.number} goes on")
        member.clock.resume()

    def clock_jump(self) -> bool:
        """The date changes, by hours or a little."""
        member = self._member()
        if member is None:
            return False
        jump = self.random.choice((-3600.0, -5.0, -0.01, 0.01, 5.0, 3600.0))
        member.clock.wall_offset += jump
        member.machine.wall_offset += jump
        return True

    # --- links -----------------------------------------------------------------------------------------------------

    def _block(self, links: list[tuple[int, int]]) -> None:
        for link in links:
            self.world.network.block(*link)
        self.world.trace(f"blocked {links}")
        self._later(self._unblock, links)

    def _unblock(self, links: list[tuple[int, int]]) -> None:
        self.world.trace(f"unblocked {links}")
        for link in links:
            self.world.network.unblock(*link)

    def _split(self) -> tuple[list[int], list[int]]:
        numbers = [machine.number for machine in self.world.machines]
        self.random.shuffle(numbers)
        cut = self.random.randint(0, len(numbers))
        return numbers[:cut], numbers[cut:]

    def partition(self) -> None:
        """Two sides that do not hear each other."""
        one, other = self._split()
        self._block([link for a in one for b in other for link in ((a, b), (b, a))])

    def one_way(self) -> None:
        """One side is not heard by the other, but hears it."""
        one, other = self._split()
        self._block([(a, b) for a in one for b in other])

    def isolate_leader(self) -> bool:
        leader = self._leader()
        if leader is None:
            return False
        self._isolate(leader)
        return True

    def _isolate(self, member: SimMember) -> None:
        """Keep others from hearing a member, and mostly it from hearing them."""
        number = member.machine.number
        others = [machine.number for machine in self.world.machines if machine.number != number]
        links = [(number, other) for other in others]
        if self.random.random() < 0.7:
            links += [(other, number) for other in others]
        self._block(links)

    def swizzle(self) -> None:
        """Cut a random set of machines off one by one, and connect them again in another order."""
        numbers = [machine.number for machine in self.world.machines]
        chosen = self.random.sample(numbers, self.random.randint(1, len(numbers)))
        back = self.random.sample(chosen, len(chosen))
        step = self.random.uniform(0.05, 0.5)
        clock = self.world.clock
        for at, number in enumerate(chosen):
            clock.call_later(at * step, self._unless_stopped, self._cut, number, True)
        for at, number in enumerate(back, len(chosen)):
            clock.call_later(at * step, self._unless_stopped, self._cut, number, False)

    def _cut(self, number: int, off: bool) -> None:
        for machine in self.world.machines:
            if machine.number != number:
                for link in ((number, machine.number), (machine.number, number)):
                    (self.world.network.block if off else self.world.network.unblock)(*link)

    def slow_link(self) -> None:
        numbers = [machine.number for machine in self.world.machines]
        link = (self.random.choice(numbers), self.random.choice(numbers))
        self.world.network.slow(*link, self.random.uniform(0.01, 1.0))
        self._later(self.world.network.slow, *link, 0.0)

    # --- disks -----------------------------------------------------------------------------------------------------

    def slow_disk(self) -> None:
        machine = self.random.choice(self.world.machines)
        machine.slowness = self.random.choice((5.0, 30.0, 200.0))
        self._later(setattr, machine, "slowness", 1.0)

    def full_disk(self) -> None:
        """Nothing can be allocated or made for a while."""
        machine = self.random.choice(self.world.machines)
        self._faulted.add(machine.number)
        error = OSError(errno.ENOSPC, "No space left on device")
        for operation in self.random.sample(("allocate", "pwrite", "create", "commit"), 2):
            machine.disk.fail[operation] = error
        self._later(machine.disk.fail.clear)

    def failing_sync(self) -> None:
        machine = self.random.choice(self.world.machines)
        self._faulted.add(machine.number)
        machine.disk.fail["datasync"] = OSError(errno.EIO, "Input/output error")
        self._later(machine.disk.fail.clear)

    def bit_flip(self) -> bool:
        """Damage a closed segment of a log, of one member at most, and where the others can do without it."""
        machine = self.random.choice(self.world.machines)
        damaged = {other.number for other in self.world.machines if other.lost or other.removed} | self._flipped
        names = segment_names(machine.disk, DIR.wal)[:-1]
        if damaged or len(self._living_voters()) < 3 or not names:
            return False
        path = f"{DIR.wal}/{self.random.choice(names)}"
        self._flipped.add(machine.number)
        self.world.trace(f"a bit of {path} of m{machine.number} flips")
        machine.disk.flip(path, self.random.randrange(machine.disk.size_of(path)), self.random.randrange(8))
        if self.random.random() < 0.7:
            self.world.crash(machine, power=False)  # so that it is read before it is purged
        return True

    def _living_voters(self) -> list[SimMember]:
        """Members that run and that elections count on, as the most advanced of them has it."""
        members = self.world.living()
        latest = max(members, key=lambda member: member.state.consistent_index, default=None)
        return [] if latest is None else [each for each in members if each.raft.id in latest.raft.config.voters]

    # --- clients ---------------------------------------------------------------------------------------------------

    def reset_clients(self) -> None:
        for connection in self.world.connections:
            if self.random.random() < 0.5:
                connection.hang_up()

    def stall_clients(self) -> None:
        """Some clients stop reading for a while."""
        chosen = [connection for connection in self.world.connections if self.random.random() < 0.5]
        for connection in chosen:
            connection.stall()
            self._later(connection.go_on)

    # --- administrators --------------------------------------------------------------------------------------------

    def _command(self, path: str, request: Any, member: SimMember | None = None) -> bool:
        """Send a command to a member; what it answers does not matter here."""
        self._admin.hang_up()
        member = member or self._member()
        if member is None or not member.ready:
            return False
        connection = self._admin.attach(member)
        connection.call(path, request.SerializeToString(), self._answered, self.world.governor.metadata)
        return True

    def _answered(self, status: int, text: str, body: bytes) -> None:
        self.world.trace(f"admin: {status} {text}")

    def move_leader(self) -> bool:
        leader, target = self._leader(), self._member()
        if leader is None or target is None:
            return False
        request = pb.MoveLeaderRequest(targetID=target.server.member_id)
        return self._command(MAINTENANCE + "MoveLeader", request, leader)

    def compact(self) -> bool:
        revision = self.world.revision_seen - self.random.choice((0, 0, 1, 3, 10))
        if revision < 1:
            return False
        self.world.history.compactions.add(revision)
        return self._command(
            KV + "Compact", pb.CompactionRequest(revision=revision, physical=self.random.random() < 0.3)
        )

    def defragment(self) -> bool:
        return self._command(MAINTENANCE + "Defragment", pb.DefragmentRequest())

    def add_member(self) -> bool:
        """Add a member on a new machine, or make a voter of a learner."""
        members = self.world.living()
        learners = [machine.member_id for machine in self.world.machines if machine.lives and self._is_learner(machine)]
        if learners:
            return self._command(CLUSTER + "MemberPromote", pb.MemberPromoteRequest(ID=self.random.choice(learners)))
        if len(self.world.machines) >= MAX_MACHINES or not members:
            return False
        machine = Machine(len(self.world.machines), self.world.network)
        machine.founders = f"{machine.name}={machine.url}"
        self.world.draw_clock(machine)
        request = pb.MemberAddRequest(peerURLs=[machine.url], isLearner=self.random.random() < 0.5)
        return self._command(CLUSTER + "MemberAdd", request)

    def _is_learner(self, machine: Machine) -> bool:
        return machine.member is not None and machine.member.server.is_learner

    def remove_member(self) -> bool:
        chosen = [machine.member_id for machine in self.world.machines if machine.lives and not machine.removed]
        lost = [machine.member_id for machine in self.world.machines if machine.lost or machine.number in self._flipped]
        if len(chosen) < 2:
            return False
        return self._command(CLUSTER + "MemberRemove", pb.MemberRemoveRequest(ID=self.random.choice(lost or chosen)))

    def update_member(self) -> bool:
        """A member announces another port."""
        machines = [machine for machine in self.world.machines if machine.lives and not machine.removed]
        if not machines:
            return False
        machine = self.random.choice(machines)
        urls = [f"http://{machine.name}:{self.random.randint(2380, 2389)}"]
        return self._command(CLUSTER + "MemberUpdate", pb.MemberUpdateRequest(ID=machine.member_id, peerURLs=urls))

    def downgrade(self) -> bool:
        """Look whether a downgrade is possible, begin one, or call it off."""
        actions = (pb.DowngradeRequest.VALIDATE, pb.DowngradeRequest.ENABLE, pb.DowngradeRequest.CANCEL)
        request = pb.DowngradeRequest(action=self.random.choice(actions), version="3.5")
        return self._command(MAINTENANCE + "Downgrade", request)
