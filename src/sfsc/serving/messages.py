"""What goes over the wire as JSON: requests and answers, checked by pydantic."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sfsc.gallery.conditions import Value

TEXT = 4096  # characters of an id or a path

Top = Annotated[int, Field(ge=1, le=100, description="How many hits.")]
Text = Annotated[str, Field(min_length=1, max_length=TEXT)]
Where = Annotated[
    list[str],
    Field(
        description='Conditions that hits fulfil: camera=2, price<=9.5, name="lamp, red". Of several '
        "equalities on one column, any will do.",
        examples=[["camera=2"]],
    ),
]
Exact = Annotated[bool, Field(description="Whether every row is compared.")]
Width = Annotated[float, Field(description="The sub-model that embeds the query.", examples=[1.0])]


class Error(BaseModel):
    """Why a request was refused."""

    error: str


class Search(BaseModel):
    """What every search may say."""

    model_config = ConfigDict(extra="forbid")

    top: Top = 10
    where: Where = []
    exact: Exact = False


class SearchById(Search):
    """A search with a row of the gallery."""

    id: Text
    width: Annotated[
        float | None,
        Field(
            description="The sub-model that embeds the row's image again; without it, the stored embedding."
        ),
    ] = None


class CompareById(Search):
    """A search with the image of a row, by every sub-model."""

    id: Text


class SearchByEmbedding(Search):
    """A search with an embedding that the client has computed."""

    embedding: Annotated[list[float], Field(min_length=1, max_length=65536)]
    width: Annotated[float | None, Field(description="The sub-model that computed it, if known.")] = None
    fingerprint: Annotated[
        str | None,
        Field(description="Of the family that computed it; another than the gallery's is refused."),
    ] = None


class HitAnswer(BaseModel):
    """A row of the gallery that answers a query; `score` is the cosine."""

    id: str
    path: str
    identity: str | None
    camera: str | None
    width: float
    form: str
    score: float
    attributes: dict[str, Value | None]


class SearchAnswer(BaseModel):
    """What a search found, best first, and how long embedding and searching took, without any waiting.

    `width` is the sub-model that embedded the query, null where the client did not name it; `embed_ms` is 0
    where nothing had to be embedded.
    """

    width: float | None
    hits: list[HitAnswer]
    embed_ms: float
    search_ms: float


class CompareAnswer(BaseModel):
    """What every sub-model found, in the order of their widths."""

    answers: list[SearchAnswer]


class Added(BaseModel):
    """A row that is stored."""

    id: str
    width: float
    embed_ms: float


class Deleted(BaseModel):
    """How many rows are gone."""

    deleted: int


class Health(BaseModel):
    """The service answers."""

    status: str
    fingerprint: str
    rows: int


class SubModel(BaseModel):
    """One sub-model; `latency_ms` is the median time to embed one image here, measured at the start."""

    width: float
    parameters: int
    multiply_adds: int
    latency_ms: float


class Evaluation(BaseModel):
    """The compatibility matrix, mAP in fractions of 1: rows are query widths, columns gallery widths."""

    dataset: str
    widths: list[float]
    matrix: list[list[float]]
    criterion: list[list[bool]]


class FamilyAnswer(BaseModel):
    """The family; `dimensions` are all in which its embeddings stand alone, the last the whole one's.

    `image_size` is (height, width), `evaluation` null where the run was not evaluated.
    """

    fingerprint: str
    backbone: str
    dimension: int
    dimensions: list[int]
    image_size: tuple[int, int]
    submodels: list[SubModel]
    evaluation: Evaluation | None


class Column(BaseModel):
    """A column to filter by; `values` are those in use, null where they are too many to list."""

    kind: str
    values: list[Value] | None


class Example(BaseModel):
    """A row whose image this service can show."""

    id: str
    identity: str | None


class GalleryAnswer(BaseModel):
    """What the gallery holds; `examples` are some rows to begin with, the same ones every time."""

    rows: int
    dimension: int | None
    fingerprint: str | None
    rows_by_width: dict[str, int]
    rows_by_form: dict[str, int]
    columns: dict[str, Column]
    examples: list[Example]
