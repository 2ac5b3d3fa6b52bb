"""Log lines about calls: all of them at level debug, otherwise the slow ones. Texts, fields and thresholds are etcd's.

Values are left out. Messages are taken apart again for it: what is not logged costs nothing.
"""

import logging

from google.protobuf.message import DecodeError

from ratifyd.api.calls import ClientCall
from ratifyd.apply.txn import Txn
from ratifyd.config.values import show_duration
from ratifyd.errors import EtcdError
from ratifyd.logs import timestamp
from ratifyd.proto import text
from ratifyd.proto.rpc_pb2 import (
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    RangeRequest,
    RangeResponse,
    ResponseHeader,
    TxnRequest,
    TxnResponse,
)
from ratifyd.server.server import Server

RANGE, PUT = b"/etcdserverpb.KV/Range", b"/etcdserverpb.KV/Put"
DELETE_RANGE, TXN = b"/etcdserverpb.KV/DeleteRange", b"/etcdserverpb.KV/Txn"

Stats = tuple[int, int, int, int, str]
"""Keys asked for, bytes of the request, keys answered, bytes of the response, the request in words."""
_UNKNOWN: Stats = (-1, -1, -1, -1, "")

log = logging.getLogger("ratifyd.api")


def note_late(call: ClientCall, response: bytes, error: EtcdError | None, peer: str) -> None:
    """Log a call that took long to answer, and count its time when all are to be counted."""
    server = call.server
    timing = server.timing
    seconds = timing.now() - call.began
    if timing.extensive:
        server.metrics.rpc_handling_seconds[call.route.rpc.key].observe(seconds)
    _log_call(server, call, seconds, response, error, peer)


def _log_call(
    server: Server, call: ClientCall, seconds: float, response: bytes, error: EtcdError | None, peer: str
) -> None:
    """Log one answered call, if it was slow or everything is logged."""
    timing = server.timing
    path = call.head.path
    if seconds > timing.apply_limit_s and path in (RANGE, TXN):
        _log_slow_read(server, call, seconds, response, error)
    level = logging.DEBUG
    if not log.isEnabledFor(level):
        if seconds <= timing.unary_limit_s:
            return
        level = logging.WARNING
    names = ("request count", "request size", "response count", "response size", "request content")
    fields = {
        "start time": timestamp(server.clock.wall() - seconds),
        "time spent": show_duration(seconds),
        "remote": peer,
        "response type": path.decode(),
    }
    try:
        stats = _stats(path, call.message, response)
    except DecodeError:
        stats = _UNKNOWN
    log.log(level, "request stats", extra={"fields": fields | dict(zip(names, stats))})


def _stats(path: bytes, message: bytes, response: bytes) -> Stats:
    size, answered = len(message), len(response)
    if path == RANGE:
        words = text.compact(RangeRequest.FromString(message))
        return 0, size, RangeResponse.FromString(response).count, answered, words
    if path == PUT:
        return 1, size, 0, answered, text.put(PutRequest.FromString(message))
    if path == DELETE_RANGE:
        words = text.compact(DeleteRangeRequest.FromString(message))
        return 0, size, DeleteRangeResponse.FromString(response).deleted, answered, words
    if path == TXN:
        request = TxnRequest.FromString(message)
        taken = request.success if TxnResponse.FromString(response).succeeded else request.failure
        return len(taken), sum(op.ByteSize() for op in taken), 0, answered, text.txn(request)
    return _UNKNOWN


def _log_slow_read(server: Server, call: ClientCall, seconds: float, response: bytes, error: EtcdError | None) -> None:
    """Log a slow read as the slow execution of a request, waiting for its turn included, as etcd does."""
    if call.head.path == RANGE:
        ranged = RangeResponse.FromString(response)
        _strip(ranged.header)
        words = "" if error else f"range_response_count:{len(ranged.kvs)} size:{ranged.ByteSize()}"
        server.timing.slow(
            seconds, "read-only range ", text.compact(RangeRequest.FromString(call.message)), words, error
        )
        return
    request = TxnRequest.FromString(call.message)
    if Txn(request).is_read_only:
        answer = TxnResponse.FromString(response)
        _strip(answer.header)
        counts = " ".join(f"range_response_count:{len(each.response_range.kvs)}" for each in answer.responses)
        words = "" if error else f"responses:<{counts}> size:{answer.ByteSize()}"
        server.timing.slow(seconds, "read-only txn ", text.txn(request), words, error)


def _strip(header: ResponseHeader) -> None:
    """Leave what the header has of it where etcd measures the answer."""
    revision = header.revision
    header.Clear()
    header.revision = revision
