"""How each operation of a graph carries channels from its inputs to its output.

A rule takes the tracer and the node of an `aten` operation, ties the channels that the operation ties, and
returns the labels of its output. Operations that only move data need no rule of their own: they are run on
the labels. Operations that `torch` tags as pointwise tie their inputs element by element.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from sfsc.switchable.labels import NONE, WHOLE, along, compact, placed

if TYPE_CHECKING:
    from sfsc.switchable.structure import Tracer

aten = torch.ops.aten
Labels = Tensor | list[Tensor] | None
Rule = Callable[["Tracer", fx.Node], Labels]


def find_rule(node: fx.Node) -> Rule | None:
    """The rule of a node's operation, or None where there is none."""
    target: Any = node.target
    if target in _RULES:
        return _RULES[target]
    if torch.Tag.pointwise in getattr(target, "tags", ()):
        return elementwise
    if getattr(target, "is_view", False):
        return movement
    return None


def source(node: fx.Node, position: int = 0) -> fx.Node:
    """An argument that is a tensor."""
    value = node.args[position]
    assert isinstance(value, fx.Node)
    return value


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def shape_of(node: fx.Node) -> torch.Size:
    """The shape of a node's value."""
    return node.meta["val"].shape


def unchanged(tracer: Tracer, node: fx.Node) -> Labels:
    """The output has the channels of the first input."""
    return tracer.labels(source(node))


def elementwise(tracer: Tracer, node: fx.Node) -> Labels:
    """A sum, a product or the like: elements that meet are of one channel."""
    rank = len(shape_of(node))
    operands = [
        (labels.view(_padded(labels.shape, rank)), _padded(shape_of(value), rank))
        for value in node.all_input_nodes
        for labels in [tracer.labels(value)]
    ]
    result = torch.full([1] * rank, NONE)
    for index, (labels, extent) in enumerate(operands):
        others = [other for other, _ in operands[:index] + operands[index + 1 :]]
        result = tracer.join(result, _without_constraint(labels, extent, *others))
    return result


def _extent(node: fx.Node) -> list[int]:
    return list(shape_of(node))


def _padded(shape: Sequence[int], rank: int) -> list[int]:
    return [1] * (rank - len(shape)) + list(shape)


def _without_constraint(labels: Tensor, extent: list[int], *others: Tensor) -> Tensor:
    """What is whole, but is spread over the channels of another operand, does not keep them whole."""
    spread = any(size == 1 and other.shape[d] > 1 for other in others for d, size in enumerate(extent))
    return torch.where(labels == WHOLE, NONE, labels) if spread else labels


def movement(tracer: Tracer, node: fx.Node) -> Labels:
    """Views, slices, permutations: the operation itself, run on the labels."""
    args, kwargs = tracer.arguments_with_labels(node)
    # Labels are not laid out in memory as the values are.
    target: Any = aten.reshape.default if node.target is aten.view.default else node.target
    result = target(*args, **kwargs)
    if isinstance(result, Tensor):
        labels = compact(result)
        tracer.note_sizes(node, labels)
        return labels
    return [compact(part) for part in result]


def cat(tracer: Tracer, node: fx.Node) -> Labels:
    """Channels are put one behind the other; along any other dimension, parts must have equal channels."""
    parts: Any = node.args[0]
    dimension = argument(node, 1, "dim", 0) % len(shape_of(node))
    labels = [tracer.labels(part) for part in parts]
    for part in labels[1:]:
        if not along(part, [dimension]) and not along(labels[0], [dimension]):
            others = [d for d in range(part.ndim) if d != dimension]
            if along(part, others) or along(labels[0], others):
                tracer.partition.unify(part, labels[0])
    return movement(tracer, node)


def pad(tracer: Tracer, node: fx.Node) -> Labels:
    """Padding has no channel."""
    amounts: Any = node.args[1]
    labels = tracer.full_labels(source(node))
    return compact(torch.nn.functional.pad(labels, amounts, value=NONE))


def item(tracer: Tracer, node: fx.Node) -> Labels:
    """One of several outputs."""
    parts = tracer.all_labels(source(node))
    index: Any = node.args[1]
    return parts[index] if isinstance(parts, list) else parts


def convolution(tracer: Tracer, node: fx.Node) -> Labels:
    """Dense: new channels. In groups: an output channel belongs to its group's input channels."""
    weight, bias, groups = source(node, 1), argument(node, 2, "bias"), argument(node, 6, "groups", 1)
    channels = tracer.tie_across(source(node), 1)
    out_channels = shape_of(weight)[0]
    if groups == 1:
        tracer.weigh(node, weight, 1, channels)
        outputs = tracer.new_channels(out_channels)
    else:
        outputs = tracer.tie_groups(channels, groups).repeat_interleave(out_channels // groups)
    tracer.weigh(node, weight, 0, outputs)
    tracer.weigh(node, bias, 0, outputs)
    return placed(outputs, 1, len(shape_of(node)))


def linear(tracer: Tracer, node: fx.Node) -> Labels:
    """New channels in the last dimension."""
    weight, bias = source(node, 1), argument(node, 2, "bias")
    tracer.weigh(node, weight, 1, tracer.tie_across(source(node), -1))
    outputs = tracer.new_channels(shape_of(weight)[0])
    tracer.weigh(node, weight, 0, outputs)
    tracer.weigh(node, bias, 0, outputs)
    return placed(outputs, -1, len(shape_of(node)))


def matmul(tracer: Tracer, node: fx.Node) -> Labels:
    """A product of two activations: attention's scores, or its weighted values."""
    a, b = source(node), source(node, 1)
    return _product(tracer, tracer.labels(a), _extent(a), tracer.labels(b), _extent(b))


def attention(tracer: Tracer, node: fx.Node) -> Labels:
    """Scaled dot-product attention (Vaswani et al., NeurIPS 2017): cut by whole heads."""
    query, key, value = (source(node, position) for position in range(3))
    keys, extent = tracer.labels(key).transpose(-1, -2), _extent(key)
    scores = _product(
        tracer, tracer.labels(query), _extent(query), keys, [*extent[:-2], extent[-1], extent[-2]]
    )
    between = [*_extent(query)[:-1], extent[-2]]
    mask = argument(node, 3, "attn_mask")
    if mask is not None:
        labels = tracer.labels(mask).view(_padded(tracer.labels(mask).shape, scores.ndim))
        scores = tracer.join(
            _without_constraint(scores, between, labels),
            _without_constraint(labels, _padded(shape_of(mask), scores.ndim), scores),
        )
    return _product(tracer, scores, between, tracer.labels(value), _extent(value))


def _product(tracer: Tracer, a: Tensor, extent_a: list[int], b: Tensor, extent_b: list[int]) -> Tensor:
    """Labels of a @ b. A dimension that is summed over within heads makes each head one channel."""
    rank = max(a.ndim, b.ndim)
    a, b = a.view([1] * (rank - a.ndim) + [*a.shape]), b.view([1] * (rank - b.ndim) + [*b.shape])
    if not along(a, range(rank - 1)) and not along(b, [*range(rank - 2), -1]):
        tracer.partition.unify(a.transpose(-1, -2), b)
        return torch.full([1] * rank, NONE)
    a, b = tracer.merge(a, [-1]), tracer.merge(b, [-2])
    rows = _without_constraint(a, _padded([*extent_a[:-1], 1], rank), b)
    columns = _without_constraint(b, _padded([*extent_b[:-2], 1, extent_b[-1]], rank), a)
    return tracer.join(rows, columns)


def batch_norm(tracer: Tracer, node: fx.Node) -> Labels:
    """Each channel by itself; its affine parameters and statistics belong to it."""
    channels = tracer.tie_across(source(node), 1)
    for position in range(1, 5):
        tracer.weigh(node, argument(node, position, ""), 0, channels)
    return placed(channels, 1, len(shape_of(node)))


def group_norm(tracer: Tracer, node: fx.Node) -> Labels:
    """Cut by whole groups; a single group is normalised over the channels that are left."""
    groups: Any = node.args[1]
    channels = tracer.tie_across(source(node), 1)
    if groups > 1:
        units = tracer.tie_groups(channels, groups)
        channels = units.repeat_interleave(len(channels) // groups)
    tracer.weigh(node, argument(node, 2, "weight"), 0, channels)
    tracer.weigh(node, argument(node, 3, "bias"), 0, channels)
    return placed(channels, 1, len(shape_of(node)))


def layer_norm(tracer: Tracer, node: fx.Node) -> Labels:
    """Normalised over the channels that are left; within heads, each head is one channel."""
    labels = tracer.labels(source(node))
    last = normalised(node)
    if along(labels, last) and along(labels, range(last[0])):
        return tracer.merge(labels, last)
    if along(labels, last):
        if len(last) > 1:
            raise tracer.no_cut(node, "it normalises over channels and space together")
        for position in (2, 3):
            tracer.weigh(node, argument(node, position, ""), 0, labels.flatten())
        tracer.note_sizes(node, labels)
    return labels


def reduction(tracer: Tracer, node: fx.Node) -> Labels:
    """A mean, sum or norm: over space the channels stay, over the channels nothing is left to cut."""
    labels = tracer.labels(source(node))
    dimensions = normalised(node)
    others = [d for d in range(labels.ndim) if d not in dimensions]
    if along(labels, dimensions):
        labels = tracer.merge(labels, dimensions) if along(labels, others) else torch.full_like(labels, NONE)
    for dimension in dimensions:
        labels = labels.narrow(dimension, 0, 1)
    kept = len(shape_of(node)) == labels.ndim
    return labels if kept else labels.squeeze(dimensions)


def normalised(node: fx.Node) -> list[int]:
    """The dimensions over which a reduction, a layer or group normalisation computes its statistic."""
    rank = len(shape_of(source(node)))
    rule = find_rule(node)
    if rule is layer_norm:
        return list(range(rank - len(argument(node, 1, "normalized_shape")), rank))
    if rule is group_norm:
        return [1] if node.args[1] == 1 else []
    is_norm = node.target is aten.linalg_vector_norm.default
    chosen = argument(node, 2 if is_norm else 1, "dim")
    return [d % rank for d in (chosen or range(rank))]


def softmax(tracer: Tracer, node: fx.Node) -> Labels:
    """What is normalised together is kept together."""
    return tracer.merge(tracer.labels(source(node)), [argument(node, 1, "dim")])


def over_space(tracer: Tracer, node: fx.Node) -> Labels:
    """Pooling and resizing: each channel by itself."""
    return placed(tracer.tie_across(source(node), 1), 1, len(shape_of(node)))


def prelu(tracer: Tracer, node: fx.Node) -> Labels:
    """A slope for each channel, or one for all."""
    channels = tracer.tie_across(source(node), 1)
    if shape_of(source(node, 1))[0] > 1:
        tracer.weigh(node, source(node, 1), 0, channels)
    return tracer.labels(source(node))


def gated(tracer: Tracer, node: fx.Node) -> Labels:
    """A gated linear unit (Dauphin et al., ICML 2017): one half times a function of the other."""
    values, gates = tracer.full_labels(source(node)).chunk(2, argument(node, 1, "dim", -1))
    return tracer.join(values, gates)


def embedding(tracer: Tracer, node: fx.Node) -> Labels:
    """Rows of a table, picked by indices."""
    indices = tracer.value(source(node, 1))
    return compact(tracer.full_labels(source(node))[indices])


_RULES: dict[Any, Rule] = {
    operator.getitem: item,
    aten.linear.default: linear,
    aten.matmul.default: matmul,
    aten.bmm.default: matmul,
    aten.scaled_dot_product_attention.default: attention,
    aten.batch_norm.default: batch_norm,
    aten.instance_norm.default: batch_norm,
    aten.group_norm.default: group_norm,
    aten.layer_norm.default: layer_norm,
    aten.rms_norm.default: layer_norm,
    aten.prelu.default: prelu,
    aten.glu.default: gated,
    aten.embedding.default: embedding,
    aten.cat.default: cat,
    aten.pad.default: pad,
    aten.constant_pad_nd.default: pad,
    **dict.fromkeys(
        [aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding], convolution
    ),
    **dict.fromkeys([aten.softmax.int, aten._softmax.default, aten.log_softmax.int], softmax),
    **dict.fromkeys(
        [
            aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default, aten.var.correction,
            aten.std.correction, aten.linalg_vector_norm.default,
        ],
        reduction,
    ),
    **dict.fromkeys(
        [
            aten.max_pool1d.default, aten.max_pool2d.default, aten.avg_pool1d.default,
            aten.avg_pool2d.default, aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default,
            aten.adaptive_max_pool2d.default, aten.upsample_bicubic2d.vec, aten.upsample_bicubic2d.default,
            aten.upsample_bilinear2d.vec, aten.upsample_bilinear2d.default, aten.upsample_nearest2d.vec,
            aten.upsample_nearest2d.default, aten._upsample_bicubic2d_aa.vec,
            aten._upsample_bicubic2d_aa.default,
        ],
        over_space,
    ),
    **dict.fromkeys(
        [
            aten.roll.default, aten.flip.default, aten.index.Tensor, aten.index_select.default,
            aten.stack.default, aten.repeat.default, aten.pixel_shuffle.default,
            aten.pixel_unshuffle.default, aten.channel_shuffle.default,
        ],
        movement,
    ),
    **dict.fromkeys(
        [
            aten.hardswish.default, aten.hardswish_.default, aten.log_sigmoid.default,
            aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default,
            aten.contiguous.default, aten.clone.default, aten.detach.default, aten.detach_.default,
            aten.alias.default, aten.lift_fresh_copy.default, aten.to.dtype, aten.to.device,
            aten.to.dtype_layout, aten._to_copy.default, aten.type_as.default,
        ],
        unchanged,
    ),
}  # fmt: skip
