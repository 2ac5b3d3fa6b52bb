"""What answers to raft POSTs mean. Quiet: no I/O."""

from ratifyd.peer.client import Answer
from ratifyd.peer.connection import PeerUnreachable


class MemberRemoved(Exception):
    """The other side says that this member was removed from the cluster."""


class Refused(PeerUnreachable):
    """The other side does not want what we sent; the text says why, in its words."""


def check_post(answer: Answer) -> None:
    """Return if the other side took the message. Raises MemberRemoved or Refused."""
    if answer.status == 204:
        return
    if answer.status == 403 and "removed member" in answer.text:  # 3.6 has 403 also for what is meant for another one
        raise MemberRemoved(answer.text)
    raise Refused(f"{answer.status} {answer.text[:200]}")
