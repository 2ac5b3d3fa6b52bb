"""Server reflection (grpc.reflection.v1, and v1alpha, which is the same on the wire): what this server can be asked.

etcd does not offer it. The answers come from the package's own descriptors, so a method that is added is listed.
"""

from typing import TYPE_CHECKING

from google.protobuf.descriptor import FileDescriptor

from ratifyd.api.calls import Stream, StreamEdge
from ratifyd.errors import Code, NoReflectionQuestion
from ratifyd.proto.pool import POOL
from ratifyd.proto.reflection_v1_pb2 import (
    ErrorResponse,
    ExtensionNumberResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)
from ratifyd.proto.services import SERVICES
from ratifyd.wire.headers import Head

if TYPE_CHECKING:
    from ratifyd.api.routes import Route


class ReflectionStream(Stream):
    """ServerReflection.ServerReflectionInfo: an answer to each question."""

    __slots__ = ("_sent",)

    def __init__(self, session: StreamEdge, stream_id: int, head: Head, route: "Route") -> None:
        super().__init__(session, stream_id, head, route)
        self._sent: set[str] = set()
        """Files the client has from this stream."""

    def receive(self, message: bytes) -> None:
        """Answer a question. Raises NoReflectionQuestion about what is none."""
        request = ServerReflectionRequest.FromString(message)
        response = ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            self._answer(request, response)
        except KeyError as missing:
            error = ErrorResponse(error_code=Code.NOT_FOUND, error_message=str(missing.args[0]))
            response.error_response.CopyFrom(error)
        self.send(response.SerializeToString())

    def half_closed(self) -> None:
        """There will be no more questions."""
        self.finish()

    def _answer(self, request: ServerReflectionRequest, response: ServerReflectionResponse) -> None:
        """Fill in a response. Raises KeyError about a name that nothing has, and NoReflectionQuestion."""
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            services = [ServiceResponse(name=name) for name in sorted(SERVICES)]
            response.list_services_response.CopyFrom(ListServiceResponse(service=services))
        elif kind == "file_by_filename":
            self._files(POOL.FindFileByName(request.file_by_filename), response)
        elif kind == "file_containing_symbol":
            self._files(_file_of(request.file_containing_symbol), response)
        elif kind == "file_containing_extension":
            wanted = request.file_containing_extension
            raise KeyError(f"{wanted.containing_type} has no extension {wanted.extension_number}")  # none has any
        elif kind == "all_extension_numbers_of_type":
            name = POOL.FindMessageTypeByName(request.all_extension_numbers_of_type).full_name
            response.all_extension_numbers_response.CopyFrom(ExtensionNumberResponse(base_type_name=name))
        else:
            raise NoReflectionQuestion

    def _files(self, file: FileDescriptor, response: ServerReflectionResponse) -> None:
        """Send a file with everything below it that the client does not have."""
        found = [file]
        self._sent.add(file.name)
        for each in found:
            for below in each.dependencies:
                if below.name not in self._sent:
                    self._sent.add(below.name)
                    found.append(below)
        contents = [each.serialized_pb for each in found]
        response.file_descriptor_response.CopyFrom(FileDescriptorResponse(file_descriptor_proto=contents))


def _file_of(symbol: str) -> FileDescriptor:
    """The file that defines a symbol. Raises KeyError."""
    service, _, method = symbol.rpartition(".")
    if service in SERVICES and method in POOL.FindServiceByName(service).methods_by_name:
        symbol = service  # the pool knows methods only by their service
    return POOL.FindFileContainingSymbol(symbol)
