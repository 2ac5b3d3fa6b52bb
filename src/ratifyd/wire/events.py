"""What a connection tells its session. Tuples and plain slotted objects: the hot path makes one per request."""

from typing import NamedTuple, TypeAlias

from ratifyd.wire.headers import Head


class Call(NamedTuple):
    """A whole request of one message, END_STREAM already seen. Of any method, streaming ones included."""

    stream_id: int
    head: Head
    message: bytes


class Opened:
    """A gRPC request began and is not a `Call`; its messages follow."""

    __slots__ = ("head", "stream_id")

    def __init__(self, stream_id: int, head: Head) -> None:
        self.stream_id = stream_id
        self.head = head


class Message(NamedTuple):
    """One gRPC message of an `Opened` stream."""

    stream_id: int
    data: bytes


class HalfClosed:
    """The client will send no more messages on an `Opened` stream."""

    __slots__ = ("stream_id",)

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id


class Reset:
    """A stream the session knows is gone. Code 0 (NO_ERROR): the connection answered it itself with an error."""

    __slots__ = ("code", "stream_id")

    def __init__(self, stream_id: int, code: int) -> None:
        self.stream_id = stream_id
        self.code = code


class Writable:
    """The send queue of a stream drained to the low-water mark."""

    __slots__ = ("stream_id",)

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id


class HttpRequest:
    """A whole request whose content-type is not gRPC's; answer it with `respond`. Header names are lower case."""

    __slots__ = ("body", "headers", "method", "path", "stream_id")

    def __init__(
        self, stream_id: int, method: bytes, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> None:
        self.stream_id = stream_id
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body


class Ponged:
    """The client answered our `ping`."""

    __slots__ = ()


Event: TypeAlias = Call | Opened | Message | HalfClosed | Reset | Writable | HttpRequest | Ponged
