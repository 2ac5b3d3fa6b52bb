"""Command line: seeds in, the first difference out; exit status 1 when there is one."""

import argparse
import asyncio
import sys
import time
from collections import Counter

from differential.generator import Generator
from differential.operations import Kind, Operation
from differential.pairs import session
from differential.runner import HASH_PATH, Difference
from differential.scenarios import run_scenarios
from differential.shrink import same_kind, shrink
from differential.users import UserGenerator
from harness.servers import KINDS

_HASH_EVERY = 500


class Progress:
    """One line on standard error, rewritten in place on a terminal and silent elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._last = 0.0

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if self._shown and now - self._last > 0.1:
            self._last = now
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


async def run_seed(
    seed: int, options: argparse.Namespace, progress: Progress, counts: Counter[str]
) -> tuple[list[Operation], Difference | None]:
    """One random sequence on a fresh pair: the operations carried out and the first difference.

    With --collect, differences are printed and passed over, one of each kind, and the one that exceeds the number
    given is returned; those after a change of state may be consequences of the first.
    """
    generator = UserGenerator(seed) if options.users else Generator(seed, options.without)
    count = options.ops
    done: list[Operation] = []
    collected: list[Difference] = []
    async with session(options.left, options.right) as both:
        for number in range(1, count + 1):
            hash_due = number % _HASH_EVERY == 0 and not both.auth_on
            operation = Operation(Kind.UNARY, HASH_PATH) if hash_due else generator.next(both)
            done.append(operation)
            counts[operation.path] += 1
            found = await both.execute(operation)
            if found is not None and len(collected) < options.collect:
                if not any(same_kind(found, each) for each in collected):
                    collected.append(found)
                    progress.line(f"seed {seed}: {found}")
            elif found is not None:
                return done, found
            progress(f"seed {seed}: {number}/{count} operations, revision {both.revision}")
        return done, await both.finish()


async def run(options: argparse.Namespace) -> int:
    progress = Progress()
    counts: Counter[str] = Counter()
    if options.scenarios:
        failed = await run_scenarios(options.left, options.right, progress.line)
        return 1 if failed else 0
    for seed in options.seeds:
        started = time.monotonic()
        done, found = await run_seed(seed, options, progress, counts)
        if found is None:
            progress.line(f"seed {seed}: {len(done)} operations agree, {time.monotonic() - started:.1f} s")
            continue
        progress.line(f"seed {seed}: {options.left} and {options.right} differ\n{found}")
        if options.shrink > 0 and found.operation is not None:
            best, found = await shrink(
                done, found, options.left, options.right, budget_s=options.shrink, progress=progress
            )
            progress.line(f"shortened to {len(best)} operations:")
            for number, operation in enumerate(best[-options.show :], max(1, len(best) - options.show + 1)):
                progress.line(f"  {number}. {operation}")
            progress.line(str(found))
        return 1
    if options.counts:
        for path, number in counts.most_common():
            progress.line(f"{number:7} {path}")
    return 0


def _seeds(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m differential", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=range(1, 2), metavar="A..B", help="seeds to run (default 1)")
    parser.add_argument("--ops", type=int, default=5000, help="operations in each sequence (default 5000)")
    parser.add_argument("--left", choices=KINDS, default="etcd")
    parser.add_argument("--right", choices=KINDS, default="ratifyd")
    parser.add_argument(
        "--shrink", type=float, default=60.0, metavar="S", help="seconds spent on shortening (default 60)"
    )
    parser.add_argument("--show", type=int, default=40, help="operations printed of a shortened sequence (default 40)")
    parser.add_argument(
        "--users", action="store_true", help="sequences of users, roles and tokens, with auth on for most of the time"
    )
    parser.add_argument(
        "--scenarios", action="store_true", help="run the fixed scenarios that need time to pass instead"
    )
    parser.add_argument(
        "--without",
        nargs="*",
        default=[],
        metavar="FAMILY",
        help="leave out: auth, txn, malformed ...",
    )
    parser.add_argument(
        "--collect", type=int, default=0, metavar="N", help="pass over N kinds of differences (default 0)"
    )
    parser.add_argument("--counts", action="store_true", help="print how often each method was called")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
