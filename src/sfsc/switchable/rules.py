"""Rules that describe how each operation of a graph passes channels from its inputs to its output.

A rule takes the ledger of channels and the node of an `aten` operation. It ties the channels that the
operation ties, and returns the labels of its output. Operations that only move data need no rule of their
own: they are run on the labels. Operations that `torch` tags as pointwise tie their inputs element by
element.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from sfsc.switchable.labels import NONE, WHOLE, ValueLabels, along, compact, placed
from sfsc.switchable.ledger import Ledger, no_cut, shape_of

aten = torch.ops.aten
Rule = Callable[[Ledger, fx.Node], ValueLabels]


def find_rule(node: fx.Node) -> Rule | None:
    """Return the rule of a node's operation, or None if it has no rule."""
    target: Any = node.target
    if target in _RULES:
        return _RULES[target]
    if torch.Tag.pointwise in getattr(target, "tags", ()):
        return elementwise
    if getattr(target, "is_view", False):
        return movement
    return None


def source(node: fx.Node, position: int = 0) -> fx.Node:
    """Return the argument at a position, which must be a tensor."""
    value = node.args[position]
    assert isinstance(value, fx.Node)
    return value


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """Return an argument by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def unchanged(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Give the output the channels of the first input."""
    return ledger.labels(source(node))


def elementwise(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Tie the elements that a sum, a product or a similar operation combines."""
    rank = len(shape_of(node))
    operands = [
        (labels.view(_padded(labels.shape, rank)), _padded(shape_of(value), rank))
        for value in node.all_input_nodes
        for labels in [ledger.labels(value)]
    ]
    result = torch.full([1] * rank, NONE)
    for index, (labels, extent) in enumerate(operands):
        others = [other for other, _ in operands[:index] + operands[index + 1 :]]
        result = ledger.join(result, _without_constraint(labels, extent, *others))
    return result


def _extent(node: fx.Node) -> list[int]:
    return list(shape_of(node))


def _padded(shape: Sequence[int], rank: int) -> list[int]:
    return [1] * (rank - len(shape)) + list(shape)


def _without_constraint(labels: Tensor, extent: list[int], *others: Tensor) -> Tensor:
    """Replace `WHOLE` by `NONE` in an operand that is broadcast over the channels of another operand."""
    spread = any(size == 1 and other.shape[d] > 1 for other in others for d, size in enumerate(extent))
    return torch.where(labels == WHOLE, NONE, labels) if spread else labels


def movement(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Run a view, slice or permutation on the labels."""
    args, kwargs = ledger.arguments_with_labels(node)
    # Labels do not have the memory layout of the values, so a view of them may be impossible.
    target: Any = aten.reshape.default if node.target is aten.view.default else node.target
    result = target(*args, **kwargs)
    if isinstance(result, Tensor):
        labels = compact(result)
        ledger.note_sizes(node, labels)
        return labels
    return [compact(part) for part in result]


def cat(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Concatenate channels; along any other dimension, tie the channels of the parts."""
    parts: Any = node.args[0]
    dimension = argument(node, 1, "dim", 0) % len(shape_of(node))
    labels = [ledger.labels(part) for part in parts]
    for part in labels[1:]:
        if not along(part, [dimension]) and not along(labels[0], [dimension]):
            others = [d for d in range(part.ndim) if d != dimension]
            if along(part, others) or along(labels[0], others):
                ledger.partition.unify(part, labels[0])
    return movement(ledger, node)


def pad(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Pad the labels with `NONE`, because padding has no channel."""
    amounts: Any = node.args[1]
    labels = ledger.full_labels(source(node))
    return compact(torch.nn.functional.pad(labels, amounts, value=NONE))


def item(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Return the labels of one of several outputs."""
    parts = ledger.all_labels(source(node))
    index: Any = node.args[1]
    return parts[index] if isinstance(parts, list) else parts


def convolution(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Create new output channels; in groups, tie them to the input channels of their group."""
    weight, bias, groups = source(node, 1), argument(node, 2, "bias"), argument(node, 6, "groups", 1)
    channels = ledger.tie_across(source(node), 1)
    out_channels = shape_of(weight)[0]
    if groups == 1:
        ledger.weigh(node, weight, 1, channels)
        outputs = ledger.new_channels(out_channels)
    else:
        outputs = ledger.tie_groups(channels, groups).repeat_interleave(out_channels // groups)
    ledger.weigh(node, weight, 0, outputs)
    ledger.weigh(node, bias, 0, outputs)
    return placed(outputs, 1, len(shape_of(node)))


def linear(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Create new channels in the last dimension."""
    weight, bias = source(node, 1), argument(node, 2, "bias")
    ledger.weigh(node, weight, 1, ledger.tie_across(source(node), -1))
    outputs = ledger.new_channels(shape_of(weight)[0])
    ledger.weigh(node, weight, 0, outputs)
    ledger.weigh(node, bias, 0, outputs)
    return placed(outputs, -1, len(shape_of(node)))


def matmul(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Tie the channels of a product of two activations, such as the scores of attention."""
    a, b = source(node), source(node, 1)
    return _product(ledger, ledger.labels(a), _extent(a), ledger.labels(b), _extent(b))


def attention(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Tie the channels of each head of scaled dot-product attention (Vaswani et al., NeurIPS 2017)."""
    query, key, value = (source(node, position) for position in range(3))
    keys, extent = ledger.labels(key).transpose(-1, -2), _extent(key)
    scores = _product(
        ledger, ledger.labels(query), _extent(query), keys, [*extent[:-2], extent[-1], extent[-2]]
    )
    between = [*_extent(query)[:-1], extent[-2]]
    mask = argument(node, 3, "attn_mask")
    if mask is not None:
        labels = ledger.labels(mask).view(_padded(ledger.labels(mask).shape, scores.ndim))
        scores = ledger.join(
            _without_constraint(scores, between, labels),
            _without_constraint(labels, _padded(shape_of(mask), scores.ndim), scores),
        )
    return _product(ledger, scores, between, ledger.labels(value), _extent(value))


def _product(ledger: Ledger, a: Tensor, extent_a: list[int], b: Tensor, extent_b: list[int]) -> Tensor:
    """Return the labels of a @ b. Summing over a dimension within heads makes each head one channel."""
    rank = max(a.ndim, b.ndim)
    a, b = a.view([1] * (rank - a.ndim) + [*a.shape]), b.view([1] * (rank - b.ndim) + [*b.shape])
    if not along(a, range(rank - 1)) and not along(b, [*range(rank - 2), -1]):
        ledger.partition.unify(a.transpose(-1, -2), b)
        return torch.full([1] * rank, NONE)
    a, b = ledger.merge(a, [-1]), ledger.merge(b, [-2])
    rows = _without_constraint(a, _padded([*extent_a[:-1], 1], rank), b)
    columns = _without_constraint(b, _padded([*extent_b[:-2], 1, extent_b[-1]], rank), a)
    return ledger.join(rows, columns)


def batch_norm(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Keep channels separate, and tie each one to its affine parameters and statistics."""
    channels = ledger.tie_across(source(node), 1)
    for position in range(1, 5):
        ledger.weigh(node, argument(node, position, ""), 0, channels)
    return placed(channels, 1, len(shape_of(node)))


def group_norm(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Tie the channels of each group; a single group is normalised over the remaining channels."""
    groups: Any = node.args[1]
    channels = ledger.tie_across(source(node), 1)
    if groups > 1:
        units = ledger.tie_groups(channels, groups)
        channels = units.repeat_interleave(len(channels) // groups)
    ledger.weigh(node, argument(node, 2, "weight"), 0, channels)
    ledger.weigh(node, argument(node, 3, "bias"), 0, channels)
    return placed(channels, 1, len(shape_of(node)))


def layer_norm(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Normalise over the remaining channels; within heads, tie the channels of each head."""
    labels = ledger.labels(source(node))
    last = normalised(node)
    if along(labels, last) and along(labels, range(last[0])):
        return ledger.merge(labels, last)
    if along(labels, last):
        if len(last) > 1:
            raise no_cut(node, "it normalises over channels and space together")
        for position in (2, 3):
            ledger.weigh(node, argument(node, position, ""), 0, labels.flatten())
        ledger.note_sizes(node, labels)
    return labels


def reduction(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Reduce by a mean, sum or norm: over space, channels remain; over channels, nothing remains to cut."""
    labels = ledger.labels(source(node))
    dimensions = normalised(node)
    others = [d for d in range(labels.ndim) if d not in dimensions]
    if along(labels, dimensions):
        labels = ledger.merge(labels, dimensions) if along(labels, others) else torch.full_like(labels, NONE)
    for dimension in dimensions:
        labels = labels.narrow(dimension, 0, 1)
    kept = len(shape_of(node)) == labels.ndim
    return labels if kept else labels.squeeze(dimensions)


def normalised(node: fx.Node) -> list[int]:
    """Return the dimensions over which a reduction, layer norm or group norm computes its statistic."""
    rank = len(shape_of(source(node)))
    rule = find_rule(node)
    if rule is layer_norm:
        return list(range(rank - len(argument(node, 1, "normalized_shape")), rank))
    if rule is group_norm:
        return [1] if node.args[1] == 1 else []
    is_norm = node.target is aten.linalg_vector_norm.default
    chosen = argument(node, 2 if is_norm else 1, "dim")
    return [d % rank for d in (chosen or range(rank))]


def softmax(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Tie the channels that are normalised together. A vector is then one unit, which is never cut."""
    if len(shape_of(node)) == 1:
        ledger.keep_whole([source(node)])
    return ledger.merge(ledger.labels(source(node)), [argument(node, 1, "dim")])


def over_space(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Keep channels separate, as pooling and resizing do."""
    return placed(ledger.tie_across(source(node), 1), 1, len(shape_of(node)))


def prelu(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Tie each channel to its slope, unless all channels have the same slope."""
    channels = ledger.tie_across(source(node), 1)
    if shape_of(source(node, 1))[0] > 1:
        ledger.weigh(node, source(node, 1), 0, channels)
    return ledger.labels(source(node))


def gated(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Tie the two halves of the input of a gated linear unit (Dauphin et al., ICML 2017)."""
    values, gates = ledger.full_labels(source(node)).chunk(2, argument(node, 1, "dim", -1))
    return ledger.join(values, gates)


def embedding(ledger: Ledger, node: fx.Node) -> ValueLabels:
    """Select rows of a table by indices."""
    indices = ledger.value(source(node, 1))
    return compact(ledger.full_labels(source(node))[indices])


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
