"""The server command, from its arguments to its exit code: 0 done, 1 bad configuration or a failure, 2 wrong flags.

Knows nothing of members but that they start, stop and may end by themselves; `server` passes in the real one.
"""

import asyncio
import logging
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TextIO

try:
    import uvloop

    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
except ImportError:
    new_event_loop = asyncio.new_event_loop

from ratifyd import logs
from ratifyd.cli.completion import SHELLS, completion_script
from ratifyd.cli.settings import default_host, read_config_file
from ratifyd.cli.systemd import notify_ready
from ratifyd.config import Config, ConfigError, HelpWanted, Parsed, UsageError, VersionWanted, parse
from ratifyd.config.help import help_text, usage
from ratifyd.version import ETCD_VERSION, RATIFYD_VERSION

log = logging.getLogger("ratifyd.cli")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Member(Protocol):
    """What the command runs."""

    async def start(self) -> None:
        """Return when clients are served."""
        ...

    async def wait(self) -> BaseException | None:
        """Return when the member has ended: None after a stop, else what ended it, which is in the log by then."""
        ...

    async def stop(self) -> None:
        """Stop gracefully; must also work on a member whose start failed or was cancelled."""
        ...


OpenMember = Callable[[Config], Member]


def run(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    open_member: OpenMember,
    operator_errors: tuple[type[Exception], ...],
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> int:
    """Run the command and return its exit code.

    `operator_errors` are what a member raises for faults the operator can mend, explained by their text; anything else
    is logged with its stack.
    """
    out, err = stdout or sys.stdout, stderr or sys.stderr
    if not __debug__:
        err.write(
            "ratifyd refuses to run under python -O: its assertions protect your data. Start python without -O.\n"
        )
        return 1
    if argv and argv[0] == "completion":
        return _complete(argv[1:], out, err)
    logs.configure("info", "json", ["default"])
    try:
        parsed = parse(argv, environ, read_file=read_config_file, default_host=default_host)
    except HelpWanted:
        out.write(help_text())
        return 0
    except VersionWanted:
        out.write(version_text())
        return 0
    except UsageError as error:
        err.write(f"{error}\n{usage()}")
        return 2
    except ConfigError as error:
        log.critical("failed to verify flags", extra=logs.fields(error=error.message, hint=error.hint))
        return 1
    return _run_member(argv, environ, parsed, open_member, operator_errors)


def version_text() -> str:
    """The answer to --version; the first line is etcd's."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return (
        f"etcd Version: {ETCD_VERSION}\n"
        f"Git SHA: ratifyd-{RATIFYD_VERSION}\n"
        f"Python Version: {platform.python_implementation()} {platform.python_version()}\n"
        f"Python OS/Arch: {sys.platform}/{machine}\n"
        f"ratifyd Version: {RATIFYD_VERSION}\n"
    )


def _complete(words: Sequence[str], out: TextIO, err: TextIO) -> int:
    if len(words) != 1 or words[0] not in SHELLS:
        err.write(f"usage: ratifyd completion {'|'.join(SHELLS)}\n")
        return 2
    out.write(completion_script(words[0]))
    return 0


def _run_member(
    argv: Sequence[str],
    environ: Mapping[str, str],
    parsed: Parsed,
    open_member: OpenMember,
    operator_errors: tuple[type[Exception], ...],
) -> int:
    config = parsed.config
    try:
        logs.configure(config.log_level, config.log_format, config.log_outputs)
    except ValueError as error:
        log.critical(
            "failed to verify flags",
            extra=logs.fields(
                error=str(error),
                hint="--log-outputs must name files this process can write",
            ),
        )
        return 1
    log.info("Running: ", extra=logs.fields(args=["ratifyd", *argv]))
    for notice in parsed.notices:
        log.log(logs.LEVELS[notice.level], notice.message, extra={"fields": dict(notice.fields)})
    loop = new_event_loop()
    try:
        failure = loop.run_until_complete(_serve(config, environ, open_member))
    except operator_errors as error:
        log.critical("failed to start etcd", extra=logs.fields(error=str(error)))
        return 1
    except Exception:  # whatever escaped is reported once, in the form of the log, before the process ends
        log.critical("the member failed", exc_info=True)
        return 1
    finally:
        loop.close()
    return 0 if failure is None else 1


async def _serve(config: Config, environ: Mapping[str, str], open_member: OpenMember) -> BaseException | None:
    """Run a member until a signal or its own end; what ended it. A second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        if stopping.done():
            os._exit(128 + number)
        log.info("received signal; shutting down", extra=logs.fields(signal=number.name))
        stopping.set_result(None)

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    member = open_member(config)
    running = loop.create_task(_start_and_wait(member, environ))
    await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        running.cancel()
        await asyncio.wait((running,))
    try:
        return None if running.cancelled() else running.result()
    finally:
        await member.stop()


async def _start_and_wait(member: Member, environ: Mapping[str, str]) -> BaseException | None:
    await member.start()
    notify_ready(environ)
    return await member.wait()
