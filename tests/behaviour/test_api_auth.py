"""Auth: users, roles, tokens, and what each request needs while auth is on (semantics §9, §20)."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from harness.clusters import wait_for
from harness.outcomes import delete, failure, get, keys, op_delete, op_put, op_range, op_txn, put, txn_request
from harness.servers import EtcdServer
from harness.stubs import Client, status_of
from harness.users import READ, READWRITE, WRITE, Metadata, add_user, enable_auth, login, token_for, version_of
from harness.watch import WatchStream
from ratifyd.proto import auth_pb2, health_pb2, rpc_pb2

FLAGS = ("--unsafe-no-fsync", "--bcrypt-cost=4")
USER_EMPTY = ("INVALID_ARGUMENT", "etcdserver: user name is empty")
DENIED = ("PERMISSION_DENIED", "etcdserver: permission denied")
INVALID_TOKEN = ("UNAUTHENTICATED", "etcdserver: invalid auth token")
AUTH_FAILED = ("INVALID_ARGUMENT", "etcdserver: authentication failed, invalid user ID or password")
NOT_ENABLED = ("FAILED_PRECONDITION", "etcdserver: authentication is not enabled")
INVALID_MANAGEMENT = ("INVALID_ARGUMENT", "etcdserver: invalid auth management")
NO_PASSWORD_USER = ("UNKNOWN", "auth: authentication failed, password was given for no password user")
ROLE_NOT_FOUND = ("FAILED_PRECONDITION", "etcdserver: role name not found")
USER_NOT_FOUND = ("FAILED_PRECONDITION", "etcdserver: user name not found")

TIGHTENED = (3, 5, 32)
"""Since this version (and 3.6.13) nobody sees or changes anything without a name."""


@dataclass
class Secured:
    """A server with auth on, root, and alice, who may read [a, c), read and write k, write w."""

    client: Client
    root: Metadata
    alice: Metadata
    version: tuple[int, ...]


@pytest.fixture(scope="module")
def secured(kind: str) -> Iterator[Secured]:
    with EtcdServer(kind, FLAGS) as server, Client(server.client_endpoint) as client:
        for key in (b"a", b"k", b"w", b"z"):
            put(client, key, b"before")
        client.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=600, ID=7))
        client.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=600, ID=8))
        put(client, b"z/leased", b"", lease=7)
        put(client, b"k", b"before", lease=8)
        enable_auth(client, alice=((READ, b"a", b"c"), (READWRITE, b"k", b""), (WRITE, b"w", b"")))
        root = login(client, "root")
        yield Secured(client, root, login(client, "alice"), version_of(client, root))


@pytest.fixture
def own(start_server: Callable[..., tuple[EtcdServer, Client]]) -> Client:
    """A server of the test's own, auth off."""
    return start_server("--bcrypt-cost=4")[1]


def outcome(call: Callable[[], Any]) -> tuple[str, str] | str:
    try:
        answer = call()
        if isinstance(answer, grpc.Call):
            for _ in answer:
                pass
    except grpc.RpcError as error:
        return status_of(error)
    return "OK"


# --- what each request needs ----------------------------------------------------------------------------------------

OK = "OK"
NOT_LEADER_TARGET = ("FAILED_PRECONDITION", "etcdserver: bad leader transferee")
WRONG_VERSION = ("INVALID_ARGUMENT", "etcdserver: wrong downgrade target version format")
NO_MEMBER = ("NOT_FOUND", "etcdserver: member not found")
COMPACTED = ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted")
USER_EXISTS = ("FAILED_PRECONDITION", "etcdserver: user name already exists")
NOT_GRANTED = ("FAILED_PRECONDITION", "etcdserver: role is not granted to the user")
RAW_EMPTY, RAW_DENIED = ("UNKNOWN", "auth: user name is empty"), ("UNKNOWN", "auth: permission denied")
NO_LEASE = ("NOT_FOUND", "etcdserver: requested lease not found")

_KV, _LEASE = "kv", "lease"
_ALARM = rpc_pb2.AlarmRequest
_PERMISSION = auth_pb2.Permission(permType=READ, key=b"q")

MATRIX: list[tuple[Any, ...]] = [
    # service, method, request, what anonymous, alice and root get; what they get from 3.5.1 where that differs
    (_KV, "Range", rpc_pb2.RangeRequest(key=b"a"), USER_EMPTY, OK, OK),
    (_KV, "Range", rpc_pb2.RangeRequest(key=b"a", serializable=True), USER_EMPTY, OK, OK),
    (_KV, "Range", rpc_pb2.RangeRequest(key=b"a", range_end=b"c"), USER_EMPTY, OK, OK),
    (_KV, "Range", rpc_pb2.RangeRequest(key=b"a", range_end=b"c", count_only=True), USER_EMPTY, OK, OK),
    (_KV, "Range", rpc_pb2.RangeRequest(key=b"a", range_end=b"c\0"), USER_EMPTY, DENIED, OK),
    (_KV, "Range", rpc_pb2.RangeRequest(key=b"a", range_end=b"\0"), USER_EMPTY, DENIED, OK),
    (_KV, "Range", rpc_pb2.RangeRequest(key=b"w"), USER_EMPTY, DENIED, OK),
    (_KV, "Put", rpc_pb2.PutRequest(key=b"a"), USER_EMPTY, DENIED, OK),
    (_KV, "Put", rpc_pb2.PutRequest(key=b"w"), USER_EMPTY, OK, OK),
    (_KV, "Put", rpc_pb2.PutRequest(key=b"w", prev_kv=True), USER_EMPTY, DENIED, OK),
    (_KV, "Put", rpc_pb2.PutRequest(key=b"k", prev_kv=True), USER_EMPTY, OK, OK),
    (_KV, "Put", rpc_pb2.PutRequest(key=b"k", lease=7), USER_EMPTY, DENIED, OK),
    (_KV, "Put", rpc_pb2.PutRequest(key=b"k", lease=8), USER_EMPTY, OK, OK),
    (_KV, "DeleteRange", rpc_pb2.DeleteRangeRequest(key=b"none"), USER_EMPTY, DENIED, OK),
    (_KV, "DeleteRange", rpc_pb2.DeleteRangeRequest(key=b"w", prev_kv=True), USER_EMPTY, DENIED, OK),
    (_KV, "DeleteRange", rpc_pb2.DeleteRangeRequest(key=b"w"), USER_EMPTY, OK, OK),
    (_KV, "Txn", rpc_pb2.TxnRequest(), OK, OK, OK),
    (_KV, "Txn", txn_request([op_range(b"a")]), USER_EMPTY, OK, OK),
    (_KV, "Txn", txn_request([op_range(b"a", serializable=True)]), USER_EMPTY, OK, OK),
    (_KV, "Txn", txn_request([op_range(b"z")]), USER_EMPTY, DENIED, OK),
    (_KV, "Txn", txn_request([op_put(b"w")], [op_put(b"a")]), USER_EMPTY, DENIED, OK),
    (_KV, "Txn", txn_request([op_put(b"w")], [op_delete(b"k")]), USER_EMPTY, OK, OK),
    (_KV, "Txn", txn_request([op_put(b"w", prev_kv=True)]), USER_EMPTY, DENIED, OK, USER_EMPTY, OK, OK),
    (_KV, "Txn", txn_request([op_put(b"w")], [op_txn([op_put(b"a")])]), USER_EMPTY, DENIED, OK, USER_EMPTY, OK, OK),
    (_KV, "Txn", txn_request([op_put(b"k", lease=7)]), USER_EMPTY, DENIED, OK, USER_EMPTY, OK, OK),
    (_KV, "Txn", txn_request([op_put(b"w")], compare=[rpc_pb2.Compare(key=b"z")]), USER_EMPTY, DENIED, OK),
    (_KV, "Txn", txn_request(compare=[rpc_pb2.Compare(key=b"z", target="MOD")]), USER_EMPTY, DENIED, OK),
    (_KV, "Compact", rpc_pb2.CompactionRequest(revision=1), USER_EMPTY, DENIED, OK, OK, COMPACTED, COMPACTED),
    (_LEASE, "LeaseGrant", rpc_pb2.LeaseGrantRequest(TTL=60), USER_EMPTY, OK, OK, OK, OK, OK),
    (_LEASE, "LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest(ID=8), USER_EMPTY, OK, OK, OK, OK, OK),
    (_LEASE, "LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest(ID=7), USER_EMPTY, OK, OK, OK, OK, OK),
    (_LEASE, "LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest(ID=8, keys=True), USER_EMPTY, OK, OK, OK, OK, OK),
    (_LEASE, "LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest(ID=7, keys=True), USER_EMPTY, DENIED, OK, OK, OK, OK),
    (_LEASE, "LeaseLeases", rpc_pb2.LeaseLeasesRequest(), USER_EMPTY, DENIED, OK, OK, OK, OK),
    (_LEASE, "LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=99), USER_EMPTY, NO_LEASE, NO_LEASE, *[NO_LEASE] * 3),
    (_LEASE, "LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=7), USER_EMPTY, DENIED, OK),
    (_LEASE, "LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=8), USER_EMPTY, OK, NO_LEASE, OK, NO_LEASE, NO_LEASE),
    ("cluster", "MemberList", rpc_pb2.MemberListRequest(), USER_EMPTY, OK, OK, OK, OK, OK),
    ("cluster", "MemberList", rpc_pb2.MemberListRequest(linearizable=True), USER_EMPTY, OK, OK, OK, OK, OK),
    ("cluster", "MemberAdd", rpc_pb2.MemberAddRequest(peerURLs=["x"]), *[("INVALID_ARGUMENT", None)] * 3),
    (
        "cluster",
        "MemberAdd",
        rpc_pb2.MemberAddRequest(peerURLs=["http://127.0.0.1:2"], isLearner=True),
        USER_EMPTY,
        DENIED,
        None,
    ),
    ("cluster", "MemberRemove", rpc_pb2.MemberRemoveRequest(ID=1), USER_EMPTY, DENIED, NO_MEMBER),
    (
        "cluster",
        "MemberUpdate",
        rpc_pb2.MemberUpdateRequest(ID=1, peerURLs=["http://127.0.0.1:2"]),
        USER_EMPTY,
        DENIED,
        NO_MEMBER,
    ),
    ("cluster", "MemberPromote", rpc_pb2.MemberPromoteRequest(ID=1), USER_EMPTY, DENIED, NO_MEMBER),
    ("maintenance", "Alarm", _ALARM(), USER_EMPTY, OK, OK, OK, OK, OK),
    ("maintenance", "Alarm", _ALARM(action=_ALARM.DEACTIVATE, alarm=1), USER_EMPTY, DENIED, OK, OK, OK, OK),
    ("maintenance", "Alarm", _ALARM(action=_ALARM.ACTIVATE, memberID=3), USER_EMPTY, DENIED, OK, OK, OK, OK),
    ("maintenance", "Status", rpc_pb2.StatusRequest(), USER_EMPTY, OK, OK, OK, OK, OK),
    ("maintenance", "Defragment", rpc_pb2.DefragmentRequest(), USER_EMPTY, DENIED, OK, RAW_EMPTY, RAW_DENIED, OK),
    ("maintenance", "Hash", rpc_pb2.HashRequest(), USER_EMPTY, DENIED, OK, RAW_EMPTY, RAW_DENIED, OK),
    ("maintenance", "HashKV", rpc_pb2.HashKVRequest(), USER_EMPTY, DENIED, OK, RAW_EMPTY, RAW_DENIED, OK),
    ("maintenance", "Snapshot", rpc_pb2.SnapshotRequest(), USER_EMPTY, DENIED, OK, RAW_EMPTY, RAW_DENIED, OK),
    (
        "maintenance",
        "MoveLeader",
        rpc_pb2.MoveLeaderRequest(targetID=1),
        USER_EMPTY,
        DENIED,
        NOT_LEADER_TARGET,
        *[NOT_LEADER_TARGET] * 3,
    ),
    (
        "maintenance",
        "Downgrade",
        rpc_pb2.DowngradeRequest(version="x"),
        USER_EMPTY,
        DENIED,
        WRONG_VERSION,
        *[WRONG_VERSION] * 3,
    ),
    ("auth", "AuthEnable", rpc_pb2.AuthEnableRequest(), USER_EMPTY, DENIED, OK),
    ("auth", "AuthDisable", rpc_pb2.AuthDisableRequest(), USER_EMPTY, DENIED, None),
    ("auth", "AuthStatus", rpc_pb2.AuthStatusRequest(), USER_EMPTY, DENIED, OK),
    ("auth", "UserAdd", rpc_pb2.AuthUserAddRequest(name="root", password="x"), USER_EMPTY, DENIED, USER_EXISTS),
    ("auth", "UserGet", rpc_pb2.AuthUserGetRequest(name="alice"), USER_EMPTY, OK, OK),
    ("auth", "UserGet", rpc_pb2.AuthUserGetRequest(name="root"), USER_EMPTY, DENIED, OK),
    ("auth", "UserList", rpc_pb2.AuthUserListRequest(), USER_EMPTY, DENIED, OK),
    ("auth", "UserDelete", rpc_pb2.AuthUserDeleteRequest(name="root"), USER_EMPTY, DENIED, INVALID_MANAGEMENT),
    (
        "auth",
        "UserChangePassword",
        rpc_pb2.AuthUserChangePasswordRequest(name="nobody", password="x"),
        USER_EMPTY,
        DENIED,
        USER_NOT_FOUND,
    ),
    (
        "auth",
        "UserGrantRole",
        rpc_pb2.AuthUserGrantRoleRequest(user="alice", role="none"),
        USER_EMPTY,
        DENIED,
        ROLE_NOT_FOUND,
    ),
    (
        "auth",
        "UserRevokeRole",
        rpc_pb2.AuthUserRevokeRoleRequest(name="alice", role="none"),
        USER_EMPTY,
        DENIED,
        NOT_GRANTED,
    ),
    ("auth", "RoleAdd", rpc_pb2.AuthRoleAddRequest(name="alice"), USER_EMPTY, DENIED, None),
    ("auth", "RoleGet", rpc_pb2.AuthRoleGetRequest(role="alice"), USER_EMPTY, OK, OK),
    ("auth", "RoleGet", rpc_pb2.AuthRoleGetRequest(role="root"), USER_EMPTY, DENIED, OK),
    ("auth", "RoleList", rpc_pb2.AuthRoleListRequest(), USER_EMPTY, DENIED, OK),
    ("auth", "RoleDelete", rpc_pb2.AuthRoleDeleteRequest(role="root"), USER_EMPTY, DENIED, INVALID_MANAGEMENT),
    (
        "auth",
        "RoleGrantPermission",
        rpc_pb2.AuthRoleGrantPermissionRequest(name="none", perm=_PERMISSION),
        USER_EMPTY,
        DENIED,
        ROLE_NOT_FOUND,
    ),
    (
        "auth",
        "RoleRevokePermission",
        rpc_pb2.AuthRoleRevokePermissionRequest(role="none"),
        USER_EMPTY,
        DENIED,
        ROLE_NOT_FOUND,
    ),
    ("health", "Check", health_pb2.HealthCheckRequest(), OK, OK, OK),
]


def test_every_request_needs_its_right(secured: Secured) -> None:
    """One row after the other, in this order: some change what later ones find. None: not asked."""
    wrong = []
    for service, method, request, *expected in MATRIX:
        wanted = expected[3:] if len(expected) == 6 and secured.version < TIGHTENED else expected[:3]
        stub = getattr(getattr(secured.client, service), method)
        for who, metadata, want in zip(("nobody", "alice", "root"), ((), secured.alice, secured.root), wanted):
            if want is None:
                continue
            got = outcome(lambda stub=stub, request=request, metadata=metadata: stub(request, metadata=metadata))
            if got != want and (want[1] is not None or got[0] != want[0]):
                wrong.append(f"{method} {request!s} by {who}: {got}, not {want}")
    assert not wrong, "\n".join(wrong)
    every = {f"{method}" for _, method, *_ in MATRIX}
    assert every >= set(vars(secured.client.auth)) - {"Authenticate"} and every >= set(vars(secured.client.cluster))


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_a_token_is_shown_as_token_or_authorization(secured: Secured) -> None:
    (token,) = (value for _, value in secured.alice)
    for metadata in ((("token", token),), (("authorization", token),), (("token", token), ("authorization", "bad"))):
        assert keys(secured.client.kv.Range(rpc_pb2.RangeRequest(key=b"a"), metadata=metadata)) == [b"a"]
    bad = (("token", "bad"), ("authorization", token))
    assert failure(secured.client.kv.Range, rpc_pb2.RangeRequest(key=b"a"), metadata=bad) == INVALID_TOKEN


def test_bearer(secured: Secured) -> None:
    if secured.version < TIGHTENED:
        pytest.skip("since 3.5.32")
    metadata = (("authorization", f"Bearer {secured.alice[0][1]}"),)
    assert keys(secured.client.kv.Range(rpc_pb2.RangeRequest(key=b"a"), metadata=metadata)) == [b"a"]


@pytest.mark.parametrize("token", ["", "bad", "bad.1", "bad.x", ".1", "a.1.1", "x" * 5000, "eyJ.eyJ.x"])
def test_unknown_tokens(secured: Secured, token: str) -> None:
    metadata = (("token", token),)
    for method, request in (
        ("Range", rpc_pb2.RangeRequest(key=b"a")),
        ("Range", rpc_pb2.RangeRequest(key=b"a", serializable=True)),
        ("Put", rpc_pb2.PutRequest(key=b"a")),
        ("DeleteRange", rpc_pb2.DeleteRangeRequest(key=b"a")),
        ("Txn", rpc_pb2.TxnRequest()),
        ("Txn", txn_request([op_put(b"a")])),
        ("Compact", rpc_pb2.CompactionRequest(revision=1)),
    ):
        assert failure(getattr(secured.client.kv, method), request, metadata=metadata, timeout=5) == INVALID_TOKEN
    assert failure(secured.client.auth.UserList, rpc_pb2.AuthUserListRequest(), metadata=metadata) == INVALID_TOKEN


def test_a_token_of_an_entry_to_come_is_waited_for(secured: Secured) -> None:
    """Another member may know it already; the client's patience decides."""
    metadata = (("token", "aaaaaaaaaaaaaaaa.999999"),)
    request = rpc_pb2.RangeRequest(key=b"a", serializable=True)
    code, _ = failure(secured.client.kv.Range, request, metadata=metadata, timeout=0.3)
    assert code in ("DEADLINE_EXCEEDED", "UNAUTHENTICATED")  # the server gives up at the same time


def test_authenticate_refuses(secured: Secured, own: Client) -> None:
    authenticate = secured.client.auth.Authenticate
    for name, password in (("alice", "wrong"), ("alice", ""), ("nobody", "x"), ("", ""), ("alice", "x" * 100)):
        assert failure(authenticate, rpc_pb2.AuthenticateRequest(name=name, password=password)) == AUTH_FAILED
    assert failure(own.auth.Authenticate, rpc_pb2.AuthenticateRequest(name="a", password="b")) == NOT_ENABLED


def test_tokens_look_like_etcds(secured: Secured) -> None:
    letters, _, index = token_for(secured.client, "alice").partition(".")
    assert len(letters) == 16 and letters.isalpha() and letters.isascii() and index.isdigit()
    assert token_for(secured.client, "alice").partition(".")[0] != letters


def test_a_user_without_a_password(own: Client) -> None:
    options = auth_pb2.UserAddOptions(no_password=True)
    own.auth.UserAdd(rpc_pb2.AuthUserAddRequest(name="cn", password="ignored", options=options))
    enable_auth(own)
    for password in ("", "ignored", "x"):
        request = rpc_pb2.AuthenticateRequest(name="cn", password=password)
        assert failure(own.auth.Authenticate, request) == NO_PASSWORD_USER


def test_an_empty_password(own: Client) -> None:
    own.auth.UserAdd(rpc_pb2.AuthUserAddRequest(name="e"))
    enable_auth(own)
    assert own.auth.Authenticate(rpc_pb2.AuthenticateRequest(name="e")).token
    assert failure(own.auth.Authenticate, rpc_pb2.AuthenticateRequest(name="e", password="x")) == AUTH_FAILED


def test_long_passwords(own: Client) -> None:
    """What bcrypt can look at is 72 bytes."""
    longest = "é" * 36
    own.auth.UserAdd(rpc_pb2.AuthUserAddRequest(name="u", password=longest))
    enable_auth(own)
    root = login(own, "root")
    assert token_for(own, "u", longest) and token_for(own, "u", longest + "ignored")
    assert failure(own.auth.Authenticate, rpc_pb2.AuthenticateRequest(name="u", password=longest[1:])) == AUTH_FAILED
    if version_of(own, root) >= (3, 6):
        too_long = ("UNKNOWN", "bcrypt: password length exceeds 72 bytes")
        request = rpc_pb2.AuthUserAddRequest(name="v", password=longest + "x")
        assert failure(own.auth.UserAdd, request, metadata=root) == too_long
        change = rpc_pb2.AuthUserChangePasswordRequest(name="u", password=longest + "x")
        assert failure(own.auth.UserChangePassword, change, metadata=root) == too_long


def test_a_new_password_ends_tokens(own: Client) -> None:
    enable_auth(own, u=((READ, b"a", b""),))
    root, before, other = login(own, "root"), login(own, "u"), login(own, "root")
    own.auth.UserChangePassword(rpc_pb2.AuthUserChangePasswordRequest(name="u", password="new"), metadata=root)
    assert failure(own.kv.Range, rpc_pb2.RangeRequest(key=b"a"), metadata=before) == INVALID_TOKEN
    assert failure(own.auth.Authenticate, rpc_pb2.AuthenticateRequest(name="u", password="upw")) == AUTH_FAILED
    own.kv.Range(rpc_pb2.RangeRequest(key=b"a"), metadata=login(own, "u", "new"))
    own.kv.Range(rpc_pb2.RangeRequest(key=b"a"), metadata=other)


def test_a_deleted_user(own: Client) -> None:
    enable_auth(own, u=((READ, b"a", b""),))
    root, before = login(own, "root"), login(own, "u")
    own.auth.UserDelete(rpc_pb2.AuthUserDeleteRequest(name="u"), metadata=root)
    assert failure(own.kv.Range, rpc_pb2.RangeRequest(key=b"a"), metadata=before) == INVALID_TOKEN
    assert failure(own.auth.Authenticate, rpc_pb2.AuthenticateRequest(name="u", password="upw")) == AUTH_FAILED
    own.auth.UserAdd(rpc_pb2.AuthUserAddRequest(name="u", password="again"), metadata=root)
    assert failure(own.kv.Range, rpc_pb2.RangeRequest(key=b"a"), metadata=before) == INVALID_TOKEN


def test_changed_roles_count_at_once(own: Client) -> None:
    """A token says who one is; what one may do is looked up with every request."""
    enable_auth(own, u=())
    root, user = login(own, "root"), login(own, "u")
    read = rpc_pb2.RangeRequest(key=b"a")
    assert failure(own.kv.Range, read, metadata=user) == DENIED
    permission = auth_pb2.Permission(permType=READ, key=b"a", range_end=b"b")
    grant = rpc_pb2.AuthRoleGrantPermissionRequest(name="u", perm=permission)
    own.auth.RoleGrantPermission(grant, metadata=root)
    own.kv.Range(read, metadata=user)
    revoke = rpc_pb2.AuthRoleRevokePermissionRequest(role="u", key=b"a", range_end=b"b")
    own.auth.RoleRevokePermission(revoke, metadata=root)
    assert failure(own.kv.Range, read, metadata=user) == DENIED
    own.auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="u", role="root"), metadata=root)
    own.kv.Range(read, metadata=user)
    own.auth.UserList(rpc_pb2.AuthUserListRequest(), metadata=user)
    own.auth.UserRevokeRole(rpc_pb2.AuthUserRevokeRoleRequest(name="u", role="root"), metadata=root)
    assert failure(own.auth.UserList, rpc_pb2.AuthUserListRequest(), metadata=user) == DENIED


def test_switching_off_ends_tokens(own: Client) -> None:
    put(own, b"a", b"1")
    enable_auth(own, u=())
    root = login(own, "root")
    before = own.auth.AuthStatus(rpc_pb2.AuthStatusRequest(), metadata=root)
    own.auth.AuthDisable(rpc_pb2.AuthDisableRequest(), metadata=root)
    assert keys(get(own, b"a")) == [b"a"]
    status = own.auth.AuthStatus(rpc_pb2.AuthStatusRequest())
    assert (before.enabled, status.enabled) == (True, False)
    assert status.authRevision == before.authRevision + 1
    own.auth.AuthEnable(rpc_pb2.AuthEnableRequest())
    assert failure(own.kv.Range, rpc_pb2.RangeRequest(key=b"a"), metadata=root) == INVALID_TOKEN
    again = own.auth.AuthStatus(rpc_pb2.AuthStatusRequest(), metadata=login(own, "root"))
    assert again.authRevision == status.authRevision


def test_a_token_while_auth_is_off_is_ignored(own: Client) -> None:
    if version_of(own) < (3, 5, 10):
        pytest.skip("an error before 3.5.10")
    own.kv.Put(rpc_pb2.PutRequest(key=b"a"), metadata=(("token", "whatever"),))


@pytest.mark.slow
def test_tokens_are_used_up_by_time(start_server: Callable[..., tuple[EtcdServer, Client]]) -> None:
    """Unused for the time to live, and a little more for the sweep; use prolongs."""
    client = start_server("--bcrypt-cost=4", "--auth-token-ttl=2")[1]
    enable_auth(client, u=((READ, b"a", b""),))
    used, unused = login(client, "u"), login(client, "u")
    began = time.monotonic()

    def use() -> bool | None:
        client.kv.Range(rpc_pb2.RangeRequest(key=b"a"), metadata=used)
        return True if time.monotonic() - began > 4.2 else None

    wait_for("time to pass", use)
    assert failure(client.kv.Range, rpc_pb2.RangeRequest(key=b"a"), metadata=unused) == INVALID_TOKEN


def test_tokens_do_not_outlive_a_restart_but_auth_does(
    start_server: Callable[..., tuple[EtcdServer, Client]],
) -> None:
    server, client = start_server("--bcrypt-cost=4")
    put(client, b"a", b"1")
    enable_auth(client, u=((READ, b"a", b""),))
    user = login(client, "u")
    server.restart()  # softly: a log that is replayed makes its tokens again
    with Client(server.client_endpoint) as again:
        assert failure(again.kv.Range, rpc_pb2.RangeRequest(key=b"a"), timeout=10) == USER_EMPTY
        assert failure(again.kv.Range, rpc_pb2.RangeRequest(key=b"a"), metadata=user, timeout=10) == INVALID_TOKEN
        assert keys(again.kv.Range(rpc_pb2.RangeRequest(key=b"a"), metadata=login(again, "u"))) == [b"a"]


# --- users and roles ------------------------------------------------------------------------------------------------


def test_auth_revision_counts_changes(own: Client) -> None:
    def revision(metadata: Metadata = ()) -> int:
        answer: int = own.auth.AuthStatus(rpc_pb2.AuthStatusRequest(), metadata=metadata).authRevision
        return answer

    assert revision() == 1
    enable_auth(own, u=((READ, b"a", b""),))  # two users, two roles, a permission, two grants
    root = login(own, "root")
    assert revision(root) == 8
    own.auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="u", role="u"), metadata=root)
    own.auth.AuthEnable(rpc_pb2.AuthEnableRequest(), metadata=root)
    assert revision(root) == 8
    own.auth.UserRevokeRole(rpc_pb2.AuthUserRevokeRoleRequest(name="u", role="u"), metadata=root)
    assert revision(root) == 9


def test_enabling_needs_a_root(own: Client) -> None:
    enable = own.auth.AuthEnable
    no_root = ("FAILED_PRECONDITION", "etcdserver: root user does not exist")
    no_role = ("FAILED_PRECONDITION", "etcdserver: root user does not have root role")
    assert failure(enable, rpc_pb2.AuthEnableRequest()) == no_root
    own.auth.UserAdd(rpc_pb2.AuthUserAddRequest(name="root", password="rootpw"))
    assert failure(enable, rpc_pb2.AuthEnableRequest()) == no_role
    own.auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="root", role="root"))
    enable(rpc_pb2.AuthEnableRequest())
    root = login(own, "root")
    assert list(own.auth.RoleList(rpc_pb2.AuthRoleListRequest(), metadata=root).roles) == []


def test_users_and_roles_are_listed_by_name(own: Client) -> None:
    expected = sorted(["b", "a", "c" * 600, "é", "Z"], key=str.encode)
    for name in reversed(expected):
        add_user(own, name, password="pw")
    assert list(own.auth.UserList(rpc_pb2.AuthUserListRequest()).users) == expected
    assert list(own.auth.RoleList(rpc_pb2.AuthRoleListRequest()).roles) == expected
    assert list(own.auth.UserGet(rpc_pb2.AuthUserGetRequest(name="c" * 600)).roles) == ["c" * 600]


def test_deleting_a_role_takes_it_from_users(own: Client) -> None:
    add_user(own, "u", ((READ, b"a", b""),))
    own.auth.RoleDelete(rpc_pb2.AuthRoleDeleteRequest(role="u"))
    assert list(own.auth.UserGet(rpc_pb2.AuthUserGetRequest(name="u")).roles) == []


def test_permissions_of_a_role(own: Client) -> None:
    rights = ((READ, b"c", b""), (READ, b"a", b"b"), (WRITE, b"a", b"b"), (READWRITE, b"b", b"\0"))
    add_user(own, "r", rights)
    found = own.auth.RoleGet(rpc_pb2.AuthRoleGetRequest(role="r")).perm
    expected = [(WRITE, b"a", b"b"), (READWRITE, b"b", b"\0"), (READ, b"c", b"")]
    assert [(each.permType, each.key, each.range_end) for each in found] == expected


def test_a_permission_must_be_a_range(own: Client) -> None:
    if version_of(own) < (3, 5, 8):
        pytest.skip("stored as it is before 3.5.8")
    own.auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name="r"))
    grant = own.auth.RoleGrantPermission
    for key, range_end in ((b"", b""), (b"", b"\0"), (b"b", b"a"), (b"b", b"b")):
        permission = auth_pb2.Permission(permType=READ, key=key, range_end=range_end)
        request = rpc_pb2.AuthRoleGrantPermissionRequest(name="r", perm=permission)
        assert failure(grant, request) == INVALID_MANAGEMENT, (key, range_end)
    not_given = ("INVALID_ARGUMENT", "etcdserver: permission not given")
    assert failure(grant, rpc_pb2.AuthRoleGrantPermissionRequest(name="r")) == not_given


# --- ranges and leases ----------------------------------------------------------------------------------------------


def test_rights_of_several_roles_join(own: Client) -> None:
    enable_auth(own, u=((READ, b"a", b"c"),), v=((READ, b"c", b"e"), (WRITE, b"a", b"\0")))
    root, user = login(own, "root"), login(own, "u")
    everything = rpc_pb2.RangeRequest(key=b"a", range_end=b"e")
    assert failure(own.kv.Range, everything, metadata=user) == DENIED
    own.auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="u", role="v"), metadata=root)
    own.kv.Range(everything, metadata=user)
    open_end = rpc_pb2.DeleteRangeRequest(key=b"b", range_end=b"\0")
    own.kv.DeleteRange(open_end, metadata=user)
    assert failure(own.kv.DeleteRange, rpc_pb2.DeleteRangeRequest(key=b"A"), metadata=user) == DENIED


def test_a_watcher_needs_to_read(secured: Secured) -> None:
    denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    told = {
        (): "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
        (("token", "bad"),): "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
    }
    for metadata, reason in told.items():
        stream = WatchStream(secured.client, metadata)
        answer = stream.create(b"a")
        assert answer.created and answer.canceled
        assert answer.cancel_reason == (denied if secured.version < (3, 5, 6) else reason)
        stream.call.cancel()
    stream = WatchStream(secured.client, secured.alice)
    refused = stream.create(b"a", b"d", watch_id=5)
    assert (refused.created, refused.canceled, refused.cancel_reason) == (True, True, denied)
    assert refused.watch_id == (5 if secured.version < (3, 5, 6) else -1)
    allowed = stream.create(b"a", b"c")
    assert (allowed.created, allowed.canceled, allowed.watch_id) == (True, False, 0)
    revision = secured.client.kv.Put(rpc_pb2.PutRequest(key=b"a", value=b"x"), metadata=secured.root).header.revision
    assert stream.take().events[0].kv.mod_revision == revision
    stream.call.cancel()


def test_a_watcher_of_all_keys_needs_all_rights(secured: Secured) -> None:
    if secured.version < (3, 5, 20):
        pytest.skip("taken for a single key by 3.5.1")
    stream = WatchStream(secured.client, secured.alice)
    assert stream.create(b"a", b"\0").canceled
    stream.call.cancel()


def test_keeping_a_lease_alive_needs_its_keys(own: Client) -> None:
    for lease, key in ((1, b"mine"), (2, b"theirs"), (3, b"")):
        own.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=600, ID=lease))
        if key:
            put(own, key, b"", lease=lease)
    enable_auth(own, u=((READWRITE, b"mine", b""),))
    root, user = login(own, "root"), login(own, "u")
    if version_of(own, root) < TIGHTENED:
        pytest.skip("open to everybody before")

    def renew(lease: int, metadata: Metadata) -> tuple[str, str] | int:
        call = own.lease.LeaseKeepAlive(iter([rpc_pb2.LeaseKeepAliveRequest(ID=lease)]), metadata=metadata)
        try:
            return next(call).TTL
        except grpc.RpcError as error:
            return status_of(error)

    assert [renew(lease, user) for lease in (1, 2, 3, 99)] == [600, DENIED, 600, 0]
    assert [renew(lease, root) for lease in (1, 2, 3)] == [600, 600, 600]
    assert [renew(lease, ()) for lease in (1, 3)] == [USER_EMPTY, USER_EMPTY]
    assert renew(1, (("token", "bad"),)) == INVALID_TOKEN


def test_a_lease_expires_while_auth_is_on(own: Client) -> None:
    """The member revokes it by itself."""
    own.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=2, ID=5))
    put(own, b"short", b"", lease=5)
    enable_auth(own, u=())
    root = login(own, "root")
    with WatchStream(own, root) as stream:
        stream.create(b"short")
        assert stream.take().events[0].type == 1
    delete_missing = own.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"short"), metadata=root)
    assert delete_missing.deleted == 0


def test_nothing_is_written_by_who_may_not(own: Client) -> None:
    put(own, b"a", b"1")
    enable_auth(own, u=((READ, b"a", b""),))
    root, user = login(own, "root"), login(own, "u")
    before = own.kv.Range(rpc_pb2.RangeRequest(key=b"a"), metadata=root)
    for call, request in (
        (own.kv.Put, rpc_pb2.PutRequest(key=b"a", value=b"2")),
        (own.kv.DeleteRange, rpc_pb2.DeleteRangeRequest(key=b"a")),
        (own.kv.Txn, txn_request([op_put(b"a", b"2")])),
    ):
        assert failure(call, request, metadata=user) == DENIED
        assert failure(call, request) == USER_EMPTY
    after = own.kv.Range(rpc_pb2.RangeRequest(key=b"a"), metadata=root)
    assert before == after
    own.auth.AuthDisable(rpc_pb2.AuthDisableRequest(), metadata=root)
    assert delete(own, b"a").deleted == 1
