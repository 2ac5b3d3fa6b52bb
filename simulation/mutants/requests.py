"""Mistakes in what requests, leases, watchers and users are answered."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext
from copy import copy
from types import SimpleNamespace
from typing import Any

from ratifyd.apply import entries, kv, leases, requests, txn
from ratifyd.auth.tokens import NoTokens
from ratifyd.lease import LeaseTimer
from ratifyd.mvcc import store, watch
from ratifyd.mvcc.watch import WatchHub
from ratifyd.proto import fast
from ratifyd.proto.lease_pb2 import Lease
from ratifyd.server import proposals
from ratifyd.server.authentication import Authentication
from ratifyd.server.leases import LeaseService
from ratifyd.server.proposals import RequestIds
from simulation.mutants.planting import Patch, mutant

# --- requests --------------------------------------------------------------------------------------------------------


@mutant
def long_waiters_collide(patch: Patch) -> None:
    """Long requests are told apart by their last bytes before the id."""

    def waiter_key(data: bytes) -> bytes:
        key = original(data)
        return data if key is data else key[: key.find(entries._HEADER_TAG) + 4]

    original = entries.waiter_key
    patch(entries, "waiter_key", waiter_key)
    patch(proposals, "waiter_key", waiter_key)


@mutant
def ids_begin_anew(patch: Patch) -> None:
    """Request ids begin anew in each life of a member; those of two members are different."""

    def init(self: Any, member_id: int, unix_ms: int) -> None:
        original(self, member_id, 0)

    original = RequestIds.__init__
    patch(RequestIds, "__init__", init)


@mutant
def txn_lease_unchecked(patch: Patch) -> None:
    """Transactions begin although a lease that they attach keys to does not exist."""

    def check_puts(state: Any, path: Any) -> None:
        any_lease = SimpleNamespace(leases=range(-(1 << 63), 1 << 63))
        original(SimpleNamespace(store=state.store, leases=any_lease), path)

    original: Any = txn._check_puts
    patch(txn, "_check_puts", check_puts)


@mutant
def range_stream_unpinned(patch: Patch) -> None:
    """Compaction removes what a read in slices has yet to come to."""
    patch(store.Store, "_pinned", lambda self, revision: nullcontext())


@mutant
def range_stream_unaware_of_install(patch: Patch) -> None:
    """A read in slices goes on after a snapshot from the leader that is compacted beyond its revision."""

    class Unaware:
        def __init__(self, whole: Any) -> None:
            self.whole = whole

        def __getattr__(self, name: str) -> Any:
            return getattr(self.whole, name)

        def check_revision(self, revision: int) -> None:
            """Nothing is wrong."""

    def range_slices(self: Any, keys: Any, *, revision: int, **rest: Any) -> Generator[list[bytes], None, Any]:
        self.check_revision(revision)
        return (yield from original(Unaware(self), keys, revision=revision, **rest))

    original: Any = store.Store.range_slices
    patch(store.Store, "range_slices", range_slices)


# --- leases ----------------------------------------------------------------------------------------------------------


def _keep_leases(patch: Patch, name: str) -> None:
    """Have a function that changes keys leave them attached to their leases."""

    def change(state: Any, *rest: Any) -> Any:
        held = dict(state.leases._lease_of)
        answer = original(state, *rest)
        for key, lease_id in held.items():
            state.leases.attach(lease_id, key)
        return answer

    original = getattr(kv, name)
    patch(kv, name, change)
    patch(txn, name, change)


@mutant
def put_keeps_lease(patch: Patch) -> None:
    """A key that is put without a lease still ends with the one it had."""
    _keep_leases(patch, "put_plain")


@mutant
def delete_keeps_lease(patch: Patch) -> None:
    """A key that is deleted stays attached to its lease."""
    _keep_leases(patch, "delete_in")


@mutant
def restore_keeps_old_lease(patch: Patch) -> None:
    """After a start a key is attached to the last lease it had, also where it was put without one since."""

    class Keeping(dict[bytes, int]):
        def pop(self, *_: Any) -> Any:
            """Keep it."""

    def restore_rows(index: Any, rows: Any, attachments: dict[bytes, int]) -> None:
        kept = Keeping(attachments)
        original(index, rows, kept)
        attachments.update(kept)

    original = store._restore_rows
    patch(store, "_restore_rows", restore_rows)


@mutant
def checkpoint_not_persisted(patch: Patch) -> None:
    """What was left of a lease is forgotten when a member restarts."""
    patch(leases, "Lease", lambda **fields: Lease(ID=fields["ID"], TTL=fields["TTL"]))


@mutant
def renewal_before_applied(patch: Patch) -> None:
    """Renewals do not wait until the leader has applied what it knows to be committed."""

    def hasty(self: Any) -> Any:
        service = copy(self)
        service._caught_up = lambda then: then(True)
        return service

    renew, renew_here = LeaseService.renew, LeaseService.renew_here
    patch(LeaseService, "renew", lambda self, *rest: renew(hasty(self), *rest))
    patch(LeaseService, "renew_here", lambda self, *rest: renew_here(hasty(self), *rest))


@mutant
def expired_named_once(patch: Patch) -> None:
    """An expired lease whose revoke came to nothing is not revoked again."""

    def expired(self: Any, now: float, *rest: int) -> list[int]:
        found = original(self, now, *rest)
        for lease_id in found:
            self._scheduled[lease_id] = now
        return found

    original = LeaseTimer.expired
    patch(LeaseTimer, "expired", expired)


# --- watchers --------------------------------------------------------------------------------------------------------


@mutant
def audience_ignores_filters(patch: Patch) -> None:
    """Watchers of one range get what the first of them has not filtered out."""

    def kind(watcher: Any, begins: int) -> Any:
        return watcher if watcher.crowd is None else (watcher.crowd, begins, watcher.prev_kv)

    patch(watch, "_kind", kind)


@mutant
def fragment_boundary(patch: Patch) -> None:
    """The event that does not fit into a fragment any more is not in the next one either."""
    follows = False

    def watch_response(*head: Any, fragment: bool = False, **rest: Any) -> bytes:
        nonlocal follows
        response = original(*head[:2], *(events[follows:] for events in head[2:]), fragment=fragment, **rest)
        follows = fragment
        return response

    original = fast.watch_response
    patch(fast, "watch_response", watch_response)


@mutant
def history_limit_splits_revision(patch: Patch) -> None:
    """A pass over history may end within a revision, whose other events are then forgotten."""
    patch(watch, "_end_of_revision", lambda rows, at: min(at, len(rows)))


@mutant
def prev_kv_boundary(patch: Patch) -> None:
    """Watchers do not get the previous value if that is of the compacted revision, which can still be read."""

    def previous(self: Any, change: Any, main: int) -> Any:
        from_history = change[3] is None or change[3][:8] == change[1][:8]
        return None if from_history and main - 1 == self.store.compacted else original(self, change, main)

    original = WatchHub._previous
    patch(WatchHub, "_previous", previous)


# --- users -----------------------------------------------------------------------------------------------------------


@mutant
def password_leaves_tokens(patch: Patch) -> None:
    """Tokens of a user stay good when the password changes."""

    def change(state: Any, request: Any, wanted: bool) -> bytes:
        auth = state.auth
        tokens, auth.tokens = auth.tokens, NoTokens()
        try:
            return row.apply(state, request, wanted)
        finally:
            auth.tokens = tokens

    row = requests.AUTH_USER_CHANGE_PASSWORD
    changed = copy(row)
    changed.apply = change
    patch(requests, "AUTH_USER_CHANGE_PASSWORD", changed)
    patch(requests._BY_NUMBER, row.number, changed)  # type: ignore[arg-type]


@mutant
def token_for_an_old_password(patch: Patch) -> None:
    """A token is given although the password has changed since it was tried."""

    def make_token(self: Any, attempt: Any) -> None:
        unaware = copy(self)
        unaware._auth = SimpleNamespace(revision=attempt.revision)
        original(unaware, attempt)

    original = Authentication._make_token
    patch(Authentication, "_make_token", make_token)
