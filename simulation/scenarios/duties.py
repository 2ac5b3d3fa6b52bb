"""Rights after a snapshot, damage that is noticed, the rest of a lease, and streams that want a leader."""

from typing import Any

from ratifyd import schema
from ratifyd.proto import rpc_pb2 as pb
from ratifyd.proto.auth_pb2 import Permission
from simulation.authmodel import NO_USER, ROOT
from simulation.calls import LEASE
from simulation.clients import NO_LEADER
from simulation.history import Operation, Renewal
from simulation.knobs import turned
from simulation.machine import SimMember
from simulation.scenarios.restarts import TINY, fill
from simulation.stage import Stage, play

PASSWORD = "root"
RIGHTS: tuple[tuple[str, Any], ...] = (
    ("auth_user_add", pb.AuthUserAddRequest(name=ROOT, password=PASSWORD)),
    ("auth_user_grant_role", pb.AuthUserGrantRoleRequest(user=ROOT, role=ROOT)),
    ("auth_user_add", pb.AuthUserAddRequest(name="u0", password="u0")),
    ("auth_role_add", pb.AuthRoleAddRequest(name="r0")),
    (
        "auth_role_grant_permission",
        pb.AuthRoleGrantPermissionRequest(
            name="r0", perm=Permission(permType=Permission.READ, key=b"k", range_end=b"l")
        ),
    ),
    ("auth_user_grant_role", pb.AuthUserGrantRoleRequest(user="u0", role="r0")),
    ("auth_enable", pb.AuthEnableRequest()),
)


def rights_after_a_snapshot() -> None:
    """A member learns of users and rights by a snapshot, and is restarted."""

    def script(stage: Stage) -> None:
        stage.passwords[ROOT] = [PASSWORD]
        follower = stage.follower()
        number = follower.machine.number
        connect = stage.isolate(follower)
        fill(stage, 40)
        leader = stage.leader()
        for kind, request in RIGHTS:
            assert stage.ask(leader, kind, request).ok
        stage.until(lambda: leader.raft.log.first_index > follower.raft.log.last_index + 1)
        connect()
        stage.until(lambda: bool(follower.images) and stage.agreed())
        assert stage.get(follower, b"k0").error == NO_USER
        stage.crash(stage.machines[number], power=True)
        assert stage.get(stage.restarted(number), b"k0").error == NO_USER

    play(script, 3, **TINY)


def data_that_change_by_themselves() -> None:
    """A row of one member is another one than before: its leader notices, and calls that member corrupt."""
    for leads in (True, False):
        for check in ("corrupt_check_s", "compact_hash_check_s"):
            if not leads or check == "compact_hash_check_s":
                _notice(leads, check)


def expiry_during_a_transfer() -> None:
    """A lease ends while leadership is being handed to a member that hears nothing: the leader stays, and ends it."""

    def script(stage: Stage) -> None:
        leader = stage.leader()
        target = stage.follower()
        assert stage.ask(leader, "lease_grant", pb.LeaseGrantRequest(ID=7, TTL=5)).ok
        stage.pass_time(4.7)
        connect = stage.isolate(target)
        stage.command(leader, "move_leader", wait=False, targetID=target.server.member_id)
        stage.until(lambda: not stage.model.leases, 10.0)
        assert stage.leader() is leader
        connect()

    play(script, 3)


def login_while_the_password_changes() -> None:
    """A password is tried, and changed on another member meanwhile: no token comes of the old one."""

    def script(stage: Stage) -> None:
        leader, follower = stage.leader(), stage.follower()
        stage.passwords[ROOT] = [PASSWORD]
        for kind, request in RIGHTS:
            assert stage.ask(leader, kind, request).ok
        user, root = stage.client(leader), stage.client(follower)
        root.ask("authenticate", pb.AuthenticateRequest(name=ROOT, password=PASSWORD), lambda operation: None)
        stage.until(lambda: bool(root.token))
        done: list[Operation] = []
        worker: Any = leader.server.authentication._worker
        worker._latency_s = lambda: 0.5
        user.ask("authenticate", pb.AuthenticateRequest(name="u0", password="u0"), done.append)
        stage.pass_time(0.1)
        root.ask("auth_user_change_password", pb.AuthUserChangePasswordRequest(name="u0", password="x"), done.append)
        stage.until(lambda: len(done) == 2)
        assert done[0].ok and done[0].kind == "auth_user_change_password"

    play(script, 3)


def _notice(leads: bool, check: str) -> None:
    stage = Stage(3, commit_interval_s=0.02, **{check: 0.5})
    with turned(stage.options):
        stage.up()
        victim = stage.leader() if leads else stage.follower()
        stage.put(stage.leader(), b"k", b"one")
        stage.until(lambda: all(not member.state.buffer.pending for member in stage.living()))
        stage.pass_time(2.0)
        assert not stage.model.alarms, "called corrupt while sound"
        victim.machine.corrupted = True
        _alter(victim)
        if check == "compact_hash_check_s":
            revision = stage.put(stage.leader(), b"l", b"two")
            stage.until(lambda: all(member.state.store.revision == revision for member in stage.living()))
            stage.command(stage.leader(), "compact", revision=revision, physical=True)
        stage.until(lambda: bool(stage.model.alarms))
        assert stage.model.alarms == {(victim.server.member_id, pb.CORRUPT)}, stage.model.alarms
        refused = stage.ask(stage.follower(), "put", pb.PutRequest(key=b"k", value=b"three"))
        assert refused.error == "etcdserver: corrupt cluster", str(refused)


def _alter(member: SimMember) -> None:
    """Change the value of a row behind the member's back."""
    ((key, value),) = member.backend.range(schema.KEY, b"\0", None)
    member.backend.write({schema.KEY: {key: value.replace(b"one", b"eno")}})


def rest_of_a_lease() -> None:
    """A lease that is nearly over when the leader goes is not given its whole time again."""

    def script(stage: Stage) -> None:
        old = stage.leader()
        assert stage.ask(old, "lease_grant", pb.LeaseGrantRequest(ID=7, TTL=60)).ok
        stage.pass_time(50.0)
        stage.isolate(old)
        stage.until(lambda: stage.leader() is not old)
        began = stage.clock.now
        stage.until(lambda: not stage.model.leases, 60.0)
        assert stage.clock.now - began < 20.0, f"it lived for {stage.clock.now - began:.1f} s more"

    play(script, 3, lease_checkpoint_s=1.0)


def renewal_by_an_isolated_leader() -> None:
    """A lease whose rest is in the log is kept alive on a leader that reaches nobody."""

    def script(stage: Stage) -> None:
        old = stage.leader()
        assert stage.ask(old, "lease_grant", pb.LeaseGrantRequest(ID=7, TTL=30)).ok
        stage.pass_time(25.0)
        connect = stage.isolate(old)
        _keep_alive(stage, old, 7)
        stage.pass_time(0.5)
        stage.until(lambda: stage.leader() is not old)
        stage.pass_time(8.0)
        connect()

    play(script, 3, lease_checkpoint_s=1.0)


def renewal_by_a_leader_that_stood_still() -> None:
    """A leader's process stands still until another one has led for long, and goes on just before a lease is over.

    It takes itself for the leader for some more ticks: what it promises then, the other one does not know of.
    """

    def script(stage: Stage) -> None:
        old = stage.leader()
        assert stage.ask(old, "lease_grant", pb.LeaseGrantRequest(ID=7, TTL=10)).ok
        old.clock.paused = True
        connect = stage.isolate(old)
        stage.pass_time(0.01)
        stage.until(lambda: stage.leader() is not old)
        stage.pass_time(5.0)
        old.clock.resume()
        for _ in range(10):
            _keep_alive(stage, old, 7)
            stage.pass_time(0.05)
        stage.pass_time(13.0)
        connect()

    play(script, 3)


def _keep_alive(stage: Stage, member: SimMember, lease: int) -> None:
    """Renew a lease; if the member says that it is, it has to live on."""
    client = stage.client(member)
    assert client.connection is not None
    sent = stage.clock.now

    def kept(body: bytes) -> None:
        ttl = pb.LeaseKeepAliveResponse.FromString(body).TTL
        if ttl > 0:
            stage.history.renewals.append(Renewal(lease, ttl, sent, stage.clock.now))

    beating = client.connection.stream(LEASE + "LeaseKeepAlive", kept, lambda status, text: None)
    beating.send(pb.LeaseKeepAliveRequest(ID=lease).SerializeToString())


def streams_without_a_leader() -> None:
    """A stream that wants a leader is ended on a member that has had none for long, another one is not."""

    def script(stage: Stage) -> None:
        follower = stage.follower()
        over: list[str] = []
        for wants, metadata in ((True, (("hasleader", "true"),)), (False, ())):
            connection = stage.client(follower).connection
            assert connection is not None
            stream = connection.stream(
                "/etcdserverpb.Watch/Watch",
                lambda body: None,
                lambda status, text, wants=wants: over.append(f"{wants} {text}"),  # type: ignore[misc]
                metadata,
            )
            stream.send(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"k")).SerializeToString())
        stage.pass_time(1.0)
        assert not over
        connect = stage.isolate(follower)
        stage.until(lambda: bool(over))
        assert over == [f"True {NO_LEADER}"], over
        connect()

    play(script, 3)
