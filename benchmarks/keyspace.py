"""`python -m benchmarks keyspace`: what size costs. Loads keyspaces of several sizes into both servers; at each size
memory, disk, restart, and the speed of gets and puts of keys drawn at random.

Both servers hold the data at the same time, so that neighbouring rounds can be compared: at 10 million keys that takes
about 20 GiB of memory (much of it file cache) and 25 GB of disk.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.bulk import load_keys
from benchmarks.compare import add_figures
from benchmarks.generator import SPACE_LOADS, Setting, run_generated
from benchmarks.load import LoadError, Shape
from benchmarks.options import add_common, checked
from benchmarks.process import allocated_bytes, cpu_seconds, private_bytes, resident_bytes
from benchmarks.recorder import Recorder
from benchmarks.sides import STOP_LIMIT_S, MeasuredServer, Names, Side, installed, room

SHAPES = (Shape(1, 1), Shape(100, 10))
DISK_BYTES_A_KEY = 1_200
"""Of one server: its log and its backend, with room to spare."""
LOAD_S_A_KEY = 40e-6
START_S_A_KEY = 5e-6


def size_case(keys: int) -> str:
    """Title of the record about memory, disk and loading."""
    return f"keyspace-{keys}/size"


def restart_case(keys: int) -> str:
    """Title of the record about restarts."""
    return f"keyspace-{keys}/restart"


def load_case(keys: int, load: str, shape: Shape) -> str:
    """Title of the record about gets or puts."""
    return f"keyspace-{keys}/{load}/{shape}"


def titles(keys: int) -> list[str]:
    """Titles of all records about one size."""
    loads = [load_case(keys, load, shape) for shape in SHAPES for load in SPACE_LOADS]
    return [size_case(keys), restart_case(keys), *loads]


def sizes_in(cases: Iterable[str]) -> list[int]:
    """Sizes of the keyspaces these cases are about, smallest first."""
    found = {case.removeprefix("keyspace-").partition("/")[0] for case in cases if case.startswith("keyspace-")}
    return sorted(int(each) for each in found)


def estimate_s(sizes: Sequence[int], plan: argparse.Namespace) -> float:
    """About how long a run takes."""
    return sum(sum(_estimates(size, plan)) for size in sizes)


def _estimates(keys: int, plan: argparse.Namespace) -> tuple[float, float, float]:
    """Loading, restarts, gets and puts."""
    loading = 2 * keys * LOAD_S_A_KEY + 5
    restarts = 2 * plan.restarts * (1.5 + keys * START_S_A_KEY)
    runs = len(SHAPES) * len(SPACE_LOADS) * 2 * plan.rounds * (plan.seconds + 0.8)
    return loading, restarts, runs


def _load(server: MeasuredServer, keys: int, estimate: float, recorder: Recorder) -> float:
    """Keys a second; the progress bar moves along."""
    done = 0.0

    def share(now: float) -> None:
        nonlocal done
        recorder.progress.advance(estimate * (now - done))
        done = now
        recorder.say(f"loading {keys:,} keys into {server.kind}: {now:.0%}")

    began = time.monotonic()
    load_keys(server.client_endpoint, keys, share)
    elapsed = time.monotonic() - began
    share(1.0)
    return keys / elapsed


def _settle(server: MeasuredServer) -> None:
    with Side(server) as side:
        side.settle()


def _measure_size(servers: Sequence[MeasuredServer], keys: int, plan: argparse.Namespace, recorder: Recorder) -> None:
    loading, _, _ = _estimates(keys, plan)
    with recorder.case(size_case(keys)) as record:
        for index, server in enumerate(servers):
            server.start()
            empty = resident_bytes(server.pid)
            load_rate = _load(server, keys, loading / 2, recorder)
            _settle(server)
            resident = resident_bytes(server.pid)
            record.add(index, load_rate=load_rate, resident_bytes=resident, private_bytes=private_bytes(server.pid))
            record.add(index, key_bytes=(resident - empty) / keys, data_bytes=allocated_bytes(server.data_dir))


def _measure_loads(servers: Sequence[MeasuredServer], keys: int, plan: argparse.Namespace, recorder: Recorder) -> None:
    for shape in SHAPES:
        for load in SPACE_LOADS:
            title = load_case(keys, load, shape)
            with recorder.case(title, 2 * plan.rounds * (plan.seconds + 0.8)) as record:
                for number in range(plan.rounds):
                    for index, server in enumerate(servers):
                        recorder.say(f"{title} round {number + 1}/{plan.rounds} {server.kind}")
                        before = cpu_seconds(server.pid)
                        setting = Setting(
                            server.client_endpoint, shape.connections, shape.streams, plan.seconds, keys=keys
                        )
                        figures = run_generated(load, setting)
                        add_figures(record, index, figures, cpu_seconds(server.pid) - before)


def _measure_restarts(
    servers: Sequence[MeasuredServer], keys: int, plan: argparse.Namespace, recorder: Recorder
) -> None:
    """Stop with SIGTERM, start, get an answer; memory afterwards, once the server idles."""
    _, estimate, _ = _estimates(keys, plan)
    with recorder.case(restart_case(keys), estimate) as record:
        for number in range(plan.restarts):
            for index, server in enumerate(servers):
                recorder.say(f"restart {number + 1}/{plan.restarts} of {server.kind} with {keys:,} keys")
                server.terminate(STOP_LIMIT_S)
                start_s = server.start_and_get()
                _settle(server)
                record.add(index, start_s=start_s, resident_bytes=resident_bytes(server.pid))


def measure(
    names: Names, sizes: Sequence[int], plan: argparse.Namespace, directory: Path | None, recorder: Recorder
) -> None:
    """Every size on servers of its own. Restarts come before gets and puts, whose writes would lengthen them."""
    for keys in sizes:
        needed = 2 * keys * DISK_BYTES_A_KEY
        if room(directory) < needed:
            raise LoadError(f"{keys:,} keys in two servers take up to {needed / 1e9:.0f} GB of disk; see --dir")
        with ExitStack() as stack:
            servers = [stack.enter_context(installed(kind, directory)) for kind in names]
            _measure_size(servers, keys, plan, recorder)
            _measure_restarts(servers, keys, plan, recorder)
            _measure_loads(servers, keys, plan, recorder)


def sizes_of(text: str) -> list[int]:
    """`10000,1_000_000` as numbers, smallest first."""
    found = sorted(int(each) for each in text.split(","))
    if found[0] < 1:
        raise ValueError(text)
    return found


def parser() -> argparse.ArgumentParser:
    """The options of this command."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks keyspace",
        description="Load keyspaces of several sizes; measure memory, disk, restarts, gets and puts at each.",
        epilog="Example: python -m benchmarks keyspace --keys 10000,1000000,10000000 --into results.json",
    )
    made.add_argument("--keys", type=sizes_of, default=[10_000, 1_000_000], help="sizes (default 10000,1000000)")
    made.add_argument("--restarts", type=int, default=3, help="restarts of each server at each size (default 3)")
    add_common(made)
    return made


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, append to the file; 1 when a server or a load fails."""
    plan = parser().parse_args(argv)
    run = partial(measure, sizes=plan.keys, plan=plan, directory=plan.dir)
    return checked(plan, estimate_s(plan.keys, plan), run)
