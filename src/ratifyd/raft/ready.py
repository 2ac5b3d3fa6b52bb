"""What the caller of `Raft` must do next."""

from ratifyd.raft.messages import Entry, HardState, Message, ReadState, Snapshot


class Ready:
    """One batch of work, drained by `Raft.ready`.

    Send `messages` at once, in order. If `must_append`: write the snapshot, `entries` and `hard_state`, make them
    durable if `must_sync`, then call `Raft.appended` with this object and send `messages_after_append`; several may be
    in progress, but they finish in order. Apply `committed` in order and report with `Raft.applied_to`; an incoming
    `snapshot` replaces the state once it is durable, and is reported in the same way. For each member in
    `snapshots_wanted` make a snapshot and send what `Raft.snapshot_message` says, or call `Raft.report_snapshot`.
    """

    __slots__ = (
        "committed",
        "entries",
        "hard_state",
        "messages",
        "messages_after_append",
        "must_append",
        "must_sync",
        "own",
        "read_states",
        "snapshot",
        "snapshots_wanted",
    )

    def __init__(
        self,
        messages: list[Message],
        messages_after_append: list[Message],
        own: list[Message],
        entries: list[Entry],
        hard_state: HardState | None,
        snapshot: Snapshot | None,
        committed: list[Entry],
        read_states: list[ReadState],
        snapshots_wanted: list[int],
        must_append: bool,
        must_sync: bool,
    ) -> None:
        """`own` holds the member's messages to itself, which `Raft.appended` delivers."""
        self.messages = messages
        self.messages_after_append = messages_after_append
        self.own = own
        self.entries = entries
        self.hard_state = hard_state
        self.snapshot = snapshot
        self.committed = committed
        self.read_states = read_states
        self.snapshots_wanted = snapshots_wanted
        self.must_append = must_append
        self.must_sync = must_sync
