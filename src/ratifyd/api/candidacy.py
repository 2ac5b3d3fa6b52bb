"""The recipe below locks and elections: a key on a lease under a common prefix; whose key is oldest is first.

What etcd does with a client inside its server, this does with the handlers of KV and Lease, so that a request made here
meets the checks, the quota and the authentication of one that its client made itself (semantics 16.3 to 16.6). Whoever
waits watches one key, the one just before its own: a departure wakes one waiter, however long the queue.
"""

from collections.abc import Callable

from ratifyd.api import kv, lease
from ratifyd.api.calls import Call, Handler, InnerCall, ask
from ratifyd.errors import ContextCanceled, ContextDeadlineExceeded, EtcdError, NotElected, Relayed
from ratifyd.keys import KeyRange, prefix_end
from ratifyd.mvcc.watch import Watcher
from ratifyd.ports import Timer
from ratifyd.proto.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseGrantResponse,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)

SESSION_TTL_S = 60
"""Life of the lease made for a client that brings none; nobody keeps it alive (semantics 16.4)."""

Request = LeaseGrantRequest | RangeRequest | DeleteRangeRequest | TxnRequest


def relay(call: Call, handler: Handler, request: Request, done: Callable[[bytes], None]) -> None:
    """Make a request for the client of `call`; what goes wrong with it goes wrong with the call."""

    def answered(body: bytes, error: EtcdError | None) -> None:
        if error is not None:
            call.fail(_relayed(error))
        else:
            done(body)

    ask(handler, call.server, call.head, request, answered)


def _relayed(error: EtcdError) -> EtcdError:
    """An error as it leaves the client inside: those of its context alone keep their code."""
    if isinstance(error, ContextCanceled | ContextDeadlineExceeded):
        return error
    return Relayed(error.message)


def with_session(call: Call, lease_id: int, begin: Callable[[int], None]) -> None:
    """Call `begin` with the client's lease, or with a new one when it has none."""
    if lease_id:
        begin(lease_id)
    else:
        request = LeaseGrantRequest(TTL=SESSION_TTL_S)
        relay(call, lease.grant, request, lambda body: begin(LeaseGrantResponse.FromString(body).ID))


def oldest(prefix: bytes) -> RangeRequest:
    """A read of the first key of a queue."""
    return RangeRequest(
        key=prefix,
        range_end=prefix_end(prefix),
        limit=1,
        sort_order=RangeRequest.ASCEND,
        sort_target=RangeRequest.CREATE,
    )


def while_created(key: bytes, revision: int, then: RequestOp) -> TxnRequest:
    """A change to be made only if the key is still the one created at a revision."""
    compare = Compare(target=Compare.CREATE, result=Compare.EQUAL, key=key, create_revision=revision)
    return TxnRequest(compare=[compare], success=[then])


def put_on_lease(key: bytes, value: bytes, lease_id: int) -> RequestOp:
    """The put of a key that is to go with a lease."""
    return RequestOp(request_put=PutRequest(key=key, value=value, lease=lease_id))


def deletion(key: bytes) -> RequestOp:
    """The deletion of a key."""
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key))


class Turn:
    """Waits until no key under a prefix is older than one created at a given revision (etcd waitDeletes).

    Reads what this member has applied: that holds the entry of whoever waits, hence every older one.
    """

    __slots__ = ("_call", "_come", "_newest_older", "_over", "_watcher")

    def __init__(self, call: Call, prefix: bytes, revision: int, come: Callable[[EtcdError | None], None]) -> None:
        self._call = call
        self._come = come
        self._over = False
        self._watcher: Watcher | None = None
        self._newest_older = RangeRequest(
            key=prefix,
            range_end=prefix_end(prefix),
            limit=1,
            sort_order=RangeRequest.DESCEND,
            sort_target=RangeRequest.CREATE,
            max_create_revision=revision - 1,
            serializable=True,
        )
        self._look()

    def stop(self) -> None:
        """Wait no longer."""
        self._over = True
        if self._watcher is not None:
            self._call.server.state.hub.remove(self._watcher)

    def _look(self) -> None:
        if not self._over:
            ask(kv.range_, self._call.server, self._call.head, self._newest_older, self._found)

    def _found(self, body: bytes, error: EtcdError | None) -> None:
        if self._over:
            return
        response = RangeResponse.FromString(body)
        if error is not None or not response.kvs:
            self._over = True
            self._come(error)
            return
        keys = KeyRange.parse(response.kvs[0].key, b"")
        hub = self._call.server.state.hub
        self._watcher = hub.add(keys, response.header.revision + 1, sink=self, no_put=True)

    def offer(self, watcher: Watcher, revision: int, events: list[bytes]) -> bool:
        """The key before ours is deleted: look for another one, when this write has been told to all who watch."""
        server = self._call.server
        server.state.hub.remove(watcher)
        server.clock.call_soon(self._look)
        return True

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        """The state was replaced by a newer one, without the history between: look again."""
        self._call.server.clock.call_soon(self._look)


class Candidacy:
    """One request to become the first under a prefix: the entry of its key, the wait, the end.

    `won` is called when the key is first, and answers `call`. A client that gives up while waiting loses its key.
    """

    __slots__ = (
        "_client",
        "_deadline",
        "_over",
        "_prefix",
        "_turn",
        "_value",
        "_won",
        "call",
        "entry",
        "key",
        "lease",
        "revision",
        "waited",
    )

    def __init__(
        self, client: Call, name: bytes, lease_id: int, value: bytes | None, won: Callable[["Candidacy"], None]
    ) -> None:
        """`value` None: the key has no value that matters."""
        self.call = InnerCall(client.server, client.head, b"", self._answer)
        """What the client asked, to be answered once."""
        self.key = b""
        self.lease = 0
        self.revision = 0
        """At which the key was created."""
        self.entry = TxnResponse()
        self.waited = False
        self._client = client
        self._prefix = name + b"/"
        self._value = value
        self._won = won
        self._over = False
        self._turn: Turn | None = None
        self._deadline: Timer | None = None
        if client.head.timeout_s is not None:
            late = ContextDeadlineExceeded()
            self._deadline = client.server.clock.call_later(client.head.timeout_s, self._give_up, late)
        client.when_gone(self._give_up)
        with_session(self.call, lease_id, self._enter)

    def _enter(self, lease_id: int) -> None:
        if self._over:
            return
        self.lease = lease_id
        self.key = self._prefix + b"%x" % lease_id
        request = while_created(self.key, 0, put_on_lease(self.key, self._value or b"", lease_id))
        first = RequestOp(request_range=oldest(self._prefix))
        request.success.append(first)
        request.failure.extend((RequestOp(request_range=RangeRequest(key=self.key)), first))
        relay(self.call, kv.txn, request, self._entered)

    def _entered(self, body: bytes) -> None:
        self.entry = entry = TxnResponse.FromString(body)
        if entry.succeeded:
            self.revision = entry.header.revision
            if self._over:
                self._leave()  # nobody waits for what has just been created
            else:
                self._queue()
            return
        own = entry.responses[0].response_range.kvs[0]  # of an earlier request with the same lease
        self.revision = own.create_revision
        if self._over:
            return
        if self._value is None or own.value == self._value:
            self._queue()
        else:
            change = put_on_lease(self.key, self._value, self.lease)
            relay(self.call, kv.txn, while_created(self.key, self.revision, change), self._changed)

    def _changed(self, body: bytes) -> None:
        if not TxnResponse.FromString(body).succeeded:
            self.call.fail(NotElected())
        elif not self._over:
            self._queue()

    def _queue(self) -> None:
        first = self.entry.responses[1].response_range.kvs
        if not first or first[0].create_revision == self.revision:
            self._won(self)
        else:
            self.waited = True
            self._turn = Turn(self.call, self._prefix, self.revision, self._come)

    def _come(self, error: EtcdError | None) -> None:
        if error is None:
            self._won(self)
        else:
            self.call.fail(_relayed(error))

    # --- the end ---------------------------------------------------------------------------------------------------

    def _answer(self, body: bytes, error: EtcdError | None) -> None:
        if self._over:
            return
        self._over = True
        self._client.settled()
        if self._deadline is not None:
            self._deadline.cancel()
        if error is None:
            self._client.reply(body)
        else:
            self._client.fail(error)

    def _give_up(self, error: EtcdError) -> None:
        self.call.fail(error)
        if self._turn is not None:
            self._turn.stop()
        if self.waited:
            self._leave()

    def _leave(self) -> None:
        """Take the key out of the queue; what becomes of that interests nobody, at worst the lease ends it."""
        request = while_created(self.key, self.revision, deletion(self.key))
        ask(kv.txn, self.call.server, self.call.head, request, _ignore)


def _ignore(_body: bytes, _error: EtcdError | None) -> None:
    pass
