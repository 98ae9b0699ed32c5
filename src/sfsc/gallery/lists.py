"""Inverted lists for approximate searches: made from rows, kept in files, and mapped from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np

from sfsc.gallery.residency import Span
from sfsc.gallery.segment import INNER, PAGE, Segment, best

faiss: Any = typed_faiss  # its type hints lack what its Python layer adds
TRAINING_ROWS_PER_LIST = 40
GOAL = 0.98  # the recall@10 against the exact search that the number of probed lists is chosen for
SAMPLE = 200
CODES = faiss.ScalarQuantizer.QT_4bit  # the exact comparison makes up for the few bits
# The codes of a component reach from the smallest to the largest values except this share of them, which are
# rounded to the ends, so that all others are rounded less.
OUTSIDE = 0.002
# Rows that are compared exactly: for each hit, and at least. Four bits find a best row among 20, not among 4.
CANDIDATES, FEWEST_CANDIDATES = 4, 20
BLOCK = 1 << 14  # rows coded at once
ZEROS = 1 << 20  # bytes written at once
ID = np.dtype("<i8")


@dataclass(frozen=True)
class Lists:
    """A partition of rows into lists, each with the codes of its rows. A search probes some of the lists.

    Attributes:
        probes: the number of lists that a search probes.
        count: the number of lists.
        span: the memory into which the lists are mapped.
    """

    probes: int
    count: int
    _index: Any
    span: Span = (0, 0)

    @cached_property
    def probed(self) -> int:
        """The bytes that a search reads for one query."""
        size = int(self._index.ntotal) * (self._index.code_size + ID.itemsize)
        return self.probes * (size // self.count + PAGE)

    def rows(self) -> np.ndarray:
        """Return the numbers of the rows in all lists: (n,) int64, in the order of the lists."""
        lists = self._index.invlists
        return np.concatenate(
            [
                faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))
                for number in range(self.count)
            ]
        )

    def candidates(
        self, queries: np.ndarray, top: int, chosen: np.ndarray | None, share: float
    ) -> np.ndarray:
        """Return the numbers of rows that may be among the best for each query, -1 where there are too few.

        Args:
            queries: (Q, dim) float32 of length 1.
            top: the number of hits for each query.
            chosen: bits of the rows to choose from, as `Segment.present`; None for all.
            share: the share of these rows. The fewer they are, the more lists are probed.

        Returns:
            (Q, `CANDIDATES` x top) int64, or `FEWEST_CANDIDATES` for a small `top`.
        """
        if chosen is None:
            settings = self._settings
        else:
            probes = min(self.count, math.ceil(self.probes / max(share, 1 / self.count)))
            settings = faiss.SearchParametersIVF(nprobe=probes, sel=faiss.IDSelectorBitmap(chosen))
        count = max(CANDIDATES * top, FEWEST_CANDIDATES)
        rows = _search(self._index, queries, count, settings)
        rows[(rows < 0) | (rows >= self._index.ntotal)] = -1  # the numbers come from a file
        return rows

    @cached_property
    def _settings(self) -> Any:
        return faiss.SearchParametersIVF(nprobe=self.probes)

    def of(self, rows: Segment) -> Lists:
        """Return the lists of other rows in memory, with the same partition."""
        index = empty_lists(rows.vectors.shape[1], self.count)
        index.quantizer.add(_centroids(self._index))
        faiss.copy_array_to_vector(faiss.vector_to_array(self._index.sq.trained), index.sq.trained)
        index.is_trained = True
        for start in range(0, len(rows), BLOCK):
            index.add(rows.decoded(slice(start, start + BLOCK)))
        return Lists(self.probes, self.count, index)


def write_lists(folder: Path, rows: Segment, track: Callable[[Iterable[int], str], Iterable[int]]) -> int:
    """Write the lists of all rows of a segment into files; return the number of lists to probe.

    In `lists`, the codes of each list are followed by the numbers of its rows, as FAISS maps them.
    """
    count, dimension = 2 * math.isqrt(len(rows)), rows.vectors.shape[1]
    index = empty_lists(dimension, count)
    generator = np.random.default_rng(0)
    sample = generator.choice(len(rows), min(len(rows), TRAINING_ROWS_PER_LIST * count), replace=False)
    index.train(rows.decoded(np.sort(sample)))
    starts = range(0, len(rows), BLOCK)
    assigned = np.empty(len(rows), np.int64)
    for start in track(starts, "assigning rows to lists"):
        vectors = rows.decoded(slice(start, start + BLOCK))
        assigned[start : start + BLOCK] = index.quantizer.assign(vectors, 1).ravel()
    counts = np.bincount(assigned, minlength=count)
    file = _new_mapped(folder / "lists", int(_sizes(counts, index.code_size).sum()))
    filled = np.zeros(count, np.int64)
    for start in track(starts, "coding rows"):
        block = slice(start, min(start + BLOCK, len(rows)))
        codes = _codes(index, rows.decoded(block), assigned[block])
        _place(file, counts, filled, assigned[block], codes, np.arange(block.start, block.stop))
    file.flush()
    write_array(folder / "centroids", _centroids(index))
    write_array(folder / "ranges", faiss.vector_to_array(index.sq.trained))
    write_array(folder / "counts", counts)
    queries = rows.decoded(generator.choice(len(rows), SAMPLE))
    return _probes(open_lists(folder, len(rows), dimension, min(4, count)), rows, queries)


def write_array(file: Path, array: np.ndarray) -> None:
    """Write the bytes of an array; raise OSError if the disk is full, which `tofile` of numpy may not do."""
    file.write_bytes(np.ascontiguousarray(array).data)


def open_lists(folder: Path, rows: int, dimension: int, probes: int) -> Lists:
    """Map the lists in the files that `write_lists` wrote. No content of the files is trusted.

    Args:
        folder: the folder of the files.
        rows: the number of rows.
        dimension: their dimension.
        probes: the number of lists that a search probes.

    Raises:
        ValueError: the files do not fit each other, or are damaged.
        OSError: a file is missing or cannot be read.
    """
    counts = np.fromfile(folder / "counts", np.int64)
    centroids, ranges = (np.fromfile(folder / name, np.float32) for name in ("centroids", "ranges"))
    if centroids.size != len(counts) * dimension or ranges.size != 2 * dimension:
        raise ValueError("the lists do not fit the rows")
    index = empty_lists(dimension, len(counts))
    sizes = _sizes(counts, index.code_size)
    if (
        counts.min(initial=0) < 0
        or counts.max(initial=0) > rows
        or counts.sum() != rows
        or (folder / "lists").stat().st_size != sizes.sum()
        or not 0 < probes <= len(counts)
        or not (np.isfinite(centroids).all() and np.isfinite(ranges).all())
    ):
        raise ValueError("the lists do not fit the rows")
    index.quantizer.add(centroids.reshape(len(counts), dimension))
    faiss.copy_array_to_vector(ranges, index.sq.trained)
    index.is_trained, index.ntotal = True, rows
    lists = _mapped(folder / "lists", counts, index.code_size)
    span = int(lists.ptr), int(lists.totsize)
    index.replace_invlists(lists, True)
    return Lists(probes, len(counts), index, span)


def empty_lists(dimension: int, count: int) -> Any:
    """Return an index with `count` lists and without rows."""
    coarse = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFScalarQuantizer(coarse, dimension, count, CODES, INNER)
    index.sq.rangestat, index.sq.rangestat_arg = faiss.ScalarQuantizer.RS_quantiles, OUTSIDE
    return index


# Arrays for results are passed to FAISS, because programs that import `faiss.contrib.torch_utils`, as
# pytorch-metric-learning does, change its methods: `search` loses its parameters, and others return tensors.
def _search(index: Any, queries: np.ndarray, count: int, settings: Any) -> np.ndarray:
    """Return the numbers of the `count` nearest rows of each query: (Q, count) int64."""
    queries = np.ascontiguousarray(queries)
    scores = np.empty((len(queries), count), np.float32)
    rows = np.empty((len(queries), count), np.int64)
    pointers = (faiss.swig_ptr(array) for array in (scores, rows))
    index.search_c(len(queries), faiss.swig_ptr(queries), count, *pointers, settings)
    return rows


def _centroids(index: Any) -> np.ndarray:
    """Return the centroids of the lists: (lists, dimension) float32."""
    return index.quantizer.reconstruct_n(0, index.nlist, np.empty((index.nlist, index.d), np.float32))


def _capacities(counts: np.ndarray) -> np.ndarray:
    """Return the places in each list; multiples of 8 keep the numbers of rows aligned in the file."""
    return -(-counts // 8) * 8


def _sizes(counts: np.ndarray, code_size: int) -> np.ndarray:
    """Return the bytes of each list in the file."""
    return _capacities(counts) * (code_size + ID.itemsize)


def _mapped(file: Path, counts: np.ndarray, code_size: int) -> Any:
    """Return the inverted lists of FAISS, mapped from a file whose size was checked."""
    lists = faiss.OnDiskInvertedLists()
    lists.nlist, lists.code_size, lists.read_only = len(counts), code_size, True
    lists.filename, lists.totsize = str(file), file.stat().st_size
    sizes = _sizes(counts, code_size)
    for count, capacity, offset in zip(
        counts.tolist(), _capacities(counts).tolist(), (sizes.cumsum() - sizes).tolist(), strict=True
    ):
        one = faiss.OnDiskOneList()
        one.size, one.capacity, one.offset = count, capacity, offset
        lists.lists.push_back(one)
    lists.prefetch_nthread = 0  # starting threads takes longer than a search
    lists.do_mmap()
    lists.this.disown()  # it belongs to the index
    return lists


def _new_mapped(path: Path, size: int) -> np.memmap[Any, Any]:
    """Create a file of `size` bytes and map it.

    Its space is taken first: the system kills a process that writes into a mapped file on a full disk.
    """
    with path.open("wb") as file:
        for start in range(0, size, ZEROS):
            file.write(bytes(min(ZEROS, size - start)))
    return np.memmap(path, np.uint8, "r+", shape=(size,))


def _codes(index: Any, vectors: np.ndarray, assigned: np.ndarray) -> np.ndarray:
    """Return the codes of rows in their lists: (k, code_size) uint8."""
    codes = np.empty((len(vectors), index.code_size), np.uint8)
    vectors, assigned = np.ascontiguousarray(vectors), np.ascontiguousarray(assigned)
    pointers = (faiss.swig_ptr(array) for array in (vectors, assigned, codes))
    index.encode_vectors(len(vectors), *pointers)
    return codes


def _place(
    file: np.ndarray,
    counts: np.ndarray,
    filled: np.ndarray,
    assigned: np.ndarray,
    codes: np.ndarray,
    rows: np.ndarray,
) -> None:
    """Write the codes and numbers of rows to the next places of their lists, which `filled` counts."""
    order = np.argsort(assigned, kind="stable")
    lists = assigned[order]
    first = np.searchsorted(lists, lists)
    places = filled[lists] + np.arange(len(lists)) - first
    np.add.at(filled, lists, 1)
    size = codes.shape[1]
    sizes = _sizes(counts, size)
    starts = (sizes.cumsum() - sizes)[lists]
    file[(starts + places * size)[:, None] + np.arange(size)] = codes[order]
    numbers = rows[order].astype(ID).view(np.uint8).reshape(-1, ID.itemsize)
    ids = starts + _capacities(counts)[lists] * size + places * ID.itemsize
    file[ids[:, None] + np.arange(ID.itemsize)] = numbers


def _probes(lists: Lists, rows: Segment, queries: np.ndarray) -> int:
    """Return the number of lists to probe, to reach the goal for queries like the rows."""
    nearest = rows.nearest(queries, 10)
    probes = lists.probes
    while probes < lists.count:
        found = Lists(probes, lists.count, lists._index).candidates(queries, 10, None, 1.0)
        ten = best((found, rows.scores(queries, found)), 10)[0]
        if (nearest[:, :, None] == ten[:, None]).any(2).mean() >= GOAL:
            return probes
        probes = min(2 * probes, lists.count)
    return probes
