"""The replicated requests: one row each. A new request is one row and one apply function.

Fields and numbers are those of etcd's InternalRaftRequest (formats §7).
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from ratifyd.apply import alarms, cluster, kv, leases
from ratifyd.apply import txn as txns
from ratifyd.apply.state import State
from ratifyd.apply.txn import Operation, Txn
from ratifyd.proto import fast
from ratifyd.proto.etcdserver_pb2 import Request
from ratifyd.proto.membership_pb2 import Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest
from ratifyd.proto.raft_internal_pb2 import InternalRaftRequest, RequestHeader
from ratifyd.proto.rpc_pb2 import LeaseGrantRequest, PutRequest, TxnRequest

PUT_OVERHEAD_BYTES = 256
LEASE_OVERHEAD_BYTES = 64


def cost_bound(data: bytes) -> int:
    """At least the cost of the request in `data`: cheap to compute, so that the exact one seldom is.

    The dearest byte is that of a put nested in a txn: 257 for the five bytes of a one-byte key without a value.
    """
    return PUT_OVERHEAD_BYTES + 64 * len(data)


def _tag(field: str) -> bytes:
    """Protobuf tag of a field of InternalRaftRequest, as it stands in an entry."""
    return fast.varint(InternalRaftRequest.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


class Row:
    """How one kind of request is found in an entry, executed and measured.

    `field` is its name in InternalRaftRequest, `operation` its label in etcd_server_apply_duration_seconds.
    `apply(state, request, wanted)` executes it and gives the response body after the header; `wanted` says whether
    somebody waits for it; it raises RequestError. `cost(request)` is what it may add to the backend in bytes, None
    when it cannot grow it (semantics 10.2). `read` turns the message into what `apply` and `cost` take, None when
    that is the message itself. `corrupt_allowed`: it still runs while the CORRUPT alarm is on.
    """

    __slots__ = ("apply", "corrupt_allowed", "cost", "field", "operation", "read", "tag")

    def __init__(
        self,
        field: str,
        operation: str,
        apply: Callable[[State, Any, bool], bytes],
        cost: Callable[[Any], int] | None = None,
        *,
        read: Callable[[Any], Any] | None = None,
        corrupt_allowed: bool = False,
    ) -> None:
        self.field = field
        self.operation = operation
        self.apply = apply
        self.cost = cost
        self.read = read
        self.corrupt_allowed = corrupt_allowed
        self.tag = _tag(field)


def put_cost(request: PutRequest) -> int:
    """Bytes a Put may add."""
    return PUT_OVERHEAD_BYTES + len(request.key) + len(request.value)


def txn_cost(txn: Txn) -> int:
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


Decoded = tuple[int, Row, Any]
"""Request id, row, and the request as the row applies it."""

PUT = Row("put", "Put", kv.put, put_cost)
DELETE_RANGE = Row("delete_range", "DeleteRange", kv.delete_range)
TXN = Row("txn", "Txn", txns.txn, txn_cost, read=Txn)
COMPACTION = Row("compaction", "Compaction", kv.compact)
LEASE_GRANT = Row("lease_grant", "LeaseGrant", leases.grant, lease_cost)
LEASE_REVOKE = Row("lease_revoke", "LeaseRevoke", leases.revoke)
LEASE_CHECKPOINT = Row("lease_checkpoint", "LeaseCheckpoint", leases.checkpoint, corrupt_allowed=True)
ALARM = Row("alarm", "Alarm", alarms.alarm, corrupt_allowed=True)
CLUSTER_VERSION_SET = Row("cluster_version_set", "ClusterVersionSet", cluster.set_cluster_version, corrupt_allowed=True)
CLUSTER_MEMBER_ATTR_SET = Row(
    "cluster_member_attr_set", "ClusterMemberAttrSet", cluster.set_attributes, corrupt_allowed=True
)
DOWNGRADE_INFO_SET = Row("downgrade_info_set", "DowngradeInfoSet", cluster.set_downgrade, corrupt_allowed=True)

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
)
_TXN_NUMBER = InternalRaftRequest.DESCRIPTOR.fields_by_name[TXN.field].number
_BY_FIRST_BYTE = {row.tag[0]: row for row in ROWS if len(row.tag) == 1}


_V2 = Row("v2", "V2", cluster.ignore, corrupt_allowed=True)
"""Whatever else the v2 API has written: kept out of `ROWS`, as nobody proposes it."""
_V2_FIRST_BYTE = 0x08
_V2_METHODS = frozenset(("PUT", "POST", "DELETE", "QGET", "SYNC"))
_V2_VERSION_PATH = "/0/version"
_V2_MEMBER = re.compile(r"/0/members/([0-9a-f]{1,16})/attributes")


def decode(data: bytes) -> Decoded:
    """Read the request of a normal entry. Raises ValueError when it is none that this version knows."""
    if data[0] == _V2_FIRST_BYTE and (found := _decode_v2(data)) is not None:
        return found
    parts = fast.split_internal_raft_request(data)
    if parts is not None and parts[0] == _TXN_NUMBER:
        # On its own: one nested as deep as the parser goes, as the API takes it, is a level too deep in its entry.
        return RequestHeader.FromString(parts[2]).ID, TXN, Txn(TxnRequest.FromString(parts[1]))
    entry = InternalRaftRequest.FromString(data)
    # The request's field comes first in what etcd and we write, as its number is below the header's.
    first = _BY_FIRST_BYTE.get(data[0])
    for row in ROWS if first is None or not entry.HasField(first.field) else (first,):
        if entry.HasField(row.field):
            request = getattr(entry, row.field)
            return entry.header.ID, row, request if row.read is None else row.read(request)
    raise ValueError(f"log entry holds no request known to this version: {data[:64]!r}")


def _decode_v2(data: bytes) -> Decoded | None:
    """The request of an entry in the form members up to 3.5 publish themselves with (formats 7.6), None if it is none.

    Its first byte is that of an id; a request of the newer form puts the id last.
    """
    try:
        request = Request.FromString(data)
    except DecodeError:
        return None
    if request.Method not in _V2_METHODS:
        return None
    request_id: int = request.ID
    if request.Method == "PUT":
        if request.Path == _V2_VERSION_PATH:
            return request_id, CLUSTER_VERSION_SET, ClusterVersionSetRequest(ver=request.Val)
        if (member := _V2_MEMBER.fullmatch(request.Path)) is not None:
            fields = json.loads(request.Val)
            attributes = Attributes(name=fields.get("name", ""), client_urls=fields.get("clientURLs") or ())
            change = ClusterMemberAttrSetRequest(member_ID=int(member[1], 16), member_attributes=attributes)
            return request_id, CLUSTER_MEMBER_ATTR_SET, change
    return request_id, _V2, request


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
