"""How a member begins: the first entries of a new cluster, or the log of an old one cut down to a single member."""

from ratifyd.config import Config
from ratifyd.membership import Change, ChangeKind, Member, cluster_id, member_id
from ratifyd.proto.etcdserver_pb2 import Metadata
from ratifyd.raft.codec import decode_conf_change, encode_conf_change
from ratifyd.raft.messages import ConfChange, ConfChangeKind, ConfState, Entry, EntryKind, HardState

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


def _conf_change(kind: ConfChangeKind, member: Member) -> bytes:
    context = Change(ChangeKind(int(kind)), member).context()
    return encode_conf_change(ConfChange(kind, member.id, context))


def force_new_cluster(
    local: int, peer_urls: tuple[str, ...], conf_state: ConfState, hard_state: HardState, entries: list[Entry]
) -> tuple[list[Entry], HardState]:
    """Entries that remove everybody else, to follow the committed ones, and the hard state that commits them.

    What was not committed is dropped: nobody is left who could commit it (etcd --force-new-cluster).
    """
    kept = [entry for entry in entries if entry.index <= hard_state.commit]
    members = set(conf_state.voters) | set(conf_state.learners)
    for entry in kept:
        if entry.kind == EntryKind.CONF_CHANGE:
            change = decode_conf_change(entry.data)
            if change.kind == ConfChangeKind.REMOVE_NODE:
                members.discard(change.node_id)
            elif change.node_id:
                members.add(change.node_id)
    last = max(hard_state.commit, kept[-1].index if kept else 0)
    changes = [_conf_change(ConfChangeKind.REMOVE_NODE, Member(other, ())) for other in sorted(members - {local})]
    if local not in members:
        changes.append(_conf_change(ConfChangeKind.ADD_NODE, Member(local, peer_urls)))
    added = [
        Entry(hard_state.term, last + offset, data, EntryKind.CONF_CHANGE) for offset, data in enumerate(changes, 1)
    ]
    return added, HardState(hard_state.term, hard_state.vote, last + len(added))
