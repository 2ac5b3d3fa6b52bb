"""The method list against what etcd serves."""

from ratifyd.proto import health_pb2, rpc_pb2
from ratifyd.proto.services import METHODS

STREAMING = {
    "/etcdserverpb.KV/RangeStream": "server_stream",
    "/etcdserverpb.Watch/Watch": "bidi_stream",
    "/etcdserverpb.Lease/LeaseKeepAlive": "bidi_stream",
    "/etcdserverpb.Maintenance/Snapshot": "server_stream",
    "/v3electionpb.Election/Observe": "server_stream",
    "/grpc.health.v1.Health/Watch": "server_stream",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": "bidi_stream",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "bidi_stream",
}


def test_methods_by_service() -> None:
    count: dict[str, int] = {}
    for method in METHODS.values():
        count[method.service] = count.get(method.service, 0) + 1
    assert count == {
        "etcdserverpb.KV": 6,
        "etcdserverpb.Watch": 1,
        "etcdserverpb.Lease": 5,
        "etcdserverpb.Cluster": 5,
        "etcdserverpb.Maintenance": 8,
        "etcdserverpb.Auth": 17,
        "v3lockpb.Lock": 2,
        "v3electionpb.Election": 5,
        "grpc.health.v1.Health": 3,
        "grpc.reflection.v1.ServerReflection": 1,
        "grpc.reflection.v1alpha.ServerReflection": 1,
    }


def test_streaming_methods() -> None:
    kinds = {method.path.decode(): method.grpc_type for method in METHODS.values() if method.grpc_type != "unary"}
    assert kinds == STREAMING
    watch = METHODS[b"/etcdserverpb.Watch/Watch"]
    assert watch.client_streaming
    assert watch.server_streaming


def test_message_classes_are_those_of_the_modules() -> None:
    put = METHODS[b"/etcdserverpb.KV/Put"]
    assert put.request is rpc_pb2.PutRequest
    assert put.response is rpc_pb2.PutResponse
    assert METHODS[b"/grpc.health.v1.Health/Check"].response is health_pb2.HealthCheckResponse


def test_path_is_made_of_service_and_name() -> None:
    assert all(path == method.path == f"/{method.service}/{method.name}".encode() for path, method in METHODS.items())
