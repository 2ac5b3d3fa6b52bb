"""The replicated requests: one row each. A new request is one row and one apply function.

Fields and numbers are those of etcd's InternalRaftRequest (formats §7).
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError, Message

from ratifyd.apply import alarms, auth, cluster, kv, leases, permissions
from ratifyd.apply import txn as txns
from ratifyd.apply.state import State
from ratifyd.apply.txn import Operation, Txn, parse_txn
from ratifyd.auth.identity import ANONYMOUS, Identity, name_of
from ratifyd.errors import TooManyOps
from ratifyd.membership import Member, read_object
from ratifyd.proto import fast
from ratifyd.proto.auth_records_pb2 import (
    RecordedAuthenticate,
    RecordedGrant,
    RecordedHeader,
    RecordedName,
    RecordedPassword,
    RecordedRevocation,
    RecordedUserAdd,
    RecordedUserRole,
)
from ratifyd.proto.etcdserver_pb2 import Request
from ratifyd.proto.light import Delete, Put, Swap, read_delete_range, read_put
from ratifyd.proto.membership_pb2 import Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest
from ratifyd.proto.raft_internal_pb2 import InternalRaftRequest
from ratifyd.proto.rpc_pb2 import DeleteRangeRequest, LeaseGrantRequest, PutRequest

PUT_OVERHEAD_BYTES = 256
LEASE_OVERHEAD_BYTES = 64
_BYTE_COST = 64


def cost_bound(data: bytes) -> int:
    """At least the cost of the request in `data`: cheap to compute, so that the exact one seldom is.

    The dearest byte is that of a put nested in a txn: 257 for the five bytes of a one-byte key without a value.
    """
    return PUT_OVERHEAD_BYTES + _BYTE_COST * len(data)


def shortest_of(cost: int) -> int:
    """The size of the shortest request whose `cost_bound` is at least this."""
    return max(0, -((PUT_OVERHEAD_BYTES - cost) // _BYTE_COST))


_EMPTY = InternalRaftRequest()

Permit = Callable[[State, Identity, Any], None]


class Row:
    """How one kind of request is found in an entry, executed and measured.

    `field` is its name in InternalRaftRequest, `operation` its label in etcd_server_apply_duration_seconds.
    `apply(state, request, wanted)` executes it and gives the response body after the header; `wanted` says whether
    somebody waits for it; it raises RequestError. `cost(request)` is what it may add to the backend in bytes, None
    when it cannot grow it (semantics 10.2). `permit(state, identity, request)` raises RequestError for whoever may not
    have it executed, None when everybody may; asked only while auth is on. `message` is what its bytes are read as, the
    type of the field by default; `read` makes of them what the others take, the message itself by default.
    `corrupt_allowed`: it runs while the CORRUPT alarm is on, too. `quiet`: its outcome matters to its proposer only.
    """

    __slots__ = (
        "apply",
        "corrupt_allowed",
        "cost",
        "field",
        "message",
        "number",
        "operation",
        "permit",
        "quiet",
        "read",
        "tag",
    )

    def __init__(
        self,
        field: str,
        operation: str,
        apply: Callable[[State, Any, bool], bytes],
        cost: Callable[[Any], int] | None = None,
        *,
        permit: Permit | None = None,
        message: type[Message] | None = None,
        read: Callable[[bytes], Any] | None = None,
        corrupt_allowed: bool = False,
        quiet: bool = False,
    ) -> None:
        descriptor = InternalRaftRequest.DESCRIPTOR.fields_by_name[field]
        self.field = field
        self.number = descriptor.number
        self.operation = operation
        self.apply = apply
        self.cost = cost
        self.permit = permit
        self.message = message or type(getattr(_EMPTY, field))
        self.read = read or self.message.FromString
        self.corrupt_allowed = corrupt_allowed
        self.quiet = quiet
        self.tag = fast.varint(descriptor.number << 3 | 2)
        """Of the field, as it stands in an entry."""


def parse_put(data: bytes) -> Put | PutRequest:
    """Read a PutRequest. Raises DecodeError."""
    return read_put(data, 0, len(data))


def parse_delete_range(data: bytes) -> Delete | DeleteRangeRequest:
    """Read a DeleteRangeRequest. Raises DecodeError."""
    return read_delete_range(data, 0, len(data))


def put_cost(request: Put | PutRequest) -> int:
    """Bytes a Put may add."""
    return PUT_OVERHEAD_BYTES + len(request.key) + len(request.value)


def txn_cost(txn: Txn | Swap) -> int:
    """Bytes a Txn may add: its dearer branch, nested txns included."""
    return max(_branch_cost(txn.success), _branch_cost(txn.failure))


def _branch_cost(ops: list[Operation]) -> int:
    total = 0
    for kind, request in ops:
        if kind == "request_put":
            total += put_cost(request)
        elif kind == "request_txn":
            total += txn_cost(request)
    return total


def lease_cost(request: LeaseGrantRequest) -> int:
    """Bytes a LeaseGrant may add."""
    return LEASE_OVERHEAD_BYTES


Decoded = tuple[int, Row, Any, Identity]
"""Request id, row, the request as the row applies it, and whose it is."""

PUT = Row("put", "Put", kv.put, put_cost, permit=permissions.check_put, read=parse_put, quiet=True)
DELETE_RANGE = Row(
    "delete_range",
    "DeleteRange",
    kv.delete_range,
    permit=permissions.check_delete_range,
    read=parse_delete_range,
    quiet=True,
)
TXN = Row("txn", "Txn", txns.txn, txn_cost, permit=permissions.check_txn, read=parse_txn, quiet=True)
COMPACTION = Row("compaction", "Compaction", kv.compact)
LEASE_GRANT = Row("lease_grant", "LeaseGrant", leases.grant, lease_cost)
LEASE_REVOKE = Row("lease_revoke", "LeaseRevoke", leases.revoke, permit=permissions.check_lease_revoke)
LEASE_CHECKPOINT = Row("lease_checkpoint", "LeaseCheckpoint", leases.checkpoint, corrupt_allowed=True)
ALARM = Row("alarm", "Alarm", alarms.alarm, corrupt_allowed=True)
CLUSTER_VERSION_SET = Row("cluster_version_set", "ClusterVersionSet", cluster.set_cluster_version, corrupt_allowed=True)
CLUSTER_MEMBER_ATTR_SET = Row(
    "cluster_member_attr_set", "ClusterMemberAttrSet", cluster.set_attributes, corrupt_allowed=True
)
DOWNGRADE_INFO_SET = Row("downgrade_info_set", "DowngradeInfoSet", cluster.set_downgrade, corrupt_allowed=True)


def _auth_row(
    field: str,
    operation: str,
    apply: Callable[[State, Any, bool], bytes],
    message: type[Message] | None = None,
    permit: Permit | None = permissions.check_admin,
) -> Row:
    return Row(field, operation, apply, permit=permit, message=message, corrupt_allowed=True)


AUTH_ENABLE = _auth_row("auth_enable", "AuthEnable", auth.enable)
AUTH_DISABLE = _auth_row("auth_disable", "AuthDisable", auth.disable)
AUTHENTICATE = _auth_row("authenticate", "Authenticate", auth.authenticate, RecordedAuthenticate, None)
AUTH_STATUS = _auth_row("auth_status", "unknown", auth.status)
AUTH_USER_ADD = _auth_row("auth_user_add", "AuthUserAdd", auth.user_add, RecordedUserAdd)
AUTH_USER_DELETE = _auth_row("auth_user_delete", "AuthUserDelete", auth.user_delete, RecordedName)
AUTH_USER_GET = _auth_row("auth_user_get", "AuthUserGet", auth.user_get, RecordedName, permissions.check_user_get)
AUTH_USER_CHANGE_PASSWORD = _auth_row(
    "auth_user_change_password", "AuthUserChangePassword", auth.user_change_password, RecordedPassword
)
AUTH_USER_GRANT_ROLE = _auth_row("auth_user_grant_role", "AuthUserGrantRole", auth.user_grant_role, RecordedUserRole)
AUTH_USER_REVOKE_ROLE = _auth_row(
    "auth_user_revoke_role", "AuthUserRevokeRole", auth.user_revoke_role, RecordedUserRole
)
AUTH_USER_LIST = _auth_row("auth_user_list", "AuthUserList", auth.user_list)
AUTH_ROLE_LIST = _auth_row("auth_role_list", "AuthRoleList", auth.role_list)
AUTH_ROLE_ADD = _auth_row("auth_role_add", "AuthRoleAdd", auth.role_add, RecordedName)
AUTH_ROLE_DELETE = _auth_row("auth_role_delete", "AuthRoleDelete", auth.role_delete, RecordedName)
AUTH_ROLE_GET = _auth_row("auth_role_get", "AuthRoleGet", auth.role_get, RecordedName, permissions.check_role_get)
AUTH_ROLE_GRANT_PERMISSION = _auth_row(
    "auth_role_grant_permission", "AuthRoleGrantPermission", auth.role_grant_permission, RecordedGrant
)
AUTH_ROLE_REVOKE_PERMISSION = _auth_row(
    "auth_role_revoke_permission", "AuthRoleRevokePermission", auth.role_revoke_permission, RecordedRevocation
)

ROWS = (
    PUT,
    DELETE_RANGE,
    TXN,
    COMPACTION,
    LEASE_GRANT,
    LEASE_REVOKE,
    LEASE_CHECKPOINT,
    ALARM,
    CLUSTER_VERSION_SET,
    CLUSTER_MEMBER_ATTR_SET,
    DOWNGRADE_INFO_SET,
    AUTH_ENABLE,
    AUTH_DISABLE,
    AUTHENTICATE,
    AUTH_STATUS,
    AUTH_USER_ADD,
    AUTH_USER_DELETE,
    AUTH_USER_GET,
    AUTH_USER_CHANGE_PASSWORD,
    AUTH_USER_GRANT_ROLE,
    AUTH_USER_REVOKE_ROLE,
    AUTH_USER_LIST,
    AUTH_ROLE_LIST,
    AUTH_ROLE_ADD,
    AUTH_ROLE_DELETE,
    AUTH_ROLE_GET,
    AUTH_ROLE_GRANT_PERMISSION,
    AUTH_ROLE_REVOKE_PERMISSION,
)
_BY_NUMBER = {row.number: row for row in ROWS}
_OLD_ID_NUMBER = InternalRaftRequest.DESCRIPTOR.fields_by_name["ID"].number
_HEADER_NUMBER = InternalRaftRequest.DESCRIPTOR.fields_by_name["header"].number


_V2 = Row("v2", "V2", cluster.ignore, corrupt_allowed=True)
"""Whatever else the v2 API has written: kept out of `ROWS`, as nobody proposes it."""
_V2_FIRST_BYTE = 0x08
_V2_METHODS = frozenset(("PUT", "POST", "DELETE", "QGET", "SYNC"))
_V2_VERSION_PATH = "/0/version"
_V2_MEMBER = re.compile(r"/0/members/([0-9a-f]{1,16})/attributes")


class UnknownRequest(Exception):
    """An entry holds a request of a version newer than this one: what it does is unknown, so the member must stop."""


UNREADABLE = Row("v2", "unreadable", cluster.pass_over, corrupt_allowed=True)
"""Bytes that are no request for any version: without effect on every member alike, where etcd would panic."""


def decode(data: bytes) -> Decoded:
    """Read the request of a normal entry. Raises UnknownRequest.

    Only a member makes entries, so what cannot be read is a broken or hostile member's. It must not be able to end the
    others, now and at each restart; and as everybody reads the same bytes, everybody passes over the same.
    """
    try:
        return _decode(data)
    except TooManyOps as error:
        raise UnknownRequest("log entry holds a transaction nested deeper than this version goes") from error
    except (DecodeError, ValueError, RecursionError):
        return 0, UNREADABLE, data, ANONYMOUS


def _decode(data: bytes) -> Decoded:
    if data[0] == _V2_FIRST_BYTE and (old := v2_request(data)) is not None:
        return _decode_v2(old)
    number, body, raw = fast.split_internal_raft_request(data) or _split_any(data)
    row = _BY_NUMBER.get(number)
    if row is None:
        if not number:
            raise ValueError("no request")
        raise UnknownRequest(f"log entry holds no request known to this version: {data[:64]!r}")
    header = RecordedHeader.FromString(raw)
    identity = ANONYMOUS
    if header.auth_revision or header.username:
        identity = Identity(name_of(header.username), header.auth_revision)
    return header.ID, row, row.read(body), identity


def _split_any(data: bytes) -> tuple[int, bytes, bytes]:
    """Number of the request, its bytes and the header's, in whatever order they come."""
    fields = fast.message_fields(data)
    header = fields.pop(_HEADER_NUMBER, b"")
    known = next((number for number in fields if number in _BY_NUMBER), 0)
    number = known or next((number for number in fields if number > _OLD_ID_NUMBER), 0)
    return number, fields.get(number, b""), header


def v2_request(data: bytes) -> Request | None:
    """The request of an entry in the form members up to 3.5 publish themselves with (formats 7.6), None if it is none.

    Its first byte is that of an id; a request of the newer form puts the id last.
    """
    if data[0] != _V2_FIRST_BYTE:
        return None
    try:
        request = Request.FromString(data)
    except DecodeError:
        return None
    return request if request.Method in _V2_METHODS else None


def _decode_v2(request: Request) -> Decoded:
    request_id: int = request.ID
    if isinstance(request.Path, bytes) or isinstance(request.Val, bytes):  # which is how protobuf shows bad UTF-8
        return request_id, _V2, request, ANONYMOUS
    if request.Method == "PUT":
        if request.Path == _V2_VERSION_PATH:
            return request_id, CLUSTER_VERSION_SET, ClusterVersionSetRequest(ver=request.Val), ANONYMOUS
        if (member := _V2_MEMBER.fullmatch(request.Path)) is not None:
            published = Member.from_fields({**read_object(request.Val.encode()), "id": int(member[1], 16)})
            attributes = Attributes(name=published.name, client_urls=published.client_urls)
            change = ClusterMemberAttrSetRequest(member_ID=published.id, member_attributes=attributes)
            return request_id, CLUSTER_MEMBER_ATTR_SET, change, ANONYMOUS
    return request_id, _V2, request, ANONYMOUS


def encode_v2_attributes(request_id: int, member: str, name: str, client_urls: Sequence[str]) -> bytes:
    """The entry with which a member, `member` in hex, publishes itself to a cluster that has members of 3.5."""
    fields: dict[str, object] = {"name": name, "clientURLs": list(client_urls)}
    value = json.dumps({key: value for key, value in fields.items() if value}, separators=(",", ":"))
    return _encode_v2(request_id, f"/0/members/{member}/attributes", value)


def encode_v2_version(request_id: int, version: str) -> bytes:
    """The entry that decides a cluster version which members of 3.5 live with."""
    return _encode_v2(request_id, _V2_VERSION_PATH, version)


def _encode_v2(request_id: int, path: str, value: str) -> bytes:
    return Request(ID=request_id, Method="PUT", Path=path, Val=value).SerializeToString()
