"""Which messages from other members reach raft. Quiet: no I/O."""

import logging
from collections.abc import Sequence
from typing import Final

from ratifyd.logs import fields
from ratifyd.peer.host import PeerHost
from ratifyd.raft.messages import Message, MessageKind

FROM_REMOVED: Final = "cannot process message from removed member"
TO_ANOTHER: Final = "cannot process message to mismatch member"

_SNAP: Final = MessageKind.SNAP

log = logging.getLogger("ratifyd.peer")


def objection(host: PeerHost, message: Message) -> str | None:
    """Why this member must not process a message (etcd 3.6's text); None if it may."""
    if host.is_removed(message.sender):
        return FROM_REMOVED
    if message.to != host.local_id:
        return TO_ANOTHER
    return None


def is_joint(message: Message) -> bool:
    """Whether a snapshot comes from the middle of a change of many members, which no etcd makes and none can leave."""
    return message.snapshot is not None and bool(message.snapshot.meta.conf_state.voters_outgoing)


def deliver(host: PeerHost, messages: Sequence[Message]) -> None:
    """Hand over what came on a stream, without what must not be processed.

    A snapshot has no place there: it means nothing without its image.
    """
    local, is_removed = host.local_id, host.is_removed
    for message in messages:
        if message.to != local or message.kind is _SNAP or is_removed(message.sender):
            messages = [message for message in messages if _is_fit(host, message)]
            break
    if messages:
        host.receive(messages)


def _is_fit(host: PeerHost, message: Message) -> bool:
    reason = objection(host, message)
    if reason is None and message.kind is _SNAP:
        reason = "snapshot without its image"
    if reason is None:
        return True
    log.warning("rejected Raft message", extra=fields(reason=reason, sender=f"{message.sender:x}"))
    return False
