"""The JSON requests and responses of the service, validated by pydantic."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sfsc.gallery.conditions import Value

TEXT = 4096  # maximum number of characters of an id or a path

Top = Annotated[int, Field(ge=1, le=100, description="The maximum number of hits.")]
Text = Annotated[str, Field(min_length=1, max_length=TEXT)]
Where = Annotated[
    list[str],
    Field(
        description='Conditions that every hit fulfils, such as camera=2, price<=9.5 or name="lamp, red". '
        "Several equalities on one column are alternatives.",
        examples=[["camera=2"]],
    ),
]
Exact = Annotated[bool, Field(description="Whether to compare every row.")]
Width = Annotated[float, Field(description="The sub-model that embeds the query.", examples=[1.0])]


class Error(BaseModel):
    """The reason why a request was refused."""

    error: str


class Search(BaseModel):
    """The settings of every search."""

    model_config = ConfigDict(extra="forbid")

    top: Top = 10
    where: Where = []
    exact: Exact = False


class SearchById(Search):
    """A search with a row of the gallery as the query."""

    id: Text
    width: Annotated[
        float | None,
        Field(
            description="The sub-model that embeds the row's image again; by default, the stored embedding."
        ),
    ] = None


class CompareById(Search):
    """A search with the image of a row, embedded by every sub-model."""

    id: Text


class SearchByEmbedding(Search):
    """A search with an embedding that the client computed."""

    embedding: Annotated[list[float], Field(min_length=1, max_length=65536, fail_fast=True)]
    width: Annotated[float | None, Field(description="The sub-model that computed it, if known.")] = None
    fingerprint: Annotated[
        str | None,
        Field(description="The fingerprint of the family that computed it; it must be the gallery's."),
    ] = None


class HitAnswer(BaseModel):
    """A row of the gallery that a search found; `score` is the cosine similarity."""

    id: str
    path: str
    identity: str | None
    camera: str | None
    width: float
    form: str
    score: float
    attributes: dict[str, Value | None]


class SearchAnswer(BaseModel):
    """The hits, best first, and the milliseconds of embedding and searching, without waiting in queues.

    `width` is the sub-model that embedded the query, or null if the client did not name it. `embed_ms` is 0
    if nothing was embedded.
    """

    width: float | None
    hits: list[HitAnswer]
    embed_ms: float
    search_ms: float


class CompareAnswer(BaseModel):
    """The response for every sub-model, in the order of their widths."""

    answers: list[SearchAnswer]


class Added(BaseModel):
    """A row that was stored."""

    id: str
    width: float
    embed_ms: float


class Deleted(BaseModel):
    """The number of deleted rows."""

    deleted: int


class Health(BaseModel):
    """The state of the service."""

    status: str
    fingerprint: str
    rows: int


class SubModel(BaseModel):
    """A sub-model; `latency_ms` is the median time to embed one image, measured when the service started."""

    width: float
    parameters: int
    multiply_adds: int
    latency_ms: float


class Evaluation(BaseModel):
    """The compatibility matrix: mAP as fractions; rows are query widths, columns are gallery widths."""

    dataset: str
    widths: list[float]
    matrix: list[list[float]]
    criterion: list[list[bool]]


class FamilyAnswer(BaseModel):
    """The family; `dimensions` are those that it supports, ascending up to the full `dimension`.

    `image_size` is (height, width), and `evaluation` is null if the run was not evaluated.
    """

    fingerprint: str
    backbone: str
    dimension: int
    dimensions: list[int]
    image_size: tuple[int, int]
    submodels: list[SubModel]
    evaluation: Evaluation | None


class Column(BaseModel):
    """A column to filter by; `values` are its distinct values, or null if they are too many to list."""

    kind: str
    values: list[Value] | None


class Example(BaseModel):
    """A row whose image the service can show."""

    id: str
    identity: str | None


class GalleryAnswer(BaseModel):
    """A summary of the gallery; `examples` are a few rows to begin with, the same ones every time."""

    rows: int
    dimension: int | None
    fingerprint: str | None
    rows_by_width: dict[str, int]
    rows_by_form: dict[str, int]
    columns: dict[str, Column]
    examples: list[Example]
