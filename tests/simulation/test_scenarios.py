"""Every consistency bug of etcd's public history as a script, and rare meetings of faults; and scripts can fail."""

import pytest

from simulation.mutants import planted
from simulation.scenarios import RARE, SCENARIOS, script_of

NOTICED = {
    "13766": "index_in_another_commit",
    "14370": "acknowledge_before_fsync",
    "14571": "snapshot_keeps_rights",
    "15220": "progress_too_early",
    "15271": "watch_back_in_time",
    "17529": "watch_drops_when_full",
    "17780": "revision_lost_by_compaction",
    "18089": "compaction_forgets_tombstones",
    "19179": "compaction_forgets_tombstones",
    "20221": "watch_future_ignored",
    "20418": "trust_the_clock",
    "deposed": "skip_read_index",
    "elected": "read_before_the_term_commits",
    "learner": "learners_are_counted",
    "equal": "request_ids_repeat",
    "removals": "change_members_early",
    "torn": "torn_tail_refused",
    "found": "start_trusts_the_kernel",
    "farewell": "change_members_before_the_log_knows",
    "gone": "removed_members_stay",
    "corrupt": "corruption_goes_unnoticed",
    "checkpoint": "checkpoints_are_lost",
    "renewal": "checkpoint_outlives_renewal",
    "awoken": "leader_trusts_itself_awoken",
    "leaderless": "leaderless_streams_stay",
    "transfer": "expired_named_once",
    "login": "token_for_an_old_password",
    "stream": "range_stream_unpinned",
    "replaced": "range_stream_unaware_of_install",
    "departed": "removed_leader_reads_alone",
    "another": "no_pending_change_in_office",
    "token": "installed_auth_leaves_tokens",
    "right": "installed_grants_cached",
    "behind": "unapplied_survive_a_snapshot",
    "joining": "snapshot_names_members_of_now",
    "restarted": "installed_conf_state_forgotten",
}
"""Scenarios by the first word of their name, and a mutant that has the bug."""


@pytest.mark.parametrize("word", [name.split()[0] for name in SCENARIOS | RARE])
def test_the_bug_is_not_here(word: str) -> None:
    script_of(word)()


@pytest.mark.parametrize("word", NOTICED)
def test_the_script_notices_the_bug(word: str) -> None:
    script = script_of(word)
    with planted(NOTICED[word]), pytest.raises(Exception):  # noqa: B017 whatever it is, it must not pass
        script()
