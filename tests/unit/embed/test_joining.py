"""Joining a cluster whose members answer with nonsense: refused in words, whatever it is."""

import asyncio
import json
from typing import Any

import pytest

from ratifyd.config import Config
from ratifyd.embed.joining import JoinRefused, join
from ratifyd.embed.resolving import PATIENT, Lookups

LOCAL = "http://127.0.0.1:2380"


def refusal(cluster_id: str, *peer_urls: str, advertised: str = LOCAL, lookups: Lookups = PATIENT) -> str:
    """Why a member does not join a cluster of itself and another one at `peer_urls`, served under `cluster_id`."""
    members = [{"id": 1, "peerURLs": [LOCAL]}, {"id": 2, "peerURLs": peer_urls}]
    body = json.dumps(members).encode()
    head = f"HTTP/1.1 200 OK\r\nX-Etcd-Cluster-ID: {cluster_id}\r\nContent-Length: {len(body)}\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    async def main() -> str:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        other = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        options: dict[str, Any] = {"initial_advertise_peer_urls": (advertised,), "initial_cluster_state": "existing"}
        config = Config(initial_cluster=f"default={LOCAL},other={other}", **options)
        try:
            with pytest.raises(JoinRefused) as refused:
                await asyncio.wait_for(join(config, lookups), 10)
        finally:
            server.close()
        return str(refused.value)

    return asyncio.run(main())


@pytest.mark.parametrize("url", ["nonsense://", "", "http://1\0:2380", f"http://{'a' * 70}:2380", "http://[::1", ":"])
def test_members_at_what_is_no_address(url: str) -> None:
    assert "no match found for existing member (2" in refusal("1", url)


@pytest.mark.parametrize("cluster_id", ["", "-5", "f" * 17, "f" * 6000, "1_0", "x"])
def test_a_cluster_id_that_is_none(cluster_id: str) -> None:
    assert "could not retrieve cluster information" in refusal(cluster_id, LOCAL)


def test_a_member_whose_name_is_unknown_is_named() -> None:
    def unknown(host: str) -> str:
        if host[0].isdigit():
            return host
        raise OSError(-2, "Name or service not known")

    refused = refusal("1", "http://pod:2380", lookups=Lookups(unknown, patience_s=5, retry_s=10))
    assert (
        'no match found for existing member (2, [http://pod:2380]), last resolver error (failed to resolve "http://pod:'
        '2380" (lookup pod: Name or service not known))' in refused
    )


def test_what_a_joining_member_advertises_is_not_compared() -> None:
    assert "no match found for existing member (2" in refusal("1", "unix:///other", advertised="http://127.0.0.2:2380")


def test_a_cluster_that_lists_a_member_twice() -> None:
    assert f"no match found for existing member (2, [{LOCAL}])" in refusal("1", LOCAL)
