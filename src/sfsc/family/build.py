"""What a family is built from: a dense embedder, and the structure of its channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sfsc.backbones.builtin import BACKBONES
from sfsc.backbones.sources import find_backbone
from sfsc.family.embedder import Embedder
from sfsc.family.spec import FamilySpec
from sfsc.switchable.stored import structure_from_text, structure_to_text
from sfsc.switchable.structure import Structure
from sfsc.switchable.tracer import analyse
from sfsc.switchable.verify import settle

# The structures of built-in backbones, whose name and settings determine their graph.
_ANALYSED: dict[tuple[object, ...], str] = {}


def new_network(spec: FamilySpec) -> Embedder:
    """Build a dense embedder with random weights.

    Raises:
        SfscError: the backbone does not exist, cannot process images of this size, or has another
            normalisation only.
    """
    backbone = find_backbone(spec.backbone, spec.configuration).normalised(spec.normalisation)
    return Embedder.build(backbone, spec.image_size, spec.embedding_dim)


def analysed(spec: FamilySpec, network: Embedder, widths: Sequence[float]) -> Structure:
    """Analyse the structure of a network, and verify the sub-models of these widths.

    A built-in backbone with the same settings is analysed once in each process.

    Raises:
        SfscError: a module cannot be cut.
    """
    size = (spec.embedding_dim, spec.image_size)
    key = (spec.backbone, spec.normalisation, *size, spec.keep, spec.round_to, *widths)
    if key in _ANALYSED:
        return structure_from_text(_ANALYSED[key], network)
    structure, graph = analyse(network, torch.zeros(2, 3, *spec.image_size), spec.keep)
    counts = [structure.counts(width, spec.round_to) for width in widths]
    structure = settle(network, structure, graph, counts)
    if spec.backbone in BACKBONES:
        _ANALYSED[key] = structure_to_text(structure)
    return structure
