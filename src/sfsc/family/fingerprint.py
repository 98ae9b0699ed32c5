"""The fingerprint of a family: what was trained, and what was fitted or added later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sfsc.family.spec import FamilySpec


def fingerprint_of(spec: FamilySpec, state: Mapping[str, Tensor]) -> str:
    """Return the fingerprint of a family with this specification and these weights.

    It consists of 16 hexadecimal digits for the trained family. If the family was calibrated, or widths were
    added to it, a dot and 8 digits for these follow.

    Args:
        spec: the specification.
        state: the parameters and buffers of the family, by name.
    """
    trained, new = _parts(spec, state)
    digits = _digest(spec.trained().describe(), trained)[:16]
    added: dict[str, Any] = {}
    if spec.added:
        added = {"widths": list(spec.widths), "added": list(spec.added)}
        if sizes := [(width, size) for width, size in spec.image_sizes if width in spec.added]:
            added["image_sizes"] = sizes
        if depths := [(width, depth) for width, depth in spec.depths if width in spec.added]:
            added["depths"] = depths
        if spec.ratios:
            added["ratios"] = spec.ratios
    return f"{digits}.{_digest(added, new)[:8]}" if new or added else digits


def _parts(spec: FamilySpec, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the state of the trained family, by its names there, and what was fitted or added later."""
    trained, new = {}, {}
    places = {width: place for place, width in enumerate(spec.trained().widths)}
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        if module == "network":
            trained[name] = tensor
            continue
        place, _, own = rest.partition(".")
        width = spec.widths.ratios[int(place)]
        if width in spec.added or own.startswith("calibration."):
            new[name] = tensor
        else:
            trained[f"{module}.{places[width]}.{own}"] = tensor
    return trained, new


def _digest(description: dict[str, Any], state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
