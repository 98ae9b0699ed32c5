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
from sfsc.family.family import Family
from sfsc.files.json_text import parse_json
from sfsc.files.schema import conform
from sfsc.files.tensors import write_tensors

CHECKPOINT_FILE = "checkpoint.safetensors"
FORMAT = 1  # what a checkpoint is of that does not say it


@dataclass(frozen=True)
class TrainingState:
    """What training changes; all three are changed in place.

    There is one classifier for all sub-models, or one for each.
    """

    family: Family
    classifiers: list[nn.Parameter]
    optimizer: torch.optim.Optimizer

    def parameters(self) -> list[nn.Parameter]:
        """The family's, then the classifiers."""
        return [*self.family.parameters(), *self.classifiers]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: the number of steps done, and all tensors by name. It knows of no ranks."""

    path: Path
    step: int
    tensors: dict[str, Tensor]


class LastStep:
    """The state after the last completed step, to which one that cannot be completed goes back.

    A step changes the running statistics from its first forward pass on, all else only at its end: so only
    the former are kept.
    """

    def __init__(self, state: TrainingState, step: int) -> None:
        self.state, self.step = state, step
        self._buffers = list(state.family.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]

    def complete(self, step: int) -> None:
        """The state as it is now is that after a step."""
        self.step = step
        if self._kept:
            torch._foreach_copy_(self._kept, self._buffers)

    def return_to(self) -> None:
        """Set the state to what it was after the last completed step."""
        if self._kept:
            torch._foreach_copy_(self._buffers, self._kept)


def save_checkpoint(run: Path, state: TrainingState, step: int) -> None:
    """Replace the run's checkpoint, atomically; SfscError where the disk is full, the old one kept."""
    tensors = {f"family.{name}": tensor for name, tensor in state.family.state_dict().items()}
    tensors |= {f"classifier.{index}": tensor for index, tensor in enumerate(state.classifiers)}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
    metadata = {"format": json.dumps(FORMAT), "step": json.dumps(step)}
    write_tensors(run / CHECKPOINT_FILE, tensors, metadata)


def read_checkpoint(run: Path) -> Checkpoint | None:
    """The run's checkpoint, if it has one; SfscError where it is damaged."""
    path = run / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            said = file.metadata()
            if conform(parse_json(said.get("format", str(FORMAT))), int, "its format") > FORMAT:
                raise SfscError(f"{path} was written by a newer sfsc: upgrade sfsc to resume from it")
            step = conform(parse_json(said["step"]), int, "its step")
            names = file.keys()
            return Checkpoint(path, step, {name: file.get_tensor(name) for name in names})
    except (
        OSError,
        AttributeError,
        KeyError,
        ValueError,
        RuntimeError,
        safetensors.SafetensorError,
    ) as error:
        raise _unusable(path, error) from None


def restore(checkpoint: Checkpoint, state: TrainingState) -> None:
    """Set the state, in place, to what the checkpoint holds.

    Raises:
        SfscError: it is of another network or set of identities.
    """
    tensors = checkpoint.tensors
    try:
        state.family.load_state_dict(_below(tensors, "family."))
        with torch.no_grad():
            for index, classifier in enumerate(state.classifiers):
                classifier.copy_(tensors[f"classifier.{index}"])
        optimizer = state.optimizer
        optimizer.load_state_dict({**optimizer.state_dict(), "state": _optimizer_state(tensors)})
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise _unusable(checkpoint.path, error) from None


def _unusable(path: Path, error: Exception) -> SfscError:
    return SfscError(f"{path} cannot be resumed from ({first_line(error)}): train into a new folder")


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(tensors, "optimizer.").items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    return state
