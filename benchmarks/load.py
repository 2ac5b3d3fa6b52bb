"""One run of h2load against a gRPC method, and what it printed.

h2load sees HTTP statuses only, and a refused gRPC call is a 200 too. So the bytes of the replies are counted: a
refusal carries no message, hence `n` good replies of a known size are exactly `n * size` bytes of data.
"""

import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INSTALL_HINT = "h2load is not installed; on Debian and Ubuntu: sudo apt-get install -y nghttp2-client"
TIMEOUT_S = 300.0

_FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s|m), ([\d.]+) req/s", re.MULTILINE)
_REQUESTS = re.compile(r"^requests: (\d+) total, \d+ started, \d+ done, (\d+) succeeded", re.MULTILINE)
_STATUS = re.compile(r"^status codes: (\d+) 2xx", re.MULTILINE)
_DATA = re.compile(r"^traffic: .*\((\d+)\) data$", re.MULTILINE)
_UNIT_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class LoadError(Exception):
    """h2load is missing, failed, or the server did not answer every request."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Connections, and concurrent streams on each."""

    connections: int
    streams: int

    @property
    def in_flight(self) -> int:
        return self.connections * self.streams

    def __str__(self) -> str:
        return f"{self.connections}x{self.streams}"


ALONE = Shape(1, 1)
"""One request at a time."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one run reached. `data_bytes` is the sum of all reply messages with their 5-byte prefixes."""

    requests: int
    elapsed_s: float
    rate: float
    data_bytes: int


def grpc_frame(message: bytes) -> bytes:
    """A message with gRPC's prefix: not compressed, big-endian length."""
    return struct.pack(">BI", 0, len(message)) + message


def find_h2load() -> str:
    """Path of h2load; LoadError with the install command when it is absent."""
    path = shutil.which("h2load")
    if path is None:
        raise LoadError(INSTALL_HINT)
    return path


def _command(
    endpoint: str, method: str, body: Path, shape: Shape, requests: int, headers: Sequence[str], log: Path | None
) -> list[str]:
    command = [
        find_h2load(),
        f"--clients={shape.connections}",
        f"--max-concurrent-streams={shape.streams}",
        f"--requests={requests}",
        f"--data={body}",
        "--header=content-type: application/grpc",
        "--header=te: trailers",
        *(f"--header={header}" for header in headers),
    ]
    if log is not None:
        command.append(f"--log-file={log}")
    return [*command, f"http://{endpoint}{method}"]


def parse(output: str) -> tuple[LoadResult, int]:
    """The figures in h2load's report, and how many replies had status 2xx."""
    finished, requests = _FINISHED.search(output), _REQUESTS.search(output)
    status, data = _STATUS.search(output), _DATA.search(output)
    if not (finished and requests and status and data):
        raise LoadError(f"h2load printed something else than a report:\n{output[-2000:]}")
    elapsed_s = float(finished[1]) * _UNIT_S[finished[2]]
    if requests[1] != requests[2]:
        raise LoadError(f"not every request succeeded: {requests[0]}")
    return LoadResult(int(requests[1]), elapsed_s, float(finished[3]), int(data[1])), int(status[1])


def run_load(
    endpoint: str,
    method: str,
    message: bytes,
    shape: Shape,
    requests: int,
    *,
    headers: Sequence[str] = (),
    log: Path | None = None,
) -> LoadResult:
    """Send `requests` calls of one method, all with the same message; LoadError unless each got a 2xx."""
    requests = max(requests, shape.in_flight)
    with tempfile.TemporaryDirectory(prefix="h2load-") as directory:
        body = Path(directory) / "body"
        body.write_bytes(grpc_frame(message))
        try:
            done = subprocess.run(
                _command(endpoint, method, body, shape, requests, headers, log),
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"{requests} requests at {shape} took more than {TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise LoadError(f"h2load ended with {done.returncode}: {done.stderr[-2000:]}")
    result, good = parse(done.stdout)
    if result.requests != requests or good != requests:
        raise LoadError(f"{good} of {requests} requests got a 2xx:\n{done.stdout[-2000:]}")
    return result


def run_latencies_us(
    endpoint: str, method: str, message: bytes, requests: int, shape: Shape = ALONE, headers: Sequence[str] = ()
) -> list[int]:
    """Microseconds of each of `requests` calls; the first tenth warms up and does not count."""
    with tempfile.TemporaryDirectory(prefix="h2load-") as directory:
        log = Path(directory) / "log"
        run_load(endpoint, method, message, shape, requests, headers=headers, log=log)
        rows = [line.split() for line in log.read_text().splitlines()]
    return [int(row[2]) for row in rows[len(rows) // 10 :]]


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile."""
    ordered = sorted(values)
    rank = max(0, min(len(ordered) - 1, round(percent / 100 * len(ordered) + 0.5) - 1))
    return ordered[rank]
