"""Command line: seeds in, the first broken promise out; exit status 1 when there is one."""

import argparse
import logging
import sys
import time

from simulation.options import draw
from simulation.world import World


def main() -> int:
    seed0, seed1 = (int(x) for x in sys.argv[1].split(".."))
    logging.disable(logging.CRITICAL)
    for seed in range(seed0, seed1 + 1):
        options = draw(seed).changed_by(sys.argv[2:])
        began = time.process_time()
        world = World(options)
        violation = world.run()
        cpu = time.process_time() - began
        print(
            f"seed {seed}: {world.clock.now:.1f} s in {cpu:.2f} s, {len(world.history.operations)} ops, {len(world.model.applied)} entries, {world.restarts} restarts, members {options.members}, digest {world.network.digest:x} {sum(world.nemesis.counts.values())}",
            violation or "",
        )
        if violation is not None and violation.__cause__ is not None:
            import traceback

            traceback.print_exception(violation.__cause__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
