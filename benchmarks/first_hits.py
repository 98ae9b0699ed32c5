"""Count how many of an image's other images are among the first hits of the smallest sub-model's search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from page import parser, section, table

from sfsc import Family, open_dataset
from sfsc.data.dataset import Dataset
from sfsc.embedding.image_set import ImageSet, embed_all
from sfsc.evaluation.evaluate import tested_paths
from sfsc.retrieval.ranking import positive_ranks

EXPLANATION = """
*Found* is the share of the other images of a query's identity that are among the first hits, of at most as
many as there are hits: the mean over queries that are spread evenly over the test images, and over all
queries. The gallery is embedded by the full sub-model, or by the query's own."""


def main() -> None:
    """Print the section."""
    command = parser(__doc__)
    command.add_argument("--run", type=Path, default=Path("runs/demo"))
    command.add_argument("--dataset", default="emoji:data/emoji")
    command.add_argument("--hits", type=int, default=10)
    command.add_argument("--queries", type=int, default=20, help="number of queries that are spread evenly")
    command.add_argument("--image", help="a query of its own row, by the end of its path")
    command.add_argument("--workers", type=int, default=2)
    chosen = command.parse_args()
    family, dataset = Family.load(chosen.run), open_dataset(chosen.dataset)
    images = embed_all(family, tested_paths(dataset), chosen.workers)
    rows = []
    for width in family.widths:
        for gallery in dict.fromkeys((width, 1.0)):
            shares = found(images, dataset, width, gallery, chosen.hits)
            names = family.name_of(width), family.name_of(gallery)
            rows.append((*names, *means(shares, dataset, chosen.queries, chosen.image)))
    heading = ("query", "gallery", f"{chosen.queries} queries", "all queries", chosen.image or "-")
    print(section(f"Found among the first {chosen.hits} hits", EXPLANATION, table(heading, rows)))


def found(images: ImageSet, dataset: Dataset, query: float, gallery: float, hits: int) -> np.ndarray:
    """Return the share of positives among the first hits of each query, NaN for one without positives."""
    embedded = images.of(dataset.query.paths)[query], images.of(dataset.gallery.paths)[gallery]
    ranks = positive_ranks(*embedded, dataset.query, dataset.gallery)
    return np.array([(np.asarray(r) <= hits).sum() / min(hits, len(r)) if len(r) else np.nan for r in ranks])


def means(shares: np.ndarray, dataset: Dataset, queries: int, image: str | None) -> list[str]:
    """Return the cells of a row in percent."""
    answered = np.flatnonzero(~np.isnan(shares))
    spread = answered[np.linspace(0, len(answered) - 1, min(queries, len(answered))).round().astype(int)]
    one = [row for row, path in enumerate(dataset.query.paths) if image and path.endswith(image)]
    values = [shares[spread].mean(), shares[answered].mean(), *shares[one[:1]]]
    return [f"{100 * value:.0f}" for value in values] + ["-"] * (3 - len(values))


if __name__ == "__main__":
    main()
