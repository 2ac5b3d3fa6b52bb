"""The allocator keeps large blocks that are given back."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from ratifyd.cli.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def answers():
    return [b"x" * 290_000 for _ in range(14)]
answers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    answers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc")
def test_freed_memory_is_used_again() -> None:
    faults = {}
    for how in ("kept", "as it is"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert faults["kept"] * 10 < faults["as it is"]
