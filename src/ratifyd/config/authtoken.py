"""--auth-token: the kind of tokens, then options of that kind, as etcd reads them."""

from typing import NamedTuple

from ratifyd.config.values import parse_duration_ns

SIMPLE, JWT, NONE = "simple", "jwt", ""
METHODS = (*(family + size for family in ("RS", "PS", "ES", "HS") for size in ("256", "384", "512")), "EdDSA")
DEFAULT_JWT_TTL_S = 300.0

_OPTIONS = ("sign-method", "pub-key", "priv-key", "ttl")


class AuthToken(NamedTuple):
    """What --auth-token asks for. Keys are paths of PEM files, empty for none; for HS methods the secret itself."""

    kind: str
    method: str = ""
    public_key: str = ""
    private_key: str = ""
    ttl_s: float = DEFAULT_JWT_TTL_S
    ignored: tuple[str, ...] = ()
    """Options that are known to nobody: worth a warning, as etcd gives."""


def parse_auth_token(text: str) -> AuthToken:
    """Read the value of --auth-token. Raises ValueError, whose text says what is wrong."""
    kind, *pairs = text.split(",")
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise ValueError(f'"{pair}" is not of the form option=value')
        if name in options:
            raise ValueError(f"option {name} is given twice")
        options[name] = value
    if kind not in (SIMPLE, JWT, NONE):
        raise ValueError(f'unknown kind of tokens "{kind}": simple, jwt or empty')
    if kind != JWT:
        return AuthToken(kind)
    method = options.get("sign-method", "")
    if method not in METHODS:
        raise ValueError(f'sign-method "{method}" is none of {", ".join(METHODS)}')
    ttl = options.get("ttl", "")
    return AuthToken(
        kind,
        method,
        options.get("pub-key", ""),
        options.get("priv-key", ""),
        parse_duration_ns(ttl) / 1e9 if ttl else DEFAULT_JWT_TTL_S,
        tuple(name for name in options if name not in _OPTIONS),
    )
