"""The kind of tokens a member gives out, made from --auth-token, whose keys lie in files.

Few members sign tokens, and what does it (cryptography) is a fifth of all that a start loads: only those load it.
"""

import importlib
import logging
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from ratifyd.auth.tokens import NoTokens, SimpleTokens, TokenProvider
from ratifyd.config import Config
from ratifyd.config.authtoken import JWT, NONE, AuthToken, parse_auth_token
from ratifyd.ports import Clock

if TYPE_CHECKING:
    from ratifyd.auth.jwt import JwtTokens

log = logging.getLogger("ratifyd.embed")


class TokensRefused(Exception):
    """The keys named by --auth-token are of no use; the text says why."""


def make_tokens(config: Config, clock: Clock) -> TokenProvider:
    """Read what --auth-token names. Raises TokensRefused."""
    options = parse_auth_token(config.auth_token)
    if options.kind == NONE:
        return NoTokens()
    if options.kind != JWT:
        return SimpleTokens(ttl_s=config.auth_token_ttl_s, now=clock.time, entropy=secrets.token_bytes)
    if options.ignored:
        log.warning("unknown JWT options", extra={"fields": {"keys": list(options.ignored)}})
    try:
        return _jwt_tokens(options, clock)
    except (OSError, ValueError) as error:
        raise TokensRefused(f"--auth-token: {error}") from error


def _jwt_tokens(options: AuthToken, clock: Clock) -> "JwtTokens":
    """Tokens signed with the keys in files. Raises OSError and ValueError."""
    jwt = importlib.import_module("ratifyd.auth.jwt")
    keys = jwt.Keys(options.method, _read(options.public_key), _read(options.private_key))
    tokens: JwtTokens = jwt.JwtTokens(options.method, keys, ttl_s=options.ttl_s, wall=clock.wall)
    return tokens


def _read(path: str) -> bytes:
    return Path(path).read_bytes() if path else b""
