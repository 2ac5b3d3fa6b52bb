"""An administrator of users, and clients that want a lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ratifyd.proto import lock_pb2
from ratifyd.proto import rpc_pb2 as pb
from ratifyd.proto.auth_pb2 import Permission
from simulation.authmodel import ROOT
from simulation.clients import RETRY_S, Client
from simulation.history import Hold, Operation

if TYPE_CHECKING:
    from simulation.world import World

USERS = ("u0", "u1", "u2")
_ROLES = ("r0", "r1", "r2")
_RANGES = ((b"k", b"l"), (b"k0", b""), (b"k1", b"k3"), (b"k2", b"k8"), (b"k30", b"\0"), (b"l", b"m"))
"""What permissions are about; each begins at another key."""
_KINDS = (Permission.READ, Permission.WRITE, Permission.READWRITE, Permission.READWRITE)
MAX_PASSWORDS = 3
LOCKS = (b"lock", b"other")


class Governor(Client):
    """Sets users, roles and permissions up, enables auth, and goes on changing all of it."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.plan: list[tuple[str, Any]] = self._first()

    def work(self) -> None:
        if self.stopped:
            return
        if self.random.random() < 0.05:
            self.hang_up()
        if self.logs_in or (not self.token and self.random.random() < 0.3):
            asked = self.log_in()
        else:
            kind, request = self.plan[0] if self.plan else self.draw()
            asked = self.ask(kind, request, self.done)
        if not asked:
            self.later(RETRY_S, self.work)

    def done(self, operation: Operation) -> None:
        """Go on with the plan if this step of it is done, or was before."""
        if self.plan and operation.request is self.plan[0][1] and (operation.ok or "already" in operation.error):
            del self.plan[0]
        if operation.kind in ("auth_user_add", "auth_user_change_password") and (operation.ok or operation.unsure):
            user, password = operation.request.name, operation.request.password
            known = self.world.passwords.get(user, [])  # old ones are tried again, and should be refused
            self.world.passwords[user] = [*known, password][-MAX_PASSWORDS:]
        self.pause()

    def _first(self) -> list[tuple[str, Any]]:
        plan: list[tuple[str, Any]] = [
            ("auth_user_add", self._new_user(ROOT)),
            ("auth_user_grant_role", pb.AuthUserGrantRoleRequest(user=ROOT, role=ROOT)),
        ]
        for role in _ROLES:
            plan.append(("auth_role_add", pb.AuthRoleAddRequest(name=role)))
            plan.append(("auth_role_grant_permission", self._grant(role)))
        for user, role in zip(USERS, _ROLES):
            plan.append(("auth_user_add", self._new_user(user)))
            plan.append(("auth_user_grant_role", pb.AuthUserGrantRoleRequest(user=user, role=role)))
        plan.append(("auth_enable", pb.AuthEnableRequest()))
        return plan

    def _new_user(self, user: str) -> Any:
        return pb.AuthUserAddRequest(name=user, password=self._password(user))

    def _password(self, user: str) -> str:
        self.counter += 1
        return f"{user}.{self.counter}"

    def _grant(self, role: str) -> Any:
        key, end = self.random.choice((*_RANGES, _RANGES[0], _RANGES[0], _RANGES[0]))
        permission = Permission(permType=self.random.choice(_KINDS), key=key, range_end=end)
        return pb.AuthRoleGrantPermissionRequest(name=role, perm=permission)

    def draw(self) -> tuple[str, Any]:
        """Any change, most of which are possible most of the time."""
        random = self.random
        user, role = random.choice(USERS), random.choice(_ROLES)
        number = random.random()
        if number < 0.3:
            return "auth_role_grant_permission", self._grant(role)
        if number < 0.45:
            key, end = random.choice(_RANGES)
            return "auth_role_revoke_permission", pb.AuthRoleRevokePermissionRequest(role=role, key=key, range_end=end)
        if number < 0.6:
            return "auth_user_grant_role", pb.AuthUserGrantRoleRequest(user=user, role=random.choice((*_ROLES, ROOT)))
        if number < 0.72:
            return "auth_user_revoke_role", pb.AuthUserRevokeRoleRequest(name=user, role=random.choice((role, ROOT)))
        if number < 0.78:
            return "auth_user_delete", pb.AuthUserDeleteRequest(name=user)
        if number < 0.86:
            return "auth_user_add", self._new_user(user)
        if number < 0.9:
            request = pb.AuthUserChangePasswordRequest(name=user, password=self._password(user))
            return "auth_user_change_password", request
        if number < 0.93:
            return "auth_role_delete", pb.AuthRoleDeleteRequest(role=role)
        if number < 0.96:
            return "auth_role_add", pb.AuthRoleAddRequest(name=role)
        if number < 0.97:
            return "auth_disable", pb.AuthDisableRequest()
        return "auth_enable", pb.AuthEnableRequest()


class Locker(Client):
    """Takes a lock, holds it for a while, and gives it back, or lets its lease end."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.lease = 0
        self.lock = b""
        self.key = b""

    def work(self) -> None:
        if self.stopped:
            return
        if self.logs_in:
            asked = self.log_in()
        elif self.key:
            key, self.key = self.key, b""
            self.lease = 0
            if self.random.random() < 0.2:
                self.pause()
                return
            asked = self.ask("unlock", lock_pb2.UnlockRequest(key=key), lambda operation: self.pause())
        elif self.lease:
            self.lock = self.random.choice(LOCKS)
            asked = self.ask("lock", lock_pb2.LockRequest(name=self.lock, lease=self.lease), self.locked)
        else:
            self.counter += 1
            lease = 1 + self.random.getrandbits(40) * 1000 + self.counter
            request = pb.LeaseGrantRequest(ID=lease, TTL=self.random.randint(1, 5))
            asked = self.ask("lease_grant", request, self.granted)
        if not asked:
            self.later(RETRY_S, self.work)

    def granted(self, operation: Operation) -> None:
        if operation.ok:
            self.lease = operation.response.ID
        self.pause()

    def locked(self, operation: Operation) -> None:
        if operation.ok:
            response = operation.response
            self.key = response.key
            hold = Hold(self.name, self.lock, response.key, response.header.revision, operation.end)
            self.world.history.holds.append(hold)
            self.later(self.random.uniform(0.0, 1.5), self.work)
            return
        if self.random.random() < 0.5:
            self.lease = 0
        self.pause()
