"""What one seed means: sizes, rates and the kinds of faults that happen, drawn as a swarm.

Each seed switches some things on and most extremes off, so that rare combinations come up and one common fault does not
hide behind another.
"""

import math
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any, get_type_hints

FAULTS = (
    "kill",
    "power_loss",
    "blackout",
    "crash_in_callback",
    "crash_in_disk_job",
    "crash_in_election",
    "contend",
    "depose",
    "pause",
    "partition",
    "one_way",
    "swizzle",
    "isolate_leader",
    "slow_link",
    "slow_disk",
    "full_disk",
    "failing_sync",
    "bit_flip",
    "clock_jump",
    "reset_clients",
    "stall_clients",
    "move_leader",
    "compact",
    "defragment",
    "add_member",
    "remove_member",
    "update_member",
    "downgrade",
    "rolling_restart",
)
LATER_FAULTS = ("crash_in_install", "shut_down")
"""What is drawn apart, so that the other draws of a seed stay what they were."""


@dataclass(frozen=True, slots=True)
class Options:
    """One run."""

    seed: int = 0
    members: int = 3
    duration_s: float = 20.0
    clients: int = 3
    watchers: int = 2
    keepers: int = 1
    """Clients that work with leases."""
    keys: int = 5
    think_s: float = 0.1
    """Mean pause of a client between two requests."""
    faults: tuple[str, ...] = ()
    fault_interval_s: float = 2.0
    delay_min_s: float = 0.0005
    delay_max_s: float = 0.005
    delay_tail: float = 0.0
    """Share of messages that take much longer."""
    delay_tail_s: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: bool = False
    sync_s: float = 0.001
    commit_s: float = 0.005
    in_place: float = 0.5
    """Share of the log's syncs that run on the loop."""
    in_kernel: float = 0.5
    """Share of the others that run behind it; the rest runs on the thread."""
    clock_drift: float = 0.0
    heartbeat_ms: int = 100
    election_ticks: int = 10
    pre_vote: bool = True
    snapshot_count: int = 100
    catchup_entries: int = 20
    segment_bytes: int = 8192
    max_message_bytes: int = 4096
    max_inflight: int = 64
    commit_interval_s: float = 0.1
    commit_limit: int = 1000
    compaction_batch: int = 20
    quota_bytes: int = 0
    progress_interval_s: float = 3.0
    turn_entries: int = 1000
    release_s: float = 30.0
    catch_up_watchers: int = 512
    catch_up_revisions: int = 1000
    watch_queue_bytes: int = 0
    """0: the server's own."""
    users: bool = False
    """Whether somebody manages users and enables auth."""
    lockers: int = 0
    auto_compaction_s: float = 0.0
    auto_compaction_revisions: int = 0
    """How many revisions automatic compaction leaves, if it does not go by time; 0 none."""
    corrupt_check_s: float = 0.0
    compact_hash_check_s: float = 0.0
    lease_checkpoint_s: float = 0.0
    """How often the rest of a lease goes to the log; 0 never."""
    start_crashes: float = 0.0
    """Share of the starts that a crash interrupts, or follows at once."""
    image_s: float = 0.0
    """How long a snapshot's image is on its way, beside its bytes' time."""
    restore_s: float = 0.0
    """Mean time of each step by which a received state is restored."""
    wide: bool = False
    """Whether clients ask for more: keys now with a lease, now without, leases in transactions, long values; and
    watchers for filters and fragments. Passes and responses hold few events, slices of long reads few keys."""
    short_history: bool = False
    """Few requests, so that a search for a linearization is affordable, too."""

    @property
    def election_s(self) -> float:
        return self.heartbeat_ms * self.election_ticks / 1000

    @property
    def least_election_ticks(self) -> int:
        """Below these nobody can be elected for sure: a pre-vote and a vote take two round trips and a sync each."""
        return math.ceil(1000 * (4 * self.delay_max_s + 2 * self.sync_s) / self.heartbeat_ms)

    @property
    def min_ttl_s(self) -> int:
        """Shortest lease, as the server takes it (semantics 8.3)."""
        return -(-(3 * self.election_ticks // 2) * self.heartbeat_ms // 1000)

    def without(self, **changes: Any) -> "Options":
        """The same with something changed."""
        return replace(self, **changes)

    def changed_by(self, settings: list[str]) -> "Options":
        """Apply `name=value` settings, as the shrinker prints them."""
        kinds = get_type_hints(Options)
        changes: dict[str, Any] = {}
        for setting in settings:
            name, _, text = setting.partition("=")
            if name not in kinds:
                raise ValueError(f"no option {name}; there are {', '.join(sorted(kinds))}")
            kind = kinds[name]
            if name == "faults":
                changes[name] = tuple(filter(None, text.split(",")))
            else:
                changes[name] = text == "True" if kind is bool else kind(text)
        return replace(self, **changes)

    def differences(self, other: "Options") -> list[str]:
        """Settings that make `other` of this one."""
        found = []
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if mine != theirs:
                found.append(f"{each.name}={','.join(theirs) if each.name == 'faults' else theirs}")
        return found


def draw(seed: int) -> Options:
    """The swarm of a seed."""
    random = Random(f"options {seed}")

    def maybe(chance: float, value: Any, otherwise: Any) -> Any:
        return value if random.random() < chance else otherwise

    members = random.choice((1, 2, 3, 3, 3, 3, 4, 5, 5, 7))
    kinds = random.sample(FAULTS, random.choice((0, 2, 3, 4, 6, 9, len(FAULTS))))
    slow, short = maybe(0.15, random.uniform(0.02, 0.1), 0.0), random.random() < 0.15
    options = Options(
        seed=seed,
        members=members,
        duration_s=random.uniform(8, 30) if not short else random.uniform(5, 10),
        clients=random.randint(2, 5),
        watchers=random.randint(0, 3),
        keepers=random.choice((0, 1, 1, 2)),
        keys=random.choice((1, 3, 5, 8, 20)),
        think_s=random.choice((0.03, 0.1, 0.1, 0.3)) if not short else 1.5,
        faults=tuple(sorted(kinds)),
        fault_interval_s=random.choice((0.5, 1.0, 2.0, 4.0)),
        delay_min_s=0.0003 + slow / 2,
        delay_max_s=random.choice((0.001, 0.005, 0.02)) + slow,
        delay_tail=maybe(0.3, random.uniform(0.001, 0.05), 0.0),
        delay_tail_s=random.choice((0.1, 0.5, 2.0)),
        loss=maybe(0.3, random.choice((0.005, 0.02, 0.1)), 0.0),
        duplicate=maybe(0.2, random.choice((0.01, 0.1)), 0.0),
        reorder=random.random() < 0.2,
        sync_s=random.choice((0.0002, 0.001, 0.005, 0.02)),
        commit_s=random.choice((0.001, 0.005, 0.05)),
        in_place=random.choice((0.0, 0.5, 1.0)),
        clock_drift=maybe(0.3, random.uniform(0.0, 0.05), 0.0),
        heartbeat_ms=random.choice((50, 100, 100)),
        election_ticks=random.choice((3, 10, 10)),
        pre_vote=random.random() < 0.7,
        snapshot_count=random.choice((10, 30, 100, 10_000)),
        catchup_entries=random.choice((2, 5, 20)),
        segment_bytes=random.choice((2048, 8192, 32768)),
        max_message_bytes=random.choice((256, 4096, 1 << 20)),
        max_inflight=random.choice((2, 16, 512)),
        commit_interval_s=random.choice((0.02, 0.1, 1.0)),
        commit_limit=random.choice((5, 50, 10_000)),
        compaction_batch=random.choice((2, 10, 1000)),
        quota_bytes=maybe(0.08, random.randint(15_000, 60_000), 0),
        progress_interval_s=random.choice((0.5, 3.0)),
        turn_entries=random.choice((1, 3, 1000)),
        release_s=random.choice((0.0, 0.5, 5.0)),
        catch_up_watchers=random.choice((1, 512)),
        catch_up_revisions=random.choice((1, 4, 1000)),
        watch_queue_bytes=random.choice((0, 300, 2000)),
        users=random.random() < 0.2,
        lockers=random.choice((0, 0, 0, 2, 3)),
        auto_compaction_s=maybe(0.2, random.choice((1.0, 3.0)), 0.0),
        corrupt_check_s=maybe(0.3, random.choice((0.5, 2.0)), 0.0),
        compact_hash_check_s=maybe(0.3, random.choice((0.5, 2.0)), 0.0),
        lease_checkpoint_s=maybe(0.3, random.choice((0.3, 1.0)), 0.0),
        short_history=short,
    )
    later = Random(f"later options {seed}")  # what came later, so that the other draws stay what they were
    by_revisions = later.random() < 0.2 and not options.auto_compaction_s
    return options.without(
        election_ticks=max(options.election_ticks, options.least_election_ticks),
        auto_compaction_revisions=later.choice((1, 10, 50)) if by_revisions else 0,
        start_crashes=later.choice((0.2, 0.5)) if kinds and later.random() < 0.3 else 0.0,
        in_kernel=later.choice((0.0, 0.5, 1.0, 1.0)),
        faults=tuple(sorted([*kinds, *(kind for kind in LATER_FAULTS if kinds and later.random() < 0.25)])),
        image_s=later.choice((0.0, 0.0, 0.05, 1.0, 4.0)),
        restore_s=later.choice((0.0, 0.0, 0.01, 0.1)),
        wide=not short and later.random() < 0.3,
    )
