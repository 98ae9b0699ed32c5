"""The upgrade curve: accuracy against the share of a gallery that was embedded again, in each order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sfsc.bridges.bridge import Bridge
from sfsc.bridges.refitting import FEWEST, refit
from sfsc.bridges.upgrading import check_moved
from sfsc.data.dataset import Dataset, Split
from sfsc.embedding.embedded import Embedded
from sfsc.embedding.engines import local_engine
from sfsc.embedding.model import Model
from sfsc.errors import SfscError
from sfsc.gallery import Gallery
from sfsc.gallery.indexing import upgradable
from sfsc.gallery.ordering import NEAREST, ORDERS, times_found, upgrade_order
from sfsc.gallery.spreading import spread_ranks
from sfsc.gallery.store import EMBEDDING
from sfsc.images.reading import absolute
from sfsc.retrieval.labels import Labels
from sfsc.retrieval.ranking import evaluate_ranking

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
RANDOM, SEEDS = "random", 3
REFITTED = " + refit"  # after the name of an order


@dataclass(frozen=True)
class UpgradeCurve:
    """The mAP after a share of the rows that can be upgraded was embedded again.

    Attributes:
        shares: the k shares, from 0 to 1.
        accuracies: for each order, and for random, the k mAP, fractions; with a bridge also for each name
            with " + refit" behind it, where the other rows were moved again.
        rows: the number of rows that can be upgraded.
        queries: the number of queries that measure; the others are the past queries of the order "queries".
    """

    shares: tuple[float, ...]
    accuracies: Mapping[str, tuple[float, ...]]
    rows: int
    queries: int

    def area(self, order: str) -> float:
        """Return the area under the curve of an order, the mean mAP over all shares."""
        return float(np.trapezoid(self.accuracies[order], self.shares))

    def closed(self, order: str, share: float) -> float:
        """Return how much of the difference between no and all rows a share brings; NaN without one."""
        values = self.accuracies[order]
        gained = float(np.interp(share, self.shares, values)) - values[0]
        return gained / (values[-1] - values[0]) if values[-1] != values[0] else float("nan")

    def tables(self) -> dict[str, list[list[str]]]:
        """Return the tables that commands print, by their titles: orders without a refit, and with one."""
        title = f"mAP % of {self.queries} queries by the share of {self.rows} rows"
        refitted = [order for order in self.accuracies if order.endswith(REFITTED)]
        tables = {title: self._table([order for order in self.accuracies if order not in refitted])}
        if refitted:
            tables[f"{title}, the others refitted"] = self._table(refitted)
        return tables

    def _table(self, orders: Sequence[str]) -> list[list[str]]:
        """Return a heading and a row for each share, and for what the orders are worth on the whole."""
        shares = [
            [f"{share:.0%}", *(f"{100 * self.accuracies[order][place]:.1f}" for order in orders)]
            for place, share in enumerate(self.shares)
        ]
        areas = ["area", *(f"{100 * self.area(order):.2f}" for order in orders)]
        closed = ["closed at 20%", *(f"{self.closed(order, 0.2):.0%}" for order in orders)]
        return [["rows", *(order.removesuffix(REFITTED) for order in orders)], *shares, areas, closed]


def upgrade_curve(
    model: Model,
    gallery: Gallery,
    dataset: Dataset,
    width: float = 1.0,
    workers: int = 2,
    shares: Sequence[float] = SHARES,
    bridge: Bridge | None = None,
) -> UpgradeCurve:
    """Measure what `upgrade` would give after each share of the rows, in each order; change nothing.

    With a bridge, it is also measured what `refit_gallery` would give after each share, if there are enough
    rows for it. The orders are those of the gallery as it is.

    Every second query of the data set measures. The others are the past queries of the order "queries". The
    random order is the mean of three. All embeddings of the gallery are read into memory.

    Args:
        model: a family in evaluation mode, or an exported sub-model, of the gallery's family.
        gallery: a gallery whose rows have identities, and paths that lead to the images.
        dataset: the data set whose query split is searched.
        width: the width of the sub-model that embeds the rows; the widest one embeds the queries.
        workers: the number of threads that decode images.
        shares: ascending shares from 0 to 1.
        bridge: the bridge that has moved the gallery, which must keep its originals.

    Raises:
        SfscError: the bridge has not moved the gallery, the gallery belongs to another family, has no
            identities or nothing to upgrade, an image cannot be read, or no query has a positive.

    Example::

        curve = sfsc.upgrade_curve(family, gallery, sfsc.open_dataset("folder:photos"))
        print({order: curve.area(order) for order in curve.accuracies})
    """
    model.check_width(width)
    gallery.check_family(model.dimension, model.fingerprint)
    rows = _rows(gallery, width)
    again, query = [rows.paths[place] for place in rows.targets], dataset.query
    dimension = rows.embeddings.shape[1]
    after = rows.embeddings.copy()
    after[rows.targets] = _embedded(model, width, workers, again, dimension)
    queries = _embedded(model, model.widest, workers, query.paths, dimension)
    measured = np.arange(len(queries)) % 2 == 1
    orders = _orders(rows, gallery, queries[~measured], model.fingerprint)
    asked, held = _labels(query.select(measured), rows)
    refitting = None if bridge is None else _Refitting.of(gallery, bridge, rows)

    def accuracy(order: np.ndarray, share: float, way: _Refitting | None) -> float:
        count = round(share * len(order))
        mixed, done = rows.embeddings.copy(), rows.targets[order[:count]]
        mixed[done] = after[done]
        if way is not None:
            way.move(mixed, rows.targets[order[count:]])
        return evaluate_ranking(queries[measured], mixed, asked, held).mean_ap

    ways = {"": None} if refitting is None else {"": None, REFITTED: refitting}
    accuracies = {
        f"{name}{suffix}": tuple(
            float(np.mean([accuracy(one, share, way) for one in some])) for share in shares
        )
        for suffix, way in ways.items()
        for name, some in orders.items()
    }
    return UpgradeCurve(tuple(shares), accuracies, len(rows.targets), int(measured.sum()))


class _Rows(NamedTuple):
    """The n rows of a gallery that have an identity.

    `targets` are the places of the k rows that can be upgraded, and `known` are their widths, expected errors
    and times, (k,) each.
    """

    ids: list[str]
    paths: list[str]
    identities: np.ndarray
    cameras: np.ndarray | None
    embeddings: np.ndarray
    targets: np.ndarray
    known: tuple[np.ndarray, np.ndarray, np.ndarray]


class _Refitting(NamedTuple):
    """The original embeddings of n rows, (n, from) float32, and whether each row has one, (n,)."""

    bridge: Bridge
    originals: np.ndarray
    kept: np.ndarray

    @classmethod
    def of(cls, gallery: Gallery, bridge: Bridge, rows: _Rows) -> _Refitting:
        check_moved(gallery, bridge)
        places = {id_: place for place, id_ in enumerate(rows.ids)}
        originals, kept = (
            np.zeros((len(places), bridge.old.dimension), np.float32),
            np.zeros(len(places), bool),
        )
        for ids, found, _ in gallery.originals(bridge.old.dimension):
            chosen = [number for number, id_ in enumerate(ids) if id_ in places]
            there = [places[ids[number]] for number in chosen]
            originals[there], kept[there] = found[chosen], True
        return cls(bridge, originals, kept)

    def move(self, embeddings: np.ndarray, left: np.ndarray) -> None:
        """Move the rows that are left, in place, by the others, which have their new embeddings."""
        others = self.kept.copy()
        others[left] = False
        left = left[self.kept[left]]
        if others.sum() >= FEWEST and len(left):
            map_ = refit(self.bridge.forward, self.originals[others], embeddings[others])
            embeddings[left] = map_(self.originals[left])[0]


def _rows(gallery: Gallery, width: float) -> _Rows:
    rows = [row for row in gallery.rows(embeddings=True) if row["identity"]]
    if not rows:
        raise SfscError(f"gallery {gallery.name} has no rows with identities, which measuring needs")
    ids = [row["id"] for row in rows]
    found, places = upgradable(gallery, width), {id_: place for place, id_ in enumerate(ids)}
    chosen = np.array([place for place, id_ in enumerate(found.ids) if id_ in places], np.int64)
    if not len(chosen):
        raise SfscError(f"gallery {gallery.name} has no rows that can be upgraded to width {width:g}")
    cameras = [row["camera"] for row in rows]
    return _Rows(
        ids,
        [row["path"] for row in rows],
        np.array([row["identity"] for row in rows]),
        np.array(cameras) if all(cameras) else None,
        np.stack([row[EMBEDDING] for row in rows]),
        np.array([places[found.ids[place]] for place in chosen]),
        (found.widths[chosen], found.errors[chosen], found.times[chosen]),
    )


def _orders(rows: _Rows, gallery: Gallery, past: np.ndarray, fingerprint: str) -> dict[str, list[np.ndarray]]:
    """Return the orders of the rows that can be upgraded, one or several of each name."""
    found = gallery.search(past, fingerprint, NEAREST, exact=False)
    counts = times_found([[hit.id for hit in hits] for hits in found], [rows.ids[t] for t in rows.targets])
    others = np.delete(rows.embeddings, rows.targets, axis=0)
    spread = spread_ranks(rows.embeddings[rows.targets], others)
    orders = {
        order: [upgrade_order(order, *rows.known, counts if order == "queries" else None, spread)]
        for order in ORDERS
    }
    count = len(rows.targets)
    return orders | {RANDOM: [np.random.default_rng(seed).permutation(count) for seed in range(SEEDS)]}


def _labels(query: Split, rows: _Rows) -> tuple[Labels, Labels]:
    """Return the labels of queries and rows; cameras count only if both have them."""
    known = query.cameras is not None and rows.cameras is not None
    paths = tuple(absolute(path) for path in query.paths)
    asked = Labels(query.identities, query.cameras if known else None, paths)
    return asked, Labels(rows.identities, rows.cameras if known else None, tuple(rows.paths))


def _embedded(model: Model, width: float, workers: int, paths: Sequence[str], dimension: int) -> Any:
    """Embed images, all of which must be readable: (n, dimension) float32."""
    found = Embedded.join(list(local_engine(model, width, workers, dimension)(paths)))
    if found.corrupt:
        raise found.corrupt[0]
    return found.vectors[width]
