"""The server command with a member of straw: exit codes, output, signals."""

import asyncio
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratifyd.cli import command
from ratifyd.cli.completion import SHELLS, completion_script
from ratifyd.cli.settings import default_host, read_config_file
from ratifyd.config import Config, ConfigError, options

WAIT_S = 10.0


class Broken(Exception):
    """What the operator can mend."""


class Straw:
    """A member that ends at once, in the way its name says."""

    calls: list[str]

    def __init__(self, config: Config) -> None:
        self.config = config
        type(self).calls = []

    async def start(self) -> None:
        self.calls.append("start")
        if self.config.name == "cannot-start":
            raise Broken("the disk is on fire; extinguish it")
        if self.config.name == "bug":
            raise AssertionError("impossible")
        if self.config.name == "killed-in-start":
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.get_running_loop().create_future()

    async def wait(self) -> BaseException | None:
        if self.config.name == "killed":
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.get_running_loop().create_future()
        return OSError("fsync failed") if self.config.name == "breaks" else None

    async def stop(self) -> None:
        self.calls.append("stop")


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("ratifyd")
    before = (list(root.handlers), root.level, ours.level, logging.raiseExceptions)
    yield
    root.handlers[:], logging.raiseExceptions = before[0], before[3]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def run(*argv: str, **environ: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = command.run(argv, environ, open_member=Straw, operator_errors=(Broken,), stdout=out, stderr=err)
    return code, out.getvalue(), err.getvalue()


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    line = capsys.readouterr().err.splitlines()[-1]
    decoded: dict[str, str] = json.loads(line)
    return decoded


def test_help_and_version() -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage:\n")
    code, out, err = run("--version")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("etcd Version: 3.6.")
    assert [line.split(":")[0] for line in lines[1:]] == [
        "Git SHA",
        "Python Version",
        "Python OS/Arch",
        "ratifyd Version",
    ]


def test_wrong_flags_exit_with_2() -> None:
    code, out, err = run("--bogus")
    assert (code, out) == (2, "")
    assert err.startswith("flag provided but not defined: -bogus\nUsage:\n")


def test_bad_settings_exit_with_1_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--election-timeout=100")[0] == 1
    line = last_line(capsys)
    assert list(line) == ["level", "ts", "caller", "msg", "error", "hint"]
    assert (line["level"], line["msg"]) == ("fatal", "failed to verify flags")
    assert line["error"] == "--election-timeout[100ms] should be at least as 5 times as --heartbeat-interval[100ms]"
    assert line["caller"].startswith("cli/command.py:")


def test_a_member_that_ends_by_itself_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--name=fine", ETCD_LOG_LEVEL="info")[0] == 0
    assert Straw.calls == ["start", "stop"]
    messages = [json.loads(line)["msg"] for line in capsys.readouterr().err.splitlines()]
    assert messages[0] == "Running: "
    assert "recognized and used environment variable" in messages


@pytest.mark.parametrize(
    ("name", "message", "error"),
    [
        ("cannot-start", "failed to start etcd", "the disk is on fire; extinguish it"),
        ("bug", "the member failed", "impossible"),
    ],
)
def test_failures_are_fatal_lines(capsys: pytest.CaptureFixture[str], name: str, message: str, error: str) -> None:
    assert run(f"--name={name}")[0] == 1
    assert Straw.calls == ["start", "stop"]
    line = last_line(capsys)
    assert (line["level"], line["msg"], line["error"]) == ("fatal", message, error)
    assert ("stacktrace" in line) == (name != "cannot-start")


def test_what_ended_a_running_member_is_its_own_to_tell(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--name=breaks")[0] == 1
    assert Straw.calls == ["start", "stop"]
    assert "fatal" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["killed", "killed-in-start"])
def test_a_signal_stops_the_member(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(f"--name={name}")[0] == 0
    assert Straw.calls == ["start", "stop"]
    assert last_line(capsys)["signal"] == "SIGTERM"


def test_systemd_is_told_when_clients_are_served(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(WAIT_S)
        assert run("--name=fine", NOTIFY_SOCKET=path)[0] == 0
        assert systemd.recv(100) == b"READY=1"
    assert run("--name=fine", NOTIFY_SOCKET=path)[0] == 0
    assert run("--name=fine", NOTIFY_SOCKET="vsock:1")[0] == 0


def test_log_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    assert run(f"--log-outputs={path},stdout", "--log-format=console")[0] == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == path.read_text()
    assert captured.out.splitlines()[0].split("\t")[1:] == [
        "info",
        captured.out.splitlines()[0].split("\t")[2],
        "Running: ",
        json.dumps({"args": ["ratifyd", f"--log-outputs={path},stdout", "--log-format=console"]}),
    ]
    assert run("--log-outputs=/nonexistent/log")[0] == 1
    assert (
        last_line(capsys)["error"]
        == 'couldn\'t open sink "/nonexistent/log": open /nonexistent/log: no such file or directory'
    )


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("", "open : no such file or directory"),
        ("file:x.log", "open : no such file or directory"),
        ("http://x/y", 'no sink found for scheme "http"'),
        ("file://host/x", "file URLs must leave host empty or use localhost: got file://host/x"),
        ("file:///nonexistent/log", "open /nonexistent/log: no such file or directory"),
    ],
)
def test_outputs_of_the_log_that_are_no_files(output: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"--log-outputs={output}")[0] == 1
    assert last_line(capsys)["error"] == f'couldn\'t open sink "{output}": {reason}'


def test_an_empty_variable_for_outputs_of_the_log_is_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--name=fine", ETCD_LOG_OUTPUTS="")[0] == 0
    assert json.loads(capsys.readouterr().err.splitlines()[0])["msg"] == "Running: "
    assert run("--log-outputs=stderr,")[0] == 1
    assert last_line(capsys)["error"] == 'couldn\'t open sink "": open : no such file or directory'


def test_a_file_for_the_log_named_by_a_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"--log-outputs=file://{tmp_path}/a%20log")[0] == 0
    assert json.loads((tmp_path / "a log").read_text().splitlines()[0])["msg"] == "Running: "


SCRIPT = """
import asyncio, os, sys
from ratifyd.cli import command

class Stubborn:
    def __init__(self, config): pass
    async def start(self): print("up", flush=True)
    async def wait(self): await asyncio.get_running_loop().create_future()
    async def stop(self):
        print("stopping", flush=True)
        await asyncio.get_running_loop().create_future()

sys.exit(command.run(sys.argv[1:], {}, open_member=Stubborn, operator_errors=()))
"""


def test_a_second_signal_ends_the_process_at_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "--log-outputs=/dev/null"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


def test_optimised_python_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-O", "-c", SCRIPT, "--version"], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 1
    assert "python -O" in done.stderr


def test_yaml_is_loaded_only_for_yaml_files(tmp_path: Path) -> None:
    check = "import sys; from ratifyd.cli import command; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False, timeout=WAIT_S).returncode == 0
    yaml_file = tmp_path / "etcd.yml"
    yaml_file.write_text("name: a # comment\nclient-transport-security:\n  auto-tls: false\nlog-outputs: [stderr]\n")
    assert read_config_file(str(yaml_file)) == {
        "name": "a",
        "client-transport-security": {"auto-tls": False},
        "log-outputs": ["stderr"],
    }
    json_file = tmp_path / "etcd.json"
    json_file.write_text('{"name": "a"}')
    assert read_config_file(str(json_file)) == {"name": "a"}
    (tmp_path / "empty").write_text("")
    assert read_config_file(str(tmp_path / "empty")) == {}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a: b: c", "error converting YAML to JSON: yaml: "),
        (b"- 1", "holds no settings"),
        (b"\xff\xfe", "is not a text file"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config_file(str(path))
    assert text in caught.value.message
    assert caught.value.hint


def test_a_missing_file_has_etcds_text() -> None:
    with pytest.raises(ConfigError) as caught:
        read_config_file("/nonexist")
    assert caught.value.message == "open /nonexist: no such file or directory"


def test_the_default_host_is_an_address() -> None:
    assert default_host() is None or not str(default_host()).startswith("127.")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_name_every_flag(shell: str) -> None:
    code, out, _ = run("completion", shell)
    assert code == 0
    assert out == completion_script(shell)
    for row in options():
        assert (f"-l {row.flag} " if shell == "fish" else f"--{row.flag}") in out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=out, text=True, check=True, timeout=WAIT_S)


def test_completion_of_an_unknown_shell() -> None:
    assert run("completion", "dos")[0] == 2
    assert run("completion")[0] == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ratifyd", "comp"], "completion"),
        (["ratifyd", "completion", "f"], "fish"),
        (["ratifyd", "--auto-compaction-mo"], "--auto-compaction-mode"),
        (["ratifyd", "--auto-compaction-mode", "rev"], "revision"),
        (["ratifyd", "--auto-compaction-mode", "=", "rev"], "revision"),
        (["ratifyd", "--data-dir", "/et"], "/etc"),
    ],
)
def test_bash_completes(words: list[str], expected: str) -> None:
    quoted = " ".join(f"'{word}'" for word in words)
    call = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _ratifyd; echo ${{COMPREPLY[*]}}"
    script = f"{completion_script('bash')}\n{call}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert done.stdout.split() == [expected]
