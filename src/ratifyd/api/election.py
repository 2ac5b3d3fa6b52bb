"""Election: Campaign, Proclaim, Leader, Observe, Resign (semantics 16.4 to 16.6)."""

from typing import TYPE_CHECKING

from ratifyd.api import kv
from ratifyd.api.calls import MAX_QUEUED_BYTES, Call, Stream, StreamEdge, ask
from ratifyd.api.candidacy import Candidacy, deletion, oldest, put_on_lease, relay, while_created, with_session
from ratifyd.errors import EtcdError, MissingLeaderKey, NobodyElected, NotElected
from ratifyd.keys import KeyRange, prefix_end
from ratifyd.mvcc.watch import Watcher
from ratifyd.proto.election_pb2 import (
    CampaignRequest,
    CampaignResponse,
    LeaderKey,
    LeaderRequest,
    LeaderResponse,
    ProclaimRequest,
    ProclaimResponse,
    ResignRequest,
    ResignResponse,
)
from ratifyd.proto.kv_pb2 import Event, KeyValue
from ratifyd.proto.rpc_pb2 import RangeResponse, TxnResponse
from ratifyd.server.server import Server
from ratifyd.wire.headers import Head

if TYPE_CHECKING:
    from ratifyd.api.routes import Route


def campaign(server: Server, call: Call) -> None:
    """Election.Campaign: answers when the client leads; its header is that of the entry, however long ago."""
    request = CampaignRequest.FromString(call.message)

    def won(candidacy: Candidacy) -> None:
        key = LeaderKey(name=request.name, key=candidacy.key, rev=candidacy.revision, lease=candidacy.lease)
        candidacy.call.reply(CampaignResponse(header=candidacy.entry.header, leader=key).SerializeToString())

    Candidacy(call, request.name, request.lease, request.value, won)


def proclaim(server: Server, call: Call) -> None:
    """Election.Proclaim. Raises MissingLeaderKey."""
    request = ProclaimRequest.FromString(call.message)
    if not request.HasField("leader"):
        raise MissingLeaderKey
    proof = request.leader

    def begun(lease_id: int) -> None:
        change = put_on_lease(proof.key, request.value, lease_id)
        relay(call, kv.txn, while_created(proof.key, proof.rev, change), changed)

    def changed(body: bytes) -> None:
        response = TxnResponse.FromString(body)
        if response.succeeded:
            call.reply(ProclaimResponse(header=response.header).SerializeToString())
        else:
            call.fail(NotElected())

    with_session(call, proof.lease, begun)


def leader(server: Server, call: Call) -> None:
    """Election.Leader."""
    request = LeaderRequest.FromString(call.message)

    def read(body: bytes) -> None:
        response = RangeResponse.FromString(body)
        if response.kvs:
            call.reply(LeaderResponse(header=response.header, kv=response.kvs[0]).SerializeToString())
        else:
            call.fail(NobodyElected())

    relay(call, kv.range_, oldest(request.name + b"/"), read)


def resign(server: Server, call: Call) -> None:
    """Election.Resign: content if the client does not lead. Raises MissingLeaderKey."""
    request = ResignRequest.FromString(call.message)
    if not request.HasField("leader"):
        raise MissingLeaderKey
    proof = request.leader

    def begun(_lease_id: int) -> None:
        relay(call, kv.txn, while_created(proof.key, proof.rev, deletion(proof.key)), resigned)

    def resigned(body: bytes) -> None:
        call.reply(ResignResponse(header=TxnResponse.FromString(body).header).SerializeToString())

    with_session(call, proof.lease, begun)


class ObserveStream(Stream):
    """Election.Observe: the leader's key, each of its changes, then the next leader's, for ever.

    Not every leader is seen, but the latest always is. A client that reads slowly is told what it missed from history.
    """

    takes_one = True
    __slots__ = ("_full", "_prefix", "_watcher")

    def __init__(self, session: StreamEdge, stream_id: int, head: Head, route: "Route") -> None:
        super().__init__(session, stream_id, head, route)
        self._prefix = b""
        self._watcher: Watcher | None = None
        self._full = False

    def receive(self, message: bytes) -> None:
        """Take the name of the election."""
        self._prefix = LeaderRequest.FromString(message).name + b"/"
        self._look()

    def ended(self) -> None:
        """Stop watching."""
        self._watch_no_more()

    def writable(self) -> None:
        """There is room again: what was refused may come."""
        if self._full and self.queued_bytes < MAX_QUEUED_BYTES and self._watcher is not None:
            self._full = False
            self.server.state.hub.resume(self._watcher)
            self.server.node.wake()

    def _look(self) -> None:
        """Find out who leads."""
        if not self.closed:
            ask(kv.range_, self.server, self.head, oldest(self._prefix), self._found)

    def _found(self, body: bytes, error: EtcdError | None) -> None:
        if self.closed:
            return
        if error is not None:
            self.finish()  # etcd keeps the reason to itself
            return
        response = RangeResponse.FromString(body)
        revision = response.header.revision
        if response.kvs:
            answer = LeaderResponse(header=response.header, kv=response.kvs[0])
            self.send(answer.SerializeToString())
            self._watch(KeyRange.parse(response.kvs[0].key, b""), revision)
        else:
            self._watch(KeyRange.parse(self._prefix, prefix_end(self._prefix)), revision)

    def _watch(self, keys: KeyRange, revision: int) -> None:
        """Watch the leader's key, or all of them for the first to be put, after a revision."""
        self._watch_no_more()
        self._watcher = self.server.state.hub.add(keys, revision + 1, sink=self, no_delete=not keys.is_point)
        self.server.node.wake()

    def _watch_no_more(self) -> None:
        if self._watcher is not None:
            self.server.state.hub.remove(self._watcher)
            self._watcher = None

    def _look_again(self) -> None:
        self._watch_no_more()
        self.server.clock.call_soon(self._look)

    # --- what the hub tells us -------------------------------------------------------------------------------------

    def offer(self, watcher: Watcher, revision: int, events: list[bytes]) -> bool:
        """Tell the leader's changes; go on to the next one when its key is gone."""
        if self.queued_bytes > MAX_QUEUED_BYTES:
            self._full = True
            return False
        if not watcher.keys.is_point:
            first = Event.FromString(events[0]).kv
            self._tell(first.mod_revision, first)
            self._watch(KeyRange.parse(first.key, b""), first.mod_revision)
            return True
        for event in map(Event.FromString, events):
            if event.type == Event.DELETE:
                self._look_again()
                break
            self._tell(revision, event.kv)
        return True

    def _tell(self, revision: int, found: KeyValue) -> None:
        header = self.server.headers.header(revision, self.server.node.raft.term)
        self.send(header + LeaderResponse(kv=found).SerializeToString())

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        """The changes that were missed are gone from history: the state of the moment will do."""
        self._look_again()
