"""Normalisation layers against shifts of domain, which take the place of some BatchNorms of a backbone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn

GROUP = 16  # channels that are whitened together
ITERATIONS = 5
# Logit of the statistics of BatchNorm in a layer that takes over its parameters: 0.9 of the mixed covariance.
OF_BATCH_NORM = math.log(27)


class InstanceBatchNorm2d(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the others.

    This is the layer of IBN-Net-a (Pan et al., Two at Once, ECCV 2018). A narrower layer has the first
    channels of each half. Maps (batch, channels, height, width) to the same shape.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.instance = nn.InstanceNorm2d(channels // 2, eps, affine=True)
        self.batch = nn.BatchNorm2d(channels - channels // 2, eps, momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch."""
        half = self.instance.num_features
        return torch.cat([self.instance(x[:, :half]), self.batch(x[:, half:])], 1)


class SwitchableWhitening2d(nn.BatchNorm2d):
    """Whitening of groups of channels with a learned mixture of the statistics of batch and image.

    Of each group of 16 channels (or their largest common divisor with 16), the mean is a mixture of the means
    of the batch and of the image, and the covariance one of four: those of the batch and of the image, and
    the diagonals of both, which alone would standardise as batch and instance normalisation do. The shares
    are softmax(`mean_mix`), (2,), and softmax(`covariance_mix`), (4,). The inverse root of the covariance
    comes from five steps of Newton's iteration (Pan et al., Switchable Whitening for Deep Representation
    Learning, ICCV 2019; the iteration is that of Huang et al., Iterative Normalization, CVPR 2019).

    The iteration runs on the correlations, after the channels were divided by their deviations: ZCA-cor
    instead of ZCA (Kessy et al., The American Statistician, 2018). Five steps do not reach the inverse root
    of variances that differ widely, as those of pretrained networks do. In evaluation mode, the statistics
    of the batch are the running ones: those of BatchNorm, and the running correlations, (groups, 16, 16).
    Statistics are at least float32. Maps (batch, channels, height, width) to the same shape and dtype.
    """

    running_correlation: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(channels, eps, momentum)
        self.group = math.gcd(channels, GROUP)
        self.mean_mix = nn.Parameter(torch.zeros(2))
        self.covariance_mix = nn.Parameter(torch.zeros(4))
        self.register_buffer(
            "running_correlation", torch.eye(self.group).repeat(channels // self.group, 1, 1)
        )

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the variances to 1 and the correlations to 0."""
        super().reset_running_stats()
        correlation = self._buffers.get("running_correlation")  # it does not exist in __init__ of BatchNorm
        if correlation is not None:
            correlation.copy_(torch.eye(self.group))

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a batch."""
        exact = torch.promote_types(input.dtype, torch.float32)
        with _without_autocast(input):
            return self._normalise(input.to(exact)).to(input.dtype)

    def _normalise(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        grouped = x.reshape(batch, -1, self.group, height * width)
        own_mean = grouped.mean(-1, keepdim=True)
        centred = grouped - own_mean
        own = centred @ centred.transpose(-1, -2) / (height * width)
        if self.training:
            batch_mean, of_batch = _whole_batch(own_mean, own)
            self._remember(batch_mean, of_batch, batch * height * width)
        else:
            batch_mean, of_batch = self._running()
        means = self.mean_mix.softmax(0)
        shares = self.covariance_mix.softmax(0)
        eye = torch.eye(self.group, dtype=x.dtype, device=x.device)
        mean = means[0] * batch_mean + means[1] * own_mean
        covariance = (shares[0] + shares[2] * eye) * of_batch + (shares[1] + shares[3] * eye) * own
        whitened = _inverse_root(covariance + self.eps * eye, eye) @ (grouped - mean)
        return whitened.reshape(x.shape) * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)

    def _running(self) -> tuple[Tensor, Tensor]:
        """Return the running mean (groups, group, 1) and covariance (groups, group, group)."""
        mean, variance = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        deviation = variance.sqrt().view(-1, self.group, 1)
        correlation = cast(Tensor, self.running_correlation)
        return mean.view(-1, self.group, 1), correlation * deviation * deviation.transpose(-1, -2)

    @torch.no_grad()
    def _remember(self, mean: Tensor, covariance: Tensor, count: int) -> None:
        """Update the running statistics, as BatchNorm does, with those of a batch of `count` values."""
        if self.running_mean is None or self.running_var is None or self.running_correlation is None:
            return
        seen = cast(Tensor, self.num_batches_tracked).add_(1)
        share = 1 / float(seen) if self.momentum is None else self.momentum
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        deviation = (variance + self.eps).sqrt().unsqueeze(-1)
        correlation = covariance / deviation / deviation.transpose(-1, -2)
        correlation.diagonal(dim1=-2, dim2=-1).fill_(1)
        self.running_mean.lerp_(mean.flatten(), share)
        self.running_var.lerp_(variance.flatten() * (count / max(1, count - 1)), share)
        self.running_correlation.lerp_(correlation, share)


def _whole_batch(means: Tensor, covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (groups, group, 1) and the covariance (groups, group, group) over a whole batch.

    They follow from those of its images, (batch, groups, group, 1) and (batch, groups, group, group).
    """
    mean = means.mean(0)
    shifts = (means - mean).squeeze(-1).permute(1, 2, 0)
    return mean, covariances.mean(0) + shifts @ shifts.transpose(-1, -2) / len(means)


def _inverse_root(covariance: Tensor, eye: Tensor) -> Tensor:
    """Return matrices W with W covariance W^T = 1, (..., group, group)."""
    size = len(eye)
    scale = (covariance * eye).sum(-1, keepdim=True).rsqrt()
    # The trace of correlations is the size of the group; divided by it, their eigenvalues are at most 1.
    correlation = covariance * scale * scale.transpose(-1, -2) / size
    root = 1.5 * eye - 0.5 * correlation  # the first step, from the identity
    for _ in range(ITERATIONS - 1):
        root = 1.5 * root - 0.5 * ((root @ root) @ (root @ correlation))
    return root * scale.transpose(-1, -2) / math.sqrt(size)


def _without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which products of matrices keep their dtype."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


LAYERS: dict[str, type[InstanceBatchNorm2d] | type[SwitchableWhitening2d]] = {
    "instance_batch": InstanceBatchNorm2d,
    "switchable_whitening": SwitchableWhitening2d,
}
NORMALISATIONS = ("batch", *LAYERS)


def replace_batch_norms(network: nn.Module, names: Sequence[str], normalisation: str) -> nn.Module:
    """Replace the BatchNorms of these names by another normalisation, one of `LAYERS`, in place."""
    for name in names:
        norm = cast(nn.BatchNorm2d, network.get_submodule(name))
        network.set_submodule(name, LAYERS[normalisation](norm.num_features, norm.eps, norm.momentum))
    return network


def of_batch_norms(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a network lacks in the state of the same network with BatchNorms, made of these BatchNorms.

    Both parts of an `InstanceBatchNorm2d` get their channels' parameters. A `SwitchableWhitening2d` begins
    close to BatchNorm, with uncorrelated channels.
    """
    made: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        start = f"{name}."
        of_norm = {key[len(start) :]: value for key, value in state.items() if key.startswith(start)}
        if isinstance(module, InstanceBatchNorm2d) and "weight" in of_norm:
            half = module.instance.num_features
            for key, value in of_norm.items():
                made[f"{name}.batch.{key}"] = value[half:] if value.ndim else value
            for key in ("weight", "bias"):
                made[f"{name}.instance.{key}"] = of_norm[key][:half]
        elif isinstance(module, SwitchableWhitening2d) and "running_correlation" not in of_norm:
            made[f"{name}.running_correlation"] = cast(Tensor, module.running_correlation)
            made[f"{name}.mean_mix"] = torch.tensor([OF_BATCH_NORM, 0.0])
            made[f"{name}.covariance_mix"] = torch.tensor([0.0, 0.0, OF_BATCH_NORM, 0.0])
    return made
