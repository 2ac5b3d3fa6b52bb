"""Lease: LeaseGrant, LeaseRevoke, LeaseKeepAlive, LeaseTimeToLive, LeaseLeases (semantics §8)."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ratifyd.api.calls import Call, Stream, StreamEdge
from ratifyd.api.identity import identity_of, present_identity, require_user, token_of
from ratifyd.apply import requests
from ratifyd.apply.permissions import check_lease_keys
from ratifyd.auth.identity import ANONYMOUS, NEWEST_REVISION, Identity
from ratifyd.errors import AuthOldRevision, EtcdError, NoLeader, NoSpace, RequestTooManyRequests
from ratifyd.proto import fast
from ratifyd.proto.canonical import canonical
from ratifyd.proto.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseStatus,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
)
from ratifyd.server.server import Server
from ratifyd.wire.headers import Head

if TYPE_CHECKING:
    from ratifyd.api.routes import Route

_POSITIVE_63 = (1 << 63) - 1
MAX_PENDING_RENEWALS = 1000
"""Renewals of one stream that may wait for the revocation of expired leases."""
MAX_KNOWN = 256
"""Requests of one stream whose answers are kept: clients in Go renew all their leases on one stream."""
MAX_KNOWN_BYTES = 32
"""Size of those requests: an id takes eleven, and what else a client adds to it must not be kept 256 times."""


def grant(server: Server, call: Call) -> None:
    """Lease.LeaseGrant: fills in an id when none is chosen."""
    request, _ = canonical(LeaseGrantRequest, call.message)
    if server.quota.exceeded_by(requests.lease_cost(request)):
        server.raise_nospace()
        raise NoSpace
    while not request.ID:
        request.ID = server.proposals.next_id() & _POSITIVE_63
    identity = _user(server, call)
    server.propose(requests.LEASE_GRANT, request.SerializeToString(), call.answer, identity=identity)


def revoke(server: Server, call: Call) -> None:
    """Lease.LeaseRevoke."""
    request, message = canonical(LeaseRevokeRequest, call.message)
    identity = _user(server, call)
    if identity is not ANONYMOUS and server.auth.is_admin(identity):
        identity = Identity(identity.user, NEWEST_REVISION)  # etcd up to 3.5.12 would refuse what is out of date
    server.propose(requests.LEASE_REVOKE, message, call.answer, request, identity)


def time_to_live(server: Server, call: Call) -> None:
    """Lease.LeaseTimeToLive: what the leader's clock says; an unknown lease has TTL -1 and is no error."""
    request = LeaseTimeToLiveRequest.FromString(call.message)
    identity = _user(server, call)
    revision = server.auth.revision
    if request.keys and server.auth.enabled:
        _check_readable(server, identity, [request.ID])

    def answer(response: LeaseTimeToLiveResponse | None, error: EtcdError | None) -> None:
        if error is not None or response is None:
            call.fail(error or NoLeader())
        elif request.keys and server.auth.enabled and server.auth.revision != revision:
            call.fail(AuthOldRevision())
        else:
            call.reply(server.header() + response.SerializeToString())

    server.leases.time_to_live(request.ID, request.keys, answer)


def leases(server: Server, call: Call) -> None:
    """Lease.LeaseLeases: all leases this member knows, soonest end first."""
    LeaseLeasesRequest.FromString(call.message)
    identity = _user(server, call)
    ids = server.leasing.in_order(server.clock.time())
    if server.auth.enabled:
        _check_readable(server, identity, ids)
    response = LeaseLeasesResponse(leases=[LeaseStatus(ID=lease_id) for lease_id in ids])
    call.reply(server.header() + response.SerializeToString())


def _user(server: Server, call: Call) -> Identity:
    """Who asks; somebody must while auth is on. Raises UserEmpty and what identity_of raises."""
    if not server.auth.enabled:
        return ANONYMOUS
    identity = identity_of(server, call.head)
    server.auth.check_user(identity)
    return identity


def _check_readable(server: Server, identity: Identity, ids: Iterable[int]) -> None:
    """Require the right to read all keys of leases (semantics 8.23). Raises what AuthStore.check_range raises."""
    auth, leases = server.auth, server.state.leases.leases
    if auth.is_admin(identity):
        return
    for lease_id in ids:
        if lease_id in leases:
            for key in leases[lease_id].keys:
                auth.check_range(identity, key, b"")


class KeepAliveStream(Stream):
    """Lease.LeaseKeepAlive: one answer for each renewal asked for; TTL 0 says that the lease is gone."""

    failure_label = "lease-keepalive"
    __slots__ = ("_half_closed", "_known", "_pending")

    def __init__(self, session: StreamEdge, stream_id: int, head: Head, route: "Route") -> None:
        super().__init__(session, stream_id, head, route)
        self._half_closed = False
        self._pending = 0
        self._known: dict[bytes, tuple[int, int, bytes]] = {}
        """Requests renewed at once, by their bytes: lease, TTL, and the answer's body. They come again and again."""

    def receive(self, message: bytes) -> None:
        """Renew a lease, here or on the leader; the stream ends with what the leader could not be asked for.

        Raises RequestTooManyRequests.
        """
        known = self._known.get(message)
        lease_id = LeaseKeepAliveRequest.FromString(message).ID if known is None else known[0]
        server = self.server
        # The header is of the moment before the renewal (semantics 1.11).
        header = server.headers.header(server.store.revision, server.node.raft.term)
        now = server.clock.time()
        if server.auth.enabled:
            require_user(server, self.head)
        elif server.leads_surely(now) and (renewed := server.leasing.renew_at_once((lease_id,), now)):
            ttl = renewed[0].ttl_s
            if known is None or known[1] != ttl:
                known = self._remember(message, lease_id, ttl)
            self.send(header + known[2])
            return
        self._ask(lease_id, header)

    @staticmethod
    def answer_together(asked: Sequence[tuple["KeepAliveStream", bytes]]) -> tuple[bytes, list[bytes]] | None:
        """Renew the leases of messages that have come before, if all can be renewed at once: header, and the bodies."""
        known = []
        for stream, message in asked:
            before = stream._known.get(message)
            if before is None or stream.unread or stream.closed or stream.held is not None:
                return None
            known.append(before)
        server = asked[0][0].server
        header = server.header()
        now = server.clock.time()
        if server.auth.enabled or not server.leads_surely(now):
            return None
        bodies = []
        for before, lease in zip(known, server.leasing.renew_at_once([before[0] for before in known], now)):
            lease_id, ttl, body = before
            bodies.append(body if lease.ttl_s == ttl else fast.keep_alive_body(lease_id, lease.ttl_s))
        return (header, bodies) if bodies else None

    def _ask(self, lease_id: int, header: bytes) -> None:
        """Renew a lease where it takes longer."""
        if self._pending >= MAX_PENDING_RENEWALS:
            raise RequestTooManyRequests
        self._pending += 1

        def renewed(ttl: int, error: EtcdError | None) -> None:
            self._pending -= 1
            if error is not None:
                self.fail(error)
                return
            self.send(header + LeaseKeepAliveResponse(ID=lease_id, TTL=ttl).SerializeToString())
            self._maybe_finish()

        self.server.leases.renew(lease_id, renewed, self._check)

    def _remember(self, message: bytes, lease_id: int, ttl: int) -> tuple[int, int, bytes]:
        known = lease_id, ttl, fast.keep_alive_body(lease_id, ttl)
        if len(message) <= MAX_KNOWN_BYTES:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[message] = known
        return known

    def _check(self, lease_id: int) -> None:
        """Require the right to write all keys of a lease (semantics 8.23). Raises what AuthStore.check_put raises."""
        server = self.server
        if server.auth.enabled:
            identity = present_identity(server, token_of(self.head))
            server.auth.check_user(identity)
            check_lease_keys(server.state, identity, lease_id)

    def half_closed(self) -> None:
        """The client asks for no more renewals: end once all are answered."""
        self._half_closed = True
        self._maybe_finish()

    def _maybe_finish(self) -> None:
        if self._half_closed and not self._pending:
            self.finish()
