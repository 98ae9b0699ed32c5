"""Make a run folder, a gallery and an exported file for later versions to open: `python make.py OUT.tar.xz`.

It was run once with each version whose files must stay readable. Weights are rounded, so that the archive is
small: what is tested is that files open and mean what they meant, not how well the family finds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np

from sfsc import Family, Gallery

COMMAND = [sys.executable, "-m", "sfsc"]
SETTINGS = [
    *("--backbone", "small", "--widths", "0.25,1.0", "--epochs", "1"),
    *("--set", "embedding_dim=8", "--set", "image_size=[32,32]", "--set", "workers=0"),
    *("--set", "identities_per_batch=4", "--set", "images_per_identity=2"),
]


def main(out: Path) -> None:
    """Make the archive: data/, run/ with run/export/0.25.onnx, gallery/, and expected.json."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "data")
        sfsc("train", "csv:data/shapes.csv", "--out", "run", *SETTINGS, folder=folder)
        (folder / "run" / "checkpoint.safetensors").unlink()
        family = Family.load(folder / "run")
        for tensor in family.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_((tensor * 16).round() / 16)
        family.save(folder / "run")
        sfsc("evaluate", "run", folder=folder)
        sfsc("export", "run", "--width", "0.25", folder=folder)
        table = folder / "data" / "attributes.csv"
        sfsc(
            *("index", "run", "data", "--gallery", "gallery", "--attributes", str(table), "--width", "1.0"),
            folder=folder,
        )
        (folder / "expected.json").write_text(json.dumps(expected(folder, family), indent=1))
        with tarfile.open(out, "w:xz") as archive:
            for path in ("data", "run", "gallery", "expected.json"):
                archive.add(folder / path, path)


def draw(folder: Path) -> None:
    """Eight identities of three images each, a table of them, and one of attributes."""
    folder.mkdir()
    table, attributes = ["path,identity,camera,split"], ["path,price,name"]
    for identity in range(8):
        for take in range(3):
            random = np.random.default_rng([identity, take])
            image = np.full((32, 32, 3), 240, np.uint8)
            colour = tuple(int(value) for value in np.random.default_rng(identity).integers(0, 200, 3))
            cv2.circle(image, tuple(map(int, random.integers(12, 20, 2))), 6 + identity, colour, -1)
            cv2.imwrite(str(folder / f"{identity}_{take}.png"), image)
            table.append(
                f"{identity}_{take}.png,shape{identity},c{take % 2},{'train' if identity < 5 else 'test'}"
            )
            attributes.append(f"{identity}_{take}.png,{identity + take / 2},shape {identity}")
    (folder / "shapes.csv").write_text("\n".join(table) + "\n")
    (folder / "attributes.csv").write_text("\n".join(attributes) + "\n")


def expected(folder: Path, family: Family) -> dict[str, object]:
    """What the files said when they were made."""
    image = cv2.cvtColor(cv2.imread(str(folder / "data" / "0_0.png")), cv2.COLOR_BGR2RGB)[None]
    evaluation = json.loads((folder / "run" / "evaluation.json").read_text())
    with Gallery.open(folder / "gallery") as gallery:
        query = family.embed_pixels(image, 1.0)
        hits = gallery.search(query, family.fingerprint, 5, ["price<=3"])[0]
        return {
            "fingerprint": family.fingerprint,
            "mAP": evaluation["metrics"]["mAP"],
            "embeddings": {
                str(width): family.embed_pixels(image, width)[0].tolist() for width in (0.25, 1.0)
            },
            "rows": len(gallery),
            "hits": [[Path(hit.path).name, hit.score, hit.attributes] for hit in hits],
        }


def sfsc(*arguments: str, folder: Path) -> None:
    """Run a command in a folder."""
    subprocess.run([*COMMAND, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
