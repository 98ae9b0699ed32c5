"""Batch normalisation with statistics over the batches of all ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sfsc.training.distributed import messages


class SynchronisedBatchNorm(TorchFunctionMode):
    """A context in which batch normalisation in training mode uses the batches of all ranks.

    It replaces the function that every nn.BatchNorm1d, 2d and 3d calls. It works for any network and does not
    change it, so it affects neither saved nor copied networks. The layers update their running statistics as
    usual, with the statistics of the whole batch.
    """

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, or `batch_norm` instead of torch's own."""
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute `torch.nn.functional.batch_norm` over the batches of all ranks, which must have equal sizes.

    Args:
        input: (batch, channels, ...) of any float dtype. Statistics are computed in float32, or in float64 if
            the input is float64. The following tensors have this dtype.
        running_mean: (channels,), updated in place in training.
        running_var: (channels,), updated in place in training with the unbiased variance.
        weight: (channels,).
        bias: (channels,).
        training: whether to normalise by the statistics of the batch instead of the running statistics. The
            ranks communicate only if it is True.
        momentum: the weight of the new statistics in the running statistics.
        eps: the value that is added to the variance.

    Returns:
        A tensor with the shape and dtype of `input`.

    Raises:
        RankLost: a rank ended or does not answer.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    channels = input.shape[1]
    dtype = torch.promote_types(input.dtype, torch.float32)
    weight = input.new_ones(channels, dtype=dtype) if weight is None else weight
    bias = input.new_zeros(channels, dtype=dtype) if bias is None else bias
    output, mean, variance = _normalise(input, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        count = input.numel() // channels * dist.get_world_size()
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
    return output


# A custom operator, because the compiler does not trace into it.
@torch.library.custom_op("sfsc::normalise", mutates_args=())
def _normalise(input: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalised input, and the mean and biased variance (channels,) over all ranks."""
    dimensions = _all_but_channels(input)
    exact = _at_least_float32(input)
    mean = exact.mean(dimensions)
    variance = (exact - _beside(mean, input)).square_().mean(dimensions)
    own = torch.stack([mean, variance])
    parts = own.new_empty(dist.get_world_size(), *own.shape)
    with messages():
        dist.all_gather(list(parts), own)
    means, variances = parts.unbind(1)
    mean = means.mean(0)
    # For parts of equal size, the variance is the mean of their variances plus the variance of their means.
    variance = variances.mean(0) + (means - mean).square().mean(0)
    return F.batch_norm(input, mean, variance, weight, bias, False, 0.0, eps), mean, variance


@_normalise.register_fake
def _(input: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(input), torch.empty_like(weight), torch.empty_like(weight)


@torch.library.custom_op("sfsc::normalise_backward", mutates_args=())
def _normalise_backward(
    gradient: Tensor, input: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of the input, and this rank's gradients of weight and bias."""
    # The gradients if the statistics were constants. The terms through the statistics are added below.
    direct, *own = torch.ops.aten.native_batch_norm_backward(
        gradient, input, weight, mean, variance, None, None, False, eps, [True, True, True]
    )
    means = torch.stack(own) / (input.numel() // input.shape[1] * dist.get_world_size())
    with messages():
        dist.all_reduce(means)
    deviation = (variance + eps).rsqrt()
    slope = weight * deviation * deviation * means[0]
    offset = weight * deviation * means[1] - slope * mean
    whole = _at_least_float32(direct).addcmul_(input, _beside(slope, input), value=-1)
    return whole.sub_(_beside(offset, input)).to(input.dtype), own[0], own[1]


@_normalise_backward.register_fake
def _(
    gradient: Tensor, input: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(input), torch.empty_like(weight), torch.empty_like(weight)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    input, weight, _, ctx.eps = inputs
    _, mean, variance = output
    ctx.mark_non_differentiable(mean, variance)
    ctx.save_for_backward(input, weight, mean, variance)


def _backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return *_normalise_backward(gradient, *ctx.saved_tensors, ctx.eps), None


_normalise.register_autograd(_backward, setup_context=_remember)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _all_but_channels(input: Tensor) -> list[int]:
    return [d for d in range(input.ndim) if d != 1]


def _beside(values: Tensor, input: Tensor) -> Tensor:
    """Reshape (channels,) values so that they broadcast with (batch, channels, ...)."""
    return values.view(-1, *[1] * (input.ndim - 2))
