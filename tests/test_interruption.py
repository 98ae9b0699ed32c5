"""Signals to end: sent to a command and its workers, as by a terminal, at the moment that is tested."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import parquet

from sfsc.family.family import Family
from sfsc.gallery import Gallery
from sfsc.gallery.indexing import index
from sfsc.interruption import NUMBERS, Interrupted, answered, held

IMAGES, BATCH = 24, 4
SETTINGS = [
    *("--backbone=small", "--set=epochs=2", "--set=widths=[0.5,1.0]", "--set=image_size=[32,32]"),
    *("--set=embedding_dim=16", "--set=identities_per_batch=4", "--set=images_per_identity=3"),
]
# After so many calls of a method of a module's class, the process group is sent one signal after the other.
SCRIPT = f"""
import os, signal, sys
from importlib import import_module
import sfsc.embedding.embedded
from sfsc.cli import main
sfsc.embedding.embedded.BATCH = {BATCH}

place, name, calls, numbers = sys.argv.pop(1).split(",")
module, _, owner = place.partition(":")
owner = getattr(import_module(module), owner)
wrapped, left = getattr(owner, name), [int(calls)]

def send(numbers):
    try:
        os.killpg(0, getattr(signal, numbers[0]))
    finally:
        if numbers[1:]:
            send(numbers[1:])

def told(*arguments, **options):
    result = wrapped(*arguments, **options)
    left[0] -= 1
    if left[0] == 0:
        send(numbers.split("+"))
    return result

setattr(owner, name, told)
main()
"""
EMBEDDED = "sfsc.family.family:Family,embed_pixels"


def told(moment: str, *command: object) -> tuple[int, list[str]]:
    """The exit code of a command that is sent signals, and the last lines on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, moment, *map(str, command)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        check=False,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    said = [line.removeprefix("sfsc: ") for line in lines if line.startswith("sfsc: ")]
    assert lines[len(lines) - len(said) :] == [f"sfsc: {line}" for line in said], "the line is the last one"
    return done.returncode, said


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    Family.create("small", (0.5, 1.0), 16, (32, 32)).save(folder)
    return folder


def test_index_keeps_what_is_finished_and_goes_on(run: Path, shapes: str, tmp_path: Path) -> None:
    gallery = tmp_path / "gallery"
    command = ("index", run, shapes, "--gallery", gallery)
    assert told(f"{EMBEDDED},3,SIGINT", *command) == (130, ["stopped by SIGINT: continue with --resume"])
    assert len(Gallery.open(gallery)) == 2 * BATCH
    index(Family.load(run), shapes, Gallery.open(gallery), workers=0, resume=True)
    assert len(Gallery.open(gallery)) == IMAGES


def test_a_part_that_is_being_written_is_written(run: Path, shapes: str, tmp_path: Path) -> None:
    moment = "sfsc.gallery.gallery:Gallery,add,1,SIGTERM"
    code, _ = told(moment, "index", run, shapes, "--gallery", tmp_path / "gallery")
    assert code == 143
    assert len(Gallery.open(tmp_path / "gallery")) == IMAGES


def test_embed_keeps_parts_but_no_half_array(run: Path, shapes: str, tmp_path: Path) -> None:
    code, said = told(f"{EMBEDDED},3,SIGINT", "embed", run, shapes, "--out", tmp_path / "parts")
    assert (code, said) == (130, ["stopped by SIGINT: run the same command again to continue"])
    assert parquet.read_table(tmp_path / "parts").num_rows == 2 * BATCH
    code, said = told(f"{EMBEDDED},3,SIGINT", "embed", run, shapes, "--out", tmp_path / "v.npy")
    assert (code, said) == (
        130,
        ["stopped by SIGINT: nothing was written; an output folder would keep finished parts"],
    )
    assert not list(tmp_path.glob("v.*"))


def test_evaluate_writes_all_or_nothing(run: Path, shapes: str) -> None:
    before = sorted(run.iterdir())
    code, said = told(f"{EMBEDDED},1,SIGTERM", "evaluate", run, "--dataset", shapes)
    assert (code, said) == (143, ["stopped by SIGTERM"])
    assert sorted(run.iterdir()) == before


def test_a_second_signal_ends_at_once(run: Path, shapes: str) -> None:
    """It comes while the first one is being obeyed."""
    assert told(f"{EMBEDDED},1,SIGINT+SIGINT", "evaluate", run, "--dataset", shapes) == (130, [])


@pytest.mark.slow
def test_compare_says_where_it_stopped_and_goes_on(shapes: str, tmp_path: Path) -> None:
    command = ("compare", shapes, "--recipes=unified", "--seeds=1", "--no-calibrations", "--out", tmp_path)
    code, said = told("sfsc.training.trainer:Training,write,2,SIGINT", *command, *SETTINGS)
    line = "unified, seed 0: stopped by SIGINT after step 2 of 8: run the same command again to continue"
    assert (code, said) == (130, [line])
    assert (tmp_path / "unified" / "seed0" / "checkpoint.safetensors").exists()


class TestHolds:
    def test_a_signal_waits_for_the_end(self) -> None:
        done = []
        with pytest.raises(KeyboardInterrupt), held() as hold:
            signal.raise_signal(signal.SIGINT)
            done.append(hold.signal)
        assert done == [signal.SIGINT]

    def test_another_one_does_not(self) -> None:
        done = []
        with pytest.raises(KeyboardInterrupt), held():
            signal.raise_signal(signal.SIGINT)
            done.append("first")
            signal.raise_signal(signal.SIGINT)
            done.append("second")
        assert done == ["first"]

    def test_within_another_the_outer_one_notes_it(self) -> None:
        done = []
        with pytest.raises(KeyboardInterrupt), held() as outer:
            with held() as inner:
                signal.raise_signal(signal.SIGINT)
                done.append((outer.signal, inner.signal))
            done.append((outer.signal, inner.signal))
        assert done == [(None, signal.SIGINT), (signal.SIGINT, signal.SIGINT)]

    def test_an_error_is_not_hidden_by_it(self) -> None:
        with pytest.raises(ZeroDivisionError), held():
            signal.raise_signal(signal.SIGINT)
            _ = 1 / 0

    @pytest.mark.parametrize("number", NUMBERS)
    def test_handlers_are_what_they_were(self, number: signal.Signals) -> None:
        before = [signal.getsignal(n) for n in NUMBERS]
        with held(), held():
            pass
        with answered():
            with pytest.raises(Interrupted) as caught, held():
                signal.raise_signal(number)
            assert caught.value.number == number
            for n, handler in zip(NUMBERS, before, strict=True):
                signal.signal(n, handler)  # else another signal ends this process
        assert [signal.getsignal(n) for n in NUMBERS] == before
