import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from sfsc.data import decode, open_dataset
from sfsc.dimensions import shorten
from sfsc.errors import SfscError
from sfsc.evaluation.evaluate import evaluate
from sfsc.family.family import Family
from sfsc.interruption import Stopped
from sfsc.training.checkpoint import TrainingState, save_checkpoint
from sfsc.training.config import Config
from sfsc.training.gradients import StepStatistics, family_step
from sfsc.training.losses.evidential import cosine_logits, evidential_loss
from sfsc.training.recipes import ADJUSTABLE
from sfsc.training.run import train
from sfsc.training.trainer import Training


def settings(shapes: str, **changes: object) -> dict[str, object]:
    return {
        "dataset": shapes,
        "backbone": "small",
        "image_size": (32, 32),
        "embedding_dim": 16,
        "epochs": 4,
        "identities_per_batch": 4,
        "images_per_identity": 2,
        "workers": 0,
        "log_every": 2,
        "checkpoint_every": 3,
        **changes,
    }


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "family.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def command(shapes: str, out: Path, *more: str) -> list[str]:
    arguments = [f"--set={k}={json.dumps(v)}" for k, v in settings(shapes).items() if k != "dataset"]
    return [sys.executable, "-m", "sfsc", "train", shapes, "--out", str(out), *arguments, *more]


@pytest.fixture(scope="module")
def finished(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    train(Config.make(settings(shapes)), run)
    return run


@pytest.mark.slow
def test_several_threads_begin_as_one_does(finished: Path, shapes: str, tmp_path: Path) -> None:
    subprocess.run(command(shapes, tmp_path / "run"), env={**os.environ, "OMP_NUM_THREADS": "2"}, check=True)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())
    first, other = (json.loads((run / "log.jsonl").open().readline()) for run in (finished, tmp_path / "run"))
    assert other["loss"] == pytest.approx(first["loss"], rel=0.01)


def test_the_run_folder_tells_what_was_done(finished: Path, shapes: str) -> None:
    config = json.loads((finished / "config.json").read_text())
    assert config["dataset"] == shapes
    assert config["device"] in ("cpu", "cuda")
    assert config["weights"] == "none"
    assert config["seed"] == 0
    environment = json.loads((finished / "environment.json").read_text())
    assert (
        environment["torch"] == torch.__version__.split("+")[0] or environment["torch"] == torch.__version__
    )
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]
    assert all(len(line[key]) == 4 for line in lines for key in ("loss", "uncertainty", "conflicts"))
    assert lines[-1]["loss"][-1] < lines[0]["loss"][-1]


def test_a_run_that_knew_no_nested_dimensions_goes_on(finished: Path, shapes: str, tmp_path: Path) -> None:
    config = json.loads((finished / "config.json").read_text())
    assert config.pop("nested_dims") == []
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("family.json", "family.safetensors"):
        shutil.copy(finished / name, tmp_path)
    assert train(Config.make(settings(shapes)), tmp_path, resume=True).dimensions == (16,)


def test_a_finished_run_whose_save_was_cut_is_completed_and_not_trained_again(
    finished: Path, shapes: str, tmp_path: Path
) -> None:
    for name in ("config.json", "environment.json", "family.safetensors"):
        shutil.copy(finished / name, tmp_path)
    train(Config.make(settings(shapes)), tmp_path, resume=True)
    for name in ("family.json", "family.safetensors"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_first_components_learn_what_they_are_asked(finished: Path, shapes: str, tmp_path: Path) -> None:
    train(Config.make(settings(shapes, nested_dims=(4,))), tmp_path / "nested")
    loss = {run: first_components_loss(run, shapes) for run in (finished, tmp_path / "nested")}
    assert loss[tmp_path / "nested"] < 0.95 * loss[finished]


@torch.no_grad()
def first_components_loss(run: Path, shapes: str) -> float:
    """What the training images' first four components cost under the run's classifier, over all widths."""
    family, images = Family.load(run), open_dataset(shapes).train
    classifier = safetensors.torch.load_file(run / "checkpoint.safetensors")["classifier.0"][:, :4]
    pixels = np.stack([decode(path, (32, 32)) for path in images.paths])
    losses = []
    for width in family.widths:
        embeddings = torch.from_numpy(shorten(family.embed_pixels(pixels, width), 4))
        logits = cosine_logits(embeddings, classifier, 10.0)
        losses.append(evidential_loss(logits, torch.from_numpy(images.labels()))[0].item())
    return sum(losses)


def test_the_same_seed_gives_equal_weights_and_matrices(finished: Path, shapes: str, tmp_path: Path) -> None:
    again = train(Config.make(settings(shapes, workers=2)), tmp_path / "again")
    assert same(weights(finished), weights(tmp_path / "again"))
    dataset = open_dataset(shapes)
    families = (Family.load(finished), again)
    first, second = (evaluate(family, dataset, workers=0).matrix.to_json() for family in families)
    assert first == second
    train(Config.make(settings(shapes, seed=1)), tmp_path / "other")
    assert not same(weights(finished), weights(tmp_path / "other"))


def test_a_killed_run_resumes_to_the_same_weights(finished: Path, shapes: str, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command(shapes, run, "--set=log_every=1"), stderr=subprocess.DEVNULL, env=environment
    ) as process:
        deadline = time.monotonic() + 120
        while not (run / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert (run / "checkpoint.safetensors").exists()
    assert not (run / "family.safetensors").exists()
    result = subprocess.run(command(shapes, run, "--resume"), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert same(weights(run), weights(finished))
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 24


def test_extra_steps_resume_to_the_same_weights(
    shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.make(settings(shapes, widths=[0.25, 0.5, 1.0], extra_steps=[2, 1], checkpoint_every=6))

    def keep(run: Path, state: TrainingState, step: int) -> None:
        save_checkpoint(run, state, step)
        if step == 6:  # after the first extra step of the second cycle of four
            shutil.copytree(run, tmp_path / "kept")

    monkeypatch.setattr("sfsc.training.trainer.save_checkpoint", keep)
    train(config, tmp_path / "whole")
    monkeypatch.undo()
    train(config, tmp_path / "kept", resume=True)
    assert same(weights(tmp_path / "kept"), weights(tmp_path / "whole"))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4 * 24, "each of the 24 joint steps is followed by three others"
    assert lines[-1]["epoch"] == 4
    assert None not in lines[0]["conflicts"], "of the joint step"
    assert lines[-1]["loss"][2] is None, "the last two steps train narrow sub-models alone"


def test_random_widths_resume_to_the_same_weights(
    shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"widths": [0.25, 0.5, 1.0], "random_widths": 2, "extra_steps": [1, 0], "epochs": 1}
    config = Config.make(settings(shapes, **changes))

    def keep(run: Path, state: TrainingState, step: int) -> None:
        save_checkpoint(run, state, step)
        if step == 3:
            shutil.copytree(run, tmp_path / "kept")

    monkeypatch.setattr("sfsc.training.trainer.save_checkpoint", keep)
    family = train(config, tmp_path / "whole")
    monkeypatch.undo()
    train(config, tmp_path / "kept", resume=True)
    assert same(weights(tmp_path / "kept"), weights(tmp_path / "whole"))
    assert family.widths.ratios == (0.25, 0.5, 1.0), "random widths leave no sub-model"
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [len(line[name]) for line in log for name in ("loss", "conflicts")] == [3] * 2 * len(log)
    assert None not in log[0]["conflicts"]


def test_a_sub_model_alone_learns_towards_the_teacher_of_clean_images(
    shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[int], torch.Tensor | None]] = []

    def note(*arguments: Any) -> StepStatistics:
        batch = arguments[3]
        seen.append((list(batch.active), batch.target))
        return family_step(*arguments)

    monkeypatch.setattr("sfsc.training.trainer.family_step", note)
    run = tmp_path / "run"
    plus = {"recipe": "sfsc+", "widths": [0.5, 1.0], "extra_steps": [1], "epochs": 1}
    train(Config.make(settings(shapes, **plus)), run)
    together, alone = seen[-2:]
    assert (together[0], alone[0]) == ([1, 0], [0])
    split = open_dataset(shapes).train
    pixels = np.stack([decode(path, (32, 32)) for path in split.paths])
    known = torch.from_numpy(Family.load(run / "teacher").embed_pixels(pixels))
    nearest = torch.cdist(alone[1], known).amin(1)
    assert nearest.max() < 2e-3, "the embeddings of training images without augmentation"
    assert torch.cdist(together[1], known).amin(1).max() > 1e-2


@pytest.mark.parametrize("recipe", ["bct", "asymmetric", "asymmetric-s", "prunnet-s"])
def test_what_is_trained_towards_the_full_sub_model_is_not_trained_alone(
    recipe: str, shapes: str, tmp_path: Path
) -> None:
    config = Config.make(settings(shapes, recipe=recipe, widths=[0.5, 1.0], extra_steps=[1]))
    with pytest.raises(SfscError, match=r"set extra_steps to \[\], or choose another recipe"):
        train(config, tmp_path / "run")


def test_extra_steps_are_of_the_narrow_widths(shapes: str) -> None:
    with pytest.raises(SfscError, match="one number for each narrow width, here 1, got 1, 1"):
        Config.make(settings(shapes, widths=[0.5, 1.0], extra_steps=[1, 1]))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_told_to_end_completes_its_step(
    finished: Path, shapes: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """All of its processes are told, as terminals and job schedulers do, also those that decode."""
    run = tmp_path / "told"
    more = ["--set=log_every=1", "--set=workers=2", "--set=checkpoint_every=1000"]
    with subprocess.Popen(
        command(shapes, run, *more), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        log = run / "log.jsonl"
        while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, number)
        _, error = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in error
    line = rf"sfsc: stopped by {number.name} after step (\d+) of 24: continue with --resume"
    found = re.fullmatch(line, error.splitlines()[-1])
    assert found, error
    assert len(log.read_text().splitlines()) == int(found[1])
    train(Config.make(settings(shapes)), run, resume=True)
    assert same(weights(run), weights(finished))


def test_a_second_signal_gives_up_the_step_and_nothing_else(
    finished: Path, shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward passes of the step have changed running statistics already."""
    clip, calls = torch.nn.utils.clip_grad_norm_, iter(range(5))

    def told(*arguments: object) -> torch.Tensor:
        if next(calls, None) == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return clip(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", told)
        with pytest.raises(Stopped, match="stopped by SIGINT after step 4 of 24"):
            train(Config.make(settings(shapes)), tmp_path, resume=False)
    train(Config.make(settings(shapes)), tmp_path, resume=True)
    assert same(weights(tmp_path), weights(finished))


def test_a_signal_in_the_last_step_is_obeyed_when_the_family_is_saved(
    finished: Path, shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Training.write

    def told(self: Training, lr: float) -> None:
        write(self, lr)
        if self.last.step == 24:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Training, "write", told)
    with pytest.raises(KeyboardInterrupt):
        train(Config.make(settings(shapes)), tmp_path)
    assert same(weights(tmp_path), weights(finished))


def test_signals_are_handled_as_before_when_training_is_over(shapes: str, tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    train(Config.make(settings(shapes, epochs=1)), tmp_path / "run")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_run_of_an_earlier_version_resumes(finished: Path, shapes: str, tmp_path: Path) -> None:
    """Settings that were not there then have the values that they have by default."""
    run = tmp_path / "earlier"
    shutil.copytree(finished, run)
    stored = json.loads((run / "config.json").read_text())
    new = {"sync_batch_norm", "random_erasing", "extra_steps", *ADJUSTABLE} - {"granularity"}
    (run / "config.json").write_text(json.dumps({n: v for n, v in stored.items() if n not in new}))
    train(Config.make(settings(shapes)), run, resume=True)


def test_resuming_a_finished_run_changes_nothing(finished: Path, shapes: str) -> None:
    before = (finished / "family.safetensors").stat().st_mtime_ns
    family = train(Config.make(settings(shapes)), finished, resume=True)
    assert (finished / "family.safetensors").stat().st_mtime_ns == before
    assert family.fingerprint == json.loads((finished / "family.json").read_text())["fingerprint"]


def test_a_run_folder_in_use_is_not_overwritten(finished: Path, shapes: str) -> None:
    with pytest.raises(SfscError, match="already contains a run: continue it with --resume"):
        train(Config.make(settings(shapes)), finished)


def test_resuming_with_other_settings_is_refused(finished: Path, shapes: str) -> None:
    with pytest.raises(SfscError, match=r"was started with epochs 4, not 5"):
        train(Config.make(settings(shapes, epochs=5)), finished, resume=True)


def test_a_damaged_checkpoint_is_named(shapes: str, tmp_path: Path) -> None:
    train(Config.make(settings(shapes)), tmp_path)
    (tmp_path / "family.safetensors").unlink()
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(SfscError, match="cannot be resumed from"):
        train(Config.make(settings(shapes)), tmp_path, resume=True)


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(finished: Path, shapes: str, tmp_path: Path) -> None:
    run = tmp_path / "full"
    limit = (finished / "checkpoint.safetensors").stat().st_size // 2

    def shrink() -> None:
        # A file may not grow beyond this: the write fails as it does on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    with subprocess.Popen(command(shapes, run), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (run / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = (run / "checkpoint.safetensors").read_bytes()
    result = subprocess.run(
        command(shapes, run, "--resume"), capture_output=True, text=True, check=False, preexec_fn=shrink
    )
    assert result.returncode == 2
    message = result.stderr.strip().splitlines()[-1]
    assert "checkpoint.safetensors" in message
    assert "the previous file is unchanged" in message
    assert (run / "checkpoint.safetensors").read_bytes() == kept
    assert not list(run.glob(".checkpoint*")), "a half-written file was left behind"


def spoiled(shapes: str, folder: Path, count: int) -> str:
    """A copy of the data set in which some training images are damaged."""
    table = Path(shapes.partition(":")[2])
    for file in table.parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damages = [b"", b"\x89PNG\r\n", b"text"]
    for index, image in enumerate(sorted(folder.glob("00_*.png"))[:count]):
        image.write_bytes(damages[index % 3])
    return f"csv:{folder / table.name}"


def test_corrupt_images_are_counted_named_and_left_out(
    shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = spoiled(shapes, tmp_path, 2)
    train(Config.make(settings(dataset, epochs=1, max_corrupt=0.1)), tmp_path / "run")
    error = capsys.readouterr().err.replace("\n", "")
    assert "00_c0_0.png" in error
    assert "00_c0_1.png" in error


def test_too_many_corrupt_images_stop_the_training(shapes: str, tmp_path: Path) -> None:
    dataset = spoiled(shapes, tmp_path, 3)
    with pytest.raises(SfscError, match=r"3 of 48 training images cannot be read, the first: .*00_c0_0\.png"):
        train(Config.make(settings(dataset, max_corrupt=0.05)), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recipe": "magic"}, "unknown recipe 'magic'; choose one of unified, bct"),
        ({"backbone": "magic"}, "unknown backbone 'magic'; choose one of small"),
        ({"widths": (0.5,)}, "widths"),
        ({"epochs": 0}, "epochs"),
        ({"colour": 1}, "unknown setting 'colour'"),
        ({"dataset": "magic:x"}, "magic"),
        ({"random_widths": 1, "recipe": "bct-s"}, "a network or a classifier for each width"),
        ({"random_widths": 1, "compile": True}, "random widths would be compiled one by one"),
        ({"random_widths": 23}, "there are 21 random widths above 0.25: lower random_widths"),
        ({"random_widths": 1, "widths": (1.0,)}, "there are 0 random widths above 1"),
    ],
)
def test_wrong_settings_are_one_line_and_make_no_folder(
    shapes: str, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(SfscError, match=reason) as caught:
        train(Config.make(settings(shapes, **change)), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
