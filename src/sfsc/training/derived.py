"""A family that was made of a trained one, in a folder of its own that knows what the run knew."""

from __future__ import annotations

from pathlib import Path

from sfsc.files import write_atomic, write_json
from sfsc.places import CONFIG_FILE, ENVIRONMENT_FILE
from sfsc.switchable.family import Family
from sfsc.training.config import read_config
from sfsc.training.started import LISTING_FILE


def save_derived(family: Family, run: Path, out: Path) -> None:
    """Write a family into a folder, with the settings, environment and list of images of its run.

    Raises:
        SfscError: `run` is no run folder, or `out` cannot be written.
    """
    settings = read_config(run).model_copy(update={"widths": family.widths.ratios})
    for name in (ENVIRONMENT_FILE, LISTING_FILE):
        if (run / name).exists():
            write_atomic(out / name, (run / name).read_bytes())
    family.save(out)
    write_json(out / CONFIG_FILE, settings.model_dump(mode="json"))
