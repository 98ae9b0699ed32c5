"""Checkpoints: everything that a run needs to continue exactly, in one safetensors file."""

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
FORMAT = 1  # also of checkpoints that do not state their format


@dataclass(frozen=True)
class TrainingState:
    """The tensors that training changes, in place.

    Attributes:
        family: the family.
        classifiers: one classifier for all sub-models, or one for each.
        optimizer: the optimizer of all their parameters.
    """

    family: Family
    classifiers: list[nn.Parameter]
    optimizer: torch.optim.Optimizer

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the family, followed by the classifiers."""
        return [*self.family.parameters(), *self.classifiers]


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint: the number of completed steps, and all tensors by name."""

    path: Path
    step: int
    tensors: dict[str, Tensor]


class LastStep:
    """The state after the last completed step, which is restored if the next step is not completed.

    A step changes the running statistics from its first forward pass on, and everything else only at its end.
    Therefore only the running statistics are kept.
    """

    def __init__(self, state: TrainingState, step: int) -> None:
        self.state, self.step = state, step
        self._buffers = list(state.family.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]

    def complete(self, step: int) -> None:
        """Take the current state as the one after a step."""
        self.step = step
        if self._kept:
            torch._foreach_copy_(self._kept, self._buffers)

    def return_to(self) -> None:
        """Set the state to what it was after the last completed step."""
        if self._kept:
            torch._foreach_copy_(self._buffers, self._kept)


def save_checkpoint(run: Path, state: TrainingState, step: int) -> None:
    """Replace the run's checkpoint atomically.

    Raises:
        SfscError: the disk is full; the old checkpoint is kept.
    """
    tensors = {f"family.{name}": tensor for name, tensor in state.family.state_dict().items()}
    tensors |= {f"classifier.{index}": tensor for index, tensor in enumerate(state.classifiers)}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
    metadata = {"format": json.dumps(FORMAT), "step": json.dumps(step)}
    write_tensors(run / CHECKPOINT_FILE, tensors, metadata)


def read_checkpoint(run: Path) -> Checkpoint | None:
    """Return the run's checkpoint, or None if it has none; raise `SfscError` if it is damaged."""
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
    """Set the state, in place, to that of a checkpoint.

    Raises:
        SfscError: the checkpoint belongs to another network or to other identities.
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
