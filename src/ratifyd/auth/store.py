"""The auth store: users, roles, whether auth is on, and its revision, as the log says; and the questions asked of it.

Checks ask nothing while auth is off. Changing is the state machine's: it checks and records, here is the fact.
"""

from collections.abc import Iterable
from typing import Final

from ratifyd import errors
from ratifyd.auth.identity import ROOT, Identity, name_of
from ratifyd.auth.records import Role, User
from ratifyd.auth.rules import Grants
from ratifyd.auth.tokens import NoTokens, TokenProvider

FIRST_REVISION: Final = 1


class AuthStore:
    """Users and roles of one member. A change of them goes through the methods, which forget what was derived."""

    __slots__ = ("_grants", "enabled", "revision", "roles", "tokens", "users")

    def __init__(self) -> None:
        self.enabled = False
        self.revision = FIRST_REVISION
        self.users: dict[str, User] = {}
        self.roles: dict[str, Role] = {}
        self.tokens: TokenProvider = NoTokens()
        self._grants: dict[str, Grants] = {}

    def restore(
        self, enabled: bool, revision: int, users: Iterable[tuple[bytes, bytes]], roles: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Become what the rows of the backend say; tokens stay, as they are this member's own."""
        self.enabled = enabled
        self.revision = revision
        self.users = {name_of(name): User.decode(row) for name, row in users}
        self.roles = {name_of(name): Role.decode(row) for name, row in roles}
        self._grants = {}

    # --- questions -------------------------------------------------------------------------------------------------

    def check_range(self, identity: Identity, key: bytes, range_end: bytes) -> None:
        """Require the right to read a range. Raises UserEmpty, AuthOldRevision, PermissionDenied."""
        if (
            self.enabled
            and not (grants := self._granted(identity)).everything
            and not grants.read.covers(key, range_end)
        ):
            raise errors.PermissionDenied

    def check_put(self, identity: Identity, key: bytes) -> None:
        """Require the right to write a key. Raises UserEmpty, AuthOldRevision, PermissionDenied."""
        if self.enabled and not (grants := self._granted(identity)).everything and not grants.write.covers(key, b""):
            raise errors.PermissionDenied

    def check_delete(self, identity: Identity, key: bytes, range_end: bytes) -> None:
        """Require the right to delete a range. Raises UserEmpty, AuthOldRevision, PermissionDenied."""
        if (
            self.enabled
            and not (grants := self._granted(identity)).everything
            and not grants.write.covers(key, range_end)
        ):
            raise errors.PermissionDenied

    def check_admin(self, identity: Identity) -> None:
        """Require the root role, of whatever revision. Raises UserEmpty, UserNotFound, PermissionDenied."""
        if not self.enabled:
            return
        if not identity.user:
            raise errors.UserEmpty
        user = self.users.get(identity.user)
        if user is None:
            raise errors.UserNotFound
        if ROOT not in user.roles:
            raise errors.PermissionDenied

    def is_admin(self, identity: Identity) -> bool:
        """Whether `check_admin` lets this identity pass."""
        if not self.enabled:
            return True
        user = self.users.get(identity.user)
        return user is not None and ROOT in user.roles and bool(identity.user)

    def check_user(self, identity: Identity) -> None:
        """Require a user, whoever it is. Raises UserEmpty."""
        if self.enabled and not identity.user and not identity.revision:
            raise errors.UserEmpty

    def has_role(self, user: str, role: str) -> bool:
        """Whether a user exists and holds a role."""
        found = self.users.get(user)
        return found is not None and role in found.roles

    def password_of(self, name: str) -> bytes:
        """The bcrypt text to try a password against. Raises AuthNotEnabled, AuthFailed, NoPasswordUser."""
        if not self.enabled:
            raise errors.AuthNotEnabled
        user = self.users.get(name)
        if user is None:
            raise errors.AuthFailed
        if user.no_password:
            raise errors.NoPasswordUser
        return user.password

    def _granted(self, identity: Identity) -> Grants:
        if not identity.revision:
            raise errors.UserEmpty
        if identity.revision < self.revision:
            raise errors.AuthOldRevision
        grants = self._grants.get(identity.user)
        if grants is None:
            user = self.users.get(identity.user)
            if user is None:
                raise errors.PermissionDenied
            # A role that was deleted, or never was, grants nothing (semantics 9.34).
            roles = [role for name in user.roles if (role := self.roles.get(name)) is not None]
            grants = self._grants[identity.user] = Grants(roles, everything=ROOT in user.roles)
        return grants

    # --- changes ---------------------------------------------------------------------------------------------------

    def put_user(self, user: User) -> None:
        """Add or replace a user."""
        self.users[user.name] = user
        self._grants.clear()

    def delete_user(self, name: str) -> None:
        """Remove a user."""
        del self.users[name]
        self._grants.clear()

    def put_role(self, role: Role) -> None:
        """Add or replace a role."""
        self.roles[role.name] = role
        self._grants.clear()

    def delete_role(self, name: str) -> None:
        """Remove a role; users keep its name until they are changed too."""
        del self.roles[name]
        self._grants.clear()
