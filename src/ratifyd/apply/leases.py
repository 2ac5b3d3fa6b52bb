"""LeaseGrant, LeaseRevoke and LeaseCheckpoint as the state machine executes them."""

from ratifyd import schema
from ratifyd.apply.state import State
from ratifyd.keys import KeyRange
from ratifyd.proto.lease_pb2 import Lease
from ratifyd.proto.rpc_pb2 import LeaseCheckpointRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest


def grant(state: State, request: LeaseGrantRequest, wanted: bool) -> bytes:
    """Create a lease; the server has chosen its id. Raises LeaseExist, LeaseTTLTooLarge, LeaseNotFound (id 0)."""
    lease = state.leases.grant(request.ID, request.TTL)
    row = Lease(ID=lease.id, TTL=lease.ttl_s).SerializeToString()
    state.buffer.put(schema.LEASE, schema.encode_lease_id(lease.id), row)
    return LeaseGrantResponse(ID=lease.id, TTL=lease.ttl_s).SerializeToString()


def revoke(state: State, request: LeaseRevokeRequest, wanted: bool) -> bytes:
    """Delete a lease and the keys attached to it, in byte order, in one revision. Raises LeaseNotFound."""
    keys = state.leases.revoke(request.ID)
    state.store.counts.deletes += len(keys)
    state.store.counts.txns += len(keys) > 1
    with state.store.write() as txn:
        for key in keys:
            txn.delete_range(KeyRange(key, key + b"\0"))
    state.buffer.delete(schema.LEASE, schema.encode_lease_id(request.ID))
    return b""


def checkpoint(state: State, request: LeaseCheckpointRequest, wanted: bool) -> bytes:
    """Record how much of each lease was left on the leader (semantics 8.18)."""
    for point in request.checkpoints:
        lease = state.leases.checkpoint(point.ID, point.remaining_TTL)
        if lease is not None:
            row = Lease(ID=lease.id, TTL=lease.ttl_s, RemainingTTL=lease.remaining_s)
            state.buffer.put(schema.LEASE, schema.encode_lease_id(lease.id), row.SerializeToString())
    return b""
