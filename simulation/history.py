"""What clients saw: operations with their answers, watchers with their events."""

from dataclasses import dataclass, field
from typing import Any

from ratifyd.errors import Code
from simulation.connection import LOST

_UNSURE = (LOST, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED)
"""Statuses after which a write may or may not take place."""
NO_SPACE = "etcdserver: mvcc: database space exceeded"
TABLED = ("put", "range", "delete_range", "txn", "lease_grant", "lease_revoke", "compaction")
"""What the linearizability of KV is about; users and locks have checkers of their own."""


@dataclass(slots=True, eq=False)
class Operation:
    """One call of a client; `end` is infinite until it is answered."""

    client: str
    kind: str
    request: Any
    start: float
    member: int
    end: float = float("inf")
    status: int | None = None
    error: str = ""
    response: Any = None
    user: str = ""
    """Whose token was shown; empty when none was."""
    token: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def unsure(self) -> bool:
        """Whether it may have happened, or may yet, although it was not answered so."""
        return self.status is None or self.status in _UNSURE or self.error == NO_SPACE

    @property
    def serializable(self) -> bool:
        return self.kind == "range" and bool(self.request.serializable)

    def __str__(self) -> str:
        request = str(self.request).replace("\n", " ")
        if self.ok:
            answer = str(self.response).replace("\n", " ")
        else:
            answer = "unanswered" if self.status is None else f"error {self.status} {self.error!r}"
        return f"[{self.start:.4f} {self.end:.4f}] {self.client} m{self.member} {self.kind} {request} => {answer}"


@dataclass(slots=True, eq=False)
class WatchRecord:
    """One watcher on one stream, from its creation to the stream's end; `items` in the order they came.

    Items: ("events", header revision, [Event]), ("progress", revision, []), ("canceled", compact revision, []).
    """

    client: str
    member: int
    request: Any
    created: int = -1
    """Revision of the header that confirmed it; -1 until then."""
    items: list[tuple[str, int, list[Any]]] = field(default_factory=list)
    floors: dict[int, int] = field(default_factory=dict)
    """How far the history was compacted, at most, when the item of a number came."""
    begun: list[Any] = field(default_factory=list)
    """Events of a response of which fragments are to follow."""
    live: bool = True
    user: str = ""
    confirmed: float = 0.0
    refusal: str = ""
    """Why it was not created."""


@dataclass(slots=True, eq=False)
class Renewal:
    """A lease that was promised to live on: asked for at `sent`, answered at `answered`."""

    lease: int
    ttl_s: int
    sent: float
    answered: float


@dataclass(slots=True, eq=False)
class Hold:
    """A lock that a client was told to hold from `answered` on."""

    client: str
    name: bytes
    key: bytes
    revision: int
    answered: float


@dataclass(slots=True)
class History:
    """Everything clients saw in a run."""

    operations: list[Operation] = field(default_factory=list)
    watches: list[WatchRecord] = field(default_factory=list)
    renewals: list[Renewal] = field(default_factory=list)
    gone: list[Renewal] = field(default_factory=list)
    """Renewals whose answer was that there is no such lease."""
    revoked: set[int] = field(default_factory=set)
    """Leases some client asked to revoke."""
    compactions: set[int] = field(default_factory=set)
    """Revisions that an administrator asked to compact."""
    holds: list[Hold] = field(default_factory=list)
