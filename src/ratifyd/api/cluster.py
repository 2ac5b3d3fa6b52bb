"""Cluster: MemberList."""

from ratifyd.api.calls import Call
from ratifyd.errors import EtcdError
from ratifyd.proto.rpc_pb2 import Member, MemberListRequest, MemberListResponse
from ratifyd.server.server import Server


def member_list(server: Server, call: Call) -> None:
    """Cluster.MemberList: by id; through a linearizable read when asked for."""
    request = MemberListRequest.FromString(call.message)
    if request.linearizable:
        server.read(_answer, call)
    else:
        _answer(call, None)


def _answer(call: Call, error: EtcdError | None) -> None:
    if error is not None:
        call.fail(error)
        return
    server = call.server
    members = [
        Member(
            ID=member.id,
            name=member.name,
            peerURLs=sorted(member.peer_urls),
            clientURLs=member.client_urls,
            isLearner=member.is_learner,
        )
        for member in server.members.sorted()
    ]
    # Headers of this service carry no revision (semantics 1.9).
    header = server.headers.header(0, server.node.raft.term)
    call.reply(header + MemberListResponse(members=members).SerializeToString())
