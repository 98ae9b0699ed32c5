"""What every sub-model in every form takes on this machine, and how well it searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from sfsc.data.sources import Dataset, open_dataset
from sfsc.deploy.measuring import Measurement, measure
from sfsc.embedding.embedded import Embedded, embed_images
from sfsc.embedding.exported import Exported, ExportedModel
from sfsc.embedding.model import Model
from sfsc.errors import SfscError
from sfsc.files.schema import conform
from sfsc.files.writing import as_json, read_json, write_with
from sfsc.progress import track
from sfsc.retrieval.ranking import evaluate_ranking
from sfsc.runs import datasets as location
from sfsc.runs.description import read_description
from sfsc.runs.paths import FAMILY_FILE
from sfsc.runs.results import own_dataset, results_folder

if TYPE_CHECKING:
    from sfsc.family.family import Family

PROFILE_FILE = "profile.json"
PROFILE_FIGURE = "profile.png"  # drawn by `report`
EXPORT_FOLDER = "export"
ONNX, TORCH = "onnx", "torch"
SECONDS = 2.0

Embed = Callable[[np.ndarray], np.ndarray]  # (batch, height, width, 3) uint8 to (batch, dim) float32


@dataclass(frozen=True)
class Measured:
    """One sub-model in one numeric form.

    `runtime` is onnx or torch, the reference; `form` is float32 or int8. `file`, its path within the run,
    `digest`, of 16 hexadecimal digits, and `size` in bytes are those of the exported file; None with torch.
    `parameters` and `multiply_adds`, for one image, are None where the file does not say. `memory` is in
    bytes, `p50` and `p95` are seconds for one image, `throughput` is images per second, 32 at once.
    `accuracy` is the mAP of its queries in the gallery of the full sub-model's float32 file, a fraction;
    None where it was never tested.
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

    @property
    def label(self) -> str:
        """Of its form: float32 or int8 for a file, torch for the reference."""
        return TORCH if self.runtime == TORCH else self.form

    @property
    def name(self) -> str:
        """As messages call it: "0.25 int8"."""
        return f"{self.width:g} {self.label}"


@dataclass(frozen=True)
class Profile:
    """The sub-models of one family, with so many threads.

    `rows` are in the order of widths. `dataset` is what accuracies are of; None where there are none.
    """

    fingerprint: str
    dataset: str | None
    threads: int
    rows: tuple[Measured, ...]

    @property
    def reference(self) -> Measured | None:
        """What others are compared with: the full sub-model in float32, with torch if that was there."""
        full = [row for row in self.rows if row.width == 1.0 and row.form == "float32"]
        return next((row for row in full if row.runtime == TORCH), next(iter(full), None))

    def to_json(self) -> dict[str, Any]:
        """The profile as plain lists and numbers."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    def write(self, run: str | Path) -> list[Path]:
        """Write `profile.json`, and remove the figure of an earlier profile.

        It comes into the run folder, or below it if the accuracies are of a data set that is not the run's.

        Returns:
            The path of `profile.json`, alone in a list. `sfsc.report.result_figures.draw_profile` draws the
            figure that lies beside it.
        """
        folder = _folder(Path(run), self.dataset)
        write_with(folder / PROFILE_FILE, as_json(self.to_json()), {folder / PROFILE_FIGURE: None})
        return [folder / PROFILE_FILE]

    @classmethod
    def read(cls, run: str | Path, dataset: str | None = None) -> Profile:
        """The profile of a run folder, with accuracies on a data set; by default on the run's own.

        Raises:
            SfscError: there is none, or it is damaged or of another family.
        """
        path = _folder(Path(run), dataset) / PROFILE_FILE
        again = f"run `sfsc profile {run}{f' --dataset {dataset}' if dataset else ''}`"
        if not path.exists():
            raise SfscError(f"{path.parent} has no {PROFILE_FILE}: {again}")
        try:
            profile: Profile = conform(read_json(path), cls)
        except ValueError as error:
            raise SfscError(f"{path} is damaged: {again} again ({error})") from None
        if profile.fingerprint != _describe(Path(run))[0]:
            raise SfscError(f"{path} is of another family: {again} again")
        return profile


def profile(
    run: str | Path,
    dataset: str | None = None,
    threads: int = 1,
    seconds: float = SECONDS,
    allow_code: str | None = None,
) -> Profile:
    """Measure every sub-model as an exported file, and with torch where that and the weights are there.

    Files are those of `RUN/export`. With torch, what is missing there or of another family is exported
    first; without, the files that are there are measured. Accuracies are tested where the data set is there;
    those of an earlier profile for the same files and the same data set are kept.

    Args:
        run: a run folder; without torch, its `family.json` and `export` are enough.
        dataset: KIND:PATH; by default the run's own or, where the folder does not say it, that of
            `RUN/profile.json`.
        threads: that compute when time and memory are measured.
        seconds: for one image at once, and again for 32, of each sub-model in each form.
        allow_code: as for `Family.load`.

    Raises:
        SfscError: no run, nothing to measure, a file of another family, a data set that was named and cannot
            be opened, or an image in it that cannot be read.
    """
    run = Path(run)
    if dataset is not None:
        open_dataset(dataset)  # if it cannot be, that is said before the first export
    subjects = _subjects(run, allow_code)
    accuracies = _accuracies(run, dataset, subjects)
    own = _own_dataset(run) if accuracies else None
    dataset = location.absolute(dataset) if dataset else own
    rows = []
    for subject in track(subjects, "measuring"):
        found = measure(subject.path, subject.width, threads, seconds, allow_code)
        rows.append(subject.measured(run, found, accuracies.get(subject.name)))
    return Profile(_describe(run)[0], dataset, threads, tuple(rows))


@dataclass(frozen=True)
class _Subject:
    """What is measured: a file and its model, or a run and its family. `said` is what the file says."""

    path: Path
    model: Model
    runtime: str
    said: Exported

    @property
    def width(self) -> float:
        return self.said.width

    @property
    def name(self) -> str:
        return f"{self.width:g} {TORCH if self.runtime == TORCH else self.said.form}"

    @property
    def digest(self) -> str | None:
        return None if self.runtime == TORCH else file_digest(self.path)

    def measured(self, run: Path, found: Measurement, accuracy: float | None) -> Measured:
        """The row of the profile."""
        exported = self.runtime != TORCH
        return Measured(
            width=self.width,
            runtime=self.runtime,
            form=self.said.form,
            file=str(self.path.relative_to(run)) if exported else None,
            digest=self.digest,
            size=self.path.stat().st_size if exported else None,
            parameters=self.said.parameters,
            multiply_adds=self.said.multiply_adds,
            **asdict(found),
            accuracy=accuracy,
        )


def _subjects(run: Path, allow_code: str | None) -> list[_Subject]:
    fingerprint, widths = _describe(run)
    family = _load_family(run, allow_code)
    paths = {
        (width, form): run / EXPORT_FOLDER / f"{width:g}{'-int8' if form == 'int8' else ''}.onnx"
        for width in widths
        for form in ("float32", "int8")
    }
    if family is not None:
        _export_missing(run, family, paths)
    subjects = []
    for (_, form), path in paths.items():
        if not path.exists():
            continue
        model = ExportedModel.load(path)
        if model.fingerprint != fingerprint:
            raise SfscError(f"{path} is not of the family of {run}: run `sfsc export {run}` where torch is")
        if family is not None and form == "float32":
            subjects.append(_Subject(run, family, TORCH, model.exported))
        subjects.append(_Subject(path, model, ONNX, model.exported))
    if not subjects:
        raise SfscError(f"{run / EXPORT_FOLDER} holds no sub-model: run `sfsc export {run}` where torch is")
    return subjects


def _load_family(run: Path, allow_code: str | None) -> Family | None:
    """The family, where torch and its weights are there."""
    try:
        from sfsc.family.family import Family
    except ModuleNotFoundError:
        return None
    return Family.load(run, allow_code) if (run / FAMILY_FILE).exists() else None


def _export_missing(run: Path, family: Family, paths: Mapping[tuple[float, str], Path]) -> None:
    from sfsc.data.image_paths import images_of
    from sfsc.deploy.exporting import export
    from sfsc.training.config import dataset_of

    missing = [key for key, path in paths.items() if not _is_of(path, family.fingerprint)]
    if missing:
        images = images_of(dataset_of(run), "train").paths
        for width, form in track(missing, "exporting"):
            export(family, width, paths[width, form], images, form == "int8")


def _is_of(path: Path, fingerprint: str) -> bool:
    try:
        return ExportedModel.load(path).fingerprint == fingerprint
    except SfscError:  # missing or damaged
        return False


def _accuracies(run: Path, named: str | None, subjects: Sequence[_Subject]) -> dict[str, float]:
    """By the names of subjects, accuracies on a data set: known ones, and those that can be tested."""
    dataset = named or _own_dataset(run)
    if dataset is None:
        return {}
    known = _known_accuracies(run, dataset)
    found = {s.name: known[s.name, s.digest] for s in subjects if (s.name, s.digest) in known}
    untested = [subject for subject in subjects if subject.name not in found]
    full = next((s.model for s in subjects if s.name == "1 float32"), None)
    if untested and full is not None:
        try:
            opened = open_dataset(dataset)
        except SfscError:  # the data set is not on this machine
            pass
        else:
            embedders = {s.name: partial(s.model.embed_pixels, width=s.width) for s in untested}
            found |= accuracies_of(embedders, full, opened)
    return found


def _known_accuracies(run: Path, dataset: str) -> dict[tuple[str, str | None], float]:
    """By name and digest, the accuracies of an earlier profile, if that is of this family and data set."""
    try:
        before = Profile.read(run, dataset)
    except SfscError:
        return {}
    if before.dataset is None or not location.same(
        location.found(before.dataset, run), location.absolute(dataset)
    ):
        return {}
    return {(row.name, row.digest): row.accuracy for row in before.rows if row.accuracy is not None}


def accuracies_of(embedders: Mapping[str, Embed], full: Model, dataset: Dataset) -> dict[str, float]:
    """The mAP of each embedder's queries in the gallery that the full sub-model embeds, as fractions.

    Raises:
        SfscError: a split is empty, an image cannot be read, or no query has a positive.
    """
    query, gallery = dataset.query, dataset.gallery
    [rows] = _embed({"full": partial(full.embed_pixels, width=1.0)}, gallery.paths, full.image_size).values()
    queries = _embed(embedders, query.paths, full.image_size)
    return {name: evaluate_ranking(found, rows, query, gallery).mean_ap for name, found in queries.items()}


def _embed(
    embedders: Mapping[str, Embed], paths: Sequence[str], size: tuple[int, int]
) -> dict[str, np.ndarray]:
    embedded = Embedded.join(list(embed_images(embedders, paths, size)))
    if bad := embedded.corrupt:
        raise SfscError(f"{len(bad)} of {len(paths)} images cannot be read, the first: {bad[0]}; repair it")
    return embedded.vectors


class _Family(TypedDict):
    """What is asked of a family without its network."""

    fingerprint: str
    widths: list[float]


def _describe(run: Path) -> tuple[str, list[float]]:
    """The fingerprint and the widths of a run's family; without torch."""
    values, path = read_description(run)
    try:
        content = conform(values, _Family)
    except ValueError as error:
        raise SfscError(f"{path} does not describe a family: {error}") from None
    return content["fingerprint"], content["widths"]


def _own_dataset(run: Path) -> str | None:
    """What the run was trained on; where its settings are not there, what its profile is of."""
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
    """Where the profile with accuracies on a data set is; without any it is the run's own."""
    return run if dataset is None else results_folder(run, dataset, _own_dataset(run))


def file_digest(path: Path) -> str:
    """16 hexadecimal digits that identify what a file holds."""
    return sha256(path.read_bytes()).hexdigest()[:16]
