"""The HTTP side of the client port: who may ask (hosts, origins), and whether pages or gateway answer."""

import posixpath
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import quote as percent_encode

from ratifyd.api.exchange import Answer, Answered, Incoming
from ratifyd.api.gateway import PREFIX, Gateway, Request, wants_body_stream
from ratifyd.api.http import HttpPages
from ratifyd.api.pages import ERROR, Headers
from ratifyd.wire.headers import quote

OLD_PREFIX = "/v3beta/"
_UNCLEAN = re.compile(r"//|/\.\.?(/|$)")
_HOST_PORT = re.compile(r"(?:\[([^]]*)\]|([^:]*)):[^:\[\]]*")
_ALLOWED: Headers = [("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")]
_ALLOWED_HEADERS: Headers = [("Access-Control-Allow-Headers", "accept, content-type, authorization")]
_UNKNOWN_HOST = """
etcd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. etcd --host-whitelist {host}

This requirement has been added to help prevent "DNS Rebinding" attacks (CVE-2018-5702).

"""


@dataclass(frozen=True, slots=True)
class Access:
    """Whom scripts and proxies may speak for; * means all, and so does an empty list."""

    origins: Collection[str]
    hosts: Collection[str]

    def allows_host(self, host: str) -> bool:
        """Whether requests may be addressed to `host`."""
        return not self.hosts or "*" in self.hosts or host in self.hosts

    def cors(self, origin: str) -> Headers:
        """Headers that let a script of `origin` read the answer."""
        if not self.origins or "*" in self.origins:
            origin = "*"
        elif origin not in self.origins:
            return []
        return [*_ALLOWED, ("Access-Control-Allow-Origin", origin), *_ALLOWED_HEADERS]


class ClientFront:
    """Answers the HTTP requests of one listener's clients. `secure` says that they come over TLS."""

    __slots__ = ("_access", "_gateway", "_pages", "_secure")

    def __init__(self, pages: HttpPages, gateway: Gateway | None, access: Access, *, secure: bool = False) -> None:
        self._pages = pages
        self._gateway = gateway
        self._access = access
        self._secure = secure

    def wants_body_stream(self, method: str, path: str) -> bool:
        """Whether a request's body is to be read as it arrives."""
        return self._gateway is not None and wants_body_stream(method, _new_path(path))

    def handle(self, request: Request, answer: Answer) -> Incoming:
        """Begin a request."""
        host = _host_of(request.headers.get("host", ""))
        if not self._secure and not self._access.allows_host(host):
            answer.respond(421, ERROR, _UNKNOWN_HOST.format(host=quote(host.encode())).encode())
            return Answered()
        headers = self._access.cors(request.headers.get("origin", ""))
        if request.method == "OPTIONS":
            answer.respond(200, headers, b"")
            return Answered()
        path = _new_path(request.path)
        if (clean := self._clean(path)) != path:
            _redirect(request, clean, answer, headers)
        elif path.startswith(PREFIX) and self._gateway is not None:
            return self._gateway.handle(request, path, answer, headers)
        else:
            self._pages.handle(
                request.method,
                path,
                request.query,
                lambda status, more, body: answer.respond(status, [*headers, *more], body),
            )
        return Answered()

    def _clean(self, path: str) -> str:
        """The path a client should have asked for, as Go's ServeMux sees it."""
        if path == PREFIX[:-1] and self._gateway is not None:
            return PREFIX
        if not _UNCLEAN.search(path):
            return path
        clean = posixpath.normpath("/" + path.lstrip("/"))
        return clean + "/" if path.endswith("/") and clean != "/" else clean


def _new_path(path: str) -> str:
    """Old clients ask for /v3beta/; etcd still answers them."""
    return PREFIX + path.removeprefix(OLD_PREFIX) if path.startswith(OLD_PREFIX) else path


def _host_of(text: str) -> str:
    """The host of a Host header; the header itself where it has no port."""
    found = _HOST_PORT.fullmatch(text)
    return text if found is None else found[1] or found[2] or ""


def _redirect(request: Request, path: str, answer: Answer, headers: Headers) -> None:
    target = percent_encode(path) + (f"?{request.query}" if request.query else "")
    answer.respond(307, [*headers, ("Location", target)], b"")
