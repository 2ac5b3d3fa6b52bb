"""Becoming a member where there is no data yet: of a new cluster, or of one that runs and has added us already.

A joining member learns its id and the cluster's from the others, whose members must be those of --initial-cluster
(semantics 15.18, 22.4). Nothing is written here.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from ratifyd.config import Config, ConfigError, check_bootstrap, own_urls_differ
from ratifyd.config.values import quote
from ratifyd.embed.resolving import PATIENT, Lookups, Unresolved, with_addresses
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


async def initial_members(config: Config, lookups: Lookups = PATIENT) -> dict[str, tuple[str, ...]]:
    """Check the --initial- options of a new cluster against each other; raises JoinRefused with the reason."""
    members = _listed_members(config)
    own = members[config.name]
    reason = await _difference(config.initial_advertise_peer_urls, own, lookups)
    if reason:
        raise JoinRefused(str(own_urls_differ(config, own, reason)))
    return members


def _listed_members(config: Config) -> dict[str, tuple[str, ...]]:
    try:
        return check_bootstrap(config)
    except ConfigError as error:
        raise JoinRefused(str(error)) from error


async def _difference(advertised: Sequence[str], listed: Sequence[str], lookups: Lookups) -> str:
    """Why these are not the same URLs, in etcd's words; empty if they are, perhaps by other names."""
    if set(advertised) == set(listed):
        return ""
    if len(advertised) != len(listed):
        return f"len({_show(advertised)}) != len({_show(listed)})"
    try:
        addresses = await with_addresses((*advertised, *listed), lookups)
    except Unresolved as error:
        return str(error)
    pairs = zip(_renamed(advertised, addresses), _renamed(listed, addresses), strict=True)
    return next((f"resolved urls: {quote(one)} != {quote(other)}" for one, other in pairs if one != other), "")


def _show(urls: Sequence[str]) -> str:
    return f"[{' '.join(map(quote, urls))}]"


def _renamed(urls: Sequence[str], addresses: Mapping[str, str]) -> list[str]:
    return sorted(addresses.get(url, url) for url in urls)


async def join(config: Config, lookups: Lookups = PATIENT) -> JoinedCluster:
    """Find our place in the running cluster. Raises JoinRefused.

    What we advertise is not looked at, as in etcd: the cluster knows our URLs since we were added.
    """
    members = _listed_members(config)
    urls = sorted(url for name, several in members.items() for url in several if name != config.name)
    client = PeerClient()
    try:
        cluster_id, existing = await _fetch_members(client, urls)
        ids = await _match(members, existing, lookups)
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


async def _match(
    members: Mapping[str, tuple[str, ...]], existing: Sequence[Member], lookups: Lookups
) -> dict[str, int]:
    """The ids of the members named in --initial-cluster."""
    hint = (
        "--initial-cluster must list exactly the members of the cluster, this one included: see `etcdctl member list`"
    )
    if len(members) != len(existing):
        raise JoinRefused(f"error validating peerURLs: member count is unequal; {hint}")
    rest = dict(members)
    ids: dict[str, int] = {}
    unlike = []  # only where texts differ are names looked up: those of members that are down may not be known
    for member in existing:
        name = _take(rest, member.peer_urls, {})
        if name is None:
            unlike.append(member)
        else:
            ids[name] = member.id
    urls = {url for several in (*rest.values(), *(member.peer_urls for member in unlike)) for url in several}
    addresses, reason = {}, ""
    try:
        addresses = await with_addresses(sorted(urls), lookups) if unlike else {}
    except Unresolved as error:
        reason = f", last resolver error ({error})"
    for member in unlike:
        name = _take(rest, member.peer_urls, addresses)
        if name is None:
            raise JoinRefused(
                "error validating peerURLs: PeerURLs: no match found for existing member "
                f"({hex_id(member.id)}, [{' '.join(member.peer_urls)}]){reason}; {hint}"
            )
        ids[name] = member.id
    return ids


def _take(members: dict[str, tuple[str, ...]], urls: Sequence[str], addresses: Mapping[str, str]) -> str | None:
    """Take out the member at `urls`, and tell its name."""
    wanted = _renamed(urls, addresses)
    name = next((name for name, several in members.items() if _renamed(several, addresses) == wanted), None)
    if name is not None:
        del members[name]
    return name


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
