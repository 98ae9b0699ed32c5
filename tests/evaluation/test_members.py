"""Exported files beside the sub-models of their family: who may join, and under which label."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from sfsc import Family, SfscError, evaluate, open_dataset
from sfsc.embedding.exported import ExportedModel
from sfsc.evaluation.members import open_members
from sfsc.retrieval.matrix import CompatibilityMatrix
from sfsc.retrieval.ranking import evaluate_ranking


def test_labels_are_width_and_form_or_the_file_name(family: Family, files: Path, tmp_path: Path) -> None:
    narrow, rounded = files / "narrow.onnx", files / "narrow-int8.onnx"
    assert list(open_members([rounded, narrow], family)) == ["0.25 int8", "0.25 float32"]
    again = shutil.copy(rounded, tmp_path / "again.onnx")
    assert list(open_members([rounded, narrow, again], family)) == [
        *("narrow-int8.onnx", "0.25 float32", "again.onnx")
    ]
    with pytest.raises(SfscError, match=r"two of the exported files are called narrow\.onnx"):
        open_members([narrow, narrow], family)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "0123"}, r"narrow\.onnx belongs to the family .*, not to 0123: export it"),
        (
            {"image_size_of": lambda _: (9, 9)},
            r"images of size \(32, 32\), but the family uses \(9, 9\) at width",
        ),
        ({"dimension": 8}, "has 16 dimensions, but the family has 8: export it without --dim"),
    ],
)
def test_files_of_another_family_are_refused(
    family: Family, files: Path, changes: dict[str, object], message: str
) -> None:
    own = {"fingerprint": family.fingerprint, "dimension": 16}
    with pytest.raises(SfscError, match=message):
        open_members([files / "narrow.onnx"], SimpleNamespace(**{**own, **changes}))


def test_a_calibrated_family_is_the_same(family: Family, files: Path, tmp_path: Path) -> None:
    model = onnx.load(files / "narrow.onnx")
    said = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps(said | {"fingerprint": f"{family.fingerprint}.0123"})
    onnx.save(model, tmp_path / "calibrated.onnx")
    assert list(open_members([tmp_path / "calibrated.onnx"], family)) == ["0.25 float32"]


def test_files_join_the_matrix_and_leave_the_criterion(
    family: Family, files: Path, shapes: str, tmp_path: Path
) -> None:
    dataset = open_dataset(shapes)
    alone = evaluate(family, dataset, workers=0)
    members = [files / "narrow-int8.onnx", str(files / "narrow.onnx")]
    joined = evaluate(family, dataset, workers=0, exported=members)
    assert dict(joined.matrix.exported) == {"0.25 int8": 0.25, "0.25 float32": 0.25}
    matrix = joined.matrix.metrics["mAP"]
    assert matrix.shape == (4, 4)
    np.testing.assert_array_equal(matrix[:2, :2], alone.matrix.metrics["mAP"])
    assert joined.matrix.family().to_json() == alone.matrix.to_json()
    assert np.array_equal(joined.cosines, alone.cosines)
    np.testing.assert_allclose(matrix[3, :2], matrix[0, :2], atol=1e-3)  # float32 does as its sub-model

    images = [*dataset.query.paths]
    full = dict(zip(images, embed(family, images), strict=True))
    file = ExportedModel.load(files / "narrow-int8.onnx")
    found = evaluate_ranking(
        file.embed_pixels(pixels(images)),
        np.stack([full[path] for path in dataset.gallery.paths]),
        *(dataset.query, dataset.gallery),
    )
    assert matrix[2, 1] == pytest.approx(found.mean_ap, abs=1e-6)
    assert joined.matrix.costs()["0.25 int8"] == pytest.approx(matrix[0, 1] - found.mean_ap, abs=1e-6)

    joined.write(tmp_path)
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["exported"] == {"0.25 int8": 0.25, "0.25 float32": 0.25}
    assert content["costs"] == joined.matrix.costs()
    assert np.shape(content["criterion"]) == (2, 2)
    assert CompatibilityMatrix.from_json(content).to_json() == joined.matrix.to_json()


def pixels(paths: list[str]) -> np.ndarray:
    from sfsc.data import decode

    return np.stack([decode(path, (32, 32)) for path in paths])


def embed(family: Family, paths: list[str]) -> np.ndarray:
    return family.embed_pixels(pixels(paths), 1.0)
