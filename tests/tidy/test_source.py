"""Rules of the house that a machine can check, over every Python file and text file of the repository."""

import ast
import re
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RATCHET = Path(__file__).with_name("ratchet.txt")
CODE_DIRS = ("src", "tests", "benchmarks", "harness", "simulation", "tools", "examples")
SKIPPED_DIRS = {"node_modules", "__pycache__", "build", "dist"}
TEXT_SUFFIXES = {".py", ".pyi", ".md", ".toml", ".proto", ".txt", ".sh", ".yml", ".yaml", ".json", ".js", ".tsv", ""}
MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 70
MAX_DOCSTRING_LINES = 10

# Where the word itself is the point: this directory spells the rules out.
UNFINISHED = re.compile(r"\b(?:(?:TODO|FIXME|XXX|HACK)(?=[:\s(]|$)|NotImplementedError\b)")
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:work|home|root|Users)/[\w.]|/tmp/(?:team|src|bench)\b")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def walk(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name in SKIPPED_DIRS or (path.name.startswith(".") and path.name not in {".ci", ".gitignore"}):
            continue
        if path.is_symlink() or path.suffix in {".etcd", ".egg-info"}:
            continue
        if path.is_dir():
            yield from walk(path)
        elif path.is_file():
            yield path


@cache
def text_files() -> list[Path]:
    return [path for path in walk(ROOT) if path.suffix in TEXT_SUFFIXES]


@cache
def python_files() -> list[Path]:
    return [
        path
        for path in text_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in CODE_DIRS and not path.stem.endswith("_pb2")
    ]


@cache
def source_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(source_of(path), filename=str(path))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def in_src(path: Path) -> bool:
    return name_of(path).startswith("src/")


def room_of(path: Path) -> str:
    """First name below the package: `mvcc` for src/ratifyd/mvcc/index.py, `keys` for src/ratifyd/keys.py."""
    return path.relative_to(ROOT / "src" / "ratifyd").parts[0].removesuffix(".py")


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, FunctionNode]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FunctionNode | ast.ClassDef):
            qualified = f"{prefix}{node.name}"
            if isinstance(node, FunctionNode):
                yield qualified, node
            yield from functions(node, f"{qualified}.")
        else:
            yield from functions(node, prefix)


@cache
def comment_lines(path: Path) -> frozenset[int]:
    with path.open("rb") as file:
        return frozenset(t.start[0] for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT)


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def oversize() -> dict[str, int]:
    """Everything over a limit: `path` for files, `path:function` for functions, with its length."""
    found: dict[str, int] = {}
    for path in python_files():
        lines = source_of(path).count("\n")
        if lines > MAX_FILE_LINES:
            found[name_of(path)] = lines
        for qualified, node in functions(tree_of(path)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found[f"{name_of(path)}:{qualified}"] = length
    return found


def ratchet() -> dict[str, int]:
    """The exceptions that are still allowed: `name length` a line."""
    rows = [line.split() for line in RATCHET.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return {name: int(length) for name, length in rows}


def test_sizes_stay_under_the_limits_or_the_ratchet() -> None:
    allowed = ratchet()
    grown = {name: length for name, length in oversize().items() if length > allowed.get(name, 0)}
    assert not grown, f"over {MAX_FILE_LINES} lines a file or {MAX_FUNCTION_LINES} a function: {grown}"


def test_the_ratchet_only_shrinks() -> None:
    actual = oversize()
    loose = {name: length for name, length in ratchet().items() if actual.get(name, 0) < length}
    assert not loose, f"shorter now, so lower or remove these lines of {RATCHET.name}: {loose}"


def test_imports_are_absolute_and_at_the_top() -> None:
    bad = []
    for path in python_files():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.level:
                bad.append(f"{name_of(path)}:{node.lineno} relative import")
        for qualified, function in functions(tree_of(path)):
            for node in ast.walk(function):
                inner = isinstance(node, ast.Import | ast.ImportFrom)
                # An optional dependency may be imported late when the line says so.
                if inner and node.lineno not in comment_lines(path):
                    bad.append(f"{name_of(path)}:{node.lineno} import inside {qualified}")
    assert not bad, bad


def test_nothing_is_left_unfinished() -> None:
    bad = [
        f"{name_of(path)}:{number} {line.strip()[:80]}"
        for path in text_files()
        if path.parent != Path(__file__).parent and not name_of(path).startswith("LICENSE")
        for number, line in enumerate(source_of(path).splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not bad, bad


def test_broad_excepts_say_why() -> None:
    bad = []
    for path in python_files():
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            names = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            broad = any(name is None or dotted(name) in {"Exception", "BaseException"} for name in names)
            explained = any(line in comment_lines(path) for line in range(node.lineno - 1, node.body[0].lineno + 1))
            passes_on = isinstance(node.body[-1], ast.Raise)
            if broad and not explained and not passes_on:
                bad.append(f"{name_of(path)}:{node.lineno}")
    assert not bad, f"a broad except needs a comment that says why: {bad}"


def banned_call(path: Path, node: ast.Call) -> str | None:
    """Why this call may not stand in this file, or None."""
    inside, call = in_src(path), dotted(node.func)
    if inside and call == "print" and room_of(path) != "cli":
        return "print outside cli"
    # sleep(0) lets go of the interpreter and waits for nothing.
    waits = call in {"time.sleep", "sleep"} and ast.unparse(node) != f"{call}(0)"
    if waits and (inside or name_of(path).startswith("tests/")):
        return "sleeping: wait for an event with a deadline instead"
    if (
        inside
        and call in {"eval", "exec", "os._exit", "pickle.loads", "asyncio.run"}
        and room_of(path)
        not in {
            "embed",
            "cli",
        }
    ):
        return f"{call} is not for this room"
    return None


def test_no_banned_calls() -> None:
    bad = []
    for path in python_files():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and (why := banned_call(path, node)):
                bad.append(f"{name_of(path)}:{node.lineno} {why}")
    assert not bad, bad


def test_the_environment_is_read_in_one_place() -> None:
    bad = [
        f"{name_of(path)}:{node.lineno}"
        for path in python_files()
        if in_src(path) and room_of(path) not in {"embed", "cli"}
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and dotted(node) in {"os.environ", "os.getenv"}
    ]
    assert not bad, bad


def test_every_module_says_what_it_promises() -> None:
    bad = []
    for path in python_files():
        if not in_src(path):
            continue
        docstring = ast.get_docstring(tree_of(path))
        if not docstring:
            bad.append(f"{name_of(path)}: no module docstring")
        elif docstring.count("\n") >= MAX_DOCSTRING_LINES:
            bad.append(f"{name_of(path)}: docstring over {MAX_DOCSTRING_LINES} lines")
    assert not bad, bad


def test_no_machine_paths() -> None:
    bad = [
        f"{name_of(path)}:{number} {line.strip()[:80]}"
        for path in text_files()
        if path.parent != Path(__file__).parent
        for number, line in enumerate(source_of(path).splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not bad, bad


@pytest.mark.parametrize("line", ["except Exception:", "except BaseException:", "except:"])
def test_the_broad_except_check_can_fail(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = tmp_path / "src" / "sample.py"
    sample.parent.mkdir()
    sample.write_text(f"try:\n    pass\n{line}\n    pass\n")
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "python_files", lambda: [sample])
    with pytest.raises(AssertionError, match=r"sample\.py:3"):
        test_broad_excepts_say_why()
