"""The auth store: who passes which check, with which error, and what a change of users and roles does to that."""

from collections.abc import Callable

import pytest

from ratifyd.auth.identity import ANONYMOUS, Identity, name_of, raw_name
from ratifyd.auth.records import Role, User
from ratifyd.auth.store import FIRST_REVISION, AuthStore
from ratifyd.errors import (
    AuthFailed,
    AuthNotEnabled,
    AuthOldRevision,
    EtcdError,
    NoPasswordUser,
    PermissionDenied,
    UserEmpty,
    UserNotFound,
)
from ratifyd.proto.auth_pb2 import Permission, UserAddOptions
from ratifyd.proto.auth_pb2 import Role as RoleRecord
from ratifyd.proto.auth_pb2 import User as UserRecord

READ, WRITE, READWRITE = Permission.READ, Permission.WRITE, Permission.READWRITE


def permission(kind: "Permission.Type", key: bytes, range_end: bytes = b"") -> Permission:
    return Permission(permType=kind, key=key, range_end=range_end)


@pytest.fixture
def store() -> AuthStore:
    """At revision 5: root; alice reads a-c, writes b; zed holds a role that is not there; nobody has none."""
    store = AuthStore()
    store.enabled = True
    store.revision = 5
    store.put_role(Role("reader", (permission(READ, b"a", b"d"),)))
    store.put_role(Role("writer", (permission(WRITE, b"b"),)))
    store.put_user(User("root", b"hash", ("root",), False))
    store.put_user(User("alice", b"", ("reader", "writer"), True))
    store.put_user(User("zed", b"old", ("gone",), None))
    store.put_user(User("nobody", b"", (), False))
    return store


def now(user: str) -> Identity:
    return Identity(user, 5)


def outcome(check: Callable[..., None], *args: object) -> type[EtcdError] | None:
    try:
        check(*args)
    except EtcdError as error:
        return type(error)
    return None


IDENTITIES: list[tuple[Identity, type[EtcdError] | None, type[EtcdError] | None]] = [
    (now("root"), None, None),
    (now("alice"), PermissionDenied, None),
    (now("zed"), PermissionDenied, PermissionDenied),
    (now("nobody"), PermissionDenied, PermissionDenied),
    (now("stranger"), PermissionDenied, PermissionDenied),
    (now(""), PermissionDenied, PermissionDenied),
    (ANONYMOUS, UserEmpty, UserEmpty),
    (Identity("root", 0), UserEmpty, UserEmpty),
    (Identity("root", 4), AuthOldRevision, AuthOldRevision),
    (Identity("root", 6), None, None),
]


@pytest.mark.parametrize(("identity", "outside", "inside"), IDENTITIES)
def test_who_passes_where(
    store: AuthStore, identity: Identity, outside: type[EtcdError] | None, inside: type[EtcdError] | None
) -> None:
    assert outcome(store.check_range, identity, b"b", b"") is inside
    assert outcome(store.check_range, identity, b"a", b"d") is inside
    assert outcome(store.check_range, identity, b"a", b"e") is outside
    assert outcome(store.check_put, identity, b"b") is inside
    assert outcome(store.check_put, identity, b"a") is outside
    assert outcome(store.check_delete, identity, b"b", b"b\0") is inside
    assert outcome(store.check_delete, identity, b"b", b"c") is outside


def test_the_root_role_of_any_revision_is_an_admin(store: AuthStore) -> None:
    for identity in (now("root"), Identity("root", 1), Identity("root", 0)):
        assert outcome(store.check_admin, identity) is None
        assert store.is_admin(identity)
    for identity, error in ((now("alice"), PermissionDenied), (now("stranger"), UserNotFound), (ANONYMOUS, UserEmpty)):
        assert outcome(store.check_admin, identity) is error
        assert not store.is_admin(identity)


def test_any_identity_is_a_user(store: AuthStore) -> None:
    assert outcome(store.check_user, ANONYMOUS) is UserEmpty
    assert outcome(store.check_user, now("stranger")) is None


def test_nothing_is_asked_while_auth_is_off(store: AuthStore) -> None:
    store.enabled = False
    for identity in (ANONYMOUS, now("nobody"), Identity("root", 1)):
        assert outcome(store.check_range, identity, b"x", b"") is None
        assert outcome(store.check_put, identity, b"x") is None
        assert outcome(store.check_delete, identity, b"x", b"\0") is None
        assert outcome(store.check_admin, identity) is None
        assert outcome(store.check_user, identity) is None
        assert store.is_admin(identity)


def test_passwords(store: AuthStore) -> None:
    assert store.password_of("root") == b"hash"
    assert store.password_of("nobody") == b""
    assert store.password_of("zed") == b"old"
    assert outcome(store.password_of, "alice") is NoPasswordUser  # type: ignore[arg-type]
    assert outcome(store.password_of, "stranger") is AuthFailed  # type: ignore[arg-type]
    store.enabled = False
    assert outcome(store.password_of, "root") is AuthNotEnabled  # type: ignore[arg-type]


def test_roles_of_a_user(store: AuthStore) -> None:
    assert store.has_role("alice", "reader")
    assert store.has_role("zed", "gone")
    assert not store.has_role("alice", "root")
    assert not store.has_role("stranger", "reader")


def test_changes_are_seen_at_once(store: AuthStore) -> None:
    assert outcome(store.check_put, now("alice"), b"z") is PermissionDenied
    store.put_role(Role("writer", (permission(READWRITE, b"b", b"\0"),)))
    assert outcome(store.check_put, now("alice"), b"z") is None
    store.delete_role("writer")
    assert outcome(store.check_put, now("alice"), b"z") is PermissionDenied
    store.put_user(store.users["alice"]._replace(roles=("root",)))
    assert outcome(store.check_put, now("alice"), b"z") is None
    store.delete_user("alice")
    assert outcome(store.check_put, now("alice"), b"z") is PermissionDenied


def test_rows_make_the_store_again(store: AuthStore) -> None:
    again = AuthStore()
    assert (again.enabled, again.revision) == (False, FIRST_REVISION)
    assert outcome(again.check_put, now("alice"), b"x") is None
    users = [(raw_name(user.name), user.encode()) for user in store.users.values()]
    roles = [(raw_name(role.name), role.encode()) for role in store.roles.values()]
    again.restore(True, 7, users, roles)
    assert (again.users, again.roles) == (store.users, store.roles)
    assert (again.enabled, again.revision) == (True, 7)
    assert outcome(again.check_put, Identity("alice", 7), b"b") is None
    again.restore(True, 8, [], [])
    assert outcome(again.check_put, Identity("alice", 8), b"b") is PermissionDenied


@pytest.mark.parametrize("no_password", [None, False, True])
def test_rows_of_users_are_etcds(no_password: bool | None) -> None:
    user = User("zoë", b"$2a$", ("a", "b"), no_password)
    options = None if no_password is None else UserAddOptions(no_password=no_password)
    twin = UserRecord(name="zoë".encode(), password=b"$2a$", roles=["a", "b"], options=options)
    assert user.encode() == twin.SerializeToString()
    assert User.decode(user.encode()) == user


def test_the_row_of_a_user_without_a_password() -> None:
    """As a real etcd has it: options come last, and are there even when they are empty (formats 5.6)."""
    assert User("np", b"", (), True).encode() == bytes.fromhex("0a026e7022020801")
    assert User("np", b"", (), False).encode() == bytes.fromhex("0a026e702200")


def test_rows_of_roles_are_etcds() -> None:
    permissions = (permission(READ, b"a"), permission(READWRITE, b"b", b"\0"))
    role = Role("r", permissions)
    assert role.encode() == RoleRecord(name=b"r", keyPermission=permissions).SerializeToString()
    assert Role.decode(role.encode()) == role


def test_names_that_are_no_utf8_come_back_unchanged() -> None:
    for raw in (b"\xff\x80", b"a\xc3", "ü".encode(), b"\0"):
        assert raw_name(name_of(raw)) == raw
        user = User(name_of(raw), b"", (name_of(b"\x80"),), False)
        assert User.decode(user.encode()) == user
        assert Role.decode(Role(name_of(raw), ()).encode()).name == name_of(raw)
