"""Becoming a member where there is no data yet: of a new cluster, or of one that runs and has added us already.

A joining member learns its id and the cluster's from the others, whose members must be those of --initial-cluster
(semantics 15.18, 22.4). Nothing is written here.
"""

import asyncio
import logging
import socket
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from ratifyd.config import Config, ConfigError, check_bootstrap
from ratifyd.config.values import parse_url, split_host_port
from ratifyd.membership import Member, hex_id, member_id
from ratifyd.peer.client import PeerClient
from ratifyd.peer.connection import PeerUnreachable
from ratifyd.peer.headers import parse_id
from ratifyd.proto.etcdserver_pb2 import Metadata
from ratifyd.server.members import members_of_json
from ratifyd.server.versions import version_told
from ratifyd.version import CLUSTER_VERSION, MIN_CLUSTER_VERSION, minor_of

CALL_TIMEOUT_S = 10.0
BOOTSTRAPPED_TIMEOUT_S = 1.0

log = logging.getLogger("ratifyd.embed")


class JoinRefused(Exception):
    """The cluster and what this member was told of it do not fit together; the text says why and what to do."""


class JoinedCluster:
    """A running cluster as a joining member found it."""

    def __init__(self, local_id: int, cluster_id: int, members: Sequence[Member]) -> None:
        self.metadata = Metadata(NodeID=local_id, ClusterID=cluster_id).SerializeToString()
        self.others = [member for member in members if member.id != local_id]
        """Where those are that will send the log, which names them only later."""


def initial_members(config: Config) -> dict[str, tuple[str, ...]]:
    """Check the --initial- options against each other; raises JoinRefused with the reason."""
    try:
        return check_bootstrap(config, resolve=_resolved)
    except ConfigError as error:
        raise JoinRefused(str(error)) from error


async def join(config: Config) -> JoinedCluster:
    """Find our place in the running cluster. Raises JoinRefused."""
    members = initial_members(config)
    urls = sorted(url for name, several in members.items() for url in several if name != config.name)
    client = PeerClient()
    try:
        cluster_id, existing = await _fetch_members(client, urls)
        ids = _match(members, existing)
        await _check_versions(client, [member for member in existing if member.id != ids[config.name]])
    finally:
        await client.close()
    return JoinedCluster(ids[config.name], cluster_id, existing)


async def check_not_bootstrapped(config: Config, members: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse to begin a cluster anew that runs already and knows this member as started. Raises JoinRefused."""
    urls = sorted(url for name, several in members.items() for url in several if name != config.name)
    local = member_id(members[config.name], config.initial_cluster_token)
    client = PeerClient(dial_timeout_s=BOOTSTRAPPED_TIMEOUT_S)
    try:
        _, existing = await _fetch_members(client, urls, timeout_s=BOOTSTRAPPED_TIMEOUT_S, quiet=True)
    except JoinRefused:
        return
    finally:
        await client.close()
    if any(member.id == local and member.client_urls for member in existing):
        raise JoinRefused(
            f"member {hex_id(local)} has already been bootstrapped. Its data is gone: remove it from the cluster, add "
            "it again, and start it with --initial-cluster-state=existing"
        )


async def _fetch_members(
    client: PeerClient, urls: Iterable[str], *, timeout_s: float = CALL_TIMEOUT_S, quiet: bool = False
) -> tuple[int, list[Member]]:
    for url in urls:
        try:
            answer = await client.get(url, "/members", timeout_s=timeout_s)
            cluster_id = parse_id(answer.headers.get("x-etcd-cluster-id", ""))
            if cluster_id is None:
                raise ValueError("no cluster id")
            members = members_of_json(answer.body)
        except (PeerUnreachable, ValueError, KeyError) as error:
            if not quiet:
                fields = {"address": f"{url}/members", "error": str(error)}
                log.warning("failed to get cluster response", extra={"fields": fields})
            continue
        if members:
            return cluster_id, members
    raise JoinRefused(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs. Is a "
        "member running at one of the other URLs of --initial-cluster?"
    )


def _match(members: Mapping[str, tuple[str, ...]], existing: Sequence[Member]) -> dict[str, int]:
    """The ids of the members named in --initial-cluster."""
    hint = (
        "--initial-cluster must list exactly the members of the cluster, this one included: see `etcdctl member list`"
    )
    if len(members) != len(existing):
        raise JoinRefused(f"error validating peerURLs: member count is unequal; {hint}")
    ids: dict[str, int] = {}
    for member in existing:
        wanted = {_resolved(url) for url in member.peer_urls}
        names = [name for name, urls in members.items() if {_resolved(url) for url in urls} == wanted]
        if not names:
            raise JoinRefused(
                "error validating peerURLs: PeerURLs: no match found for existing member "
                f"({hex_id(member.id)}, [{' '.join(member.peer_urls)}]); {hint}"
            )
        ids[names[0]] = member.id
    return ids


async def _check_versions(client: PeerClient, others: Sequence[Member]) -> None:
    """At least one member must tell a cluster version we can live in, and none another one."""
    answers = await asyncio.gather(*(_version(client, member) for member in others))
    versions = [version for version in answers if version is not None]
    if not versions or not all(
        minor_of(MIN_CLUSTER_VERSION) <= version <= minor_of(CLUSTER_VERSION) for version in versions
    ):
        found = ", ".join(f"{major}.{minor}" for major, minor in versions) or "none"
        raise JoinRefused(
            f"incompatible with current running cluster: its version is {found}, this member supports "
            f"{MIN_CLUSTER_VERSION} to {CLUSTER_VERSION}"
        )


async def _version(client: PeerClient, member: Member) -> tuple[int, int] | None:
    for url in member.peer_urls:
        try:
            answer = await client.get(url, "/version")
        except (PeerUnreachable, ValueError):
            continue
        version = version_told(answer.body, "etcdcluster")
        if version is not None:
            return version
    return None


@lru_cache
def _resolved(url: str) -> str:
    """A URL with an IP address in the place of a host name, as far as the name can be looked up."""
    try:
        scheme, address, path = parse_url(url)
        if scheme.startswith("unix"):
            return url
        host, port = split_host_port(address)
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):  # no URL, or a host name that none can be: another member may name anything
        return url
    return f"{scheme}://{min(str(entry[4][0]) for entry in found)}:{port}{path}"
