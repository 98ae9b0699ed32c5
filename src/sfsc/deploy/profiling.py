"""Measuring size, memory, time and accuracy of every sub-model in every numeric form on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfsc.data.sources import Dataset, open_dataset
from sfsc.deploy.measuring import Measurement, measure
from sfsc.deploy.profile import ONNX, TORCH, Measured, Profile, file_digest, read_family, tested_dataset
from sfsc.embedding.embedded import Embedded, Embedder, embed_images
from sfsc.embedding.exported import Exported, ExportedModel
from sfsc.embedding.model import Model
from sfsc.errors import SfscError
from sfsc.progress import track
from sfsc.retrieval.ranking import evaluate_ranking
from sfsc.runs import datasets as location
from sfsc.runs.paths import FAMILY_FILE

if TYPE_CHECKING:
    from sfsc.family.family import Family

EXPORT_FOLDER = "export"
SECONDS = 2.0


def profile(
    run: str | Path,
    dataset: str | None = None,
    threads: int = 1,
    seconds: float = SECONDS,
    allow_code: str | None = None,
) -> Profile:
    """Measure every sub-model as an exported file, and with torch if torch and the weights are available.

    The files are those in `RUN/export`. With torch, files that are missing or belong to another family are
    exported first. Without torch, only existing files are measured. Accuracies are computed if the data set
    is available; accuracies of an older profile are kept if file and data set are the same.

    Args:
        run: a run folder. Without torch, its `family.json` and `export` are sufficient.
        dataset: KIND:PATH of the data set for the accuracies; by default the run's own or, if the folder does
            not name it, that of `RUN/profile.json`.
        threads: the number of threads that compute while time and memory are measured.
        seconds: the time to measure single images, and again to measure batches of 32, for each sub-model in
            each form.
        allow_code: as for `Family.load`.

    Returns:
        The profile. Call its `write` to store it in the run folder.

    Raises:
        SfscError: the folder is not a run folder, there is nothing to measure, a file belongs to another
            family, the data set cannot be opened, or one of its images cannot be read.

    Example::

        from sfsc.deploy.profiling import profile

        found = profile("runs/photos")
        found.write("runs/photos")
        for row in found.rows:
            print(row.name, row.size, row.p50, row.accuracy)
    """
    run = Path(run)
    if dataset is not None:
        open_dataset(dataset)  # reports a wrong name before the first export
    subjects = _subjects(run, allow_code)
    accuracies = _accuracies(run, dataset, subjects)
    own = tested_dataset(run) if accuracies else None
    dataset = location.absolute(dataset) if dataset else own
    rows = []
    for subject in track(subjects, "measuring"):
        found = measure(subject.path, subject.width, threads, seconds, allow_code)
        rows.append(subject.measured(run, found, accuracies.get(subject.name)))
    return Profile(read_family(run)[0], dataset, threads, tuple(rows))


@dataclass(frozen=True)
class _Subject:
    """A file with its model, or a run with its family, to measure. `said` is the metadata of the file."""

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
        """Return the row of the profile."""
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
            image_size=self.said.image_size,
            depth=self.said.depth,
        )


def _subjects(run: Path, allow_code: str | None) -> list[_Subject]:
    fingerprint, widths = read_family(run)
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
            raise SfscError(
                f"{path} does not belong to the family of {run}: "
                f"run `sfsc export {run}` where torch is installed"
            )
        if family is not None and form == "float32":
            subjects.append(_Subject(run, family, TORCH, model.exported))
        subjects.append(_Subject(path, model, ONNX, model.exported))
    if not subjects:
        raise SfscError(
            f"{run / EXPORT_FOLDER} contains no sub-model: run `sfsc export {run}` where torch is installed"
        )
    return subjects


def _load_family(run: Path, allow_code: str | None) -> Family | None:
    """Load the family if torch and its weights are available."""
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
    """Return accuracies on a data set by the names of subjects: known ones and those that can be tested."""
    dataset = named or tested_dataset(run)
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
            embedders = {s.name: Embedder.of(s.model, s.width) for s in untested}
            found |= accuracies_of(embedders, full, opened)
    return found


def _known_accuracies(run: Path, dataset: str) -> dict[tuple[str, str | None], float]:
    """Return the accuracies of an older profile of this family and data set, by name and digest."""
    try:
        before = Profile.read(run, dataset)
    except SfscError:
        return {}
    if before.dataset is None or not location.same(
        location.found(before.dataset, run), location.absolute(dataset)
    ):
        return {}
    return {(row.name, row.digest): row.accuracy for row in before.rows if row.accuracy is not None}


def accuracies_of(embedders: Mapping[str, Embedder], full: Model, dataset: Dataset) -> dict[str, float]:
    """Compute the mAP of each embedder's queries in the full sub-model's gallery, as fractions.

    Raises:
        SfscError: a split is empty, an image cannot be read, or no query has a positive.
    """
    query, gallery = dataset.query, dataset.gallery
    [rows] = embed_with({"full": Embedder.of(full, 1.0)}, gallery.paths).values()
    queries = embed_with(embedders, query.paths)
    return {name: evaluate_ranking(found, rows, query, gallery).mean_ap for name, found in queries.items()}


def embed_with(embedders: Mapping[str, Embedder], paths: Sequence[str]) -> dict[str, np.ndarray]:
    """Return (N, dim) float32 embeddings of images by each embedder.

    Raises:
        SfscError: an image cannot be read.
    """
    embedded = Embedded.join(list(embed_images(embedders, paths)))
    if bad := embedded.corrupt:
        raise SfscError(f"{len(bad)} of {len(paths)} images cannot be read, the first: {bad[0]}; repair it")
    return embedded.vectors
