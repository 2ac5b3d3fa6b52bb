"""grpc.health.v1.Health: one service, the empty name (semantics 16.1).

Serving while the member does; but not during a defragmentation, if the feature gate StopGRPCServiceOnDefrag is on.
"""

from ratifyd.api.calls import Call, Stream
from ratifyd.errors import UnknownHealthService
from ratifyd.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse
from ratifyd.server.server import Server

_UNKNOWN = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)


def check(server: Server, call: Call) -> None:
    """Health.Check. Raises UnknownHealthService."""
    if HealthCheckRequest.FromString(call.message).service:
        raise UnknownHealthService
    call.reply(_status(server).SerializeToString())


def list_(server: Server, call: Call) -> None:
    """Health.List: every service with its status."""
    HealthListRequest.FromString(call.message)
    call.reply(HealthListResponse(statuses={"": _status(server)}).SerializeToString())


def _status(server: Server) -> HealthCheckResponse:
    serving = server.health.serving
    return HealthCheckResponse(status=HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)


class HealthStream(Stream):
    """Health.Watch: the status now, and again whenever it changes."""

    takes_one = True
    __slots__ = ()

    def receive(self, message: bytes) -> None:
        """Send the status of the service asked for; one that does not exist is watched in vain."""
        if HealthCheckRequest.FromString(message).service:
            self.send(_UNKNOWN.SerializeToString())
        else:
            self.server.health.watchers[self] = None
            self.health_changed()

    def health_changed(self) -> None:
        """Send the status of the moment."""
        self.send(_status(self.server).SerializeToString())

    def ended(self) -> None:
        """Watch no longer."""
        self.server.health.watchers.pop(self, None)
