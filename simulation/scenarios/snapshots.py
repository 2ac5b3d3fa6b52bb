"""Snapshots that come to members that know of users, have yet to apply, or do not know of members."""

from ratifyd.proto import rpc_pb2 as pb
from simulation.authmodel import ROOT
from simulation.history import Operation
from simulation.machine import Machine
from simulation.scenarios.duties import PASSWORD, RIGHTS
from simulation.scenarios.quorums import CONNECTED_S
from simulation.scenarios.restarts import TINY, fill
from simulation.stage import Stage, play


def token_after_a_snapshot() -> None:
    """A member learns by a snapshot that a user has another password: the tokens it knows of that user have ended."""

    def script(stage: Stage) -> None:
        leader, follower = stage.leader(), stage.follower()
        stage.passwords[ROOT] = [PASSWORD]
        for kind, request in RIGHTS:
            assert stage.ask(leader, kind, request).ok
        user, root = stage.client(follower), stage.client(leader)
        user.user = "u0"
        for client, name, password in ((user, "u0", "u0"), (root, ROOT, PASSWORD)):
            client.ask("authenticate", pb.AuthenticateRequest(name=name, password=password), lambda operation: None)
            stage.until(lambda client=client: bool(client.token))  # type: ignore[misc]
        connect = stage.isolate(follower)
        done: list[Operation] = []
        root.ask("auth_user_change_password", pb.AuthUserChangePasswordRequest(name="u0", password="x"), done.append)
        stage.until(lambda: bool(done))
        for number in range(60):
            root.ask("put", pb.PutRequest(key=b"k%d" % (number % 5), value=b"%d" % number), done.append)
        stage.until(lambda: len(done) == 61)
        connect()
        stage.until(lambda: bool(follower.images) and stage.agreed())
        user.ask("range", pb.RangeRequest(key=b"k1"), done.append)
        stage.until(lambda: len(done) == 62)
        assert not done[-1].ok, f"a token outlives its password: {done[-1]}"

    play(script, 3, **TINY)


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
        machine = Machine(len(stage.machines), stage.network)
        machine.founders = f"{machine.name}={machine.url}"
        stage.draw_clock(machine)
        stage.command(leader, "member_add", wait=False, peerURLs=[machine.url], isLearner=True)
        stage.until(lambda: len(leader.state.members.members) == 6)
        assert not leader.transport._transfers, "it was sent before"
        leader.machine.slowness = 1.0
        stage.until(lambda: bool(follower.images) and machine.member is not None)
        stage.until(stage.agreed)

    play(script, 5, in_place=1.0, sync_s=0.02, commit_s=0.02, **TINY)
