"""Training steps to measure: those of a family and of the dense networks that it replaces."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from memory import bytes_of, rise
from subjects import EMBEDDING_DIM, pictures
from timing import seconds
from torch import Tensor, nn

from sfsc import Config, Family
from sfsc.training.aggregation.projection import projection_weights, random_order
from sfsc.training.checkpoint import TrainingState
from sfsc.training.forward import Forward
from sfsc.training.gradients import Batch, NestedGradients, family_step
from sfsc.training.losses.evidential import cosine_logits, evidential_loss
from sfsc.training.optimizer import make_optimizer
from sfsc.training.recipes import AGGREGATIONS, find_recipe
from sfsc.training.resizing import resized

CLASSES = 500
WIDTHS = "0.25,0.5,0.75,1"


@dataclass(frozen=True)
class Case:
    """The network, the batch and the settings of a measured training."""

    backbone: str
    size: int
    batch: int = 64
    channels_last: bool = False
    precision: str = "float32"
    compile: bool = False
    device: str = "cpu"
    widths: str = WIDTHS

    def config(self) -> Config:
        """Return the settings of a training run."""
        return Config.make(
            {
                "dataset": "folder:none",
                "backbone": self.backbone,
                "channels_last": self.channels_last,
                "precision": self.precision,
                "compile": self.compile,
            }
        )

    def name(self) -> list[str]:
        """Return the cells that name the case in the tables."""
        layout = ", channels-last" if self.channels_last else ""
        return [f"{self.backbone}{layout}", f"{self.size}x{self.size}", self.widths.replace(",", ", ")]


class Training:
    """Training steps of a network on one batch; records the time of the optimizer's updates."""

    def __init__(self, network: nn.Module, case: Case) -> None:
        self.config = case.config()
        self.network = network.to(case.device).train()
        self.device = case.device
        generator = torch.Generator().manual_seed(0)
        self.images = pictures(case.batch, case.size).to(case.device)
        self.labels = torch.randint(CLASSES, (case.batch,), generator=generator).to(case.device)
        directions = torch.randn(CLASSES, EMBEDDING_DIM, generator=generator)
        self.classifier = nn.Parameter(directions.to(case.device))
        self.optimizer = make_optimizer(network, [self.classifier], self.config)
        self.recipe = find_recipe(self.config.recipe)
        self.updating: list[float] = []

    def __call__(self) -> None:
        """Do a step."""
        self.differentiate()
        self.updating.append(seconds(self._update, "cpu"))

    def differentiate(self) -> None:
        """Compute the gradients."""
        raise NotImplementedError

    def parameters(self) -> list[nn.Parameter]:
        """Return all trained parameters."""
        return [*self.network.parameters(), self.classifier]

    def _update(self) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), self.config.clip_norm)
        self.optimizer.step()

    def peak_bytes(self) -> int:
        """Return the peak memory of tensors in a step, in bytes."""
        self()  # creates the optimizer's state
        for parameter in self.parameters():
            parameter.grad = None
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        held = [*self.parameters(), *self.network.buffers(), *states, self.images, self.labels]
        return bytes_of(held) + rise(self._twice, self.device)

    def _twice(self) -> None:
        self()
        self()  # begins with the gradients of the previous step


class FamilyTraining(Training):
    """Training steps of a family."""

    def __init__(self, family: Family, case: Case) -> None:
        super().__init__(family, case)
        self.state = TrainingState(family, [self.classifier], self.optimizer)
        self.gradients = TimedGradients(family, [self.classifier], self.recipe)
        self.forward = Forward(family, self.config)
        self.gram: list[float] = []
        self.combining: list[float] = []

    def differentiate(self) -> None:
        """Compute the aggregated gradients."""
        m = len(self.state.family.widths)
        order = random_order(m, len(self.gram))
        batch = Batch(self.images, self.labels, order, self.recipe.phases(m)[0])
        with patch.dict(AGGREGATIONS, {self.recipe.aggregation: self._aggregate}):
            family_step(self.state, self.gradients, self.forward, batch, self.config)
        self.combining.append(time.perf_counter() - self.has_gram)

    def _aggregate(self, grams: Tensor, order: Tensor) -> Tensor:
        self.has_gram = time.perf_counter()
        self.gram.append(self.has_gram - self.gradients.began)
        return projection_weights(grams, order)


class TimedGradients(NestedGradients):
    """Nested gradients that record when their aggregation began."""

    began = 0.0

    def aggregate(self, *arguments: Any, **settings: Any) -> Tensor:
        """Record the time, and aggregate the gradients."""
        self.began = time.perf_counter()
        return super().aggregate(*arguments, **settings)


class DenseTraining(Training):
    """Training steps of one dense network, whose images have the height and width `size` in pixels."""

    def __init__(self, network: nn.Module, size: tuple[int, int], case: Case) -> None:
        super().__init__(network, case)
        self.size = size
        self.forward = torch.compile(network) if case.compile else network

    def differentiate(self) -> None:
        """Compute the gradients of the loss."""
        self.optimizer.zero_grad()
        images, config = resized(self.images, self.size), self.config
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            embeddings = self.forward(images)
        logits = cosine_logits(embeddings, self.classifier, config.scale)
        evidential_loss(logits, self.labels)[0].backward()


def trainings(case: Case) -> tuple[FamilyTraining, list[DenseTraining]]:
    """Return the trainings of a family and of the dense networks that equal its sub-models."""
    size = case.size, case.size
    family = Family.create(case.backbone, case.widths, EMBEDDING_DIM, size)
    dense = [
        DenseTraining(family.submodel(width), family.image_size_of(width), case) for width in family.widths
    ]
    return FamilyTraining(family, case), dense
