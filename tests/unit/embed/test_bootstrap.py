"""The first entries of a cluster, and the log of an old one cut down to a single member."""

from ratifyd.config import Config
from ratifyd.embed.bootstrap import NewCluster, force_new_cluster
from ratifyd.membership import Change, hex_id
from ratifyd.proto.etcdserver_pb2 import Metadata
from ratifyd.raft.codec import decode_conf_change, encode_conf_change
from ratifyd.raft.messages import ConfChange, ConfChangeKind, ConfState, Entry, EntryKind, HardState

THREE = "c=http://c:2380,a=http://a:2380,b=http://b:2380"


def test_a_new_cluster_is_the_same_seen_from_each_member() -> None:
    clusters = [NewCluster(Config(name=name, initial_cluster=THREE)) for name in "abc"]
    assert len({cluster.member_id for cluster in clusters}) == 3
    assert len({cluster.cluster_id for cluster in clusters}) == 1
    first = clusters[0]
    assert all(
        [(e.term, e.index, e.data, e.kind) for e in each.entries]
        == [(e.term, e.index, e.data, e.kind) for e in first.entries]
        for each in clusters
    )
    assert [(entry.term, entry.index, entry.kind) for entry in first.entries] == [
        (1, index, EntryKind.CONF_CHANGE) for index in (1, 2, 3)
    ]
    changes = [decode_conf_change(entry.data) for entry in first.entries]
    assert [each.node_id for each in changes] == sorted(cluster.member_id for cluster in clusters)
    names = {Change.decode(int(each.kind), each.node_id, each.context).member.name for each in changes}
    assert names == {"a", "b", "c"}
    assert (first.hard_state.term, first.hard_state.vote, first.hard_state.commit) == (1, 0, 3)
    metadata = Metadata.FromString(first.metadata)
    assert (metadata.NodeID, metadata.ClusterID) == (first.member_id, first.cluster_id)


def test_the_default_cluster_has_etcds_ids() -> None:
    cluster = NewCluster(Config(initial_cluster="default=http://localhost:2380"))
    assert (hex_id(cluster.member_id), hex_id(cluster.cluster_id)) == ("8e9e05c52164694d", "cdf818194e3a8c32")


def conf(index: int, kind: ConfChangeKind, node: int) -> Entry:
    return Entry(3, index, encode_conf_change(ConfChange(kind, node)), EntryKind.CONF_CHANGE)


def test_forcing_a_new_cluster_removes_the_others() -> None:
    entries = [
        conf(11, ConfChangeKind.ADD_NODE, 4),
        conf(12, ConfChangeKind.REMOVE_NODE, 2),
        Entry(3, 13, b"data"),
        conf(14, ConfChangeKind.ADD_NODE, 9),  # never committed: dropped
    ]
    state = ConfState(voters=(1, 2, 3), learners=(5,))
    added, hard_state = force_new_cluster(1, ("http://x",), state, HardState(3, 1, 13), entries)
    changes = [decode_conf_change(entry.data) for entry in added]
    assert [(int(each.kind), each.node_id) for each in changes] == [
        (int(ConfChangeKind.REMOVE_NODE), node) for node in (3, 4, 5)
    ]
    assert [(entry.term, entry.index) for entry in added] == [(3, 14), (3, 15), (3, 16)]
    assert (hard_state.term, hard_state.vote, hard_state.commit) == (3, 1, 16)


def test_a_member_that_is_none_adds_itself() -> None:
    added, hard_state = force_new_cluster(7, ("http://x",), ConfState(voters=(1,)), HardState(3, 1, 10), [])
    changes = [decode_conf_change(entry.data) for entry in added]
    assert [(int(each.kind), each.node_id) for each in changes] == [
        (int(ConfChangeKind.REMOVE_NODE), 1),
        (int(ConfChangeKind.ADD_NODE), 7),
    ]
    assert hard_state.commit == 12
