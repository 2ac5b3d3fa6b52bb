"""Generates the modules of src/ratifyd/proto from the .proto files in proto/.

`python tools/generate_proto.py` writes them; with `--check` it writes nothing and exits 1 if they are stale.
The compiler's output is changed in three ways: descriptors go into the package's own pool instead of the process-wide
one, imports and module names are those of the package, and the type checker is told to overlook how stubs are written.
"""

import re
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "proto"
PACKAGE = ROOT / "src" / "ratifyd" / "proto"
MODULE = "ratifyd.proto"

_POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
_POOL_USE = "_descriptor_pool.Default()"
_IMPORT = re.compile(r"^import (\w+_pb2) as (\w+)$", re.MULTILINE)
_TOP_LEVEL = re.compile(r"BuildTopDescriptorsAndMessages\(DESCRIPTOR, '(\w+_pb2)'")


def main(arguments: Sequence[str]) -> int:
    """Write the modules, or compare them; the exit code."""
    check = "--check" in arguments
    with tempfile.TemporaryDirectory() as temporary:
        fresh = generate(Path(temporary))
    present = {path.name: path.read_text() for path in PACKAGE.glob("*_pb2.py*")}
    stale = sorted(name for name in fresh.keys() | present.keys() if fresh.get(name) != present.get(name))
    if check:
        for name in stale:
            sys.stderr.write(f"stale: {PACKAGE.relative_to(ROOT) / name}\n")
        return 1 if stale else 0
    for name in stale:
        if name in fresh:
            (PACKAGE / name).write_text(fresh[name])
        else:
            (PACKAGE / name).unlink()
    sys.stdout.write(f"{len(fresh)} files, {len(stale)} changed\n")
    return 0


def generate(directory: Path) -> dict[str, str]:
    """Text of every generated file by name; `directory` is scratch space."""
    sources = sorted(path.name for path in SOURCES.glob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    options = [f"-I{SOURCES}", f"-I{well_known}", f"--python_out={directory}", f"--pyi_out={directory}"]
    if protoc.main(["protoc", *options, *sources]) != 0:
        raise SystemExit("protoc failed")
    return {path.name: _adapt(path) for path in directory.glob("*_pb2.py*")}


def _adapt(path: Path) -> str:
    text = _IMPORT.sub(rf"from {MODULE} import \1 as \2", path.read_text())
    if path.suffix == ".pyi":
        return "# mypy: ignore-errors\n" + text
    for expected in (_POOL_IMPORT, _POOL_USE):
        if text.count(expected) != 1:
            raise SystemExit(f"{path.name}: not the output this script knows how to change")
    text = text.replace(_POOL_IMPORT, f"from {MODULE} import pool as _pool\n").replace(_POOL_USE, "_pool.POOL")
    return _TOP_LEVEL.sub(rf"BuildTopDescriptorsAndMessages(DESCRIPTOR, '{MODULE}.\1'", text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
