"""Leaders without a quorum, and what they must not do: meetings of faults too rare for a few dozen seeds."""

from functools import partial
from typing import Any

from ratifyd.proto import rpc_pb2 as pb
from simulation.calls import CLUSTER
from simulation.history import Operation
from simulation.machine import SimMember
from simulation.stage import Stage, play

CONNECTED_S = 8.0
"""Members count as healthy after so long, and only then may the membership change."""


def read_of_a_deposed_leader() -> None:
    """A leader that does not know of its successor is asked for what the successor has overwritten."""

    def script(stage: Stage) -> None:
        for number in range(3):
            old, new = stage.leader(), stage.follower()
            stage.put(old, b"k", b"old %d" % number)
            connect = stage.isolate(old)
            stage.elect(new)
            stage.put(new, b"k", b"new %d" % number)
            assert old.server.is_leader, "the old leader knows already"
            _read_while(stage, old, 0.2)
            connect()
            stage.until(stage.agreed)

    play(script, 3)


def read_of_a_new_leader() -> None:
    """A leader has answered a write; its successor has it in its log, but does not know yet that it is committed."""

    def script(stage: Stage) -> None:
        stage.put(stage.leader(), b"k", b"before")
        old = stage.leader()
        index = old.raft.log.last_index + 1
        done: list[Operation] = []
        stage.send(old, "put", pb.PutRequest(key=b"k", value=b"after"), done.append)
        stage.until(lambda: old.raft.log.committed >= index)
        connect = stage.isolate(old)
        stage.until(lambda: bool(done))
        new, voter = sorted(_others(stage, old), key=lambda member: -member.raft.log.last_index)
        assert new.raft.log.last_index == index > new.raft.log.committed, "the successor knows of the commit"
        stage.elect(new)
        voter.machine.slowness = 1000.0  # so that the leader's own first entry is long in coming
        assert new.raft.log.committed < index
        _read_while(stage, new, 0.2)
        voter.machine.slowness = 1.0
        connect()
        stage.until(stage.agreed)

    play(script, 3, in_place=0.0, delay_min_s=0.02, delay_max_s=0.02)


def leader_with_a_learner() -> None:
    """A leader reaches nobody but a learner; the others elect another one."""

    def script(stage: Stage) -> None:
        stage.pass_time(CONNECTED_S)
        learner = stage.add_learner()
        old = stage.leader()
        new = next(member for member in _others(stage, old) if member is not learner)
        connect = stage.split([old.machine, learner.machine])
        done: list[Operation] = []
        stage.send(old, "put", pb.PutRequest(key=b"k", value=b"lost"), done.append)
        stage.until(lambda: learner.raft.log.last_index == old.raft.log.last_index)
        stage.pass_time(0.1)
        stage.elect(new)
        stage.put(new, b"k", b"kept")
        connect()
        stage.until(stage.agreed)

    play(script, 3)


def removals_by_an_isolated_leader() -> None:
    """A leader that reaches nobody is told to remove the others, which elect another one."""

    def script(stage: Stage) -> None:
        stage.pass_time(CONNECTED_S)
        old = stage.leader()
        new, other = _others(stage, old)
        connect = stage.isolate(old)
        for member in (other, new):
            stage.command(old, "member_remove", wait=False, ID=member.server.member_id)
        stage.until(lambda: old.server.node.proposals.pending == 2)
        done: list[Operation] = []
        stage.send(old, "put", pb.PutRequest(key=b"k", value=b"lost"), done.append)
        stage.pass_time(0.05)
        stage.elect(new)
        stage.put(new, b"k", b"kept")
        connect()
        stage.until(stage.agreed)

    play(script, 3)


def leader_of_two_removed() -> None:
    """A leader of two is removed, and goes; the other one stops the moment it has heard, and is alone from then on."""

    def script(stage: Stage, *, power: bool) -> None:
        stage.pass_time(CONNECTED_S)
        old, other = stage.leader(), stage.follower()
        stage.command(old, "member_remove", wait=False, ID=old.server.member_id)
        stage.until(lambda: old.server.member_id not in other.state.members.members)
        stage.crash(other.machine, power=power, down_s=3.0)
        stage.until(lambda: old.machine.removed)
        stage.put(stage.restarted(other.machine.number), b"k", b"alone")

    for in_place in (0.0, 1.0):
        for power in (False, True):
            play(partial(script, power=power), 2, in_place=in_place)


def removed_learner() -> None:
    """A learner is removed while it hears nobody; nobody sends it anything any more, and it asks nobody for a vote."""

    def script(stage: Stage) -> None:
        stage.pass_time(CONNECTED_S)
        learner = stage.add_learner()
        connect = stage.isolate(learner)
        stage.command(stage.leader(), "member_remove", ID=learner.server.member_id)
        stage.pass_time(1.0)
        assert learner.server.member_id in learner.state.members.members, "it has heard of it"
        connect()
        stage.until(lambda: learner.machine.removed)

    play(script, 3)


def equal_requests_on_two_members() -> None:
    """Clients of two members ask for the same deletion at the same time: one of them deletes, and only one."""

    def script(stage: Stage) -> None:
        for _ in range(4):
            _delete_at_once(stage, 12)

    play(script, 3)


def read_of_a_removed_leader() -> None:
    """The leader of two is removed and does not hear the other one any more, which leads alone; its clients read."""

    def script(stage: Stage) -> None:
        stage.pass_time(CONNECTED_S)
        old, other = stage.leader(), stage.follower()
        stage.put(old, b"k", b"before")
        gone = old.server.member_id
        stage.command(old, "member_remove", wait=False, ID=gone)
        stage.until(lambda: all(gone not in member.state.members.members for member in (old, other)))
        stage.isolate(old)
        stage.elect(other)
        stage.put(other, b"k", b"after")
        assert old.server.is_leader, "it knows already"
        _read_while(stage, old, 0.2)

    play(script, 2)


def change_by_a_new_leader() -> None:
    """A new leader has a change of members in its log, not known to be committed, and is asked for another one."""

    def script(stage: Stage) -> None:
        stage.pass_time(CONNECTED_S)
        old = stage.leader()
        index = old.raft.log.last_index + 1
        _update(stage, old, old, 2381)
        others = _others(stage, old)
        stage.until(lambda: any(other.raft.log.last_index >= index for other in others))
        stage.isolate(old)
        new, voter = sorted(others, key=lambda member: -member.raft.log.last_index)
        stage.elect(new)
        voter.machine.slowness = 1000.0  # so that the leader's own first entry is long in coming
        assert new.raft.log.applied < index
        _update(stage, new, new, 2382)
        stage.pass_time(0.3)
        voter.machine.slowness = 1.0

    play(script, 3, in_place=0.0, delay_min_s=0.02, delay_max_s=0.02)


def _update(stage: Stage, member: Any, of: Any, port: int) -> None:
    connection = stage.client(member).connection
    assert connection is not None
    request = pb.MemberUpdateRequest(ID=of.server.member_id, peerURLs=[f"http://{of.machine.name}:{port}"])
    connection.call(CLUSTER + "MemberUpdate", request.SerializeToString(), lambda status, text, body: None)


def _delete_at_once(stage: Stage, count: int) -> None:
    stage.put(stage.leader(), b"k")
    done: list[Operation] = []
    members = _others(stage, stage.leader())
    for _ in range(count):
        for member in members:
            stage.send(member, "delete_range", pb.DeleteRangeRequest(key=b"k"), done.append)
    stage.until(lambda: len(done) == count * len(members))
    assert sum(operation.response.deleted for operation in done) == 1, "deleted more than once"


def _others(stage: Stage, member: SimMember) -> list[SimMember]:
    return [other for other in stage.living() if other is not member]


def _read_while(stage: Stage, member: SimMember, seconds: float) -> None:
    """Read on a member that may not be able to answer, for a while; the checkers look at what it says."""
    for _ in range(4):
        stage.send(member, "range", pb.RangeRequest(key=b"k"), lambda operation: None)
        stage.pass_time(seconds / 4)
