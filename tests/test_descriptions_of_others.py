"""Folders from others whose files say what no program wrote: one line that names the file, exit code 2."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sfsc.cli import main
from sfsc.data.listing import Listing
from sfsc.deploy.profile import Profile
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.runs.paths import started_in
from sfsc.training.checkpoint import CHECKPOINT_FILE, read_checkpoint
from sfsc.training.config import Config
from tests import fuzzing
from tests.test_cli import refusal, settings, sfsc

# What reads each file of a run.
READ_BY = {
    "family.json": ["search run image.png --gallery gallery", "evaluate run --dataset SHAPES", "profile run"],
    "config.json": ["report run", "evaluate run", "train --out run --resume"],
    "evaluation.json": ["report run"],
    "rankings.json": ["report run"],
    "environment.json": ["report run"],
    "log.jsonl": ["report run"],
    "images.json": ["evaluate run"],
    "profile.json": ["choose run"],
    "family.safetensors": ["evaluate run"],
}
COMMANDS = [(name, command) for name, commands in READ_BY.items() for command in commands]


def deep(content: bytes) -> bytes:
    return b"[" * 200_000 + content


def deep_inside(content: bytes) -> bytes:
    """Deep enough for no parser to stumble, and for what comes after it to."""
    return content.replace(b"{", b'{"deep": ' + b"[" * 900 + b"]" * 900 + b", ", 1)


def twice(content: bytes) -> bytes:
    return content.replace(b"{", b'{"twice": 1, "twice": 2, ', 1)


def not_finite(content: bytes) -> bytes:
    return content.replace(b"{", b'{"infinite": 1e999, ', 1)


def huge_number(content: bytes) -> bytes:
    return content.replace(b"{", b'{"huge": ' + b"9" * 5000 + b", ", 1)


def half_a_character(content: bytes) -> bytes:
    return content.replace(b"{", b'{"half": "\\ud800", ', 1)


def not_text(content: bytes) -> bytes:
    return content.replace(b'"', b'"\xff', 1)


def another_type(content: bytes) -> bytes:
    return b"[1, 2]\n"


def nothing(content: bytes) -> bytes:
    return b"null\n"


DAMAGES = [
    deep,
    deep_inside,
    twice,
    not_finite,
    huge_number,
    half_a_character,
    not_text,
    another_type,
    nothing,
]


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, in the working folder."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shapes: str) -> Path:
    """A run with all files that a run may have."""
    run = tmp_path_factory.mktemp("whole") / "run"
    family = Family.create("small", "0.5,1.0", 8, (32, 32))
    family.save(run)
    named = {"fingerprint": family.fingerprint, "dataset": shapes}
    config = Config.make({"dataset": shapes, "backbone": "small", "widths": [0.5, 1.0]})
    item = {"path": "a.png", "identity": "a", "camera": None}
    rankings = {"query_width": 0.5, "gallery_width": 1.0, "rows": []}
    rankings["rows"] = [{"query": item, "average_precision": 0.5, "hits": []}]
    files = {
        "config.json": config.model_dump(mode="json"),
        "evaluation.json": fuzzing.result() | named,
        "rankings.json": rankings,
        "environment.json": fuzzing.STARTED,
        "log.jsonl": fuzzing.LINE,
        "images.json": fuzzing.LISTING,
        "profile.json": fuzzing.PROFILE | named,
    }
    for name, content in files.items():
        (run / name).write_bytes(fuzzing.values(content) + b"\n")
    return run


def test_the_run_is_whole(run: Path) -> None:
    assert sfsc("report", "run").code == 0
    assert Profile.read("run").rows
    assert Listing.read(run / "images.json").entries


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_one_line_names_the_file(
    run: Path, shapes: str, name: str, command: str, damage: Callable[[bytes], bytes]
) -> None:
    (run / name).write_bytes(damage((run / name).read_bytes()))
    said = refusal(sfsc(*(shapes if word == "SHAPES" else word for word in command.split())))
    assert f"run/{name}" in said
    assert len(said) < 1000


@pytest.mark.parametrize(("name", "command"), [pair for pair in COMMANDS if pair[0] != "family.safetensors"])
def test_endless_files_are_not_read(run: Path, shapes: str, name: str, command: str) -> None:
    os.truncate(run / name, 1 << 31)
    said = refusal(sfsc(*(shapes if word == "SHAPES" else word for word in command.split())))
    assert f"run/{name}" in said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 99}, "was written by a newer sfsc: upgrade"),
        ({"format": "99"}, "format is not an integer"),
        ({"backbone": 3}, "backbone is not a text"),
        ({"backbone": "no\nsuch"}, "unknown backbone"),
        ({"widths": "1.0"}, "widths is not a list"),
        ({"widths": [True]}, r"widths\[0\] is not a number"),
        ({"widths": [*(n / 100 for n in range(1, 101))]}, "at most 64 widths"),
        ({"embedding_dim": 2**40}, r"family\.json .*must have 1 to 16384 dimensions"),
        ({"image_size": [32, 10**9]}, r"family\.json .*must have 1 to 4194304 pixels"),
        ({"image_size": [32]}, "image_size is not a list of 2"),
        ({"image_size": [16, 16]}, "does not match its description"),
        ({"keep": "bn"}, "keep is not a list"),
        ({"round_to": 0}, None),
        ({"round_to": -8}, None),
        ({"nested_dims": [8, 4]}, "nested dimensions must increase"),
        ({"configuration": {"model_type": "resnet", "depths": "x"}, "backbone": "transformers:resnet"}, None),
        *(
            (
                {"configuration": {"model_type": "resnet", **sizes}, "backbone": "transformers:resnet"},
                "more parameters than its weights",
            )
            for sizes in ({"hidden_sizes": [40_000] * 4}, {"depths": [10**8] * 4, "hidden_sizes": [1] * 4})
        ),
    ],
)
def test_a_description_of_no_family_is_refused(
    run: Path, change: dict[str, object], reason: str | None
) -> None:
    described = json.loads((run / "family.json").read_text()) | change
    (run / "family.json").write_text(json.dumps(described))
    with pytest.raises(SfscError, match=reason):
        Family.load(run)
    refusal(sfsc("search", "run", "image.png", "--gallery", "gallery"))


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"step": "5", "format": "2"}, "was written by a newer sfsc: upgrade"),
        ({"step": "5", "format": "x"}, "cannot be resumed from"),
        ({"step": "1e999"}, "cannot be resumed from"),
        ({"step": "[" * 100_000}, "cannot be resumed from"),
        ({"step": '"5"'}, "cannot be resumed from"),
        ({"format": "1"}, "cannot be resumed from"),
        (None, "cannot be resumed from"),
    ],
)
def test_checkpoints_of_others(tmp_path: Path, metadata: dict[str, str] | None, reason: str) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / CHECKPOINT_FILE, metadata)
    with pytest.raises(SfscError, match=reason) as caught:
        read_checkpoint(tmp_path)
    assert str(tmp_path / CHECKPOINT_FILE) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_a_format_is_of_the_first(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / CHECKPOINT_FILE, {"step": "5"})
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 5


def test_checkpoints_say_their_format(shapes: str, tmp_path: Path) -> None:
    """And two runs of one command write the same bytes."""
    contents = []
    for name in ("one", "two"):
        assert sfsc("train", shapes, "--out", tmp_path / name, *settings(epochs=1)).code == 0
        contents.append((tmp_path / name / CHECKPOINT_FILE).read_bytes())
    with safetensors.safe_open(tmp_path / "one" / CHECKPOINT_FILE, "pt") as file:
        assert file.metadata()["format"] == "1"
    assert contents[0] == contents[1]


@pytest.mark.parametrize("place", ["\0", "x" * 5000, "\udc80", ""])
def test_no_path_in_a_run_is_too_strange(run: Path, shapes: str, place: str) -> None:
    """Found by fuzzing: names that are too long for a file."""
    (run / "environment.json").write_text(json.dumps({"started_in": place}))
    assert started_in(run) == Path(place)
    settings_ = json.loads((run / "config.json").read_text()) | {"dataset": f"csv:{place}x"}
    (run / "config.json").write_text(json.dumps(settings_))
    refusal(sfsc("evaluate", "run"))
    refusal(sfsc("train", "--out", "run", "--resume"))


@pytest.mark.parametrize("text", [r"$\frac{$", "[/nothing]", "\udcff"])
def test_text_in_results_is_shown_and_not_followed(
    run: Path, shapes: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as a formula of a figure nor as markup of the terminal, which prints all of it."""
    result = fuzzing.result()
    result["baseline"] = {"mAP": 0.1, "rank-1": 0.2, text: 0.3, "name": text}
    result["exported"], result["costs"] = {text: 0.5}, {text: 0.1}
    for values in (result["metrics"], *(result["old"][part] for part in ("column", "row", "self_test"))):
        values[text] = values["mAP"]
    described = json.loads((run / "family.json").read_text())
    named = {"fingerprint": described["fingerprint"], "dataset": shapes}
    (run / "evaluation.json").write_text(json.dumps(result | named))
    said = sfsc("report", "run")
    assert said.code == 0
    assert said.out.count(text) >= 4
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "utf-8", errors="strict"))
    monkeypatch.setattr(sys, "argv", ["sfsc", "report", "run"])
    with pytest.raises(SystemExit) as leave:
        main()
    sys.stdout.flush()
    assert not leave.value.code
    assert text.encode("utf-8", "backslashreplace") in printed.getvalue()


@pytest.mark.parametrize(
    "name", ["validation:" * 100_000 + "csv:x", "target:" * 590 + "csv:x", "csv:" + "x" * 10**6]
)
def test_views_of_views_do_not_go_on_for_ever(run: Path, name: str) -> None:
    values = json.loads((run / "config.json").read_text()) | {"dataset": name}
    (run / "config.json").write_text(json.dumps(values))
    assert len(refusal(sfsc("evaluate", "run"))) < 5000
    refusal(sfsc("evaluate", "run", "--dataset", name[:20_000]))
