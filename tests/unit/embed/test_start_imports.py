"""What a plain start does not load: libraries that are slow to import and that few members need."""

import subprocess
import sys


def test_libraries_that_few_members_need_are_not_loaded() -> None:
    program = (
        "import sys, ratifyd.cli.server\n"
        "print(*sorted({'jwt', 'cryptography', 'grpc', 'hypothesis'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.split() == []
