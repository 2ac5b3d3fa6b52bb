"""How a member begins: the first entries of a new cluster, or the log of an old one cut down to a single member."""

from contextlib import suppress

from ratifyd.config import Config
from ratifyd.membership import Change, ChangeKind, Member, cluster_id, member_id
from ratifyd.proto.etcdserver_pb2 import Metadata
from ratifyd.raft.codec import decode_conf_change, encode_conf_change
from ratifyd.raft.messages import ConfChange, ConfChangeKind, Entry, EntryKind, HardState
from ratifyd.storage.recover import Recovered

BOOTSTRAP_TERM = 1


class NewCluster:
    """What every member of a new cluster writes first: one entry per member, ordered by id (semantics 15.16)."""

    __slots__ = ("cluster_id", "entries", "hard_state", "member_id")

    def __init__(self, config: Config) -> None:
        token = config.initial_cluster_token
        members = sorted(
            (Member(member_id(urls, token), urls, name) for name, urls in config.initial_members.items()),
            key=lambda member: member.id,
        )
        self.member_id = member_id(config.initial_members[config.name], token)
        self.cluster_id = cluster_id(member.id for member in members)
        self.entries = [
            Entry(BOOTSTRAP_TERM, index, _conf_change(ConfChangeKind.ADD_NODE, member), EntryKind.CONF_CHANGE)
            for index, member in enumerate(members, 1)
        ]
        self.hard_state = HardState(BOOTSTRAP_TERM, 0, len(self.entries))

    @property
    def metadata(self) -> bytes:
        """First record of every log file."""
        return Metadata(NodeID=self.member_id, ClusterID=self.cluster_id).SerializeToString()


def _conf_change(kind: ConfChangeKind, member: Member, *, is_promote: bool = False) -> bytes:
    context = Change(ChangeKind(int(kind)), member, is_promote).context()
    return encode_conf_change(ConfChange(kind, member.id, context))


def force_new_cluster(recovered: Recovered, peer_urls: tuple[str, ...]) -> tuple[list[Entry], HardState]:
    """Entries that leave this member alone, to follow what its log holds, and the hard state that commits it all.

    Nobody is left who knows what of the log was committed, and what is not known to be may have been acknowledged: a
    commit is logged with the next entries. So all of it counts, as it would had this member been alone from the start.
    """
    local = Metadata.FromString(recovered.metadata).NodeID
    voters, learners = set(recovered.conf_state.voters), set(recovered.conf_state.learners)
    for entry in recovered.entries:
        if entry.kind == EntryKind.CONF_CHANGE:
            with suppress(ValueError):  # one that cannot be read has no effect
                _count(decode_conf_change(entry.data), voters, learners)
    changes = []  # this member comes first, for the last voter cannot be removed
    if local in learners:
        changes.append(_conf_change(ConfChangeKind.ADD_NODE, Member(local, ()), is_promote=True))
    elif local not in voters:
        changes.append(_conf_change(ConfChangeKind.ADD_NODE, Member(local, peer_urls)))
    others = (voters | learners) - {local}
    changes.extend(_conf_change(ConfChangeKind.REMOVE_NODE, Member(other, ())) for other in sorted(others))
    start, entries, logged = recovered.snapshot.meta, recovered.entries, recovered.hard_state
    last, last_term = (entries[-1].index, entries[-1].term) if entries else (start.index, start.term)
    term = max(BOOTSTRAP_TERM, logged.term, last_term)
    added = [Entry(term, last + offset, data, EntryKind.CONF_CHANGE) for offset, data in enumerate(changes, 1)]
    return added, HardState(term, logged.vote if term == logged.term else 0, last + len(added))


def _count(change: ConfChange, voters: set[int], learners: set[int]) -> None:
    """Have a change of members count among those who vote and those who learn."""
    if change.kind != ConfChangeKind.UPDATE_NODE:
        voters.discard(change.node_id)
        learners.discard(change.node_id)
    if change.kind == ConfChangeKind.ADD_NODE:
        voters.add(change.node_id)
    elif change.kind == ConfChangeKind.ADD_LEARNER_NODE:
        learners.add(change.node_id)
