"""KV: Range, Put, DeleteRange, Txn, Compact and RangeStream. The hot handlers: plain functions, no task, no future."""

from collections.abc import Generator

from ratifyd.api import validate
from ratifyd.api.calls import MAX_QUEUED_BYTES, Call, Stream
from ratifyd.api.identity import check_current, check_read, identity_of, present_identity, require_admin, token_of
from ratifyd.apply import requests
from ratifyd.apply.kv import is_plain, range_body
from ratifyd.apply.permissions import check_txn
from ratifyd.apply.txn import Txn, read_txn_body
from ratifyd.auth.identity import ANONYMOUS, Identity
from ratifyd.errors import Canceled, EtcdError, NoSpace, RangeStreamFilters, RangeStreamSort, Stopped
from ratifyd.keys import KeyRange
from ratifyd.ports import Timer
from ratifyd.proto import fast
from ratifyd.proto.rpc_pb2 import CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest
from ratifyd.server.server import Server

_KEY_TAG = 0x0A
"""Field 1 of RangeRequest, length-delimited: the key."""
SLICE_KEYS = 1000
"""Keys of a large range read before the loop gets its chance."""
STALL_TIMEOUT_S = 60.0
"""How long a RangeStream waits for a client that reads nothing: meanwhile compaction waits for it."""
STREAM_FIRST_KEYS = 10
"""Keys in the first chunk of a RangeStream (semantics 2.18)."""


def range_(server: Server, call: Call) -> None:
    """KV.Range."""
    message = call.message
    if len(message) > 2 and message[0] == _KEY_TAG and message[1] == len(message) - 2 < 0x80:
        server.read(_answer_get, call)  # nothing but a short key, as a plain get is: no need to decode
        return
    request = RangeRequest.FromString(message)
    validate.check_range(request)
    if request.serializable:
        if server.auth.enabled:
            identity_of(server, call.head)  # waits for a token on its way here, as a linearizable read does
        _answer_range((call, request), None)
    else:
        server.read(_answer_range, (call, request))


def _answer_get(call: Call, error: EtcdError | None) -> None:
    """Answer a RangeRequest whose encoding is a tag, a length below 128, and the key."""
    if error is not None:
        call.fail(error)
        return
    server = call.session.server
    if server.auth.enabled and (refused := _refused_get(server, call)) is not None:
        call.fail(refused)
        return
    store = server.store
    store.counts.gets += 1
    kv = store.get(call.message[2:])
    if kv is None:
        call.reply(server.header())
    else:
        call.reply(fast.range_response(server.header(), (kv,), False, 1))


def _refused_get(server: Server, call: Call) -> EtcdError | None:
    try:
        check_read(server, call.head, call.message[2:], b"")
    except EtcdError as refused:
        return refused
    return None


def _answer_range(argument: tuple[Call, RangeRequest], error: EtcdError | None) -> None:
    call, request = argument
    if error is not None:
        call.fail(error)
        return
    server = call.server
    store, timing = server.store, server.timing
    identity = ANONYMOUS
    if server.auth.enabled:
        try:
            identity = check_read(server, call.head, request.key, request.range_end)
        except EtcdError as refused:
            call.fail(refused)
            return
    range_end = request.range_end
    together = not range_end and not request.serializable  # timed with the other reads of the batch
    began = 0.0 if together else timing.now()
    try:
        if range_end and is_plain(request) and not request.count_only and not 0 < request.limit <= SLICE_KEYS:
            keys = KeyRange.parse(request.key, range_end)
            if not keys.is_empty and store.count(keys, request.revision) > SLICE_KEYS:
                _SlicedRange(server, call, request, keys, identity, began)
                return
        body = range_body(store, request)
    except EtcdError as refused:
        timing.range(0.0 if together else timing.now() - began, success=False)
        call.fail(refused)
        return
    if together:
        store.counts.gets += 1
    else:
        timing.range(timing.now() - began, success=True)
    call.reply(server.header() + body)


class _SlicedRange:
    """A large range, read slice by slice at one revision so that nobody else waits for all of it."""

    __slots__ = ("_began", "_call", "_count", "_header", "_identity", "_kvs", "_slices")

    def __init__(
        self, server: Server, call: Call, request: RangeRequest, keys: KeyRange, identity: Identity, began: float
    ) -> None:
        self._began = began
        self._call = call
        self._identity = identity
        self._header = server.header()
        self._slices, self._count = _slices(server, request, keys)
        self._kvs: list[bytes] = []
        self._step()

    def _step(self) -> None:
        try:
            if self._call.server.node.stopped:
                raise Stopped
            check_current(self._call.server, self._identity)
            self._kvs += next(self._slices)
        except StopIteration:
            self._timed(success=True)
            more = len(self._kvs) < self._count
            self._call.reply(self._header + fast.range_body(self._kvs, more, self._count))
        except EtcdError as error:
            self._slices.close()
            self._timed(success=False)
            self._call.fail(error)
        else:
            self._call.server.clock.call_soon(self._step)

    def _timed(self, *, success: bool) -> None:
        timing = self._call.server.timing
        timing.range(timing.now() - self._began, success=success)


def _slices(server: Server, request: RangeRequest, keys: KeyRange) -> tuple[Generator[list[bytes], None, None], int]:
    """The slices of a long read, and how many keys the range holds whatever the limit."""
    store = server.store
    revision = request.revision if request.revision > 0 else store.revision
    count = store.count(keys, revision)
    return store.range_slices(keys, revision=revision, limit=max(request.limit, 0), rows=SLICE_KEYS), count


def put(server: Server, call: Call) -> None:
    """KV.Put."""
    request = PutRequest.FromString(call.message)
    _check_space(server, call, requests.PUT, request)
    if not request.key or request.ignore_value or request.ignore_lease:
        validate.check_put(request)
    if server.auth.enabled:
        server.propose(requests.PUT, call.message, call.answer, request, identity_of(server, call.head))
    else:
        server.propose(requests.PUT, call.message, call.answer, request)


def _check_space(server: Server, call: Call, row: requests.Row, request: object) -> None:
    """Refuse what would not fit, before anything else is looked at (semantics 13.9). Raises NoSpace."""
    quota = server.quota
    if quota.exceeded_by(requests.cost_bound(call.message)):
        cost = row.cost(request) if row.cost is not None else 0
        if cost and quota.exceeded_by(cost):
            server.raise_nospace()
            raise NoSpace


def delete_range(server: Server, call: Call) -> None:
    """KV.DeleteRange."""
    request = DeleteRangeRequest.FromString(call.message)
    validate.check_delete(request)
    identity = identity_of(server, call.head) if server.auth.enabled else ANONYMOUS
    server.propose(requests.DELETE_RANGE, call.message, call.answer, request, identity)


def txn(server: Server, call: Call) -> None:
    """KV.Txn: a read when no branch can write, else a proposal."""
    request = Txn(TxnRequest.FromString(call.message))
    _check_space(server, call, requests.TXN, request)
    validate.check_txn(request, server.config.max_txn_ops)
    if not request.is_read_only:
        identity = identity_of(server, call.head) if server.auth.enabled else ANONYMOUS
        server.propose(requests.TXN, call.message, call.answer, request, identity)
    elif request.is_serializable:
        if server.auth.enabled:
            identity_of(server, call.head)
        _answer_txn((call, request), None)
    else:
        server.read(_answer_txn, (call, request))


def _answer_txn(argument: tuple[Call, Txn], error: EtcdError | None) -> None:
    call, request = argument
    if error is not None:
        call.fail(error)
        return
    server = call.server
    try:
        if server.auth.enabled:
            identity = present_identity(server, token_of(call.head))
            check_txn(server.state, identity, request)
            check_current(server, identity)
        call.reply(server.header() + read_txn_body(server.store, request))
    except EtcdError as refused:
        call.fail(refused)


def compact(server: Server, call: Call) -> None:
    """KV.Compact; a physical one answers when the revisions are gone from the backend file."""
    request = CompactionRequest.FromString(call.message)
    require_admin(server, call.head)

    def answered(body: bytes, error: EtcdError | None) -> None:
        if error is not None or not request.physical:
            call.answer(body, error)
        else:
            server.compaction.wait(lambda: server.committer.sync(lambda: call.answer(body, None)))

    server.propose(requests.COMPACTION, call.message, answered, request, identity_of(server, call.head))


class RangeStream(Stream):
    """KV.RangeStream (etcd 3.7): one read at one revision, in chunks, as fast as the client takes them."""

    takes_one = True
    __slots__ = ("_count", "_header", "_identity", "_ready", "_sent", "_slices", "_stall")

    def receive(self, message: bytes) -> None:
        """Take the request. Raises RangeStreamSort, RangeStreamFilters and what check_range raises."""
        request = RangeRequest.FromString(message)
        validate.check_range(request)
        if request.sort_order or request.sort_target:
            raise RangeStreamSort
        if (
            request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
            or request.max_create_revision
        ):
            raise RangeStreamFilters
        if request.serializable:
            identity_of(self.server, self.head)
            self._begin(request, None)
        else:
            self.server.read(self._begin, request)

    def _begin(self, request: RangeRequest, error: EtcdError | None) -> None:
        if self.closed:
            return
        try:
            if error is not None:
                raise error
            self._identity = ANONYMOUS
            if self.server.auth.enabled:
                self._identity = check_read(self.server, self.head, request.key, request.range_end)
            self.server.store.counts.ranges += 1
            self._header = self.server.header()
            if request.count_only:
                body = range_body(self.server.store, request)
                self.send(fast.length_prefixed(1, self._header + body))
                self.finish()
                return
            keys = KeyRange.parse(request.key, request.range_end)
            self._stall: Timer | None = None
            self._slices, self._count = _slices(self.server, request, keys)
            self.server.store.check_revision(request.revision)
        except EtcdError as refused:
            self.fail(refused)
            return
        self._ready: list[bytes] = []
        self._sent = 0
        self._step()

    def writable(self) -> None:
        """The client has taken what was queued."""
        if hasattr(self, "_slices") and self._stall is not None:
            self._stall.cancel()
            self._stall = None
            self._step()

    def ended(self) -> None:
        """Let go of the read."""
        if hasattr(self, "_slices"):
            self._slices.close()
            if self._stall is not None:
                self._stall.cancel()

    def _step(self) -> None:
        if self.closed:
            return
        if self.queued_bytes > MAX_QUEUED_BYTES:
            self._stall = self.server.clock.call_later(STALL_TIMEOUT_S, self.fail, Canceled())
            return
        try:
            if self.server.node.stopped:
                raise Stopped
            check_current(self.server, self._identity)
            self._ready += next(self._slices)
        except StopIteration:
            self._send_chunks(last=True)
            self.finish()
        except EtcdError as error:
            self.fail(error)
        else:
            self._send_chunks(last=False)
            self.server.clock.call_soon(self._step)

    def _send_chunks(self, *, last: bool) -> None:
        """Send whole chunks; the last one alone carries header, more and count."""
        target = self.server.config.max_request_bytes
        while self._ready:
            size = taken = 0
            while taken < len(self._ready) and size < target and (self._sent or taken < STREAM_FIRST_KEYS):
                size += len(self._ready[taken])
                taken += 1
            if taken == len(self._ready):
                break  # it may still grow, or be the last
            chunk, self._ready = self._ready[:taken], self._ready[taken:]
            self._sent += len(chunk)
            self.send(fast.length_prefixed(1, fast.range_body(chunk, False, 0)))
        if last:
            self._sent += len(self._ready)
            body = fast.range_body(self._ready, self._sent < self._count, self._count)
            self.send(fast.length_prefixed(1, self._header + body))
