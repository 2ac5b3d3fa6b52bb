"""Raft objects as short text, for transcripts, status pages and log lines.

An entry is `index@term`, a message names only the fields that are set. Nothing here is meant to be parsed.
"""

from collections.abc import Iterable, Sequence

from ratifyd.raft import confchange
from ratifyd.raft.codec import change_of_entry
from ratifyd.raft.confchange import Configuration
from ratifyd.raft.messages import AnyConfChange, ConfChangeKind, ConfChangeTransition, Entry, EntryKind, Message
from ratifyd.raft.messages import Snapshot as IncomingSnapshot
from ratifyd.raft.progress import ProgressState
from ratifyd.raft.ready import Ready
from ratifyd.raft.status import ProgressStatus, Status

_CHANGE_WORDS = {
    ConfChangeKind.ADD_NODE: "voter",
    ConfChangeKind.REMOVE_NODE: "remove",
    ConfChangeKind.UPDATE_NODE: "update",
    ConfChangeKind.ADD_LEARNER_NODE: "learner",
}


def describe_change(change: AnyConfChange) -> str:
    """Return a configuration change as text, like `voter 4, remove 1 (joint_explicit)`."""
    general = confchange.as_v2(change)
    if confchange.leaves_joint(general):
        return "leave joint"
    text = ", ".join(f"{_CHANGE_WORDS[single.kind]} {single.node_id:x}" for single in general.changes)
    if general.transition is not ConfChangeTransition.AUTO:
        text += f" ({general.transition.name.lower()})"
    return text


def describe_entry(entry: Entry) -> str:
    """Return an entry as text, like `7@2 "data"`."""
    text = f"{entry.index}@{entry.term}"
    if entry.kind is not EntryKind.NORMAL:
        return f"{text} <{describe_change(change_of_entry(entry))}>"
    if not entry.data:
        return f"{text} empty"
    return f'{text} "{entry.data.decode(errors="backslashreplace")}"'


def describe_entries(entries: Iterable[Entry]) -> str:
    """Return entries as text in one line."""
    return ", ".join(map(describe_entry, entries))


def describe_configuration(config: Configuration) -> str:
    """Return a configuration as text, like `voters 1 2 3 & 1 2 4, learners 5`."""
    parts = [f"voters {_members(config.voters)}"]
    if config.outgoing:
        parts[0] += f" & {_members(config.outgoing)}"
    if config.learners:
        parts.append(f"learners {_members(config.learners)}")
    if config.learners_next:
        parts.append(f"learners next {_members(config.learners_next)}")
    if config.auto_leave:
        parts.append("auto leave")
    return ", ".join(parts)


def describe_snapshot(snapshot: IncomingSnapshot) -> str:
    """Return a snapshot as text: its place in the log and its configuration."""
    meta = snapshot.meta
    return f"snapshot {meta.index}@{meta.term} ({describe_configuration(confchange.restore(meta.conf_state))})"


def describe_message(message: Message) -> str:
    """Return a message as text, like `1->2 app t3 at 6@2 commit 6 [7@3 "x"]`."""
    text = f"{message.sender:x}->{message.to:x} {message.kind.name.lower()}"
    if message.term:
        text += f" t{message.term}"
    if message.index or message.log_term:
        text += f" at {message.index}@{message.log_term}" if message.log_term else f" at {message.index}"
    if message.reject:
        text += f" REJECT hint {message.reject_hint}"
    if message.commit:
        text += f" commit {message.commit}"
    if message.context:
        printable = message.context.isascii() and message.context.decode(errors="replace").isprintable()
        text += f" context {message.context.decode() if printable else message.context.hex()}"
    if message.entries:
        text += f" [{_payload(message.entries)}]"
    if message.snapshot is not None:
        text += f" {describe_snapshot(message.snapshot)}"
    return text


def describe_ready(ready: Ready) -> list[str]:
    """Return the work of a Ready as lines of text."""
    lines = [f"send {describe_message(message)}" for message in ready.messages]
    lines += [f"want snapshot for {member:x}" for member in ready.snapshots_wanted]
    if ready.must_append:
        lines.append("write, synced" if ready.must_sync else "write")
    if ready.hard_state is not None:
        state = ready.hard_state
        lines.append(f"  state t{state.term} vote {state.vote:x} commit {state.commit}")
    if ready.snapshot is not None:
        lines.append(f"  {describe_snapshot(ready.snapshot)}")
    if ready.entries:
        lines.append(f"  entries {describe_entries(ready.entries)}")
    lines += [f"  then own {describe_message(message)}" for message in ready.own]
    lines += [f"  then send {describe_message(message)}" for message in ready.messages_after_append]
    lines += [f"read {state.context.decode()} at {state.index}" for state in ready.read_states]
    if ready.committed:
        lines.append(f"apply {describe_entries(ready.committed)}")
    return lines


def describe_progress(progress: ProgressStatus) -> str:
    """Return a leader's view of a member as text."""
    text = f"{progress.state.value} match {progress.match} next {progress.next_index}"
    if progress.is_learner:
        text += " learner"
    if progress.is_paused and progress.state is not ProgressState.SNAPSHOT:
        text += " paused"
    if progress.pending_snapshot:
        text += f" waits for {progress.pending_snapshot}"
    if progress.inflight:
        text += f" inflight {progress.inflight}{' full' if progress.is_full else ''}"
    if not progress.recent_active:
        text += " silent"
    return text


def describe_status(status: Status) -> list[str]:
    """Return a member's state as lines of text, on the leader with one line per member."""
    first = f"{status.id:x}: {status.role.value} t{status.term} commit {status.commit} applied {status.applied}"
    if status.leader_id:
        first += f" leader {status.leader_id:x}"
    if status.transfer_target:
        first += f" handing over to {status.transfer_target:x}"
    return [first, *(f"  {member:x}: {describe_progress(p)}" for member, p in status.progress.items())]


def _members(members: Iterable[int]) -> str:
    return " ".join(f"{member:x}" for member in sorted(members))


def _payload(entries: Sequence[Entry]) -> str:
    if entries[0].index:
        return describe_entries(entries)
    # Forwarded proposals and reads have no place in the log yet.
    return describe_entries(entries).replace("0@0 ", "")
