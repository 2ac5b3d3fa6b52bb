"""Auth requests in the log: what each changes, what it answers, and what the log then lets whom do."""

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import bcrypt
import pytest

from ratifyd import schema
from ratifyd.apply import auth, permissions, requests
from ratifyd.apply.entries import apply_entry, waiter_of
from ratifyd.apply.permissions import check_txn
from ratifyd.apply.requests import Row, decode
from ratifyd.apply.state import State
from ratifyd.apply.txn import Txn
from ratifyd.auth.identity import ANONYMOUS, Identity
from ratifyd.auth.tokens import NoTokens
from ratifyd.errors import (
    AuthFailed,
    AuthNotEnabled,
    AuthOldRevision,
    Corrupt,
    EtcdError,
    InvalidAuthMgmt,
    NoPasswordUser,
    NoSpace,
    PermissionDenied,
    PermissionNotGiven,
    PermissionNotGranted,
    RequestTooLarge,
    RoleAlreadyExist,
    RoleEmpty,
    RoleNotFound,
    RoleNotGranted,
    RootRoleNotExist,
    RootUserNotExist,
    UserAlreadyExist,
    UserEmpty,
    UserNotFound,
)
from ratifyd.membership import Membership
from ratifyd.proto import fast
from ratifyd.proto import rpc_pb2 as rpc
from ratifyd.proto.auth_pb2 import Permission, UserAddOptions
from ratifyd.proto.raft_internal_pb2 import InternalAuthenticateRequest, InternalRaftRequest
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.worker import SoonWorker

HASH = b"$2a$04$0123456789012345678901"


class Book(NoTokens):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def assign(self, user: str, auth_revision: int, simple_token: str, index: int, wanted: bool) -> str:
        self.told.append((user, auth_revision, simple_token, index, wanted))
        return f"{simple_token}.{index}"

    def invalidate_user(self, user: str) -> None:
        self.told.append(user)

    def invalidate_all(self) -> None:
        self.told.append("everybody")


class Log:
    """A state machine fed with entries of users."""

    def __init__(self, backend: MemoryBackend | None = None) -> None:
        self.worker = SoonWorker(lambda callback, *args: callback(*args))
        self.backend = backend or MemoryBackend(self.worker)
        self.state = State(self.backend, Membership(1, 2), min_ttl_s=2)
        for _ in self.state.restore():
            pass
        self.book = Book()
        self.state.auth.tokens = self.book
        self.index = self.state.consistent_index

    def apply(self, row: Row, request: Any, identity: Identity = ANONYMOUS, *, wanted: bool = True) -> bytes:
        """The answer's body; raises the error."""
        self.index += 1
        header = fast.request_header(self.index, *identity)
        data = fast.internal_raft_request(row.tag, request.SerializeToString(), header)
        outcome = apply_entry(
            self.state, self.index, 3, data, {data: waiter_of(lambda body, error: None, 0.0)} if wanted else {}
        )
        assert outcome is not None
        assert (outcome.request_id, outcome.row) == (self.index, row)
        if outcome.error is not None:
            raise outcome.error
        return outcome.body

    def now(self, user: str) -> Identity:
        return Identity(user, self.state.auth.revision)

    def as_root(self, row: Row, request: Any) -> bytes:
        return self.apply(row, request, self.now("root"))

    def restart(self) -> "Log":
        self.state.seal(lambda error: None)
        return Log(self.backend.survivor(self.worker))

    def rows(self, bucket: bytes) -> dict[bytes, bytes]:
        return dict(self.state.buffer.range(bucket, b"", None))


def user_add(name: str, hashed: bytes = HASH, **more: Any) -> rpc.AuthUserAddRequest:
    return rpc.AuthUserAddRequest(name=name, hashedPassword=b64encode(hashed), **more)


def grant(role: str, kind: "Permission.Type", key: bytes, range_end: bytes = b"") -> rpc.AuthRoleGrantPermissionRequest:
    return rpc.AuthRoleGrantPermissionRequest(name=role, perm=Permission(permType=kind, key=key, range_end=range_end))


def failure(call: Callable[..., object], *args: Any) -> type[EtcdError] | None:
    try:
        call(*args)
    except EtcdError as error:
        return type(error)
    return None


@pytest.fixture
def log() -> Log:
    """Auth is off. There are root, who may do all, alice, who may write a-b and read c, and bob, who may do nothing."""
    log = Log()
    for name in ("root", "alice", "bob"):
        log.apply(requests.AUTH_USER_ADD, user_add(name))
    log.apply(requests.AUTH_USER_GRANT_ROLE, rpc.AuthUserGrantRoleRequest(user="root", role="root"))
    log.apply(requests.AUTH_ROLE_ADD, rpc.AuthRoleAddRequest(name="writer"))
    log.apply(requests.AUTH_ROLE_GRANT_PERMISSION, grant("writer", Permission.WRITE, b"a", b"c"))
    log.apply(requests.AUTH_ROLE_GRANT_PERMISSION, grant("writer", Permission.READ, b"c"))
    log.apply(requests.AUTH_USER_GRANT_ROLE, rpc.AuthUserGrantRoleRequest(user="alice", role="writer"))
    return log


@pytest.fixture
def guarded(log: Log) -> Log:
    """The same with auth on."""
    log.apply(requests.AUTH_ENABLE, rpc.AuthEnableRequest())
    return log


# --- counting


def test_a_new_store_counts_from_one() -> None:
    log = Log()
    assert log.state.auth.revision == 1
    assert log.rows(schema.AUTH) == {schema.AUTH_REVISION: schema.encode_u64(1)}


def test_every_change_counts_once(log: Log) -> None:
    revision = log.state.auth.revision
    assert revision == 9
    changes: list[tuple[Row, Any]] = [
        (requests.AUTH_USER_CHANGE_PASSWORD, rpc.AuthUserChangePasswordRequest(name="bob")),
        (requests.AUTH_USER_REVOKE_ROLE, rpc.AuthUserRevokeRoleRequest(name="alice", role="writer")),
        (
            requests.AUTH_ROLE_REVOKE_PERMISSION,
            rpc.AuthRoleRevokePermissionRequest(role="writer", key=b"a", range_end=b"c"),
        ),
        (requests.AUTH_ROLE_GRANT_PERMISSION, grant("writer", Permission.READWRITE, b"c")),
        (requests.AUTH_ROLE_DELETE, rpc.AuthRoleDeleteRequest(role="writer")),
        (requests.AUTH_USER_DELETE, rpc.AuthUserDeleteRequest(name="bob")),
    ]
    for row, request in changes:
        assert log.apply(row, request) == b""
        revision += 1
        assert log.state.auth.revision == revision
        assert log.rows(schema.AUTH)[schema.AUTH_REVISION] == schema.encode_u64(revision)


def test_what_changes_nothing_does_not_count(guarded: Log) -> None:
    """Nor does switching auth on; switching it off does (semantics 9.1)."""
    still = guarded.state.auth.revision
    assert still == 9
    guarded.as_root(requests.AUTH_ENABLE, rpc.AuthEnableRequest())
    guarded.as_root(requests.AUTH_USER_GRANT_ROLE, rpc.AuthUserGrantRoleRequest(user="root", role="root"))
    guarded.as_root(requests.AUTH_USER_LIST, rpc.AuthUserListRequest())
    assert guarded.state.auth.revision == still
    guarded.as_root(requests.AUTH_DISABLE, rpc.AuthDisableRequest())
    assert guarded.state.auth.revision == still + 1
    guarded.apply(requests.AUTH_DISABLE, rpc.AuthDisableRequest())
    assert guarded.state.auth.revision == still + 1


def test_all_of_it_survives_a_restart(guarded: Log) -> None:
    again = guarded.restart()
    ours, theirs = again.state.auth, guarded.state.auth
    assert (ours.enabled, ours.revision, ours.users, ours.roles) == (True, 9, theirs.users, theirs.roles)
    assert again.rows(schema.AUTH)[schema.AUTH_ENABLED] == b"\x01"
    again.as_root(requests.AUTH_DISABLE, rpc.AuthDisableRequest())
    assert again.rows(schema.AUTH)[schema.AUTH_ENABLED] == b"\x00"
    assert not again.restart().state.auth.enabled


def test_a_snapshot_replaces_it(guarded: Log) -> None:
    """The backend has been replaced when a state is taken over: what counts is what is in it now."""
    other = Log()
    guarded.state.seal(lambda error: None)
    for bucket in (schema.AUTH, schema.AUTH_USERS, schema.AUTH_ROLES):
        other.backend.commit({bucket: guarded.rows(bucket)}, lambda error: None)
    other.state.take_over(guarded.state)
    assert (other.state.auth.enabled, other.state.auth.revision) == (True, 9)
    assert other.state.auth.users == guarded.state.auth.users
    assert other.state.auth.tokens is other.book


def install(log: Log, state: State) -> None:
    """A snapshot of another member's state, which this one has missed the entries of."""
    state.seal(lambda error: None)
    for bucket in (schema.AUTH, schema.AUTH_USERS, schema.AUTH_ROLES):
        rows = dict(state.buffer.range(bucket, b"", None))
        gone: dict[bytes, bytes | None] = dict.fromkeys(log.rows(bucket).keys() - rows.keys())
        log.backend.commit({bucket: rows | gone}, lambda error: None)
    log.state.take_over(state)


def test_a_snapshot_ends_the_tokens_of_who_is_gone_or_has_another_password(guarded: Log) -> None:
    leader = guarded.restart()
    change = rpc.AuthUserChangePasswordRequest(name="alice", hashedPassword=b64encode(b"$2a$04$another"))
    leader.as_root(requests.AUTH_USER_CHANGE_PASSWORD, change)
    leader.as_root(requests.AUTH_USER_DELETE, rpc.AuthUserDeleteRequest(name="bob"))
    follower = guarded.restart()
    install(follower, leader.state)
    assert sorted(map(str, follower.book.told)) == ["alice", "bob"]
    leader.as_root(requests.AUTH_DISABLE, rpc.AuthDisableRequest())
    follower.book.told.clear()
    install(follower, leader.state)
    assert follower.book.told == ["everybody"]


def test_a_snapshot_from_before_auth_begins_to_count() -> None:
    log = Log()
    log.state.take_over(log.state)
    assert log.rows(schema.AUTH) == {schema.AUTH_REVISION: schema.encode_u64(1)}


# --- refusals

REFUSED: list[tuple[Row, Any, type[EtcdError]]] = [
    (requests.AUTH_USER_ADD, user_add(""), UserEmpty),
    (requests.AUTH_USER_ADD, user_add("bob"), UserAlreadyExist),
    (requests.AUTH_USER_ADD, rpc.AuthUserAddRequest(name="x", hashedPassword="?"), NoPasswordUser),
    (requests.AUTH_USER_ADD, rpc.AuthUserAddRequest(name="x", hashedPassword="QUJD="), NoPasswordUser),
    (requests.AUTH_USER_ADD, rpc.AuthUserAddRequest(name="x", hashedPassword="QUI"), NoPasswordUser),
    (requests.AUTH_USER_ADD, rpc.AuthUserAddRequest(name="x", hashedPassword="="), NoPasswordUser),
    (requests.AUTH_USER_ADD, rpc.AuthUserAddRequest(name="x", password="p" * 73), NoPasswordUser),
    (requests.AUTH_USER_ADD, user_add("u" * (auth.MAX_NAME_BYTES + 1)), RequestTooLarge),
    (requests.AUTH_USER_DELETE, rpc.AuthUserDeleteRequest(name="x"), UserNotFound),
    (requests.AUTH_USER_DELETE, rpc.AuthUserDeleteRequest(), UserNotFound),
    (requests.AUTH_USER_GET, rpc.AuthUserGetRequest(name="x"), UserNotFound),
    (requests.AUTH_USER_CHANGE_PASSWORD, rpc.AuthUserChangePasswordRequest(name="x"), UserNotFound),
    (
        requests.AUTH_USER_CHANGE_PASSWORD,
        rpc.AuthUserChangePasswordRequest(name="bob", hashedPassword="?"),
        NoPasswordUser,
    ),
    (requests.AUTH_USER_GRANT_ROLE, rpc.AuthUserGrantRoleRequest(user="x", role="writer"), UserNotFound),
    (requests.AUTH_USER_GRANT_ROLE, rpc.AuthUserGrantRoleRequest(user="bob", role="x"), RoleNotFound),
    (requests.AUTH_USER_REVOKE_ROLE, rpc.AuthUserRevokeRoleRequest(name="x", role="writer"), UserNotFound),
    (requests.AUTH_USER_REVOKE_ROLE, rpc.AuthUserRevokeRoleRequest(name="bob", role="writer"), RoleNotGranted),
    (requests.AUTH_ROLE_ADD, rpc.AuthRoleAddRequest(), RoleEmpty),
    (requests.AUTH_ROLE_ADD, rpc.AuthRoleAddRequest(name="writer"), RoleAlreadyExist),
    (requests.AUTH_ROLE_ADD, rpc.AuthRoleAddRequest(name="r" * (auth.MAX_NAME_BYTES + 1)), RequestTooLarge),
    (requests.AUTH_ROLE_DELETE, rpc.AuthRoleDeleteRequest(role="x"), RoleNotFound),
    (requests.AUTH_ROLE_GET, rpc.AuthRoleGetRequest(role="root"), RoleNotFound),
    (requests.AUTH_ROLE_GRANT_PERMISSION, rpc.AuthRoleGrantPermissionRequest(name="x"), PermissionNotGiven),
    (requests.AUTH_ROLE_GRANT_PERMISSION, grant("x", Permission.READ, b"b", b"a"), InvalidAuthMgmt),
    (requests.AUTH_ROLE_GRANT_PERMISSION, grant("writer", Permission.READ, b"", b"\0"), InvalidAuthMgmt),
    (requests.AUTH_ROLE_GRANT_PERMISSION, grant("x", Permission.READ, b"a"), RoleNotFound),
    (requests.AUTH_ROLE_REVOKE_PERMISSION, rpc.AuthRoleRevokePermissionRequest(role="x"), RoleNotFound),
    (requests.AUTH_ROLE_REVOKE_PERMISSION, rpc.AuthRoleRevokePermissionRequest(role="writer"), PermissionNotGranted),
]
OF_THE_STATE: list[tuple[Row, Any, type[EtcdError]]] = [
    (requests.AUTH_USER_DELETE, rpc.AuthUserDeleteRequest(name="root"), InvalidAuthMgmt),
    (requests.AUTH_USER_REVOKE_ROLE, rpc.AuthUserRevokeRoleRequest(name="root", role="root"), InvalidAuthMgmt),
    (requests.AUTH_ROLE_DELETE, rpc.AuthRoleDeleteRequest(role="root"), InvalidAuthMgmt),
    (requests.AUTHENTICATE, InternalAuthenticateRequest(name="x"), AuthFailed),
]


@pytest.mark.parametrize(("row", "request_", "error"), REFUSED + OF_THE_STATE)
def test_what_is_refused_changes_nothing(guarded: Log, row: Row, request_: Any, error: type[EtcdError]) -> None:
    before = [guarded.rows(bucket) for bucket in schema.BUCKETS]
    assert failure(guarded.as_root, row, request_) is error
    assert [guarded.rows(bucket) for bucket in schema.BUCKETS] == before
    assert guarded.state.auth.revision == 9
    assert guarded.state.consistent_index == guarded.index


def test_root_is_protected_only_while_auth_is_on(log: Log) -> None:
    assert failure(log.apply, requests.AUTHENTICATE, InternalAuthenticateRequest(name="root")) is AuthNotEnabled
    log.apply(requests.AUTH_USER_REVOKE_ROLE, rpc.AuthUserRevokeRoleRequest(name="root", role="root"))
    assert failure(log.apply, requests.AUTH_ENABLE, rpc.AuthEnableRequest()) is RootRoleNotExist
    log.apply(requests.AUTH_USER_DELETE, rpc.AuthUserDeleteRequest(name="root"))
    assert failure(log.apply, requests.AUTH_ENABLE, rpc.AuthEnableRequest()) is RootUserNotExist
    assert not log.state.auth.enabled


# --- users and roles


def test_lists_are_in_byte_order(log: Log) -> None:
    for name in ("zoë", "Ünal", "a", "~"):
        log.apply(requests.AUTH_USER_ADD, user_add(name))
        log.apply(requests.AUTH_ROLE_ADD, rpc.AuthRoleAddRequest(name=name))
        log.apply(requests.AUTH_USER_GRANT_ROLE, rpc.AuthUserGrantRoleRequest(user="bob", role=name))
    users = rpc.AuthUserListResponse.FromString(log.apply(requests.AUTH_USER_LIST, rpc.AuthUserListRequest())).users
    assert list(users) == ["a", "alice", "bob", "root", "zoë", "~", "Ünal"]
    roles = rpc.AuthRoleListResponse.FromString(log.apply(requests.AUTH_ROLE_LIST, rpc.AuthRoleListRequest())).roles
    assert list(roles) == ["a", "writer", "zoë", "~", "Ünal"]
    held = rpc.AuthUserGetResponse.FromString(log.apply(requests.AUTH_USER_GET, rpc.AuthUserGetRequest(name="bob")))
    assert list(held.roles) == ["a", "zoë", "~", "Ünal"]


def test_a_deleted_role_is_taken_from_its_users(log: Log) -> None:
    log.apply(requests.AUTH_ROLE_DELETE, rpc.AuthRoleDeleteRequest(role="writer"))
    assert log.state.auth.users["alice"].roles == ()
    assert log.rows(schema.AUTH_USERS)[b"alice"] == log.state.auth.users["alice"].encode()
    assert log.rows(schema.AUTH_ROLES) == {}


def test_permissions_of_a_key_are_replaced_by_the_first_only(log: Log) -> None:
    """Granting looks at the first permission with the key; another range makes another permission (semantics 9.9)."""
    for kind, range_end in ((Permission.READ, b"m"), (Permission.WRITE, b"c"), (Permission.READWRITE, b"m")):
        log.apply(requests.AUTH_ROLE_GRANT_PERMISSION, grant("writer", kind, b"a", range_end))
    body = log.apply(requests.AUTH_ROLE_GET, rpc.AuthRoleGetRequest(role="writer"))
    found = [(p.permType, p.key, p.range_end) for p in rpc.AuthRoleGetResponse.FromString(body).perm]
    assert found == [(1, b"a", b"c"), (0, b"a", b"m"), (2, b"a", b"m"), (0, b"c", b"")]
    log.apply(
        requests.AUTH_ROLE_REVOKE_PERMISSION,
        rpc.AuthRoleRevokePermissionRequest(role="writer", key=b"a", range_end=b"m"),
    )
    assert [p.range_end for p in log.state.auth.roles["writer"].permissions] == [b"c", b""]


def test_the_role_root_may_do_all_whatever_is_on_record(log: Log) -> None:
    log.apply(requests.AUTH_ROLE_ADD, rpc.AuthRoleAddRequest(name="root"))
    log.apply(requests.AUTH_ROLE_GRANT_PERMISSION, grant("root", Permission.READ, b"a"))
    body = log.apply(requests.AUTH_ROLE_GET, rpc.AuthRoleGetRequest(role="root"))
    assert list(rpc.AuthRoleGetResponse.FromString(body).perm) == [
        Permission(permType=Permission.READWRITE, key=b"", range_end=b"\0")
    ]


# --- passwords and tokens


def test_a_hash_is_kept_as_it_comes(log: Log) -> None:
    log.apply(requests.AUTH_USER_ADD, user_add("x", b"any bytes \xff"))
    log.apply(requests.AUTH_USER_ADD, user_add("y", options=UserAddOptions(no_password=True)))
    broken = b64encode(HASH).decode()
    broken = f"{broken[:7]}\r\n{broken[7:]}\n"
    log.apply(requests.AUTH_USER_ADD, rpc.AuthUserAddRequest(name="z", password="ignored", hashedPassword=broken))
    users = log.state.auth.users
    assert [users[name].password for name in "xyz"] == [b"any bytes \xff", b"", HASH]
    assert [users[name].no_password for name in "xyz"] == [False, True, False]
    for name in "xyz":
        change = rpc.AuthUserChangePasswordRequest(name=name, hashedPassword=b64encode(b"new"))
        log.apply(requests.AUTH_USER_CHANGE_PASSWORD, change)
    assert [users[name].password for name in "xyz"] == [b"new", b"", b"new"]


def test_a_password_in_the_clear_is_hashed_alike_on_every_member() -> None:
    """As members before 3.5 send them."""
    logs = Log(), Log()
    for log in logs:
        log.apply(requests.AUTH_USER_ADD, rpc.AuthUserAddRequest(name="old", password="secret"))
        log.apply(requests.AUTH_USER_ADD, rpc.AuthUserAddRequest(name="older", password="secret"))
    first, second = (log.rows(schema.AUTH_USERS) for log in logs)
    assert first == second
    passwords = [user.password for user in logs[0].state.auth.users.values()]
    assert len(set(passwords)) == 2
    assert all(bcrypt.checkpw(b"secret", password) and len(password) == 60 for password in passwords)


def test_tokens_hear_of_what_ends_them(guarded: Log) -> None:
    guarded.as_root(requests.AUTH_USER_CHANGE_PASSWORD, rpc.AuthUserChangePasswordRequest(name="alice"))
    guarded.as_root(requests.AUTH_USER_GRANT_ROLE, rpc.AuthUserGrantRoleRequest(user="bob", role="writer"))
    guarded.as_root(requests.AUTH_USER_DELETE, rpc.AuthUserDeleteRequest(name="bob"))
    guarded.as_root(requests.AUTH_DISABLE, rpc.AuthDisableRequest())
    assert guarded.book.told == ["alice", "bob", "everybody"]


@pytest.mark.parametrize(("version", "before"), [("", 0), ("3.5.0", 0), ("3.6.0", 1), ("3.10.0", 1)])
def test_a_token_names_the_entry_as_the_clusters_version_does(guarded: Log, version: str, before: int) -> None:
    guarded.state.members.cluster_version = version
    request = InternalAuthenticateRequest(name="alice", simple_token="abc")
    body = guarded.apply(requests.AUTHENTICATE, request)
    index = guarded.index - before
    assert rpc.AuthenticateResponse.FromString(body).token == f"abc.{index}"
    assert guarded.book.told == [("alice", 9, "abc", index, True)]
    assert guarded.apply(requests.AUTHENTICATE, request, wanted=False) == b""
    assert guarded.book.told[1] == ("alice", 9, "abc", index + 1, False)


def test_a_user_without_a_password_gets_no_token(guarded: Log) -> None:
    guarded.as_root(requests.AUTH_USER_ADD, user_add("cert", options=UserAddOptions(no_password=True)))
    assert failure(guarded.apply, requests.AUTHENTICATE, InternalAuthenticateRequest(name="cert")) is AuthFailed


# --- who may have what executed

ADMINS_ONLY: list[tuple[Row, Any]] = [
    (requests.AUTH_ENABLE, rpc.AuthEnableRequest()),
    (requests.AUTH_DISABLE, rpc.AuthDisableRequest()),
    (requests.AUTH_STATUS, rpc.AuthStatusRequest()),
    (requests.AUTH_USER_ADD, user_add("new")),
    (requests.AUTH_USER_DELETE, rpc.AuthUserDeleteRequest(name="bob")),
    (requests.AUTH_USER_CHANGE_PASSWORD, rpc.AuthUserChangePasswordRequest(name="alice")),
    (requests.AUTH_USER_GRANT_ROLE, rpc.AuthUserGrantRoleRequest(user="alice", role="root")),
    (requests.AUTH_USER_REVOKE_ROLE, rpc.AuthUserRevokeRoleRequest(name="alice", role="writer")),
    (requests.AUTH_USER_LIST, rpc.AuthUserListRequest()),
    (requests.AUTH_USER_GET, rpc.AuthUserGetRequest(name="root")),
    (requests.AUTH_ROLE_ADD, rpc.AuthRoleAddRequest(name="new")),
    (requests.AUTH_ROLE_DELETE, rpc.AuthRoleDeleteRequest(role="writer")),
    (requests.AUTH_ROLE_LIST, rpc.AuthRoleListRequest()),
    (requests.AUTH_ROLE_GET, rpc.AuthRoleGetRequest(role="root")),
    (requests.AUTH_ROLE_GRANT_PERMISSION, grant("writer", Permission.READ, b"x")),
    (
        requests.AUTH_ROLE_REVOKE_PERMISSION,
        rpc.AuthRoleRevokePermissionRequest(role="writer", key=b"a", range_end=b"c"),
    ),
]


@pytest.mark.parametrize(("row", "request_"), ADMINS_ONLY, ids=lambda value: getattr(value, "field", ""))
def test_only_admins_manage(guarded: Log, row: Row, request_: Any) -> None:
    guarded.as_root(requests.AUTH_ROLE_ADD, rpc.AuthRoleAddRequest(name="root"))
    before = [guarded.rows(bucket) for bucket in schema.BUCKETS]
    for identity, error in (
        (ANONYMOUS, UserEmpty),
        (guarded.now("alice"), PermissionDenied),
        (guarded.now("stranger"), UserNotFound),
    ):
        assert failure(guarded.apply, row, request_, identity) is error
        assert [guarded.rows(bucket) for bucket in schema.BUCKETS] == before
    guarded.apply(row, request_, Identity("root", 1))  # of an older revision, as nothing of a range is asked


def test_users_see_themselves_and_their_roles(guarded: Log) -> None:
    alice = guarded.now("alice")
    body = guarded.apply(requests.AUTH_USER_GET, rpc.AuthUserGetRequest(name="alice"), alice)
    assert list(rpc.AuthUserGetResponse.FromString(body).roles) == ["writer"]
    guarded.apply(requests.AUTH_ROLE_GET, rpc.AuthRoleGetRequest(role="writer"), alice)
    assert (
        failure(guarded.apply, requests.AUTH_ROLE_GET, rpc.AuthRoleGetRequest(role="other"), alice) is PermissionDenied
    )
    bob = guarded.now("bob")
    assert (
        failure(guarded.apply, requests.AUTH_ROLE_GET, rpc.AuthRoleGetRequest(role="writer"), bob) is PermissionDenied
    )


def test_the_log_without_auth_asks_nobody(log: Log) -> None:
    for row, request in ADMINS_ONLY[3:13]:
        log.apply(row, request, Identity("stranger", 1))
    log.apply(requests.PUT, rpc.PutRequest(key=b"z"), Identity("stranger", 1))


def op(kind: str, request: Any) -> rpc.RequestOp:
    return rpc.RequestOp(**{kind: request})


PUT_A, PUT_C = op("request_put", rpc.PutRequest(key=b"a")), op("request_put", rpc.PutRequest(key=b"c"))
NESTED_PUT_C = op("request_txn", rpc.TxnRequest(failure=[PUT_C]))
READ_C = op("request_range", rpc.RangeRequest(key=b"c"))
READ_A = op("request_range", rpc.RangeRequest(key=b"a"))
LEASED = op("request_put", rpc.PutRequest(key=b"a", lease=7))
DELETE_AB = op("request_delete_range", rpc.DeleteRangeRequest(key=b"a", range_end=b"c"))
DELETE_PREV = op("request_delete_range", rpc.DeleteRangeRequest(key=b"a", prev_kv=True))
COMPARE_A = rpc.Compare(key=b"a", result=rpc.Compare.GREATER)
COMPARE_C = rpc.Compare(key=b"c", range_end=b"c\0", result=rpc.Compare.GREATER)

ALICES: list[tuple[Row, Any, bool]] = [
    (requests.PUT, rpc.PutRequest(key=b"a"), True),
    (requests.PUT, rpc.PutRequest(key=b"c"), False),
    (requests.PUT, rpc.PutRequest(key=b"a", prev_kv=True), False),
    (requests.PUT, rpc.PutRequest(key=b"a", lease=5), True),
    (requests.PUT, rpc.PutRequest(key=b"a", lease=7), False),
    (requests.DELETE_RANGE, rpc.DeleteRangeRequest(key=b"a", range_end=b"c"), True),
    (requests.DELETE_RANGE, rpc.DeleteRangeRequest(key=b"a", range_end=b"d"), False),
    (requests.DELETE_RANGE, rpc.DeleteRangeRequest(key=b"a", range_end=b"\0"), False),
    (requests.DELETE_RANGE, rpc.DeleteRangeRequest(key=b"a", prev_kv=True), False),
    (requests.TXN, rpc.TxnRequest(success=[PUT_A]), True),
    (requests.TXN, rpc.TxnRequest(success=[PUT_A], failure=[PUT_C]), False),
    (requests.TXN, rpc.TxnRequest(success=[PUT_A, NESTED_PUT_C]), False),
    (requests.TXN, rpc.TxnRequest(success=[PUT_A], failure=[READ_C]), True),
    (requests.TXN, rpc.TxnRequest(success=[PUT_A], failure=[READ_A]), False),
    (requests.TXN, rpc.TxnRequest(success=[PUT_A], failure=[LEASED]), False),
    (requests.TXN, rpc.TxnRequest(success=[PUT_A], failure=[DELETE_AB]), True),
    (requests.TXN, rpc.TxnRequest(success=[PUT_A], failure=[DELETE_PREV]), False),
    (requests.TXN, rpc.TxnRequest(compare=[COMPARE_A], success=[PUT_A]), False),
    (requests.TXN, rpc.TxnRequest(compare=[COMPARE_C], failure=[PUT_A]), True),
    (requests.LEASE_REVOKE, rpc.LeaseRevokeRequest(ID=5), True),
    (requests.LEASE_REVOKE, rpc.LeaseRevokeRequest(ID=6), True),
    (requests.LEASE_REVOKE, rpc.LeaseRevokeRequest(ID=7), False),
]


@pytest.mark.parametrize(("row", "request_", "allowed"), ALICES)
def test_both_branches_and_leased_keys_are_looked_at(guarded: Log, row: Row, request_: Any, allowed: bool) -> None:
    for lease, key in ((5, b"a"), (6, b""), (7, b"x")):
        guarded.apply(requests.LEASE_GRANT, rpc.LeaseGrantRequest(ID=lease, TTL=9))
        if key:
            guarded.as_root(requests.PUT, rpc.PutRequest(key=key, lease=lease))
    revision = guarded.state.store.revision
    if (row, request_) != (requests.LEASE_REVOKE, rpc.LeaseRevokeRequest(ID=6)):  # its lease has no keys
        assert failure(guarded.apply, row, request_) is UserEmpty
        assert failure(guarded.apply, row, request_, guarded.now("bob")) is PermissionDenied
    assert failure(guarded.apply, row, request_, guarded.now("alice")) is (None if allowed else PermissionDenied)
    assert allowed or guarded.state.store.revision == revision
    if row is requests.TXN:
        checked = failure(check_txn, guarded.state, guarded.now("alice"), Txn.of(request_))
        assert checked is (None if allowed else PermissionDenied)
    if not allowed:
        guarded.as_root(row, request_)


def test_a_revision_that_is_old_when_applied_is_refused(guarded: Log) -> None:
    before = guarded.now("alice")
    guarded.as_root(requests.AUTH_USER_ADD, user_add("new"))
    assert failure(guarded.apply, requests.PUT, rpc.PutRequest(key=b"a"), before) is AuthOldRevision
    guarded.apply(requests.PUT, rpc.PutRequest(key=b"a"), guarded.now("alice"))


def test_what_nobody_is_asked_about(guarded: Log) -> None:
    """The log holds these only when the API let them pass, or the member itself proposed them."""
    guarded.apply(requests.LEASE_GRANT, rpc.LeaseGrantRequest(ID=5, TTL=9))
    guarded.apply(requests.LEASE_CHECKPOINT, rpc.LeaseCheckpointRequest())
    guarded.apply(requests.COMPACTION, rpc.CompactionRequest(revision=1))
    guarded.apply(requests.ALARM, rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, alarm=rpc.NOSPACE))


def test_alarms_come_before_permissions_and_the_quota_after(guarded: Log) -> None:
    put, bob = rpc.PutRequest(key=b"a"), guarded.now("bob")
    guarded.state.over_quota = lambda cost: True
    assert failure(guarded.apply, requests.PUT, put, bob) is PermissionDenied
    guarded.state.alarms[(1, rpc.NOSPACE)] = None
    assert failure(guarded.apply, requests.PUT, put, bob) is NoSpace
    guarded.state.alarms[(1, rpc.CORRUPT)] = None
    assert failure(guarded.apply, requests.PUT, put, bob) is Corrupt
    guarded.as_root(requests.AUTH_USER_ADD, user_add("new"))


# --- entries of other members


def test_an_entry_says_whose_it_is() -> None:
    header = fast.request_header(5, "zoë", 7)
    data = fast.internal_raft_request(requests.PUT.tag, rpc.PutRequest(key=b"k").SerializeToString(), header)
    assert InternalRaftRequest.FromString(data).header.username == "zoë"
    assert decode(data)[0] == 5
    assert decode(data)[3] == Identity("zoë", 7)
    data = fast.internal_raft_request(requests.PUT.tag, b"", fast.request_header(5))
    assert decode(data)[3] is ANONYMOUS
    data = fast.internal_raft_request(requests.PUT.tag, b"", fast.request_header(5, "", 7))
    assert decode(data)[3] == Identity("", 7)


@pytest.mark.parametrize("name", [b"\xff", b"a\xc3(", b"n" * 300, "ö".encode() * 20_000])
def test_names_of_any_bytes_and_length_can_be_read(guarded: Log, name: bytes) -> None:
    """Members before 3.7 let names into the log that are no UTF-8. Short headers and long ones are read differently."""
    identity = Identity(name.decode("utf-8", "surrogateescape"), 9)
    header = fast.request_header(1, *identity)
    for row in (requests.PUT, requests.TXN, requests.AUTH_ROLE_LIST):
        assert decode(fast.internal_raft_request(row.tag, b"", header))[1::2] == (row, identity)
    field = fast.length_prefixed(1, name)
    for row, rest in (
        (requests.AUTH_USER_ADD, fast.length_prefixed(4, b64encode(HASH))),
        (requests.AUTH_ROLE_ADD, b""),
    ):
        guarded.index += 1
        data = fast.internal_raft_request(row.tag, field + rest, fast.request_header(3, "root", 9))
        outcome = apply_entry(guarded.state, guarded.index, 3, data, {})
        assert outcome is not None
        assert isinstance(outcome.error, RequestTooLarge if len(name) > auth.MAX_NAME_BYTES else type(None))
    if len(name) <= auth.MAX_NAME_BYTES:
        assert name in guarded.rows(schema.AUTH_USERS)
        again = guarded.restart()
        assert identity.user in again.state.auth.users
        assert identity.user in again.state.auth.roles
        for row in (requests.AUTH_USER_LIST, requests.AUTH_ROLE_LIST):
            assert fast.length_prefixed(2, name) in again.as_root(row, rpc.AuthUserListRequest())


def test_the_keys_of_a_lease_are_looked_at_once_for_all_puts_of_a_txn(
    guarded: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded.apply(requests.LEASE_GRANT, rpc.LeaseGrantRequest(ID=5, TTL=9))
    guarded.as_root(requests.PUT, rpc.PutRequest(key=b"a", lease=5))
    looked: list[int] = []
    monkeypatch.setattr(permissions, "check_lease_keys", lambda state, identity, lease: looked.append(lease))
    put = op("request_put", rpc.PutRequest(key=b"a", lease=5))
    nested = op("request_txn", rpc.TxnRequest(success=[put], failure=[put]))
    check_txn(guarded.state, guarded.now("alice"), Txn.of(rpc.TxnRequest(success=[put, nested], failure=[put])))
    assert looked == [5]
