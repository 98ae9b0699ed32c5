"""The JSON requests and responses of the service, validated by pydantic."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sfsc.gallery.answering import Wanted
from sfsc.gallery.conditions import Value
from sfsc.serving.embeddings import Embedding

TEXT = 4096  # maximum number of characters of an id or a path
MOST_QUERIES = 256  # in one request
MOST_HITS = 10_000  # in one response
MOST_ROWS = 1000  # in one request
MOST_ATTRIBUTES = 100  # maximum number of attributes of a new row

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
MaxFmr = Annotated[
    float | None,
    Field(gt=0, le=1, description="The largest false match rate of a match; other hits are left out."),
]
MinProbability = Annotated[
    float | None,
    Field(ge=0, le=1, description="The smallest probability of a match; other hits are left out."),
]
By = Annotated[
    Literal["row", "identity"],
    Field(description="With identity, each identity is returned once, with its best row."),
]
Rerank = Annotated[
    Literal["k-reciprocal", "expansion"] | None,
    Field(description="The rule that re-ranks the first rows; scores stay cosines."),
]
RerankDepth = Annotated[int, Field(ge=2, le=200, description="The number of first rows that are re-ranked.")]
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
    max_fmr: MaxFmr = None
    min_probability: MinProbability = None
    by: By = "row"
    rerank: Rerank = None
    rerank_depth: RerankDepth = 100

    @property
    def limited(self) -> bool:
        """Whether hits that are no matches are left out."""
        return self.max_fmr is not None or self.min_probability is not None

    def wanted(self) -> Wanted:
        """Return what the gallery should answer."""
        return Wanted(
            self.top,
            self.where,
            self.exact,
            self.by,
            rerank=self.rerank,
            rerank_depth=self.rerank_depth,
        )


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


class _Computed(Search):
    width: Annotated[
        float | None, Field(description="The sub-model that computed the embedding, if known.")
    ] = None
    fingerprint: Annotated[
        str | None,
        Field(
            description="The fingerprint of the family that computed the embedding; it must be the gallery's "
            "or that of the family whose queries a bridge maps to it."
        ),
    ] = None


class SearchByEmbedding(_Computed):
    """A search with an embedding that the client computed."""

    embedding: Embedding


class SearchByEmbeddings(_Computed):
    """A search with each of several embeddings of one dimension that the client computed.

    One response has at most 10,000 hits, the number of embeddings times `top`.
    """

    embeddings: Annotated[list[Embedding], Field(min_length=1, max_length=MOST_QUERIES, fail_fast=True)]
    together: Annotated[
        bool,
        Field(
            description="Whether the embeddings are of one object: their mean is the query, with one answer."
        ),
    ] = False


class NewRow(BaseModel):
    """A row whose embedding the client computed."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[Text, Field(description="A URI, which the service never opens.")]
    id: Annotated[Text | None, Field(description="By default the path. Replaces a row with this id.")] = None
    identity: Text | None = None
    camera: Text | None = None
    attributes: Annotated[
        dict[str, Any],
        Field(
            max_length=MOST_ATTRIBUTES,
            description="Texts, numbers, booleans or null by name.",
            examples=[{"price": 9.5}],
        ),
    ] = {}
    embedding: Embedding


class AddEmbeddings(BaseModel):
    """Rows whose embeddings of one dimension the client computed with one sub-model."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: Annotated[
        Text, Field(description="The fingerprint of the family that computed the embeddings.")
    ]
    width: Annotated[float, Field(description="The sub-model that computed them.", examples=[1.0])]
    form: Annotated[
        str, Field(description="The numeric form to store: float32, float16 or int8.", examples=["float32"])
    ] = "float32"
    rows: Annotated[list[NewRow], Field(min_length=1, max_length=MOST_ROWS, fail_fast=True)]


class HitAnswer(BaseModel):
    """A row of the gallery that a search found; `score` is the cosine similarity.

    `probability` and `match` are null if it is not known what scores mean.
    """

    id: str
    path: str
    identity: str | None
    camera: str | None
    width: float
    form: str
    score: float
    attributes: dict[str, Value | None]
    probability: float | None
    match: bool | None


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


class SearchAnswers(BaseModel):
    """The response for each embedding, in their order; `search_ms` is the time to search with all of them."""

    answers: list[SearchAnswer]


class RowsAdded(BaseModel):
    """The number of rows that were stored."""

    added: int


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
    """A sub-model, whose images have the (height, width) `image_size`.

    `depth` is the share of the residual blocks of each stage that it keeps.
    `latency_ms` is the median time to embed one image, measured when the service started.
    """

    width: float
    depth: float
    image_size: tuple[int, int]
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

    `image_size` is the (height, width) of the full sub-model's images, and `evaluation` is null if the run
    was not evaluated. `smallest_fmr` is the smallest false match rate that the thresholds of all pairs
    support, or null without thresholds. Both are null if the gallery is searched through a bridge.
    """

    fingerprint: str
    backbone: str
    dimension: int
    dimensions: list[int]
    image_size: tuple[int, int]
    submodels: list[SubModel]
    evaluation: Evaluation | None
    smallest_fmr: float | None


class Column(BaseModel):
    """A column to filter by; `values` are its distinct values, or null if they are too many to list."""

    kind: str
    values: list[Value] | None


class Example(BaseModel):
    """A row whose image the service can show."""

    id: str
    identity: str | None


class GalleryAnswer(BaseModel):
    """A summary of the gallery; `examples` are a few rows to begin with, the same ones every time.

    If `bridged` is true, its rows are those of an old model, and a bridge maps the family's queries to them.
    """

    rows: int
    dimension: int | None
    fingerprint: str | None
    bridged: bool = False
    rows_by_width: dict[str, int]
    rows_by_form: dict[str, int]
    columns: dict[str, Column]
    examples: list[Example]
