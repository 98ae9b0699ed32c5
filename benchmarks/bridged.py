"""Measure what bridged rows are worth: each kind of map against embedding the gallery again."""

from __future__ import annotations

import numpy as np
from page import parser, section, table

from sfsc import Family, open_dataset
from sfsc.bridges.fitting import fit
from sfsc.bridges.space_map import KINDS
from sfsc.embedding.image_set import embed_all
from sfsc.progress import say
from sfsc.retrieval.ranking import evaluate_ranking

EXPLANATION = """
mAP in percent, by the width of the new family's queries, in the gallery of `{dataset}`: as the new full
sub-model embeds it, and as bridges map the old model's rows, fitted on {pairs:,} training images. The old
model itself reaches {old:.1f}. *Kept* is the share of what embedding again gives, by the full sub-model.
*Expected error* and *error* are the means of what the bridge predicts for 1 - cos and of what it is, and
*correlation* is that of their ranks."""


def main() -> None:
    """Print the section."""
    command = parser(__doc__)
    command.add_argument("--old", required=True, help="run folder of the old model")
    command.add_argument("--new", required=True, help="run folder of the new family")
    command.add_argument("--dataset", required=True)
    command.add_argument("--workers", type=int, default=2)
    chosen = command.parse_args()
    dataset, families = open_dataset(chosen.dataset), [Family.load(run) for run in (chosen.old, chosen.new)]
    query, gallery, train = dataset.query, dataset.gallery, dataset.train
    paths = [*query.paths, *gallery.paths, *train.paths]
    old, new = (embed_all(family, paths, chosen.workers) for family in families)
    widths, rows = [*families[1].widths], old.of(gallery.paths)[1.0]
    queries, targets = new.of(query.paths), new.of(gallery.paths)[1.0]

    def accuracies(found: np.ndarray) -> list[float]:
        return [100 * evaluate_ranking(queries[width], found, query, gallery).mean_ap for width in widths]

    best = accuracies(targets)
    lines: list[list[str]] = [["embedded again", *map(one_digit, best), "100%", "", "", ""]]
    for kind in KINDS:
        say(kind)
        mapped, expected = fit(old.of(train.paths)[1.0], new.of(train.paths)[1.0], kind).map(rows)
        errors, found = 1 - (mapped * targets).sum(axis=1), accuracies(mapped)
        numbers = f"{expected.mean():.3f}", f"{errors.mean():.3f}", f"{ranks_agree(expected, errors):.2f}"
        lines.append([kind, *map(one_digit, found), f"{found[-1] / best[-1]:.1%}", *numbers])
    own = 100 * evaluate_ranking(old.of(query.paths)[1.0], rows, query, gallery).mean_ap
    heading = ["rows", *(f"{width:g}" for width in widths)]
    said = EXPLANATION.format(dataset=chosen.dataset, pairs=len(train.paths), old=own)
    print(
        section(
            "Bridged rows",
            said,
            table([*heading, "kept", "expected error", "error", "correlation"], lines),
        )
    )


def one_digit(value: float) -> str:
    """Return a number as tables show it."""
    return f"{value:.1f}"


def ranks_agree(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's correlation of two arrays, (n,) each."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    main()
