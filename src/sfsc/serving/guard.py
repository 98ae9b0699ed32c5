"""What every request passes on its way in, and every answer on its way out."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
}


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as every one of them is answered: one line in a JSON object."""
    readable = message.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be sent
    return JSONResponse({"error": readable}, status, headers)


class Guard:
    """Refuses requests without the key, from pages of other sites, or with too large a body; counts all.

    It stands before the app as ASGI middleware. The size is checked while the body arrives: whatever the
    client announced, no more than `MAX_BODY` is read.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, api_key: str | None) -> None:
        self._app = app
        self._metrics = metrics
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # of an exception that nobody answered

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(SECURITY)
            await send(message)

        try:
            await (self._refusal(scope) or self._app)(scope, _limited(receive), sending)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        given = headers.get(KEY_HEADER, "").encode("latin-1")
        if self._key and scope["path"] not in OPEN and not hmac.compare_digest(given, self._key):
            return error_response(401, f"this service wants its API key in the header {KEY_HEADER}")
        if scope["method"] not in ("GET", "HEAD") and headers.get("Sec-Fetch-Site") == "cross-site":
            return error_response(403, "a page of another site cannot use this service")
        length = headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > MAX_BODY:
            return error_response(413, _too_large())
        return None


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
