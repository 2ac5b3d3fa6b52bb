"""Every consistency bug of etcd's public history as a script; and each script can fail."""

from collections.abc import Callable

import pytest

from simulation.mutants import planted
from simulation.scenarios import SCENARIOS

NOTICED = {
    "13766": "index_in_another_commit",
    "14370": "acknowledge_before_fsync",
    "15220": "progress_too_early",
    "15271": "watch_back_in_time",
    "17529": "watch_drops_when_full",
    "17780": "revision_lost_by_compaction",
    "18089": "compaction_forgets_tombstones",
    "19179": "compaction_forgets_tombstones",
    "20221": "watch_future_ignored",
    "20418": "trust_the_clock",
}
"""Scenarios by number, and a mutant that has the bug."""


@pytest.mark.parametrize("script", SCENARIOS.values(), ids=[name.partition(" ")[0] for name in SCENARIOS])
def test_the_bug_is_not_here(script: Callable[[], None]) -> None:
    script()


@pytest.mark.parametrize("number", NOTICED)
def test_the_script_notices_the_bug(number: str) -> None:
    script = next(script for name, script in SCENARIOS.items() if name.startswith(number))
    with planted(NOTICED[number]), pytest.raises(Exception):  # noqa: B017 whatever it is, it must not pass
        script()
