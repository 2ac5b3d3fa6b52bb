"""How each planted bug is caught, as it was found out: what `--mutants` and the tests repeat.

The seeds, from 1 on, are a few times as many as it took: any change of server or simulation gives them another course.
"""

from typing import NamedTuple


class Way(NamedTuple):
    """Seeds that are enough, with these settings; or a scenario."""

    seeds: int = 0
    settings: tuple[str, ...] = ()
    scenario: str = ""


_ELECTIONS = (
    "members=3",
    "pre_vote=False",
    "election_ticks=3",
    "fault_interval_s=0.5",
    "delay_max_s=0.05",
    "watchers=0",
    "keepers=0",
    "duration_s=20",
)
_SLOW_SYNCS = ("in_place=0.0", "sync_s=0.02", "clients=1", "faults=contend,crash_in_election")
_DEPOSED = (
    "members=3",
    "faults=depose",
    "fault_interval_s=1.0",
    "watchers=0",
    "keepers=0",
    "duration_s=12",
    "think_s=0.03",
)
_STARTS = ("members=3", "start_crashes=0.5", "faults=kill", "fault_interval_s=0.7", "duration_s=10")
_USERS = ("members=3", "users=True", "faults=move_leader,kill", "duration_s=15", "think_s=0.03", "quota_bytes=0")
_DISKS = (
    "sync_s=0.02",
    "in_place=0.0",
    "snapshot_count=10000",
    "commit_s=0.05",
    "clients=5",
    "think_s=0.03",
    "watchers=0",
    "keepers=0",
    "duration_s=15",
)
_IMAGES = (
    "members=3",
    "duration_s=20",
    "snapshot_count=10",
    "catchup_entries=2",
    "release_s=0.0",
    "image_s=0.1",
    "restore_s=0.05",
    "quota_bytes=0",
    "delay_max_s=0.005",
    "watchers=0",
    "keepers=0",
    "lockers=0",
    "think_s=0.03",
)
_WIDE = ("members=1", "faults=", "duration_s=8", "wide=True", "short_history=False")
_WATCHED = (*_WIDE, "watchers=5", "keepers=0")

RECORD: dict[str, Way] = {
    "skip_fsync": Way(8),
    "acknowledge_before_fsync": Way(8, ("members=1", "faults=power_loss", "fault_interval_s=0.7", *_DISKS)),
    "vote_not_persisted": Way(8, (*_ELECTIONS, "clients=1", "faults=contend,crash_in_election")),
    "term_not_persisted": Way(8, (*_ELECTIONS, *_SLOW_SYNCS)),
    "torn_tail_accepted": Way(scenario="torn"),
    "torn_tail_refused": Way(scenario="torn"),
    "log_made_in_place": Way(
        24, ("members=3", "start_crashes=0.9", "faults=kill", "fault_interval_s=0.5", "duration_s=6")
    ),
    "start_trusts_the_kernel": Way(scenario="found"),
    "image_not_synced": Way(16, (*_IMAGES, "faults=crash_in_install", "fault_interval_s=1.0")),
    "pieces_of_images_stay": Way(16, (*_IMAGES, "faults=crash_in_install", "fault_interval_s=1.0")),
    "unwanted_images_stay": Way(
        24, (*_IMAGES, "faults=partition,contend,pause", "fault_interval_s=0.5", "image_s=0.3")
    ),
    "end_of_log_written_again": Way(8, _STARTS),
    "damage_taken_for_torn": Way(
        8,
        (
            "members=3",
            "faults=bit_flip",
            "fault_interval_s=0.5",
            "segment_bytes=2048",
            "snapshot_count=10000",
            "clients=5",
            "think_s=0.03",
            "watchers=0",
            "keepers=0",
            "duration_s=15",
        ),
    ),
    "snapshot_ahead_of_backend": Way(
        8,
        (
            "members=3",
            "faults=power_loss,blackout",
            "fault_interval_s=0.5",
            "snapshot_count=10",
            "catchup_entries=2",
            "release_s=0.0",
            "commit_interval_s=1.0",
            "commit_limit=10000",
            "think_s=0.03",
            "watchers=0",
            "keepers=0",
            "duration_s=15",
        ),
    ),
    "snapshot_file_not_synced": Way(8),
    "segments_released_too_early": Way(
        8,
        (
            "members=1",
            "faults=crash_in_disk_job",
            "fault_interval_s=0.5",
            "segment_bytes=2048",
            "snapshot_count=30",
            "commit_s=0.1",
            "sync_s=0.001",
            "clients=5",
            "think_s=0.02",
            "watchers=0",
            "keepers=0",
            "duration_s=15",
        ),
    ),
    "forget_consistent_index": Way(8),
    "index_ahead_of_data": Way(8),
    "index_in_another_commit": Way(
        8, ("members=1", "faults=crash_in_disk_job,kill", "fault_interval_s=0.5", "commit_interval_s=0.02", *_DISKS)
    ),
    "replay_from_snapshot": Way(8),
    "apply_twice": Way(8),
    "snapshot_keeps_leases": Way(8),
    "revision_lost_by_compaction": Way(scenario="17780"),
    "commit_without_quorum": Way(8, _DEPOSED),
    "count_own_copy_early": Way(8, ("members=1", "faults=power_loss", "fault_interval_s=0.5", *_DISKS)),
    "vote_twice": Way(24, (*_ELECTIONS, "clients=1", "faults=contend")),
    "vote_for_a_shorter_log": Way(
        8,
        (
            "members=3",
            "faults=one_way,contend,partition",
            "fault_interval_s=0.5",
            "watchers=0",
            "keepers=0",
            "duration_s=12",
            "think_s=0.03",
            "pre_vote=False",
        ),
    ),
    "append_without_a_check": Way(24, _DEPOSED),
    "keep_conflicting_entries": Way(8, _DEPOSED),
    "answer_before_append": Way(8, (*_ELECTIONS, *_SLOW_SYNCS)),
    "heartbeat_commits_too_much": Way(8, _DEPOSED),
    "change_members_early": Way(scenario="removals"),
    "change_members_before_the_log_knows": Way(scenario="farewell"),
    "removed_members_stay": Way(scenario="gone"),
    "learners_are_counted": Way(scenario="learner"),
    "answer_before_commit": Way(8, ("members=3", "faults=kill", "fault_interval_s=0.7")),
    "propose_twice": Way(8),
    "skip_read_index": Way(
        24, ("members=3", "faults=depose", "clients=5", "think_s=0.03", "watchers=0", "keepers=0", "duration_s=20")
    ),
    "trust_the_clock": Way(scenario="20418"),
    "read_locally": Way(24),
    "read_before_the_term_commits": Way(
        24,
        (
            "members=3",
            "faults=depose",
            "clients=5",
            "think_s=0.03",
            "watchers=0",
            "keepers=0",
            "duration_s=20",
            "in_place=0.0",
            "sync_s=0.02",
        ),
    ),
    "read_before_applied": Way(24),
    "request_ids_repeat": Way(scenario="equal"),
    "ids_begin_anew": Way(
        24, (*_WIDE, "faults=kill", "fault_interval_s=0.4", "clients=1", "keepers=20", "lockers=0", "watchers=0")
    ),
    "long_waiters_collide": Way(16, (*_WIDE, "members=3", "clients=5", "think_s=0.03")),
    "txn_lease_unchecked": Way(
        16,
        (
            "members=3",
            "faults=kill,pause,clock_jump,depose",
            "fault_interval_s=0.5",
            "lockers=5",
            "keepers=0",
            "watchers=0",
            "duration_s=15",
        ),
    ),
    "range_stream_unpinned": Way(scenario="stream"),
    "range_stream_unaware_of_install": Way(scenario="replaced"),
    "compaction_one_too_far": Way(8),
    "compaction_forgets_tombstones": Way(scenario="18089"),
    "watch_gap_on_compaction": Way(
        8,
        (
            "members=1",
            "faults=compact,stall_clients,reset_clients",
            "fault_interval_s=0.5",
            "watch_queue_bytes=300",
            "catch_up_revisions=1",
            "compaction_batch=1000",
            "watchers=3",
            "keepers=0",
            "duration_s=20",
            "think_s=0.03",
            "clients=5",
        ),
    ),
    "watch_drops_when_full": Way(
        8,
        (
            "faults=stall_clients,reset_clients",
            "fault_interval_s=0.5",
            "watch_queue_bytes=300",
            "watchers=3",
            "keepers=0",
            "clients=5",
            "think_s=0.03",
            "duration_s=15",
        ),
    ),
    "watch_future_ignored": Way(8),
    "watch_back_in_time": Way(scenario="15271"),
    "watch_lost_on_snapshot": Way(
        16,
        (
            "members=3",
            "faults=partition,isolate_leader",
            "snapshot_count=10",
            "catchup_entries=2",
            "release_s=0.0",
            "image_s=0",
            "restore_s=0",
            "watchers=3",
            "keepers=0",
            "think_s=0.03",
        ),
    ),
    "progress_too_early": Way(24),
    "audience_ignores_filters": Way(16, _WATCHED),
    "fragment_boundary": Way(16, _WATCHED),
    "history_limit_splits_revision": Way(
        16, (*_WATCHED, "faults=stall_clients,reset_clients", "fault_interval_s=0.3", "catch_up_revisions=1000")
    ),
    "prev_kv_boundary": Way(
        16,
        (
            "members=1",
            "faults=compact,stall_clients,reset_clients",
            "fault_interval_s=0.2",
            "watch_queue_bytes=300",
            "watchers=8",
            "keepers=0",
            "clients=5",
            "think_s=0.2",
            "keys=2",
            "duration_s=12",
        ),
    ),
    "renewal_ignored": Way(8, ("faults=", "keepers=3", "watchers=0", "clients=1", "duration_s=15")),
    "lease_never_ends": Way(8),
    "revoke_keeps_keys": Way(8),
    "checkpoint_outlives_renewal": Way(scenario="renewal"),
    "leader_trusts_itself_awoken": Way(scenario="awoken"),
    "checkpoints_are_lost": Way(scenario="checkpoint"),
    "checkpoint_not_persisted": Way(
        16,
        (
            "members=3",
            "faults=kill",
            "fault_interval_s=0.7",
            "keepers=3",
            "lease_checkpoint_s=0.3",
            "duration_s=8",
        ),
    ),
    "put_keeps_lease": Way(8, (*_WIDE, "keepers=3")),
    "delete_keeps_lease": Way(8, (*_WIDE, "keepers=3")),
    "restore_keeps_old_lease": Way(8, (*_WIDE, "keepers=3", "faults=kill", "fault_interval_s=0.7")),
    "renewal_before_applied": Way(
        16,
        (
            "members=3",
            "faults=slow_disk,move_leader,depose",
            "fault_interval_s=0.5",
            "turn_entries=1",
            "commit_limit=2",
            "commit_s=0.1",
            "clients=3",
            "keepers=8",
            "watchers=0",
            "think_s=0.05",
            "duration_s=10",
        ),
    ),
    "expired_named_once": Way(scenario="transfer"),
    "snapshot_keeps_rights": Way(scenario="14571"),
    "rights_of_an_older_revision": Way(8, _USERS),
    "rights_are_remembered": Way(8, _USERS),
    "reads_are_not_checked": Way(8, _USERS),
    "old_passwords_are_good": Way(16, _USERS),
    "password_leaves_tokens": Way(16, (*_WIDE, "members=3", "users=True", "think_s=0.03", "quota_bytes=0")),
    "token_for_an_old_password": Way(scenario="login"),
    "lock_without_waiting": Way(8, ("members=3", "lockers=3", "faults=", "duration_s=10")),
    "auto_compaction_of_the_present": Way(8, ("auto_compaction_s=3.0", "faults=", "duration_s=12")),
    "compaction_by_revisions_one_too_far": Way(
        8, ("auto_compaction_s=0", "auto_compaction_revisions=10", "faults=", "duration_s=10")
    ),
    "sound_members_are_called_corrupt": Way(8, ("members=3", "corrupt_check_s=0.5", "faults=", "duration_s=10")),
    "corruption_goes_unnoticed": Way(scenario="corrupt"),
    "snapshot_keeps_members": Way(
        16,
        (
            "members=3",
            "faults=update_member,isolate_leader,partition",
            "fault_interval_s=1.0",
            "snapshot_count=10",
            "catchup_entries=2",
            "release_s=0.0",
            "think_s=0.03",
            "keepers=0",
            "watchers=0",
        ),
    ),
    "leaderless_streams_stay": Way(scenario="leaderless"),
}
