"""Log lines about calls: all of them at level debug, otherwise the slow ones. Texts, fields and thresholds are etcd's.

Values are left out. Messages are taken apart again for it: what is not logged costs nothing.
"""

import logging
from contextlib import suppress

from google.protobuf.message import DecodeError

from ratifyd.api.calls import ClientCall
from ratifyd.apply.txn import Txn
from ratifyd.config.values import show_duration
from ratifyd.errors import EtcdError
from ratifyd.logs import timestamp
from ratifyd.proto import text
from ratifyd.proto.outline_pb2 import RangeOutline
from ratifyd.proto.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    ResponseHeader,
    TxnRequest,
    TxnResponse,
)
from ratifyd.server.server import Server
from ratifyd.server.traces import SLOW_S, Steps

RANGE, PUT = b"/etcdserverpb.KV/Range", b"/etcdserverpb.KV/Put"
DELETE_RANGE, TXN = b"/etcdserverpb.KV/DeleteRange", b"/etcdserverpb.KV/Txn"
COMPACT = b"/etcdserverpb.KV/Compact"

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
    if seconds > SLOW_S and server.traces.wanted and (words := _TRACED.get(call.head.path)) is not None:
        with suppress(DecodeError):  # txns inside each other, deeper than protobuf's parser goes
            words(server, call, call.began + seconds, response, error)
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
    if not timing.call_lines.picks(call.began + seconds):
        return
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


# --- traces ----------------------------------------------------------------------------------------------------------


def _worked_at(call: ClientCall) -> float:
    """When the work for a call began, after it had waited for the log or for its turn to read."""
    found: float = getattr(call, "worked_at", call.server.timing.worked_at)
    return found


def _trace_range(server: Server, call: ClientCall, now: float, response: bytes, error: EtcdError | None) -> None:
    request, answer = RangeRequest.FromString(call.message), RangeOutline.FromString(response)
    details: list[tuple[str, object]] = [("range_begin", request.key), ("range_end", request.range_end)]
    if error is None:
        details += [("response_count", len(answer.kvs)), ("response_revision", answer.header.revision)]
    server.traces.write("range", details, call.began, now, _read_steps(call, now, serializable=request.serializable))


def _read_steps(call: ClientCall, now: float, *, serializable: bool) -> Steps:
    done = ("range keys from bolt db", now)
    if serializable:
        return (done,)
    return (("agreement among raft nodes before linearized reading", _worked_at(call)), done)


def _trace_put(server: Server, call: ClientCall, now: float, response: bytes, error: EtcdError | None) -> None:
    if error is None:
        request, revision = PutRequest.FromString(call.message), PutResponse.FromString(response).header.revision
        details = (("key", request.key), ("req_size", len(call.message)), ("response_revision", revision))
        server.traces.write("put", details, call.began, now, (("process raft request", _worked_at(call)),))


def _trace_txn(server: Server, call: ClientCall, now: float, response: bytes, error: EtcdError | None) -> None:
    request, answer = Txn.of(TxnRequest.FromString(call.message)), TxnResponse.FromString(response)
    read_only = request.is_read_only
    if error is not None and not read_only:
        return
    details: list[tuple[str, object]] = [("read_only", read_only)]
    if error is None:
        counted = [("number_of_response", len(answer.responses)), ("response_revision", answer.header.revision)]
        wrote = any(each.HasField("response_put") for each in answer.responses)
        details += reversed(counted) if wrote else counted
    steps = (
        _read_steps(call, now, serializable=request.is_serializable)
        if read_only
        else (("process raft request", _worked_at(call)),)
    )
    server.traces.write("transaction", details, call.began, now, steps)


def _trace_compaction(server: Server, call: ClientCall, now: float, response: bytes, error: EtcdError | None) -> None:
    request, revision = (
        CompactionRequest.FromString(call.message),
        CompactionResponse.FromString(response).header.revision,
    )
    details: list[tuple[str, object]] = [("revision", request.revision)]
    if error is None:
        details.append(("response_revision", revision))
    steps = [("process raft request", _worked_at(call))]
    if request.physical:
        steps.append(("physically toApply compaction", now))
    server.traces.write("compact", details, call.began, now, steps)


_TRACED = {RANGE: _trace_range, PUT: _trace_put, TXN: _trace_txn, COMPACT: _trace_compaction}


def _stats(path: bytes, message: bytes, response: bytes) -> Stats:
    size, answered = len(message), len(response)
    if path == RANGE:
        words = text.compact(RangeRequest.FromString(message))
        return 0, size, RangeOutline.FromString(response).count, answered, words
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
    slow = server.timing.slow
    if call.head.path == RANGE:
        slow(seconds, "read-only range ", lambda: _range_words(call.message, response, error), error)
        return
    try:
        request = TxnRequest.FromString(call.message)
    except DecodeError:  # as above: not read-only
        return
    if Txn.of(request).is_read_only:
        slow(seconds, "read-only txn ", lambda: _txn_words(request, response, error), error)


def _range_words(message: bytes, response: bytes, error: EtcdError | None) -> tuple[str, str]:
    request = text.compact(RangeRequest.FromString(message))
    if error is not None:
        return request, ""
    answer = RangeOutline.FromString(response)
    size = len(response) - answer.header.ByteSize()
    _strip(answer.header)
    return request, f"range_response_count:{len(answer.kvs)} size:{size + answer.header.ByteSize()}"


def _txn_words(request: TxnRequest, response: bytes, error: EtcdError | None) -> tuple[str, str]:
    if error is not None:
        return text.txn(request), ""
    answer = TxnResponse.FromString(response)
    _strip(answer.header)
    counts = " ".join(f"range_response_count:{len(each.response_range.kvs)}" for each in answer.responses)
    return text.txn(request), f"responses:<{counts}> size:{answer.ByteSize()}"


def _strip(header: ResponseHeader) -> None:
    """Leave what the header has of it where etcd measures the answer."""
    revision = header.revision
    header.Clear()
    header.revision = revision
