"""What is left of a lease after its leader: all of it again, unless checkpoints are switched on. Five minutes long.

The first checkpoint comes after 300 seconds, so all clusters wait for it together.
"""

from contextlib import ExitStack

import pytest

from harness.clusters import Cluster, call, wait_for
from harness.servers import EtcdServer
from ratifyd.proto import rpc_pb2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TTL_S = 1000
FIRST_CHECKPOINT_S = 300
ELECTION_S = 1
ON = ("--experimental-enable-lease-checkpoint=true",)
LEASE = 77
CASES = [
    # kinds, who leads first, who leads then, flags
    (("ratifyd", "ratifyd", "ratifyd"), "ratifyd", "ratifyd", ()),
    (("ratifyd", "ratifyd", "ratifyd"), "ratifyd", "ratifyd", ON),
    (("etcd", "ratifyd", "ratifyd"), "etcd", "ratifyd", ON),
    (("etcd", "ratifyd", "ratifyd"), "ratifyd", "etcd", ON),
    (("etcd", "etcd", "etcd"), "etcd", "etcd", ()),
    (("etcd", "etcd", "etcd"), "etcd", "etcd", ON),
]


def left(server: EtcdServer) -> int:
    """Seconds the lease has left, as this member answers."""
    return int(call(server, "lease", "LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest(ID=LEASE), 8.0).TTL)


def move(cluster: Cluster, kind: str) -> None:
    """Another member of this kind leads."""
    old = cluster.leader()
    target = next(member for member in cluster.members if member is not old and member.kind == kind)

    def look() -> bool | None:
        cluster.move_leader(target)
        return True if cluster.leader() is target else None

    wait_for("another leader", look, 30.0)


def await_checkpoint(leader: EtcdServer) -> None:
    """Until the lease is old enough to have one."""
    wait_for("a checkpoint", lambda: True if left(leader) <= TTL_S - FIRST_CHECKPOINT_S - 3 else None, 330.0)


def test_the_rest_of_a_lease_after_its_leader() -> None:
    with ExitStack() as stack:
        clusters = [stack.enter_context(Cluster(kinds, flags)) for kinds, _, _, flags in CASES]
        for cluster, (_, first, _, _) in zip(clusters, CASES, strict=True):
            leader = cluster.lead(first)
            call(leader, "lease", "LeaseGrant", rpc_pb2.LeaseGrantRequest(ID=LEASE, TTL=TTL_S))
        for cluster in clusters:
            await_checkpoint(cluster.leader())
        for cluster, (_, _, then, flags) in zip(clusters, CASES, strict=True):
            rest = TTL_S - FIRST_CHECKPOINT_S if flags else TTL_S
            move(cluster, then)
            for member in cluster.members:
                assert rest - 20 <= left(member) <= rest + ELECTION_S, (cluster.leader().kind, flags)
            renewed = cluster.ctl("lease", "keep-alive", "--once", f"{LEASE:x}")
            assert f"keepalived with TTL({TTL_S})" in renewed.stdout
            move(cluster, then if len({member.kind for member in cluster.members}) == 1 else cluster.members[1].kind)
            for member in cluster.members:
                assert TTL_S - 20 <= left(member) <= TTL_S + ELECTION_S
