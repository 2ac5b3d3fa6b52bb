"""Lock: Lock and Unlock (semantics 16.3, 16.4)."""

from ratifyd.api import kv
from ratifyd.api.calls import Call
from ratifyd.api.candidacy import Candidacy, relay
from ratifyd.errors import SessionExpired
from ratifyd.proto.lock_pb2 import LockRequest, LockResponse, UnlockRequest, UnlockResponse
from ratifyd.proto.rpc_pb2 import DeleteRangeRequest, DeleteRangeResponse, RangeRequest, RangeResponse
from ratifyd.server.server import Server


def lock(server: Server, call: Call) -> None:
    """Lock.Lock: answers when the client's key is the oldest; a lease that holds the lock gets it again at once."""
    request = LockRequest.FromString(call.message)
    Candidacy(call, request.name, request.lease, None, _won)


def unlock(server: Server, call: Call) -> None:
    """Lock.Unlock: deletes the key, whoever asks, and is content if there is none."""
    request = UnlockRequest.FromString(call.message)

    def deleted(body: bytes) -> None:
        call.reply(UnlockResponse(header=DeleteRangeResponse.FromString(body).header).SerializeToString())

    relay(call, kv.delete_range, DeleteRangeRequest(key=request.key), deleted)


def _won(candidacy: Candidacy) -> None:
    call, key = candidacy.call, candidacy.key
    if not candidacy.waited:
        call.reply(LockResponse(header=candidacy.entry.header, key=key).SerializeToString())
        return

    def read(body: bytes) -> None:
        response = RangeResponse.FromString(body)
        if response.kvs:
            call.reply(LockResponse(header=response.header, key=key).SerializeToString())
        else:
            call.fail(SessionExpired())

    relay(call, kv.range_, RangeRequest(key=key), read)  # the lease may have ended while we waited
