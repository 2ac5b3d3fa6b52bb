"""Log entries with any content: what a leader replicates must have the same effect on every member, and kill none."""

from fuzzing.mutate import plain, protobuf
from fuzzing.target import Target
from fuzzing.targets import samples
from ratifyd.apply.entries import Outcome, apply_entry, waiter_of
from ratifyd.apply.requests import UnknownRequest
from ratifyd.apply.state import State
from ratifyd.errors import EtcdError
from ratifyd.membership import Membership
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.worker import SoonWorker


def backend_in_memory() -> MemoryBackend:
    """A backend whose commits are done when they are asked for."""
    return MemoryBackend(SoonWorker(lambda callback, *args: callback(*args)))


def _state(backend: MemoryBackend) -> State:
    state = State(backend, Membership(1, 1), min_ttl_s=2)
    for _ in state.restore():
        pass
    return state


def _content(state: State) -> object:
    return (
        state.store.revision,
        state.store.compacted,
        sorted(state.alarms),
        {lease: state.leases.leases[lease].ttl_s for lease in state.leases.leases},
        state.members.sorted(),
        state.members.cluster_version,
        state.members.downgrade_target,
        state.auth.enabled,
        state.auth.revision,
        sorted(state.auth.users),
        sorted(state.auth.roles),
    )


class _Pair:
    """A member that proposed everything and one that only follows: equal states, equal outcomes, never a surprise.

    Both begin anew from their backends now and then, as members do.
    """

    def __init__(self) -> None:
        self._backends = [backend_in_memory(), backend_in_memory()]
        self._states = [_state(backend) for backend in self._backends]
        self._index = 0

    def __call__(self, data: bytes) -> None:
        self._index += 1
        outcomes = [self._apply(number, data) for number in (0, 1)]
        assert outcomes[0] == outcomes[1], f"members differ: {outcomes}"
        if isinstance(outcomes[0], UnknownRequest):
            raise outcomes[0]

    def _apply(self, number: int, data: bytes) -> object:
        state = self._states[number]
        answers: list[tuple[bytes, EtcdError | None]] = []

        def answer(body: bytes, error: EtcdError | None) -> None:
            answers.append((body, error))

        try:
            found = apply_entry(
                state, self._index, 2, data, {data: waiter_of(answer, 0.0)} if number == 0 and data else {}
            )
        except UnknownRequest:
            return UnknownRequest
        if found is None:
            return None
        assert isinstance(found, Outcome)
        state.warnings.clear()
        return found.row.field, type(found.error), found.raise_nospace

    def finish(self) -> None:
        """Equal content, sound stores, and the same after a restart."""
        for state in self._states:
            state.store.check()
            state.leases.check()
        assert _content(self._states[0]) == _content(self._states[1])
        state = self._states[0]
        before = _content(state)
        assert state.seal(lambda error: None)
        fresh = _state(self._backends[0])
        fresh.store.check()
        assert _content(fresh) == before, "a restart changes the state"


TARGETS = (
    Target(
        "apply",
        samples.entries,
        _Pair,
        (UnknownRequest,),
        (plain, protobuf, protobuf, protobuf),
        batch=200,
        keeps_state=True,
        sample=1500,
    ),
)
