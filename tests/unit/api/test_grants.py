"""Permissions that a role is given beside members of older versions."""

import pytest

from ratifyd.apply import requests
from ratifyd.errors import InvalidAuthMgmt
from ratifyd.proto.auth_pb2 import Permission
from ratifyd.proto.rpc_pb2 import AuthRoleAddRequest, AuthRoleGrantPermissionRequest
from tests.support_client import Client
from tests.support_member import Member

READ, WRITE = Permission.READ, Permission.WRITE
OK = 0


def granting(key: bytes, range_end: bytes = b"", kind: Permission.Type = READ) -> AuthRoleGrantPermissionRequest:
    return AuthRoleGrantPermissionRequest(name="r", perm=Permission(permType=kind, key=key, range_end=range_end))


@pytest.mark.parametrize(
    ("version", "request_", "taken"),
    [
        ("3.5.0", granting(b"m", b"n", WRITE), False),
        ("3.5.0", granting(b"m", b"o", WRITE), False),
        ("3.5.0", granting(b"m", b"p"), True),
        ("3.5.0", granting(b"a", kind=WRITE), True),
        ("3.6.0", granting(b"m", b"n", WRITE), True),
    ],
)
def test_which_of_several_permissions_changes_must_be_known(
    version: str, request_: AuthRoleGrantPermissionRequest, taken: bool
) -> None:
    """A role holds several with one key: whose turn it is when one is granted again depends on the build of an etcd."""
    member = Member().start()
    member.do(requests.AUTH_ROLE_ADD, AuthRoleAddRequest(name="r"))
    for held in (granting(b"a"), granting(b"m", b"n"), granting(b"m", b"o")):
        member.do(requests.AUTH_ROLE_GRANT_PERMISSION, held)
    member.state.members.cluster_version = version
    before = member.server.node.raft.log.last_index
    answer = Client(member).call("/etcdserverpb.Auth/RoleGrantPermission", request_)
    assert member.server.node.raft.log.last_index == before + taken
    assert (answer.status == OK) == taken
    assert taken or answer.message == InvalidAuthMgmt.message


def test_a_role_that_does_not_exist_is_not_given_anything() -> None:
    member = Member().start()
    member.state.members.cluster_version = "3.5.0"
    answer = Client(member).call("/etcdserverpb.Auth/RoleGrantPermission", granting(b"a"))
    assert answer.message == "etcdserver: role name not found"
