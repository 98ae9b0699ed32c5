"""Two ranks that torchrun starts, against one process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sfsc.errors import SfscError
from sfsc.training.distributed import ALONE, World
from tests.training import rank_checks

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
PATIENCE = 180  # seconds, for what takes a few


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The answers of both ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [*TORCHRUN, str(Path(rank_checks.__file__)), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def assert_same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def assert_close(one: dict[str, Tensor], two: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == two.keys()
    far = {n: (two[n].double() - t.double()).abs().max().item() for n, t in one.items()}
    assert {name: distance for name, distance in far.items() if not distance <= tolerance} == {}


class TestWorld:
    def test_ranks_know_who_they_are(self, ranks: list[dict[str, Any]]) -> None:
        assert [answer["rank"] for answer in ranks] == [0, 1]
        assert [answer["joined again"] for answer in ranks] == [(0, 2), (1, 2)]

    def test_the_first_does_it_for_all(self, ranks: list[dict[str, Any]]) -> None:
        assert [answer["on_first"] for answer in ranks] == [{"said by": 0}] * 2
        assert [answer["on_all"] for answer in ranks] == [0, 1]

    def test_an_error_is_raised_on_all_and_printed_by_one(self, ranks: list[dict[str, Any]]) -> None:
        errors = [answer["refused by the first"] for answer in ranks]
        assert errors == [("SfscError", "no"), ("SaidElsewhere", "no")]
        errors = [answer["refused by the second"] for answer in ranks]
        assert errors == [("SfscError", "not here"), ("SaidElsewhere", "not here")]

    def test_parts_come_in_the_order_of_the_ranks(self, ranks: list[dict[str, Any]]) -> None:
        assert [answer["gather"] for answer in ranks] == [[0, 1, 11]] * 2

    def test_one_rank_speaks(self, ranks: list[dict[str, Any]]) -> None:
        assert sorted(answer["speaks"] for answer in ranks) == [False, True]

    def test_means(self, ranks: list[dict[str, Any]]) -> None:
        assert [answer["mean"].tolist() for answer in ranks] == [[0.5, 1.0]] * 2
        (first, means), (second, same) = (answer["averages"] for answer in ranks)
        for one, two, mean, also in zip(first, second, means, same, strict=True):
            torch.testing.assert_close(mean, (one + two) / 2)
            assert torch.equal(mean, also)

    @pytest.mark.parametrize(("count", "size"), [(0, 3), (2, 3), (7, 1), (7, 2), (64, 5)])
    def test_shares_are_the_whole_without_overlap(self, count: int, size: int) -> None:
        shares = [np.arange(count)[World(rank, size).share(count)] for rank in range(size)]
        assert np.concatenate(shares).tolist() == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1

    def test_one_process_alone_passes_no_messages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sfsc.training.distributed.dist", None)
        tensors = [torch.ones(2), torch.ones(3)]
        averaged, arrival = ALONE.average(tensors)
        arrival()
        assert all(mean is tensor for mean, tensor in zip(averaged, tensors, strict=True))
        assert ALONE.on_first(lambda: 1) == ALONE.on_all(lambda: 1) == 1
        assert ALONE.gather((1, 2)) == [1, 2]
        assert ALONE.mean(tensors[0]) is tensors[0]
        assert ALONE.speaks()

    def test_several_ranks_refuse_one_accelerator(self) -> None:
        with pytest.raises(
            SfscError, match="device 'cuda:0' names a single device for 2 ranks: set device to cuda"
        ):
            World(0, 2).device("cuda:0")


ABSENT = [name for name in ("mps", "cuda") if not getattr(torch, name).is_available()]


@pytest.mark.parametrize("name", [*ABSENT, "cuda:99", "meta", "magic", "", "xla", "mtia"])
def test_a_device_that_is_not_there_is_one_readable_line(name: str) -> None:
    with pytest.raises(SfscError, match=re.escape(repr(name))) as caught:
        ALONE.device(name)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 350
    assert "this machine has cpu" in message


class TestBatchNorm:
    @pytest.mark.parametrize("name", rank_checks.NORMS)
    def test_it_is_that_of_the_joined_batch(self, ranks: list[dict[str, Any]], name: str) -> None:
        joined = rank_checks.normalise(name, ALONE)
        parts = [answer["norms"][name] for answer in ranks]
        of_images = ("output", "gradient of input")
        of_each = {n: torch.cat([part[n] for part in parts]) for n in of_images}
        of_all = {
            n: parts[0][n] + parts[1][n] for n in joined if n.startswith("gradient") and n not in of_images
        }
        statistics = {n: parts[0][n] for n in joined if n not in {**of_each, **of_all}}
        assert_close({n: joined[n] for n in statistics}, statistics, 1e-5)
        assert_close(joined, {**of_each, **of_all, **statistics}, 1e-4)
        assert_same_bits(statistics, {n: parts[1][n] for n in statistics})

    def test_of_bfloat16_the_statistics_are_float32(self, ranks: list[dict[str, Any]]) -> None:
        joined = rank_checks.normalise("2d", ALONE, torch.bfloat16)
        part = ranks[0]["bfloat16"]
        assert part["output"].dtype == torch.bfloat16
        assert part["running_var"].dtype == torch.float32
        torch.testing.assert_close(part["running_mean"], joined["running_mean"], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(part["running_var"], joined["running_var"], rtol=1e-2, atol=1e-2)
        assert torch.isfinite(part["gradient of input"]).all()

    def test_it_leaves_no_trace_in_what_is_copied(self, ranks: list[dict[str, Any]]) -> None:
        assert ranks[0]["kinds"] == rank_checks.kinds(ALONE)


class TestSteps:
    @pytest.mark.parametrize("granularity", ["kernel", "tensor", "layer", "model"])
    def test_two_ranks_train_as_one_process(self, ranks: list[dict[str, Any]], granularity: str) -> None:
        # Rounding's differences grow from step to step; float64 shows that there are no others.
        for dtype, tolerance in [(torch.float64, 1e-9), (torch.float32, 1e-5)]:
            first, second = (answer[f"steps {granularity} {dtype}"] for answer in ranks)
            assert_same_bits(first, second)
            assert_close(rank_checks.take_steps(ALONE, granularity, dtype), first, tolerance)

    def test_the_weights_have_moved_by_more_than_the_tolerance(self) -> None:
        start, end = (
            rank_checks.take_steps(ALONE, "tensor", torch.float32, steps) for steps in (0, rank_checks.STEPS)
        )
        moved = {n: (end[n] - start[n]).abs().max().item() for n in end if end[n].ndim in (2, 4)}
        moved = {name: distance for name, distance in moved.items() if not name.endswith(("mean", "std"))}
        assert min(moved.values()) > 5e-5

    def test_without_synchronisation_each_has_statistics_of_its_own(
        self, ranks: list[dict[str, Any]]
    ) -> None:
        first, second = (answer["own statistics"] for answer in ranks)
        weights = {name for name in first if "running" not in name}
        assert_same_bits({n: first[n] for n in weights}, {n: second[n] for n in weights})
        assert all(not torch.equal(first[n], second[n]) for n in first if "running" in n)


def settings(shapes: str, out: Path, **changes: object) -> list[str]:
    """The arguments of a short training by gentle steps, that rounding does not lead astray."""
    chosen = {
        "backbone": "small",
        "image_size": (32, 32),
        "embedding_dim": 16,
        "epochs": 4,
        "identities_per_batch": 4,
        "images_per_identity": 2,
        "optimizer": "sgd",
        "lr": 1e-4,
        "workers": 0,
        "log_every": 1,
        "checkpoint_every": 1000,
        **changes,
    }
    values = [f"--set={name}={json.dumps(value)}" for name, value in chosen.items()]
    return ["-m", "sfsc", "train", shapes, "--out", str(out), *values]


def finish(command: list[str]) -> str:
    """Run a command to its good end; what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def logged(run: Path) -> list[dict[str, Any]]:
    file = run / "log.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def said(text: str) -> list[str]:
    """The lines that sfsc prints; torchrun prints a report of its own."""
    return [line.removeprefix("sfsc: ") for line in text.splitlines() if line.startswith("sfsc: ")]


def saved_step(run: Path) -> int:
    """The step of the checkpoint; 0 where there is none."""
    if not (run / "checkpoint.safetensors").exists():
        return 0
    with safetensors.safe_open(run / "checkpoint.safetensors", "pt") as file:
        return int(file.metadata()["step"])


@contextmanager
def started(command: list[str], run: Path, steps: int) -> Iterator[subprocess.Popen[str]]:
    """The process of a command that has logged so many steps."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        deadline = time.monotonic() + PATIENCE
        while len(logged(run)) < steps and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        yield process


def wait_until_quiet(run: Path) -> None:
    """Wait until no step has been logged for three seconds: a step takes a few hundredths of one."""
    before = None
    while before != (now := len(logged(run))):
        before = now
        time.sleep(3)


def rank_of(launcher: int, rank: int) -> int:
    """The process that torchrun started for a rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    environments = {child: Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children}
    return next(int(child) for child, lines in environments.items() if f"RANK={rank}".encode() in lines)


def kill(command: list[str], run: Path, steps: int, rank: int) -> int:
    """Kill one rank of a job after so many steps; the step from which it can go on.

    Seldom, gloo does not tell the others that a connection is gone. They then end when torchrun has asked
    them to and they have waited for 20 seconds, without a checkpoint of their own.
    """
    with started(command, run, steps) as process:
        os.kill(rank_of(process.pid, rank), signal.SIGKILL)
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    lines = said(error)
    assert len(lines) == 1, error
    if lines[0] == "a rank does not answer: continue from the last checkpoint with --resume":
        return saved_step(run)
    found = re.fullmatch(r"a rank ended .* after step (\d+) of \d+: continue with --resume", lines[0])
    assert found, error
    assert int(found[1]) == saved_step(run) >= steps
    return int(found[1])


def assert_resumed(run: Path, reference: Path, steps: int = 24) -> None:
    """The run is finished, its log without gap, its weights those of the reference but for rounding."""
    assert [line["step"] for line in logged(run)] == list(range(1, steps + 1))
    weights = [safetensors.torch.load_file(folder / "family.safetensors") for folder in (run, reference)]
    assert_close(weights[1], weights[0], 1e-4)


@pytest.fixture(scope="module")
def alone(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, never interrupted."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    finish([sys.executable, *settings(shapes, run)])
    return run


@pytest.mark.slow
def test_a_killed_rank_leaves_a_checkpoint_for_any_number_of_ranks(
    shapes: str, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    kill([*TORCHRUN, *settings(shapes, run)], run, steps=5, rank=1)
    for line, expected in zip(logged(run), logged(alone), strict=False):
        # The same images, altered alike, however many ranks share them.
        assert line["loss"] == pytest.approx(expected["loss"], abs=1e-3)
        assert line["uncertainty"] == pytest.approx(expected["uncertainty"], abs=1e-3)
    finish([sys.executable, *settings(shapes, run), "--resume"])
    assert_resumed(run, alone)


def test_a_mistake_is_one_line(shapes: str, tmp_path: Path) -> None:
    command = [*TORCHRUN, *settings(shapes, tmp_path / "run", identities_per_batch=5)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert said(done.stderr) == [
        "identities_per_batch is 5, which 2 ranks cannot share evenly: set a multiple of 2"
    ]
    assert len(re.findall(r"exitcode +: 2", done.stderr)) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_killed_again_and_again_it_is_trained_to_the_end(shapes: str, alone: Path, tmp_path: Path) -> None:
    """With processes that decode: they hold the ranks' connections open and are told to end with them."""
    run, two = tmp_path / "run", tmp_path / "two"
    command = [*TORCHRUN, *settings(shapes, run, workers=2)]
    first = kill(command, run, steps=4, rank=1)
    second = kill([*command, "--resume"], run, steps=first + 4, rank=0)
    assert first < second
    out = finish([*command, "--resume"])
    assert out == f"trained: {run}\n"
    finish([*TORCHRUN, *settings(shapes, two)])
    assert_same_bits(*(safetensors.torch.load_file(r / "family.safetensors") for r in (run, two)))
    assert_resumed(run, alone)
    finish([*command, "--resume"])  # of a finished run, nothing


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torchrun_that_is_told_to_end_leaves_a_checkpoint(
    shapes: str, alone: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    with started([*TORCHRUN, *settings(shapes, run, workers=1)], run, 4) as process:
        process.send_signal(number)
        _, error = process.communicate(timeout=PATIENCE)
    (line,) = said(error)
    assert line == f"stopped by {number.name} after step {saved_step(run)} of 24: continue with --resume"
    finish([sys.executable, *settings(shapes, run), "--resume"])
    assert_resumed(run, alone)


@pytest.mark.slow
def test_a_rank_that_hangs_is_not_waited_for(shapes: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started([*TORCHRUN, *settings(shapes, run, checkpoint_every=2)], run, 5) as process:
        stopped = rank_of(process.pid, 1)
        os.kill(stopped, signal.SIGSTOP)
        wait_until_quiet(run)  # a rank that is not waiting for the other could end well
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=PATIENCE)
    assert said(error) == ["a rank does not answer: continue from the last checkpoint with --resume"]
    assert saved_step(run) >= 4


@pytest.mark.long
def test_compiled_they_train_alike(shapes: str, tmp_path: Path) -> None:
    """The compiler takes the normalisation over all ranks into its graphs."""
    weights = []
    for compiled in (False, True):
        run = tmp_path / str(compiled)
        finish([*TORCHRUN, *settings(shapes, run, widths=(0.5, 1.0), epochs=1, compile=compiled)])
        weights.append(safetensors.torch.load_file(run / "family.safetensors"))
    assert_close(*weights, 1e-4)


HANG = """
import sys, time
from datetime import timedelta
import sfsc.training.distributed, sfsc.training.trainer
from sfsc.cli import main
sfsc.training.distributed.TIMEOUT = timedelta(seconds=5)
step = sfsc.training.trainer.Training.step
def sleepy(self, number, pixels):
    if number == 3 and self.world.rank == 1:
        time.sleep(1000)
    step(self, number, pixels)
sfsc.training.trainer.Training.step = sleepy
main()
"""


@pytest.mark.slow
def test_a_message_that_never_comes_ends_the_job(shapes: str, tmp_path: Path) -> None:
    script, run = tmp_path / "hang.py", tmp_path / "run"
    script.write_text(HANG)
    command = [*TORCHRUN, str(script), *settings(shapes, run)[2:]]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert said(done.stderr) == [
        "a rank ended or stopped answering after step 3 of 24: continue with --resume"
    ]
    assert saved_step(run) == 3
