"""Scripts that would show a bug, and must not: each raises when ratifyd has it.

`SCENARIOS` are the consistency bugs of etcd's public history; the table is etcd's own (tests/robustness/README.md), the
names are the numbers of the issues. `RARE` are meetings of faults that seeds bring about too seldom.
"""

from collections.abc import Callable

from simulation.scenarios import duties, quorums, restarts, snapshots, streams, watches
from simulation.scenarios.reads import stale_reads_after_a_pause, txn_reads_a_compacted_revision

SCENARIOS = {
    "13766 inconsistent revision after a crash under load": restarts.crash_under_load,
    "14370 a single member loses a write in a crash": restarts.crash_after_the_answer,
    "14571 a member with a snapshot knows nothing of users": duties.rights_after_a_snapshot,
    "14685 inconsistent revision after a crash during defragmentation": restarts.crash_while_defragmenting,
    "15220 progress is told ahead of events": watches.progress_of_a_slow_watcher,
    "15271 a watch goes back in time after a partition": watches.partition_and_snapshot,
    "17247 an event of a transaction comes twice": watches.events_of_transactions,
    "17529 events are lost when a stream starves": watches.starved_stream,
    "17780 the revision goes back in a crash during compaction": restarts.crash_while_compacting,
    "18055 two snapshots come shortly after each other": restarts.two_snapshots,
    "18089 a watch misses the deletion that a compaction meets": watches.compaction_at_a_deletion,
    "18667 a transaction reads a compacted revision": txn_reads_a_compacted_revision,
    "19179 a watch from the revision of a compaction misses its deletion": watches.watch_from_the_compaction,
    "20221 a watch on a future revision is told something": watches.future_revision,
    "20271 a crash while a snapshot comes in breaks the backend": restarts.crash_while_receiving,
    "20418 a paused leader answers from the past": stale_reads_after_a_pause,
}

RARE = {
    "deposed a leader that has lost its quorum is read": quorums.read_of_a_deposed_leader,
    "elected a new leader is read before its term commits": quorums.read_of_a_new_leader,
    "learner a leader reaches nobody but a learner": quorums.leader_with_a_learner,
    "equal requests come to two members at once": quorums.equal_requests_on_two_members,
    "corrupt data change by themselves": duties.data_that_change_by_themselves,
    "checkpoint a lease is nearly over when the leader goes": duties.rest_of_a_lease,
    "renewal a leader that reaches nobody keeps a lease alive": duties.renewal_by_an_isolated_leader,
    "awoken a leader that stood still keeps a lease alive": duties.renewal_by_a_leader_that_stood_still,
    "leaderless a stream wants a leader": duties.streams_without_a_leader,
    "torn a long write to the log is cut short": restarts.torn_writes,
    "found a follower acknowledges what it finds in its log": restarts.killed_between_write_and_sync,
    "farewell the leader of two is removed, the other one restarts": quorums.leader_of_two_removed,
    "gone a learner is removed while it hears nobody": quorums.removed_learner,
    "removals a leader reaches nobody and removes them": quorums.removals_by_an_isolated_leader,
    "departed a removed leader is read": quorums.read_of_a_removed_leader,
    "another a new leader is asked for a second change of members": quorums.change_by_a_new_leader,
    "transfer a lease ends while leadership is handed over": duties.expiry_during_a_transfer,
    "login a password changes while it is tried": duties.login_while_the_password_changes,
    "token a password changes in a snapshot": snapshots.token_after_a_snapshot,
    "right a user loses one in a snapshot": snapshots.right_after_a_snapshot,
    "behind a snapshot comes to one that has yet to apply": snapshots.snapshot_for_one_that_is_behind_in_applying,
    "joining a member is added while a snapshot is made": snapshots.snapshot_while_members_change,
    "restarted a member learns of another one by a snapshot": snapshots.restart_after_members_in_a_snapshot,
    "stream a stream is overtaken by a compaction": streams.stream_overtaken_by_a_compaction,
    "replaced a stream is overtaken by a snapshot": streams.stream_overtaken_by_a_snapshot,
}


def script_of(word: str) -> Callable[[], None]:
    """The script whose name begins with a word: the number of an issue, say."""
    (script,) = (script for name, script in (SCENARIOS | RARE).items() if name.split()[0] == word)
    return script
