"""Auth on three members: tokens of one are good on the others, and so is every refusal."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from harness.clusters import Cluster, wait_for
from harness.outcomes import failure, keys
from harness.stubs import Client
from harness.users import READ, READWRITE, Metadata, enable_auth, login
from harness.watch import WatchStream
from ratifyd.proto import auth_pb2, rpc_pb2
from tests.cluster.conftest import StartCluster

FLAGS = ("--unsafe-no-fsync", "--bcrypt-cost=4")
DENIED = ("PERMISSION_DENIED", "etcdserver: permission denied")
INVALID_TOKEN = ("UNAUTHENTICATED", "etcdserver: invalid auth token")
OLD_REVISION = ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old")
VERIFY_ONLY = ("UNKNOWN", "auth: token signing attempted with verify-only key")
READ_A = rpc_pb2.RangeRequest(key=b"a")
READ_A_HERE = rpc_pb2.RangeRequest(key=b"a", serializable=True)


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def members() -> Iterator[list[Client]]:
    """Stubs for three members with auth on, for tests with users of their own."""
    with Cluster(("ratifyd",) * 3, FLAGS) as cluster, ExitStack() as clients:
        found = connect(clients, cluster)
        enable_auth(found[0], reader=((READWRITE, b"a", b"b"),), changed=(), lessee=((READWRITE, b"a", b""),))
        yield found


def connect(clients: ExitStack, cluster: Cluster) -> list[Client]:
    """Stubs for every member, that of the leader first."""
    leader = cluster.leader()
    servers = [leader, *(server for server in cluster.running if server is not leader)]
    return [clients.enter_context(Client(server.client_endpoint)) for server in servers]


def change_password(client: Client, name: str, password: str, root: Metadata) -> None:
    request = rpc_pb2.AuthUserChangePasswordRequest(name=name, password=password)
    client.auth.UserChangePassword(request, metadata=root)


def test_tokens_on_every_member(members: list[Client]) -> None:
    for _ in range(8):
        for at, member in enumerate(members):
            token = login(member, "reader")
            for other in (*members[at + 1 :], *members[: at + 1]):  # at once: it may not have heard of it yet
                other.kv.Range(READ_A_HERE, metadata=token, timeout=5)
                other.kv.Put(rpc_pb2.PutRequest(key=b"a"), metadata=token, timeout=5)
                with WatchStream(other, token) as stream:
                    assert not stream.create(b"a").canceled
    for member in members:
        assert failure(member.kv.Range, READ_A, metadata=(("token", "bad.1"),), timeout=5) == INVALID_TOKEN
        assert failure(member.kv.Put, rpc_pb2.PutRequest(key=b"z"), metadata=token, timeout=5) == DENIED


def test_changes_count_on_every_member(members: list[Client]) -> None:
    """What is acknowledged by one member holds for linearizable requests to all."""
    root = login(members[0], "root")
    permission = auth_pb2.Permission(permType=READ, key=b"a")
    for number, member in enumerate(members * 3):
        other = members[(number + 1) % 3]
        token = login(other, "changed")
        member.auth.RoleGrantPermission(
            rpc_pb2.AuthRoleGrantPermissionRequest(name="changed", perm=permission), metadata=root
        )
        other.kv.Range(READ_A, metadata=token)
        member.auth.RoleRevokePermission(
            rpc_pb2.AuthRoleRevokePermissionRequest(role="changed", key=b"a"), metadata=root
        )
        assert failure(other.kv.Range, READ_A, metadata=token) == DENIED
        change_password(member, "changed", "changedpw", root)
        assert failure(other.kv.Range, READ_A, metadata=token) == INVALID_TOKEN


@pytest.mark.slow
def test_a_learner_is_promoted_through_a_follower(start_cluster: StartCluster, clients: ExitStack) -> None:
    """The follower shows the leader the token of who asked."""
    cluster = start_cluster(flags=FLAGS)
    learner = cluster.join("ratifyd", learner=True)
    learner_id = cluster.id_of(learner)
    leader = cluster.leader()
    follower = next(server for server in cluster.running if server not in (leader, learner))
    client = clients.enter_context(Client(follower.client_endpoint))
    enable_auth(client, u=())
    root, user = login(client, "root"), login(client, "u")
    promote = rpc_pb2.MemberPromoteRequest(ID=learner_id)
    assert failure(client.cluster.MemberPromote, promote, metadata=user) == DENIED

    def promoted() -> bool:
        answer = client.cluster.MemberPromote(promote, metadata=root, timeout=10)
        return bool(answer.members)

    assert wait_for("promotion", promoted)
    members = client.cluster.MemberList(rpc_pb2.MemberListRequest(linearizable=True), metadata=root).members
    assert not any(member.isLearner for member in members)


def test_leases_through_followers(members: list[Client]) -> None:
    root, user = login(members[0], "root"), login(members[1], "lessee")
    for lease, key in ((1, b"a"), (2, b"theirs")):
        members[1].lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=600, ID=lease), metadata=user)
        members[1].kv.Put(rpc_pb2.PutRequest(key=key, lease=lease), metadata=root)
    for member in members:
        member.kv.Range(READ_A, metadata=user)  # has it catch up: a follower judges by the keys it knows of
        call = member.lease.LeaseKeepAlive(iter([rpc_pb2.LeaseKeepAliveRequest(ID=1)]), metadata=user)
        assert next(call).TTL == 600
        refused = member.lease.LeaseKeepAlive(iter([rpc_pb2.LeaseKeepAliveRequest(ID=2)]), metadata=user)
        assert failure(next, refused) == DENIED
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=2, keys=True)
        assert failure(member.lease.LeaseTimeToLive, request, metadata=user) == DENIED
        assert list(member.lease.LeaseTimeToLive(request, metadata=root).keys) == [b"theirs"]
    short = rpc_pb2.LeaseGrantRequest(TTL=2, ID=3)
    members[2].lease.LeaseGrant(short, metadata=user)
    members[2].kv.Put(rpc_pb2.PutRequest(key=b"a", lease=3), metadata=user)
    with WatchStream(members[1], user) as stream:
        stream.create(b"a", start_revision=1)
        while stream.take().events[-1].type == 0:
            continue


def test_signed_tokens(start_cluster: StartCluster, clients: ExitStack, tmp_path: Path) -> None:
    """Good on every member without waiting, and after a restart; old as soon as anything about users changes."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    signs = f"--auth-token=jwt,sign-method=ES256,pub-key={public},priv-key={private},ttl=1h"
    cluster = start_cluster(flags=(*FLAGS, signs))
    members = connect(clients, cluster)
    enable_auth(members[0], u=((READ, b"a", b""),))
    token = login(members[1], "u")
    for member in members:
        assert keys(member.kv.Range(READ_A, metadata=token)) == []
        broken = (("token", token[0][1][:-2] + "AA"),)
        assert failure(member.kv.Range, READ_A, metadata=broken) == INVALID_TOKEN
    restarted = cluster.running[0]
    restarted.flags[-1] = f"--auth-token=jwt,sign-method=ES256,pub-key={public}"
    restarted.restart(hard=True)
    verifier = clients.enter_context(Client(restarted.client_endpoint))
    assert keys(verifier.kv.Range(READ_A, metadata=token, timeout=10)) == []
    request = rpc_pb2.AuthenticateRequest(name="u", password="upw")
    assert failure(verifier.auth.Authenticate, request, timeout=10) == VERIFY_ONLY
    able = clients.enter_context(Client(cluster.running[1].client_endpoint))
    root = login(able, "root")
    change_password(able, "u", "new", root)
    for member in (able, verifier):
        assert failure(member.kv.Range, READ_A, metadata=token) == OLD_REVISION
        put = rpc_pb2.PutRequest(key=b"a")
        assert failure(member.kv.Put, put, metadata=root) == OLD_REVISION
    again = login(able, "u", "new")
    assert keys(verifier.kv.Range(READ_A, metadata=again)) == []
