"""The files around the code: generated ones are current, documents agree with each other and with the code."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMPORT_NAMES = {
    "google-crc32c": "google_crc32c",
    "prometheus-client": "prometheus_client",
    "protobuf": "google",
    "pyjwt": "jwt",
    "pyyaml": "yaml",
}
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return found[0].lower()


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_generated_protobuf_modules_are_current() -> None:
    run("tools/generate_proto.py", "--check")


def test_generated_reference_is_current() -> None:
    run("tools/generate_reference.py", "--check")


def test_import_contracts_are_kept() -> None:
    run("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())")


def rooms_by_import() -> dict[str, set[str]]:
    """Top-level module outside the package -> rooms of `ratifyd` that import it."""
    package, found = ROOT / "src" / "ratifyd", defaultdict(set)
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found[alias.name.split(".")[0]].add(room)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found[node.module.split(".")[0]].add(room)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
                found[str(ast.literal_eval(node.args[0])).split(".")[0]].add(room)
    return {name: rooms for name, rooms in found.items() if name != "ratifyd" and name not in sys.stdlib_module_names}


def test_the_package_imports_its_declared_dependencies_only() -> None:
    names = {package_name(requirement) for requirement in project()["project"]["dependencies"]}
    declared = {IMPORT_NAMES.get(name, name) for name in names}
    imported = set(rooms_by_import())
    assert imported == declared, f"undeclared {imported - declared}, unused {declared - imported}"


def test_dependencies_are_imported_where_the_document_says() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    actual = rooms_by_import()
    wrong = []
    for requirement in project()["project"]["dependencies"]:
        name = package_name(requirement)
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        said = set(re.findall(r"`([a-z]+)`", row.split("|")[4]))
        rooms = actual.get(IMPORT_NAMES.get(name, name), set())
        if said != rooms:
            wrong.append(f"{name}: imported by {sorted(rooms)}, said {sorted(said)}")
    assert not wrong, wrong


def test_each_dependency_has_its_line() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    tables = project()["project"]
    listed = [*tables["dependencies"], *tables["optional-dependencies"]["dev"]]
    rows = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| "))
    words = {word.strip(",").lower() for word in rows.split()}
    missing = {package_name(requirement) for requirement in listed} - words
    assert not missing, f"docs/dependencies.md does not name {missing}"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    setup = [block.strip() for block in blocks if "venv .venv" in block]
    assert len(setup) == 2, "exactly two set-up commands"
    assert all("\n" not in command for command in setup), "each on one line"
    assert setup[0].endswith(".venv/bin/ratifyd")
    assert setup[1] in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], ids=lambda path: path.name)
def test_links_of_documents_lead_somewhere(path: Path) -> None:
    targets = [target for target in LINK.findall(path.read_text()) if "://" not in target]
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert not missing, missing


def test_documents_name_files_that_exist() -> None:
    """`src/...`, `tests/...` and the like in backquotes are paths of this repository."""
    pattern = re.compile(r"`((?:src|tests|docs|tools|benchmarks|harness|differential|simulation|proto)/[\w./-]+)`")
    missing = [
        f"{path.name}: {name}"
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
        for name in pattern.findall(path.read_text())
        if not (ROOT / name).exists()
    ]
    assert not missing, missing


def test_the_changelog_has_its_three_groups() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    for release in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        groups = re.findall(r"^### (.+)$", release, re.MULTILINE)
        assert groups == ["Safety and speed", "Features", "Internals"], release.splitlines()[0]
    assert f"## {project()['project']['version']} " in text
