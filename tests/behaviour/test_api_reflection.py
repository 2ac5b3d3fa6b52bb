"""Server reflection: ready-made clients can list and describe every service. etcd has none."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from harness.outcomes import failure, put
from harness.servers import EtcdServer
from harness.stubs import Client, status_of
from ratifyd.proto.reflection_v1_pb2 import ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse
from ratifyd.proto.services import METHODS

V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
V1ALPHA = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
NOT_FOUND = 5


@pytest.fixture
def channel(server: EtcdServer) -> Iterator[Any]:
    with grpc.insecure_channel(server.client_endpoint) as opened:
        yield opened


def ask(channel: Any, *requests: ServerReflectionRequest, path: str = V1) -> list[ServerReflectionResponse]:
    """Questions on one stream, and the answers."""
    method = channel.stream_stream(
        path,
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    return list(method(iter(requests), timeout=10))


def files(response: ServerReflectionResponse) -> list[str]:
    contents = response.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(content).name for content in contents]


@pytest.mark.only("etcd")
@pytest.mark.parametrize("path", [V1, V1ALPHA])
def test_etcd_has_none(client: Client, path: str) -> None:
    service = path.split("/")[1]
    assert failure(client.raw, path, b"") == ("UNIMPLEMENTED", f"unknown service {service}")


@pytest.mark.only("ratifyd")
@pytest.mark.parametrize("path", [V1, V1ALPHA])
def test_services_are_listed(channel: Any, path: str) -> None:
    (response,) = ask(channel, ServerReflectionRequest(host="h", list_services="*"), path=path)
    listed = [service.name for service in response.list_services_response.service]
    assert listed == sorted({method.service for method in METHODS.values()})
    assert {"etcdserverpb.KV", "v3lockpb.Lock", "grpc.reflection.v1.ServerReflection"} < set(listed)
    assert (response.valid_host, response.original_request.list_services) == ("h", "*")


@pytest.mark.only("ratifyd")
def test_grpcs_own_client_describes_everything_and_can_call(channel: Any, client: Client, prefix: bytes) -> None:
    put(client, prefix, b"value")
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    for name in database.get_services():
        service = pool.FindServiceByName(name)
        expected = [method for method in METHODS.values() if method.service == name]
        assert [method.name for method in service.methods] == [method.name for method in expected]
        for method, known in zip(service.methods, expected):
            assert method.input_type.fields_by_name.keys() == known.request.DESCRIPTOR.fields_by_name.keys()
            assert method.output_type.full_name == known.response.DESCRIPTOR.full_name
    range_ = pool.FindServiceByName("etcdserverpb.KV").methods_by_name["Range"]
    request, response = GetMessageClass(range_.input_type), GetMessageClass(range_.output_type)
    call = channel.unary_unary(
        "/etcdserverpb.KV/Range",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    assert call(request(key=prefix)).kvs[0].value == b"value"


@pytest.mark.only("ratifyd")
def test_files_come_with_what_they_need_and_once(channel: Any) -> None:
    responses = ask(
        channel,
        ServerReflectionRequest(file_by_filename="rpc.proto"),
        ServerReflectionRequest(file_containing_symbol="v3lockpb.Lock.Unlock"),
        ServerReflectionRequest(file_containing_symbol="mvccpb.KeyValue"),
    )
    first, second, third = map(files, responses)
    assert (first[0], sorted(first)) == ("rpc.proto", ["auth.proto", "kv.proto", "rpc.proto"])
    assert (second, third) == (["lock.proto"], ["kv.proto"])


@pytest.mark.only("ratifyd")
@pytest.mark.parametrize(
    "symbol",
    [
        "etcdserverpb.KV",
        "etcdserverpb.KV.Range",
        "etcdserverpb.RangeRequest",
        "etcdserverpb.RangeRequest.key",
        "etcdserverpb.RangeRequest.SortOrder",
        "etcdserverpb.RequestOp.request",
    ],
)
def test_symbols(channel: Any, symbol: str) -> None:
    (response,) = ask(channel, ServerReflectionRequest(file_containing_symbol=symbol))
    assert files(response)[0] == "rpc.proto"


@pytest.mark.only("ratifyd")
def test_what_is_not_there(channel: Any) -> None:
    extension = ExtensionRequest(containing_type="mvccpb.Event", extension_number=100)
    responses = ask(
        channel,
        ServerReflectionRequest(file_by_filename="none.proto"),
        ServerReflectionRequest(file_containing_symbol="etcdserverpb.None"),
        ServerReflectionRequest(file_containing_symbol="etcdserverpb.KV.None"),
        ServerReflectionRequest(file_containing_symbol=""),
        ServerReflectionRequest(file_containing_extension=extension),
        ServerReflectionRequest(all_extension_numbers_of_type="none"),
        ServerReflectionRequest(all_extension_numbers_of_type="mvccpb.Event"),
    )
    assert [response.error_response.error_code for response in responses] == [NOT_FOUND] * 6 + [0]
    assert all(response.error_response.error_message for response in responses[:6])
    numbers = responses[6].all_extension_numbers_response
    assert (numbers.base_type_name, list(numbers.extension_number)) == ("mvccpb.Event", [])


@pytest.mark.only("ratifyd")
def test_a_question_that_is_none(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        ask(channel, ServerReflectionRequest(host="h"))
    assert status_of(failed.value) == ("INVALID_ARGUMENT", "invalid MessageRequest: <nil>")
