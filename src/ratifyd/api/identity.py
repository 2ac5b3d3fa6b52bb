"""Whose request it is: the token in its metadata, and what that allows where the log is not asked (semantics 9.20).

Handlers ask only while auth is on (`server.auth.enabled`), so that it costs nothing otherwise.
"""

from collections.abc import Callable

from ratifyd.auth.identity import ANONYMOUS, Identity
from ratifyd.errors import AuthOldRevision, EtcdError, InvalidAuthToken
from ratifyd.server.server import Server
from ratifyd.wire.headers import Head

MAX_HELD_BYTES = 64 << 20
"""Requests that may wait for their tokens to arrive, together: anybody can claim to have one that is on its way."""
HELD_OVERHEAD_BYTES = 64 << 10
"""Counted for each of them besides its message."""

_TOKEN, _AUTHORIZATION = b"token", b"authorization"
_BEARER = b"Bearer "


class TokenAhead(Exception):
    """The token is unknown, and says that it comes from this entry of the log or, since etcd 3.5.3, from the next one.

    That one this member has yet to apply.
    """

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def token_of(head: Head) -> bytes | None:
    """The token a request shows, None when it shows none."""
    values = head.metadata.get(_TOKEN) or head.metadata.get(_AUTHORIZATION)
    return None if values is None else strip_scheme(values[0])


def strip_scheme(shown: bytes) -> bytes:
    """The token in the value of an Authorization field, which may name its scheme."""
    return shown.removeprefix(_BEARER)


def identity_of(server: Server, head: Head) -> Identity:
    """Who makes a request that has just arrived; ANONYMOUS while auth is off.

    Raises InvalidAuthToken, and TokenAhead to be called again later (`hold`).
    """
    token = token_of(head) if server.auth.enabled else None
    if token is None:
        return ANONYMOUS
    found = server.tokens.identify(token, server.auth.revision)
    if found is not None:
        return found
    index = server.tokens.made_at(token)
    if index >= server.node.applied:
        raise TokenAhead(index)
    raise InvalidAuthToken


def present_identity(server: Server, token: bytes | None) -> Identity:
    """As `identity_of`, of a request that has waited already. Raises InvalidAuthToken."""
    if token is None or not server.auth.enabled:
        return ANONYMOUS
    found = server.tokens.identify(token, server.auth.revision)
    if found is None:
        raise InvalidAuthToken
    return found


def check_current(server: Server, identity: Identity) -> None:
    """Require that no change of users or roles has come between checking and answering. Raises AuthOldRevision."""
    if identity.revision and identity.revision != server.auth.revision:
        raise AuthOldRevision


def check_read(server: Server, head: Head, key: bytes, range_end: bytes) -> Identity:
    """Who reads a range now, if they may. Raises InvalidAuthToken, UserEmpty, PermissionDenied, AuthOldRevision."""
    identity = present_identity(server, token_of(head))
    server.auth.check_range(identity, key, range_end)
    check_current(server, identity)
    return identity


def require_user(server: Server, head: Head) -> None:
    """Let users pass, whoever they are. Raises UserEmpty and what identity_of raises."""
    if server.auth.enabled:
        server.auth.check_user(identity_of(server, head))


def require_admin(server: Server, head: Head) -> None:
    """Let those with the root role pass. Raises UserEmpty, PermissionDenied and what identity_of raises."""
    if server.auth.enabled:
        server.auth.check_admin(identity_of(server, head))


def hold(server: Server, index: int, size: int, then: Callable[[bool], None]) -> None:
    """Call `then(True)` once an entry that was to come is applied: the one of a token, or else the one behind it.

    `then(False)` if that takes too long, if there is none behind it, or if too much waits already.
    """
    size += HELD_OVERHEAD_BYTES
    if server.held_bytes + size > MAX_HELD_BYTES:
        then(False)
        return
    server.held_bytes += size

    def applied(in_time: bool) -> None:
        server.held_bytes -= size
        then(in_time)

    def read(_: None, error: EtcdError | None) -> None:
        applied(error is None and server.node.applied > index)

    if index > server.node.applied:
        server.when_index_applied(index, applied, timeout_s=server.timeout_s)
    else:  # whoever has a token has seen its entry acknowledged, so a read sees it, too (semantics 9.23)
        server.read(read, None)
