"""Membership, member attributes and cluster version as the state machine records them."""

import json

from ratifyd import schema
from ratifyd.apply.state import State
from ratifyd.membership import Change, ChangeKind, hex_id
from ratifyd.proto.etcdserver_pb2 import Request
from ratifyd.proto.membership_pb2 import ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest
from ratifyd.version import STORAGE_VERSION, minor_of


def set_attributes(state: State, request: ClusterMemberAttrSetRequest, wanted: bool) -> bytes:
    """Take the name and client URLs a member published."""
    attributes = request.member_attributes
    if state.members.set_attributes(request.member_ID, attributes.name, attributes.client_urls):
        _save(state, request.member_ID)
    return b""


def set_cluster_version(state: State, request: ClusterVersionSetRequest, wanted: bool) -> bytes:
    """Take the cluster version the leader decided; a cluster of 3.6 or newer stamps the storage version too."""
    try:
        minor_of(request.ver)
    except ValueError:  # no leader decides that, and etcd would panic
        return pass_over(state, request.ver.encode(), wanted)
    state.members.cluster_version = request.ver
    state.buffer.put(schema.CLUSTER, schema.CLUSTER_VERSION, request.ver.encode())
    if minor_of(request.ver) >= minor_of(STORAGE_VERSION):
        state.buffer.put(schema.META, schema.STORAGE_VERSION, STORAGE_VERSION.encode())
    elif state.buffer.get(schema.META, schema.STORAGE_VERSION) is not None:
        state.buffer.delete(schema.META, schema.STORAGE_VERSION)
    return b""


def set_downgrade(state: State, request: DowngradeInfoSetRequest, wanted: bool) -> bytes:
    """Record whether the cluster is being downgraded, and to what."""
    info: dict[str, object] = {"target-version": request.ver, "enabled": request.enabled}
    record = json.dumps(info, separators=(",", ":")).encode()
    try:
        state.members.set_downgrade(record)
    except ValueError:  # as above
        return pass_over(state, request.ver.encode(), wanted)
    state.buffer.put(schema.CLUSTER, schema.DOWNGRADE, record)
    return b""


def ignore(state: State, request: Request, wanted: bool) -> bytes:
    """Pass over a request to the v2 store that has no counterpart here: its keys are not part of the v3 state."""
    state.warn("ignored a v2 request in the log", method=request.Method, path=request.Path)
    return b""


def pass_over(state: State, data: bytes, wanted: bool) -> bytes:
    """Leave out an entry that cannot be read."""
    state.warn("passed over a log entry that is no request", index=state.consistent_index, data=data[:64].hex())
    return b""


def change_members(state: State, change: Change) -> None:
    """Carry out a membership change and record it. Raises what Membership.check raises; then nothing has changed."""
    members = state.members
    members.check(change)
    members.apply(change)
    member = change.member.id
    if change.kind == ChangeKind.REMOVE_NODE:
        state.buffer.delete(schema.MEMBERS, hex_id(member).encode())
        state.buffer.put(schema.MEMBERS_REMOVED, hex_id(member).encode(), b"removed")
    else:
        _save(state, member)


def _save(state: State, member: int) -> None:
    state.buffer.put(schema.MEMBERS, hex_id(member).encode(), state.members.members[member].to_json())
