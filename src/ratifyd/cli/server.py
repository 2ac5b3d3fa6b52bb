"""`ratifyd`: the server program."""

import os
import sys

from ratifyd.cli import command
from ratifyd.embed.etcd import Etcd, StartError
from ratifyd.net.listener import ListenError


def main() -> None:
    """Entry point of the `ratifyd` script."""
    code = command.run(sys.argv[1:], os.environ, open_member=Etcd, operator_errors=(StartError, ListenError))
    sys.exit(code)


if __name__ == "__main__":
    main()
