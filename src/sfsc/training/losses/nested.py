"""A loss of embeddings, also asked of their first components."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

# From embeddings, a target for them or None, and classifiers, to a loss and an uncertainty.
EmbeddingLoss = Callable[[Tensor, Tensor | None, Sequence[Tensor]], tuple[Tensor, Tensor]]

# Of the losses of first components, beside that of the whole embeddings: among 0.1, 0.3 and 1, the one that
# cost the whole ones least on validation identities (docs/research.md).
WEIGHT = 0.1


def nested_loss(
    loss: EmbeddingLoss,
    nested_dims: Sequence[int],
    embeddings: Tensor,
    target: Tensor | None,
    classifiers: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """The weighted mean of a loss of whole embeddings and of their first k components, for every nested k.

    First components are brought to length 1, those of the target too; of a classifier, whose rows the loss
    brings to length 1, the first k columns are taken. (Kusupati et al., Matryoshka Representation Learning,
    NeurIPS 2022, equation 1, with shared classifiers; the paper's weights are equal. A mean, and not a sum,
    so that the loss keeps its scale.)

    Args:
        loss: of what follows.
        nested_dims: the numbers k; none for the loss itself.
        embeddings: (batch, dim), of length 1.
        target: (batch, dim), of length 1, or None.
        classifiers: (classes, dim) each.

    Returns:
        The weighted mean, and the uncertainty of the whole embeddings, both () float32.
    """
    total, uncertainty = loss(embeddings, target, classifiers)
    for dim in nested_dims:
        first = None if target is None else _first(target, dim)
        columns = [classifier[:, :dim] for classifier in classifiers]
        total = total + WEIGHT * loss(_first(embeddings, dim), first, columns)[0]
    return total / (1 + WEIGHT * len(nested_dims)), uncertainty


def _first(embeddings: Tensor, dim: int) -> Tensor:
    return F.normalize(embeddings[:, :dim].float())
