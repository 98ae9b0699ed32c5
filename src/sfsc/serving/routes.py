"""The endpoints. Each of them calls one method of the service."""

from __future__ import annotations

import json
from importlib import resources
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, File, Form, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from sfsc.errors import SfscError
from sfsc.gallery.conditions import Value
from sfsc.images.boxes import Box
from sfsc.images.reading import CorruptImage
from sfsc.serving.answers import search_response, search_responses
from sfsc.serving.direct import Endpoint
from sfsc.serving.embeddings import NPY
from sfsc.serving.guard import error_response
from sfsc.serving.messages import (
    MOST_ATTRIBUTES,
    Added,
    AddEmbeddings,
    By,
    CompareAnswer,
    CompareById,
    Deleted,
    Error,
    Exact,
    FamilyAnswer,
    GalleryAnswer,
    Health,
    MaxFmr,
    MinProbability,
    Rerank,
    RerankDepth,
    RowsAdded,
    Search,
    SearchAnswer,
    SearchAnswers,
    SearchByEmbedding,
    SearchByEmbeddings,
    SearchById,
    Text,
    Top,
    Where,
    Width,
)
from sfsc.serving.row_images import media_type
from sfsc.serving.service import Service

PAGE = {
    "/": ("sfsc.serving", "page.html", "text/html"),
    "/page.css": ("sfsc.serving", "page.css", "text/css"),
    "/page.js": ("sfsc.serving", "page.js", "text/javascript"),
    "/style.css": ("sfsc.report", "style.css", "text/css"),
    "/icon.svg": ("sfsc.serving", "icon.svg", "image/svg+xml"),
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "The body cannot be parsed"},
    401: {"model": Error, "description": "The API key is missing or wrong"},
    404: {"model": Error, "description": "There is no such row"},
    413: {
        "model": Error,
        "description": "The body is too large: 10 MiB for a form, about 2 MiB for many embeddings, else "
        "about 128 KiB",
    },
    422: {"model": Error, "description": "The request is invalid"},
    429: {"model": Error, "description": "The queue is full: try again after Retry-After seconds"},
    503: {"model": Error, "description": "The gallery cannot be read or written at the moment"},
}

MOST_TEXT = 100_000  # maximum number of characters of the JSON object with the attributes of a new row

router = APIRouter(responses=REFUSALS)
page_router = APIRouter(include_in_schema=False)


async def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


def _attributes(text: str) -> dict[str, Value | None]:
    """Parse the attributes of a new row from a JSON object."""
    try:
        values = json.loads(text) if len(text) <= MOST_TEXT else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise SfscError(
            f'attributes must be a JSON object such as {{"price": 9.5}}, of at most {MOST_TEXT:,} characters'
        )
    if len(values) > MOST_ATTRIBUTES:
        raise SfscError(f"a row has at most {MOST_ATTRIBUTES} attributes, not {len(values)}")
    return values


def _form_search(
    where: Annotated[Where, Form(default_factory=list)],
    top: Annotated[Top, Form()] = 10,
    exact: Annotated[Exact, Form()] = False,
    max_fmr: Annotated[MaxFmr, Form()] = None,
    min_probability: Annotated[MinProbability, Form()] = None,
    by: Annotated[By, Form()] = "row",
    rerank: Annotated[Rerank, Form()] = None,
    rerank_depth: Annotated[RerankDepth, Form()] = 100,
) -> Search:
    return Search(
        top=top,
        where=where,
        exact=exact,
        max_fmr=max_fmr,
        min_probability=min_probability,
        by=by,
        rerank=rerank,
        rerank_depth=rerank_depth,
    )


def _form_box(
    box: Annotated[
        Text | None,
        Form(
            description="Part of the image: x,y,w,h in pixels of the upright image.", examples=["10,20,64,48"]
        ),
    ] = None,
) -> Box | None:
    return None if box is None else Box.parse(box)


ServiceHere = Annotated[Service, Depends(_service)]
Image = Annotated[UploadFile, File(description="JPEG, PNG, WebP or BMP, of up to 10 MiB.")]
FormSearch = Annotated[Search, Depends(_form_search)]
FormBox = Annotated[Box | None, Depends(_form_box)]
OptionalText = Annotated[Text | None, Form()]


@router.post("/search/image", response_model=SearchAnswer)
async def search_image(
    service: ServiceHere,
    image: Image,
    search: FormSearch,
    box: FormBox,
    width: Annotated[Width, Form()] = 1.0,
) -> Response:
    """Search with an image, or with a part of it, embedded by any sub-model."""
    return search_response(await service.search_image(await image.read(), _name(image), width, search, box))


@router.post("/search/id", response_model=SearchAnswer)
async def search_id(service: ServiceHere, search: SearchById) -> Response:
    """Search with the stored embedding of a row or, if a width is given, with its image embedded again."""
    return search_response(await service.search_id(search.id, search.width, search))


@router.post("/search/embedding", response_model=SearchAnswer)
async def search_embedding(service: ServiceHere, search: SearchByEmbedding) -> Response:
    """Search with an embedding that a sub-model computed elsewhere, for example on a phone."""
    [found] = await service.search_embeddings([search.embedding], search.width, search.fingerprint, search)
    return search_response(found)


@router.post(
    "/search/embeddings",
    response_model=SearchAnswers,
    openapi_extra={"requestBody": {"content": {NPY: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def search_embeddings(service: ServiceHere, search: SearchByEmbeddings) -> Response:
    """Search with each of up to 256 embeddings that a sub-model computed elsewhere.

    With `together` they are one query, and there is one answer. The body can also be a .npy file with a
    (number, dimension) float32 array, with the content type application/x-npy and the other fields in the
    query of the URL.
    """
    found = await service.search_embeddings(
        search.embeddings, search.width, search.fingerprint, search, search.together
    )
    return search_responses(found)


@router.post("/compare/image", response_model=CompareAnswer)
async def compare_image(service: ServiceHere, image: Image, search: FormSearch, box: FormBox) -> Response:
    """Search with an image, or with a part of it, embedded by every sub-model."""
    return search_responses(await service.compare_image(await image.read(), _name(image), search, box))


@router.post("/compare/id", response_model=CompareAnswer)
async def compare_id(service: ServiceHere, search: CompareById) -> Response:
    """Search with the image of a row, embedded by every sub-model."""
    return search_responses(await service.compare_id(search.id, search))


@router.post("/rows")
async def add(
    service: ServiceHere,
    image: Image,
    box: FormBox,
    path: Annotated[
        Text, Form(description="A URI, or the absolute path of the same file on the service's machine.")
    ],
    id: Annotated[Text | None, Form(description="By default the path. Replaces a row with this id.")] = None,
    identity: OptionalText = None,
    camera: OptionalText = None,
    attributes: Annotated[str, Form(description="A JSON object.", examples=['{"price": 9.5}'])] = "{}",
    width: Annotated[Width, Form()] = 1.0,
) -> Added:
    """Embed an image and store its row. The row is stored durably when the response arrives.

    With a box, the row is that of a part of the image, and its path ends with `#xywh=` and the box.
    """
    row = {"path": path, "id": id, "identity": identity, "camera": camera}
    return await service.add(await image.read(), row, _attributes(attributes), width, box)


@router.post("/rows/embeddings", response_model=RowsAdded)
async def add_embeddings(service: ServiceHere, new: AddEmbeddings) -> Response:
    """Store up to 1,000 rows whose embeddings a sub-model computed elsewhere.

    All rows are stored durably when the response arrives; if one of them is refused, none is stored.
    """
    added = await service.add_embeddings(new.rows, new.width, new.fingerprint, new.form)
    return JSONResponse({"added": added})


DIRECT = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/search/embedding", search_embedding, SearchByEmbedding),
        Endpoint("/search/embeddings", search_embeddings, SearchByEmbeddings, takes_npy=True),
        Endpoint("/rows/embeddings", add_embeddings, AddEmbeddings),
    )
}


@router.delete("/rows")
async def delete(
    service: ServiceHere,
    id: Annotated[list[Text], Query(default_factory=list, description="Ids of the rows; repeatable.")],
    where: Annotated[
        list[str], Query(default_factory=list, description="Conditions that the rows fulfil; repeatable.")
    ],
) -> Deleted:
    """Delete rows by their ids, by conditions, or by both, which deletes the rows that match both."""
    return Deleted(deleted=await service.delete(id, where))


@router.get("/family")
async def family(service: ServiceHere) -> FamilyAnswer:
    """Return the sub-models with their sizes and latencies, and the compatibility matrix."""
    return service.description


@router.get("/gallery")
async def gallery(service: ServiceHere) -> GalleryAnswer:
    """Return a summary of the gallery and the columns to filter by, at most a minute old."""
    return await service.summary()


@router.get("/images/{id:path}", response_class=Response, responses={200: {"content": {"image/*": {}}}})
async def image(service: ServiceHere, id: str) -> Response:
    """Return the image file of a row."""
    try:
        data = await service.image(id)
    except CorruptImage as error:
        return error_response(404, str(error))
    return Response(data, media_type=media_type(data), headers={"Cache-Control": "private, max-age=60"})


@router.get("/health")
async def health(service: ServiceHere) -> Health:
    """Check that the service responds and that the gallery can be read."""
    return Health(status="ok", fingerprint=service.fingerprint, rows=await service.rows())


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(service: ServiceHere) -> Response:
    """Return counters and histograms for Prometheus."""
    return Response(service.metrics.text(await service.rows()), media_type=CONTENT_TYPE_LATEST)


def page_file(request: Request) -> Response:
    """Return one of the files of the page."""
    package, name, type_ = PAGE[request.scope["route"].path]
    text = resources.files(package).joinpath(name).read_text("utf-8")
    return Response(text, media_type=type_, headers={"Cache-Control": "no-cache"})


for path in PAGE:
    page_router.add_api_route(path, page_file, methods=["GET"], response_class=Response)


def _name(image: UploadFile) -> str:
    return image.filename or "image"
