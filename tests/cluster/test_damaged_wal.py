"""A damaged write-ahead log: a torn tail is cut, anything else is refused with words that help.

The log is read here by a few lines of its own (length word, record, padding), not by the code under test.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.servers import EtcdServer, StartFailed
from ratifyd.proto import wal_pb2
from tests.cluster.conftest import StartServer
from tests.cluster.workload import Client

ENTRY = 2
SECTOR = 512
# Nothing reaches the backend between the writes and the kill, so the log alone decides what survives.
FLAGS = ("--backend-batch-interval=1h", "--backend-batch-limit=100000000")
BIG = b"x" * 8192


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands in its file: its length word, its first byte, its end."""

    kind: int
    word: int
    start: int
    end: int


def last_segment(server: EtcdServer) -> Path:
    return sorted((server.data_dir / "member" / "wal").glob("*.wal"))[-1]


def places(segment: Path) -> list[Place]:
    """All records of a segment up to its zero fill."""
    data, offset, found = segment.read_bytes(), 0, []
    while offset + 8 <= len(data):
        (word,) = struct.unpack_from("<Q", data, offset)
        if not word:
            break
        length, padding = word & (1 << 56) - 1, (word >> 56) & 7
        start, end = offset + 8, offset + 8 + length
        found.append(Place(wal_pb2.Record.FromString(data[start:end]).type, offset, start, end))
        offset = end + padding
    return found


def written_and_killed(start_server: StartServer) -> EtcdServer:
    """A server with 20 small writes and a big one, all acknowledged, killed."""
    server = start_server(*FLAGS)
    with Client(server.client_endpoint) as client:
        for number in range(20):
            client.put(b"k%d" % number, b"v" * 100)
        client.put(b"last", BIG)
    server.kill()
    return server


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def assert_only_the_last_is_gone(server: EtcdServer) -> None:
    """The entry that was damaged is gone, all before it are there, and the repaired log takes writes again."""
    server.restart()
    with Client(server.client_endpoint) as client:
        assert client.get(b"last") is None
        assert len(list(client.rows(b"k"))) == 20
        client.put(b"after", b"repair")
    server.restart(hard=True)
    with Client(server.client_endpoint) as client:
        assert client.get(b"after") == b"repair"
        assert client.get(b"last") is None


@pytest.mark.parametrize("cut", ["word", "first-sector", "middle", "last-byte"])
def test_a_truncated_last_entry_is_cut(cut: str, start_server: StartServer) -> None:
    server = written_and_killed(start_server)
    segment = last_segment(server)
    last = [place for place in places(segment) if place.kind == ENTRY][-1]
    size = {
        "word": last.word + 3,
        "first-sector": last.start + 40,
        "middle": (last.start + last.end) // 2,
        "last-byte": last.end - 1,
    }[cut]
    with segment.open("r+b") as file:
        file.truncate(size)
    assert_only_the_last_is_gone(server)


@pytest.mark.parametrize("lost", ["all-but-one-sector", "last-sector"])
def test_an_entry_with_sectors_never_written_is_cut(lost: str, start_server: StartServer) -> None:
    server = written_and_killed(start_server)
    segment = last_segment(server)
    last = [place for place in places(segment) if place.kind == ENTRY][-1]
    first_boundary = (last.start // SECTOR + 1) * SECTOR
    last_boundary = last.end // SECTOR * SECTOR
    start = first_boundary if lost == "all-but-one-sector" else last_boundary - SECTOR
    overwrite(segment, start, bytes(segment.stat().st_size - start))
    assert_only_the_last_is_gone(server)


def test_a_flipped_bit_in_the_middle_is_refused(start_server: StartServer, kind: str) -> None:
    server = written_and_killed(start_server)
    segment = last_segment(server)
    victim = [place for place in places(segment) if place.kind == ENTRY][8]
    before = segment.read_bytes()
    position = victim.end - 10
    overwrite(segment, position, bytes((before[position] ^ 0x04,)))
    with pytest.raises(StartFailed, match="ended with"):
        server.restart()
    log = server.log_text()
    assert "crc mismatch" in log
    if kind == "ratifyd":
        assert segment.name in log, "the message names the file"
        assert "restore" in log, "the message says what to do"
        assert "Traceback" not in log
    overwrite(segment, position, before[position : position + 1])
    server.restart()
    with Client(server.client_endpoint) as client:
        assert client.get(b"last") == BIG
