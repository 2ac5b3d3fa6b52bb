"""grpcio client stubs for every service, built from the method list; no generated stub code.

`Client("127.0.0.1:2379").kv.Put(PutRequest(...))` for blocking calls, `AsyncClient` for grpc.aio. A stub attribute is
the service's name in lower case: kv watch lease cluster maintenance auth lock election health. Every method is a grpcio
multi-callable, so `timeout=`, `metadata=`, `.future()` and `.with_call()` work as usual.
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from ratifyd.proto.services import METHODS

_UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Servers restart on the same port in tests: never share a connection between clients, reconnect fast.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_retries", 0),
]
_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


class Stub:
    """The methods of one service as attributes."""

    def __init__(self, channel: Any, service: str) -> None:
        for method in METHODS.values():
            if method.service == service:
                make = getattr(channel, _KINDS[method.client_streaming, method.server_streaming])
                callable_ = make(
                    method.path.decode(),
                    request_serializer=method.request.SerializeToString,
                    response_deserializer=method.response.FromString,
                )
                setattr(self, method.name, callable_)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no method {name}")


class Stubs:
    """All services of one channel."""

    kv: Stub
    watch: Stub
    lease: Stub
    cluster: Stub
    maintenance: Stub
    auth: Stub
    lock: Stub
    election: Stub
    health: Stub

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        for service in dict.fromkeys(method.service for method in METHODS.values()):
            setattr(self, service.rpartition(".")[2].lower(), Stub(channel, service))


class Client(Stubs):
    """Blocking stubs over a channel of their own; close it or use `with`."""

    def __init__(self, endpoint: str, options: list[tuple[str, Any]] | None = None) -> None:
        super().__init__(grpc.insecure_channel(endpoint, options=_UNLIMITED + (options or [])))

    def raw(self, path: str, request: bytes, *, timeout: float = 10.0, metadata: Any = None) -> bytes:
        """Call any unary method, known or not, with the bytes given."""
        answer: bytes = self.channel.unary_unary(path)(request, timeout=timeout, metadata=metadata)
        return answer

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(Stubs):
    """grpc.aio stubs over a channel of their own; use `async with`."""

    def __init__(self, endpoint: str, options: list[tuple[str, Any]] | None = None) -> None:
        super().__init__(grpc.aio.insecure_channel(endpoint, options=_UNLIMITED + (options or [])))

    async def close(self) -> None:
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def status_of(error: Exception) -> tuple[str, str]:
    """(code name, message) of a failed call: ("INVALID_ARGUMENT", "etcdserver: key is not provided")."""
    if not isinstance(error, grpc.RpcError):
        raise error
    call: Any = error
    return call.code().name, call.details()


LATE = (
    ("DEADLINE_EXCEEDED", "context deadline exceeded"),
    ("DEADLINE_EXCEEDED", "Deadline Exceeded"),
    ("DEADLINE_EXCEEDED", "Stream removed (Deadline Exceeded)"),
    ("UNKNOWN", "context deadline exceeded"),
)
"""What a call may end with at its deadline: server and client run for it, and 3.5 has no code for it everywhere."""


def method_names() -> Iterator[str]:
    """Every path, as text."""
    for path in METHODS:
        yield path.decode()
