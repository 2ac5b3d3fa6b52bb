"""The Auth requests as the state machine executes them (semantics 9.1-9.11).

Requests are those of `auth_records_pb2`, in which names are bytes. Every change moves the auth revision by one; what
changes nothing does not. Nothing here needs a commit of its own, as etcd's does: the log is replayed on what the
backend has.
"""

from binascii import a2b_base64
from hashlib import sha256
from typing import Any, Final

from ratifyd import errors, schema
from ratifyd.apply.state import State
from ratifyd.auth.identity import ROOT, name_of, raw_name
from ratifyd.auth.passwords import MAX_BYTES, SALT_BYTES, hash_password
from ratifyd.auth.records import Role, User
from ratifyd.auth.rules import is_valid_range
from ratifyd.proto import fast
from ratifyd.proto.auth_pb2 import Permission
from ratifyd.proto.auth_records_pb2 import (
    RecordedAuthenticate,
    RecordedGrant,
    RecordedName,
    RecordedPassword,
    RecordedRevocation,
    RecordedUserAdd,
    RecordedUserRole,
)
from ratifyd.proto.rpc_pb2 import AuthenticateResponse, AuthRoleGetResponse, AuthStatusResponse
from ratifyd.version import minor_of

MAX_NAME_BYTES: Final = 32768
"""Longest name of a user or a role: bbolt's longest key. etcd dies of longer ones."""

NAMED_BEFORE: Final = (3, 6)
"""Cluster version from which on tokens name the entry before their own."""

OLD_COST: Final = 10
"""bcrypt's cost for passwords that come in the clear: one for all members, whatever their own is."""

_BASE64_DIGITS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

ROOT_PERMISSION: Final = Permission(permType=Permission.READWRITE, range_end=b"\0")


def enable(state: State, request: Any, wanted: bool) -> bytes:
    """Switch auth on. Raises RootUserNotExist, RootRoleNotExist."""
    auth = state.auth
    if not auth.enabled:
        root = auth.users.get(ROOT)
        if root is None:
            raise errors.RootUserNotExist
        if ROOT not in root.roles:
            raise errors.RootRoleNotExist
        auth.enabled = True
        state.buffer.put(schema.AUTH, schema.AUTH_ENABLED, b"\x01")
    return b""


def disable(state: State, request: Any, wanted: bool) -> bytes:
    """Switch auth off, which ends all tokens."""
    if state.auth.enabled:
        state.auth.enabled = False
        state.buffer.put(schema.AUTH, schema.AUTH_ENABLED, b"\x00")
        _count(state)
        state.auth.tokens.invalidate_all()
    return b""


def status(state: State, request: Any, wanted: bool) -> bytes:
    """Tell whether auth is on, and its revision."""
    return AuthStatusResponse(enabled=state.auth.enabled, authRevision=state.auth.revision).SerializeToString()


def authenticate(state: State, request: RecordedAuthenticate, wanted: bool) -> bytes:
    """Give out a token to a user whose password the proposer has tried. Raises AuthNotEnabled, AuthFailed."""
    auth = state.auth
    if not auth.enabled:
        raise errors.AuthNotEnabled
    user = auth.users.get(name_of(request.name))
    if user is None or user.no_password:
        raise errors.AuthFailed
    letters = request.simple_token.decode("utf-8", "replace")
    token = auth.tokens.assign(user.name, auth.revision, letters, _token_index(state), wanted)
    return AuthenticateResponse(token=token).SerializeToString() if wanted else b""


def _token_index(state: State) -> int:
    """What is to follow the dot of a simple token, so that other members know it as the same: their version matters.

    etcd names the last entry but this one since 3.5.3, this one before that; a cluster of 3.5 is taken for the older.
    """
    version = state.members.cluster_version
    return state.consistent_index - (version != "" and minor_of(version) >= NAMED_BEFORE)


# ---- Users


def user_add(state: State, request: RecordedUserAdd, wanted: bool) -> bytes:
    """Add a user. Raises UserEmpty, UserAlreadyExist, NoPasswordUser (a hash that cannot be read), RequestTooLarge."""
    if not request.name:
        raise errors.UserEmpty
    name = name_of(request.name)
    if name in state.auth.users:
        raise errors.UserAlreadyExist
    if len(request.name) > MAX_NAME_BYTES:
        raise errors.RequestTooLarge
    no_password = request.options.no_password
    password = b"" if no_password else _password(state, request)
    _put_user(state, User(name, password, (), no_password))
    _count(state)
    return b""


def user_delete(state: State, request: RecordedName, wanted: bool) -> bytes:
    """Remove a user. Raises InvalidAuthMgmt, UserNotFound."""
    if state.auth.enabled and request.name == raw_name(ROOT):
        raise errors.InvalidAuthMgmt
    user = _user(state, request.name)
    state.auth.delete_user(user.name)
    state.buffer.delete(schema.AUTH_USERS, request.name)
    _count(state)
    state.auth.tokens.invalidate_user(user.name)
    return b""


def user_change_password(state: State, request: RecordedPassword, wanted: bool) -> bytes:
    """Give a user another password, which ends the tokens. Raises UserNotFound, NoPasswordUser."""
    user = _user(state, request.name)
    password = b"" if user.no_password else _password(state, request)
    _put_user(state, user._replace(password=password))
    _count(state)
    state.auth.tokens.invalidate_user(user.name)
    return b""


def user_grant_role(state: State, request: RecordedUserRole, wanted: bool) -> bytes:
    """Give a user a role; a second time changes nothing. Raises UserNotFound, RoleNotFound."""
    user = _user(state, request.user)
    role = name_of(request.role)
    if role != ROOT and role not in state.auth.roles:
        raise errors.RoleNotFound
    if role not in user.roles:
        _put_user(state, user._replace(roles=tuple(sorted((*user.roles, role), key=raw_name))))
        _count(state)
    return b""


def user_revoke_role(state: State, request: RecordedUserRole, wanted: bool) -> bytes:
    """Take a role from a user. Raises InvalidAuthMgmt, UserNotFound, RoleNotGranted."""
    if state.auth.enabled and request.user == request.role == raw_name(ROOT):
        raise errors.InvalidAuthMgmt
    user = _user(state, request.user)
    role = name_of(request.role)
    if role not in user.roles:
        raise errors.RoleNotGranted
    _put_user(state, _without(user, role))
    _count(state)
    return b""


def user_get(state: State, request: RecordedName, wanted: bool) -> bytes:
    """Tell the roles of a user. Raises UserNotFound."""
    return _names(_user(state, request.name).roles)


def user_list(state: State, request: Any, wanted: bool) -> bytes:
    """Tell all users."""
    return _names(sorted(state.auth.users, key=raw_name))


# ---- Roles


def role_add(state: State, request: RecordedName, wanted: bool) -> bytes:
    """Add a role. Raises RoleEmpty, RoleAlreadyExist, RequestTooLarge."""
    if not request.name:
        raise errors.RoleEmpty
    name = name_of(request.name)
    if name in state.auth.roles:
        raise errors.RoleAlreadyExist
    if len(request.name) > MAX_NAME_BYTES:
        raise errors.RequestTooLarge
    _put_role(state, Role(name, ()))
    _count(state)
    return b""


def role_delete(state: State, request: RecordedName, wanted: bool) -> bytes:
    """Remove a role, from its users too. Raises InvalidAuthMgmt, RoleNotFound."""
    if state.auth.enabled and request.name == raw_name(ROOT):
        raise errors.InvalidAuthMgmt
    role = _role(state, request.name)
    state.auth.delete_role(role.name)
    state.buffer.delete(schema.AUTH_ROLES, request.name)
    for user in list(state.auth.users.values()):
        if role.name in user.roles:
            _put_user(state, _without(user, role.name))
    _count(state)
    return b""


def role_get(state: State, request: RecordedName, wanted: bool) -> bytes:
    """Tell the permissions of a role; root's are the same whatever is on record. Raises RoleNotFound."""
    role = _role(state, request.name)
    permissions = (ROOT_PERMISSION,) if role.name == ROOT else role.permissions
    return AuthRoleGetResponse(perm=permissions).SerializeToString()


def role_list(state: State, request: Any, wanted: bool) -> bytes:
    """Tell all roles."""
    return _names(sorted(state.auth.roles, key=raw_name))


def role_grant_permission(state: State, request: RecordedGrant, wanted: bool) -> bytes:
    """Let a role access a range. Raises PermissionNotGiven, InvalidAuthMgmt, RoleNotFound.

    Of several permissions with that key only the first is looked at: another range is added (semantics 9.9).
    """
    if not request.HasField("perm"):
        raise errors.PermissionNotGiven
    given = request.perm
    if not is_valid_range(given.key, given.range_end):
        raise errors.InvalidAuthMgmt
    role = _role(state, request.role)
    granted = Permission(permType=given.permType, key=given.key, range_end=given.range_end)
    permissions = list(role.permissions)
    first = next((at for at, held in enumerate(permissions) if held.key >= given.key), len(permissions))
    if first < len(permissions) and _same_range(permissions[first], given.key, given.range_end):
        permissions[first] = granted
    else:
        permissions.append(granted)
        permissions.sort(key=_key)
    _put_role(state, Role(role.name, tuple(permissions)))
    _count(state)
    return b""


def role_revoke_permission(state: State, request: RecordedRevocation, wanted: bool) -> bytes:
    """Take a range from a role. Raises RoleNotFound, PermissionNotGranted."""
    role = _role(state, request.role)
    kept = tuple(held for held in role.permissions if not _same_range(held, request.key, request.range_end))
    if len(kept) == len(role.permissions):
        raise errors.PermissionNotGranted
    _put_role(state, Role(role.name, kept))
    _count(state)
    return b""


# ---- What they share


def _user(state: State, name: bytes) -> User:
    user = state.auth.users.get(name_of(name))
    if user is None:
        raise errors.UserNotFound
    return user


def _role(state: State, name: bytes) -> Role:
    role = state.auth.roles.get(name_of(name))
    if role is None:
        raise errors.RoleNotFound
    return role


def _put_user(state: State, user: User) -> None:
    state.auth.put_user(user)
    state.buffer.put(schema.AUTH_USERS, raw_name(user.name), user.encode())


def _put_role(state: State, role: Role) -> None:
    state.auth.put_role(role)
    state.buffer.put(schema.AUTH_ROLES, raw_name(role.name), role.encode())


def _count(state: State) -> None:
    state.auth.revision += 1
    state.buffer.put(schema.AUTH, schema.AUTH_REVISION, schema.encode_u64(state.auth.revision))


def _password(state: State, request: RecordedUserAdd | RecordedPassword) -> bytes:
    """What to keep of a password: members before 3.5 send it in the clear, all others hashed (semantics 9.4).

    The salt is made from the entry, so that all members keep the same. Raises NoPasswordUser, as etcd does here.
    """
    hashed: bytes = request.hashedPassword
    if request.password and not hashed:
        if len(request.password) > MAX_BYTES:
            raise errors.NoPasswordUser
        seed = sha256(schema.encode_u64(state.consistent_index) + request.name).digest()
        return hash_password(request.password, seed[:SALT_BYTES], OLD_COST)
    text = hashed.replace(b"\n", b"").replace(b"\r", b"")
    digits = text.rstrip(b"=")
    if len(text) % 4 or len(text) - len(digits) > 2 or digits.translate(None, _BASE64_DIGITS):
        raise errors.NoPasswordUser
    return a2b_base64(text)


def _without(user: User, role: str) -> User:
    return user._replace(roles=tuple(held for held in user.roles if held != role))


def _same_range(permission: Permission, key: bytes, range_end: bytes) -> bool:
    return (permission.key, permission.range_end) == (key, range_end)


def _key(permission: Permission) -> bytes:
    return permission.key


def _names(names: tuple[str, ...] | list[str]) -> bytes:
    return b"".join(fast.length_prefixed(2, raw_name(name)) for name in names)
