"""Compare training steps of two processes with those of one: the weights and the time of a step.

    python benchmarks/distributed.py

It needs no data set and no accelerator: images are drawn from a seed and not augmented, and the processes
communicate by gloo. Weights are compared after SGD, because Adam divides each gradient by its own magnitude:
if this is nearly zero, rounding determines the whole step.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import safetensors.torch
import torch
from page import section, table
from torch import Tensor, nn

from sfsc.family.family import Family
from sfsc.training.aggregation.projection import random_order
from sfsc.training.checkpoint import TrainingState
from sfsc.training.config import Config
from sfsc.training.distributed import World, joined
from sfsc.training.forward import Forward
from sfsc.training.gradients import Batch, NestedGradients, family_step
from sfsc.training.optimizer import make_optimizer

EXPLANATION = """
Training steps of two processes, which communicate by gloo, are compared with those of one process with the
same batches: `{name}` at {size}x{size} pixels, batches of {batch}, threads for each process: {threads}. The
table shows the largest difference between any two weights after 20 steps of SGD. In float64, it shows whether
both compute the same. In float32, rounding dominates it. For comparison, the next column shows the difference
between two runs of one process, which differ in the order of the images within each batch."""
TIMES = """
The time of a step with the same batch; the kinds took turns."""

P, K = 16, 4
CLASSES = 64
ROUNDS, WARM = 3, 3


class Steps:
    """Training steps of a family on batches that a seed determines; each rank trains on its share."""

    def __init__(self, arguments: argparse.Namespace, world: World) -> None:
        self.arguments, self.world = arguments, world
        self.config = Config.make(
            {
                "dataset": "folder:none",
                "granularity": arguments.granularity,
                "sync_batch_norm": not arguments.own_statistics,
                "compile": arguments.compile,
                "channels_last": arguments.channels_last,
                "precision": arguments.precision,
                "optimizer": "sgd",
                "lr": 1e-4,
            }
        )
        self.dtype = torch.float64 if arguments.double else torch.float32
        size = (arguments.image_size,) * 2
        family = Family.create(arguments.backbone, embedding_dim=128, image_size=size).to(self.dtype).train()
        generator = torch.Generator().manual_seed(0)
        classifier = nn.Parameter(torch.randn(CLASSES, 128, generator=generator).to(self.dtype))
        self.state = TrainingState(family, [classifier], make_optimizer(family, [classifier], self.config))
        self.gradients = NestedGradients(family, [classifier], self.config.method, world)
        self.forward = Forward(family, self.config, world)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return this rank's images, which are a pattern for each identity plus noise, and their labels."""
        size = self.arguments.image_size
        generator = torch.Generator().manual_seed(1 + step)
        patterns = torch.rand(CLASSES, 3, size, size, generator=torch.Generator().manual_seed(0))
        labels = torch.randperm(CLASSES, generator=generator)[:P].repeat_interleave(K)
        images = (patterns[labels] + torch.rand(P * K, 3, size, size, generator=generator)) / 2
        share = torch.arange(P * K)[self.world.share(P * K)]
        if self.arguments.shuffled:
            share = share[torch.randperm(len(share), generator=generator)]
        return images[share].to(self.dtype), labels[share]

    def take(self, step: int) -> None:
        """Take one step."""
        order = random_order(len(self.config.widths), step)
        images, labels = self.batch(step)
        start = time.perf_counter()
        batch = Batch(images, labels, order, (3, 2, 1, 0))
        family_step(self.state, self.gradients, self.forward, batch, self.config)
        nn.utils.clip_grad_norm_(self.state.parameters(), self.config.clip_norm)
        self.state.optimizer.step()
        self.seconds = time.perf_counter() - start

    def weights(self) -> dict[str, Tensor]:
        """Return all parameters and statistics."""
        state = {name: tensor.contiguous() for name, tensor in self.state.family.state_dict().items()}
        return {**state, "classifier": self.state.classifiers[0].detach()}


def work(arguments: argparse.Namespace) -> None:
    """Take the steps of one rank, and write its weights and the median time of a step."""
    torch.set_num_threads(arguments.threads)
    with joined() as world:
        steps = Steps(arguments, world)
        seconds = []
        for step in range(arguments.steps):
            steps.take(step)
            seconds.append(steps.seconds)
        metadata = {"seconds": str(statistics.median(seconds[WARM:] or seconds))}
        file = arguments.worker / f"rank{world.rank}.safetensors"
        safetensors.torch.save_file(steps.weights(), file, metadata)


def run(arguments: argparse.Namespace, ranks: int, *options: str) -> tuple[list[dict[str, Tensor]], float]:
    """Return the weights of every rank after a run, and the first rank's median seconds of a step."""
    with tempfile.TemporaryDirectory() as name:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        same = [f"--{key}={getattr(arguments, key.replace('-', '_'))}" for key in ("backbone", "image-size")]
        same += [f"--threads={arguments.threads}", f"--precision={arguments.precision}"]
        same += [
            f"--{key}" for key in ("compile", "channels-last") if getattr(arguments, key.replace("-", "_"))
        ]
        command = [sys.executable, *(launcher if ranks > 1 else []), __file__, f"--worker={name}", *same]
        result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        if result.returncode:
            sys.exit(result.stderr)
        files = [Path(name) / f"rank{rank}.safetensors" for rank in range(ranks)]
        with safetensors.safe_open(files[0], "pt") as file:
            seconds = float(file.metadata()["seconds"])
        return [safetensors.torch.load_file(file) for file in files], seconds


def difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> str:
    """Return the largest absolute difference of any parameter."""
    parameters = [name for name in one if "running" not in name and "num_batches" not in name]
    return f"{max((one[n].double() - two[n].double()).abs().max().item() for n in parameters):.1e}"


def compare(arguments: argparse.Namespace) -> str:
    """Return the table of differences."""
    rows = []
    for granularity in ("kernel", "tensor", "layer", "model"):
        options = ["--steps=20", f"--granularity={granularity}"]
        (alone,), _ = run(arguments, 1, *options)
        (shuffled,), _ = run(arguments, 1, *options, "--shuffled")
        (alone64,), _ = run(arguments, 1, *options, "--double")
        pair, _ = run(arguments, 2, *options)
        pair64, _ = run(arguments, 2, *options, "--double")
        same = all(torch.equal(pair[0][n], pair[1][n]) for n in pair[0])
        differences = [
            difference(alone64, pair64[0]),
            difference(alone, pair[0]),
            difference(alone, shuffled),
        ]
        rows.append([granularity, *differences, "yes" if same else "no"])
    heading = ("granularity", "float64", "float32", "float32, one process, other order", "same bits on both")
    return table(heading, rows)


def clock(arguments: argparse.Namespace) -> str:
    """Return the table of times."""
    kinds: dict[tuple[str, str], tuple[int, list[str]]] = {
        ("1", "of the batch"): (1, []),
        ("2", "synchronised"): (2, []),
        ("2", "each rank's own"): (2, ["--own-statistics"]),
    }
    seconds: dict[tuple[str, str], list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, (ranks, options) in kinds.items():
            seconds[kind].append(run(arguments, ranks, "--steps=15", *options)[1])
    heading = ("processes", "batch statistics", f"seconds of a step, median of {ROUNDS} runs")
    return table(heading, [[*kind, f"{statistics.median(values):.3f}"] for kind, values in seconds.items()])


def main(arguments: argparse.Namespace) -> None:
    """Print the section."""
    name, size, threads = arguments.backbone, arguments.image_size, arguments.threads
    explanation = EXPLANATION.format(name=name, size=size, batch=f"{P} x {K}", threads=threads)
    print(section("Two processes", explanation, compare(arguments), TIMES, clock(arguments)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="small")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--steps", type=int, default=20, help=argparse.SUPPRESS)
    parser.add_argument("--granularity", default="tensor", help=argparse.SUPPRESS)
    for flag in ("--double", "--shuffled", "--own-statistics"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    work(parsed) if parsed.worker else main(parsed)
