"""Training towards an old model, with a teacher from elsewhere, and with a fixed classifier."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from sfsc.bridges.bridge import Bridge, Space
from sfsc.bridges.making import bridge
from sfsc.bridges.model import BridgedModel
from sfsc.bridges.old import open_old
from sfsc.data import decode, open_dataset
from sfsc.embedding.files import embed
from sfsc.errors import SfscError
from sfsc.evaluation.old import open_member
from sfsc.family.family import Family
from sfsc.gallery import Gallery
from sfsc.gallery.indexing import index
from sfsc.gallery.searching import search
from sfsc.interruption import Stopped
from sfsc.training.calibrate import calibrate
from sfsc.training.config import Config
from sfsc.training.losses.backward import backward_loss
from sfsc.training.losses.simplex import simplex
from sfsc.training.old.direct import direct_bridge
from sfsc.training.old.space import OldSpace, principal_directions
from sfsc.training.run import train
from sfsc.training.trainer import Training
from tests.bridges.test_old import write_onnx
from tests.training.test_run import same, settings, weights


def short(shapes: str, **changes: object) -> Config:
    return Config.make(settings(shapes, epochs=1, widths=(0.5, 1.0), **changes))


@pytest.fixture(scope="module")
def old(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("old") / "run"
    train(Config.make(settings(f"half:{shapes}", epochs=1, widths=(0.5, 1.0))), run)
    return run


@pytest.fixture(scope="module")
def new(shapes: str, old: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("new") / "run"
    train(short(shapes, old=str(old)), run)
    return run


@pytest.fixture
def table(shapes: str, old: Path, tmp_path: Path) -> Path:
    """The embeddings of all images by the old model, as `sfsc embed` writes them."""
    embed(Family.load(old), str(Path(shapes.partition(":")[2]).parent), tmp_path / "old.npy", workers=0)
    return tmp_path / "old.npy"


def random_unit(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(shape, generator=generator))


@pytest.mark.parametrize(("influence", "contrast"), [(1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("components", [4, 8])
def test_the_loss_is_the_plain_formula(influence: float, contrast: float, components: int) -> None:
    embeddings, old = random_unit(0, 6, 8).double().requires_grad_(), random_unit(1, 6, components).double()
    classifier, labels = random_unit(2, 3, components).double(), torch.tensor([0, 0, 1, 1, 2, 2])
    total = torch.zeros((), dtype=torch.float64)
    for row, label in zip(embeddings, labels.tolist(), strict=True):
        first = row[:components] / row[:components].norm()
        logits = torch.stack([10 * first @ direction for direction in classifier])
        total = total + influence * (torch.log(logits.exp().sum()) - logits[label])
        positives = [o for o, other in zip(old, labels.tolist(), strict=True) if other == label]
        negatives = [o for o, other in zip(old, labels.tolist(), strict=True) if other != label]
        cost = sum(1 - first @ o for o in positives) + sum((first @ o - 0.5).clamp(min=0) for o in negatives)
        total = total + contrast * cost / len(positives)
    expected = total / len(embeddings)
    found = backward_loss(embeddings, old, classifier, labels, 10.0, influence, contrast)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(one, embeddings, retain_graph=True)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_the_vertices_have_equal_angles() -> None:
    cosines = simplex(9, 8) @ simplex(9, 8).T
    expected = torch.full((9, 9), -1 / 8).fill_diagonal_(1.0)
    torch.testing.assert_close(cosines, expected, atol=1e-6, rtol=0)
    assert torch.equal(simplex(5, 8), simplex(9, 8)[:5])
    with pytest.raises(SfscError, match="set embedding_dim to 9 or more"):
        simplex(10, 8)


def test_the_projection_is_orthonormal_and_keeps_cosines_of_a_subspace() -> None:
    rows = random_unit(0, 50, 5) @ torch.linalg.qr(torch.randn(12, 12)).Q[:5]
    directions = principal_directions(rows, 6)
    torch.testing.assert_close(directions.T @ directions, torch.eye(6), atol=1e-5, rtol=0)
    placed = rows @ directions
    torch.testing.assert_close(placed @ placed.T, rows @ rows.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dimension", [8, 16, 32])
def test_the_space_of_an_old_model(shapes: str, old: Path, dimension: int, tmp_path: Path) -> None:
    images, model = open_dataset(shapes).train, open_old(str(old))
    space = OldSpace.fit(model, images.paths, images.labels(), dimension)
    rows = torch.from_numpy(model.embed(images.paths))
    assert space.embeddings.shape == (len(images), min(16, dimension))
    assert (space.projection is None) == (dimension >= 16)
    torch.testing.assert_close(space.place(rows), space.embeddings)
    of_first = space.embeddings[images.labels() == 0].mean(0)
    torch.testing.assert_close(space.classifier[0], of_first / of_first.norm())
    space.save(tmp_path / "old.safetensors")
    again = OldSpace.load(tmp_path / "old.safetensors")
    assert again.description == space.description
    assert torch.equal(again.embeddings, space.embeddings)


def test_an_interrupted_training_continues_bit_equal(
    shapes: str, old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Training.step

    def stopping(self: Training, number: int, pixels: torch.Tensor) -> None:
        if number == 3:
            raise KeyboardInterrupt
        step(self, number, pixels)

    monkeypatch.setattr(Training, "step", stopping)
    with pytest.raises((Stopped, SfscError, KeyboardInterrupt)):
        train(short(shapes, old=str(old)), tmp_path / "run")
    monkeypatch.undo()
    train(short(shapes, old=str(old)), tmp_path / "run", resume=True)
    assert same(weights(tmp_path / "run"), weights(new))


def test_another_old_model_is_refused(shapes: str, old: Path, tmp_path: Path) -> None:
    shutil.copytree(old, tmp_path / "old")
    config = short(shapes, old=str(tmp_path / "old"))
    train(config, tmp_path / "run")
    for name in ("family.safetensors", "family.json"):
        (tmp_path / "run" / name).unlink()
    shutil.rmtree(tmp_path / "old")
    train(Config.make(settings(shapes, epochs=1, widths=(1.0,), seed=5)), tmp_path / "old")
    with pytest.raises(SfscError, match=r"was started with old [0-9a-f]{16}, but .* is now"):
        train(config, tmp_path / "run", resume=True)
    with pytest.raises(SfscError, match="was started with old "):
        train(short(shapes, old=str(old)), tmp_path / "run", resume=True)


def test_a_table_teaches_as_its_model_does(
    shapes: str, old: Path, new: Path, table: Path, tmp_path: Path
) -> None:
    images = open_dataset(shapes).train
    assert np.allclose(open_old(str(table)).embed(images.paths), open_old(str(old)).embed(images.paths))
    train(short(shapes, old=str(table)), tmp_path / "run")
    assert Family.load(tmp_path / "run").widths.ratios == (0.5, 1.0)
    space = OldSpace.load(tmp_path / "run" / "old.safetensors")
    assert space.description.fingerprint == open_old(str(table)).space.fingerprint


def test_a_narrow_sub_model_can_be_the_old_one(shapes: str, old: Path) -> None:
    paths = open_dataset(shapes).train.paths[:3]
    narrow = open_old(f"{old}:0.5")
    assert narrow.space.fingerprint == Family.load(old).fingerprint
    assert not np.allclose(narrow.embed(paths), open_old(str(old)).embed(paths))
    with pytest.raises(SfscError, match=r"0\.25"):
        open_old(f"{old}:0.25")


def as_old(kind: str, shapes: str, old: Path, folder: Path) -> str:
    """Name an old model of some kind, whose embeddings of all images are known."""
    file, images = folder / "old.npy", str(Path(shapes.partition(":")[2]).parent)
    if kind == "a gallery":
        with Gallery.open(folder / "gallery", create=True) as gallery:
            index(Family.load(old), images, gallery, 1.0, workers=0)
        return str(folder / "gallery")
    if kind == "a table with a name":
        embed(Family.load(old), images, file, workers=0)
        return f"{file}:last-year"
    if kind == "an ONNX file":
        return f"{write_onnx(folder / 'old.onnx', ['n', 3, 8, 8])}:fraction"
    return "python:tests.bridges.test_old:old_function"


@pytest.mark.parametrize(
    ("kind", "space", "dimension"),
    [
        ("a gallery", None, 16),
        ("a table with a name", "space:last-year", 16),
        ("an ONNX file", None, 3),
        ("a function", None, 6),
    ],
)
def test_a_training_and_a_bridge_take_every_kind_of_old_model(
    shapes: str, old: Path, tmp_path: Path, kind: str, space: str | None, dimension: int
) -> None:
    source = as_old(kind, shapes, old, tmp_path)
    code = source.removeprefix("python:")
    config, run = short(shapes, old=source), tmp_path / "run"
    if kind == "a function":
        with pytest.raises(SfscError, match=f"allow it with --allow-code {code}"):
            train(config, run)
        assert not (run / "config.json").exists()
    family = train(config, run, allow_code=code)
    direct = Bridge.load(run / "old-bridge.safetensors").old
    expected = Family.load(old).fingerprint if kind == "a gallery" else space
    assert direct.dimension == dimension
    assert direct.fingerprint == (expected or open_old(source, allow_code=code).space.fingerprint)
    images = str(Path(shapes.partition(":")[2]).parent)
    fitted = bridge(open_old(source, allow_code=code), family, images, kind="orthogonal", workers=0)
    assert fitted.old.fingerprint == direct.fingerprint


def test_a_run_with_a_table_goes_on_when_the_table_gets_a_name(
    shapes: str, table: Path, tmp_path: Path
) -> None:
    family = train(short(shapes, old=str(table)), tmp_path / "run")
    member = open_member(tmp_path / "run", family, f"{table}:last-year", None)
    assert member is not None
    assert len(member.space.embeddings) == len(open_dataset(shapes).train)
    train(short(shapes, old=f"{table}:last-year"), tmp_path / "other")
    stored = json.loads((tmp_path / "other" / "config.json").read_text())
    assert stored["old"] == f"{table}:last-year"


@pytest.mark.parametrize(
    ("detail", "said"),
    [("0.3", r"0\.3"), ("nan", "nan"), ("fraction", "a width must follow the colon, not fraction")],
)
def test_what_follows_the_colon_must_fit(old: Path, detail: str, said: str) -> None:
    with pytest.raises(SfscError, match=said):
        open_old(f"{old}:{detail}")


def spoiled(table: Path, change: str) -> None:
    """Spoil a table of embeddings."""
    names, rows = table.with_suffix(".txt").read_text().splitlines(), np.load(table)
    if change == "nan":
        rows[3, 2] = np.nan
    elif change == "zeros":
        rows[3] = 0
    elif change == "twice":
        names[3] = names[2]
    elif change == "missing":
        names, rows = names[:-40], rows[:-40]
    elif change == "lines":
        names = names[:-1]
    elif change == "wide":
        rows = rows.astype(np.int64)
    np.save(table, rows)
    table.with_suffix(".txt").write_text("".join(f"{name}\n" for name in names))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("nan", "contains NaN, infinity or too large numbers: correct or remove it"),
        ("zeros", "is all zeros: correct or remove it"),
        ("twice", "has the id of an earlier row: ids must be unique"),
        ("missing", r"lacks \d+ of 48 images, the first: .*; embed them with the old model"),
        ("lines", "has .* lines, but .* rows: write one id per line"),
        ("wide", "save a C-ordered array"),
    ],
)
def test_a_bad_table_is_refused_and_nothing_changed(
    shapes: str, table: Path, tmp_path: Path, change: str, said: str
) -> None:
    spoiled(table, change)
    with pytest.raises(SfscError, match=said) as caught:
        train(short(shapes, old=str(table)), tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1
    assert str(table) in str(caught.value)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"old": "nowhere"}, "there is no old model .*nowhere: name a run folder"),
        ({"recipe": "sfsc+", "teacher": "nowhere"}, "there is no old model .*nowhere"),
        ({"teacher": "nowhere"}, "recipe sfsc with classifier learned does not use"),
        ({"recipe": "bct-s", "classifier": "d-simplex"}, "recipe bct-s has no classifier"),
        ({"classifier": "d-simplex", "embedding_dim": 4}, "set embedding_dim to 7 or more"),
    ],
)
def test_impossible_settings_are_refused(
    shapes: str, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(SfscError, match=said):
        train(short(shapes, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_teacher_from_elsewhere_gives_its_classifier(shapes: str, old: Path, tmp_path: Path) -> None:
    config = short(shapes, recipe="sfsc+", teacher=str(old), embedding_dim=8)
    train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "teacher").exists()
    space = OldSpace.load(tmp_path / "run" / "teacher.safetensors")
    checkpoint = safetensors.torch.load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert torch.equal(checkpoint["classifier.0"], space.classifier)
    with pytest.raises(SfscError, match="set embedding_dim to 16 or less"):
        train(short(shapes, recipe="sfsc+", teacher=str(old), embedding_dim=32), tmp_path / "other")


@pytest.mark.parametrize("recipe", ["sfsc", "sfsc+"])
def test_a_fixed_classifier_stays(shapes: str, tmp_path: Path, recipe: str) -> None:
    train(short(shapes, recipe=recipe, classifier="d-simplex"), tmp_path / "run")
    checkpoint = safetensors.torch.load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert torch.equal(checkpoint["classifier.0"], simplex(8, 16))


def test_queries_search_the_old_gallery_directly(shapes: str, old: Path, new: Path, tmp_path: Path) -> None:
    family, dataset = Family.load(new), open_dataset(shapes)
    with Gallery.open(tmp_path / "gallery", create=True) as gallery:
        index(Family.load(old), shapes, gallery, 1.0, workers=0)
        path = dataset.query.paths[0]
        [query] = family.embed_pixels(decode(path, family.image_size)[None], 0.5)
        rows = {row["id"]: row["embedding"] @ query for row in gallery.rows(embeddings=True)}
        bridge = Bridge.load(new / "old-bridge.safetensors")
        hits = search(BridgedModel(family, bridge), path, gallery, 0.5, top=3)
        assert [hit.id for hit in hits] == sorted(rows, key=lambda name: -rows[name])[:3]
        assert [hit.score for hit in hits] == pytest.approx(sorted(rows.values())[:-4:-1], abs=1e-5)


@pytest.mark.parametrize("dimension", [4, 8, 16])
def test_the_bridge_compares_as_the_training_did(
    shapes: str, old: Path, dimension: int, tmp_path: Path
) -> None:
    images = open_dataset(shapes).train
    space = OldSpace.fit(open_old(str(old)), images.paths, images.labels(), dimension)
    bridge = direct_bridge(space, Space("new", "f", dimension))
    bridge.save(tmp_path / "bridge.safetensors")
    rows = open_old(str(old)).embed(open_dataset(shapes).train.paths)
    moved = Bridge.load(tmp_path / "bridge.safetensors").forward(rows)[0]
    k = space.description.components
    assert np.allclose(moved[:, :k], space.embeddings.numpy(), atol=1e-6)
    assert np.allclose(moved[:, k:], 0)


def test_a_calibrated_family_searches_the_old_gallery_too(shapes: str, new: Path, tmp_path: Path) -> None:
    calibrate(new, tmp_path / "calibrated", shapes, workers=0)
    bridge = Bridge.load(tmp_path / "calibrated" / "old-bridge.safetensors")
    assert bridge.new.fingerprint == Family.load(tmp_path / "calibrated").fingerprint
    assert bridge.old == Bridge.load(new / "old-bridge.safetensors").old


def test_the_settings_of_a_run_name_the_old_model_by_an_absolute_path(
    shapes: str, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old.parent)
    train(short(shapes, old=f"{old.name}:0.5"), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["old"] == f"{old}:0.5"
