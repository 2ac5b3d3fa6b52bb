"""Members: records, ids, and which changes are legal. Ids and bytes are those a real etcd 3.5 makes."""

import json

import pytest

from ratifyd.errors import EtcdError, MemberExist, MemberNotFound, MemberNotLearner, PeerURLExist, TooManyLearners
from ratifyd.membership import Change, ChangeKind, Member, Membership, cluster_id, hex_id, member_id

A = Member(1, ("http://a:2380",), "a", ("http://a:2379",))
B = Member(2, ("http://b:2380",))


@pytest.fixture
def members() -> Membership:
    membership = Membership(1, 99)
    for member in (A, B):
        membership.apply(Change(ChangeKind.ADD_NODE, member))
    return membership


def change(kind: ChangeKind, number: int, *urls: str, promote: bool = False) -> Change:
    return Change(kind, Member(number, urls), promote)


def test_records_are_etcds_json() -> None:
    assert A.to_json() == b'{"id":1,"peerURLs":["http://a:2380"],"name":"a","clientURLs":["http://a:2379"]}'
    learner = Member(3, ("http://c",), is_learner=True)
    assert learner.to_json() == b'{"id":3,"peerURLs":["http://c"],"isLearner":true}'
    for member in (A, B, learner):
        assert Member.from_json(member.to_json()) == member
    assert Member.from_json(b'{"id":18446744073709551615,"peerURLs":null,"clientURLs":null}') == Member(2**64 - 1, ())
    for bad in (b"", b"[]", b"{}", b"\xff"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            Member.from_json(bad)


@pytest.mark.parametrize("field", ['"name":"a%s"', '"peerURLs":["http://a%s:1"]', '"clientURLs":["http://a:1","%s"]'])
def test_what_no_answer_could_hold_is_no_record(field: str) -> None:
    record = '{"id":1,' + field + "}"
    assert Member.from_json((record % r"\ud83d\ude00").encode()).id == 1
    for half in (r"\ud83d", r"\ude00"):
        with pytest.raises(ValueError, match="surrogates"):
            Change.decode(ChangeKind.ADD_LEARNER, 1, (record % half).encode())


def test_ids_of_a_real_cluster() -> None:
    """`etcd --name default --initial-cluster default=http://localhost:2380`: member 8e9e05c52164694d."""
    number = member_id(["http://localhost:2380"], "etcd-cluster")
    assert hex_id(number) == "8e9e05c52164694d"
    assert hex_id(cluster_id([number])) == "cdf818194e3a8c32"


def test_ids_depend_on_what_they_should() -> None:
    urls = ["http://a", "http://b"]
    assert member_id(urls, "t") == member_id(reversed(urls), "t")
    assert len({member_id(urls, "t"), member_id(urls, "u"), member_id(urls, "t", 5), member_id(urls, "t", 6)}) == 4
    assert cluster_id([1, 2]) == cluster_id([2, 1]) != cluster_id([1, 3])
    assert hex_id(0x0A) == "a"


def test_changes_travel_as_json() -> None:
    for each in (change(ChangeKind.ADD_NODE, 3, "http://c"), change(ChangeKind.UPDATE_NODE, 1, "http://x")):
        assert Change.decode(int(each.kind), each.member.id, each.context()) == each
    assert change(ChangeKind.REMOVE_NODE, 3).context() == b""
    assert Change.decode(1, 3, b"") == change(ChangeKind.REMOVE_NODE, 3)
    promote = change(ChangeKind.ADD_NODE, 3, promote=True)
    assert json.loads(promote.context()) == {"id": 3, "peerURLs": None, "isPromote": True}
    assert Change.decode(0, 3, promote.context()) == promote


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (change(ChangeKind.ADD_NODE, 1, "http://new"), MemberExist),
        (change(ChangeKind.ADD_LEARNER, 2, "http://new"), MemberExist),
        (change(ChangeKind.ADD_NODE, 3, "http://new", "http://b:2380"), PeerURLExist),
        (change(ChangeKind.REMOVE_NODE, 3), MemberNotFound),
        (change(ChangeKind.UPDATE_NODE, 3, "http://new"), MemberNotFound),
        (change(ChangeKind.UPDATE_NODE, 1, "http://b:2380"), PeerURLExist),
        (change(ChangeKind.ADD_NODE, 3, promote=True), MemberNotFound),
        (change(ChangeKind.ADD_NODE, 2, promote=True), MemberNotLearner),
    ],
)
def test_illegal_changes(members: Membership, bad: Change, error: type[EtcdError]) -> None:
    with pytest.raises(error):
        members.check(bad)


def test_a_member_may_keep_its_url(members: Membership) -> None:
    members.check(change(ChangeKind.UPDATE_NODE, 1, "http://a:2380", "http://more"))


def test_removed_ids_never_return(members: Membership) -> None:
    remove = change(ChangeKind.REMOVE_NODE, 2)
    members.check(remove)
    members.apply(remove)
    assert list(members.members) == [1]
    for again in (remove, change(ChangeKind.ADD_NODE, 2, "http://new"), change(ChangeKind.UPDATE_NODE, 2, "http://n")):
        with pytest.raises(MemberNotFound):
            members.check(again)
    members.check(change(ChangeKind.ADD_NODE, 3, "http://b:2380"))  # its URL may


def test_learners(members: Membership) -> None:
    members.apply(change(ChangeKind.ADD_LEARNER, 3, "http://c", "http://b2"))
    assert members.members[3].is_learner
    assert members.members[3].peer_urls == ("http://b2", "http://c")
    with pytest.raises(TooManyLearners):
        members.check(change(ChangeKind.ADD_LEARNER, 4, "http://d"))
    members.check(change(ChangeKind.ADD_NODE, 4, "http://d"))
    members.apply(change(ChangeKind.UPDATE_NODE, 3, "http://c3"))
    assert members.members[3].is_learner  # an update leaves it one (etcd 3.5.31)
    promote = change(ChangeKind.ADD_NODE, 3, promote=True)
    members.check(promote)
    members.apply(promote)
    assert not members.members[3].is_learner
    assert members.members[3].peer_urls == ("http://c3",)


def test_attributes(members: Membership) -> None:
    assert members.set_attributes(2, "b", ["http://b:2379"])
    assert (members.members[2].name, members.members[2].client_urls) == ("b", ("http://b:2379",))
    assert not members.set_attributes(9, "x", [])
    assert members.local == A


def test_restoring(members: Membership) -> None:
    again = Membership(1, 99)
    rows = [(hex_id(member.id).encode(), member.to_json()) for member in members.sorted()]
    again.restore(rows, [(b"ff", b"removed")], b"3.6.0")
    assert again.sorted() == members.sorted()
    assert (list(again.removed), again.cluster_version) == ([255], "3.6.0")
    assert [member.id for member in again.sorted()] == [1, 2]


@pytest.mark.parametrize(
    ("version", "downgrade"),
    [
        (b"3", None),
        (b"3.x.0", None),
        (b"3.6.0", b'{"target-version":5,"enabled":true}'),
        (b"3.6.0", b'{"target-version":"3","enabled":true}'),
    ],
)
def test_versions_that_are_none_are_not_restored(version: bytes, downgrade: bytes | None) -> None:
    with pytest.raises(ValueError, match=r"version|unpack|int"):
        Membership(1, 99).restore([], [], version, downgrade)
