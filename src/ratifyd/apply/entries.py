"""`apply_entry`: one committed normal entry, exactly once, through the same gates on every member."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ratifyd.apply.requests import UNREADABLE, Row, cost_bound, decode
from ratifyd.apply.state import State
from ratifyd.auth.identity import ANONYMOUS, Identity
from ratifyd.errors import Corrupt, EtcdError, NoSpace, RequestError
from ratifyd.proto.rpc_pb2 import CORRUPT, NOSPACE

Answer = Callable[[bytes, EtcdError | None], None]
"""Receives a response body (after the header) or the error, exactly once."""
Waiter = tuple[Answer, float, int, Row, Any, Identity]
"""Whoever waits for an entry: where the answer goes, until when (clock time), and what `decode` would find in it.

Where the request is None that is not at hand, and the entry is decoded when it is applied.
"""
Waiters = dict[bytes, Waiter]
"""By the bytes of the entry, which hold a request id and so are its own; by `waiter_key` of those."""

LONG_ENTRY_BYTES = 2048
"""Above this, finding the id in an entry takes less than hashing it all, which for 64 KiB costs as much as a put."""
_TAIL_BYTES = 14
_HEADER_TAG = b"\xa2\x06"
_LAST_TAG_AT = 4
"""Where the tag may be in the tail, for ids of at least six bytes."""


def waiter_key(data: bytes) -> bytes:
    """What tells a long entry from all others: its end if that is a request header with nothing but an id, else all.

    Behind the requests with one-byte tags the header comes last. In what could be taken for an id all bytes but the
    last go on, so it is one: behind a user name stand the tag and number of a revision.
    """
    tail = data[-_TAIL_BYTES:]
    at = tail.find(_HEADER_TAG)
    header_last = data[0] & 0x87 == 2 and 0 <= at <= _LAST_TAG_AT and tail[at + 2] == _TAIL_BYTES - at - 3
    return tail if header_last and tail[at + 3] == 0x08 and min(tail[at + 4 : -1]) > 0x7F else data


def waiter_of(answer: Answer, deadline: float) -> Waiter:
    """Whoever waits for an entry that has yet to be decoded."""
    return answer, deadline, 0, UNREADABLE, None, ANONYMOUS


class Outcome(NamedTuple):
    """What an entry came to: the answer's body or the error, and who waits for it, if anybody does."""

    request_id: int
    row: Row
    answer: Answer | None
    body: bytes
    error: EtcdError | None
    raise_nospace: bool


_outcome = tuple.__new__
"""Makes an Outcome of a tuple, in a third of the time."""


def apply_entry(state: State, index: int, term: int, data: bytes, waiters: Waiters) -> Outcome | None:
    """Execute a committed entry; None when the state already reflects it or it is a leader's empty entry.

    Its waiter is taken out of `waiters`. Any exception but RequestError means that the state cannot be computed: the
    member must stop.
    """
    if index <= state.consistent_index:
        return None
    state.consistent_index = index
    state.term = term
    if not data:
        return None
    waiter = waiters.pop(data if len(data) <= LONG_ENTRY_BYTES else waiter_key(data), None)
    answer: Answer | None = None
    if waiter is not None:
        answer, _, request_id, row, request, identity = waiter
    if waiter is None or request is None:
        request_id, row, request, identity = decode(data)
    nospace = False
    try:
        if state.alarms or state.auth.enabled:
            admit(state, row, request, identity)
        if row.cost is not None and len(data) >= state.room and state.over_quota(cost_bound(data)):
            cost = row.cost(request)
            nospace = cost > 0 and state.over_quota(cost)
        body = row.apply(state, request, answer is not None)
        if nospace:
            # The write happened before the alarm could stop it; its proposer is told all the same (semantics 10.4).
            return Outcome(request_id, row, answer, b"", NoSpace(), True)
        return _outcome(Outcome, (request_id, row, answer, body, None, False))
    except RequestError as error:
        return Outcome(request_id, row, answer, b"", error, False)


def admit(state: State, row: Row, request: Any, identity: Identity) -> None:
    """Refuse what an alarm forbids, then what `identity` may not do. Raises Corrupt, NoSpace, what `permit` raises."""
    if not row.corrupt_allowed and state.has_alarm(CORRUPT):
        raise Corrupt
    if row.cost is not None and state.has_alarm(NOSPACE) and row.cost(request):
        raise NoSpace
    if state.auth.enabled and row.permit is not None:
        row.permit(state, identity, request)
