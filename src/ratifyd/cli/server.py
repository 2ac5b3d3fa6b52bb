"""`ratifyd`: the server program."""

import gc
import os
import resource
import sys

from ratifyd.cli import command
from ratifyd.cli.allocator import keep_freed_memory
from ratifyd.embed.etcd import Etcd, StartError
from ratifyd.net.listener import ListenError


def main() -> None:
    """Entry point of the `ratifyd` script."""
    _raise_descriptor_limit()
    keep_freed_memory()
    code = command.run(sys.argv[1:], os.environ, open_member=Etcd, operator_errors=(StartError, ListenError))
    gc.freeze()  # what is left goes with the process: to take millions of keys apart would only delay its end
    sys.exit(code)


def _raise_descriptor_limit() -> None:
    """Allow as many file descriptors as the system lets us, as Go does at the start of every program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
