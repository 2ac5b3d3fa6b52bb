"""grpc.health.v1.Health: one service, the empty name, serving while the member does (semantics 16.1)."""

from ratifyd.api.calls import Call, Stream
from ratifyd.errors import UnknownHealthService
from ratifyd.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse
from ratifyd.server.server import Server

_SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING)
_UNKNOWN = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)


def check(server: Server, call: Call) -> None:
    """Health.Check. Raises UnknownHealthService."""
    if HealthCheckRequest.FromString(call.message).service:
        raise UnknownHealthService
    call.reply(_SERVING.SerializeToString())


def list_(server: Server, call: Call) -> None:
    """Health.List: every service with its status."""
    HealthListRequest.FromString(call.message)
    call.reply(HealthListResponse(statuses={"": _SERVING}).SerializeToString())


class HealthStream(Stream):
    """Health.Watch: the status now, and again whenever it changes."""

    takes_one = True
    __slots__ = ()

    def receive(self, message: bytes) -> None:
        """Send the status of the service asked for."""
        unknown = HealthCheckRequest.FromString(message).service
        self.send((_UNKNOWN if unknown else _SERVING).SerializeToString())
