"""Raft scenarios as text: every file in `raft/` is a script and the transcript it must produce.

A line that begins with `> ` is a command, lines that begin with `#` are prose, all else is what the command prints.
Members write and apply only when told to; `settle` does everything until nothing is left to do. `VERBS` lists the
commands. Transcripts are written by `pytest tests/traces --rewrite` and reviewed as a diff.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from ratifyd.raft import describe
from ratifyd.raft.codec import change_of_entry, decode_message, encode_message
from ratifyd.raft.confchange import Configuration
from ratifyd.raft.core import Options, Raft
from ratifyd.raft.log import RaftLog
from ratifyd.raft.messages import (
    AnyConfChange,
    ConfChange,
    ConfChangeKind,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    Snapshot,
    SnapshotMeta,
)
from ratifyd.raft.ready import Ready

SCENARIOS = sorted((Path(__file__).parent / "raft").glob("*.txt"))
ELECTION_TICKS = 3
CHANGES = {
    "v": ConfChangeKind.ADD_NODE,
    "l": ConfChangeKind.ADD_LEARNER_NODE,
    "r": ConfChangeKind.REMOVE_NODE,
    "u": ConfChangeKind.UPDATE_NODE,
}
TRANSITIONS = {
    "auto": ConfChangeTransition.AUTO,
    "implicit": ConfChangeTransition.JOINT_IMPLICIT,
    "explicit": ConfChangeTransition.JOINT_EXPLICIT,
}


class Member:
    """A member with its disk: what is durable, what is on its way there, what waits to be applied."""

    def __init__(self, world: "World", member_id: int, start: SnapshotMeta, settings: dict[str, str]) -> None:
        self.world = world
        self.id = member_id
        self.settings = settings
        self.meta = start
        self.hard_state = HardState(start.term, 0, start.index)
        self.entries: list[Entry] = []
        self.start()

    def start(self) -> None:
        settings = self.settings
        self.writes: deque[Ready] = deque()
        self.handed_out: deque[Entry] = deque()
        self.raft = Raft(
            self.id,
            election_ticks=ELECTION_TICKS,
            heartbeat_ticks=1,
            pre_vote="pre-vote" in settings,
            check_quorum="check-quorum" in settings,
            max_message_bytes=int(settings.get("message-bytes", 1 << 20)),
            max_inflight=int(settings.get("inflight", 256)),
            max_inflight_bytes=int(settings.get("inflight-bytes", 0)),
            max_uncommitted_bytes=int(settings.get("uncommitted-bytes", 0)),
            random=Random(self.id),
            log=RaftLog(self.meta.index, self.meta.term, self.entries),
            hard_state=self.hard_state,
            conf_state=self.meta.conf_state,
            applied=self.meta.index,
            tracer=self,
            options=Options(
                lease_reads="lease-reads" in settings,
                step_down_on_removal="resign-on-removal" in settings,
                validate_conf_changes="unchecked-changes" not in settings,
            ),
        )

    def mark(self, name: str, **fields: object) -> None:
        """Print what raft does out of the ordinary."""
        details = {key: value for key, value in fields.items() if key != "member" and value not in (0, "")}
        text = " ".join(f"{key} {self._detail(value)}" for key, value in details.items())
        self.world.say(f"* {self.id} {name.removeprefix('raft.')}: {text}")

    def _detail(self, value: object) -> str:
        return describe.describe_configuration(value) if isinstance(value, Configuration) else str(value)

    def write(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.meta = ready.snapshot.meta
            self.entries = []
        if ready.entries:
            self.entries = self.entries[: ready.entries[0].index - self.meta.index - 1] + ready.entries
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state

    def snapshot(self) -> Snapshot:
        term = self.raft.log.term(self.raft.log.applied)
        assert term is not None
        return Snapshot(SnapshotMeta(self.raft.log.applied, term, self.raft.conf_state))


class World:
    """Members, the messages between them, and a transcript."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.network: list[Message] = []
        self.lines: list[str] = []
        self.indent = ""

    def say(self, text: str) -> None:
        self.lines.append(self.indent + text)

    def run(self, command: str) -> list[str]:
        """Carry out a command and return what it printed."""
        self.lines = []
        verb, *words = command.split()
        VERBS[verb](self, words)
        return self.lines

    # Verbs that make members

    def add_members(self, words: list[str]) -> None:
        """`members 1 2 3 [voters=1,2,3|none] [learners=4] [index=N] [setting[=value]]...`"""
        ids = [int(word) for word in words if word.isdigit()]
        settings = dict((word + "=").split("=")[:2] for word in words if not word.isdigit())
        index = int(settings.get("index", 0))
        voters = _ids(settings["voters"]) if "voters" in settings else tuple(ids)
        state = ConfState(voters, _ids(settings.get("learners", "")))
        for member_id in ids:
            start = SnapshotMeta(index, 1 if index else 0, state)
            self.members[member_id] = Member(self, member_id, start, settings)

    def crash(self, words: list[str]) -> None:
        """`crash 1`: lose what was not durable and start again from the disk."""
        for member in self._members(words):
            member.start()
            self.say(describe.describe_status(member.raft.status())[0])

    # Verbs that are raft's inputs

    def tick(self, words: list[str]) -> None:
        """`tick 1 [times]`"""
        for _ in range(int(words[1]) if len(words) > 1 else 1):
            self.members[int(words[0])].raft.tick()

    def campaign(self, words: list[str]) -> None:
        self._raft(words[0]).campaign()

    def propose(self, words: list[str]) -> None:
        self._taken(self._raft(words[0]).propose([word.encode() for word in words[1:]]))

    def change(self, words: list[str]) -> None:
        """`change 1 v4 [r1]... [auto|implicit|explicit]`, `change 1 leave`"""
        steps = tuple(ConfChangeSingle(CHANGES[w[0]], int(w[1:])) for w in words[1:] if w[1:].isdigit())
        transition = next((TRANSITIONS[word] for word in words if word in TRANSITIONS), None)
        change: AnyConfChange = ConfChangeV2(steps, transition or ConfChangeTransition.AUTO)
        if len(steps) == 1 and transition is None:
            change = ConfChange(steps[0].kind, steps[0].node_id)
        self._taken(self._raft(words[0]).propose_conf_change(change))

    def read(self, words: list[str]) -> None:
        self._taken(self._raft(words[0]).read_index(words[1].encode()))

    def transfer(self, words: list[str]) -> None:
        self._raft(words[0]).transfer_leader(int(words[1]))

    def forget_leader(self, words: list[str]) -> None:
        self._raft(words[0]).forget_leader()

    def unreachable(self, words: list[str]) -> None:
        self._raft(words[0]).report_unreachable(int(words[1]))

    def snapshot_ended(self, words: list[str]) -> None:
        """`snapshot-ended 1 2 ok|failed`"""
        self._raft(words[0]).report_snapshot(int(words[1]), words[2] == "ok")

    def compact(self, words: list[str]) -> None:
        self._raft(words[0]).compact(int(words[1]))

    def timeout(self, words: list[str]) -> None:
        """`timeout 1 ticks`: settle what chance would decide."""
        self._raft(words[0]).randomized_timeout = int(words[1])

    # Verbs that carry out work

    def work(self, words: list[str]) -> None:
        """`work 1`: take what raft hands out; writes and entries to apply wait for their own commands."""
        for member in self._members(words):
            while (ready := member.raft.ready()) is not None:
                for line in describe.describe_ready(ready):
                    self.say(line)
                self.network += ready.messages
                for peer in ready.snapshots_wanted:
                    self.send_snapshot([str(member.id), str(peer)])
                if ready.must_append:
                    member.writes.append(ready)
                member.handed_out += ready.committed

    def written(self, words: list[str]) -> None:
        """`written 1 [count]`: the oldest writes become durable."""
        member = self.members[int(words[0])]
        for _ in range(int(words[1]) if len(words) > 1 else 1):
            ready = member.writes.popleft()
            member.write(ready)
            member.raft.appended(ready)
            for message in ready.messages_after_append:
                self.say(f"send {describe.describe_message(message)}")
            self.network += ready.messages_after_append
            if ready.snapshot is not None:
                member.raft.applied_to(ready.snapshot.meta.index)

    def apply(self, words: list[str]) -> None:
        """`apply 1`: apply everything handed out."""
        for member in self._members(words):
            while member.handed_out:
                entry = member.handed_out.popleft()
                if entry.kind is not EntryKind.NORMAL:
                    member.raft.apply_conf_change(change_of_entry(entry))
                member.raft.applied_to(entry.index)

    def deliver(self, words: list[str]) -> None:
        """`deliver 2 [from=1] [kind=app]`"""
        for message in self._take(words):
            self.say(describe.describe_message(message))
            self.members[message.to].raft.step(decode_message(encode_message(message)))

    def drop(self, words: list[str]) -> None:
        """`drop 2 [from=1] [kind=app]`"""
        for message in self._take(words):
            self.say(describe.describe_message(message))

    def send_snapshot(self, words: list[str]) -> None:
        """`snapshot 1 2`: send member 2 the state of member 1, wanted or not."""
        sender = self.members[int(words[0])]
        message = sender.raft.snapshot_message(int(words[1]), sender.snapshot())
        if message is None:
            message = Message(MessageKind.SNAP, int(words[1]), sender.id, sender.raft.term, snapshot=sender.snapshot())
        self.say(f"send {describe.describe_message(message)}")
        self.network.append(message)

    def settle(self, words: list[str]) -> None:
        """`settle [1 2] [quietly]`: these members, or all, do everything they can."""
        ids = [word for word in words if word.isdigit()] or [str(member) for member in self.members]
        before = len(self.lines)
        while sum(self._settle_step(member) for member in ids):
            continue
        if "quietly" in words:
            del self.lines[before:]

    def _settle_step(self, member: str) -> bool:
        """Do one round of a member's work, each kind under a headline; False if there was none."""
        busy = False
        for title, step in (("", self.work), ("written", self.written), ("", self.apply), ("receives", self.deliver)):
            waiting = self.members[int(member)]
            if step == self.written and not waiting.writes:
                continue
            start = len(self.lines)
            self.indent = "  "
            step([member, str(len(waiting.writes))] if step == self.written else [member])
            self.indent = ""
            if len(self.lines) > start:
                self.lines.insert(start, f"{member} {title}".rstrip())
            busy = busy or len(self.lines) > start or step == self.written
        return busy

    # Verbs that look

    def status(self, words: list[str]) -> None:
        for member in self._members(words):
            for line in describe.describe_status(member.raft.status()):
                self.say(line)

    def configuration(self, words: list[str]) -> None:
        for member in self._members(words):
            self.say(f"{member.id}: {describe.describe_configuration(member.raft.config)}")

    def log(self, words: list[str]) -> None:
        for member in self._members(words):
            log = member.raft.log
            marks = f"compacted {log.compacted}@{log.compacted_term} stable {log.stable} committed {log.committed}"
            self.say(f"{member.id}: {marks} applied {log.applied}")
            for entry in log.entries:
                self.say(f"  {describe.describe_entry(entry)}")

    def _raft(self, word: str) -> Raft:
        return self.members[int(word)].raft

    def _members(self, words: list[str]) -> list[Member]:
        return [self.members[int(word)] for word in words] or list(self.members.values())

    def _taken(self, taken: bool) -> None:
        if not taken:
            self.say("refused")

    def _take(self, words: list[str]) -> list[Message]:
        wanted = dict((word + "=").split("=")[:2] for word in words[1:])

        def matches(message: Message) -> bool:
            return (
                message.to == int(words[0])
                and wanted.get("from", str(message.sender)) == str(message.sender)
                and wanted.get("kind", message.kind.name.lower()) == message.kind.name.lower()
            )

        taken = [message for message in self.network if matches(message)]
        self.network = [message for message in self.network if not matches(message)]
        return taken


def _ids(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(",") if word.isdigit())


VERBS: dict[str, Callable[[World, list[str]], None]] = {
    "members": World.add_members,
    "crash": World.crash,
    "tick": World.tick,
    "campaign": World.campaign,
    "propose": World.propose,
    "change": World.change,
    "read": World.read,
    "transfer": World.transfer,
    "forget-leader": World.forget_leader,
    "unreachable": World.unreachable,
    "snapshot": World.send_snapshot,
    "snapshot-ended": World.snapshot_ended,
    "compact": World.compact,
    "timeout": World.timeout,
    "work": World.work,
    "written": World.written,
    "apply": World.apply,
    "deliver": World.deliver,
    "drop": World.drop,
    "settle": World.settle,
    "status": World.status,
    "configuration": World.configuration,
    "log": World.log,
}


def replay(script: str) -> str:
    """Return the script with the output of each command as it is now."""
    world = World()
    lines: list[str] = []
    for line in script.splitlines():
        if line.startswith("> "):
            lines.append(line)
            lines += [f"  {printed}" for printed in world.run(line[2:])]
        elif line.startswith("#") or not line.strip():
            lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    script = path.read_text()
    actual = replay(script)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(actual)
    assert actual == path.read_text()


def test_every_verb_is_used() -> None:
    used = {line.split()[1] for path in SCENARIOS for line in path.read_text().splitlines() if line.startswith("> ")}
    assert used == VERBS.keys()
