"""What etcd's auth should say: users, roles and rights in their simplest form, as values that never change.

Each change gives a new `Rights`, so that every entry of the log can name those that were in force. Written from etcd's
documentation of auth and sharing no code with the server's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ratifyd.proto.auth_pb2 import Permission

NO_USER = "etcdserver: user name is empty"
OLD_REVISION = "etcdserver: revision of auth store is old"
DENIED = "etcdserver: permission denied"
BAD_TOKEN = "etcdserver: invalid auth token"
LOGIN_FAILED = "etcdserver: authentication failed, invalid user ID or password"
NOT_ENABLED = "etcdserver: authentication is not enabled"
INVALID = "etcdserver: invalid auth management"
USER_UNKNOWN = "etcdserver: user name not found"
USER_EXISTS = "etcdserver: user name already exists"
ROLE_UNKNOWN = "etcdserver: role name not found"
ROLE_EXISTS = "etcdserver: role name already exists"
NO_ROOT_USER = "etcdserver: root user does not exist"
NO_ROOT_ROLE = "etcdserver: root user does not have root role"
NOT_HELD = "etcdserver: role is not granted to the user"
NOT_GRANTED = "etcdserver: permission is not granted to the role"
ROOT = "root"

Need = tuple[bytes, bytes, bool]
"""Key, range end, whether it is to be written."""
Granted = tuple[bytes, bytes, int]
"""Key, range end, kind of permission."""


class AuthRefused(Exception):
    """The request has no effect; the text is the client's."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Users with their roles, roles with their permissions, whether they matter, and how often they have changed."""

    enabled: bool = False
    revision: int = 1
    users: Mapping[str, frozenset[str]] = field(default_factory=dict)
    roles: Mapping[str, frozenset[Granted]] = field(default_factory=dict)

    # --- questions -------------------------------------------------------------------------------------------------

    def allows(self, user: str, needs: Iterable[Need]) -> bool:
        """Whether a user has all the rights that something needs."""
        if not self.enabled:
            return True
        roles = self.users.get(user)
        if roles is None:
            return False
        return ROOT in roles or all(self._covers(roles, *need) for need in needs)

    def check(self, user: str, revision: int, needs: Iterable[Need]) -> None:
        """Refuse a request that somebody made at a revision of these rights, unless it is allowed now."""
        wanted = list(needs)
        if not self.enabled or not wanted:
            return
        if not revision:
            raise AuthRefused(NO_USER)
        if revision < self.revision:
            raise AuthRefused(OLD_REVISION)
        if not self.allows(user, wanted):
            raise AuthRefused(DENIED)

    def check_admin(self, user: str) -> None:
        """Refuse whoever is not root."""
        if not self.enabled:
            return
        if not user:
            raise AuthRefused(NO_USER)
        if user not in self.users:
            raise AuthRefused(USER_UNKNOWN)
        if ROOT not in self.users[user]:
            raise AuthRefused(DENIED)

    def is_admin(self, user: str) -> bool:
        return not self.enabled or ROOT in self.users.get(user, ())

    def _covers(self, roles: frozenset[str], key: bytes, end: bytes, write: bool) -> bool:
        kinds = (Permission.READWRITE, Permission.WRITE if write else Permission.READ)
        granted = [(first, last) for role in roles for first, last, kind in self.roles.get(role, ()) if kind in kinds]
        at = key
        stop = end or key + b"\0"
        while True:
            if any(first <= at and last == b"\0" for first, last in granted):
                return True
            reach = [last or first + b"\0" for first, last in granted if first <= at < (last or first + b"\0")]
            if not reach:
                return False
            at = max(reach)
            if stop != b"\0" and at >= stop:
                return True

    # --- changes ---------------------------------------------------------------------------------------------------

    def after(self, kind: str, request: Any) -> Rights:
        """The rights once a request has been executed; raises AuthRefused."""
        change = getattr(self, "_" + kind, None)
        return self if change is None else change(request)

    def _auth_enable(self, request: Any) -> Rights:
        if self.enabled:
            return self
        if ROOT not in self.users:
            raise AuthRefused(NO_ROOT_USER)
        if ROOT not in self.users[ROOT]:
            raise AuthRefused(NO_ROOT_ROLE)
        return replace(self, enabled=True)

    def _auth_disable(self, request: Any) -> Rights:
        return self._changed(enabled=False) if self.enabled else self

    def _authenticate(self, request: Any) -> Rights:
        if not self.enabled:
            raise AuthRefused(NOT_ENABLED)
        if request.name not in self.users:
            raise AuthRefused(LOGIN_FAILED)
        return self

    def _auth_user_add(self, request: Any) -> Rights:
        if request.name in self.users:
            raise AuthRefused(USER_EXISTS)
        return self._changed(users={**self.users, request.name: frozenset()})

    def _auth_user_delete(self, request: Any) -> Rights:
        if self.enabled and request.name == ROOT:
            raise AuthRefused(INVALID)
        self._user(request.name)
        return self._changed(users={name: roles for name, roles in self.users.items() if name != request.name})

    def _auth_user_change_password(self, request: Any) -> Rights:
        self._user(request.name)
        return self._changed()

    def _auth_user_grant_role(self, request: Any) -> Rights:
        held = self._user(request.user)
        if request.role != ROOT:
            self._role(request.role)
        if request.role in held:
            return self
        return self._changed(users={**self.users, request.user: held | {request.role}})

    def _auth_user_revoke_role(self, request: Any) -> Rights:
        if self.enabled and request.name == request.role == ROOT:
            raise AuthRefused(INVALID)
        held = self._user(request.name)
        if request.role not in held:
            raise AuthRefused(NOT_HELD)
        return self._changed(users={**self.users, request.name: held - {request.role}})

    def _auth_role_add(self, request: Any) -> Rights:
        if request.name in self.roles:
            raise AuthRefused(ROLE_EXISTS)
        return self._changed(roles={**self.roles, request.name: frozenset()})

    def _auth_role_delete(self, request: Any) -> Rights:
        if self.enabled and request.role == ROOT:
            raise AuthRefused(INVALID)
        self._role(request.role)
        roles = {name: granted for name, granted in self.roles.items() if name != request.role}
        return self._changed(roles=roles, users={name: held - {request.role} for name, held in self.users.items()})

    def _auth_role_grant_permission(self, request: Any) -> Rights:
        given = request.perm
        others = {each for each in self._role(request.name) if each[:2] != (given.key, given.range_end)}
        granted = frozenset(others | {(given.key, given.range_end, int(given.permType))})
        return self._changed(roles={**self.roles, request.name: granted})

    def _auth_role_revoke_permission(self, request: Any) -> Rights:
        granted = self._role(request.role)
        kept = frozenset(each for each in granted if each[:2] != (request.key, request.range_end))
        if kept == granted:
            raise AuthRefused(NOT_GRANTED)
        return self._changed(roles={**self.roles, request.role: kept})

    def _changed(self, **changes: Any) -> Rights:
        return replace(self, revision=self.revision + 1, **changes)

    def _user(self, name: str) -> frozenset[str]:
        if name not in self.users:
            raise AuthRefused(USER_UNKNOWN)
        return self.users[name]

    def _role(self, name: str) -> frozenset[Granted]:
        if name not in self.roles:
            raise AuthRefused(ROLE_UNKNOWN)
        return self.roles[name]


def needs_of(kind: str, request: Any) -> Iterator[Need]:
    """The rights that a request of KV needs for its keys; those for the keys of a lease come on top."""
    if kind == "range":
        yield request.key, request.range_end, False
    elif kind == "put":
        yield request.key, b"", True
        if request.prev_kv:
            yield request.key, b"", False
    elif kind == "delete_range":
        yield request.key, request.range_end, True
        if request.prev_kv:
            yield request.key, request.range_end, False
    elif kind == "txn":
        for compare in request.compare:
            yield compare.key, compare.range_end, False
        for op in (*request.success, *request.failure):
            (part, inner) = op.ListFields()[0]
            yield from needs_of(part.name.removeprefix("request_"), inner)
