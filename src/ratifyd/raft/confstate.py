"""ConfState as the backend records it: etcd's JSON in bucket `meta` (formats 5.8)."""

import json

from ratifyd.raft.messages import ConfState


def encode_conf_state_json(state: ConfState) -> bytes:
    """The JSON etcd 3.5 and 3.6 write: auto_leave always, the other lists only when they hold something."""
    fields: dict[str, object] = {}
    if state.voters:
        fields["voters"] = list(state.voters)
    if state.learners:
        fields["learners"] = list(state.learners)
    if state.voters_outgoing:
        fields["voters_outgoing"] = list(state.voters_outgoing)
    if state.learners_next:
        fields["learners_next"] = list(state.learners_next)
    fields["auto_leave"] = state.auto_leave
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_conf_state_json(data: bytes) -> ConfState:
    """Read it back. Raises ValueError when it is not such JSON."""
    try:
        fields = json.loads(data)
    except RecursionError:
        fields = None
    if not isinstance(fields, dict):
        raise ValueError(f"not a membership record: {data[:100]!r}")
    voters, learners, outgoing, learners_next = (
        _ids(fields.get(name) or []) for name in ("voters", "learners", "voters_outgoing", "learners_next")
    )
    return ConfState(voters, learners, outgoing, learners_next, fields.get("auto_leave") is True)


def _ids(members: object) -> tuple[int, ...]:
    if not isinstance(members, list) or not all(type(member) is int and 0 < member < 1 << 64 for member in members):
        raise ValueError(f"not a list of members: {members!r:.100}")
    return tuple(members)
