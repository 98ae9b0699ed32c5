"""Responses as JSON, written from hits without another validation of what the gallery has checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from starlette.responses import Response

from sfsc.gallery.store import Hit


@dataclass(frozen=True)
class Found:
    """What a search found; the fields are those of `SearchAnswer`."""

    width: float | None
    hits: Sequence[Hit]
    embed_ms: float
    search_ms: float

    def embedded(self, milliseconds: float) -> Found:
        """Return the same with the time that the embedding took."""
        return replace(self, embed_ms=milliseconds)

    def fields(self) -> dict[str, Any]:
        """Return the fields of a `SearchAnswer`."""
        return {
            "width": self.width,
            "hits": [hit._asdict() for hit in self.hits],
            "embed_ms": self.embed_ms,
            "search_ms": self.search_ms,
        }


def search_response(found: Found) -> Response:
    """Return the response that `SearchAnswer` describes."""
    return _json(found.fields())


def search_responses(found: Sequence[Found]) -> Response:
    """Return the response that `SearchAnswers` and `CompareAnswer` describe."""
    return _json({"answers": [one.fields() for one in found]})


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
