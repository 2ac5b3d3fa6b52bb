"""The v2 store inside raft snapshots, as far as it lives on: members, removed members and the cluster version.

etcd 3.5 dumps its whole v2 store there, 3.6 builds a small one with nothing else in it, and both restore membership
from it. What is written here is the small form, which both read; both forms are read. Nothing under `/1`, where v2
clients kept their keys, is understood: `has_user_keys` only tells that something is there.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_HISTORY_EVENTS = 1000
_NO_EXPIRY = "0001-01-01T00:00:00Z"
_STATS = (
    "getsSuccess",
    "getsFail",
    "setsSuccess",
    "setsFail",
    "deleteSuccess",
    "deleteFail",
    "updateSuccess",
    "updateFail",
    "createSuccess",
    "createFail",
    "compareAndSwapSuccess",
    "compareAndSwapFail",
    "compareAndDeleteSuccess",
    "compareAndDeleteFail",
    "expireCount",
    "watchers",
)


class V2Corrupt(ValueError):
    """These bytes are no v2 store with membership in it."""


@dataclass(slots=True, frozen=True)
class V2Member:
    """A member as the v2 store has it; `name` is empty until the member has published itself."""

    id: int
    peer_urls: tuple[str, ...]
    name: str = ""
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False


@dataclass(slots=True, frozen=True)
class V2Store:
    """Membership in a v2 store. `cluster_version` is empty while undecided."""

    members: tuple[V2Member, ...] = ()
    removed: tuple[int, ...] = ()
    cluster_version: str = ""
    has_user_keys: bool = False


def encode_v2(store: V2Store) -> bytes:
    """The JSON etcd 3.6 puts into a snapshot for this membership; etcd 3.5 restores from it as well."""
    tree = _Tree()
    cluster = [tree.directory("/0/members", [_member_node(tree, member) for member in store.members])]
    if store.removed:
        cluster.append(tree.directory("/0/removed_members", [_removed_node(tree, member) for member in store.removed]))
    if store.cluster_version:
        cluster.append(tree.leaf("/0/version", store.cluster_version))
    if not store.members:
        cluster.pop(0)
    root = _directory("/", 0, [_directory("/0", 0, cluster), _directory("/1", 0, [])])
    history = {
        "Queue": {
            "Events": [None] * _HISTORY_EVENTS,
            "Size": 0,
            "Front": 0,
            "Back": 0,
            "Capacity": _HISTORY_EVENTS,
        },
        "StartIndex": 0,
        "LastIndex": 0,
    }
    content = {
        "Root": root,
        "WatcherHub": {"EventHistory": history},
        "CurrentIndex": tree.index,
        "Stats": dict.fromkeys(_STATS, 0) | {"setsSuccess": tree.index},
        "CurrentVersion": 2,
    }
    return json.dumps(content, separators=(",", ":")).encode()


def decode_v2(data: bytes) -> V2Store:
    """Membership in a v2 store of either form. Raises V2Corrupt."""
    try:
        top = _children(json.loads(data)["Root"])
        cluster = _children(top.get("0"))
        members = tuple(_member(name, node) for name, node in _children(cluster.get("members")).items())
        removed = tuple(int(name, 16) for name in _children(cluster.get("removed_members")))
        version = str(cluster["version"]["Value"]) if "version" in cluster else ""
        user_keys = any(_children(node) for name, node in top.items() if name != "0")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise V2Corrupt(f"no v2 store: {error!r}") from error
    return V2Store(
        members=tuple(sorted(members, key=lambda member: member.id)),
        removed=tuple(sorted(removed)),
        cluster_version=version,
        has_user_keys=user_keys,
    )


class _Tree:
    """Numbers the nodes in order of creation, as the store's own index would."""

    __slots__ = ("index",)

    def __init__(self) -> None:
        self.index = 0

    def leaf(self, path: str, value: str) -> dict[str, Any]:
        self.index += 1
        return _node(path, self.index, value, None)

    def directory(self, path: str, children: Iterable[dict[str, Any]]) -> dict[str, Any]:
        return _directory(path, self.index, children)


def _node(path: str, index: int, value: str, children: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "Path": path,
        "CreatedIndex": index,
        "ModifiedIndex": index,
        "ExpireTime": _NO_EXPIRY,
        "Value": value,
        "Children": children,
    }


def _directory(path: str, index: int, children: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return _node(path, index, "", {child["Path"].rpartition("/")[2]: child for child in children})


def _member_node(tree: _Tree, member: V2Member) -> dict[str, Any]:
    path = f"/0/members/{member.id:x}"
    raft: dict[str, Any] = {"peerURLs": list(member.peer_urls)}
    if member.is_learner:
        raft["isLearner"] = True
    attributes: dict[str, Any] = {}
    if member.name:
        attributes["name"] = member.name
    if member.client_urls:
        attributes["clientURLs"] = list(member.client_urls)
    return tree.directory(
        path,
        [
            tree.leaf(path + "/attributes", json.dumps(attributes, separators=(",", ":"))),
            tree.leaf(path + "/raftAttributes", json.dumps(raft, separators=(",", ":"))),
        ],
    )


def _removed_node(tree: _Tree, member: int) -> dict[str, Any]:
    return tree.leaf(f"/0/removed_members/{member:x}", "")


def _children(node: Any) -> dict[str, Any]:
    return (node or {}).get("Children") or {}


def _member(name: str, node: Any) -> V2Member:
    children = _children(node)
    raft = json.loads(children["raftAttributes"]["Value"])
    attributes = json.loads(children["attributes"]["Value"]) if "attributes" in children else {}
    return V2Member(
        id=int(name, 16),
        peer_urls=tuple(raft.get("peerURLs") or ()),
        name=attributes.get("name", ""),
        client_urls=tuple(attributes.get("clientURLs") or ()),
        is_learner=bool(raft.get("isLearner", False)),
    )
