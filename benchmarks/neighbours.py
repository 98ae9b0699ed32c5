"""Synthetic embeddings and their nearest neighbours, without a gallery."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import lance
import numpy as np
import pyarrow as pa

from sfsc.gallery.lists import CANDIDATES, empty_lists

CENTRES, NOISE = 2000, 0.7
SCORED = 100  # queries at once, which take 400 MB for a million rows


def clustered(rows: int, queries: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows and queries, float32 of length 1, around the same centres."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CENTRES, dimension), np.float32)
    drawn = NOISE * generator.standard_normal((rows + queries, dimension), np.float32)
    drawn += centres[generator.integers(0, CENTRES, len(drawn))]
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn[:rows], drawn[rows:]


def clustered_parts(
    rows: int, queries: int, dimension: int, part: int
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Draw queries and, in parts of at most `part`, rows, as `clustered` does for rows that fit in memory."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CENTRES, dimension), np.float32)

    def around(count: int) -> np.ndarray:
        drawn = NOISE * generator.standard_normal((count, dimension), np.float32)
        drawn += centres[generator.integers(0, CENTRES, count)]
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    return around(queries), (around(min(part, rows - start)) for start in range(0, rows, part))


def by_numpy(rows: np.ndarray, queries: np.ndarray, top: int) -> np.ndarray:
    """Return the numbers of the rows with the greatest inner products, (Q, top), in no particular order."""
    return np.concatenate(
        [
            np.argpartition(-(queries[start : start + SCORED] @ rows.T), top, axis=1)[:, :top]
            for start in range(0, len(queries), SCORED)
        ]
    )


def flat_index(rows: np.ndarray) -> faiss.Index:
    """Return FAISS's index for exact search."""
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    return index


def refined_lists(rows: np.ndarray, lists: int, probes: int) -> faiss.Index:
    """Return FAISS's index for approximate search: lists of codes give candidates for exact comparison."""
    index = empty_lists(rows.shape[1], lists)
    index.train(rows[: 40 * lists])
    index.nprobe = probes
    refined = faiss.IndexRefineFlat(index)
    refined.k_factor = CANDIDATES
    refined.add(rows)
    return refined


def lance_lists(rows: np.ndarray, lists: int, folder: Path) -> lance.LanceDataset:
    """Return a Lance table with Lance's own index of the same kind."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    dataset = lance.write_dataset(pa.table({"vector": vectors}), folder)
    return dataset.create_index("vector", "IVF_SQ", metric="dot", num_partitions=lists)


def by_lance(dataset: lance.LanceDataset, queries: np.ndarray, top: int, probes: int) -> np.ndarray:
    """Return the numbers of the rows that Lance finds, (Q, top)."""
    how = {"column": "vector", "k": top, "nprobes": probes, "refine_factor": CANDIDATES}
    found = [
        dataset.to_table(columns=["_distance"], with_row_id=True, nearest=how | {"q": query})["_rowid"]
        for query in queries
    ]
    per_file = 1 << 20  # rows; the upper half of an id is the number of the file
    ids = np.array([one.to_numpy() for one in found])
    return (per_file * (ids >> 32) + (ids & 0xFFFFFFFF)).astype(np.int64)


def recall(found: np.ndarray, best: np.ndarray) -> float:
    """Return the share of the best rows, (Q, k) numbers, that were found."""
    return float((best[:, :, None] == found[:, None, :]).any(2).mean())
