"""What other members and joining ones may ask of the peer port besides raft (http.tsv, peer rows).

A function from a request to `answer(status, headers, body)`, called at once or later.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from google.protobuf.message import DecodeError

from ratifyd.api.http import answer_version
from ratifyd.api.identity import present_identity, strip_scheme
from ratifyd.api.maintenance import begin_hash
from ratifyd.api.pages import ERROR, JSON, TEXT, Answer, Headers, not_found, only
from ratifyd.errors import EtcdError, LearnerNotReady, MemberNotFound, MemberNotLearner, RequestTooManyRequests
from ratifyd.membership import hex_id, read_object
from ratifyd.mvcc.hash import KvHash
from ratifyd.proto.lease_pb2 import LeaseInternalRequest, LeaseInternalResponse
from ratifyd.proto.rpc_pb2 import LeaseKeepAliveRequest, LeaseKeepAliveResponse, ResponseHeader
from ratifyd.server.corruption import HASH_PATH
from ratifyd.server.server import Server

MAX_LEASE_BODY = 64 * 1024
"""Largest body of a request about a lease (etcd maxLeaseHTTPRequestSize)."""
PROMOTE_PATH = "/members/promote/"
MAX_ID_DIGITS = 20
"""Python does not read numbers of any length, and no id is longer."""
NOT_CAUGHT_UP = b"waiting for node to catch up its applied index has timed out\n"

_PROTOBUF: Headers = [("Content-Type", "application/protobuf")]
_NOT_FOUND = b"lease not found\n"
_NOT_PRIMARY = b"not a primary lessor\n"
_PROMOTE_ERRORS: Mapping[str, tuple[int, bytes]] = {
    MemberNotFound.message: (404, b"membership: ID not found\n"),
    MemberNotLearner.message: (412, b"membership: can only promote a learner member\n"),
    LearnerNotReady.message: (412, LearnerNotReady.message.encode() + b"\n"),
}


class Request(Protocol):
    """A request as these pages see it."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def body(self) -> bytes: ...


Page = Callable[[Request, Answer], None]


class PeerPages:
    """The peer port's pages of one member."""

    __slots__ = ("_pages", "_server")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pages: dict[str, tuple[str, Page]] = {
            "/members": ("GET", self._members),
            "/downgrade/enabled": ("GET", self._downgrade_enabled),
        }

    def handle(self, request: Request, answer: Answer, wanted: Callable[[], bool]) -> None:
        """Answer one request; calls `answer` exactly once, or not at all if it is no longer `wanted`."""
        path = request.path
        if path == "/version":
            answer_version(self._server, request.method, answer)
        elif path in ("/leases", "/leases/internal"):
            self._leases(request, answer)
        elif path.startswith(PROMOTE_PATH):
            self._checked("POST", self._promote, request, answer)
        elif path == HASH_PATH:
            self._checked("GET", partial(self._hash_kv, wanted), request, answer)
        elif path in self._pages:
            method, page = self._pages[path]
            self._checked(method, page, request, answer)
        else:
            not_found(answer)

    def _checked(self, method: str, page: Page, request: Request, answer: Answer) -> None:
        if request.method == method:
            page(request, answer)
        else:
            only(method, answer)

    def _cluster_id(self) -> tuple[str, str]:
        return ("X-Etcd-Cluster-ID", hex_id(self._server.cluster_id))

    def _members(self, request: Request, answer: Answer) -> None:
        answer(200, [*JSON, self._cluster_id()], self._server.changes.as_json())

    def _promote(self, request: Request, answer: Answer) -> None:
        server = self._server
        text = request.path.removeprefix(PROMOTE_PATH)
        if not (text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS and int(text) < 1 << 64):
            answer(404, [*ERROR, self._cluster_id()], f"member {text} not found in cluster\n".encode())
            return

        def done(error: EtcdError | None) -> None:
            if error is None:
                answer(200, [*JSON, self._cluster_id()], server.changes.as_json())
            elif error.message in _PROMOTE_ERRORS:
                status, body = _PROMOTE_ERRORS[error.message]
                answer(status, [*ERROR, self._cluster_id()], body)
            else:
                answer(500, [*JSON, self._cluster_id()], b'{"message":"Internal Server Error"}')

        try:
            if server.auth.enabled:
                shown = request.headers.get("authorization", "").encode("latin-1")
                server.auth.check_admin(present_identity(server, strip_scheme(shown) or None))
            server.changes.promote_here(int(text), done=done, timeout_s=server.timeout_s)
        except EtcdError as error:
            done(error)

    def _downgrade_enabled(self, request: Request, answer: Answer) -> None:
        server = self._server

        def read(_: None, error: EtcdError | None) -> None:
            if error is not None:
                answer(500, ERROR, f"failed linearized read: {error.message}\n".encode())
                return
            # A joining member takes "true" for a cluster that is still a version above its own. Once the cluster
            # version is lowered it no longer is, and members of the older version may join.
            members = server.members
            under_way = bool(members.downgrade_target) and members.downgrade_target != members.cluster_version
            answer(200, TEXT, b"true" if under_way else b"false")

        server.read(read, None)

    def _hash_kv(self, wanted: Callable[[], bool], request: Request, answer: Answer) -> None:
        server = self._server
        cluster = request.headers.get("x-etcd-cluster-id", "")
        if cluster and cluster != hex_id(server.cluster_id):
            answer(412, ERROR, b"cluster ID mismatch\n")
            return
        revision = _revision_of(request.body)
        if revision is None:
            answer(400, ERROR, b"error unmarshalling request\n")
            return

        def hashed(found: KvHash) -> None:
            body: dict[str, object] = {
                "header": {"revision": server.store.revision},
                "hash": found.hash,
                "compact_revision": found.compact_revision,
                "hash_revision": found.revision,
            }
            answer(200, [*JSON, self._cluster_id()], json.dumps(body, separators=(",", ":")).encode())

        def refused(error: EtcdError) -> None:
            answer(400, ERROR, error.message.removeprefix("etcdserver: ").encode() + b"\n")

        def done(found: KvHash | None, error: EtcdError | None) -> None:
            if found is not None:
                hashed(found)
            elif error is not None:
                refused(error)

        try:
            steps = begin_hash(server, server.store.hash_kv(revision))
        except RequestTooManyRequests as error:
            answer(429, ERROR, f"{error.message}\n".encode())
            return
        server.slices.run(steps, done, wanted)

    # --- leases ----------------------------------------------------------------------------------------------------

    def _leases(self, request: Request, answer: Answer) -> None:
        if request.method != "POST":
            answer(405, ERROR, b"Method Not Allowed\n")
            return
        if len(request.body) > MAX_LEASE_BODY:
            answer(413, ERROR, b"request body too large\n")
            return
        try:
            if request.path == "/leases":
                self._renew(LeaseKeepAliveRequest.FromString(request.body), answer)
            else:
                self._look_up(LeaseInternalRequest.FromString(request.body), answer)
        except DecodeError:
            answer(400, ERROR, b"error unmarshalling request\n")

    def _renew(self, request: LeaseKeepAliveRequest, answer: Answer) -> None:
        def renewed(ttl: int | None, caught_up: bool) -> None:
            if not caught_up:
                answer(408, ERROR, NOT_CAUGHT_UP)
            elif ttl is None:
                answer(400, ERROR, _NOT_PRIMARY)
            elif not ttl:
                answer(404, ERROR, _NOT_FOUND)
            else:
                answer(200, _PROTOBUF, LeaseKeepAliveResponse(ID=request.ID, TTL=ttl).SerializeToString())

        self._server.leases.renew_here(request.ID, renewed)

    def _look_up(self, request: LeaseInternalRequest, answer: Answer) -> None:
        server = self._server
        if not request.HasField("LeaseTimeToLiveRequest"):
            answer(400, ERROR, b"error unmarshalling request\n")
            return
        wanted = request.LeaseTimeToLiveRequest

        def caught_up(in_time: bool) -> None:
            if not in_time:
                answer(408, ERROR, NOT_CAUGHT_UP)
                return
            found = server.leases.lookup_here(wanted.ID, wanted.keys)
            if found is None:
                answer(404, ERROR, _NOT_FOUND)
            elif not server.leasing.is_primary:
                answer(500, ERROR, _NOT_PRIMARY)
            else:
                found.header.CopyFrom(ResponseHeader())
                answer(200, _PROTOBUF, LeaseInternalResponse(LeaseTimeToLiveResponse=found).SerializeToString())

        server.leases.when_caught_up(caught_up)


def _revision_of(body: bytes) -> int | None:
    """The revision that {"revision": 7} asks about, 0 when it names none; None for what is no such document."""
    try:
        revision = read_object(body).get("revision", 0)
    except ValueError:
        return None
    return revision if type(revision) is int and -1 << 63 <= revision < 1 << 63 else None
