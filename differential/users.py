"""Sequences in which auth is on, mostly: every request is made by root, by somebody with a few rights, or by nobody."""

import dataclasses
from collections import deque
from collections.abc import Iterator

from google.protobuf.message import Message

from differential.generator import Family, Generator
from differential.operations import Kind, Operation
from differential.runner import (
    AUTH_DISABLE_PATH,
    AUTH_ENABLE_PATH,
    AUTHENTICATE_PATH,
    GRANT_PATH,
    HASH_PATH,
    REVOKE_PATH,
    ROOT_PASSWORD,
    Session,
)
from ratifyd.proto import auth_pb2, rpc_pb2

USERS = ["u1", "u2", "u3"]
ROLES = ["r1", "r2", "r3"]
PASSWORDS = ["p1", "p2"]
RANGES = [
    (b"a", b""),
    (b"a", b"b"),
    (b"a/", b"a0"),
    (b"b", b"d"),
    (b"c", b""),
    (b"a", b"\0"),
    (b"\0", b"\0"),
    (b"d", b"\0"),
]
_DEEPEST = 3
"""Transactions so deep have no more inside."""
_AUTH = "/etcdserverpb.Auth/"
_Permission = auth_pb2.Permission


class UserGenerator(Generator):
    """As `Generator`, with other families: what 3.5.1 lets anybody do is done by root alone."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._script = deque(_preparation())

    def next(self, session: Session) -> Operation:
        """The next operation."""
        if self._script:
            return self._script.popleft()
        if not session.auth_on and self._chance(0.2):
            return _call("AuthEnable", rpc_pb2.AuthEnableRequest(), "")
        return super().next(session)

    def _table(self) -> list[tuple[float, Family]]:
        return [
            (14, self._read_or_write),
            (3, self._read_or_write_txn),
            (5, self._authenticate),
            (4, self._user_change),
            (4, self._role_change),
            (2, self._look),
            (2, self._lease_change),
            (0.3, self._switch),
            (0.5, self._by_root),
        ]

    def _user(self) -> str:
        """Who makes a request; "stranger" never has a token."""
        return self.random.choice(["root", "root", *USERS, *USERS, "", "stranger"])

    def _admin(self) -> str:
        return "root" if self._chance(0.8) else self._user()

    # Requests

    def _read_or_write(self, session: Session) -> Operation:
        family = self.random.choice([self._put, self._put, self._range, self._range, self._delete])
        return dataclasses.replace(family(session), user=self._user())

    def _read_or_write_txn(self, session: Session) -> Operation:
        request = self._txn_request(session, _DEEPEST)
        for operation in (*request.success, *request.failure):
            if operation.HasField("request_put"):
                operation.request_put.lease = 0
                operation.request_put.prev_kv = False
        return Operation(Kind.UNARY, "/etcdserverpb.KV/Txn", request.SerializeToString(), user=self._user())

    def _authenticate(self, session: Session) -> Operation:
        name = self.random.choice(["root", *USERS, *USERS, "stranger", ""])
        password = ROOT_PASSWORD if name == "root" and self._chance(0.9) else self.random.choice([*PASSWORDS, ""])
        return Operation(
            Kind.UNARY, AUTHENTICATE_PATH, rpc_pb2.AuthenticateRequest(name=name, password=password).SerializeToString()
        )

    def _user_change(self, session: Session) -> Operation:
        name = self.random.choice([*USERS, *USERS, "root", ""])
        role = self.random.choice([*ROLES, *ROLES, "root", ""])
        other = name if name != "root" else "u1"
        options = auth_pb2.UserAddOptions(no_password=True) if self._chance(0.2) else None
        requests = {
            "UserAdd": rpc_pb2.AuthUserAddRequest(name=name, password=self.random.choice(PASSWORDS), options=options),
            "UserDelete": rpc_pb2.AuthUserDeleteRequest(name=name),
            "UserChangePassword": rpc_pb2.AuthUserChangePasswordRequest(
                name=other, password=self.random.choice([*PASSWORDS, *PASSWORDS, ""])
            ),
            "UserGrantRole": rpc_pb2.AuthUserGrantRoleRequest(user=name, role=role),
            "UserRevokeRole": rpc_pb2.AuthUserRevokeRoleRequest(name=name, role=role),
        }
        if not session.auth_on and name == "root":
            del requests["UserDelete"], requests["UserRevokeRole"]  # it would stay off for the rest of the sequence
        if name == "root":
            del requests["UserAdd"]
        kind = self.random.choice([*requests, "UserGrantRole", "UserGrantRole"])
        return _call(kind, requests[kind], self._admin())

    def _role_change(self, session: Session) -> Operation:
        role = self.random.choice([*ROLES, *ROLES, "root", ""])
        key, range_end = self.random.choice(RANGES)
        permission = _Permission(permType=self.random.choice(_Permission.Type.values()), key=key, range_end=range_end)
        grant = rpc_pb2.AuthRoleGrantPermissionRequest(name=role, perm=permission if self._chance(0.95) else None)
        requests = {
            "RoleAdd": rpc_pb2.AuthRoleAddRequest(name=role),
            "RoleDelete": rpc_pb2.AuthRoleDeleteRequest(role=role),
            "RoleGrantPermission": grant,
            "RoleRevokePermission": rpc_pb2.AuthRoleRevokePermissionRequest(role=role, key=key, range_end=range_end),
        }
        if not session.auth_on and role == "root":
            del requests["RoleDelete"]  # root would lose it
        kind = self.random.choice([*requests, "RoleGrantPermission", "RoleGrantPermission"])
        return _call(kind, requests[kind], self._admin())

    def _look(self, session: Session) -> Operation:
        requests = {
            "UserGet": rpc_pb2.AuthUserGetRequest(name=self.random.choice([*USERS, "root", ""])),
            "UserList": rpc_pb2.AuthUserListRequest(),
            "RoleGet": rpc_pb2.AuthRoleGetRequest(role=self.random.choice([*ROLES, ""])),
            "RoleList": rpc_pb2.AuthRoleListRequest(),
            "AuthStatus": rpc_pb2.AuthStatusRequest(),
        }
        kind = self.random.choice(list(requests))
        return _call(kind, requests[kind], self._user())

    def _lease_change(self, session: Session) -> Operation:
        """By somebody with a token, good or not."""
        user = self.random.choice(["root", *USERS, "stranger"])
        if self._chance(0.6):
            request: Message = rpc_pb2.LeaseGrantRequest(TTL=100_000, ID=self._lease())
            return Operation(Kind.UNARY, GRANT_PATH, request.SerializeToString(), user=user)
        request = rpc_pb2.LeaseRevokeRequest(ID=self._lease())
        return Operation(Kind.UNARY, REVOKE_PATH, request.SerializeToString(), user=user)

    def _switch(self, session: Session) -> Operation:
        if self._chance(0.5):
            return Operation(Kind.UNARY, AUTH_ENABLE_PATH, b"", user=self._admin())
        return Operation(Kind.UNARY, AUTH_DISABLE_PATH, b"", user=self._admin())

    def _by_root(self, session: Session) -> Operation:
        if session.auth_on and "root" not in session.tokens:
            return self._authenticate(session)
        paths = {
            HASH_PATH: rpc_pb2.HashKVRequest(),
            "/etcdserverpb.Cluster/MemberList": rpc_pb2.MemberListRequest(linearizable=self._chance(0.5)),
            "/etcdserverpb.Maintenance/Status": rpc_pb2.StatusRequest(),
            "/etcdserverpb.Maintenance/Alarm": rpc_pb2.AlarmRequest(),
            "/etcdserverpb.Lease/LeaseLeases": rpc_pb2.LeaseLeasesRequest(),
            "/etcdserverpb.Lease/LeaseTimeToLive": rpc_pb2.LeaseTimeToLiveRequest(ID=self._lease(), keys=True),
        }
        path = self.random.choice(list(paths))
        return Operation(Kind.UNARY, path, paths[path].SerializeToString(), user="root")


def _call(name: str, request: Message, user: str) -> Operation:
    return Operation(Kind.UNARY, _AUTH + name, request.SerializeToString(), user=user)


def _preparation() -> Iterator[Operation]:
    """Users and roles to begin with."""
    yield _call("UserAdd", rpc_pb2.AuthUserAddRequest(name="root", password=ROOT_PASSWORD), "")
    yield _call("UserGrantRole", rpc_pb2.AuthUserGrantRoleRequest(user="root", role="root"), "")
    for user, role, (key, range_end) in zip(USERS, ROLES, RANGES[1:]):
        yield _call("UserAdd", rpc_pb2.AuthUserAddRequest(name=user, password=PASSWORDS[0]), "")
        yield _call("RoleAdd", rpc_pb2.AuthRoleAddRequest(name=role), "")
        permission = _Permission(permType=_Permission.READWRITE, key=key, range_end=range_end)
        yield _call("RoleGrantPermission", rpc_pb2.AuthRoleGrantPermissionRequest(name=role, perm=permission), "")
        yield _call("UserGrantRole", rpc_pb2.AuthUserGrantRoleRequest(user=user, role=role), "")
    yield _call("AuthEnable", rpc_pb2.AuthEnableRequest(), "")
    for user, password in (("root", ROOT_PASSWORD), *((user, PASSWORDS[0]) for user in USERS)):
        yield _call("Authenticate", rpc_pb2.AuthenticateRequest(name=user, password=password), "")
