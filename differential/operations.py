"""One step of a sequence: concrete bytes, so that any subset of a sequence can be replayed."""

from dataclasses import dataclass
from enum import Enum

from google.protobuf import text_format

from ratifyd.proto.services import METHODS

WATCH_PATH = "/etcdserverpb.Watch/Watch"
KEEPALIVE_PATH = "/etcdserverpb.Lease/LeaseKeepAlive"


class Kind(Enum):
    """How an operation reaches the server."""

    UNARY = "unary"
    KEEPALIVE = "keepalive"
    WATCH = "watch"
    REOPEN = "reopen"


@dataclass(frozen=True, slots=True)
class Operation:
    """`stream` numbers the watch stream; `loose_text` is set where only the code of an error is promised.

    `user` makes the request, with the token of their last Authenticate; nobody does when it is empty.
    """

    kind: Kind
    path: str
    request: bytes = b""
    stream: int = 0
    loose_text: bool = False
    user: str = ""

    def __str__(self) -> str:
        where = f" on stream {self.stream}" if self.kind in (Kind.WATCH, Kind.REOPEN) else ""
        who = f" as {self.user}" if self.user else ""
        return f"{self.kind.value} {self.path}{where}{who} {describe(self.path, self.request)}"


def describe(path: str, request: bytes) -> str:
    """The request as one line of text, or its bytes when it does not parse or is long."""
    method = METHODS.get(path.encode())
    if method is None:
        return f"bytes {request.hex()}"
    if len(request) > 5000:
        return f"{len(request)} bytes"
    try:
        message = method.request.FromString(request)
    except Exception as error:
        return f"unreadable bytes {request.hex()} ({error})"
    return "{" + text_format.MessageToString(message, as_one_line=True) + "}"
