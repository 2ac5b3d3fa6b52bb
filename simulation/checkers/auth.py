"""Auth guarantees: nobody reads what they may not or is refused what they may; passwords and names are their owners'.

What changes data is refused or not by the model when it executes the log; here is the rest. Rights change with the log,
so an answer is right if it was at some entry that was committed while the request was under way.
"""

from __future__ import annotations

from base64 import b64decode
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import bcrypt

from simulation.authmodel import DENIED, Rights, needs_of
from simulation.checkers import Violation
from simulation.history import Operation, WatchRecord

if TYPE_CHECKING:
    from simulation.world import World

NAME = "auth"
_UNSEEN = ("hashedPassword", "password")


class AuthChecker:
    """Looks at who was let through, and who was not."""

    def __init__(self, world: World) -> None:
        self._model = world.model
        self._committed_at = world.committed_at

    def finish(self, world: World) -> None:
        """Check all requests and watchers."""
        for operation in world.history.operations:
            if operation.kind == "authenticate":
                self._check_password(operation)
            elif operation.kind.startswith("auth_"):
                self._check_change(operation)
            elif operation.kind in ("put", "delete_range", "txn", "range"):
                self._check_request(operation)
                self._check_token(operation)
        for record in world.history.watches:
            self._check_watch(record)

    # --- rights ----------------------------------------------------------------------------------------------------

    def _check_request(self, operation: Operation) -> None:
        if operation.ok and operation.kind == "range":
            needs = needs_of(operation.kind, operation.request)
            first = 0.0 if operation.serializable else operation.start
            self._require_allowed(operation.user, list(needs), first, operation.end, operation)
        elif operation.ok:
            askers = {entry.user for entry in self._model.proposed.get(_place(operation), ())}
            if askers and not askers & {"", operation.user}:
                raise Violation(NAME, f"stands in the log as of {askers}: {operation}")
        elif operation.error == DENIED:
            first = 0.0 if operation.serializable else operation.start
            if all(
                rights.allows(operation.user, needs_of(operation.kind, operation.request))
                for rights in self._between(first, operation.end)
            ) and not (operation.kind in ("put", "txn") and "lease" in str(operation.request)):
                raise Violation(NAME, f"refused what {operation.user!r} may do: {operation}")

    def _check_watch(self, record: WatchRecord) -> None:
        needs = [(record.request.key, record.request.range_end, False)]
        if record.created >= 0:
            self._require_allowed(record.user, needs, 0.0, record.confirmed, record.request)

    def _require_allowed(self, user: str, needs: Any, first: float, last: float, what: object) -> None:
        for rights in self._between(first, last):
            if not rights.enabled or (user and rights.allows(user, needs)):
                return
        raise Violation(NAME, f"{user!r} was let through without the right to it: {what}")

    def _between(self, first: float, last: float) -> Iterable[Rights]:
        """The rights in force at one of the entries that were the last committed one meanwhile, the newest first."""
        seen: Rights | None = None
        for index in range(bisect_right(self._committed_at, last), bisect_right(self._committed_at, first) - 1, -1):
            rights = self._model.applied[index - 1].rights if index else Rights()
            if rights is not seen:
                seen = rights
                yield rights

    def _check_token(self, operation: Operation) -> None:
        """A token is good for nothing once its user is gone or has another password, or auth was off."""
        made = operation.token.rpartition(".")[2]
        if not operation.ok or not made or operation.serializable:
            return
        applied = self._model.applied
        first = bisect_right(self._committed_at, operation.start)
        if not all(rights.enabled for rights in self._between(operation.start, operation.end)):
            return
        for since in applied[int(made) + 1 : first]:
            ended = (
                since.kind in ("auth_user_change_password", "auth_user_delete") and since.request.name == operation.user
            )
            if not since.error and (ended or since.kind == "auth_disable"):
                raise Violation(NAME, f"its token had ended by {since.kind} at {since.at}: {operation}")

    # --- changes ---------------------------------------------------------------------------------------------------

    def _check_change(self, operation: Operation) -> None:
        """What was acknowledged stands in the log, without an error."""
        if not operation.ok:
            return
        first = bisect_right(self._committed_at, operation.start)
        wanted = _shown(operation.request)
        for applied in self._model.applied[first : bisect_right(self._committed_at, operation.end)]:
            if applied.kind == operation.kind and not applied.error and _shown(applied.request) == wanted:
                return
        raise Violation(NAME, f"acknowledged, but not committed: {operation}")

    def _check_password(self, operation: Operation) -> None:
        """Who logs in has given the password that was theirs at some moment of it."""
        if not operation.ok:
            return
        request = operation.request
        first, last = (bisect_right(self._committed_at, moment) for moment in (operation.start, operation.end))
        known = self._model.passwords.get(request.name, [])
        before = [each for each in known if each[0] <= first][-1:]
        password = request.password.encode()
        made = operation.response.token.rpartition(".")[2]
        if made.isdigit():  # what counts is the password in force where the token was made, or one entry before
            last = min(last, int(made) + 1)
            before = [each for each in known if each[0] <= min(int(made), last)][-1:]
            first = int(made)
        for _, hashed in before + [each for each in known if first < each[0] <= last]:
            if hashed and _fits(password, hashed):
                return
        raise Violation(NAME, f"a wrong password was good: {operation}")


@lru_cache(maxsize=1000)
def _fits(password: bytes, hashed: Any) -> bool:
    return bcrypt.checkpw(password, b64decode(hashed))


def _place(operation: Operation) -> tuple[str, bytes]:
    return operation.kind, operation.request.SerializeToString(deterministic=True)


def _shown(request: Any) -> list[tuple[str, object]]:
    """A request without passwords, which are not what was asked once they are in the log."""
    return [(field.name, value) for field, value in request.ListFields() if field.name not in _UNSEEN]
