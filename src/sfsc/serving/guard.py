"""What every request passes on its way in, and every answer on its way out."""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfsc.errors import SfscError
from sfsc.serving.metrics import Metrics

MAX_BODY = 10 * 1024 * 1024
KEY_HEADER = "X-API-Key"
# What tells nothing of the gallery's images: the empty page, and what monitors ask for.
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
    "Vary": "Origin",  # what the browser keeps of an answer to our own page does for no other
}
# As browsers write them: with a path, capitals or the port that goes without saying, it would match none.
ORIGIN = re.compile(r"(?!http:.*:80$|https:.*:443$)https?://(?:[a-z0-9._-]+|\[[0-9a-f:]+\])(?::\d+)?")


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as every one of them is answered: one line in a JSON object."""
    readable = message.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be sent
    return JSONResponse({"error": readable}, status, headers)


def check_origins(origins: Collection[str]) -> None:
    """Raise `SfscError` for what is no origin of pages, such as http://127.0.0.1:8080."""
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise SfscError(f"origin {origin}: give scheme, host and port alone, as in http://127.0.0.1:8080")


class Guard:
    """Refuses requests without the key, from pages of other sites, or with too large a body; counts all.

    Pages of `origins` may do whatever the service's own page may; browsers learn of it by CORS.

    It stands before the app as ASGI middleware. The size is checked while the body arrives: whatever the
    client announced, no more than `MAX_BODY` is read.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, api_key: str | None, origins: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._key = None if api_key is None else api_key.encode()
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # of an exception that nobody answered
        # Where GET is answered, so is HEAD: with the same headers, and the server leaves out the body.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        shared = self._shared(scope)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update({**SECURITY, **shared})
            await send(message)

        try:
            await (self._answer(scope, bool(shared)) or self._app)(asked, _limited(receive), sending)
        finally:
            route = getattr(asked.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()

    def _shared(self, scope: Scope) -> dict[str, str]:
        """The headers by which the browser hands an answer to a page of an allowed origin; {} for others."""
        origin = Headers(scope=scope).get("Origin")
        if origin not in self._origins:
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": f"Content-Type, {KEY_HEADER}",
        }

    def _answer(self, scope: Scope, shared: bool) -> Response | None:
        """What the guard answers by itself: a browser's question whether a page may ask, or a refusal."""
        headers = Headers(scope=scope)
        if shared and scope["method"] == "OPTIONS":
            return Response(status_code=204)
        given = headers.get(KEY_HEADER, "").encode("latin-1")
        if self._key and scope["path"] not in OPEN and not hmac.compare_digest(given, self._key):
            return error_response(401, f"this service wants its API key in the header {KEY_HEADER}")
        if scope["method"] not in ("GET", "HEAD") and _foreign(headers) and not shared:
            return error_response(
                403, "a page of another site cannot use this service: start it with --allow-origin for that"
            )
        length = headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > MAX_BODY:
            return error_response(413, _too_large())
        return None


def _foreign(headers: Headers) -> bool:
    """Whether a browser sends this for a page that is not the service's own.

    Over plain HTTP, but on this machine, browsers say only the origin of the page.
    """
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != headers.get("Host")


def _limited(receive: Receive) -> Receive:
    read = 0

    async def receiving() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MAX_BODY:
            raise HTTPException(413, _too_large())
        return message

    return receiving


def _too_large() -> str:
    return f"the request is larger than {MAX_BODY // 1024 // 1024} MiB: send a smaller image"
