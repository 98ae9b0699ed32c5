"""The emoji data set, as `build_emoji` leaves it: identity = emoji, camera = vendor."""

from __future__ import annotations

from pathlib import Path

from sfsc.data.csv_table import read_listed
from sfsc.data.dataset import Dataset
from sfsc.errors import SfscError
from sfsc.files.writing import read_json

TABLE = "emoji.csv"
# Holds the settings of the build; written last, so a folder with it is complete.
MARKER = "build.json"


def read_emoji(source: str, path: Path) -> Dataset:
    """The built data set in the folder `path`; SfscError if there is no complete build."""
    marker = path / MARKER
    if not marker.is_file():
        raise SfscError(f"{path} contains no complete emoji build: run `sfsc data emoji --out {path}` again")
    size = read_json(marker)["size"]
    return read_listed(source, path / TABLE, image_size=(size, size), mirrors=False)
