"""Where the time of slow requests went, in etcd's trace lines: its words, fields and threshold, the steps that are told
apart here.

A member that is overloaded answers everything slowly: so that writing lines does not make it worse, there is a limit.
"""

import logging
from collections.abc import Callable, Sequence

from ratifyd.config.values import show_duration
from ratifyd.logs import timestamp

SLOW_S = 0.1
"""What takes longer is traced (etcd traceThreshold)."""
LINES_PER_TICK = 10
_NUMBERS = (1 << 31) - 1
_STRIDE = 1_327_217_885
"""Odd, so that every number has its turn; large, so that neighbours differ to the eye."""

Details = Sequence[tuple[str, object]]
Steps = Sequence[tuple[str, float]]
"""What was done, and when it was."""

log = logging.getLogger("ratifyd.server")


class Traces:
    """Writes trace lines, as many as may be between two ticks."""

    __slots__ = ("_left", "_number", "_wall")

    def __init__(self, wall: Callable[[], float], seed: int) -> None:
        """`seed` is where the numbers begin, which are only there to tell traces apart."""
        self._wall = wall
        self._number = seed
        self._left = LINES_PER_TICK

    def ticked(self) -> None:
        """A tick has passed."""
        self._left = LINES_PER_TICK

    @property
    def wanted(self) -> bool:
        """Whether another line may be written now."""
        return self._left > 0 and log.isEnabledFor(logging.INFO)

    def write(
        self, operation: str, details: Details, began: float, now: float, steps: Steps, *, all_steps: bool = False
    ) -> None:
        """Write the trace of what began and has just ended; its quick steps are left out unless all are wanted."""
        if not self.wanted:
            return
        self._left -= 1
        self._number = (self._number + _STRIDE) & _NUMBERS
        name = f"trace[{self._number}]"
        least_s = 0.0 if all_steps else SLOW_S / (len(steps) + 1)
        since = began
        shown: list[str] = []
        for what, when in steps:
            if when - since > least_s:
                shown.append(f"{name} '{what}'  (duration: {show_duration(when - since)})")
            since = when
        ended = self._wall()
        fields = {
            "detail": _text(details),
            "duration": show_duration(now - began),
            "start": timestamp(ended - (now - began)),
            "end": timestamp(ended),
            "steps": shown,
            "step_count": len(shown),
        }
        log.info(f"{name} {operation}", extra={"fields": fields})

    def reads(self, began: float, confirmed: float, now: float, index: int, applied: int) -> None:
        """Trace a batch of linearizable reads that waited long; `applied` as it was when `index` was confirmed."""
        if now - began > SLOW_S:
            details = (("readStateIndex", index), ("appliedIndex", applied))
            steps = (("read index received", confirmed), ("applied index is now lower than readState.Index", now))
            self.write("linearizableReadLoop", details, began, now, steps, all_steps=True)


def _text(details: Details) -> str:
    return "{" + "".join(f"{name}:{_value(value)}; " for name, value in details) + "}" if details else ""


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).lower() if isinstance(value, bool) else str(value)
