import pytest
import torch
from torch.distributions import Dirichlet, kl_divergence

from sfsc.training.losses.evidential import cosine_logits, evidential_loss


def test_the_loss_is_the_expected_cross_entropy_under_the_dirichlet() -> None:
    logits = torch.tensor([[1.0, -0.5, 2.0, 0.3]])
    labels = torch.tensor([2])
    torch.manual_seed(0)
    samples = Dirichlet(logits.exp() + 1).sample((200_000,))
    expected = -samples[:, 0, 2].log().mean()
    loss, _ = evidential_loss(logits, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)


def test_a_penalty_is_the_divergence_of_wrong_evidence_from_none() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5)
    for evidence, of in (("exp", torch.exp), ("softplus", torch.nn.functional.softplus)):
        alpha = of(logits) + 1
        alpha[range(5), labels] = 1.0
        expected = kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones(7))).mean()
        plain, penalised = (evidential_loss(logits, labels, evidence, kl)[0] for kl in (0.0, 0.3))
        assert (penalised - plain).item() == pytest.approx(0.3 * expected.item(), rel=1e-4)


def test_softplus_evidence_has_a_fraction_of_the_gradient() -> None:
    """Of softplus evidence at the true class, relative to cross-entropy: 0.09 to 0.33 (docs/method.md)."""
    logits = torch.zeros(1, 751)
    logits[0, 0] = 5.0  # a cosine of 0.5
    gradients = {}
    for name in ("exp", "softplus"):
        given = logits.clone().requires_grad_()
        evidential_loss(given, torch.tensor([0]), name)[0].backward()
        gradients[name] = given.grad[0, 0].item()
    given = logits.clone().requires_grad_()
    torch.nn.functional.cross_entropy(given, torch.tensor([0])).backward()
    shares = {name: value / given.grad[0, 0].item() for name, value in gradients.items()}
    assert 0.9 < shares["exp"] < 1.35
    assert 0.05 < shares["softplus"] < 0.33


def test_smoothing_distributes_a_share_of_the_label() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(5)
    of_each = torch.stack([evidential_loss(logits, torch.full((5,), c))[0] for c in range(7)])
    expected = 0.8 * evidential_loss(logits, labels)[0] + 0.2 * of_each.mean()
    assert evidential_loss(logits, labels, smoothing=0.2)[0].item() == pytest.approx(expected.item())


def test_uncertainty_is_classes_over_strength() -> None:
    logits = torch.randn(5, 7)
    _, uncertainty = evidential_loss(logits, torch.arange(5))
    expected = (7 / (logits.exp() + 1).sum(1)).mean()
    assert uncertainty.item() == pytest.approx(expected.item())
    assert 0 < uncertainty.item() <= 1


def test_evidence_for_the_class_lowers_loss_and_uncertainty() -> None:
    weak, strong = torch.zeros(1, 10), torch.zeros(1, 10)
    strong[0, 3] = 8.0
    label = torch.tensor([3])
    (weak_loss, weak_u), (strong_loss, strong_u) = (
        evidential_loss(weak, label),
        evidential_loss(strong, label),
    )
    assert strong_loss < weak_loss
    assert strong_u < weak_u


@pytest.mark.parametrize("value", [-60.0, -20.0, 0.0, 20.0, 60.0])
def test_the_gradient_is_finite_and_right_at_both_extremes(value: float) -> None:
    logits = torch.full((2, 1000), -value / 2)
    logits[:, 0] = value
    labels = torch.tensor([0, 1])
    single = logits.clone().requires_grad_()
    evidential_loss(single, labels)[0].backward()
    double = logits.double().requires_grad_()
    alpha = double.exp() + 1
    rows = torch.digamma(alpha.sum(1)) - torch.digamma(alpha.gather(1, labels[:, None]).squeeze(1))
    rows.mean().backward()
    assert torch.isfinite(single.grad).all()
    torch.testing.assert_close(single.grad, double.grad.float(), rtol=1e-3, atol=1e-6)


def test_logits_beyond_float32_do_not_overflow() -> None:
    loss, uncertainty = evidential_loss(torch.full((2, 3), 500.0), torch.tensor([0, 1]))
    assert torch.isfinite(loss)
    assert torch.isfinite(uncertainty)


def test_bfloat16_autocast_does_not_reach_the_loss() -> None:
    embeddings = torch.nn.functional.normalize(torch.randn(4, 16), dim=1)
    classifier = torch.randn(6, 16)
    expected = evidential_loss(cosine_logits(embeddings, classifier, 16.0), torch.arange(4))[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = evidential_loss(cosine_logits(embeddings, classifier, 16.0), torch.arange(4))[0]
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_logits_are_scaled_cosines() -> None:
    embeddings = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    logits = cosine_logits(embeddings, 5 * embeddings, 16.0)
    torch.testing.assert_close(logits.diagonal(), torch.full((3,), 16.0))
    assert logits.abs().max() <= 16.0 + 1e-4
