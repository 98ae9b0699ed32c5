"""Checkpoints: everything a run needs to go on exactly, in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sfsc.errors import SfscError, first_line
from sfsc.files import write_atomic
from sfsc.switchable.family import Family

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """What training changes; all three are changed in place."""

    family: Family
    classifier: nn.Parameter
    optimizer: torch.optim.Optimizer

    def parameters(self) -> list[nn.Parameter]:
        """The family's, then the classifier."""
        return [*self.family.parameters(), self.classifier]


def save_checkpoint(run: Path, state: TrainingState, step: int) -> None:
    """Replace the run's checkpoint, atomically; SfscError where the disk is full, the old one kept."""
    tensors = {f"family.{name}": tensor for name, tensor in state.family.state_dict().items()}
    tensors["classifier"] = state.classifier
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(contiguous, metadata={"step": json.dumps(step)})
    write_atomic(run / CHECKPOINT_FILE, data)


def load_checkpoint(run: Path, state: TrainingState) -> int:
    """Restore the state in place; returns the number of steps done, 0 where there is no checkpoint.

    Raises:
        SfscError: the checkpoint is damaged or of another network or set of identities.
    """
    path = run / CHECKPOINT_FILE
    if not path.exists():
        return 0
    try:
        with safetensors.safe_open(path, "pt") as file:
            step = int(file.metadata()["step"])
            names = file.keys()
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
        state.family.load_state_dict(_below(tensors, "family."))
        with torch.no_grad():
            state.classifier.copy_(tensors["classifier"])
        optimizer = state.optimizer
        optimizer.load_state_dict({**optimizer.state_dict(), "state": _optimizer_state(tensors)})
    except (OSError, RuntimeError, KeyError, TypeError, safetensors.SafetensorError) as error:
        reason = first_line(error)
        raise SfscError(f"{path} cannot be resumed from ({reason}): train into a new folder") from None
    return step


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(tensors, "optimizer.").items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    return state
