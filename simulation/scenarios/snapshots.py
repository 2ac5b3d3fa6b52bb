"""Snapshots that come to members that know of users, have yet to apply, or do not know of members."""

from typing import Any

from ratifyd.proto import rpc_pb2 as pb
from simulation.authmodel import DENIED, ROOT
from simulation.history import Operation
from simulation.machine import Machine
from simulation.scenarios.duties import PASSWORD, RIGHTS
from simulation.scenarios.quorums import CONNECTED_S
from simulation.scenarios.restarts import TINY, fill
from simulation.stage import Scripted, Stage, play


def token_after_a_snapshot() -> None:
    """A member learns by a snapshot that a user has another password: the tokens it knows of that user have ended."""

    def script(stage: Stage) -> None:
        user, root = _logged_in(stage)
        request = pb.AuthUserChangePasswordRequest(name="u0", password="x")
        _change_in_a_snapshot(stage, root, "auth_user_change_password", request)
        found = _answer(stage, user, "range", pb.RangeRequest(key=b"k1"))
        assert not found.ok, f"a token outlives its password: {found}"

    play(script, 3, **TINY)


def right_after_a_snapshot() -> None:
    """A member has looked up what a user may do, and learns by a snapshot that it is less."""

    def script(stage: Stage) -> None:
        user, root = _logged_in(stage)
        assert _answer(stage, user, "range", pb.RangeRequest(key=b"k1")).ok
        request = pb.AuthRoleRevokePermissionRequest(role="r0", key=b"k", range_end=b"l")
        _change_in_a_snapshot(stage, root, "auth_role_revoke_permission", request)
        assert _answer(stage, user, "authenticate", pb.AuthenticateRequest(name="u0", password="u0")).ok
        found = _answer(stage, user, "range", pb.RangeRequest(key=b"k1"))
        assert found.error == DENIED, f"a right outlives its end: {found}"

    play(script, 3, **TINY)


def _logged_in(stage: Stage) -> tuple[Scripted, Scripted]:
    """A user of a follower, and root of the leader, with their tokens."""
    leader = stage.leader()
    stage.passwords[ROOT] = [PASSWORD]
    for kind, request in RIGHTS:
        assert stage.ask(leader, kind, request).ok
    user, root = stage.client(stage.follower()), stage.client(leader)
    user.user = "u0"
    for client, name, password in ((user, "u0", "u0"), (root, ROOT, PASSWORD)):
        assert _answer(stage, client, "authenticate", pb.AuthenticateRequest(name=name, password=password)).ok
        assert client.token
    return user, root


def _change_in_a_snapshot(stage: Stage, root: Scripted, kind: str, request: Any) -> None:
    """Change something so that the user's member learns of it by a snapshot."""
    follower = stage.follower()
    connect = stage.isolate(follower)
    assert _answer(stage, root, kind, request).ok
    done: list[Operation] = []
    for number in range(60):
        root.ask("put", pb.PutRequest(key=b"k%d" % (number % 5), value=b"%d" % number), done.append)
    stage.until(lambda: len(done) == 60)
    connect()
    stage.until(lambda: bool(follower.images) and stage.agreed())


def _answer(stage: Stage, client: Scripted, kind: str, request: Any) -> Operation:
    done: list[Operation] = []
    client.ask(kind, request, done.append)
    stage.until(lambda: bool(done))
    return done[0]


def snapshot_for_one_that_is_behind_in_applying() -> None:
    """A follower knows of commits that its slow backend keeps it from applying, when a snapshot comes."""

    def script(stage: Stage) -> None:
        follower = stage.follower()
        worker = follower.backend_worker
        worker._latency_s = lambda: 30.0
        fill(stage, 60)
        raft = follower.raft
        stage.until(lambda: raft.log.committed > raft.log.applied + 10)
        connect = stage.isolate(follower)
        fill(stage, 60)
        stage.until(lambda: stage.leader().raft.log.first_index > raft.log.last_index + 1)
        assert raft.log.committed > raft.log.applied + 5, "it has applied all"
        assert follower.server.node._unapplied, "nothing waits to be applied"
        connect()
        stage.until(lambda: raft.log.snapshot is not None, 60.0)
        worker._latency_s = lambda: 0.001
        stage.until(stage.agreed, 60.0)

    play(script, 3, in_place=1.0, segment_bytes=1 << 20, **TINY)


def snapshot_while_members_change() -> None:
    """A member is added between the commit whose image is sent and the sending of it."""

    def script(stage: Stage) -> None:
        stage.pass_time(CONNECTED_S)
        leader, follower = stage.leader(), stage.follower()
        connect = stage.isolate(follower)
        fill(stage, 40)
        stage.until(lambda: leader.raft.log.first_index > follower.raft.log.last_index + 1)
        leader.machine.slowness = 20.0
        connect()
        stage.until(lambda: bool(leader.backend._views))
        machine = _add_learner(stage)
        assert not leader.transport._transfers, "it was sent before"
        leader.machine.slowness = 1.0
        stage.until(lambda: bool(follower.images) and machine.member is not None)
        stage.until(stage.agreed)

    play(script, 5, in_place=1.0, sync_s=0.02, commit_s=0.02, **TINY)


def restart_after_members_in_a_snapshot() -> None:
    """A member learns by a snapshot that there is another one, and is restarted."""

    def script(stage: Stage) -> None:
        stage.pass_time(CONNECTED_S)
        leader, follower = stage.leader(), stage.follower()
        connect = stage.isolate(follower)
        _add_learner(stage)
        fill(stage, 40)
        stage.until(lambda: leader.raft.log.first_index > follower.raft.log.last_index + 1)
        connect()
        stage.until(lambda: bool(follower.images) and stage.agreed())
        fill(stage, 20)
        stage.crash(follower.machine, power=False)
        stage.restarted(follower.machine.number)

    play(script, 5, **TINY)


def _add_learner(stage: Stage) -> Machine:
    """Add a learner, and wait until the leader knows of it."""
    leader = stage.leader()
    count = len(leader.state.members.members)
    machine = Machine(len(stage.machines), stage.network)
    machine.founders = f"{machine.name}={machine.url}"
    stage.draw_clock(machine)
    stage.command(leader, "member_add", wait=False, peerURLs=[machine.url], isLearner=True)
    stage.until(lambda: len(leader.state.members.members) > count)
    return machine
