"""The routes table: one row per RPC this member serves. A new RPC is one row here and one handler."""

from collections.abc import Callable, Mapping

from ratifyd.api import auth, cluster, election, health, kv, lease, lock, maintenance
from ratifyd.api.calls import Handler, Stream
from ratifyd.api.lease import KeepAliveStream
from ratifyd.api.reflection import ReflectionStream
from ratifyd.api.snapshot import SnapshotStream
from ratifyd.api.watch import WatchStream
from ratifyd.metrics import Rpc
from ratifyd.proto.services import SERVICES

_UNARY: dict[str, Handler] = {
    "/etcdserverpb.KV/Range": kv.range_,
    "/etcdserverpb.KV/Put": kv.put,
    "/etcdserverpb.KV/DeleteRange": kv.delete_range,
    "/etcdserverpb.KV/Txn": kv.txn,
    "/etcdserverpb.KV/Compact": kv.compact,
    "/etcdserverpb.Lease/LeaseGrant": lease.grant,
    "/etcdserverpb.Lease/LeaseRevoke": lease.revoke,
    "/etcdserverpb.Lease/LeaseTimeToLive": lease.time_to_live,
    "/etcdserverpb.Lease/LeaseLeases": lease.leases,
    "/etcdserverpb.Cluster/MemberList": cluster.member_list,
    "/etcdserverpb.Cluster/MemberAdd": cluster.member_add,
    "/etcdserverpb.Cluster/MemberRemove": cluster.member_remove,
    "/etcdserverpb.Cluster/MemberUpdate": cluster.member_update,
    "/etcdserverpb.Cluster/MemberPromote": cluster.member_promote,
    "/etcdserverpb.Maintenance/MoveLeader": maintenance.move_leader,
    "/etcdserverpb.Maintenance/Downgrade": maintenance.downgrade,
    "/etcdserverpb.Maintenance/Alarm": maintenance.alarm,
    "/etcdserverpb.Maintenance/Status": maintenance.status,
    "/etcdserverpb.Maintenance/Defragment": maintenance.defragment,
    "/etcdserverpb.Maintenance/Hash": maintenance.hash_,
    "/etcdserverpb.Maintenance/HashKV": maintenance.hash_kv,
    **auth.HANDLERS,
    "/v3lockpb.Lock/Lock": lock.lock,
    "/v3lockpb.Lock/Unlock": lock.unlock,
    "/v3electionpb.Election/Campaign": election.campaign,
    "/v3electionpb.Election/Proclaim": election.proclaim,
    "/v3electionpb.Election/Leader": election.leader,
    "/v3electionpb.Election/Resign": election.resign,
    "/grpc.health.v1.Health/Check": health.check,
    "/grpc.health.v1.Health/List": health.list_,
}

_STREAMING: dict[str, Callable[..., Stream]] = {
    "/etcdserverpb.Watch/Watch": WatchStream,
    "/etcdserverpb.Lease/LeaseKeepAlive": KeepAliveStream,
    "/etcdserverpb.Maintenance/Snapshot": SnapshotStream,
    "/etcdserverpb.KV/RangeStream": kv.RangeStream,
    "/v3electionpb.Election/Observe": election.ObserveStream,
    "/grpc.health.v1.Health/Watch": health.HealthStream,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": ReflectionStream,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ReflectionStream,
}


class Route:
    """One RPC on one member: its handler or stream class, and its counters."""

    __slots__ = ("handler", "rpc", "stream")

    def __init__(self, rpc: Rpc, handler: Handler | None, stream: Callable[..., Stream] | None) -> None:
        self.rpc = rpc
        self.handler = handler
        self.stream = stream

    def of_version(self, version: str) -> "Route":
        """The same with the counters of clients of one API version."""
        return Route(self.rpc.of_version(version), self.handler, self.stream)


def build_routes(rpcs: Mapping[bytes, Rpc]) -> dict[bytes, Route]:
    """The routes of one member by path, with its counters."""
    routes = {path.encode(): Route(rpcs[path.encode()], handler, None) for path, handler in _UNARY.items()}
    for path, stream in _STREAMING.items():
        routes[path.encode()] = Route(rpcs[path.encode()], None, stream)
    return routes


def unimplemented(path: bytes) -> str:
    """The message for a path that leads nowhere, as grpc-go words it."""
    service, slash, name = path.decode("utf-8", "replace").removeprefix("/").rpartition("/")
    if not slash:
        return f"malformed method name: {path.decode('utf-8', 'replace')!r}".replace("'", '"')
    if service in SERVICES:
        return f"unknown method {name} for service {service}"
    return f"unknown service {service}"
