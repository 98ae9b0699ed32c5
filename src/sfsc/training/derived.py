"""Families that are derived from a trained family, each in a run folder of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sfsc.family.family import Family
from sfsc.files.writing import write_atomic, write_json
from sfsc.notation import Written
from sfsc.runs.paths import CONFIG_FILE, ENVIRONMENT_FILE, FIXED_TEACHER_FILE, OLD_FILE
from sfsc.training.config import Config, read_config
from sfsc.training.old.direct import save_direct_bridge
from sfsc.training.record import LISTING_FILE, begun, refuse_used


def check_folder(run: Path, out: Path, widths: Iterable[float | str]) -> None:
    """Raise `SfscError` unless a family with these widths, derived from a run, can be saved in a folder.

    A width that the run lacks can have a depth and an image size, as `Written.of` writes it. The folder
    may contain the files of a `save_derived` that was interrupted before it wrote the family.
    """
    settings = _settings(run, widths)
    if begun(out) or not (out / CONFIG_FILE).exists() or read_config(out) != settings:
        refuse_used(out, "choose another folder")


def save_derived(family: Family, run: Path, out: Path) -> None:
    """Save a family with the settings, the environment, the list of images and the old model of its run.

    The family is written last, so a folder that contains it is complete.

    Raises:
        SfscError: `run` is not a run folder, or `out` cannot be written.
    """
    for name in (ENVIRONMENT_FILE, LISTING_FILE, OLD_FILE, FIXED_TEACHER_FILE):
        if (run / name).exists():
            write_atomic(out / name, (run / name).read_bytes())
    save_direct_bridge(family, out)
    widths = [
        Written.of(width, family.image_size_of(width), family.image_size, family.depth_of(width))
        for width in family.widths
    ]
    settings = _settings(run, [one.value for one in widths])
    write_json(out / CONFIG_FILE, settings.model_dump(mode="json"))
    family.save(out)


def _settings(run: Path, widths: Iterable[float | str]) -> Config:
    config = read_config(run)
    written = {Written.parse(one).width: one for one in (*widths, *config.widths)}
    own = [Written.parse(one).width for one in config.widths]
    steps = dict(zip(own, config.extra_steps, strict=False))  # there is none for the full sub-model
    alone = tuple(steps.get(width, 0) for width in sorted(written)[:-1]) if steps else ()
    chosen = {"widths": tuple(written[width] for width in sorted(written)), "extra_steps": alone}
    return config.model_copy(update=chosen)
