"""Strict serializability of the KV API, with etcd's revisions as the witness.

The committed log says what each revision is; every answer must be the model's at the revision it carries, every write
must stand in the log once if it was acknowledged and never if it was refused, and revisions must respect real time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ratifyd.proto.rpc_pb2 import LeaseGrantRequest
from simulation import authmodel
from simulation import model as texts
from simulation.checkers import Violation
from simulation.history import TABLED, Operation
from simulation.model import Applied, Model

if TYPE_CHECKING:
    from simulation.world import World

NAME = "linearizability"
_IN_LOG = ("put", "delete_range", "txn", "lease_grant", "lease_revoke", "compaction")
_EXPECTED_ERRORS = {
    texts.NO_LEASE,
    texts.LEASE_EXISTS,
    texts.NO_SPACE,
    texts.NO_KEY,
    "etcdserver: too many requests",
    "etcdserver: rpc not supported for learner",
    authmodel.NO_USER,
    authmodel.OLD_REVISION,
    authmodel.DENIED,
    authmodel.BAD_TOKEN,
}


class LinearizabilityChecker:
    """Checks all operations of a run."""

    def __init__(self, model: Model, operations: list[Operation]) -> None:
        self._model = model
        self._operations = operations
        self._writer: dict[int, Operation] = {}
        """Which operation made a revision."""
        self._place: dict[Operation, int] = {}
        """The revision at which an operation took place."""

    def finish(self, world: World) -> None:
        """Check the history."""
        self.check()

    def check(self) -> None:
        """Check the history."""
        for operation in self._operations:
            if operation.kind not in TABLED:
                continue
            if operation.kind in _IN_LOG:
                self._check_in_log(operation)
            if operation.ok:
                self._check_answer(operation)
            elif not operation.unsure:
                self._check_error(operation)
        self._check_real_time()

    # --- each operation --------------------------------------------------------------------------------------------

    def _entries(self, operation: Operation) -> list[Applied]:
        request = operation.request
        if operation.kind == "lease_grant" and operation.ok and not request.ID:  # the server has chosen one
            request = LeaseGrantRequest(ID=operation.response.ID, TTL=request.TTL)
        encoded = request.SerializeToString(deterministic=True)
        return self._model.proposed.get((operation.kind, encoded), [])

    def _check_in_log(self, operation: Operation) -> None:
        """Requests that carry a value of their own stand in the log at most once; refused ones without effect."""
        if not _is_unique(operation):
            return
        entries = self._entries(operation)
        if len(entries) > 1:
            raise Violation(NAME, f"committed {len(entries)} times: {operation}")
        if not entries:
            return
        (entry,) = entries
        if operation.ok or operation.unsure:
            if entry.revision in self._model.writes and self._model.writes[entry.revision] is entry:
                self._claim(operation, entry.revision)
        elif not entry.error:
            raise Violation(NAME, f"refused, but it took place at revision {entry.revision}: {operation}")

    def _check_answer(self, operation: Operation) -> None:
        kind, response = operation.kind, operation.response
        revision = response.header.revision
        if revision > self._model.revision:
            raise Violation(NAME, f"answered at revision {revision}, which does not exist: {operation}")
        if kind in ("put", "delete_range", "txn") and _changed(response):
            write = self._model.writes.get(revision)
            if write is None or write.kind != kind or write.request != operation.request:
                raise Violation(NAME, f"acknowledged, but revision {revision} is {write}: {operation}")
            self._compare(operation, write.response)
            self._claim(operation, revision)
        elif kind in ("range", "delete_range", "txn"):
            expected = self._model.answer_at(kind, operation.request, revision)
            if expected is None:
                raise Violation(NAME, f"answered as if nothing was to change at revision {revision}: {operation}")
            self._compare(operation, expected)
            self._place[operation] = revision
        else:
            if kind == "lease_grant" and not self._entries(operation):
                raise Violation(NAME, f"acknowledged, but not committed: {operation}")
            if kind == "compaction" and not self._entries(operation):
                raise Violation(NAME, f"acknowledged, but not committed: {operation}")
            self._place.setdefault(operation, revision)

    def _compare(self, operation: Operation, expected: Any) -> None:
        found = type(operation.response)()
        found.CopyFrom(operation.response)
        _strip(found)
        _strip(expected)
        if found != expected:
            text = str(expected).replace("\n", " ")
            raise Violation(NAME, f"wrong answer, expected {text}: {operation}")

    def _check_error(self, operation: Operation) -> None:
        request, error = operation.request, operation.error
        asked = request.revision if operation.kind in ("range", "compaction") else 0
        if error == texts.COMPACTED:
            least = asked + (operation.kind == "range")
            if operation.kind != "txn" and max(self._model.compactions, default=-1) < least:
                raise Violation(NAME, f"nothing was compacted so far: {operation}")
        elif error == texts.FUTURE:
            return
        elif error == texts.LEASE_EXISTS and not request.ID:
            raise Violation(NAME, f"the server has chosen an id that is taken: {operation}")
        elif error not in _EXPECTED_ERRORS:
            raise Violation(NAME, f"unexpected error: {operation}")

    def _claim(self, operation: Operation, revision: int) -> None:
        other = self._writer.setdefault(revision, operation)
        if other is not operation:
            raise Violation(NAME, f"revision {revision} was given to two writes: {other} and {operation}")
        self._place[operation] = revision

    # --- all together ----------------------------------------------------------------------------------------------

    def _check_real_time(self) -> None:
        """Revisions never go back from an operation that has ended to one that begins later."""
        moments: list[tuple[float, int, int, Operation]] = []
        for number, operation in enumerate(self._operations):
            if operation.serializable:
                self._check_not_early(operation)
            elif operation in self._place:
                moments.append((operation.start, 1, number, operation))
                if operation.ok:
                    moments.append((operation.end, 0, number, operation))
                    self._check_not_early(operation)
            elif operation.error == texts.FUTURE and operation.kind == "range":
                moments.append((operation.start, 1, number, operation))
        moments.sort(key=lambda moment: moment[:3])
        floor, last = 0, ""
        for _, begins, _, operation in moments:
            if not begins:
                if self._place[operation] > floor:
                    floor, last = self._place[operation], str(operation)
                continue
            if operation not in self._place:
                if operation.request.revision <= floor:
                    raise Violation(NAME, f"a revision that had been seen is called future: {operation} after {last}")
                continue
            place = self._place[operation]
            is_write = self._writer.get(place) is operation
            if place < floor or (is_write and place == floor):
                text = f"took place at revision {place}, but {floor} had been seen before: {operation} after {last}"
                raise Violation(NAME, text)

    def _check_not_early(self, operation: Operation) -> None:
        """Nobody sees a write before it is asked for."""
        if not operation.ok or operation.kind not in ("put", "range", "delete_range", "txn"):
            return
        writer = self._writer.get(operation.response.header.revision)
        if writer is not None and writer.start > operation.end:
            raise Violation(NAME, f"answered from the future, {writer}: {operation}")


def _is_unique(operation: Operation) -> bool:
    request = operation.request
    if operation.kind in ("put", "lease_grant"):
        return True
    if operation.kind != "txn":
        return False
    return all(any(op.HasField("request_put") for op in branch) for branch in (request.success, request.failure))


def _changed(response: Any) -> bool:
    if hasattr(response, "responses"):
        return any(
            each.HasField("response_put")
            or (each.HasField("response_delete_range") and each.response_delete_range.deleted)
            for each in response.responses
        )
    return getattr(response, "deleted", 1) > 0


def _strip(response: Any) -> None:
    """Leave out headers: their revision is checked on its own, term and member depend on who answers."""
    response.ClearField("header")
    if hasattr(response, "responses"):
        for each in response.responses:
            kind = each.WhichOneof("response")
            if kind is not None:
                getattr(each, kind).ClearField("header")
