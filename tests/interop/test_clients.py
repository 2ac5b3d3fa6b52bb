"""Independent clients, each with a gRPC stack of its own: Python asyncio (C core), Rust (tonic), Node (grpc-js)."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aetcd
import etcd_client
import pytest
from aetcd.exceptions import DuplicateLeaseError

from harness.servers import EtcdServer

_NODE = Path(__file__).parent / "node"


def _aetcd(server: EtcdServer) -> Any:
    return aetcd.Client(host="127.0.0.1", port=server.client_port, timeout=10)


def test_aetcd_keys_and_transactions(server: EtcdServer, prefix: str) -> None:
    async def script() -> None:
        name = prefix.encode()
        async with _aetcd(server) as client:
            await client.put(name + b"a", b"1")
            assert (await client.get(name + b"a")).value == b"1"
            assert await client.get(name + b"none") is None
            assert await client.replace(name + b"a", b"1", b"2")
            assert not await client.replace(name + b"a", b"1", b"3")
            for number in range(3):
                await client.put(name + b"many/%d" % number, b"%d" % number)
            found = [(kv.key, kv.value) for kv in await client.get_prefix(name + b"many/")]
            assert found == [(name + b"many/%d" % number, b"%d" % number) for number in range(3)]
            keys = client.transactions
            succeeded, answers = await client.transaction(
                compare=[keys.value(name + b"a") == b"2", keys.version(name + b"a") > 1],
                success=[keys.put(name + b"b", b"yes"), keys.get(name + b"a")],
                failure=[keys.delete(name + b"a")],
            )
            assert succeeded and answers[1][0][0] == b"2"
            deleted = await client.delete_prefix(name)
            assert deleted.deleted == 5

    asyncio.run(script())


def test_aetcd_watch_and_leases(server: EtcdServer, prefix: str) -> None:
    async def script() -> None:
        name = prefix.encode()
        async with _aetcd(server) as client:
            watch = await client.watch_prefix(name)
            lease = await client.lease(60)
            await client.put(name + b"1", b"x", lease=lease)
            await client.put(name + b"2", b"y")
            await lease.revoke()
            seen = []
            async for event in watch:
                seen.append((event.kind, event.kv.key, event.kv.value))
                if len(seen) == 3:
                    await watch.cancel()
                    break
            assert seen == [("PUT", name + b"1", b"x"), ("PUT", name + b"2", b"y"), ("DELETE", name + b"1", b"")]
            second = await client.lease(60, lease_id=777)
            with pytest.raises(DuplicateLeaseError):
                await client.lease(60, lease_id=777)
            assert (await client.refresh_lease(777)).TTL == 60
            assert (await client.get_lease_info(777)).grantedTTL == 60
            await second.revoke()

    asyncio.run(asyncio.wait_for(script(), 30))


def test_aetcd_maintenance(server: EtcdServer, prefix: str) -> None:
    async def script() -> None:
        async with _aetcd(server) as client:
            status = await client.status()
            assert status.leader is not None and status.db_size > 0
            assert [member.name async for member in client.members()] == ["default"]
            revision = (await client.put(prefix.encode(), b"v")).header.revision
            await client.compact(revision)
            await client.defragment()
            assert await client.hash()
            assert [alarm async for alarm in client.list_alarms()] == []
            async with client.lock(prefix.encode() + b"lock", ttl=10) as lock:
                assert await lock.is_acquired()

    asyncio.run(asyncio.wait_for(script(), 30))


def test_aetcd_locks_exclude(server: EtcdServer, prefix: str) -> None:
    async def script() -> None:
        name = prefix.encode() + b"lock"
        order: list[str] = []
        async with _aetcd(server) as first, _aetcd(server) as second:
            held = first.lock(name, ttl=30)
            assert await held.acquire()

            async def wait() -> None:
                async with second.lock(name, ttl=30):
                    order.append("second in")

            waiting = asyncio.create_task(wait())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(waiting), 0.3)
            order.append("first out")
            assert await held.release()
            await waiting
        assert order == ["first out", "second in"]

    asyncio.run(asyncio.wait_for(script(), 30))


def test_etcd_client_py(server: EtcdServer, prefix: str) -> None:
    """The Rust client; strict about trailers and content types."""
    name = prefix.encode()

    async def script() -> None:
        client = etcd_client.Client([server.client_url])
        async with client.connect() as communicator:
            await communicator.put(name + b"1", b"one")
            await communicator.put(name + b"2", b"two")
            assert bytes(await communicator.get(name + b"1")) == b"one"
            assert await communicator.get(name + b"none") is None
            found = [[bytes(part) for part in pair] for pair in await communicator.get_prefix(name)]
            assert sorted(found) == [[name + b"1", b"one"], [name + b"2", b"two"]]
            compares = [etcd_client.Compare.value(name + b"1", etcd_client.CompareOp.EQUAL, b"one")]
            request = etcd_client.Txn().when(compares).and_then([etcd_client.TxnOp.put(name + b"3", b"three")])
            await communicator.txn(request)
            assert bytes(await communicator.get(name + b"3")) == b"three"
            await communicator.delete(name + b"1")
            assert await communicator.get(name + b"1") is None
            # The watcher says nothing about its creation, so write until it has seen the first.
            seen: list[bytes] = []
            first_seen = asyncio.Event()

            async def watch() -> None:
                async for event in communicator.watch(name + b"w"):
                    seen.append(bytes(event.value))
                    first_seen.set()
                    if seen[-1] == b"last":
                        return

            watching = asyncio.create_task(watch())
            while not first_seen.is_set():
                await communicator.put(name + b"w", b"first")
                await asyncio.sleep(0.02)
            for number in range(3):
                await communicator.put(name + b"w", b"%d" % number)
            await communicator.put(name + b"w", b"last")
            await watching
            assert [value for value in seen if value != b"first"] == [b"0", b"1", b"2", b"last"]

    asyncio.run(asyncio.wait_for(script(), 30))


def test_etcd_client_py_lock(server: EtcdServer, prefix: str) -> None:
    """It uses the server's Lock service."""

    async def script() -> None:
        client = etcd_client.Client([server.client_url])
        order: list[str] = []

        async def holder(name: str, inside: asyncio.Event, leave: asyncio.Event) -> None:
            option = etcd_client.EtcdLockOption(lock_name=prefix.encode() + b"lock", timeout=10.0)
            async with client.with_lock(option) as communicator:
                order.append(f"{name} in")
                inside.set()
                await leave.wait()
                await communicator.put(prefix.encode() + b"held", name.encode())
                order.append(f"{name} out")

        first_in, second_in, leave = asyncio.Event(), asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(holder("first", first_in, leave))
        await asyncio.wait([first, asyncio.create_task(first_in.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert not first.done(), first.exception()
        second = asyncio.create_task(holder("second", second_in, leave))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(second_in.wait()), 0.3)
        leave.set()
        await asyncio.gather(first, second)
        assert order == ["first in", "first out", "second in", "second out"]

    asyncio.run(asyncio.wait_for(script(), 30))


def test_node_etcd3(server: EtcdServer, prefix: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (_NODE / "node_modules").exists():
        pytest.skip("run `npm ci` in tests/interop/node first")
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", str(_NODE / "etcd3.test.mjs")],
        env={**os.environ, "ENDPOINT": server.client_endpoint, "PREFIX": f"node/{prefix}"},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
