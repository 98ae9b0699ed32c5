"""Two open galleries of one directory against a dictionary: whatever happens there, both answer from it.

Once all rows are read into memory, as those of a small gallery are, and once they are in an index, as those
of a large one.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sfsc.gallery import Gallery

DIM = 8
IDS = st.sampled_from([f"row {place}" for place in range(6)])
NAMES = st.sampled_from(["price", "Price", "_rowid", "action", "unit price", "ä"])
VALUES = st.sampled_from([None, 1, 2, 2.5])
WHO = st.integers(0, 1)
Row = tuple[int, dict[str, Any]]  # the seed of the embedding, and the attributes that have values


def embedding(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, DIM)).astype(np.float32)


class TwoGalleries(RuleBasedStateMachine):
    """The directory, two galleries that have it open, and what should be in it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "gallery"
        self.rows: dict[str, Row] = {}
        self.copies: list[tuple[Path, dict[str, Row]]] = []
        self.clock, self.made = 0.0, 0

    @initialize()
    def open(self) -> None:
        self.galleries = [Gallery.open(self.path, create=True) for _ in range(2)]
        self.add(0, "first", 0, {})

    @rule(who=WHO, id_=IDS, seed=st.integers(0, 99), attributes=st.dictionaries(NAMES, VALUES, max_size=2))
    def add(self, who: int, id_: str, seed: int, attributes: dict[str, Any]) -> None:
        with mock.patch("time.time", return_value=time.time() + self.clock):
            self.galleries[who].add(
                embedding(seed),
                [id_],
                paths=[id_],
                width=1.0,
                fingerprint="f",
                attributes={name: [value] for name, value in attributes.items()},
            )
        self.rows[id_] = seed, {name: value for name, value in attributes.items() if value is not None}

    @rule(who=WHO, ids=st.sets(IDS, max_size=3))
    @precondition(lambda self: self.rows)
    def delete(self, who: int, ids: set[str]) -> None:
        there = ids & self.rows.keys()
        if ids:
            assert self.galleries[who].delete(sorted(ids)) == len(there)
        for id_ in there:
            del self.rows[id_]

    @rule(size=st.sampled_from([None, 0, 100]))
    def damage_records(self, size: int | None) -> None:
        for file in self.path.glob(".changes/*"):
            file.unlink() if size is None else file.write_bytes(file.read_bytes()[:size])

    @rule(who=WHO)
    def optimize(self, who: int) -> None:
        self.galleries[who].optimize()

    @rule(who=WHO)
    def refresh(self, who: int) -> None:
        self.galleries[who].refresh()

    @rule(seconds=st.sampled_from([-3600.0, 0.0, 3600.0]))
    def set_the_clock(self, seconds: float) -> None:
        self.clock = seconds

    @rule()
    def back_up(self) -> None:
        self.made += 1
        copy = self.folder / f"copy {self.made}"
        shutil.copytree(self.path, copy)
        self.copies.append((copy, dict(self.rows)))

    @rule(data=st.data(), move=st.booleans())
    @precondition(lambda self: self.copies)
    def restore(self, data: st.DataObject, move: bool) -> None:
        copy, rows = data.draw(st.sampled_from(self.copies))
        shutil.rmtree(self.path)
        if move:
            copy.rename(self.path)
            self.copies.remove((copy, rows))
        else:
            shutil.copytree(copy, self.path)
        self.rows = dict(rows)

    @rule(id_=IDS, seed=st.integers(0, 99))
    def put_another_in_its_place(self, id_: str, seed: int) -> None:
        with Gallery.open(self.folder / "new", create=True) as new:
            new.add(embedding(seed), [id_], paths=[id_], width=1.0, fingerprint="f")
        shutil.rmtree(self.path)
        (self.folder / "new").rename(self.path)
        self.rows = {id_: (seed, {})}

    @invariant()
    def both_answer_from_the_directory(self) -> None:
        for gallery in self.galleries:
            [hits] = gallery.search(embedding(7), "f", top=20)
            found = {hit.id: hit for hit in hits}
            assert len(hits) == len(gallery) == len(found)
            assert found.keys() == self.rows.keys()
            assert {row["id"] for row in gallery.rows()} == self.rows.keys()
            for id_, (seed, attributes) in self.rows.items():
                query, row = embedding(7)[0], embedding(seed)[0]
                cosine = query @ row / np.linalg.norm(query) / np.linalg.norm(row)
                assert abs(found[id_].score - cosine) < 1e-5
                said = {n: v for n, v in found[id_].attributes.items() if v is not None}
                assert said == attributes

    def teardown(self) -> None:
        for gallery in getattr(self, "galleries", []):
            gallery.close()
        shutil.rmtree(self.folder)


class TwoGalleriesWithAnIndex(TwoGalleries):
    """The same with an index of a few rows."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = [
            mock.patch("sfsc.gallery.index.INDEXED_FROM", 2),
            mock.patch("sfsc.gallery.index.LEAST_STALE", 1),
            mock.patch("sfsc.gallery.index.LISTED_FROM", 2),
            mock.patch("sfsc.gallery.upkeep.LOOKED_UP_FROM", 2),
        ]
        for patch in self.patches:
            patch.start()

    def teardown(self) -> None:
        super().teardown()
        for patch in self.patches:
            patch.stop()


SETTINGS = settings(
    max_examples=10,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestTwoGalleries = TwoGalleries.TestCase
TestTwoGalleries.settings = SETTINGS
TestTwoGalleriesWithAnIndex = TwoGalleriesWithAnIndex.TestCase
TestTwoGalleriesWithAnIndex.settings = SETTINGS
