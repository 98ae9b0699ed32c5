"""A phone and a server: the phone runs a small file without torch, and searches what the server has embedded.

    python examples/phone_and_server.py       about a minute on two cores

The phone runs the smallest sub-model, in a file of a few hundred kilobytes, and sends an embedding instead of
an image. The server runs the full sub-model. Both embed into one space, so the phone can search what the
server has embedded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from shapes import draw_shapes

import sfsc
from sfsc.data import decode

OUT = Path("runs/examples/phone_and_server")
PHONE, SERVER = 0.25, 1.0  # the widths of their sub-models


def train(dataset: sfsc.Dataset) -> sfsc.Family:
    """Train the family of both."""
    config = sfsc.Config(
        dataset=dataset.source, backbone="small", widths=(PHONE, SERVER), image_size=(48, 48), epochs=20
    )
    return sfsc.train(config, OUT / "run", resume=True)


def prepare_phone(family: sfsc.Family, dataset: sfsc.Dataset) -> Path:
    """Export the smallest sub-model. The file is checked against the sub-model on some training images."""
    file = OUT / "phone.onnx"
    sfsc.export(family, PHONE, file, dataset.train.paths)
    print(f"The phone gets {file}, {file.stat().st_size:,} bytes.")
    counts = [f"{family.parameter_count(width):,}" for width in (PHONE, SERVER)]
    print(f"It has {counts[0]} parameters, and the server's sub-model has {counts[1]}.")
    return file


def prepare_server(family: sfsc.Family, dataset: sfsc.Dataset) -> sfsc.Gallery:
    """Embed the gallery's images with the full sub-model, and store the embeddings."""
    gallery = sfsc.Gallery.open(OUT / "gallery", create=True)
    sfsc.index(family, dataset.source, gallery, width=SERVER)
    print(f"The server's gallery holds {len(gallery)} images.")
    return gallery


def on_the_phone(file: Path, image: str) -> tuple[np.ndarray, str]:
    """Embed an image without torch.

    Returns:
        What the phone sends: the embedding, (1, 128) float32, and the family's fingerprint.
    """
    model = sfsc.ExportedModel.load(file)
    pixels = decode(image, model.image_size)
    return model.embed_pixels(pixels[None], PHONE), model.fingerprint


def on_the_server(gallery: sfsc.Gallery, embedding: np.ndarray, fingerprint: str) -> list[sfsc.Hit]:
    """Search the gallery with an embedding. One of another family is refused."""
    return gallery.search(embedding, fingerprint, top=5)[0]


def main() -> None:
    """Prepare both once, then search."""
    dataset = sfsc.open_dataset(f"folder:{draw_shapes(OUT / 'shapes')}")
    family = train(dataset)
    file, gallery = prepare_phone(family, dataset), prepare_server(family, dataset)

    right = 0
    for image, identity in zip(dataset.query.paths, dataset.query.identities, strict=True):
        embedding, fingerprint = on_the_phone(file, image)
        hits = on_the_server(gallery, embedding, fingerprint)
        right += hits[0].identity == identity
        found = ", ".join(f"{hit.identity} ({hit.score:.2f})" for hit in hits[:3])
        print(f"The phone sends {embedding.nbytes} bytes for a {identity}; the server finds {found}.")
    print(f"For {right} of {len(dataset.query)} queries the first hit is of the same identity.")


if __name__ == "__main__":
    main()
