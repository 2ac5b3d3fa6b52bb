"""The replicated requests: one row each. A new request is one row and one apply function.

Fields and numbers are those of etcd's InternalRaftRequest (formats §7).
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from ratifyd.apply import alarms, cluster, kv, leases
from ratifyd.apply import txn as txns
from ratifyd.apply.state import State
from ratifyd.proto.etcdserver_pb2 import Request
from ratifyd.proto.membership_pb2 import Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest
from ratifyd.proto.raft_internal_pb2 import InternalRaftRequest, RequestHeader
from ratifyd.proto.rpc_pb2 import LeaseGrantRequest, PutRequest, TxnRequest

PUT_OVERHEAD_BYTES = 256
LEASE_OVERHEAD_BYTES = 64


class Row(NamedTuple):
    """How one kind of request is found in an entry, executed and measured."""

    field: str
    """Name of the field in InternalRaftRequest."""
    operation: str
    """Label of the request in etcd_server_apply_duration_seconds."""
    apply: Callable[[State, Any, bool], bytes]
    """(state, request, somebody waits for the answer) -> response body after the header; raises RequestError."""
    cost: Callable[[Any], int] | None = None
    """Bytes the request may add to the backend; None when it cannot grow it (semantics 10.2)."""
    corrupt_allowed: bool = False
    """Whether it still runs while the CORRUPT alarm is on."""

    @property
    def tag(self) -> bytes:
        """Protobuf tag of the field, as it stands in an entry."""
        number = InternalRaftRequest.DESCRIPTOR.fields_by_name[self.field].number << 3 | 2
        encoded = bytearray()
        while number > 0x7F:
            encoded.append(number & 0x7F | 0x80)
            number >>= 7
        encoded.append(number)
        return bytes(encoded)


def put_cost(request: PutRequest) -> int:
    """Bytes a Put may add."""
    return PUT_OVERHEAD_BYTES + len(request.key) + len(request.value)


def txn_cost(request: TxnRequest) -> int:
    """Bytes a Txn may add: its dearer branch, nested txns included."""
    return max(_branch_cost(request.success), _branch_cost(request.failure))


def _branch_cost(ops: Any) -> int:
    total = 0
    for op in ops:
        kind = op.WhichOneof("request")
        if kind == "request_put":
            total += put_cost(op.request_put)
        elif kind == "request_txn":
            total += txn_cost(op.request_txn)
    return total


def lease_cost(request: LeaseGrantRequest) -> int:
    """Bytes a LeaseGrant may add."""
    return LEASE_OVERHEAD_BYTES


PUT = Row("put", "Put", kv.put, put_cost)
DELETE_RANGE = Row("delete_range", "DeleteRange", kv.delete_range)
TXN = Row("txn", "Txn", txns.txn, txn_cost)
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
_BY_FIRST_BYTE = {row.tag[0]: row for row in ROWS if len(row.tag) == 1}


_V2 = Row("v2", "V2", cluster.ignore, corrupt_allowed=True)
"""Whatever else the v2 API has written: kept out of `ROWS`, as nobody proposes it."""
_V2_FIRST_BYTE = 0x08
_V2_METHODS = frozenset(("PUT", "POST", "DELETE", "QGET", "SYNC"))
_V2_VERSION_PATH = "/0/version"
_V2_MEMBER = re.compile(r"/0/members/([0-9a-f]{1,16})/attributes")


def decode(data: bytes) -> tuple[RequestHeader, Row, Any]:
    """Read the request of a normal entry. Raises ValueError when it is none that this version knows."""
    if data[0] == _V2_FIRST_BYTE and (found := _decode_v2(data)) is not None:
        return found
    entry = InternalRaftRequest.FromString(data)
    # The request's field comes first in what etcd and we write, as its number is below the header's.
    row = _BY_FIRST_BYTE.get(data[0])
    if row is not None and entry.HasField(row.field):
        return entry.header, row, getattr(entry, row.field)
    for row in ROWS:
        if entry.HasField(row.field):
            return entry.header, row, getattr(entry, row.field)
    raise ValueError(f"log entry holds no request known to this version: {data[:64]!r}")


def _decode_v2(data: bytes) -> tuple[RequestHeader, Row, Any] | None:
    """The request of an entry in the form members up to 3.5 publish themselves with (formats 7.6), None if it is none.

    Its first byte is that of an id; a request of the newer form puts the id last.
    """
    try:
        request = Request.FromString(data)
    except DecodeError:
        return None
    if request.Method not in _V2_METHODS:
        return None
    header = RequestHeader(ID=request.ID)
    if request.Method == "PUT":
        if request.Path == _V2_VERSION_PATH:
            return header, CLUSTER_VERSION_SET, ClusterVersionSetRequest(ver=request.Val)
        if (member := _V2_MEMBER.fullmatch(request.Path)) is not None:
            fields = json.loads(request.Val)
            attributes = Attributes(name=fields.get("name", ""), client_urls=fields.get("clientURLs") or ())
            change = ClusterMemberAttrSetRequest(member_ID=int(member[1], 16), member_attributes=attributes)
            return header, CLUSTER_MEMBER_ATTR_SET, change
    return header, _V2, request


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
