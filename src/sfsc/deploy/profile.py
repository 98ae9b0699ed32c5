"""Profiles: the measurements of a family's sub-models on one machine, as `profile.json` holds them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict

from sfsc.errors import SfscError
from sfsc.files.schema import conform
from sfsc.files.writing import as_json, read_json, write_with
from sfsc.notation import Size, name_of
from sfsc.runs import datasets as location
from sfsc.runs.description import read_description
from sfsc.runs.results import own_dataset, results_folder

PROFILE_FILE = "profile.json"
PROFILE_FIGURE = "profile.png"  # drawn by `report`
ONNX, TORCH = "onnx", "torch"


@dataclass(frozen=True)
class Measured:
    """The measurements of one sub-model in one numeric form.

    Attributes:
        width: the width of the sub-model.
        runtime: "onnx", or "torch" for the reference.
        form: "float32" or "int8".
        file: the path of the exported file within the run folder; None with torch.
        digest: 16 hexadecimal digits that identify the contents of the file; None with torch.
        size: the size of the file in bytes; None with torch.
        parameters: the number of parameters; None if the file does not state it.
        multiply_adds: the multiply-adds for one image; None if the file does not state them.
        memory: the peak memory in bytes.
        p50: the median time for one image in seconds.
        p95: the 95th percentile of the time for one image in seconds.
        throughput: images per second in batches of 32.
        accuracy: the mAP, a fraction, of its queries in the gallery of the full sub-model's float32 file;
            None if it was never tested.
        image_size: the (height, width) in pixels of its images; None in older profiles.
        depth: the share of the residual blocks of each stage that the sub-model keeps.
    """

    width: float
    runtime: str
    form: str
    file: str | None
    digest: str | None
    size: int | None
    parameters: int | None
    multiply_adds: int | None
    memory: int
    p50: float
    p95: float
    throughput: float
    accuracy: float | None
    image_size: Size | None = None
    depth: float = 1.0

    @property
    def label(self) -> str:
        """The label of the form: float32 or int8 for a file, torch for the reference."""
        return TORCH if self.runtime == TORCH else self.form

    @property
    def name(self) -> str:
        """The name in messages, for example "0.25 int8"."""
        return f"{self.width:g} {self.label}"


@dataclass(frozen=True)
class Profile:
    """The measurements of a family's sub-models on one machine.

    Attributes:
        fingerprint: the fingerprint of the family.
        dataset: KIND:PATH of the data set for the accuracies; None if there are no accuracies.
        threads: the number of threads that computed.
        rows: the measurements, in the order of widths.
    """

    fingerprint: str
    dataset: str | None
    threads: int
    rows: tuple[Measured, ...]

    @property
    def reference(self) -> Measured | None:
        """The row that others are compared with: the full sub-model in float32, with torch if available."""
        full = [row for row in self.rows if row.width == 1.0 and row.form == "float32"]
        return next((row for row in full if row.runtime == TORCH), next(iter(full), None))

    def name_of(self, width: float) -> str:
        """Return the name of a sub-model: its width, and its depth and image size if they are its own."""
        rows = {row.width: row for row in self.rows}
        full = rows[1.0].image_size if 1.0 in rows else None
        size = rows[width].image_size or full or (1, 1)
        return name_of(width, size, full or size, rows[width].depth)

    def to_json(self) -> dict[str, Any]:
        """Return the profile as plain lists and numbers."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    def write(self, run: str | Path) -> Path:
        """Write `profile.json`, and remove the figure of an older profile.

        The file is written into the run folder, or into a subfolder if the accuracies are for a data set
        other than the run's.

        Returns:
            The path of `profile.json`. `sfsc.report.result_figures.draw_profile` draws the figure next to it.
        """
        folder = _folder(Path(run), self.dataset)
        write_with(folder / PROFILE_FILE, as_json(self.to_json()), {folder / PROFILE_FIGURE: None})
        return folder / PROFILE_FILE

    @classmethod
    def read(cls, run: str | Path, dataset: str | None = None) -> Profile:
        """Read the profile of a run folder, with accuracies on a data set; by default on the run's own.

        Raises:
            SfscError: there is no profile, or it is damaged or belongs to another family.
        """
        path = _folder(Path(run), dataset) / PROFILE_FILE
        again = f"run `sfsc profile {run}{f' --dataset {dataset}' if dataset else ''}`"
        if not path.exists():
            raise SfscError(f"{path.parent} has no {PROFILE_FILE}: {again}")
        try:
            profile: Profile = conform(read_json(path), cls)
            if any(row.image_size and min(row.image_size) < 1 for row in profile.rows):
                raise ValueError("an image size is not positive")
        except ValueError as error:
            raise SfscError(f"{path} is damaged: {again} again ({error})") from None
        if profile.fingerprint != read_family(Path(run))[0]:
            raise SfscError(f"{path} belongs to another family: {again} again")
        return profile


class _Family(TypedDict):
    """The parts of a family's description that are needed without its network."""

    fingerprint: str
    widths: list[float]


def read_family(run: Path) -> tuple[str, list[float]]:
    """Return the fingerprint and the widths of a run's family, without torch."""
    values, path = read_description(run)
    try:
        content = conform(values, _Family)
    except ValueError as error:
        raise SfscError(f"{path} does not describe a family: {error}") from None
    return content["fingerprint"], content["widths"]


def tested_dataset(run: Path) -> str | None:
    """Return the data set that the run was trained on or, without its settings, that of its profile."""
    own = own_dataset(run)
    if own is not None:
        return own
    try:
        named = conform(read_json(run / PROFILE_FILE), dict[str, Any]).get("dataset")
        named = conform(named, str | None)
    except (SfscError, ValueError):
        return None
    return None if named is None else location.found(named, run)


def _folder(run: Path, dataset: str | None) -> Path:
    """Return the folder of the profile with accuracies on a data set; the run folder if there is none."""
    return run if dataset is None else results_folder(run, dataset, tested_dataset(run))


def file_digest(path: Path) -> str:
    """Return 16 hexadecimal digits that identify the contents of a file."""
    return sha256(path.read_bytes()).hexdigest()[:16]
