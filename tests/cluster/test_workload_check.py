"""The checker of the crash tests must be able to fail: each kind of damage, done on purpose, is seen."""

from collections.abc import Callable

import pytest

from harness import stubs
from ratifyd.proto import rpc_pb2
from tests.cluster.conftest import StartServer
from tests.cluster.workload import Client, Workload

Damage = Callable[[Client, stubs.Client], None]


def some_key(client: Client, prefix: bytes) -> bytes:
    return bytes(next(iter(client.rows(prefix))).key)


def lose_a_write(client: Client, raw: stubs.Client) -> None:
    raw.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=some_key(client, b"put/")))


def write_twice(client: Client, raw: stubs.Client) -> None:
    row = next(iter(client.rows(b"put/")))
    client.put(row.key, row.value)


def half_a_transaction(client: Client, raw: stubs.Client) -> None:
    row = next(iter(client.rows(b"counter/")))
    client.put(row.key, row.value)


def set_a_counter_back(client: Client, raw: stubs.Client) -> None:
    raw.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=some_key(client, b"counter/")))


def invent_a_write(client: Client, raw: stubs.Client) -> None:
    client.put(b"put/999/999", b"")


@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        (lose_a_write, "lost"),
        (write_twice, "moved"),
        (half_a_transaction, "in part or twice"),
        (set_a_counter_back, "in part or twice"),
        (invent_a_write, "nobody wrote"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_seen(damage: Damage, seen: str, start_server: StartServer) -> None:
    workload = Workload(workers=4)
    server = start_server()
    with workload.running(server.client_endpoint):
        workload.wait_acknowledged(60)
    with Client(server.client_endpoint) as client, stubs.Client(server.client_endpoint) as raw:
        workload.check(client)
        damage(client, raw)
        with pytest.raises(AssertionError, match=seen):
            workload.check(client)


def test_a_revision_that_went_back_is_seen(start_server: StartServer) -> None:
    workload = Workload(workers=4)
    server = start_server()
    with workload.running(server.client_endpoint):
        workload.wait_acknowledged(60)
    with Client(start_server().client_endpoint) as other, pytest.raises(AssertionError, match="went back"):
        workload.check(other)
