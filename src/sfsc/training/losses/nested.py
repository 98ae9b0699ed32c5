"""A loss of whole embeddings combined with the same loss of their first components."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

# Maps embeddings, their target or None, and classifiers to a loss and an uncertainty.
EmbeddingLoss = Callable[[Tensor, Tensor | None, Sequence[Tensor]], tuple[Tensor, Tensor]]

# Weight of the losses of first components. Of 0.1, 0.3 and 1, it hurt whole embeddings least on validation
# identities (docs/research.md).
WEIGHT = 0.1


def nested_loss(
    loss: EmbeddingLoss,
    nested_dims: Sequence[int],
    embeddings: Tensor,
    target: Tensor | None,
    classifiers: Sequence[Tensor],
    normalised: bool = True,
) -> tuple[Tensor, Tensor]:
    """Compute the weighted mean of a loss of whole embeddings and of their first k components.

    If `normalised`, the first components of embeddings and target are normalised to length 1. The first k
    columns of each classifier are used; the loss normalises its rows. (Kusupati et al., Matryoshka
    Representation Learning, NeurIPS 2022, equation 1, with shared classifiers; the paper uses equal weights.
    Unlike a sum, the mean keeps the scale of the loss.)

    Args:
        loss: the loss, a function of embeddings, target and classifiers.
        nested_dims: the values of k; if there are none, the result is the loss of whole embeddings.
        embeddings: (batch, dim), of length 1 if `normalised`.
        target: (batch, dim), of length 1 if `normalised`, or None.
        classifiers: (classes, dim) each.
        normalised: whether the loss expects vectors of length 1.

    Returns:
        The weighted mean, and the uncertainty of the whole embeddings, both () float32.
    """
    total, uncertainty = loss(embeddings, target, classifiers)
    for dim in nested_dims:
        shortened = None if target is None else _first(target, dim, normalised)
        columns = [classifier[:, :dim] for classifier in classifiers]
        total = total + WEIGHT * loss(_first(embeddings, dim, normalised), shortened, columns)[0]
    return total / (1 + WEIGHT * len(nested_dims)), uncertainty


def _first(embeddings: Tensor, dim: int, normalised: bool) -> Tensor:
    first = embeddings[:, :dim].float()
    return F.normalize(first) if normalised else first
