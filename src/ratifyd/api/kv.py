"""KV: Range, Put, DeleteRange, Txn, Compact and RangeStream. The hot handlers: plain functions, no task, no future."""

from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

from ratifyd.api import validate
from ratifyd.api.calls import MAX_QUEUED_BYTES, Call, Stream
from ratifyd.api.identity import check_current, check_read, identity_of, present_identity, require_admin, token_of
from ratifyd.apply import requests
from ratifyd.apply.permissions import check_txn
from ratifyd.apply.ranges import SLICE_KEYS, is_long, range_body, range_response, range_steps, without_values
from ratifyd.apply.txn import Txn, is_long_read, parse_proposed, read_txn_body, read_txn_steps
from ratifyd.auth.identity import ANONYMOUS, Identity
from ratifyd.errors import Canceled, EtcdError, NoSpace, RangeStreamFilters, RangeStreamSort, Stopped
from ratifyd.keys import KeyRange
from ratifyd.ports import Timer
from ratifyd.proto import fast
from ratifyd.proto.canonical import canonical, is_canonical
from ratifyd.proto.light import Delete, Put, Swap, read_put
from ratifyd.proto.rpc_pb2 import CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest
from ratifyd.server.server import Server

T = TypeVar("T")

_KEY_TAG = 0x0A
"""Field 1 of RangeRequest, length-delimited: the key."""
_SERIALIZABLE = b"\x38\x01"
"""Field 7 of RangeRequest, set."""
STALL_TIMEOUT_S = 60.0
"""How long a RangeStream waits for a client that reads nothing: meanwhile compaction waits for it."""
STREAM_FIRST_KEYS = 10
"""Keys in the first chunk of a RangeStream (semantics 2.18)."""


def range_(server: Server, call: Call) -> None:
    """KV.Range."""
    message = call.message
    if len(message) > 2 and message[0] == _KEY_TAG and 0 < (size := message[1]) < 0x80:  # what a plain get looks like
        if size == len(message) - 2:
            server.read(_answer_get, call)
            return
        if size == len(message) - 4 and message.endswith(_SERIALIZABLE) and not server.auth.enabled:
            server.read_local(_answer_get, call)
            return
    request = RangeRequest.FromString(message)
    validate.check_range(request)
    if request.serializable:
        if server.auth.enabled:
            identity_of(server, call.head)  # waits for a token on its way here, as a linearizable read does
        server.read_local(_answer_range, (call, request))
    else:
        server.read(_answer_range, (call, request))


def _answer_get(call: Call, error: EtcdError | None) -> int:
    """Answer a RangeRequest for a key alone, which its encoding begins with after a tag and a length below 128."""
    if error is not None:
        call.fail(error)
        return 0
    server, message = call.server, call.message
    key = message[2 : 2 + message[1]]
    if server.auth.enabled and (refused := _refused_get(server, call, key)) is not None:
        call.fail(refused)
        return 0
    store = server.store
    store.counts.gets += 1
    kv = store.get(key)
    if kv is None:
        call.reply(server.header())
        return 0
    call.reply(fast.range_response(server.header(), (kv,), False, 1))
    return len(kv)


def _refused_get(server: Server, call: Call, key: bytes) -> EtcdError | None:
    try:
        check_read(server, call.head, key, b"")
    except EtcdError as refused:
        return refused
    return None


def _answer_range(argument: tuple[Call, RangeRequest], error: EtcdError | None) -> int:
    call, request = argument
    if error is not None:
        call.fail(error)
        return 0
    server = call.server
    store, timing = server.store, server.timing
    identity = ANONYMOUS
    if server.auth.enabled:
        try:
            identity = check_read(server, call.head, request.key, request.range_end)
        except EtcdError as refused:
            call.fail(refused)
            return 0
    range_end = request.range_end
    together = not range_end  # timed with the other reads of the batch
    began = 0.0 if together else timing.now()
    try:
        if is_long(store, request):
            call.run(_range_steps(server, request, identity, began), call.reply_parts)
            return 0
        response = range_response(server.header(), store, request)
    except EtcdError as refused:
        timing.range(0.0 if together else timing.now() - began, success=False)
        call.fail(refused)
        return 0
    if together:
        store.counts.gets += 1
    else:
        timing.range(timing.now() - began, success=True)
    call.reply(response)
    return len(response)


def _range_steps(
    server: Server, request: RangeRequest, identity: Identity, began: float
) -> Generator[None, None, list[bytes]]:
    timing = server.timing
    header = server.header()  # of the moment of the first slice, whose revision is read
    try:
        parts = yield from _while_current(server, identity, range_steps(server.store, request))
    except EtcdError:
        timing.range(timing.now() - began, success=False)
        raise
    timing.range(timing.now() - began, success=True)
    return [header, *parts]


def _while_current(server: Server, identity: Identity, steps: Generator[None, None, T]) -> Generator[None, None, T]:
    """The same work, as long as no change of users or roles comes in between. Raises AuthOldRevision."""
    with closing(steps):
        while True:
            check_current(server, identity)
            try:
                next(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            yield


def put(server: Server, call: Call) -> None:
    """KV.Put."""
    message = call.message
    request = read_put(message, 0, len(message))
    if type(request) is not Put and not is_canonical(request, message):
        request, message = canonical(PutRequest, message)
    if len(message) >= server.state.room:
        _check_space(server, requests.PUT, request)
    if type(request) is not Put:
        validate.check_put(request)
    if server.auth.enabled:
        server.propose(requests.PUT, message, call.answer, request, identity_of(server, call.head))
    else:
        server.propose(requests.PUT, message, call.answer, request)


def _check_space(server: Server, row: requests.Row, request: object) -> None:
    """Refuse what would not fit, before anything else is looked at (semantics 13.9). Raises NoSpace."""
    cost = row.cost(request) if row.cost is not None else 0
    if cost and server.quota.exceeded_by(cost):
        server.raise_nospace()
        raise NoSpace


def delete_range(server: Server, call: Call) -> None:
    """KV.DeleteRange."""
    message = call.message
    request = requests.parse_delete_range(message)
    if not isinstance(request, Delete) and not is_canonical(request, message):
        request, message = canonical(DeleteRangeRequest, message)
    validate.check_delete(request)
    identity = identity_of(server, call.head) if server.auth.enabled else ANONYMOUS
    server.propose(requests.DELETE_RANGE, message, call.answer, request, identity)


def txn(server: Server, call: Call) -> None:
    """KV.Txn: a read when no branch can write, else a proposal."""
    request, message = parse_proposed(call.message, server.config.max_txn_ops)
    if len(message) >= server.state.room:
        _check_space(server, requests.TXN, request)
    if type(request) is not Swap or server.config.max_txn_ops <= 0:  # one operation: nothing else can be wrong with it
        validate.check_txn(request, server.config.max_txn_ops)
    if type(request) is Swap or not request.is_read_only:
        identity = identity_of(server, call.head) if server.auth.enabled else ANONYMOUS
        disputed = server.auth.enabled and type(request) is Txn and _is_disputed(server, identity, request)
        server.propose(requests.TXN, message, call.answer, request, identity, disputed=disputed)
    elif request.is_serializable:
        if server.auth.enabled:
            identity_of(server, call.head)
        server.read_local(_answer_txn, (call, request))
    else:
        server.read(_answer_txn, (call, request))


def _is_disputed(server: Server, identity: Identity, request: Txn) -> bool:
    """Whether members older than 3.5.30 may permit this Txn where we do not. Raises PermissionDenied.

    They look neither at nested txns nor at `prev_kv` and leases of puts.
    """
    if server.is_beside_older and identity is not ANONYMOUS and not server.auth.is_admin(identity):
        validate.check_decidable(request)
    return not request.is_plain


def _answer_txn(argument: tuple[Call, Txn], error: EtcdError | None) -> int:
    call, request = argument
    if error is not None:
        call.fail(error)
        return 0
    server = call.server
    try:
        identity = ANONYMOUS
        if server.auth.enabled:
            identity = present_identity(server, token_of(call.head))
            check_txn(server.state, identity, request)
            check_current(server, identity)
        if is_long_read(server.store, request):
            call.run(_txn_steps(server, request, identity), call.reply_parts)
        else:
            body = read_txn_body(server.store, request)
            call.reply(server.header() + body)
            return len(body)
    except EtcdError as refused:
        call.fail(refused)
    return 0


def _txn_steps(server: Server, request: Txn, identity: Identity) -> Generator[None, None, list[bytes]]:
    header = server.header()
    body = yield from _while_current(server, identity, read_txn_steps(server.store, request))
    return [header, body]


def compact(server: Server, call: Call) -> None:
    """KV.Compact; a physical one answers when the revisions are gone from the backend file."""
    request, message = canonical(CompactionRequest, call.message)
    require_admin(server, call.head)

    def answered(body: bytes, error: EtcdError | None) -> None:
        if error is not None or not request.physical:
            call.answer(body, error)
        else:
            call.work_begun()
            server.compaction.wait(lambda: server.committer.sync(lambda: call.answer(body, None)))

    server.propose(requests.COMPACTION, message, answered, request, identity_of(server, call.head))


class RangeStream(Stream):
    """KV.RangeStream (etcd 3.7): one read at one revision, in chunks, as fast as the client takes them."""

    takes_one = True
    __slots__ = ("_header", "_identity", "_keys_only", "_ready", "_sent", "_slices", "_stall")

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
            self._keys_only = request.keys_only
            keys = KeyRange.parse(request.key, request.range_end)
            self._stall: Timer | None = None
            store = self.server.store
            store.check_revision(request.revision)
            revision = request.revision if request.revision > 0 else store.revision
            limit = max(request.limit, 0)
            self._slices = store.range_slices(keys, revision=revision, limit=limit, rows=SLICE_KEYS)
        except EtcdError as refused:
            self.fail(refused)
            return
        self._ready: list[bytes] = []
        self._sent = 0
        if self._step():
            self.server.slices.repeat(self._step)

    def writable(self) -> None:
        """The client has taken what was queued."""
        if hasattr(self, "_slices") and self._stall is not None:
            self._stall.cancel()
            self._stall = None
            self.server.slices.repeat(self._step)

    def ended(self) -> None:
        """Let go of the read."""
        if hasattr(self, "_slices"):
            self._slices.close()
            if self._stall is not None:
                self._stall.cancel()

    def _step(self) -> bool:
        if self.closed:
            return False
        if self.queued_bytes > MAX_QUEUED_BYTES:
            self._stall = self.server.clock.call_later(STALL_TIMEOUT_S, self.fail, Canceled())
            return False
        try:
            if self.server.node.stopped:
                raise Stopped
            check_current(self.server, self._identity)
            rows = next(self._slices)
        except StopIteration as stop:
            self._send_chunks()
            self._sent += len(self._ready)
            body = fast.range_body(self._ready, self._sent < stop.value, stop.value)
            self.send(fast.length_prefixed(1, self._header + body))
            self.finish()
            return False
        except EtcdError as error:
            self.fail(error)
            return False
        self._ready += without_values(rows) if self._keys_only else rows
        self._send_chunks()
        return True

    def _send_chunks(self) -> None:
        """Send whole chunks; the last one, which is kept back, alone carries header, more and count."""
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
