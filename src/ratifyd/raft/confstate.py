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
    fields = json.loads(data)
    if not isinstance(fields, dict):
        raise ValueError(f"not a membership record: {data!r}")
    voters, learners, outgoing, learners_next = (
        tuple(int(member) for member in fields.get(name) or ())
        for name in ("voters", "learners", "voters_outgoing", "learners_next")
    )
    return ConfState(voters, learners, outgoing, learners_next, bool(fields.get("auto_leave", False)))
