"""The front of a search against trained widths and against one width everywhere, on the test identities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from page import parser, section, table

from sfsc.data.sources import open_dataset
from sfsc.deploy.choosing import Limits
from sfsc.deploy.device import Device, Samples
from sfsc.deploy.points import Point, Space
from sfsc.deploy.searching import search
from sfsc.deploy.validation import Validation
from sfsc.family.family import Family
from sfsc.training.config import dataset_of, read_config

WIDTHS = (0.3, 0.35, 0.4, 0.5, 0.6, 0.75, 0.9)
MOST = 10  # points of the front
MEANING = """M(point, 1) in percent on {tested}; the search used {validation} and evaluated {evaluated}
points. Times are predicted for this machine; the median error is {error:.1f}% on points
left out, of {samples} that were measured. *Uniform* points have one width everywhere, as `sfsc submodel`
adds them."""


def main() -> None:
    """Search in a run without limits, and print the section."""
    options = parser(__doc__)
    options.add_argument("run", type=Path, help="a run that was trained with random widths")
    options.add_argument("--evaluations", type=int, default=150)
    options.add_argument("--workers", type=int, default=1, help="processes that decode images")
    given = options.parse_args()
    found = search(given.run, Limits(), None, given.evaluations, workers=given.workers)
    space = Space(Family.load(given.run))
    samples = Samples.read(given.run, space)
    device, dataset = Device(space, samples), dataset_of(given.run).removeprefix("validation:")
    test = Validation(space, open_dataset(dataset), read_config(given.run).seed, given.workers)
    known = {one.point: one for one in found.candidates}
    front = found.front
    chosen = np.unique(np.linspace(0, len(front) - 1, MOST).astype(int))
    kinds: dict[Point, str] = {
        space.uniform(width, space.sizes[-1]): f"uniform {width:g}" for width in WIDTHS
    }
    kinds |= {front[place].point: "front" for place in chosen}
    named = space.family.name_of
    kinds |= {point: f"trained {named(width)}" for point, width in space.trained().items()}
    rows = []
    for point, kind in sorted(kinds.items(), key=lambda pair: device.predict(pair[0]).p50):
        validated = f"{100 * known[point].accuracy:.1f}" if point in known else ""
        rows.append(
            [
                *(kind, f"{point.size[0]}", f"{point.depth:g}"),
                " ".join(f"{ratio:.2f}" for ratio in point.ratios),
                f"{space.costs(point).multiply_adds.sum() / 1e6:.1f}",
                *(f"{1000 * device.predict(point).p50:.2f}", validated),
                f"{100 * test.accuracy(*test.build(point)):.1f}",
            ]
        )
    meaning = MEANING.format(
        tested=dataset,
        validation=found.dataset,
        evaluated=len(found.candidates),
        error=100 * device.error,
        samples=len(samples.rows),
    )
    heading = ["", "pixels", "depth", "ratios", "M multiply-adds", "ms", "validation", "test"]
    print(section("Searched sub-models", meaning, table(heading, rows)))


if __name__ == "__main__":
    main()
