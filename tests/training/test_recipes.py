"""Which losses a recipe has, and what they reach."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from sfsc.errors import SfscError
from sfsc.training.config import Config, read_settings
from sfsc.training.losses.alignment import alignment_loss
from sfsc.training.losses.asymmetric import asymmetric_loss
from sfsc.training.losses.evidential import cosine_logits, evidential_loss
from sfsc.training.losses.triplet import triplet_loss
from sfsc.training.recipes import AGGREGATIONS, RECIPES, find_recipe, sub_model_loss

LABELS = torch.tensor([0, 0, 1, 1])


def tensors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    embeddings, target = (F.normalize(torch.randn(4, 8, generator=generator)) for _ in range(2))
    return embeddings, target, [torch.randn(2, 8, generator=generator) for _ in range(3)]


def test_the_full_sub_model_learns_from_its_classifier_alone() -> None:
    embeddings, _, classifiers = tensors()
    for name, recipe in RECIPES.items():
        loss, uncertainty = sub_model_loss(recipe, embeddings, None, classifiers, -1, LABELS, 10.0, 0.9)
        linear = recipe.logits == "linear"
        logits = (
            embeddings @ classifiers[-1].T if linear else cosine_logits(embeddings, classifiers[-1], 10.0)
        )
        evidential = (recipe.full_loss or recipe.loss) == "evidential"
        expected = evidential_loss(logits, LABELS)[0] if evidential else F.cross_entropy(logits, LABELS)
        assert loss.item() == pytest.approx(expected.item()), name
        assert 0 < uncertainty <= 1


def test_a_narrow_sub_model_learns_what_its_recipe_says() -> None:
    embeddings, target, classifiers = tensors()

    def loss(name: str, **changes: object) -> float:
        recipe = find_recipe(name, changes)
        return sub_model_loss(recipe, embeddings, target, classifiers, -3, LABELS, 10.0, 0.25)[0].item()

    own = F.cross_entropy(cosine_logits(embeddings, classifiers[0], 10.0), LABELS).item()
    influence = F.cross_entropy(cosine_logits(embeddings, classifiers[-1], 10.0), LABELS).item()
    contrast = asymmetric_loss(embeddings, target, LABELS).item()
    shared = evidential_loss(cosine_logits(embeddings, classifiers[-1], 10.0), LABELS)[0].item()
    assert loss("unified") == pytest.approx(own)
    for name in ("bct", "bct-s"):
        assert loss(name, influence=0.5) == pytest.approx(own + 0.5 * influence)
    for name in ("asymmetric", "asymmetric-s"):
        assert loss(name) == pytest.approx(contrast)
    assert loss("prunnet-s") == pytest.approx(influence)
    assert loss("sfsc") == pytest.approx(shared)
    slides = evidential_loss(embeddings @ classifiers[-1].T, LABELS, "softplus", kl=5e-4)[0].item()
    assert loss("sfsc-slides") == pytest.approx(slides)
    # The penalty rises over the ramp: at a quarter of the steps, a ramp of half of them gives it half.
    half = evidential_loss(embeddings @ classifiers[-1].T, LABELS, "softplus", kl=0.05)[0].item()
    assert loss("sfsc-slides", evidence_kl=0.1, evidence_kl_ramp=0.5) == pytest.approx(half)
    hard = triplet_loss(embeddings, LABELS).item()
    assert loss("unified", triplet=2.0) == pytest.approx(own + 2 * hard)
    smooth = F.cross_entropy(
        cosine_logits(embeddings, classifiers[0], 10.0), LABELS, label_smoothing=0.1
    ).item()
    assert loss("unified", label_smoothing=0.1) == pytest.approx(smooth)
    # Alignment rises over the first half: at a quarter of the steps it has half of its weight.
    aligned = alignment_loss(embeddings, target).item()
    assert loss("sfsc", alignment=4.0) == pytest.approx(shared + 2 * aligned)
    plus = RECIPES["sfsc+"]
    expected = shared + plus.asymmetric * contrast + plus.alignment / 2 * aligned
    assert loss("sfsc+") == pytest.approx(expected)


def test_without_a_classifier_there_is_no_uncertainty() -> None:
    embeddings, target, classifiers = tensors()
    recipe = RECIPES["asymmetric-s"]
    assert math.isnan(sub_model_loss(recipe, embeddings, target, classifiers[:1], -2, LABELS, 10.0, 0.5)[1])


def test_phases_train_every_sub_model_once() -> None:
    for name, recipe in RECIPES.items():
        phases = recipe.phases(4)
        assert sorted(index for phase in phases for index in phase) == [0, 1, 2, 3]
        assert len(phases) == (2 if name in ("bct", "asymmetric") else 1)
        assert phases[0][0] == 3, "the full one leads"
    assert RECIPES["bct"].phases(1) == [[0]]


def test_all_but_unified_are_meant_to_be_compatible() -> None:
    assert [name for name, recipe in RECIPES.items() if not recipe.compatible] == ["unified"]


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(SfscError, match=r"unknown recipe 'magic'; choose one of unified, bct, .*sfsc"):
        find_recipe("magic")


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_every_aggregation_sums_gradients_that_agree(name: str) -> None:
    """Of equal gradients each gives m times one of them, per group; CAGrad goes half as far again."""
    grams = torch.ones(5, 4, 4) * torch.rand(5, 1, 1)
    order = torch.arange(4).expand(4, 4)
    weights = AGGREGATIONS[name](grams, order)
    expected = torch.full((5,), 6.0 if name == "cagrad" else 4.0)
    torch.testing.assert_close(weights.sum(-1), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["upgrad", "mgda"])
def test_aggregations_of_torchjd_conflict_with_no_sub_model(name: str) -> None:
    gradients = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(0))
    grams = gradients @ gradients.mT
    weights = AGGREGATIONS[name](grams, torch.arange(4).expand(4, 4))
    products = (grams @ weights[..., None]).squeeze(-1)
    assert (products >= -1e-3 * grams.diagonal(dim1=-2, dim2=-1)).all()


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("recipes/*.yaml")), ids=lambda p: p.stem
)
def test_recipe_files_hold_settings(path: Path) -> None:
    settings = read_settings(path)
    recipes = settings.pop("recipes", {settings.get("recipe", "sfsc"): None})
    settings.pop("seeds", None)
    for name, changes in recipes.items():
        config = Config.make({"recipe": name, **settings, **(changes or {})})
        assert config.method.phases(len(config.widths))
