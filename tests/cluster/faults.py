"""What goes wrong in a cluster, as functions: each does its damage under load, waits for what must follow, and repairs.

A fault leaves all members running and the network whole. It waits for events (another leader, acknowledged writes),
never for time. Those in NETWORK need a cluster on a test network (harness.network).
"""

import random
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from harness.clusters import Cluster, status, wait_for
from harness.etcdctl import Output
from harness.network import Host
from harness.servers import EtcdServer
from tests.cluster.load import Load

Fault = Callable[[Cluster, Load], None]
RECOVERY_S = 60.0
"""How long a cluster may take until it serves again; far more than an election, for slow and busy machines."""
FEW = 40
"""Acknowledged writes that show that the cluster serves."""
MANY = 250
"""Acknowledged writes that take longer than an election, and more than followers are kept entries for."""


def wait_for_another_leader(cluster: Cluster, old: EtcdServer) -> EtcdServer:
    """Until a majority of the other members is led by one of them."""
    others = [member for member in cluster.running if member is not old]

    def look() -> EtcdServer | None:
        found = {member: status(member) for member in others}
        for member, reply in found.items():
            followers = [other for other in found.values() if other.leader == reply.header.member_id]
            if len(followers) > len(cluster.members) // 2:
                return member
        return None

    return wait_for("another leader", look, RECOVERY_S)


# --- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def stopped(*members: EtcdServer) -> Iterator[None]:
    """SIGSTOP and, whatever happens, SIGCONT."""
    for member in members:
        member.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for member in members:
            member.signal(signal.SIGCONT)


def restart_all(members: Sequence[EtcdServer]) -> None:
    """Start members that need each other to become ready."""
    for member in members:
        member.start(wait=False)
    for member in members:
        member.wait_ready(RECOVERY_S)


def kill_leader(cluster: Cluster, load: Load) -> None:
    """kill -9, twice."""
    for _ in range(2):
        leader = cluster.leader(RECOVERY_S)
        leader.kill()
        load.progress(FEW)
        leader.restart()


def kill_follower(cluster: Cluster, load: Load) -> None:
    """kill -9."""
    follower = cluster.followers()[0]
    follower.kill()
    load.progress(FEW)
    follower.restart()


def kill_majority(cluster: Cluster, load: Load) -> None:
    """kill -9 of the leader and enough followers that nothing is acknowledged until they are back."""
    victims = [cluster.leader(RECOVERY_S), *cluster.followers()][: len(cluster.members) // 2 + 1]
    for victim in victims:
        victim.kill()
    restart_all(victims)
    load.progress(FEW)


def kill_all(cluster: Cluster, load: Load) -> None:
    """kill -9 of everybody at once."""
    for member in cluster.members:
        member.kill()
    restart_all(cluster.members)
    load.progress(FEW)


def kill_in_turn(cluster: Cluster, load: Load) -> None:
    """kill -9 one after the other, each as soon as the one before serves again."""
    for member in list(cluster.members):
        member.restart(hard=True)
        load.progress(5)


def stop_leader(cluster: Cluster, load: Load) -> None:
    """SIGSTOP until another leads and serves; the old leader wakes up with calls it believes it can answer."""
    leader = cluster.leader(RECOVERY_S)
    with stopped(leader):
        wait_for_another_leader(cluster, leader)
        load.progress(FEW)
    load.progress(FEW)


def stop_follower(cluster: Cluster, load: Load) -> None:
    """SIGSTOP longer than an election."""
    with stopped(cluster.followers()[0]):
        load.progress(MANY)
    load.progress(FEW)


def stop_majority(cluster: Cluster, load: Load) -> None:
    """SIGSTOP of all followers until the leader has given up."""
    leader = cluster.leader(RECOVERY_S)
    with stopped(*cluster.followers()):
        wait_for("the leader to step down", lambda: True if not status(leader).leader else None, RECOVERY_S)
    load.progress(FEW)


def rolling_restart(cluster: Cluster, load: Load) -> None:
    """SIGTERM one after the other, as an upgrade does."""
    for member in list(cluster.members):
        member.terminate()
        load.progress(FEW)
        member.restart()
        cluster.leader(RECOVERY_S)


def rejoin(cluster: Cluster, removed: EtcdServer) -> None:
    """A new member for one that was removed; of its kind, unless the cluster's version rises when the last one goes."""
    kinds = {member.kind for member in cluster.running}
    cluster.join(removed.kind if removed.kind in kinds else "ratifyd")
    removed.stop()


def wipe_and_rejoin(cluster: Cluster, load: Load) -> None:
    """A follower loses its disk, is removed, and comes back as a new member."""
    victim = cluster.followers()[0]
    victim_id = cluster.id_of(victim)
    victim.kill()
    shutil.rmtree(victim.data_dir)
    load.progress(FEW)
    removed = cluster.ctl("member", "remove", f"{victim_id:x}", at=cluster.running[0])
    assert not removed.status, removed.raw_stderr
    rejoin(cluster, victim)
    load.progress(FEW)


def fall_behind_the_log(cluster: Cluster, load: Load) -> None:
    """A follower is away until the log does not reach back to it; it comes back by a snapshot from a ratifyd leader."""
    follower = cluster.followers()[0]
    follower.kill()
    load.progress(MANY)
    follower.restart()
    load.progress(FEW)


def compact_and_kill(cluster: Cluster, load: Load) -> None:
    """Compactions all the time, with crashes in the middle of them: what is left must still be equal everywhere."""
    with load.compacting():
        for member in list(cluster.members):
            load.progress(FEW)
            member.kill()
            load.progress(FEW)
            member.restart()


def move_leader(cluster: Cluster, load: Load) -> None:
    """etcdctl move-leader to every member."""
    for target in list(cluster.members):
        wait_for(f"{target.name} leading", lambda target=target: _lead(cluster, target), RECOVERY_S)  # type: ignore[misc]
        load.progress(FEW)


def _lead(cluster: Cluster, target: EtcdServer) -> bool | None:
    if cluster.leader(RECOVERY_S) is not target:
        cluster.move_leader(target)
    return True if cluster.leader(RECOVERY_S) is target else None


# --- the network ------------------------------------------------------------------------------------------------------


def host_of(member: EtcdServer) -> Host:
    """Where a member of a cluster on a test network lives."""
    assert member.host is not None
    return member.host


def hosts_of(members: Sequence[EtcdServer]) -> list[Host]:
    return [host_of(member) for member in members]


@contextmanager
def partitioned(cluster: Cluster) -> Iterator[None]:
    """Whatever is cut in the block is healed after it."""
    assert cluster.network is not None
    try:
        yield
    finally:
        cluster.network.heal()


def _cut(cluster: Cluster, ours: Sequence[EtcdServer], theirs: Sequence[EtcdServer]) -> None:
    assert cluster.network is not None
    cluster.network.cut(hosts_of(ours), hosts_of(theirs))


def _drop(cluster: Cluster, senders: Sequence[EtcdServer], receivers: Sequence[EtcdServer]) -> None:
    assert cluster.network is not None
    cluster.network.drop(hosts_of(senders), hosts_of(receivers))


def isolate_leader(cluster: Cluster, load: Load) -> None:
    """The leader hears nobody and nobody hears it; the others elect another, and it steps down."""
    leader = cluster.leader(RECOVERY_S)
    with partitioned(cluster):
        _cut(cluster, [leader], cluster.followers())
        wait_for_another_leader(cluster, leader)
        wait_for("the leader to step down", lambda: True if not status(leader).leader else None, RECOVERY_S)
        load.progress(FEW)
    load.progress(FEW)
    cluster.leader(RECOVERY_S)


def isolate_follower(cluster: Cluster, load: Load) -> None:
    """A follower alone; it must not depose the leader when it is back."""
    with partitioned(cluster):
        follower, *others = cluster.followers()
        leader = cluster.leader(RECOVERY_S)
        _cut(cluster, [follower], [leader, *others])
        wait_for("the loss of the leader", lambda: True if not status(follower).leader else None, RECOVERY_S)
        load.progress(MANY)
    load.progress(FEW)
    cluster.leader(RECOVERY_S)


def leader_in_the_minority(cluster: Cluster, load: Load) -> None:
    """The largest minority holds the leader; the majority elects another."""
    leader, followers = cluster.leader(RECOVERY_S), cluster.followers()
    minority = [leader, *followers][: (len(cluster.members) - 1) // 2]
    with partitioned(cluster):
        _cut(cluster, minority, [member for member in cluster.members if member not in minority])
        wait_for_another_leader(cluster, leader)
        load.progress(FEW)
    load.progress(FEW)
    cluster.leader(RECOVERY_S)


def deaf_leader(cluster: Cluster, load: Load) -> None:
    """Packets from the leader arrive, packets to it do not: without answers it must step down."""
    leader, followers = cluster.leader(RECOVERY_S), cluster.followers()
    with partitioned(cluster):
        _drop(cluster, followers, [leader])
        wait_for_another_leader(cluster, leader)
        load.progress(FEW)
    load.progress(FEW)
    cluster.leader(RECOVERY_S)


def mute_leader(cluster: Cluster, load: Load) -> None:
    """Packets to the leader arrive, packets from it do not."""
    leader, followers = cluster.leader(RECOVERY_S), cluster.followers()
    with partitioned(cluster):
        _drop(cluster, [leader], followers)
        wait_for_another_leader(cluster, leader)
        load.progress(FEW)
    load.progress(FEW)
    cluster.leader(RECOVERY_S)


def deaf_follower(cluster: Cluster, load: Load) -> None:
    """A follower that hears nobody but can be heard calls for elections nobody needs: pre-vote keeps them away."""
    leader, (follower, *others) = cluster.leader(RECOVERY_S), cluster.followers()
    with partitioned(cluster):
        _drop(cluster, [leader, *others], [follower])
        wait_for("the loss of the leader", lambda: True if not status(follower).leader else None, RECOVERY_S)
        load.progress(MANY)
    load.progress(FEW)
    cluster.leader(RECOVERY_S)


def cut_one_link(cluster: Cluster, load: Load) -> None:
    """The leader and one follower lose each other; both still have the rest."""
    leader, (follower, *_) = cluster.leader(RECOVERY_S), cluster.followers()
    with partitioned(cluster):
        _cut(cluster, [leader], [follower])
        load.progress(MANY)
    load.progress(FEW)
    cluster.leader(RECOVERY_S)


def ring(cluster: Cluster, load: Load) -> None:
    """Each of five members reaches its two neighbours only: everybody has a majority, no two the same one."""
    members = list(cluster.members)
    with partitioned(cluster):
        for place, member in enumerate(members):
            far = [members[(place + 2) % len(members)], members[(place - 2) % len(members)]]
            _drop(cluster, far, [member])
        load.progress(FEW, RECOVERY_S * 2)
    load.progress(FEW)
    cluster.leader(RECOVERY_S)


def nobody_hears_anybody(cluster: Cluster, load: Load) -> None:
    """No majority anywhere until the network is back."""
    with partitioned(cluster):
        for member in cluster.members:
            _drop(cluster, [other for other in cluster.members if other is not member], [member])
        for member in cluster.members:
            wait_for("no leader", lambda member=member: True if not status(member).leader else None, RECOVERY_S)  # type: ignore[misc]
    load.progress(FEW)
    cluster.leader(RECOVERY_S)


def remove(cluster: Cluster, at: EtcdServer, member_id: int) -> Output:
    """etcdctl member remove; refused as long as the others are not connected for long enough."""
    output = cluster.ctl("member", "remove", f"{member_id:x}", at=at)
    assert not output.status or "unhealthy cluster" in output.raw_stderr, output.raw_stderr
    return output


def remove_while_away(cluster: Cluster, load: Load) -> None:
    """A follower is removed while it hears nobody; it learns of it when it is back, and ends."""
    victim, *others = cluster.followers()
    victim_id = cluster.id_of(victim)
    with partitioned(cluster):
        leader = cluster.leader(RECOVERY_S)
        _cut(cluster, [victim], [leader, *others])
        load.progress(FEW)
        wait_for("removal", lambda: True if not remove(cluster, leader, victim_id).status else None, RECOVERY_S)
        load.progress(FEW)
    wait_for("the end of the removed member", lambda: None if victim.running else True, RECOVERY_S)
    rejoin(cluster, victim)
    load.progress(FEW)


def flapping(cluster: Cluster, load: Load) -> None:
    """Random cuts, often: each as soon as a few writes got through since the one before, or were given up on."""
    rng = random.Random(7)
    with partitioned(cluster):
        assert cluster.network is not None
        for _ in range(6):
            members = rng.sample(cluster.members, len(cluster.members))
            minority, majority = members[: len(members) // 2], members[len(members) // 2 :]
            rng.choice((_cut, _drop))(cluster, minority, majority)
            load.progress(10, RECOVERY_S)
            cluster.network.heal()
            load.progress(10, RECOVERY_S)
    cluster.leader(RECOVERY_S)


PROCESS: tuple[Fault, ...] = (
    kill_leader,
    kill_follower,
    kill_majority,
    kill_all,
    kill_in_turn,
    stop_leader,
    stop_follower,
    stop_majority,
    rolling_restart,
    wipe_and_rejoin,
    fall_behind_the_log,
    compact_and_kill,
    move_leader,
)
NETWORK: tuple[Fault, ...] = (
    isolate_leader,
    isolate_follower,
    leader_in_the_minority,
    deaf_leader,
    mute_leader,
    deaf_follower,
    cut_one_link,
    ring,
    remove_while_away,
    nobody_hears_anybody,
    flapping,
)
