"""A server with auth on: root, and users whose rights a test knows."""

from typing import Any

from harness.stubs import Client
from ratifyd.proto import auth_pb2, rpc_pb2

READ, WRITE, READWRITE = auth_pb2.Permission.READ, auth_pb2.Permission.WRITE, auth_pb2.Permission.READWRITE
Metadata = tuple[tuple[str, str], ...]
Right = tuple[int, bytes, bytes]
"""Kind, key and range end."""


def add_user(
    client: Client, name: str, rights: tuple[Right, ...] = (), metadata: Metadata = (), password: str = ""
) -> None:
    """A user called `name`, with password `name` + "pw", holding a role of the same name with these rights."""
    auth = client.auth
    auth.UserAdd(rpc_pb2.AuthUserAddRequest(name=name, password=password or f"{name}pw"), metadata=metadata)
    auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name=name), metadata=metadata)
    for kind, key, range_end in rights:
        permission = auth_pb2.Permission(permType=kind, key=key, range_end=range_end)  # type: ignore[arg-type]
        request = rpc_pb2.AuthRoleGrantPermissionRequest(name=name, perm=permission)
        auth.RoleGrantPermission(request, metadata=metadata)
    auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user=name, role=name), metadata=metadata)


def enable_auth(client: Client, **users: tuple[Right, ...]) -> None:
    """Add root and these users, and switch auth on."""
    for name, rights in {"root": (), **users}.items():
        add_user(client, name, rights)
    client.auth.AuthEnable(rpc_pb2.AuthEnableRequest())


def token_for(client: Client, name: str, password: str = "") -> str:
    """A token of a user made by `add_user`, or with a password of their own."""
    request = rpc_pb2.AuthenticateRequest(name=name, password=password or f"{name}pw")
    token: str = client.auth.Authenticate(request, timeout=10).token
    return token


def login(client: Client, name: str, password: str = "") -> Metadata:
    """Metadata that shows a fresh token."""
    return (("token", token_for(client, name, password)),)


def version_of(client: Client, metadata: Metadata = ()) -> tuple[int, ...]:
    """The version of etcd that a server is, or stands for."""
    answer: Any = client.maintenance.Status(rpc_pb2.StatusRequest(), metadata=metadata)
    return tuple(int(part) for part in answer.version.split("."))
