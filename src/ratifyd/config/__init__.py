"""Configuration of a member: the table of options, how flags, environment and file fill it, its rules and its help.

    parse(argv, environ, ...) -> Parsed   from a command line; raises UsageError, ConfigError, HelpWanted, VersionWanted
    Config(name="a", data_dir="/d")       directly; then check_config(config), which raises ConfigError
    check_bootstrap(config) -> members    the --initial- options, where there is no data yet
    own_urls_differ(config, ...)          the refusal of a member that is listed with other URLs than it advertises

Quiet: the command line, the environment and the decoded configuration file are arguments.
"""

from ratifyd.config.checks import check_bootstrap, check_config, own_urls_differ
from ratifyd.config.errors import ConfigError, HelpWanted, UsageError, VersionWanted
from ratifyd.config.parsing import Notice, Parsed, parse
from ratifyd.config.table import Config, Option, options, parse_initial_cluster

__all__ = [
    "Config",
    "ConfigError",
    "HelpWanted",
    "Notice",
    "Option",
    "Parsed",
    "UsageError",
    "VersionWanted",
    "check_bootstrap",
    "check_config",
    "options",
    "own_urls_differ",
    "parse",
    "parse_initial_cluster",
]
