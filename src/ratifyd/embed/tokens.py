"""The kind of tokens a member gives out, made from --auth-token, whose keys lie in files."""

import logging
import secrets
from pathlib import Path

from ratifyd.auth.jwt import JwtTokens, Keys
from ratifyd.auth.tokens import NoTokens, SimpleTokens, TokenProvider
from ratifyd.config import Config
from ratifyd.config.authtoken import JWT, NONE, parse_auth_token
from ratifyd.ports import Clock

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
        keys = Keys(options.method, _read(options.public_key), _read(options.private_key))
        return JwtTokens(options.method, keys, ttl_s=options.ttl_s, wall=clock.wall)
    except (OSError, ValueError) as error:
        raise TokensRefused(f"--auth-token: {error}") from error


def _read(path: str) -> bytes:
    return Path(path).read_bytes() if path else b""
