"""The first entries of a cluster, and the log of an old one cut down to a single member."""

from ratifyd.config import Config
from ratifyd.embed.bootstrap import NewCluster, force_new_cluster
from ratifyd.membership import Change, hex_id
from ratifyd.proto.etcdserver_pb2 import Metadata
from ratifyd.raft.codec import decode_conf_change, encode_conf_change
from ratifyd.raft.messages import (
    ConfChange,
    ConfChangeKind,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Snapshot,
    SnapshotMeta,
)
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.recover import Recovered
from ratifyd.storage.worker import SoonWorker

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


START = SnapshotMeta(10, 2)


def forced(
    state: ConfState, hard_state: HardState, entries: list[Entry], start: SnapshotMeta = START
) -> tuple[list[tuple[int, int, int, int]], HardState]:
    """Term, index, kind and member of the changes added for member 1, and the hard state."""
    metadata = Metadata(NodeID=1, ClusterID=7).SerializeToString()
    backend = MemoryBackend(worker=SoonWorker(lambda job, *args: job(*args)))
    recovered = Recovered(False, backend, None, metadata, Snapshot(start), hard_state, entries, conf_state=state)
    added, after = force_new_cluster(recovered, ("http://x",))
    assert all(entry.kind == EntryKind.CONF_CHANGE for entry in added)
    changes = [decode_conf_change(entry.data) for entry in added]
    return [(e.term, e.index, int(c.kind), c.node_id) for e, c in zip(added, changes)], after


ADD, REMOVE = int(ConfChangeKind.ADD_NODE), int(ConfChangeKind.REMOVE_NODE)


def test_forcing_a_new_cluster_removes_the_others() -> None:
    entries = [
        conf(11, ConfChangeKind.ADD_NODE, 4),
        conf(12, ConfChangeKind.REMOVE_NODE, 2),
        Entry(3, 13, b"data"),
        Entry(3, 14, b"garbage", EntryKind.CONF_CHANGE),
        conf(15, ConfChangeKind.UPDATE_NODE, 3),
    ]
    state = ConfState(voters=(1, 2, 3), learners=(5,))
    added, hard_state = forced(state, HardState(3, 1, 15), entries)
    assert added == [(3, 16, REMOVE, 3), (3, 17, REMOVE, 4), (3, 18, REMOVE, 5)]
    assert hard_state == HardState(3, 1, 18)


def test_forcing_keeps_what_is_not_known_to_be_committed() -> None:
    """A commit is logged with the next entries: all of these may have been acknowledged."""
    entries = [Entry(3, 11, b"data"), conf(12, ConfChangeKind.ADD_NODE, 9), Entry(4, 13, b"more")]
    added, hard_state = forced(ConfState(voters=(1,)), HardState(4, 2, 10), entries)
    assert added == [(4, 14, REMOVE, 9)]
    assert hard_state == HardState(4, 2, 14)


def test_forcing_a_member_that_is_alone_changes_nothing() -> None:
    added, hard_state = forced(ConfState(voters=(1,)), HardState(3, 1, 10), [Entry(3, 11, b"data")])
    assert not added and hard_state == HardState(3, 1, 11)


def test_a_member_that_is_none_adds_itself_before_the_last_voter_goes() -> None:
    added, hard_state = forced(ConfState(voters=(2,)), HardState(3, 1, 10), [])
    assert added == [(3, 11, ADD, 1), (3, 12, REMOVE, 2)]
    assert hard_state.commit == 12


def test_a_learner_is_promoted_before_the_last_voter_goes() -> None:
    added, _ = forced(ConfState(voters=(2,)), HardState(3, 1, 11), [conf(11, ConfChangeKind.ADD_LEARNER_NODE, 1)])
    assert added == [(3, 12, ADD, 1), (3, 13, REMOVE, 2)]


def test_a_member_that_has_heard_nothing_begins_with_a_term_that_entries_have() -> None:
    added, hard_state = forced(ConfState(), HardState(), [], SnapshotMeta())
    assert added == [(1, 1, ADD, 1)]
    assert hard_state == HardState(1, 0, 1)


def test_what_is_added_is_never_of_an_older_term_than_what_is_there() -> None:
    """The term of a snapshot is recorded before the hard state that follows it."""
    added, hard_state = forced(ConfState(voters=(1, 2)), HardState(3, 2, 10), [], SnapshotMeta(10, 5))
    assert added == [(5, 11, REMOVE, 2)]
    assert hard_state == HardState(5, 0, 11)
