"""Image-to-track retrieval: the images of one identity from one camera are ranked as one item."""

from __future__ import annotations

import numpy as np

from sfsc.errors import SfscError
from sfsc.retrieval.labels import Labelled, Labels, Relation
from sfsc.retrieval.ranking import checked, spans_of

BLOCK = 1 << 23  # scores that are computed at once, 32 MB


def track_ranks(
    query_embeddings: np.ndarray, gallery_embeddings: np.ndarray, query: Labelled, gallery: Labelled
) -> list[np.ndarray]:
    """Compute the ranks of the positive tracks of each query, as VeRi-776 does (Liu et al., ECCV 2016).

    A track is the gallery images of one identity from one camera. Its score is that of its best image. The
    track with the identity and the camera of the query is dropped. Distractors cannot be grouped by identity:
    each gallery image of an identity that no query has is a track of its own. Tracks of equal score keep the
    order of their first images.

    Args:
        query_embeddings: as for `positive_ranks`, as are all other arguments.
        gallery_embeddings: (G, dim) float32.
        query: the labels of the queries.
        gallery: the labels of the gallery images.

    Returns:
        For each query the ascending ranks of its positive tracks, (P,) int64, counted from 1; P can be 0.

    Raises:
        SfscError: the cameras are unknown, or as for `positive_ranks`.
    """
    queries, items = checked(query_embeddings, gallery_embeddings, query, gallery)
    labels, track_of = _tracks(query, gallery)
    order = np.argsort(track_of, kind="stable")
    starts = np.searchsorted(track_of[order], np.arange(len(labels.identities)))
    relation = Relation(query, labels)
    ranks: list[np.ndarray] = []
    for rows in spans_of(len(queries), max(1, BLOCK // len(items))):
        scores = items.scored(queries[rows])(slice(0, len(items)))
        best = np.maximum.reduceat(scores[:, order], starts, axis=1)
        positives, dropped = relation.pairs(rows)
        best[dropped.rows, dropped.columns] = -np.inf
        places = np.argsort(np.argsort(-best, axis=1, kind="stable"), axis=1)
        bounds = np.searchsorted(positives.rows, np.arange(1, len(best)))
        ranks += map(np.sort, np.split(places[positives.rows, positives.columns] + 1, bounds))
    return ranks


def count_tracks(query: Labelled, gallery: Labelled) -> int:
    """Return the number of tracks in the gallery, as in `track_ranks`; raise `SfscError` without cameras."""
    return len(_tracks(query, gallery)[0].identities)


def _tracks(query: Labelled, gallery: Labelled) -> tuple[Labels, np.ndarray]:
    """Return the labels of T tracks in the order of their first images, and the track of each image, (G,)."""
    if query.cameras is None or gallery.cameras is None:
        raise SfscError(
            "tracks are the images of one identity from one camera, and the cameras are unknown: evaluate "
            "without tracks, or use a data set with cameras"
        )
    identities, cameras = (
        np.unique(labels, return_inverse=True)[1] for labels in (gallery.identities, gallery.cameras)
    )
    alone = ~np.isin(gallery.identities, query.identities)
    keys = np.stack([identities, cameras, np.where(alone, np.arange(len(alone)), -1)])
    _, first, track_of = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    ascending = np.argsort(first)
    labels = Labels(gallery.identities[first[ascending]], gallery.cameras[first[ascending]])
    return labels, np.argsort(ascending)[track_of.ravel()]
