"""A direct way to the endpoints that take embeddings.

The layers of FastAPI take several times as long as a search. These endpoints are therefore called without
them. FastAPI knows them too, and describes them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sfsc.errors import SfscError
from sfsc.serving.embeddings import NPY, read_npy
from sfsc.serving.refusals import REFUSALS, refusal
from sfsc.serving.service import Service

JSON = "application/json"


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that is called with a message, the body of a POST request.

    Attributes:
        path: the path of the endpoint.
        call: returns the response.
        message: the type of the message, validated from JSON.
        takes_npy: whether the body can also be a .npy file, which becomes the field `embeddings`. The other
            fields are then in the query of the URL.
    """

    path: str
    call: Callable[[Service, Any], Awaitable[Response]]
    message: type[BaseModel]
    takes_npy: bool = False

    def read(self, content_type: str, body: bytes, query: bytes) -> BaseModel:
        """Return the message in a request.

        Raises:
            SfscError: the content type is another one, or the .npy file is damaged.
            ValidationError: the message is not valid.
        """
        kind = content_type.partition(";")[0].strip().lower()
        if kind == JSON or kind.endswith("+json"):
            return self.message.model_validate_json(body)
        if kind != NPY or not self.takes_npy:
            known = f"{JSON} or {NPY}" if self.takes_npy else JSON
            raise SfscError(f"the content type of the body is {kind or 'not given'}: send {known}")
        fields = QueryParams(query)
        return self.message.model_validate(
            {
                **fields,
                **({"where": fields.getlist("where")} if "where" in fields else {}),
                "embeddings": [*read_npy(body)],
            }
        )


class DirectWay:
    """ASGI middleware that calls `Endpoint`s, and passes all other requests on."""

    def __init__(self, app: ASGIApp, service: Service, endpoints: Mapping[str, Endpoint]) -> None:
        self._app = app
        self._service = service
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        endpoint = self._endpoint(scope)
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = endpoint  # for the metrics
        try:
            body = await _body(receive)
            content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
            message = endpoint.read(content_type.decode("latin-1"), body, scope["query_string"])
            response = await endpoint.call(self._service, message)
        except REFUSALS as error:
            response = refusal(error, self._service)
        await response(scope, receive, send)

    def _endpoint(self, scope: Scope) -> Endpoint | None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        return self._endpoints.get(scope["path"].removeprefix(scope.get("root_path", "")))


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the client disconnected before the end of the body")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)
