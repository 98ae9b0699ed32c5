"""Descriptions of the family and of the gallery of a service."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from heapq import nsmallest
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sfsc.decisions.thresholds import Thresholds
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.files.writing import read_json
from sfsc.gallery import Gallery
from sfsc.gallery.conditions import Value
from sfsc.gallery.store import COLUMNS, Row
from sfsc.serving.messages import Column, Evaluation, Example, FamilyAnswer, GalleryAnswer, SubModel
from sfsc.serving.row_images import RowImages
from sfsc.switchable.inspection import inspect

FILTERS = ("camera", "identity", "width", "form")  # columns of every gallery that are useful as filters
MOST_VALUES = 50  # the page lists the values of columns with at most this many distinct values
EXAMPLES = 24
TIMINGS = 20


def describe_family(family: Family, run: Path, bridged: bool = False) -> FamilyAnswer:
    """Describe the family: its sub-models, timed on this machine, and the results of the run's evaluation.

    For the gallery of an old model (`bridged`), neither the matrix nor the thresholds say anything.

    Raises:
        SfscError: the run's evaluation.json is damaged or belongs to another family.
    """
    inspection = inspect(family, family.examples())
    latencies = _latencies(family)
    sizes = map(family.image_size_of, family.widths)
    rows = zip(
        inspection.widths, sizes, inspection.parameters, inspection.multiply_adds, latencies, strict=True
    )
    return FamilyAnswer(
        fingerprint=family.fingerprint,
        backbone=family.spec.backbone,
        dimension=family.dimension,
        dimensions=list(family.dimensions),
        image_size=family.spec.image_size,
        submodels=[
            SubModel(
                width=width,
                depth=family.depth_of(width),
                image_size=size,
                parameters=parameters,
                multiply_adds=adds,
                latency_ms=latency,
            )
            for width, size, parameters, adds, latency in rows
        ],
        evaluation=None if bridged else _evaluation(run / "evaluation.json", family),
        smallest_fmr=None if bridged else _smallest_rate(family.thresholds),
    )


def _smallest_rate(thresholds: Thresholds | None) -> float | None:
    return max(one.smallest_rate for one in thresholds.maps.values()) if thresholds else None


def describe_gallery(gallery: Gallery, images: RowImages) -> GalleryAnswer:
    """Summarise the gallery in one pass over its rows; `images` decides which rows can be examples."""
    info = gallery.info()
    kinds = {**{name: COLUMNS[name] for name in FILTERS}, **info.attributes}
    values: dict[str, set[Value]] = {name: set() for name in kinds}
    first = nsmallest(4 * EXAMPLES, _collecting(gallery, values), key=_shuffled)
    shown = [row for row in first if images.has(row["path"])][:EXAMPLES]
    return GalleryAnswer(
        rows=info.rows,
        dimension=info.dimension,
        fingerprint=info.fingerprint,
        rows_by_width={f"{width:g}": rows for width, rows in info.rows_by_width.items()},
        rows_by_form=info.rows_by_form,
        columns={name: _column(kind, values[name]) for name, kind in kinds.items()},
        examples=[Example(id=row["id"], identity=row["identity"]) for row in shown],
    )


def _collecting(gallery: Gallery, values: Mapping[str, set[Value]]) -> Any:
    """Yield the rows of the gallery, and collect up to `MOST_VALUES` + 1 distinct values of each column."""
    for row in gallery.rows():
        for name, found in values.items():
            if len(found) <= MOST_VALUES and row.get(name) is not None:
                found.add(row[name])
        yield row


def _column(kind: str, values: set[Value]) -> Column:
    return Column(kind=kind, values=sorted(values) if len(values) <= MOST_VALUES else None)


def _shuffled(row: Row) -> int:
    """Return a number that looks random but is always the same for the same row."""
    return zlib.crc32(row["id"].encode())


@torch.inference_mode()
def _latencies(family: Family) -> list[float]:
    """Measure the median milliseconds per image of each sub-model, alternating to share disturbances."""
    images = [image.byte() for image in family.examples()]
    timings: list[list[float]] = [[] for _ in family.widths]
    for _ in range(1 + TIMINGS):
        for width, image, times in zip(family.widths, images, timings, strict=True):
            start = time.perf_counter()
            family.embed(image, width)
            times.append(1000 * (time.perf_counter() - start))
    return [round(median(times[1:]), 3) for times in timings]


def _evaluation(path: Path, family: Family) -> Evaluation | None:
    if not path.exists():
        return None
    stored = read_json(path)
    try:
        if stored["fingerprint"] != family.fingerprint:
            raise SfscError(f"{path} belongs to another family: run `sfsc evaluate {path.parent}` again")
        own = len(stored["widths"])  # exported files follow the sub-models
        matrix = [row[:own] for row in stored["metrics"]["mAP"][:own]]
        return Evaluation(**{**stored, "matrix": matrix})
    except (KeyError, TypeError, ValueError):
        raise SfscError(f"{path} is damaged: run `sfsc evaluate {path.parent}` again") from None
