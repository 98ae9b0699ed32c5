"""Adapting a family: what is chosen, what is written, what is left alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import sfsc.training.adapt as adapting
from sfsc import Config, Family, SfscError, adapt, calibrate, recalibrate
from sfsc.files.writing import write_json
from sfsc.training.adapt import SHARES, choose
from sfsc.training.norm_statistics import blended

WIDTHS = (0.5, 1.0)
NAMES = [
    *("as it is", "calibrated", "half statistics", "half, calibrated"),
    *("statistics", "statistics, calibrated"),
]


def make_run(folder: Path, dataset: str, recipe: str = "sfsc", shared: bool = True) -> Path:
    """A run folder with a family that was not trained."""
    Family.create("small", WIDTHS, 16, (32, 32), shared=shared).save(folder)
    settings = {"dataset": dataset, "backbone": "small", "widths": WIDTHS, "image_size": (32, 32)}
    write_json(folder / "config.json", Config.make(settings | {"recipe": recipe}).model_dump(mode="json"))
    return folder


@pytest.fixture(scope="module")
def run(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), shapes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestChoose:
    SOURCE = np.random.default_rng(0).uniform(size=400)

    def test_what_is_clearly_better_is_chosen(self) -> None:
        assert choose([self.SOURCE, self.SOURCE + 0.1, self.SOURCE + 0.2, self.SOURCE + 0.1]) == 2

    def test_in_doubt_it_is_what_changes_less(self) -> None:
        noise = np.random.default_rng(1).normal(size=400)
        noise -= noise.mean()
        doubtful = self.SOURCE + 0.01 * noise.std() / 20 + 0.01 * noise  # one standard error
        assert choose([self.SOURCE, doubtful]) == 0
        assert choose([self.SOURCE, self.SOURCE]) == 0
        assert choose([self.SOURCE, doubtful + 0.01]) == 1
        assert choose([self.SOURCE, doubtful + 0.01, doubtful + 0.01]) == 1

    def test_a_worse_one_is_not_chosen(self) -> None:
        assert choose([self.SOURCE, self.SOURCE - 0.1, self.SOURCE - 0.2]) == 0

    def test_one_image_says_nothing(self) -> None:
        assert choose([np.zeros(1), np.ones(1)]) == 0


def test_a_run_is_adapted_into_another(run: Path, shapes: str, tmp_path: Path) -> None:
    before = contents(run)
    result = adapt(run, shapes, tmp_path / "out", workers=0)
    assert contents(run) == before, "the run has changed"
    assert [candidate.name for candidate in result.candidates] == NAMES
    assert result.chosen in result.candidates
    assert (result.fitted, result.held_out) == (39, 9)
    assert result.before == Family.load(run).fingerprint
    assert result.after == Family.load(tmp_path / "out").fingerprint
    written = json.loads((tmp_path / "out" / "adaptation.json").read_text())
    assert written == json.loads(json.dumps(result.to_json()))
    assert written["chosen"] == result.chosen.name
    for candidate in result.candidates:
        assert candidate.matrix.shape == (2, 2)
        assert ((candidate.matrix >= 0) & (candidate.matrix <= 1)).all()
        assert candidate.cross_tests == pytest.approx(candidate.matrix[[0, 1], [1, 0]].mean())
        assert candidate.gain == pytest.approx(candidate.cross_tests - result.candidates[0].cross_tests)


def test_it_is_the_same_every_time(run: Path, shapes: str, tmp_path: Path) -> None:
    first, second = (adapt(run, shapes, tmp_path / name, workers=0).to_json() for name in "ab")
    assert first == second


@pytest.mark.parametrize("place", range(2 * len(SHARES)))
def test_galleries_of_the_full_sub_model_stay_valid_if_it_does(
    run: Path, shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    def pick(_: Sequence[np.ndarray]) -> int:
        return place

    monkeypatch.setattr(adapting, "choose", pick)
    chosen = adapt(run, shapes, tmp_path / "out", workers=0).chosen
    old, new = Family.load(run), Family.load(tmp_path / "out")
    assert chosen.name == NAMES[place]
    assert new.spec.calibrated == chosen.calibrated
    assert (new.fingerprint.partition(".")[0] == old.fingerprint) == chosen.galleries_stay == (place < 2)
    assert (new.fingerprint == old.fingerprint) == (place == 0)
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    same = np.array_equal(new.embed_pixels(images, 1.0), old.embed_pixels(images, 1.0))
    assert same == chosen.galleries_stay


def test_statistics_are_those_of_a_recalibration(
    run: Path, shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_for_fitting(paths: Sequence[str], _: int) -> tuple[list[str], list[str]]:
        return [*paths], [*paths[:9]]

    monkeypatch.setattr(adapting, "_split", all_for_fitting)
    monkeypatch.setattr(adapting, "choose", lambda _: NAMES.index("statistics"))
    adapt(run, shapes, tmp_path / "adapted", workers=0)
    recalibrate(run, tmp_path / "recalibrated", workers=0)
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    adapted, recalibrated = (Family.load(tmp_path / name) for name in ("adapted", "recalibrated"))
    for width in WIDTHS:
        assert np.array_equal(adapted.embed_pixels(images, width), recalibrated.embed_pixels(images, width))


def test_statistics_are_blended(run: Path) -> None:
    one, other = Family.load(run), Family.load(run)
    for tensor in other.norms.buffers():
        if tensor.is_floating_point():
            tensor.add_(2)
    half = blended(one, other, 0.5)
    for mine, blend in zip(one.norms.buffers(), half.norms.buffers(), strict=True):
        assert np.allclose(blend, mine + (1 if mine.is_floating_point() else 0))
    assert blended(one, other, 0).fingerprint == one.fingerprint
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(blended(one, other, 1).embed_pixels(images), other.embed_pixels(images))


def test_mistakes_are_one_line(run: Path, shapes: str, tmp_path: Path) -> None:
    calibrate(run, tmp_path / "calibrated", workers=0)
    unified = make_run(tmp_path / "unified", shapes, "unified", shared=False)
    image = str(next(Path(shapes.partition(":")[2]).parent.glob("*.png")))
    for folder, images, out, reason in (
        (run, shapes, run, "already contains a run"),
        (tmp_path / "calibrated", shapes, tmp_path / "new", "is already calibrated: adapt the run that it"),
        (unified, shapes, tmp_path / "new", "share no embedding space, because of its recipe, unified"),
        (run, image, tmp_path / "new", "1 images are too few to adapt 16 dimensions: use 160 or more"),
        (run, "nowhere", tmp_path / "new", "nowhere does not exist"),
    ):
        with pytest.raises(SfscError, match=reason):
            adapt(folder, images, out, workers=0)
        assert not (tmp_path / "new").exists()
    assert "adaptation.json" not in contents(run)


def test_independent_networks_with_a_common_space_can_be_adapted(shapes: str, tmp_path: Path) -> None:
    independent = make_run(tmp_path / "bct", shapes, "bct", shared=False)
    assert adapt(independent, shapes, tmp_path / "out", workers=0).chosen.name in NAMES
