"""Distractors: gallery images that no query is searched for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfsc import Family, SfscError, evaluate, open_dataset
from sfsc.data.distractors import with_distractors
from sfsc.images.reading import write_png
from tests.conftest import draw, make_shapes


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A folder of shapes of other identities."""
    for identity in range(20, 26):
        write_png(tmp_path / "others" / f"{identity}.png", draw(identity, 0, 0))
    return tmp_path / "others"


def test_they_are_in_the_gallery_alone(shapes: str, others: Path) -> None:
    dataset = open_dataset(shapes)
    more = with_distractors(dataset, str(others))
    assert more.query.paths == dataset.query.paths
    assert more.train.paths == dataset.train.paths
    assert more.gallery.paths[: len(dataset.gallery)] == dataset.gallery.paths
    added = more.gallery.select(np.arange(len(dataset.gallery), len(more.gallery)))
    assert [Path(path).name for path in added.paths] == [f"{number}.png" for number in range(20, 26)]
    assert len({*added.identities}) == 6
    assert not {*added.identities} & {*dataset.identities}
    assert more.source == f"{shapes} + {others}"


def test_images_of_the_identities_are_left_out(
    shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = open_dataset(shapes)
    table = make_shapes(tmp_path / "larger", identities=15)  # 10 to 14 are its gallery
    more = with_distractors(dataset, f"csv:{table}")
    names = {Path(path).name.partition("_")[0] for path in more.gallery.paths[len(dataset.gallery) :]}
    assert names == {f"{identity:02d}" for identity in range(12, 15)}
    assert "left out" in capsys.readouterr().err
    with pytest.raises(SfscError, match="has no distractors"):
        with_distractors(dataset, shapes)


def test_accuracy_can_only_fall(shapes: str, others: Path) -> None:
    family = Family.create("small", (0.25, 1.0), 16, (32, 32)).eval()
    dataset = open_dataset(shapes)
    alone = evaluate(family, dataset, workers=0).matrix
    among = evaluate(family, with_distractors(dataset, str(others)), workers=0).matrix
    assert among.gallery == alone.gallery + 6
    assert among.queries == alone.queries
    for metric, values in among.metrics.items():
        assert (values <= alone.metrics[metric] + 1e-9).all()
    assert (among.metrics["mAP"] < alone.metrics["mAP"]).any()


def test_a_source_that_cannot_be_read_as_a_whole_is_refused(shapes: str, others: Path) -> None:
    (others / "gone.png").symlink_to(others / "nowhere.png")
    with pytest.raises(SfscError, match=r"gone\.png"):
        with_distractors(open_dataset(shapes), str(others))
