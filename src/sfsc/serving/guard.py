"""Middleware that checks every request and adds headers to every response."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
from collections.abc import Collection, Mapping
from functools import lru_cache

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfsc.errors import SfscError
from sfsc.serving.attempts import Attempts
from sfsc.serving.metrics import Metrics

MAX_BODY = 10 * 1024 * 1024  # bytes of a form, which may contain an image
# Bytes of any other body, because parsing it delays all other requests: conditions, and an embedding.
MAX_JSON = 128 * 1024
JSON_NUMBER = 32  # bytes of one component, at most
MAX_MANY = 2 * 1024 * 1024  # bytes of a body with many embeddings, which are parsed faster
BODY_SECONDS = 30.0  # the time in which a body must arrive
ANY_HOST = "*"
KNOWN_HOSTS = 128  # recent values of the header Host whose check is remembered
KEY_HEADER = "X-API-Key"
MANY = frozenset({"/search/embeddings", "/rows/embeddings"})
# Paths that need no key, because they reveal nothing about the gallery's images: the empty page, monitoring.
OPEN = frozenset(
    {"/", "/page.css", "/page.js", "/style.css", "/icon.svg", "/health", "/metrics", "/openapi.json"}
)
POLICY = (
    "default-src 'none'; img-src 'self' blob:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Origin",  # a response that a browser caches for our own page must not be used for another
}
# Origins as browsers send them: an origin with a path, capitals or the default port would never match.
ORIGIN = re.compile(r"(?!http:.*:80$|https:.*:443$)https?://(?:[a-z0-9._-]+|\[[0-9a-f:]+\])(?::\d+)?")
HOST = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63}){0,10}")


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the response to an error: a JSON object with a message of one line."""
    readable = message.encode("utf-8", "replace").decode()  # UTF-8 cannot encode half a surrogate pair
    return JSONResponse({"error": readable}, status, headers)


def check_origins(origins: Collection[str]) -> None:
    """Raise `SfscError` unless all texts are origins, such as http://127.0.0.1:8080."""
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise SfscError(f"origin {origin}: give scheme, host and port alone, as in http://127.0.0.1:8080")


def check_hosts(hosts: Collection[str]) -> None:
    """Raise `SfscError` unless all texts are host names, such as search.example, or "*"."""
    for host in hosts:
        if host != ANY_HOST and not HOST.fullmatch(host):
            raise SfscError(f"host {host}: give the name alone, in lower case, as in search.example")


class Guard:
    """ASGI middleware that counts all requests and refuses those that are not allowed.

    It refuses requests without the key, to other hosts, from pages of other sites, or with too large a body.

    A browser sends the name of the host that it requests, which must be one of `hosts`. Otherwise a page of
    another site could point its own name to this service and read every response (DNS rebinding). Addresses
    and `localhost` cannot be used for this attack and are always allowed.

    Pages of `origins` may do everything that the service's own page may. CORS headers tell the browser so.

    The size is checked while the body arrives, whatever size the client announced: at most `MAX_BODY` bytes
    of a form, at most `MAX_MANY` bytes of many embeddings, and at most `MAX_JSON` bytes of any other body are
    read within `BODY_SECONDS`. Bodies other than forms may be larger by an embedding of `dimension`.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        api_key: str | None,
        origins: Collection[str],
        hosts: Collection[str],
        dimension: int,
    ) -> None:
        self._app = app
        self._embedding = JSON_NUMBER * dimension
        self._metrics = metrics
        self._key = None if api_key is None else api_key.encode()
        self._attempts = Attempts()
        self._origins = frozenset(origins)
        self._hosts = frozenset(hosts)
        self._known_host = lru_cache(KNOWN_HOSTS)(self._is_host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # in case an exception leaves the app without a response
        # HEAD is handled like GET and gets the same headers; the server leaves out the body.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        headers = _headers(scope)
        shared = headers.get("origin") in self._origins

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = _shared(headers["origin"]) if shared else OWN
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            most = self._most(path, headers)
            answer = self._answer(scope, path, headers, shared, most)
            await (answer or self._app)(asked, _limited(receive, most), sending)
        finally:
            route = getattr(asked.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()

    def _answer(
        self, scope: Scope, path: str, headers: Mapping[str, str], shared: bool, most: int
    ) -> Response | None:
        """Return a refusal or the response to a CORS preflight request; None if the app responds."""
        if not self._known_host(headers.get("host", "")):
            return error_response(
                421, "this service does not answer for this host: start it with --allow-host for that"
            )
        if shared and scope["method"] == "OPTIONS":
            return Response(status_code=204)
        if path not in OPEN and (refusal := self._check_key(scope, headers)):
            return refusal
        if scope["method"] not in ("GET", "HEAD") and _foreign(headers) and not shared:
            return error_response(
                403, "a page of another site cannot use this service: start it with --allow-origin for that"
            )
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            return error_response(413, _too_large(most))
        return None

    def _check_key(self, scope: Scope, headers: Mapping[str, str]) -> Response | None:
        if self._key is None:
            return None
        client = (scope.get("client") or ("",))[0]
        if seconds := self._attempts.wait(client):
            return error_response(
                429, "too many wrong API keys: try again later", {"Retry-After": f"{seconds}"}
            )
        given = headers.get(KEY_HEADER.lower())
        if given is not None and hmac.compare_digest(given.encode("latin-1"), self._key):
            return None
        if given is not None:
            self._attempts.note(client)
        return error_response(401, f"this service wants its API key in the header {KEY_HEADER}")

    def _most(self, path: str, headers: Mapping[str, str]) -> int:
        """Return the maximum number of bytes in the body of a request."""
        if path in MANY:
            return MAX_MANY + self._embedding
        is_form = headers.get("content-type", "").startswith("multipart/form-data")
        return MAX_BODY if is_form else MAX_JSON + self._embedding

    def _is_host(self, header: str) -> bool:
        name = header.rpartition(":")[0] if re.search(r":\d{0,5}$", header) else header
        name = name.lower().removesuffix(".")
        if ANY_HOST in self._hosts or name in self._hosts or name in ("", "localhost"):
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return name.endswith(".localhost")
        return True


def _headers(scope: Scope) -> dict[str, str]:
    """Return the headers of a request, by their names in lower case; of several with one name, the first."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


OWN = _raw(SECURITY)


def _shared(origin: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that let a page of an allowed origin read the response."""
    return _raw(
        {
            **SECURITY,
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": f"Content-Type, {KEY_HEADER}",
            "Cross-Origin-Resource-Policy": "cross-origin",
        }
    )


def _foreign(headers: Mapping[str, str]) -> bool:
    """Return whether a browser sends this request for a page other than the service's own.

    Over plain HTTP, except to this machine, browsers send only the origin of the page.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def _limited(receive: Receive, most: int) -> Receive:
    read = 0
    end = asyncio.get_running_loop().time() + BODY_SECONDS
    complete = False

    async def receiving() -> Message:
        nonlocal read, complete
        try:
            # After the body, the only message is that the client disconnected, which may take any time.
            async with asyncio.timeout_at(None if complete else end):
                message = await receive()
        except TimeoutError:
            raise HTTPException(
                408, f"the body took longer than {BODY_SECONDS:g} seconds", {"Connection": "close"}
            ) from None
        read += len(message.get("body", b""))
        complete = complete or not message.get("more_body", False)
        if read > most:
            raise HTTPException(413, _too_large(most))
        return message

    return receiving


def _too_large(most: int) -> str:
    if most == MAX_BODY:
        return f"the request is larger than {most // 1024 // 1024} MiB: send a smaller image"
    return f"the request is larger than {most // 1024} KiB: send less"
