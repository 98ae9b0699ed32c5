"""Measure what smaller rows cost: retrieval from galleries in each numeric form, and in all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from page import parser, section, table

from sfsc import Family
from sfsc.data import open_dataset
from sfsc.data.dataset import Dataset
from sfsc.embedding.image_set import ImageSet, embed_all
from sfsc.evaluation.evaluate import tested_paths
from sfsc.gallery.forms import DTYPES, decode, encode
from sfsc.retrieval.ranking import evaluate_ranking
from sfsc.training.config import read_config

EXPLANATION = """
A trained family of {backbone} on `{dataset}`: {queries:,} queries are searched in a gallery of {rows:,} rows
of {dim} dimensions that the full sub-model wrote. The rows are stored in each numeric form; in the last line,
the forms alternate from row to row. M(q, g) is the mAP, in percent, of queries of width q in a gallery of
width g; *change* shows the effect of the form, in percentage points. Bytes are those of the embedding."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of a trained run")
    arguments.add_argument("--dataset", metavar="KIND:PATH", help="default: the run's own")
    arguments.add_argument("--workers", type=int, default=2, help="processes that decode images")
    chosen = arguments.parse_args()
    family = Family.load(chosen.run)
    dataset = open_dataset(chosen.dataset or read_config(chosen.run).dataset)
    images = embed_all(family, tested_paths(dataset), chosen.workers)
    widths = (family.widths.ratios[0], 1.0)
    explanation = EXPLANATION.format(
        backbone=family.spec.backbone,
        dataset=dataset.source,
        queries=len(dataset.query.paths),
        rows=len(dataset.gallery.paths),
        dim=family.spec.embedding_dim,
    )
    heading = ["rows", "bytes per row"]
    for width in widths:
        heading += [f"M({width:g}, 1)", "change"]
    print(section("Numeric forms", explanation, table(heading, rows_of(images, dataset, widths))))


def rows_of(images: ImageSet, dataset: Dataset, widths: tuple[float, float]) -> Iterator[list[str]]:
    """Yield a row of the table for each form, and for all of them."""
    gallery = images.of(dataset.gallery.paths)[1.0]
    queries = images.of(dataset.query.paths)
    before: list[float] = []
    for name, forms in {**{form: [form] for form in DTYPES}, "all in turn": [*DTYPES]}.items():
        stored, size = store(gallery, forms)
        found = [
            evaluate_ranking(queries[width], stored, dataset.query, dataset.gallery).mean_ap
            for width in widths
        ]
        before = before or found
        pairs = zip(found, before, strict=True)
        yield [name, f"{size:.0f}", *(cell for pair in pairs for cell in cells(*pair))]


def store(rows: np.ndarray, forms: list[str]) -> tuple[np.ndarray, float]:
    """Return the rows as they are read again, stored with alternating forms, and their mean bytes."""
    read, size = np.empty_like(rows), 0
    for place, form in enumerate(forms):
        encoded = encode(rows[place :: len(forms)], form)
        read[place :: len(forms)] = decode(encoded)
        size += encoded.nbytes
    return read, size / len(rows)


def cells(found: float, before: float) -> list[str]:
    """Return the mAP in percent and its change in percentage points."""
    return [f"{100 * found:.2f}", f"{100 * (found - before):+.3f}"]


if __name__ == "__main__":
    main()
