"""The model of a device that a search fits: its error on points that it was not fitted to."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from page import met, parser, section, table

from sfsc import Family
from sfsc.deploy.device import POINTS, Device, Samples, sample
from sfsc.deploy.points import Space

CASES = ("small@32", "resnet18@64", "efficientnet_lite0@96")
LEFT_OUT = 20
AIM = 0.1
PICTURES = 8  # with which exported files are checked
MEANING = f"""`sfsc choose --search` measures {POINTS} points of a family and predicts the others. Here,
{LEFT_OUT} more are measured, which the model was not fitted to: exported sub-models with random ratios in
each group of channels and random image sizes, one image at once on one thread. All {POINTS + LEFT_OUT} files
of a backbone take turns. *Said* is the error that the search itself prints, of the {POINTS} points, each left
out once. The weights are random, which does not change the times. The aim is a median error of at most
{AIM:.0%}."""


def main() -> None:
    """Print the section."""
    options = parser(__doc__)
    options.add_argument("--cases", nargs="+", default=[*CASES], metavar="BACKBONE@PIXELS")
    rows = [row(case) for case in options.parse_args().cases]
    heading = ["backbone", "images", "fastest, slowest", "median error", "90th percentile", "aim", "said"]
    print(section("The model of a device", MEANING, table(heading, rows)))


def row(case: str) -> list[str]:
    """Measure the points of one backbone, and return the cells of its row."""
    backbone, _, pixels = case.partition("@")
    size = int(pixels), int(pixels)
    space = Space(Family.create(backbone, "0.25,1", image_size=size).eval())
    random = np.random.default_rng(0)
    drawn = dict.fromkeys(space.trained())
    while len(drawn) < POINTS + LEFT_OUT:
        drawn[space.drawn(random)] = None
    with tempfile.TemporaryDirectory() as folder:
        pictures = [str(Path(folder, f"{number}.png")) for number in range(PICTURES)]
        for picture in pictures:
            cv2.imwrite(picture, random.integers(0, 256, (*size, 3), np.uint8))
        samples = sample(space, [*drawn], pictures)
    device = Device(space, replace(samples, rows=samples.rows[:POINTS]))
    errors = left_out_errors(device, samples)
    times = [1000 * one.expense.p50 for one in samples.rows]
    return [
        *(backbone, f"{pixels}x{pixels}", f"{min(times):.2f} ms, {max(times):.2f} ms"),
        *(f"{np.median(errors):.1%}", f"{np.quantile(errors, 0.9):.1%}"),
        *(met(bool(np.median(errors) <= AIM)), f"{device.error:.1%}"),
    ]


def left_out_errors(device: Device, samples: Samples) -> np.ndarray:
    """Return the relative errors of the predicted times of the points that the model was not fitted to."""
    pairs = [(device.predict(one.point).p50, one.expense.p50) for one in samples.rows[POINTS:]]
    return np.array([abs(predicted / found - 1) for predicted, found in pairs])


if __name__ == "__main__":
    main()
