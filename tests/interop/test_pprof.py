"""/debug/pprof/: what is served with --enable-pprof, and that nothing is without."""

import gzip
import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from harness.servers import EtcdServer
from ratifyd.proto import rpc_pb2
from tests.cluster.workload import Client


@pytest.fixture(scope="module")
def profiled() -> Iterator[EtcdServer]:
    with EtcdServer("ratifyd", ["--enable-pprof", "--unsafe-no-fsync"]) as server:
        yield server


def ask(server: EtcdServer, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.client_port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def fields_of(data: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a protobuf message of varints and bytes."""
    found: list[tuple[int, int | bytes]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag >> 3, varint()))
        else:
            assert tag & 7 == 2
            size = varint()
            found.append((tag >> 3, data[at : at + size]))
            at += size
    return found


def numbers_of(data: bytes) -> list[int]:
    """A packed list of varints, read as fields would be."""
    numbers, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    return numbers


@dataclass
class Decoded:
    """A profile as a tool reads it: value types, and samples as (names of functions, values)."""

    types: list[tuple[str, str]] = field(default_factory=list)
    samples: list[tuple[list[str], list[int]]] = field(default_factory=list)


def decode(data: bytes) -> Decoded:
    message = fields_of(gzip.decompress(data))
    strings = [value.decode() for number, value in message if number == 6 and isinstance(value, bytes)]
    assert strings[0] == ""

    def parts(number: int) -> list[dict[int, int | bytes]]:
        return [dict(fields_of(value)) for found, value in message if found == number and isinstance(value, bytes)]

    functions = {each[1]: strings[int(each[2])] for each in parts(5)}
    locations = {each[1]: functions[dict(fields_of(bytes(each[4])))[1]] for each in parts(4)}  # type: ignore[arg-type]
    decoded = Decoded([(strings[int(each[1])], strings[int(each[2])]) for each in parts(1)])
    for each in parts(2):
        names = [locations[number] for number in numbers_of(bytes(each[1]))]  # type: ignore[arg-type]
        decoded.samples.append((names, numbers_of(bytes(each[2]))))  # type: ignore[arg-type]
    return decoded


def test_a_profile_shows_where_the_time_goes(profiled: EtcdServer) -> None:
    done = threading.Event()

    def work() -> None:
        with Client(profiled.client_endpoint) as client:
            while not done.is_set():
                client.range(rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", sort_target=rpc_pb2.RangeRequest.VALUE))

    with Client(profiled.client_endpoint) as client:
        for number in range(300):
            client.put(b"k%d" % number, b"v%d" % number)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):  # on a machine that is busy otherwise, a second may show little
            if profile_of(profiled):
                break
        else:
            raise AssertionError("no profile shows the ranges")
    finally:
        done.set()
        thread.join()


def profile_of(server: EtcdServer) -> bool:
    """Take the profile of a second; whether it shows the session, or a turn, and the ranges in it."""
    status, headers, body = ask(server, "/debug/pprof/profile?seconds=1")
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    found = decode(body)
    assert found.types == [("samples", "count"), ("cpu", "nanoseconds")]
    assert all(count > 0 and used_ns > 0 for _, (count, used_ns) in found.samples)
    inside = sum(values[1] for names, values in found.samples if "Session.receive" in names or "Node.turn" in names)
    assert inside <= 1_500_000_000
    return inside > 0 and any("range_body" in names for names, _ in found.samples)


def test_stacks_of_threads_and_tasks(profiled: EtcdServer) -> None:
    status, _, body = ask(profiled, "/debug/pprof/goroutine?debug=2")
    assert status == 200
    assert b"thread MainThread:\n" in body and b"_stacks" in body
    assert b"\ntask " in body
    found = decode(ask(profiled, "/debug/pprof/goroutine")[2])
    assert found.types == [("goroutine", "count")]
    assert any("main" in names for names, _ in found.samples)


def test_the_other_pages(profiled: EtcdServer) -> None:
    status, headers, _ = ask(profiled, "/debug/pprof")
    assert (status, headers["location"]) == (301, "/debug/pprof/")
    status, headers, body = ask(profiled, "/debug/pprof/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"href='profile'" in body
    status, _, body = ask(profiled, "/debug/pprof/cmdline")
    assert status == 200 and b"--enable-pprof" in body.split(b"\0")
    for name in ("heap", "allocs", "mutex", "block", "threadcreate", "symbol", "trace"):
        status, headers, body = ask(profiled, f"/debug/pprof/{name}")
        assert (status, headers["x-go-pprof"], body) == (404, "1", b"Unknown profile\n")
    for seconds in ("0", "301", "-1", "x", "1e3", "9" * 5000):
        assert ask(profiled, f"/debug/pprof/profile?seconds={seconds}")[0] == 400


def test_one_profile_at_a_time(profiled: EtcdServer) -> None:
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(profiled, "/debug/pprof/profile?seconds=1")[0]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 500, 500]
    assert ask(profiled, "/debug/pprof/profile?seconds=1")[0] == 200


def test_nothing_is_told_unless_asked_for() -> None:
    with EtcdServer("ratifyd", ["--unsafe-no-fsync"]) as server:
        for name in ("", "profile", "cmdline", "heap"):
            assert ask(server, f"/debug/pprof/{name}")[::2] == (404, b"404 page not found\n")
