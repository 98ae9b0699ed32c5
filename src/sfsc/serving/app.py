"""The ASGI app: it connects the endpoints to a service and returns every error as one line of JSON."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sfsc.errors import SfscError, missing_extra

try:
    from fastapi import FastAPI, Request, Response, Security
    from fastapi.security import APIKeyHeader

    from sfsc.serving.direct import DirectWay
    from sfsc.serving.guard import KEY_HEADER, Guard, check_hosts, check_origins, error_response
    from sfsc.serving.refusals import REFUSALS, refusal
    from sfsc.serving.routes import DIRECT, page_router, router
    from sfsc.serving.service import Service
except ModuleNotFoundError as error:
    raise missing_extra(str(error.name), "serve") from error


def create_app(
    run: str | Path,
    gallery: str | Path,
    api_key: str | None = None,
    origins: Collection[str] = (),
    hosts: Collection[str] = (),
    image_roots: Sequence[str | Path] | None = None,
    allow_code: str | None = None,
    memory: float = math.inf,
    bridge: str | Path | None = None,
) -> FastAPI:
    """Create an ASGI app that serves one trained family with one gallery.

    Args:
        run: the run folder of the family. Its evaluation.json is shown if it exists.
        gallery: the directory or URL of a gallery of this family, or of the old model of the bridge.
        api_key: the key that requests must send in the header X-API-Key; by default no key is needed.
        origins: the origins of other pages that may use the service, such as http://127.0.0.1:8080.
        hosts: the names under which the service can be reached, such as search.example, or "*" for any name.
            Addresses and localhost are always allowed.
        image_roots: the folders whose images the service may show and embed if rows refer to them; by
            default the deepest folder that contains all images of the gallery.
        allow_code: as for `Family.load`.
        memory: as for `Gallery.open`.
        bridge: a file that `Bridge.save` wrote, from the model of the gallery to this family: queries are
            mapped to the rows of the old model. There are then no probabilities.

    Returns:
        The app.

    Raises:
        SfscError: the family or the gallery does not exist, the gallery or the bridge belongs to another
            family, the key is empty, or an origin or a host is invalid.
    """
    if api_key is not None and not api_key.strip():
        raise SfscError("the API key is empty: set a key, or remove the option")
    check_origins(origins)
    check_hosts(hosts)
    service = Service(Path(run), gallery, image_roots, allow_code, memory, bridge)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # The documentation pages of FastAPI would load scripts from another host.
    app = FastAPI(title="sfsc", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    key = [Security(APIKeyHeader(name=KEY_HEADER, auto_error=False))] if api_key else []
    app.include_router(router, dependencies=key)
    app.include_router(page_router)
    app.add_middleware(DirectWay, service=service, endpoints=DIRECT)
    app.add_middleware(
        Guard,
        metrics=service.metrics,
        api_key=api_key,
        origins=origins,
        hosts=hosts,
        dimension=max(service.family.dimension, service.space.dimension),
    )
    _answer_errors(app, service)
    return app


def _answer_errors(app: FastAPI, service: Service) -> None:
    async def refused(_: Request, error: Exception) -> Response:
        return refusal(error, service)

    for kind in REFUSALS:
        app.add_exception_handler(kind, refused)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return error_response(500, "the service failed; its log says why")
