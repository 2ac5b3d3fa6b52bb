"""ConfState as the backend records it: etcd's JSON in bucket `meta` (formats 5.8)."""

import json

from ratifyd.raft.messages import ConfState


def encode_conf_state_json(state: ConfState) -> bytes:
    """The JSON etcd 3.5 and 3.6 write: auto_leave always, the other lists only when they hold something."""
    fields: dict[str, object] = {"voters": list(state.voters)}
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
    return ConfState(
        voters=tuple(fields.get("voters") or ()),
        learners=tuple(fields.get("learners") or ()),
        voters_outgoing=tuple(fields.get("voters_outgoing") or ()),
        learners_next=tuple(fields.get("learners_next") or ()),
        auto_leave=bool(fields.get("auto_leave", False)),
    )
