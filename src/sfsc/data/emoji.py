"""Reading the emoji data set that `build_emoji` builds: identity = emoji, camera = vendor."""

from __future__ import annotations

from pathlib import Path

from sfsc.data.csv_table import read_listed
from sfsc.data.dataset import Dataset
from sfsc.errors import SfscError
from sfsc.files.writing import read_json

TABLE = "emoji.csv"
# Contains the settings of the build. It is written last, so a folder that contains it is complete.
MARKER = "build.json"


def read_emoji(source: str, path: Path) -> Dataset:
    """Read the data set built in the folder `path`; raise `SfscError` if there is no complete build."""
    marker = path / MARKER
    if not marker.is_file():
        raise SfscError(f"{path} contains no complete emoji build: run `sfsc data emoji --out {path}` again")
    size = read_json(marker)["size"]
    return read_listed(source, path / TABLE, image_size=(size, size), mirrors=False)
