"""What a target is: a function that takes bytes, and everything the engine must know about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fuzzing.mutate import Shape, plain

Run = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """One entry for bytes from outside.

    `start` gives the function; one that keeps state is started anew after `batch` inputs, and `Ending` ends are called
    then. `errors` are what the documentation allows it to raise. `sample` inputs run among the tests.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    start: Callable[[], Run]
    errors: tuple[type[Exception], ...] = ()
    shapes: tuple[Shape, ...] = (plain,)
    batch: int = 1000
    keeps_state: bool = False
    sample: int = 2000
    cpu_s: float = 1.0
    """Longest time for one input."""
    memory_bytes: int = 32 << 20
    """Most memory for one input, besides 200 times its length."""
