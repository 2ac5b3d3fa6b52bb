"""Telling systemd that the server is ready: `Type=notify` units, as etcd's."""

import socket
from collections.abc import Mapping


def notify_ready(environ: Mapping[str, str]) -> None:
    """Send READY=1 to the socket that systemd names in NOTIFY_SOCKET, if it does; a deaf systemd is no failure."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(b"READY=1", address)
        except OSError:
            return
