"""All targets, by name."""

from fuzzing.target import Target
from fuzzing.targets import firstblocks, front, member, messages, peers, replicated, restored, storage, texts, wire

TARGETS: dict[str, Target] = {
    target.name: target
    for room in (wire, firstblocks, messages, texts, storage, restored, peers, replicated, member, front)
    for target in room.TARGETS
}
