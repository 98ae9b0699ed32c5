"""A loss of embeddings, also asked of their first components."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

# From embeddings, a target for them or None, and classifiers, to a loss and an uncertainty.
EmbeddingLoss = Callable[[Tensor, Tensor | None, Sequence[Tensor]], tuple[Tensor, Tensor]]


def nested_loss(
    loss: EmbeddingLoss,
    nested_dims: Sequence[int],
    embeddings: Tensor,
    target: Tensor | None,
    classifiers: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """The mean of a loss over the whole embeddings and their first k components, for every nested k.

    First components are brought to length 1, those of the target too; of a classifier, whose rows the loss
    brings to length 1, the first k columns are taken. (Kusupati et al., Matryoshka Representation Learning,
    NeurIPS 2022, equation 1, with shared classifiers and equal weights. A mean, and not their sum, so that
    the loss keeps its scale.)

    Args:
        loss: of what follows.
        nested_dims: the numbers k; none for the loss itself.
        embeddings: (batch, dim), of length 1.
        target: (batch, dim), of length 1, or None.
        classifiers: (classes, dim) each.

    Returns:
        The mean loss, and the uncertainty of the whole embeddings, both () float32.
    """
    total, uncertainty = loss(embeddings, target, classifiers)
    for dim in nested_dims:
        first = None if target is None else _first(target, dim)
        columns = [classifier[:, :dim] for classifier in classifiers]
        total = total + loss(_first(embeddings, dim), first, columns)[0]
    return total / (1 + len(nested_dims)), uncertainty


def _first(embeddings: Tensor, dim: int) -> Tensor:
    return F.normalize(embeddings[:, :dim].float())
