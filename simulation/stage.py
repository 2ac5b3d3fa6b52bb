"""A cluster for scripted scenarios: nothing happens but what the script does, and every checker looks on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ratifyd.proto import rpc_pb2 as pb
from simulation.calls import CLUSTER, KV, MAINTENANCE
from simulation.checkers import Violation
from simulation.clients import Watcher
from simulation.history import Operation, WatchRecord
from simulation.knobs import turned
from simulation.machine import Machine, SimMember
from simulation.options import Options
from simulation.world import World

WAIT_S = 20.0
_COMMANDS = {
    "defragment": (MAINTENANCE + "Defragment", pb.DefragmentRequest, pb.DefragmentResponse),
    "compact": (KV + "Compact", pb.CompactionRequest, pb.CompactionResponse),
    "move_leader": (MAINTENANCE + "MoveLeader", pb.MoveLeaderRequest, pb.MoveLeaderResponse),
    "member_add": (CLUSTER + "MemberAdd", pb.MemberAddRequest, pb.MemberAddResponse),
    "member_remove": (CLUSTER + "MemberRemove", pb.MemberRemoveRequest, pb.MemberRemoveResponse),
}


class Scripted(Watcher):
    """A client that does what it is told, on one member."""

    def start(self) -> None:
        """Nothing happens by itself."""


class Stage(World):
    """A world for a script. Use `turned(stage.options)` around it, or `play`."""

    def __init__(self, members: int = 1, **options: Any) -> None:
        plain: dict[str, Any] = {"clients": 0, "watchers": 0, "keepers": 0, "faults": (), "members": members}
        super().__init__(Options(**{**plain, **options}), trace=True)
        self._clients = 0

    def up(self) -> None:
        """Start everything and wait until it serves."""
        self.begin()
        self.until(lambda: self.agreed())

    def member(self, number: int) -> SimMember:
        """The member that runs on a machine."""
        member = self.machines[number].member
        assert member is not None, f"m{number} is down"
        return member

    def leader(self) -> SimMember:
        """The leader, of the highest term if several believe to lead."""
        leaders = [member for member in self.living() if member.server.is_leader]
        return max(leaders, key=lambda member: member.raft.term)

    def follower(self) -> SimMember:
        """Some other member."""
        leader = self.leader()
        return next(member for member in self.living() if member is not leader)

    def until(self, condition: Callable[[], bool], seconds: float = WAIT_S) -> None:
        """Let time pass until something is so."""
        deadline = self.clock.now + seconds
        while not condition():
            if self.clock.now >= deadline:
                raise Violation("scenario", f"it never came to that: {self._situation()}")
            self.pass_time(0.005)

    # --- clients ---------------------------------------------------------------------------------------------------

    def client(self, member: SimMember) -> Scripted:
        """A client connected to a member."""
        self._clients += 1
        client = Scripted(self, f"c{self._clients}")
        client.attach(member)
        return client

    def send(self, member: SimMember, kind: str, request: Any, answered: Callable[[Operation], None]) -> Operation:
        """Send a request and go on."""
        self.client(member).ask(kind, request, answered)
        return self.history.operations[-1]

    def ask(self, member: SimMember, kind: str, request: Any) -> Operation:
        """Send a request and wait for its answer."""
        done: list[Operation] = []
        operation = self.send(member, kind, request, done.append)
        self.until(lambda: bool(done))
        return operation

    def put(self, member: SimMember, key: bytes, value: bytes = b"") -> int:
        """Write a key; the revision."""
        value += b".%d" % self._clients  # every value is written once
        operation = self.ask(member, "put", pb.PutRequest(key=key, value=value))
        assert operation.ok, str(operation)
        return int(operation.response.header.revision)

    def delete(self, member: SimMember, key: bytes) -> int:
        """Delete a key; the revision."""
        operation = self.ask(member, "delete_range", pb.DeleteRangeRequest(key=key))
        assert operation.ok, str(operation)
        return int(operation.response.header.revision)

    def get(self, member: SimMember, key: bytes) -> Operation:
        """Read a key."""
        return self.ask(member, "range", pb.RangeRequest(key=key))

    def command(self, member: SimMember, name: str, *, wait: bool = True, **fields: Any) -> None:
        """Give an administrator's command."""
        path, request, _ = _COMMANDS[name]
        done: list[tuple[int, str]] = []
        connection = self.client(member).connection
        assert connection is not None
        if name == "compact":
            self.history.compactions.add(fields["revision"])
        message = request(**fields).SerializeToString()
        connection.call(path, message, lambda status, text, body: done.append((status, text)))
        if wait:
            self.until(lambda: bool(done))
            assert done[0][0] == 0, done

    def watch(self, member: SimMember, **fields: Any) -> tuple[Scripted, WatchRecord]:
        """Create a watcher; it goes on when the member has confirmed it."""
        client = self.client(member)
        client.wanted = [pb.WatchCreateRequest(**fields)]
        client.open()
        record = client.records[1]
        self.until(lambda: record.created >= 0)
        return client, record

    def told(self, record: WatchRecord) -> int:
        """How many events a watcher has seen."""
        return sum(len(events) for kind, _, events in record.items if kind == "events")

    # --- machines --------------------------------------------------------------------------------------------------

    def isolate(self, member: SimMember) -> Callable[[], None]:
        """Cut a member off; call what is returned to connect it again."""
        return self.split([member.machine])

    def split(self, side: list[Machine]) -> Callable[[], None]:
        """Keep some machines and the others from hearing each other; call what is returned to connect them again."""
        pairs = [(one.number, other.number) for one in side for other in self.machines if other not in side]
        links = pairs + [(b, a) for a, b in pairs]
        for link in links:
            self.network.block(*link)

        def connect() -> None:
            for link in links:
                self.network.unblock(*link)

        return connect

    def elect(self, member: SimMember) -> None:
        """Have a member elected at once by those that it reaches, as if they had waited long enough for the leader."""
        for other in self.living():
            raft = other.raft
            if not other.server.is_leader:
                raft.randomized_timeout = 2 * raft.election_ticks - 1
                raft.election_elapsed = raft.randomized_timeout if other is member else raft.election_ticks
        self.until(lambda: member.server.is_leader)

    def add_learner(self) -> SimMember:
        """Add a learner on a new machine, and wait until it has caught up."""
        machine = Machine(len(self.machines), self.network)
        machine.founders = f"{machine.name}={machine.url}"
        self.draw_clock(machine)
        self.command(self.leader(), "member_add", peerURLs=[machine.url], isLearner=True)
        self.until(lambda: machine.member is not None and machine.member.server.is_learner and self.agreed())
        return self.member(machine.number)

    def restarted(self, number: int) -> SimMember:
        """Wait until a machine's member runs and serves."""
        self.until(lambda: self.machines[number].member is not None and self.member(number).ready)
        return self.member(number)


def play(script: Callable[[Stage], None], members: int = 1, **options: Any) -> Stage:
    """Run a script on a cluster of its own, then heal it and check everything; raises what is wrong."""
    stage = Stage(members, **options)
    with turned(stage.options):
        stage.up()
        script(stage)
        stage.finish()
    return stage
