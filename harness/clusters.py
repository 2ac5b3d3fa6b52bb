"""Clusters of real processes for tests: who leads, are all equal, members that come and go.

`Cluster(["etcd", "ratifyd", "ratifyd"])` starts its members together; `join` adds one the way an administrator does,
with etcdctl. Waits have deadlines and poll the members themselves; nothing here sleeps blindly.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import grpc

from harness import stubs
from harness.etcdctl import Output, etcdctl
from harness.network import Network
from harness.servers import EtcdCluster, EtcdServer, StartFailed
from ratifyd.proto import rpc_pb2

T = TypeVar("T")
KILLABLE = ("--backend-batch-interval=1h", "--experimental-compaction-batch-limit=1000000")
"""Flags for members of etcd 3.5.1 that are to be killed. Before 3.5.3 it may lose an entry then: it notes the index of
an entry first, and a commit of another thread that comes before the entry's rows stores it without them (issue 13766).
Without timed commits, those between the batches of a compaction, and physical compactions it commits between entries
only, and replays the rest."""
POLL_S = 0.02
CALL_TIMEOUT_S = 5.0


class NotInTime(AssertionError):
    """What a test waited for did not happen."""


def wait_for(what: str, look: Callable[[], T | None], timeout_s: float = 15.0) -> T:
    """Call `look` until it returns something; errors of calls mean not yet."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            found = look()
        except grpc.RpcError as error:
            last = error
            found = None
        if found is not None:
            return found
        time.sleep(POLL_S)
    raise NotInTime(f"{what} did not happen within {timeout_s:g} s; last error: {last!r}")


def call(server: EtcdServer, service: str, method: str, request: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
    """One call over a channel of its own, with the server's metadata."""
    with stubs.Client(server.client_endpoint) as client:
        return getattr(getattr(client, service), method)(request, timeout=timeout_s, metadata=server.metadata)


def status(server: EtcdServer) -> rpc_pb2.StatusResponse:
    """Maintenance.Status of one member."""
    found: rpc_pb2.StatusResponse = call(server, "maintenance", "Status", rpc_pb2.StatusRequest(), 2.0)
    return found


class Cluster(EtcdCluster):
    """A cluster whose members may be etcd or ratifyd, in any mixture.

    `own_flags` are for ratifyd members only, `etcd_flags` for members of etcd 3.5.1.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        flags: Sequence[str] = (),
        *,
        own_flags: Sequence[str] = (),
        etcd_flags: Sequence[str] = (),
        network: Network | None = None,
        start: bool = True,
    ) -> None:
        super().__init__(kinds, flags, network=network, start=False)
        self._kind_flags = {"ratifyd": list(own_flags), "etcd": list(etcd_flags)}
        self._started = len(self.members)
        for member in self.members:
            member.flags += self._flags_of(member.kind)
        if start:
            self.start()

    def start(self) -> None:
        """Start every member, then wait for all of them; on other ports if somebody else has taken one meanwhile."""
        for attempt in range(3):
            try:
                super().start()
                return
            except StartFailed as failed:
                if "address already in use" not in str(failed) or attempt == 2:
                    raise
                self._change_ports()

    def _change_ports(self) -> None:
        for member in self.members:
            if member.running:
                member.kill()
            member.change_ports()
        initial_cluster = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        for member in self.members:
            member.initial_cluster = initial_cluster

    def _flags_of(self, kind: str) -> list[str]:
        return self._kind_flags.get(kind, [])

    def __enter__(self) -> Self:
        return self

    @property
    def running(self) -> list[EtcdServer]:
        """The members whose processes run."""
        return [member for member in self.members if member.running]

    # --- who leads -------------------------------------------------------------------------------------------------

    def leader(self, timeout_s: float = 15.0) -> EtcdServer:
        """The member all running ones agree to be led by; waits for there to be one."""

        def look() -> EtcdServer | None:
            found = {server: status(server) for server in self.running}
            ids = {reply.leader for reply in found.values()}
            terms = {reply.raftTerm for reply in found.values()}
            if len(ids) != 1 or len(terms) != 1:
                return None
            return next((server for server, reply in found.items() if reply.header.member_id in ids), None)

        return wait_for("a leader", look, timeout_s)

    def followers(self) -> list[EtcdServer]:
        """The running members that do not lead."""
        leader = self.leader()
        return [server for server in self.running if server is not leader]

    def move_leader(self, target: EtcdServer) -> Output:
        """etcdctl move-leader."""
        leader = self.leader()
        return etcdctl(leader.client_endpoint, "move-leader", f"{self.id_of(target):x}")

    def lead(self, kind: str) -> EtcdServer:
        """Have a member of this kind lead."""
        leader = self.leader()
        if leader.kind == kind:
            return leader
        target = next(server for server in self.running if server.kind == kind)

        def look() -> EtcdServer | None:
            self.move_leader(target)
            return target if self.leader() is target else None

        return wait_for(f"{kind} leading", look)

    def id_of(self, server: EtcdServer) -> int:
        """Member id."""
        return status(server).header.member_id

    # --- are they equal --------------------------------------------------------------------------------------------

    def wait_equal(self, timeout_s: float = 20.0) -> tuple[int, int]:
        """Wait until all running members have applied the same, then compare; revision and HashKV at it.

        Call when nobody writes. Raises NotInTime, which tells the hashes.
        """

        def look() -> int | None:
            revisions = {status(server).header.revision for server in self.running}
            return revisions.pop() if len(revisions) == 1 else None

        revision = wait_for("equal revisions", look, timeout_s)
        hashes = {server.name: self.hash_kv(server, revision) for server in self.running}
        if len({(reply.hash, reply.compact_revision) for reply in hashes.values()}) != 1:
            raise NotInTime(f"HashKV at {revision} differs: {hashes}")
        return revision, next(iter(hashes.values())).hash

    def hash_kv(self, server: EtcdServer, revision: int = 0) -> rpc_pb2.HashKVResponse:
        """HashKV of one member."""
        request = rpc_pb2.HashKVRequest(revision=revision)
        found: rpc_pb2.HashKVResponse = call(server, "maintenance", "HashKV", request, 20.0)
        return found

    # --- who belongs to it -----------------------------------------------------------------------------------------

    def ctl(self, *args: str, at: EtcdServer | None = None) -> Output:
        """etcdctl against a running member."""
        server = at or self.running[0]
        return etcdctl(server.client_endpoint, *args)

    def listed(self, at: EtcdServer | None = None) -> list[dict[str, Any]]:
        """`etcdctl member list`, as its JSON has it."""
        output = self.ctl("member", "list", "-w", "json", at=at)
        assert not output.status, output.raw_stderr
        found: list[dict[str, Any]] = json.loads(output.stdout)["members"]
        return found

    def join(self, kind: str, *, learner: bool = False, flags: Sequence[str] = (), start: bool = True) -> EtcdServer:
        """Add a member with etcdctl and start it; removed ones are left out of its --initial-cluster."""
        self.members = self.running
        names = {member.name for member in self.members}
        name = next(f"m{number}" for number in range(1, 100) if f"m{number}" not in names and number > self._started)
        self._started = int(name[1:])
        flags = [*self._flags, *self._flags_of(kind), *flags, "--initial-cluster-state=existing"]
        taken = {each.host for each in self.members}
        host = next(each for each in self.network.hosts if each not in taken) if self.network else None
        member = EtcdServer(kind, flags, name=name, host=host, start=False)
        urls = [f"--peer-urls={member.peer_url}", *(["--learner"] if learner else [])]

        def add() -> Output | None:
            output = self.ctl("member", "add", name, *urls)
            return None if "unhealthy cluster" in output.raw_stderr else output

        output = wait_for("member add", add, 20.0)
        assert not output.status, output.raw_stderr
        self.members.append(member)
        member.initial_cluster = ",".join(f"{each.name}={each.peer_url}" for each in self.members)
        if start:
            member.start()
        return member

    def promote(self, member: EtcdServer, timeout_s: float = 15.0) -> None:
        """etcdctl member promote, until the learner is in sync."""
        member_id = self.id_of(member)

        def look() -> bool | None:
            output = self.ctl("member", "promote", f"{member_id:x}")
            return True if not output.status else None

        wait_for("promotion", look, timeout_s)

    def leave(self, member: EtcdServer) -> None:
        """etcdctl member remove through another member; the process is stopped and dropped."""
        member_id = self.id_of(member)
        other = next(server for server in self.running if server is not member)

        def look() -> Output | None:
            output = self.ctl("member", "remove", f"{member_id:x}", at=other)
            return None if "unhealthy cluster" in output.raw_stderr else output

        output = wait_for("member remove", look, 20.0)
        assert not output.status, output.raw_stderr
        self.members.remove(member)
        member.stop()

    @contextmanager
    def without(self, member: EtcdServer) -> Iterator[None]:
        """Kill a member for the time of the block."""
        member.kill()
        yield
        member.restart()
