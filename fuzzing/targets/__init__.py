"""All targets, by name."""

from fuzzing.target import Target
from fuzzing.targets import front, member, messages, peers, replicated, restored, storage, texts, wire

TARGETS: dict[str, Target] = {
    target.name: target
    for room in (wire, messages, texts, storage, restored, peers, replicated, member, front)
    for target in room.TARGETS
}
