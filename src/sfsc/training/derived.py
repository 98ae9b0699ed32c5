"""A family that was made of a trained one, in a folder of its own that knows what the run knew."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sfsc.family.family import Family
from sfsc.files.writing import write_atomic, write_json
from sfsc.runs.paths import CONFIG_FILE, ENVIRONMENT_FILE
from sfsc.training.config import Config, read_config
from sfsc.training.record import LISTING_FILE, begun, refuse_used


def check_folder(run: Path, out: Path, widths: Iterable[float]) -> None:
    """Raise `SfscError` where a folder cannot take a family of these widths that is made of a run's.

    What it may hold is what `save_derived` leaves that was cut before it had written the family.
    """
    settings = _settings(run, widths)
    if begun(out) or not (out / CONFIG_FILE).exists() or read_config(out) != settings:
        refuse_used(out, "choose another folder")


def save_derived(family: Family, run: Path, out: Path) -> None:
    """Write a family into a folder, with the settings, environment and list of images of its run.

    The family comes last: a folder that has it is complete.

    Raises:
        SfscError: `run` is no run folder, or `out` cannot be written.
    """
    for name in (ENVIRONMENT_FILE, LISTING_FILE):
        if (run / name).exists():
            write_atomic(out / name, (run / name).read_bytes())
    write_json(out / CONFIG_FILE, _settings(run, family.widths).model_dump(mode="json"))
    family.save(out)


def _settings(run: Path, widths: Iterable[float]) -> Config:
    return read_config(run).model_copy(update={"widths": tuple(sorted(widths))})
