"""Completion scripts for shells, printed by `ratifyd completion SHELL` and made from the table of options."""

from collections.abc import Iterator
from typing import NamedTuple

from ratifyd.config.parsing import CONFIG_FILE
from ratifyd.config.table import options
from ratifyd.config.values import BOOL, PATH

SHELLS = ("bash", "zsh", "fish")
_LEVELS = ("debug", "info", "warn", "error", "panic", "fatal")


class _Flag(NamedTuple):
    name: str
    help: str
    values: tuple[str, ...]
    is_path: bool
    takes_value: bool


def completion_script(shell: str) -> str:
    """The script for one of SHELLS."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _flags() -> Iterator[_Flag]:
    for row in options():
        values = ("true", "false") if row.kind is BOOL else tuple(filter(None, row.kind.choices))
        if row.field == "log_level":
            values = _LEVELS
        yield _Flag(row.flag, row.help, values, row.kind is PATH, True)
    yield _Flag(CONFIG_FILE, "Take all settings from this YAML or JSON file.", (), True, True)
    yield _Flag("version", "Print the version and exit.", (), False, False)
    yield _Flag("help", "Print all flags and exit.", (), False, False)


def _bash() -> str:
    flags = list(_flags())
    cases = [f"    --{flag.name}) words='{' '.join(flag.values)}' ;;" for flag in flags if flag.values]
    paths = "|".join(f"--{flag.name}" for flag in flags if flag.is_path)
    names = " ".join(f"--{flag.name}" for flag in flags)
    return f"""\
# bash completion for ratifyd; load it with: source <(ratifyd completion bash)
_ratifyd() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=
  COMPREPLY=()
  if [[ $word == = ]]; then word=; fi
  if [[ $before == = ]]; then before=${{COMP_WORDS[COMP_CWORD-2]}}; fi
  case $before in
    completion) words='{" ".join(SHELLS)}' ;;
{chr(10).join(cases)}
    {paths}) COMPREPLY=($(compgen -f -- "$word")); return ;;
  esac
  if [[ -z $words ]]; then
    words='{names}'
    if [[ $COMP_CWORD == 1 ]]; then words="completion $words"; fi
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -F _ratifyd ratifyd
"""


def _zsh() -> str:
    lines = []
    for flag in _flags():
        text = _escape_zsh(flag.help)
        if not flag.takes_value:
            lines.append(f"    '--{flag.name}[{text}]'")
            continue
        action = "_files" if flag.is_path else f"({' '.join(flag.values)})" if flag.values else ""
        lines.append(f"    '--{flag.name}=[{text}]:value:{action}'")
    body = " \\\n".join(lines)
    return f"""\
#compdef ratifyd
# zsh completion for ratifyd; put it into a directory of $fpath as _ratifyd
_ratifyd() {{
  if (( CURRENT == 3 )) && [[ $words[2] == completion ]]; then
    compadd {" ".join(SHELLS)}
    return
  fi
  _arguments -S \\
{body} \\
    '1::command:(completion)'
}}
_ratifyd "$@"
"""


def _escape_zsh(text: str) -> str:
    for char in "\\[]:":
        text = text.replace(char, "\\" + char)
    return text.replace("'", "'\\''")


def _fish() -> str:
    lines = [
        "# fish completion for ratifyd; load it with: ratifyd completion fish | source",
        "complete -c ratifyd -f",
        "complete -c ratifyd -n __fish_use_subcommand -a completion -d 'Print a completion script'",
        f"complete -c ratifyd -n '__fish_seen_subcommand_from completion' -a '{' '.join(SHELLS)}'",
    ]
    for flag in _flags():
        text = flag.help.replace("\\", "\\\\").replace("'", "\\'")
        wants = (" -r -F" if flag.is_path else " -x") if flag.takes_value else ""
        values = f" -a '{' '.join(flag.values)}'" if flag.values else ""
        lines.append(f"complete -c ratifyd -l {flag.name} -d '{text}'{wants}{values}")
    return "\n".join(lines) + "\n"
