"""Bring your own images: train a family on a folder, test it, and search with its smallest sub-model.

    python examples/own_images.py             on shapes that are drawn first; about a minute on two cores
    python examples/own_images.py animals     on yours: animals/cat/1.jpg, animals/dog/1.jpg, ...

A folder for each identity (what an image shows) is all that sfsc needs. Half of the identities are for
training, and the others for testing, unless the folder has train/, query/ and gallery/. When you run this
again, the training is not repeated: remove runs/examples/own_images before you try other images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from shapes import draw_shapes

import sfsc

OUT = Path("runs/examples/own_images")


def main() -> None:
    """Go from a folder of images to a list of hits."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else draw_shapes(OUT / "shapes")

    # 1. The images. Training sees the identities of one part, and the test uses those of the other part.
    dataset = sfsc.open_dataset(f"folder:{folder}")
    trained = len(np.unique(dataset.train.identities))
    print(f"{len(dataset.train)} images of {trained} identities are for training,")
    print(f"{len(dataset.query)} queries and a gallery of {len(dataset.gallery)} images for testing.")

    # 2. One training run gives one family: here, three nested sub-models. A real run has more epochs.
    config = sfsc.Config(
        dataset=dataset.source,
        backbone="small",
        widths=(0.25, 0.5, 1.0),
        image_size=(48, 48),
        epochs=20,
        identities_per_batch=min(16, trained),
    )
    family = sfsc.train(config, OUT / "run", resume=True)
    for width in family.widths:
        print(f"The sub-model of width {width:g} has {family.parameter_count(width):,} parameters.")

    # 3. The test: the queries of each sub-model search the gallery of each sub-model.
    accuracy = sfsc.evaluate(family, dataset).matrix.metrics["mAP"]
    print("mAP in percent; a row for each query width, a column for each gallery width:")
    for width, row in zip(family.widths, accuracy, strict=True):
        print(f"  {width:4g} | " + " ".join(f"{100 * value:5.1f}" for value in row))

    # 4. The search: the full sub-model writes the gallery, and the smallest one embeds the query.
    gallery = sfsc.Gallery.open(OUT / "gallery", create=True)
    sfsc.index(family, dataset.source, gallery, width=1.0)
    query, identity = dataset.query.paths[0], dataset.query.identities[0]
    print(f"The smallest sub-model searches for {identity} ({query}) and finds:")
    for hit in sfsc.search(family, query, gallery, width=0.25, top=5):
        print(f"  {hit.score:.3f} {hit.identity} {hit.path}")


if __name__ == "__main__":
    main()
