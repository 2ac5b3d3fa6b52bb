"""Cluster: MemberList, MemberAdd, MemberRemove, MemberUpdate, MemberPromote (semantics §15)."""

from collections.abc import Iterable

from ratifyd.api.calls import Call
from ratifyd.api.identity import identity_of, present_identity, require_admin, token_of
from ratifyd.config.values import parse_url
from ratifyd.errors import EtcdError, MemberBadURLs
from ratifyd.membership import Member
from ratifyd.proto import rpc_pb2
from ratifyd.proto.rpc_pb2 import (
    MemberAddRequest,
    MemberAddResponse,
    MemberListRequest,
    MemberListResponse,
    MemberPromoteRequest,
    MemberPromoteResponse,
    MemberRemoveRequest,
    MemberRemoveResponse,
    MemberUpdateRequest,
    MemberUpdateResponse,
)
from ratifyd.server.server import Server

Response = MemberAddResponse | MemberListResponse | MemberPromoteResponse | MemberRemoveResponse | MemberUpdateResponse


def member_list(server: Server, call: Call) -> None:
    """Cluster.MemberList: by id; through a linearizable read when asked for."""
    request = MemberListRequest.FromString(call.message)
    if request.linearizable:
        server.read(_answer_list, call)
    else:
        if server.auth.enabled:
            identity_of(server, call.head)
        _answer_list(call, None)


def member_add(server: Server, call: Call) -> None:
    """Cluster.MemberAdd. Raises MemberBadURLs and what the checks before the log raise."""
    request = MemberAddRequest.FromString(call.message)
    urls = _peer_urls(request.peerURLs)
    require_admin(server, call.head)
    response = MemberAddResponse()

    def done(error: EtcdError | None) -> None:
        _answer(call, response, error)

    member = server.changes.add(
        urls, learner=request.isLearner, done=done, timeout_s=call.head.timeout_s, wanted=call.is_open
    )
    response.member.CopyFrom(_encode(member))


def member_remove(server: Server, call: Call) -> None:
    """Cluster.MemberRemove."""
    request = MemberRemoveRequest.FromString(call.message)
    require_admin(server, call.head)

    def done(error: EtcdError | None) -> None:
        _answer(call, MemberRemoveResponse(), error)

    server.changes.remove(request.ID, done=done, timeout_s=call.head.timeout_s, wanted=call.is_open)


def member_update(server: Server, call: Call) -> None:
    """Cluster.MemberUpdate. Raises MemberBadURLs: etcd would take no URLs at all, and die of it (semantics 15.9)."""
    request = MemberUpdateRequest.FromString(call.message)
    urls = _peer_urls(request.peerURLs)
    require_admin(server, call.head)

    def done(error: EtcdError | None) -> None:
        _answer(call, MemberUpdateResponse(), error)

    server.changes.update(request.ID, urls, done=done, timeout_s=call.head.timeout_s, wanted=call.is_open)


def member_promote(server: Server, call: Call) -> None:
    """Cluster.MemberPromote: passed on to the leader."""
    request = MemberPromoteRequest.FromString(call.message)
    require_admin(server, call.head)
    metrics = server.metrics

    def done(error: EtcdError | None) -> None:
        if error is None:
            metrics.learner_promote_successes += 1
        elif server.is_leader:
            metrics.learner_promote_failures[(error.message,)] += 1
        _answer(call, MemberPromoteResponse(), error)

    try:
        token = (token_of(call.head) or b"").decode("latin-1")
        server.changes.promote(request.ID, done=done, timeout_s=call.head.timeout_s, token=token, wanted=call.is_open)
    except EtcdError as error:
        done(error)


def _answer_list(call: Call, error: EtcdError | None) -> None:
    server = call.server
    if error is None and server.auth.enabled:
        try:
            server.auth.check_user(present_identity(server, token_of(call.head)))
        except EtcdError as refused:
            error = refused
    _answer(call, MemberListResponse(), error)


def _answer(call: Call, response: Response, error: EtcdError | None) -> None:
    if error is not None:
        call.fail(error)
        return
    server = call.server
    response.members.extend(_encode(member) for member in server.members.sorted())
    # Headers of this service carry no revision (semantics 1.9).
    call.reply(server.headers.header(0, server.node.raft.term) + response.SerializeToString())


def _encode(member: Member) -> rpc_pb2.Member:
    return rpc_pb2.Member(
        ID=member.id,
        name=member.name,
        peerURLs=sorted(member.peer_urls),
        clientURLs=member.client_urls,
        isLearner=member.is_learner,
    )


def _peer_urls(urls: Iterable[str]) -> list[str]:
    """At least one URL, all sound, sorted. Raises MemberBadURLs."""
    found = sorted(url.strip() for url in urls)
    try:
        for url in found:
            parse_url(url)
    except ValueError:
        raise MemberBadURLs from None
    if not found:
        raise MemberBadURLs
    return found
