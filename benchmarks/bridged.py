"""Measure what bridged rows are worth: each kind of map against embedding the gallery again."""

from __future__ import annotations

import numpy as np
from page import parser, section, table

from sfsc import Dataset, Family, open_dataset
from sfsc.bridges.fitting import fit
from sfsc.bridges.space_map import KINDS
from sfsc.embedding.image_set import embed_all
from sfsc.progress import say
from sfsc.retrieval.ranking import evaluate_ranking

EXPLANATION = """
mAP in percent, by the width of the new family's queries, in the gallery of `{dataset}`: as the new full
sub-model embeds it, and as bridges map the old model's rows, fitted on {pairs:,} training images. The old
model itself reaches {old}. *Kept* is the share of what embedding again gives, in percent, by the full
sub-model. *Expected error* and *error* are the means of what the bridge predicts for 1 - cos and of what it
is, and *correlation* is that of their ranks.{seeds}"""
SEEDS = " Means and standard deviations over {count} pairs of an old model and a new family."
DIGITS = (1, 3, 3, 2)  # of what is kept, of both errors and of the correlation, after the mAP
AGAIN = "embedded again"


def main() -> None:
    """Print the section."""
    command = parser(__doc__)
    command.add_argument("--old", required=True, nargs="+", help="run folders of old models")
    command.add_argument("--new", required=True, nargs="+", help="run folders of new families, one for each")
    command.add_argument("--dataset", required=True)
    command.add_argument("--workers", type=int, default=2)
    chosen = command.parse_args()
    dataset, pairs = open_dataset(chosen.dataset), [*zip(chosen.old, chosen.new, strict=True)]
    families = [tuple(Family.load(run) for run in pair) for pair in pairs]
    measured = [measure(old, new, dataset, chosen.workers) for old, new in families]
    new = families[0][1]
    widths = [new.name_of(width) for width in new.widths]
    said = EXPLANATION.format(
        dataset=chosen.dataset,
        pairs=len(dataset.train.paths),
        old=cell([own for own, _ in measured], 1),
        seeds=SEEDS.format(count=len(pairs)) if len(pairs) > 1 else "",
    )
    lines = []
    for name in (AGAIN, *KINDS):
        columns = [*zip(*(values[name] for _, values in measured), strict=True)]
        digits = [1] * len(widths) + list(DIGITS)
        cells = [cell(column, places) for column, places in zip(columns, digits, strict=False)]
        lines.append([name, *cells, *[""] * (len(digits) - len(cells))])
    heading = ["rows", *widths, "kept", "expected error", "error", "correlation"]
    print(section("Bridged rows", said, table(heading, lines)))


def measure(old: Family, new: Family, dataset: Dataset, workers: int) -> tuple[float, dict[str, list[float]]]:
    """Return the old model's own mAP, and the numbers of each line of the table."""
    query, gallery, train = dataset.query, dataset.gallery, dataset.train
    paths = [*query.paths, *gallery.paths, *train.paths]
    before, after = (embed_all(family, paths, workers) for family in (old, new))
    rows, queries, targets = (
        before.of(gallery.paths)[1.0],
        after.of(query.paths),
        after.of(gallery.paths)[1.0],
    )

    def accuracies(found: np.ndarray) -> list[float]:
        return [100 * evaluate_ranking(queries[width], found, query, gallery).mean_ap for width in new.widths]

    lines = {AGAIN: [*(best := accuracies(targets)), 100.0]}
    for kind in KINDS:
        say(kind)
        mapped, expected = fit(before.of(train.paths)[1.0], after.of(train.paths)[1.0], kind).map(rows)
        errors, found = 1 - (mapped * targets).sum(axis=1), accuracies(mapped)
        known = float(expected.mean()), float(errors.mean()), ranks_agree(expected, errors)
        lines[kind] = [*found, 100 * found[-1] / best[-1], *known]
    own = evaluate_ranking(before.of(query.paths)[1.0], rows, query, gallery).mean_ap
    return 100 * own, lines


def cell(values: list[float] | tuple[float, ...], digits: int) -> str:
    """Return the mean of values with their standard deviation, or a single value."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def ranks_agree(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's correlation of two arrays, (n,) each."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    main()
