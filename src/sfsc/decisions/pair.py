"""`Pair`: what a query and a row of a gallery have to do with the meaning of their cosine."""

from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    """What made the two embeddings that are compared; a cosine means the same only within one pair.

    Attributes:
        query_width: the width of the sub-model that embedded the query.
        gallery_width: the width of the sub-model that embedded the row.
        form: the numeric form in which the row is stored: float32, float16 or int8.
        dimension: the number of components that are compared.
    """

    query_width: float
    gallery_width: float
    form: str
    dimension: int

    def __str__(self) -> str:
        widths = f"a query at width {self.query_width:g} and a row at width {self.gallery_width:g}"
        return f"{widths}, stored in {self.form}, with {self.dimension} dimensions"
