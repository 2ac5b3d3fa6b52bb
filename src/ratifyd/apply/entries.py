"""`apply_entry`: one committed normal entry, exactly once, through the same gates on every member."""

from collections.abc import Container

from ratifyd.apply.requests import Decoded, Row, cost_bound, decode
from ratifyd.apply.state import State
from ratifyd.errors import Corrupt, EtcdError, NoSpace, RequestError
from ratifyd.proto.rpc_pb2 import CORRUPT, NOSPACE


class Outcome:
    """What an entry came to: the id its proposer waits under, and the answer's body or the error."""

    __slots__ = ("body", "error", "raise_nospace", "request_id", "row")

    def __init__(self, request_id: int, row: Row, body: bytes, error: EtcdError | None, raise_nospace: bool) -> None:
        self.request_id = request_id
        self.row = row
        self.body = body
        self.error = error
        self.raise_nospace = raise_nospace


def apply_entry(
    state: State,
    index: int,
    term: int,
    data: bytes,
    waiting: Container[int] = (),
    decoded: dict[bytes, Decoded] | None = None,
) -> Outcome | None:
    """Execute a committed entry; None when the state already reflects it or it is a leader's empty entry.

    `waiting` holds the request ids somebody on this member waits for, `decoded` requests by entry that need not be
    decoded again. Any exception but RequestError means that the state cannot be computed: the member must stop.
    """
    if index <= state.consistent_index:
        return None
    state.consistent_index = index
    state.term = term
    if not data:
        return None
    known = decoded.pop(data, None) if decoded else None
    request_id, row, request, identity = known or decode(data)
    nospace = False
    try:
        if state.alarms and not row.corrupt_allowed and state.has_alarm(CORRUPT):
            raise Corrupt
        if row.cost is not None and (state.alarms or state.over_quota(cost_bound(data))):
            nospace = _check_space(state, row.cost(request))
        if state.auth.enabled and row.permit is not None:
            row.permit(state, identity, request)
        body = row.apply(state, request, request_id in waiting)
        if nospace:
            # The write happened before the alarm could stop it; its proposer is told all the same (semantics 10.4).
            return Outcome(request_id, row, b"", NoSpace(), True)
        return Outcome(request_id, row, body, None, False)
    except RequestError as error:
        return Outcome(request_id, row, b"", error, False)


def _check_space(state: State, cost: int) -> bool:
    """Refuse growth under NOSPACE; True when this write crosses the quota and must raise the alarm."""
    if not cost:
        return False
    if state.alarms and state.has_alarm(NOSPACE):
        raise NoSpace
    return state.over_quota(cost)
