"""Folders and files from others: nothing in them, and nothing in the working folder, is imported or run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sfsc.backbones.sources import find_backbone
from sfsc.backbones.weights import load_weights
from sfsc.deploy.measuring import measure
from sfsc.embedding.model import open_model
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.training.config import Config
from sfsc.training.run import train
from tests.test_cli import refusal, settings, sfsc

NETS = """
from pathlib import Path
from torch import nn

Path({mark!r}).touch()

def network():
    return nn.Sequential(nn.Conv2d(3, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3))
"""
# Packages that are imported when they are first needed, and modules of Python's own that few others import.
TRAPS = (
    *("cv2", "faiss", "filelock", "jinja2", "kornia", "lance", "matplotlib", "numpy", "onnx", "onnxruntime"),
    *("onnxscript", "pandas", "pyarrow", "pydantic", "pymilvus", "ray", "resource", "resvg_py", "rich"),
    *("safetensors", "scipy", "sympy", "timm", "torch", "torchvision", "transformers", "typer", "yaml"),
)


class Code:
    """A module that leaves a mark when it is imported."""

    def __init__(self, folder: Path, name: str = "nets_of_others") -> None:
        self.folder, self.name = folder, name
        self.mark = folder / "was-run"
        self.function = f"{name}:network"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(NETS.format(mark=str(self.mark)))

    @property
    def was_run(self) -> bool:
        return self.mark.exists()

    def forget(self) -> None:
        sys.modules.pop(self.name, None)
        self.mark.unlink(missing_ok=True)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Code:
    """The module nets_of_others in the working folder, and a run in `run` whose backbone is its function."""
    code = Code(tmp_path / "work")
    monkeypatch.chdir(code.folder)
    code.forget()
    Family.create(f"python:{code.function}", "0.5,1.0", 8, (32, 32)).save("run")
    write_config(code, "csv:nowhere.csv")
    code.forget()
    return code


def write_config(code: Code, dataset: str) -> None:
    values = {"image_size": (32, 32), "embedding_dim": 8, "widths": "0.5,1.0", "epochs": 1, "workers": 0}
    config = Config.make({"dataset": dataset, "backbone": f"python:{code.function}", **values})
    Path("run", "config.json").write_text(json.dumps(config.model_dump(mode="json")))


@pytest.mark.parametrize(
    "allowed", [None, "", "nets_of_others:other", "other:network", "python:nets_of_others"]
)
def test_code_that_nobody_allowed_is_not_imported(code: Code, allowed: str | None) -> None:
    for load in (Family.load, open_model):
        with pytest.raises(SfscError, match=r"family\.json names code .*--allow-code nets_of_others:network"):
            load("run", allow_code=allowed)
    assert not code.was_run


def test_code_that_is_allowed_is_imported(code: Code) -> None:
    before = list(sys.path)
    family = Family.load("run", allow_code=code.function)
    assert code.was_run
    assert family.spec.backbone == f"python:{code.function}"
    assert sys.path == before


def test_what_is_allowed_is_not_looked_for_where_the_run_says(
    code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Code(code.folder / "run")
    Path("run", "environment.json").write_text(json.dumps({"started_in": str(theirs.folder)}))
    (code.folder / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    with pytest.raises(SfscError, match="there is no module nets_of_others in"):
        Family.load("../run", allow_code=code.function)
    assert not theirs.was_run
    assert not code.was_run


@pytest.mark.parametrize(
    "command",
    [
        "evaluate run --dataset SHAPES",
        "search run image.png --gallery gallery",
        "index run SHAPES --gallery gallery",
        "embed run SHAPES --out vectors.npy",
        "embed run SHAPES --gallery gallery",
        "export run --images SHAPES",
        "profile run",
        "calibrate run --out new",
        "adapt run --images SHAPES --out new",
        "recalibrate run --out new",
        "submodel run 0.6 --out new",
        "serve run --gallery gallery",
        "train --out run --resume",
        "train SHAPES --out run --resume --epochs 2",
        "train SHAPES --out new --backbone small --set identities_per_batch=4 --old run",
        "train SHAPES --out new --backbone small --set identities_per_batch=4 --recipe sfsc+ --teacher run",
    ],
)
def test_no_command_imports_what_a_run_names(code: Code, shapes: str, command: str) -> None:
    said = refusal(sfsc(*(shapes if word == "SHAPES" else word for word in command.split())))
    assert f"--allow-code {code.function}" in said
    assert not code.was_run


def test_who_trains_names_the_backbone(code: Code, shapes: str) -> None:
    shutil.rmtree("run")
    given = [shapes, "--out", "run", *settings(backbone=f"python:{code.function}", epochs=1)]
    assert sfsc("train", *given).code == 0
    assert code.was_run
    code.forget()
    assert sfsc("train", *given, "--resume").code == 0
    code.forget()
    assert sfsc("train", "--out", "run", "--resume", "--allow-code", code.function).code == 0
    assert sfsc("evaluate", "run", "--workers", 0, "--allow-code", code.function).code == 0


def test_training_goes_on_with_no_family_of_another_backbone(code: Code, shapes: str) -> None:
    """config.json names the caller's backbone, family.json one that is code."""
    resolved = {"weights": "none", "device": "cpu", "image_size": (32, 32)}
    batches = {"identities_per_batch": 4, "images_per_identity": 3}
    config = Config.make({"dataset": shapes, "backbone": "small", **resolved, **batches})
    Path("run", "config.json").write_text(json.dumps(config.model_dump(mode="json")))
    with pytest.raises(SfscError, match="names code"):
        train(config, "run", resume=True)
    assert not code.was_run


@pytest.fixture
def trapped(tmp_path: Path) -> Path:
    """A folder with modules under the names of others, each of which says that it was run."""
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'a').write('{name} ')\n")
    return tmp_path


def test_the_process_that_measures_imports_nothing_from_the_working_folder(
    trapped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Family.create("small", "0.5,1.0", 8, (32, 32)).save(trapped / "run")
    monkeypatch.chdir(trapped)
    assert measure(Path("run"), 0.5, 1, 0.01).p50 > 0
    assert not (trapped / "was-run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "search run none.png --gallery gallery",
        "inspect timm:resnet18",
        "inspect torchvision:resnet18",
        "profile run",
    ],
)
def test_python_m_imports_nothing_from_the_working_folder(trapped: Path, words: str) -> None:
    Family.create("small", "0.5,1.0", 8, (32, 32)).save(trapped / "run")
    done = subprocess.run(
        [sys.executable, "-m", "sfsc", *words.split()],
        cwd=trapped,
        capture_output=True,
        text=True,
        check=False,
    )
    ran = trapped / "was-run"
    assert not ran.exists(), ran.read_text()
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_actors_of_ray_import_nothing_from_the_working_folder(trapped: Path, shapes: str) -> None:
    Family.create("small", "0.5,1.0", 8, (32, 32)).save(trapped / "run")
    words = ["embed", "run", shapes, "--out", "vectors.npy", "--engine", "ray", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "sfsc", *words], cwd=trapped, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (trapped / "was-run").exists()


class Runs:
    """What a pickle of it does when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder as `save_pretrained` writes it, without weights."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "model"
    transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]).save_pretrained(folder)
    return folder


def test_weights_of_a_folder_are_not_unpickled(model_folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    name = f"transformers:{model_folder}"
    network = find_backbone(name).build((32, 32))
    for file in ("pytorch_model.bin", "weights.pth"):
        (model_folder / file).write_bytes(pickle.dumps({"weight": Runs(mark)}))
        given = model_folder if file.endswith(".bin") else model_folder / file
        with pytest.raises(
            SfscError, match=r"contains no readable weights|is not a state dict|is not a readable state dict"
        ):
            load_weights(name, network, str(given))
    assert not mark.exists()


def test_a_configuration_brings_no_code(model_folder: Path, tmp_path: Path) -> None:
    theirs = Code(model_folder, "modeling_theirs")
    values = json.loads((model_folder / "config.json").read_text())
    values |= {
        "auto_map": {"AutoConfig": "modeling_theirs.Config", "AutoModel": "modeling_theirs.network"},
        "attn_implementation": "kernels-community/none",
        "_attn_implementation": "kernels-community/none",
        "use_pretrained_backbone": True,
    }
    (model_folder / "config.json").write_text(json.dumps(values))
    for configuration in (None, values):  # of the folder, and as a stranger's family.json might hold it
        find_backbone(f"transformers:{model_folder}", configuration).build((32, 32))
    assert not theirs.was_run


@pytest.mark.parametrize("name", ["hf-hub:owner/name", "local-dir:folder", "hf_hub:owner/name", "../nets"])
@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_names_of_packages_name_nothing_else(source: str, name: str) -> None:
    with pytest.raises(SfscError, match=r"is not installed|has no"):
        find_backbone(f"{source}:{name}")
