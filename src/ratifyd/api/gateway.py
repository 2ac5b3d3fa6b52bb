"""The JSON gateway: which /v3/ path leads to which RPC, and what of a request's head its handler gets to see."""

from collections.abc import Mapping
from typing import Protocol

from ratifyd.api.dispatch import find_route
from ratifyd.api.exchange import EXCHANGES, Answer, Incoming, Target, answer_error
from ratifyd.api.jsonwire import message_type
from ratifyd.api.pages import Headers
from ratifyd.api.routes import Route, unimplemented
from ratifyd.errors import Code
from ratifyd.proto.services import METHODS, Method
from ratifyd.server.server import Server
from ratifyd.wire.headers import Head, parse_timeout

PREFIX = "/v3/"

_PATHS: dict[str, dict[str, tuple[str, ...]]] = {
    "etcdserverpb.KV": {
        "Range": ("kv/range",),
        "Put": ("kv/put",),
        "DeleteRange": ("kv/deleterange",),
        "Txn": ("kv/txn",),
        "Compact": ("kv/compaction",),
    },
    "etcdserverpb.Watch": {"Watch": ("watch",)},
    "etcdserverpb.Lease": {
        "LeaseGrant": ("lease/grant",),
        "LeaseRevoke": ("lease/revoke", "kv/lease/revoke"),
        "LeaseKeepAlive": ("lease/keepalive",),
        "LeaseTimeToLive": ("lease/timetolive", "kv/lease/timetolive"),
        "LeaseLeases": ("lease/leases", "kv/lease/leases"),
    },
    "etcdserverpb.Cluster": {
        "MemberAdd": ("cluster/member/add",),
        "MemberRemove": ("cluster/member/remove",),
        "MemberUpdate": ("cluster/member/update",),
        "MemberList": ("cluster/member/list",),
        "MemberPromote": ("cluster/member/promote",),
    },
    "etcdserverpb.Maintenance": {
        "Alarm": ("maintenance/alarm",),
        "Status": ("maintenance/status",),
        "Defragment": ("maintenance/defragment",),
        "Hash": ("maintenance/hash",),
        "HashKV": ("maintenance/hashkv",),
        "Snapshot": ("maintenance/snapshot",),
        "MoveLeader": ("maintenance/transfer-leadership",),
        "Downgrade": ("maintenance/downgrade",),
    },
    "etcdserverpb.Auth": {
        "AuthEnable": ("auth/enable",),
        "AuthDisable": ("auth/disable",),
        "AuthStatus": ("auth/status",),
        "Authenticate": ("auth/authenticate",),
        "UserAdd": ("auth/user/add",),
        "UserGet": ("auth/user/get",),
        "UserList": ("auth/user/list",),
        "UserDelete": ("auth/user/delete",),
        "UserChangePassword": ("auth/user/changepw",),
        "UserGrantRole": ("auth/user/grant",),
        "UserRevokeRole": ("auth/user/revoke",),
        "RoleAdd": ("auth/role/add",),
        "RoleGet": ("auth/role/get",),
        "RoleList": ("auth/role/list",),
        "RoleDelete": ("auth/role/delete",),
        "RoleGrantPermission": ("auth/role/grant",),
        "RoleRevokePermission": ("auth/role/revoke",),
    },
    "v3lockpb.Lock": {"Lock": ("lock/lock",), "Unlock": ("lock/unlock",)},
    "v3electionpb.Election": {
        "Campaign": ("election/campaign",),
        "Proclaim": ("election/proclaim",),
        "Leader": ("election/leader",),
        "Observe": ("election/observe",),
        "Resign": ("election/resign",),
    },
}
"""Paths by service and method, as etcd's .proto files annotate them; RangeStream has none there."""

PATHS: dict[str, Method] = {
    PREFIX + path: METHODS[f"/{service}/{name}".encode()]
    for service, methods in _PATHS.items()
    for name, paths in methods.items()
    for path in paths
}

_METADATA_PREFIX = "grpc-metadata-"
_PERMANENT = frozenset(
    (
        *("accept", "accept-charset", "accept-language", "accept-ranges", "authorization", "cache-control"),
        *("content-type", "cookie", "date", "expect", "from", "host", "if-match", "if-modified-since"),
        *("if-none-match", "if-schedule-tag-match", "if-unmodified-since", "max-forwards", "origin", "pragma"),
        *("referer", "user-agent", "via", "warning"),
    )
)
"""Headers that become metadata under the name grpcgateway-<name>."""


class Request(Protocol):
    """The head of a request. Header names are in lower case."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def query(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def peer(self) -> str: ...


class Gateway:
    """The gateway of one member. Messages may be as long as gRPC's."""

    __slots__ = ("_max_message_bytes", "_routes", "_server")

    def __init__(self, server: Server, routes: dict[bytes, Route], *, max_message_bytes: int) -> None:
        self._server = server
        self._routes = routes
        self._max_message_bytes = max_message_bytes

    def handle(self, request: Request, path: str, answer: Answer, headers: Headers) -> Incoming:
        """Begin a request for a path under /v3/; `headers` go with whatever is answered."""
        method = PATHS.get(path)
        if method is None:
            return answer_error(answer, headers, Code.NOT_FOUND, "Not Found")
        if request.method != "POST":
            return answer_error(answer, headers, Code.UNIMPLEMENTED, "Method Not Allowed")
        timeout_s: float | None = None
        if timeout := request.headers.get("grpc-timeout"):
            parsed = parse_timeout(timeout.encode("latin-1", "replace"))
            if isinstance(parsed, str):
                return answer_error(answer, headers, Code.INVALID_ARGUMENT, f"invalid grpc-timeout: {timeout}")
            timeout_s = parsed or None
        head = Head(method.path, timeout_s, _metadata(request), b"", b"grpc-gateway")
        route = find_route(self._routes, head)
        if route is None:
            return answer_error(answer, headers, Code.UNIMPLEMENTED, unimplemented(method.path))
        types = message_type(method.request.DESCRIPTOR), message_type(method.response.DESCRIPTOR)
        target = Target(route, head, *types, self._max_message_bytes, request.peer)
        return EXCHANGES[method.client_streaming, method.server_streaming](self._server, answer, headers, target)


def wants_body_stream(method: str, path: str) -> bool:
    """Whether a request's body is to be read as it arrives: it may hold many messages."""
    target = PATHS.get(path)
    return method == "POST" and target is not None and target.client_streaming


def _metadata(request: Request) -> dict[bytes, list[bytes]]:
    """What handlers get to see of the headers, as grpc-gateway forwards them.

    grpcgateway-accept is always there: it is how a request tells that no certificate's name stands behind it.
    """
    metadata = {b"grpcgateway-accept": [b""]}
    for name, value in request.headers.items():
        raw = value.encode("latin-1", "replace")
        if name == "authorization":
            metadata[b"authorization"] = [raw]
        if name in _PERMANENT:
            metadata[f"grpcgateway-{name}".encode()] = [raw]
        elif name.startswith(_METADATA_PREFIX):
            metadata[name.removeprefix(_METADATA_PREFIX).encode("latin-1", "replace")] = [raw]
    if host := request.headers.get("x-forwarded-host") or request.headers.get("host"):
        metadata[b"x-forwarded-host"] = [host.encode("latin-1", "replace")]
    hops = [request.headers.get("x-forwarded-for", ""), request.peer.rpartition(":")[0]]
    metadata[b"x-forwarded-for"] = [", ".join(filter(None, hops)).encode("latin-1", "replace")]
    return metadata
