"""Measure how long duplicates take to find, against exact comparison of a part of the rows."""

from __future__ import annotations

import time
from pathlib import Path

import faiss
import numpy as np
from neighbours import clustered
from page import parser, section, table

from sfsc.gallery.similar import similar_pairs
from sfsc.progress import say
from sfsc.retrieval.linkage import complete_linkage

EXPLANATION = """
{rows:,} rows of {dimension} dimensions are drawn around {centres:,} centres, and every tenth one is replaced
by a near copy of another, with a cosine of about {copied:.3f}. *Ours* finds all pairs with a cosine of at
least {least} and groups them by complete linkage, as `sfsc gallery duplicates` does after it has read the
rows. *Exact* compares {queries:,} of the rows with all of them, by FAISS's range search (`IndexFlatIP`) or by
one product of numpy, whichever is faster, in the same process; the time for all rows is calculated
from that. Times are those of the processor. The share is that of the pairs of these rows in the range search
that ours found. Memory is the greatest of the process above that of the rows."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, nargs="+", default=[200_000, 1_000_000])
    arguments.add_argument("--dim", type=int, default=128)
    arguments.add_argument("--queries", type=int, default=500, help="rows that FAISS compares with all")
    arguments.add_argument("--noise", type=float, default=0.01, help="of each component of a near copy")
    arguments.add_argument("--least", type=float, default=0.98, help="smallest cosine of duplicates")
    chosen = arguments.parse_args()
    lines, copied = [], 0.0
    for rows in chosen.rows:
        say(f"{rows:,} rows")
        line, copied = measured(rows, chosen.dim, chosen.queries, chosen.noise, chosen.least)
        lines.append(line)
    explanation = EXPLANATION.format(
        rows=chosen.rows[-1],
        dimension=chosen.dim,
        centres=2000,
        copied=copied,
        least=chosen.least,
        queries=chosen.queries,
    )
    heading = [
        "rows",
        "pairs",
        "groups",
        "ours",
        "exact, in proportion",
        "times faster",
        "share found",
        "memory",
    ]
    print(section("Duplicates", explanation, table(heading, lines)))


def measured(count: int, dimension: int, queries: int, noise: float, least: float) -> tuple[list[str], float]:
    """Return a line of the table, and the mean cosine of a row and its near copy."""
    rows, copied = with_copies(count, dimension, noise)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of what was measured before
    before = peak()
    start = time.process_time()
    pairs, scores = similar_pairs(rows, np.zeros(count, np.int64), np.array([[least]]))
    groups = complete_linkage(pairs, scores, count)
    ours, memory = time.process_time() - start, peak() - before
    flat = faiss.IndexFlatIP(dimension)
    flat.add(rows)
    chosen = np.sort(np.random.default_rng(2).choice(count, queries, False))
    start = time.process_time()
    bounds, _, others = flat.range_search(rows[chosen], least)
    ranged = time.process_time()
    np.argwhere(rows[chosen] @ rows.T >= least)
    exact = min(ranged - start, time.process_time() - ranged) * count / queries
    return [
        f"{count:,}",
        f"{len(pairs):,}",
        f"{len(groups):,}",
        f"{ours:.0f} s",
        f"{exact:.0f} s",
        f"{exact / ours:.1f}",
        f"{found_share(pairs, chosen, bounds, others):.3f}",
        f"{memory / 1e6:.0f} MB",
    ], copied


def with_copies(count: int, dimension: int, noise: float) -> tuple[np.ndarray, float]:
    """Return rows of which every tenth is a near copy of another, and the mean cosine of the copies."""
    rows, _ = clustered(count, 0, dimension)
    generator = np.random.default_rng(3)
    origin = generator.integers(0, count, len(rows[::10]))
    copies = rows[origin] + noise * generator.standard_normal((len(origin), dimension), np.float32)
    copies /= np.linalg.norm(copies, axis=1, keepdims=True)
    cosines = np.einsum("nd,nd->n", copies, rows[origin])
    rows[::10] = copies
    return rows, float(cosines.mean())


def found_share(pairs: np.ndarray, chosen: np.ndarray, bounds: np.ndarray, others: np.ndarray) -> float:
    """Return the share of the exact pairs of some rows that are among the pairs."""
    known = {*map(tuple, pairs.tolist())}
    exact = {
        (min(row, other), max(row, other))
        for place, row in enumerate(chosen.tolist())
        for other in others[int(bounds[place]) : int(bounds[place + 1])].tolist()
        if row != other
    }
    return len(exact & known) / max(1, len(exact))


def peak() -> float:
    """Return the greatest memory of the process since its peak was forgotten, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    main()
