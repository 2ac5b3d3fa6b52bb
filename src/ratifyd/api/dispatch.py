"""From a request to its handler, whichever way it came: the gates in etcd's order, and tokens yet to arrive."""

from collections.abc import Mapping

from google.protobuf.message import DecodeError

from ratifyd.api.calls import FEW_UNREAD_BYTES, ClientCall, Stream, StreamAnswers, StreamEdge
from ratifyd.api.identity import HELD_OVERHEAD_BYTES, TokenAhead, hold
from ratifyd.api.routes import Route
from ratifyd.errors import (
    Code,
    ContextDeadlineExceeded,
    EtcdError,
    InvalidAuthToken,
    InvalidClientAPIVersion,
    NoLeader,
    NotSupportedForLearner,
    RequestError,
    RequestTooManyRequests,
    Stopped,
)
from ratifyd.proto.canonical import WrongWireType
from ratifyd.proto.rpc_pb2 import RangeRequest
from ratifyd.server.server import Server
from ratifyd.wire.gzipped import READABLE
from ratifyd.wire.headers import Head, quote

NO_LEADER_KEY = b"hasleader"
"""Metadata with which a client asks, by the value "true", to be refused rather than kept waiting without a leader."""
API_VERSION_KEY = b"client-api-version"

LEARNER_RANGE = b"/etcdserverpb.KV/Range"
LEARNER_PATHS = frozenset((b"/etcdserverpb.Maintenance/Status", b"/etcdserverpb.Maintenance/Snapshot"))
"""All a learner serves; ranges only if they are serializable (semantics 2.17)."""

MAX_HELD_MESSAGES = 100
"""Messages of a stream that may wait for its token to arrive; those after the first are small, too."""


def find_route(routes: Mapping[bytes, Route], head: Head) -> Route | None:
    """The route of a request, with the counters for its client's version."""
    route = routes.get(head.path)
    if route is None or API_VERSION_KEY not in head.metadata:
        return route
    return route.of_version(_api_version(head) or "")


def is_plain(head: Head) -> bool:
    """Whether no gate looks at the headers of a request."""
    if head.encoding not in READABLE:
        return False
    return not _wants_leader(head) and (API_VERSION_KEY not in head.metadata or _api_version(head) is not None)


def refusal(server: Server, route: Route, head: Head) -> EtcdError | None:
    """Why a request is not taken, by its head; counted when it is not, unless nobody could have read it."""
    if head.encoding not in READABLE:
        return unreadable(head.encoding)
    if server.is_learner and head.path != LEARNER_RANGE and head.path not in LEARNER_PATHS:
        return _refused(route, NotSupportedForLearner(), early=True)
    if API_VERSION_KEY in head.metadata and _api_version(head) is None:
        return _refused(route, InvalidClientAPIVersion(), early=True)
    if _wants_leader(head) and not server.leader_id:
        return _refused(route, NoLeader(), early=False)
    if server.leaving and route.stream is not None:
        return _refused(route, Stopped(), early=False)
    return None


def _refused(route: Route, error: EtcdError, *, early: bool) -> EtcdError:
    """Count a request that never becomes a call; `early`: before the client's version was looked at."""
    rpc = route.rpc
    rpc.started += 1
    rpc.received += route.stream is None
    rpc.early += early
    rpc.handled[error.code] += 1
    return error


def _wants_leader(head: Head) -> bool:
    return head.metadata.get(NO_LEADER_KEY, [b""])[0] == b"true"


def _api_version(head: Head) -> str | None:
    """What the client says is the version of its API, None when that is no text."""
    try:
        return head.metadata[API_VERSION_KEY][0].decode()
    except UnicodeDecodeError:
        return None


# --- calls -----------------------------------------------------------------------------------------------------------


def run(call: ClientCall) -> None:
    """Have a call handled; whatever is wrong with it becomes its answer."""
    handler = call.route.handler
    assert handler is not None
    server = call.server
    try:
        if server.is_learner and call.head.path == LEARNER_RANGE:
            _check_serializable(call)
        handler(server, call)
    except EtcdError as error:
        call.fail(error)
    except DecodeError as error:
        call.refuse(undecodable(error))
    except TokenAhead as ahead:
        hold_call(call, ahead)


def hold_call(call: ClientCall, ahead: TokenAhead) -> None:
    """Run a call again once this member has applied the entry that its token is from."""

    def settled(in_time: bool) -> None:
        if in_time:
            run(call)
        else:
            call.fail(InvalidAuthToken())

    hold(call.server, ahead.index, len(call.message), settled)


def _check_serializable(call: ClientCall) -> None:
    """Let a learner read only what it has. Raises NotSupportedForLearner, DecodeError."""
    if not RangeRequest.FromString(call.message).serializable:
        call.route.rpc.early += 1
        raise NotSupportedForLearner


# --- streams ---------------------------------------------------------------------------------------------------------


def open_stream(session: StreamEdge, stream_id: int, head: Head, route: Route) -> Stream:
    """Begin a streaming request."""
    assert route.stream is not None
    server = session.server
    route.rpc.started += 1
    stream = route.stream(session, stream_id, head, route)
    if head.timeout_s is not None:
        stream.deadline = server.clock.call_later(head.timeout_s, stream.fail, ContextDeadlineExceeded())
    if _wants_leader(head):
        server.needing_leader[stream] = None
    return stream


def is_read(connection: StreamAnswers) -> bool:
    """Whether answers are read about as quickly as they are given."""
    return not connection.stalled and connection.queued <= FEW_UNREAD_BYTES


def deliver(stream: Stream, message: bytes) -> bool:
    """Hand a stream a request message; False when that has ended it."""
    if stream.asked and stream.takes_one:
        return True
    stream.asked = True
    if stream.held is not None:
        return _hold_more(stream, message)
    return _take(stream, message)


def _take(stream: Stream, message: bytes) -> bool:
    """As `deliver`, of a message that is neither to be ignored nor to wait for others."""
    stream.route.rpc.received += 1
    try:
        if stream.unread or not is_read(stream.session.connection):
            stream.check_read()
        stream.receive(message)
    except EtcdError as error:
        stream.fail(error)
        return False
    except DecodeError:
        stream.route.rpc.received -= 1
        if stream.failure_label:
            stream.server.metrics.stream_failures_total["receive", stream.failure_label] += 1
        stream.fail(_undecodable_message())
        return False
    except TokenAhead as ahead:
        stream.route.rpc.received -= 1  # it will be received again
        _hold_message(stream, message, ahead)
    return True


def half_close(stream: Stream) -> None:
    """Tell a stream that its client will send nothing more."""
    if stream.held is not None:
        _hold_more(stream, None)
    else:
        stream.half_closed()


def _hold_message(stream: Stream, message: bytes, ahead: TokenAhead) -> None:
    """Keep a message until its token has arrived, and what comes after it."""
    stream.held = [message]

    def settled(in_time: bool) -> None:
        messages, stream.held = stream.held or [], None
        if not in_time:
            stream.fail(InvalidAuthToken())
        for each in messages:
            if stream.closed:
                return
            if stream.held is not None:
                _hold_more(stream, each)
            elif each is None:
                stream.half_closed()
            else:
                _take(stream, each)

    hold(stream.server, ahead.index, len(message), settled)


def _hold_more(stream: Stream, message: bytes | None) -> bool:
    assert stream.held is not None
    size = sum(len(each) for each in stream.held[1:] if each is not None) + len(message or b"")
    if len(stream.held) >= MAX_HELD_MESSAGES or size > HELD_OVERHEAD_BYTES:
        stream.fail(RequestTooManyRequests())
        return False
    stream.held.append(message)
    return True


# --- grpc-go's words -------------------------------------------------------------------------------------------------

_BAD_WIRE_FORMAT = "proto: cannot parse invalid wire-format data"


def unreadable(encoding: bytes) -> EtcdError:
    """What a request is answered whose messages are compressed in an unknown way."""
    text = f"grpc: Decompressor is not installed for grpc-encoding {quote(encoding)}"
    return RequestError.with_text(Code.UNIMPLEMENTED, text)


def undecodable(error: DecodeError) -> EtcdError:
    """What a unary request that is no such message is answered."""
    why = str(error) if isinstance(error, WrongWireType) else _BAD_WIRE_FORMAT
    return RequestError.with_text(Code.INTERNAL, f"grpc: error unmarshalling request: {why}")


def _undecodable_message() -> EtcdError:
    """The same on a stream."""
    return RequestError.with_text(Code.INTERNAL, f"grpc: failed to unmarshal the received message: {_BAD_WIRE_FORMAT}")


def no_message() -> EtcdError:
    """What a request that ended before its message is answered."""
    return RequestError.with_text(Code.UNKNOWN, "EOF")
