"""How reading a configuration can end other than with a `Config`."""


class ConfigError(Exception):
    """Settings that cannot be used. `message` is etcd's text where it has one, `hint` says what to do. Exit code 1."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(Exception):
    """A command line that cannot be read, with the text Go's flag package prints. Exit code 2."""


class HelpWanted(Exception):
    """-h or --help was given. Exit code 0."""


class VersionWanted(Exception):
    """--version was given. Exit code 0."""
