"""--auth-token as etcd reads it."""

import pytest

from ratifyd.config.authtoken import AuthToken, parse_auth_token


def test_kinds() -> None:
    assert parse_auth_token("simple") == AuthToken("simple")
    assert parse_auth_token("") == AuthToken("")
    text = "jwt,pub-key=/p.pem,priv-key=/k.pem,sign-method=RS256,ttl=10m"
    assert parse_auth_token(text) == AuthToken("jwt", "RS256", "/p.pem", "/k.pem", 600.0)
    assert parse_auth_token("jwt,sign-method=HS256,priv-key=k,color=red") == AuthToken(
        "jwt", "HS256", "", "k", 300.0, ("color",)
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("simpl", 'unknown kind of tokens "simpl"'),
        ("jwt", 'sign-method ""'),
        ("jwt,sign-method=none", 'sign-method "none"'),
        ("jwt,sign-method=rs256", 'sign-method "rs256"'),
        ("jwt,sign-method", '"sign-method" is not of the form'),
        ("jwt,a=b=c,sign-method=RS256", '"a=b=c" is not of the form'),
        ("jwt,ttl=1m,ttl=2m,sign-method=RS256", "option ttl is given twice"),
        ("jwt,sign-method=RS256,ttl=soon", "duration"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_auth_token(text)
