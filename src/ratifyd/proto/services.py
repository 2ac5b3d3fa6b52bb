"""Every RPC method of the API, read from the service descriptors: what routes, gateway, stubs and metrics share.

Deliberately knows nothing of who serves a method, or how.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ratifyd.proto import election_pb2, health_pb2, lock_pb2, reflection_v1_pb2, reflection_v1alpha_pb2, rpc_pb2


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC method: `path` as in the :path header, `service` with its package, message classes and streaming."""

    path: bytes
    service: str
    name: str
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool

    @property
    def grpc_type(self) -> str:
        """The kind of method as the `grpc_type` label of gRPC metrics spells it."""
        return _GRPC_TYPES[self.client_streaming, self.server_streaming]


_GRPC_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


def _methods(file: FileDescriptor) -> Iterator[Method]:
    for service in file.services_by_name.values():
        for method in service.methods:
            yield Method(
                path=f"/{service.full_name}/{method.name}".encode(),
                service=service.full_name,
                name=method.name,
                request=GetMessageClass(method.input_type),
                response=GetMessageClass(method.output_type),
                client_streaming=method.client_streaming,
                server_streaming=method.server_streaming,
            )


FILES: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR
    for module in (rpc_pb2, lock_pb2, election_pb2, health_pb2, reflection_v1_pb2, reflection_v1alpha_pb2)
)
"""The files that define services."""

METHODS: dict[bytes, Method] = {method.path: method for file in FILES for method in _methods(file)}
"""Every method by path, in the order of definition."""

SERVICES = frozenset(method.service for method in METHODS.values())
"""Services that exist, even where not every method is served yet."""
