"""Auth: users, roles and permissions, all through the log; passwords are hashed and tried here (semantics §9)."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ratifyd.api import validate
from ratifyd.api.calls import Call, Handler
from ratifyd.api.identity import identity_of
from ratifyd.apply import requests
from ratifyd.apply.requests import Row
from ratifyd.auth.identity import Identity
from ratifyd.errors import EtcdError
from ratifyd.proto import rpc_pb2
from ratifyd.proto.canonical import canonical
from ratifyd.server.server import Server


def authenticate(server: Server, call: Call) -> None:
    """Auth.Authenticate: a token for a password; who asks shows none yet."""
    request = rpc_pb2.AuthenticateRequest.FromString(call.message)
    server.authentication.log_in(request.name, request.password, call.answer)


def user_add(server: Server, call: Call) -> None:
    """Auth.UserAdd: the password never gets into the log. Raises PasswordTooLong."""
    request, _ = canonical(rpc_pb2.AuthUserAddRequest, call.message)
    identity = identity_of(server, call.head)
    _check(server, identity, validate.check_name, request)
    password, request.password = request.password, ""
    if request.options.no_password:
        server.propose(requests.AUTH_USER_ADD, request.SerializeToString(), call.answer, identity=identity)
    else:
        _propose_hashed(server, call, requests.AUTH_USER_ADD, request, password, identity)


def user_change_password(server: Server, call: Call) -> None:
    """Auth.UserChangePassword. Raises PasswordTooLong."""
    request, message = canonical(rpc_pb2.AuthUserChangePasswordRequest, call.message)
    identity = identity_of(server, call.head)
    row = requests.AUTH_USER_CHANGE_PASSWORD
    if request.password:
        password, request.password = request.password, ""
        _propose_hashed(server, call, row, request, password, identity)
    else:
        server.propose(row, message, call.answer, identity=identity)


def _propose_hashed(server: Server, call: Call, row: Row, request: Any, password: str, identity: Identity) -> None:
    def hashed(text: str, error: EtcdError | None) -> None:
        if error is not None:
            call.fail(error)
            return
        request.hashedPassword = text
        server.propose(row, request.SerializeToString(), call.answer, identity=identity)

    server.authentication.hash(password, hashed)


def role_grant_permission(server: Server, call: Call) -> None:
    """Auth.RoleGrantPermission. Raises InvalidAuthMgmt."""
    request, message = canonical(rpc_pb2.AuthRoleGrantPermissionRequest, call.message)
    identity = identity_of(server, call.head)
    _check(server, identity, validate.check_grant, request)
    if server.is_beside_older:
        server.read(_grant_decidable, (call, request, message, identity))
    else:
        server.propose(requests.AUTH_ROLE_GRANT_PERMISSION, message, call.answer, identity=identity)


def _grant_decidable(argument: tuple[Call, Any, bytes, Identity], error: EtcdError | None) -> None:
    call, request, message, identity = argument
    server = call.server
    try:
        if error is not None:
            raise error
        _check(server, identity, partial(validate.check_regrant, server.auth.roles.get(request.name)), request)
    except EtcdError as refused:
        call.fail(refused)
    else:
        server.propose(requests.AUTH_ROLE_GRANT_PERMISSION, message, call.answer, identity=identity)


def _check(server: Server, identity: Identity, check: Callable[[Any], None], request: Any) -> None:
    """Refuse what must not get into the log; who may not ask for it is told so first, as by the log."""
    try:
        check(request)
    except EtcdError:
        server.auth.check_admin(identity)
        raise


def _through_log(kind: Any, row: Row, check: Callable[[Any], None] | None = None) -> Handler:
    """A handler that hands the request on, once it is seen to be one."""

    def handle(server: Server, call: Call) -> None:
        request, message = canonical(kind, call.message)
        identity = identity_of(server, call.head)
        if check is not None:
            _check(server, identity, check, request)
        server.propose(row, message, call.answer, identity=identity)

    return handle


HANDLERS: dict[str, Handler] = {
    "/etcdserverpb.Auth/AuthEnable": _through_log(rpc_pb2.AuthEnableRequest, requests.AUTH_ENABLE),
    "/etcdserverpb.Auth/AuthDisable": _through_log(rpc_pb2.AuthDisableRequest, requests.AUTH_DISABLE),
    "/etcdserverpb.Auth/AuthStatus": _through_log(rpc_pb2.AuthStatusRequest, requests.AUTH_STATUS),
    "/etcdserverpb.Auth/Authenticate": authenticate,
    "/etcdserverpb.Auth/UserAdd": user_add,
    "/etcdserverpb.Auth/UserGet": _through_log(rpc_pb2.AuthUserGetRequest, requests.AUTH_USER_GET),
    "/etcdserverpb.Auth/UserList": _through_log(rpc_pb2.AuthUserListRequest, requests.AUTH_USER_LIST),
    "/etcdserverpb.Auth/UserDelete": _through_log(rpc_pb2.AuthUserDeleteRequest, requests.AUTH_USER_DELETE),
    "/etcdserverpb.Auth/UserChangePassword": user_change_password,
    "/etcdserverpb.Auth/UserGrantRole": _through_log(rpc_pb2.AuthUserGrantRoleRequest, requests.AUTH_USER_GRANT_ROLE),
    "/etcdserverpb.Auth/UserRevokeRole": _through_log(
        rpc_pb2.AuthUserRevokeRoleRequest, requests.AUTH_USER_REVOKE_ROLE
    ),
    "/etcdserverpb.Auth/RoleAdd": _through_log(rpc_pb2.AuthRoleAddRequest, requests.AUTH_ROLE_ADD, validate.check_name),
    "/etcdserverpb.Auth/RoleGet": _through_log(rpc_pb2.AuthRoleGetRequest, requests.AUTH_ROLE_GET),
    "/etcdserverpb.Auth/RoleList": _through_log(rpc_pb2.AuthRoleListRequest, requests.AUTH_ROLE_LIST),
    "/etcdserverpb.Auth/RoleDelete": _through_log(rpc_pb2.AuthRoleDeleteRequest, requests.AUTH_ROLE_DELETE),
    "/etcdserverpb.Auth/RoleGrantPermission": role_grant_permission,
    "/etcdserverpb.Auth/RoleRevokePermission": _through_log(
        rpc_pb2.AuthRoleRevokePermissionRequest, requests.AUTH_ROLE_REVOKE_PERMISSION
    ),
}
