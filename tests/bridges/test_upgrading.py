"""Galleries that a bridge moves into another space: completely, resumed after a kill, or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lance import LanceDataset

from sfsc import Gallery, SfscError, index, upgrade
from sfsc.bridges.bridge import Bridge, Space
from sfsc.bridges.upgrading import refit_gallery, upgrade_gallery
from sfsc.data import find_images
from sfsc.gallery import rewriting
from sfsc.gallery.deciding import decide
from sfsc.gallery.rewriting import PROGRESS
from sfsc.gallery.store import BRIDGE_ERROR, ORIGINAL
from tests.bridges.spaces import NEW, OLD, embeddings, make_bridge, model, unit
from tests.decisions.pairs import example

ROWS = 60
FORMS = ("float32", "float16", "int8")


@pytest.fixture(scope="module")
def bridge() -> Bridge:
    return make_bridge(noise=0.1)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return filled(tmp_path / "gallery")


def filled(folder: Path) -> Gallery:
    """A gallery of the old model, with rows in every form, attributes, and a row that was deleted."""
    gallery, rows = Gallery.open(folder, create=True), embeddings(ROWS)
    for place, form in enumerate(FORMS):
        chosen = range(place, ROWS, 3)
        gallery.add(
            rows[chosen],
            [str(row) for row in chosen],
            paths=[f"/photos/{row}.png" for row in chosen],
            identities=[str(row % 7) for row in chosen],
            attributes={"price": [row / 2 for row in chosen]},
            width=1.0,
            fingerprint=OLD.fingerprint,
            form=form,
        )
    gallery.delete(["5"])
    return gallery


def contents(gallery: Gallery) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in gallery.rows(embeddings=True)}


def test_all_rows_are_moved_and_marked(gallery: Gallery, bridge: Bridge) -> None:
    before = contents(gallery)
    assert upgrade_gallery(gallery, bridge) == ROWS - 1
    after = contents(gallery)
    mapped, errors = bridge.forward(np.stack([row["embedding"] for row in before.values()]))
    for place, (id_, row) in enumerate(before.items()):
        kept = ("path", "identity", "width", "form", "time", "price")
        assert [after[id_][name] for name in kept] == [row[name] for name in kept]
        assert after[id_]["fingerprint"] == NEW.fingerprint
        assert after[id_][BRIDGE_ERROR] == pytest.approx(errors[place])
        np.testing.assert_allclose(after[id_]["embedding"], mapped[place], atol=0.02)
    info = gallery.info()
    assert (info.rows, info.dimension, info.fingerprint) == (ROWS - 1, NEW.dimension, NEW.fingerprint)
    assert (info.bridged, info.bridged_from, info.dimensions) == (ROWS - 1, OLD.fingerprint, NEW.dimensions)
    assert not gallery.verify().findings


def test_searches_follow_in_every_process(gallery: Gallery, bridge: Bridge) -> None:
    other = Gallery.open(gallery.name)
    assert other.search(embeddings(1), OLD.fingerprint, 1)[0][0].id == "0"
    upgrade_gallery(gallery, bridge)
    query = bridge.forward(embeddings(1))[0]
    for one in (gallery, other, Gallery.open(gallery.name)):
        hit = one.search(query, NEW.fingerprint, 1)[0][0]
        assert (hit.id, hit.score) == ("0", pytest.approx(1, abs=1e-4))
        assert one.search(query[:, :6], NEW.fingerprint, 1)[0], "nested dimensions of the family"
        with pytest.raises(
            SfscError, match=r"belongs to the family 0123456789abcdef, .* the space last-year"
        ):
            one.search(embeddings(1), OLD.fingerprint, 1)


def test_rows_of_the_family_can_be_added_and_replace_bridged_ones(gallery: Gallery, bridge: Bridge) -> None:
    upgrade_gallery(gallery, bridge)
    new = embeddings(2, NEW.dimension)
    gallery.add(new, ["0", "new"], paths=["/a", "/b"], width=1.0, fingerprint=NEW.fingerprint)
    assert gallery.count([f"{BRIDGE_ERROR}="]) == 2
    assert gallery.search(new[:1], NEW.fingerprint, 1)[0][0].id == "0"


def test_the_originals_are_kept_until_they_are_dropped(gallery: Gallery, bridge: Bridge) -> None:
    before = contents(gallery)
    upgrade_gallery(gallery, bridge)
    after = contents(gallery)
    stored = LanceDataset(f"{gallery.name}/gallery.lance").to_table(["id", "form", ORIGINAL]).to_pylist()
    for row in stored:
        if row["form"] == "float32":
            original = np.frombuffer(row[ORIGINAL], np.float32)
            np.testing.assert_array_equal(original, before[row["id"]]["embedding"])
    assert upgrade_gallery(gallery, bridge) == 0, "it was moved before"
    again = make_bridge(NEW, Space("next year", "fedcba9876543210", 16))
    with pytest.raises(SfscError, match=r"keeps the embeddings .* --drop-originals"):
        upgrade_gallery(gallery, again)
    assert gallery.drop_originals() == ROWS - 1
    assert {id_: list(row["embedding"]) for id_, row in contents(gallery).items()} == {
        id_: list(row["embedding"]) for id_, row in after.items()
    }
    with pytest.raises(SfscError, match="has no original embeddings"):
        gallery.drop_originals()
    assert upgrade_gallery(gallery, again) == ROWS - 1
    assert contents(gallery)["0"][BRIDGE_ERROR] > after["0"][BRIDGE_ERROR], "errors add up"


@pytest.mark.parametrize("what", ["family", "dimension", "attribute", "empty", "two families"])
def test_what_cannot_be_moved_is_unchanged(gallery: Gallery, tmp_path: Path, what: str) -> None:
    chosen, message = make_bridge(), "is not reached"
    if what == "family":
        chosen = make_bridge(Space("x", "space:other", 8))
        message = r"from the space other .* but gallery .* belongs to the space last-year"
    elif what == "dimension":
        chosen, message = (
            make_bridge(Space("x", OLD.fingerprint, 6)),
            "has 8 dimensions, but the bridge maps 6",
        )
    elif what == "attribute":
        facts: Any = {"paths": ["/x"], "width": 1.0, "fingerprint": OLD.fingerprint}
        gallery.add(embeddings(1), ["x"], attributes={BRIDGE_ERROR: ["great"]}, **facts)
        message = f"column {BRIDGE_ERROR} has type text"
    elif what == "empty":
        gallery, message = Gallery.open(tmp_path / "empty", create=True), "contains no rows to upgrade"
    else:
        message = "belongs to the space last-year, but the embeddings belong to 0123456789abcdef"
    before = {id_: str(row) for id_, row in contents(gallery).items()}
    with pytest.raises(SfscError, match=message):
        if what == "two families":
            gallery.add(embeddings(1), ["x"], paths=["/x"], width=1.0, fingerprint=NEW.fingerprint)
        else:
            upgrade_gallery(gallery, chosen)
    assert {id_: str(row) for id_, row in contents(gallery).items()} == before


KILLED = """
import os, signal, sys
from sfsc import Gallery
from sfsc.bridges.bridge import Bridge
from sfsc.bridges.upgrading import upgrade_gallery
from sfsc.gallery import rewriting
rewriting.ROWS_PER_PART = 10
add, written = rewriting._Done.add, []
def killed(done, fragments):
    add(done, fragments)
    written.append(fragments)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
rewriting._Done.add = killed
upgrade_gallery(Gallery.open(sys.argv[1]), Bridge.load(sys.argv[2]))
"""


def test_a_killed_upgrade_loses_nothing_and_continues(
    gallery: Gallery, bridge: Bridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge.save(tmp_path / "bridge.safetensors")
    before = contents(gallery)
    command = [sys.executable, "-c", KILLED, gallery.name, str(tmp_path / "bridge.safetensors")]
    done = subprocess.run(command, env=os.environ, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert contents(gallery).keys() == before.keys()
    assert gallery.search(embeddings(1), OLD.fingerprint, 1)[0][0].id == "0", "the old rows are searched"
    assert len(json.loads((Path(gallery.name) / PROGRESS).read_text())["parts"]) == 3
    monkeypatch.setattr(rewriting, "ROWS_PER_PART", 10)
    parts: list[Any] = []
    add = rewriting._Done.add
    monkeypatch.setattr(rewriting._Done, "add", lambda done, one: (parts.append(one), add(done, one)))
    assert upgrade_gallery(gallery, bridge) == ROWS - 1
    assert len(parts) == 6 - 3, "finished parts are not written again"
    after = contents(gallery)
    assert after.keys() == before.keys()
    assert all(row[BRIDGE_ERROR] is not None for row in after.values())
    assert not gallery.verify().findings
    assert not (Path(gallery.name) / PROGRESS).exists()


def test_parts_are_not_continued_after_a_change(
    gallery: Gallery, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "ROWS_PER_PART", 10)
    add, left = rewriting._Done.add, [2]

    def failing(done: Any, one: Any) -> None:
        add(done, one)
        left[0] -= 1
        if not left[0]:
            raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(rewriting._Done, "add", failing)
        with pytest.raises(SfscError, match="free disk space and run the command again"):
            upgrade_gallery(gallery, bridge)
    gallery.add(embeddings(1, seed=9), ["more"], paths=["/more"], width=1.0, fingerprint=OLD.fingerprint)
    assert upgrade_gallery(gallery, bridge) == ROWS
    assert contents(gallery)["more"][BRIDGE_ERROR] is not None


def test_bridged_rows_have_no_probability(gallery: Gallery, bridge: Bridge) -> None:
    upgrade_gallery(gallery, bridge)
    hits = gallery.search(bridge.forward(embeddings(1))[0], NEW.fingerprint, 3)[0]
    assert decide(hits, example(), 1.0, 12, ROWS) == hits


@pytest.mark.parametrize("order", ["uncertainty", "queries", "width", "age", "spread"])
def test_bridged_rows_are_embedded_again_in_order(shapes: str, tmp_path: Path, order: str) -> None:
    folder = Path(shapes.partition(":")[2]).parent
    old, new = model(8, OLD.fingerprint), model(12, NEW.fingerprint, seed=1)
    gallery = Gallery.open(tmp_path / "gallery", create=True)
    index(old, folder, gallery, workers=0)
    upgrade_gallery(gallery, make_bridge(noise=0.3))
    expected = [row["id"] for row in sorted(gallery.rows(), key=lambda row: -row[BRIDGE_ERROR])]
    queries = str(folder) if order == "queries" else None
    assert upgrade(new, gallery, workers=0, order=order, limit=5, queries=queries) == []
    done = {row["id"] for row in gallery.rows([f"{BRIDGE_ERROR}="])}
    assert len(done) == 5
    if order not in ("queries", "spread"):
        assert done == {*expected[:5]}, "rows that are equal otherwise come by expected error"
    upgrade(new, gallery, workers=0)
    assert gallery.count([f"{BRIDGE_ERROR}="]) == len(gallery) == len(find_images(folder))


def test_orders_are_checked(gallery: Gallery) -> None:
    old = model()
    with pytest.raises(
        SfscError, match="unknown order 'size'; choose one of width, uncertainty, age, queries, spread"
    ):
        upgrade(old, gallery, order="size")
    with pytest.raises(SfscError, match="give --queries IMAGES"):
        upgrade(old, gallery, order="queries")


def bent(bridge: Bridge, rows: np.ndarray) -> np.ndarray:
    """What the new model gives for rows of the old one: something that the bridge misses everywhere."""
    away = np.random.default_rng(7).standard_normal(NEW.dimension)
    return unit(bridge.forward(rows)[0] + 0.5 * np.tanh(3 * rows[:, :1]) * away / np.linalg.norm(away))


def embedded_again(gallery: Gallery, bridge: Bridge, count: int) -> dict[str, np.ndarray]:
    """Replace bridged rows by those that the new model gives; return the original of every row."""
    originals = {
        id_: original
        for ids, some, _ in gallery.originals(8)
        for id_, original in zip(ids, some, strict=True)
    }
    rows = [*gallery.rows([f"{BRIDGE_ERROR}!="])][:count]
    new = bent(bridge, np.stack([originals[row["id"]] for row in rows]))
    for row, vector in zip(rows, new, strict=True):
        facts: Any = {"paths": [row["path"]], "identities": [row["identity"]], "form": row["form"]}
        facts |= {"width": 1.0, "fingerprint": NEW.fingerprint, "attributes": {"price": [row["price"]]}}
        gallery.add(vector[None], [row["id"]], **facts, keep_originals=True)
    return originals


def test_a_refit_moves_the_other_rows_nearer_to_the_new_model(gallery: Gallery, bridge: Bridge) -> None:
    upgrade_gallery(gallery, bridge)
    originals = embedded_again(gallery, bridge, 30)
    assert len(originals) == ROWS - 1
    before = contents(gallery)
    assert refit_gallery(gallery, bridge) == ROWS - 1 - 30
    after = contents(gallery)
    assert after.keys() == before.keys()
    left = [id_ for id_, row in before.items() if row[BRIDGE_ERROR] is not None]
    for id_, row in after.items():
        changed = {name for name in row if np.any(row[name] != before[id_][name])}
        assert changed == ({"embedding", BRIDGE_ERROR} if id_ in left else set())
    targets = bent(bridge, np.stack([originals[id_] for id_ in left]))
    missed = [
        1 - (np.stack([rows[id_]["embedding"] for id_ in left]) * targets).sum(axis=1)
        for rows in (before, after)
    ]
    assert missed[1].mean() < 0.7 * missed[0].mean()
    kept = {id_: row for ids, some, _ in gallery.originals(8) for id_, row in zip(ids, some, strict=True)}
    assert all(np.array_equal(kept[id_], row) for id_, row in originals.items())
    assert not gallery.verify().findings
    found = Gallery.open(gallery.name).search(after[left[0]]["embedding"][None], NEW.fingerprint, 1)[0][0]
    assert (found.id, found.score) == (left[0], pytest.approx(1, abs=1e-3))


def test_a_refit_begins_with_the_originals_each_time(gallery: Gallery, bridge: Bridge) -> None:
    upgrade_gallery(gallery, bridge)
    embedded_again(gallery, bridge, 25)
    refit_gallery(gallery, bridge)
    once = contents(gallery)
    refit_gallery(gallery, bridge)
    twice = contents(gallery)
    assert all(np.array_equal(once[id_]["embedding"], row["embedding"]) for id_, row in twice.items())
    embedded_again(gallery, bridge, 10)
    assert refit_gallery(gallery, bridge) == ROWS - 1 - 35
    assert gallery.count([f"{BRIDGE_ERROR}!="]) == ROWS - 1 - 35


@pytest.mark.parametrize("what", ["few", "dropped", "not moved", "bridge"])
def test_what_cannot_be_refitted_is_unchanged(gallery: Gallery, bridge: Bridge, what: str) -> None:
    chosen, message = bridge, "keeps no original embeddings"
    if what != "not moved":
        upgrade_gallery(gallery, bridge)
        embedded_again(gallery, bridge, 19 if what == "few" else 30)
    if what == "few":
        message = "19 rows that were embedded again .* at least 20 again first"
    elif what == "dropped":
        gallery.drop_originals()
    elif what == "bridge":
        chosen, message = make_bridge(Space("x", "space:other", 8)), "but what gallery .* keeps belongs to"
    before = {id_: str(row) for id_, row in contents(gallery).items()}
    with pytest.raises(SfscError, match=message):
        refit_gallery(gallery, chosen)
    assert {id_: str(row) for id_, row in contents(gallery).items()} == before


def test_only_rows_of_the_same_images_keep_their_originals(gallery: Gallery, bridge: Bridge) -> None:
    upgrade_gallery(gallery, bridge)
    facts: Any = {"paths": ["/x"], "width": 1.0, "fingerprint": NEW.fingerprint}
    new = embeddings(1, NEW.dimension)
    gallery.add(new, ["0"], **facts)  # by default
    gallery.add(new, ["3"], **facts, form="int8", keep_originals=True)  # it was stored as float32
    gallery.add(new, ["6"], **facts, keep_originals=True)
    gallery.add(new, ["new"], **facts, keep_originals=True)
    kept = {id_ for ids, *_ in gallery.originals(8) for id_ in ids}
    assert kept == {str(row) for row in range(ROWS)} - {"0", "3", "5"}
    assert [ids for ids, *_ in gallery.originals(8, [f"{BRIDGE_ERROR}="]) if ids] == [["6"]]


REFITTED = KILLED.replace("upgrade_gallery", "refit_gallery")


def test_a_killed_refit_loses_nothing_and_continues(
    gallery: Gallery, bridge: Bridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge.save(tmp_path / "bridge.safetensors")
    upgrade_gallery(gallery, bridge)
    embedded_again(gallery, bridge, 20)
    gallery.optimize()
    before = {id_: str(row) for id_, row in contents(gallery).items()}
    command = [sys.executable, "-c", REFITTED, gallery.name, str(tmp_path / "bridge.safetensors")]
    done = subprocess.run(command, env=os.environ, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert {id_: str(row) for id_, row in contents(gallery).items()} == before
    monkeypatch.setattr(rewriting, "ROWS_PER_PART", 10)
    parts: list[Any] = []
    add = rewriting._Done.add
    monkeypatch.setattr(rewriting._Done, "add", lambda done, one: (parts.append(one), add(done, one)))
    assert refit_gallery(gallery, bridge) == ROWS - 1 - 20
    assert len(parts) == 6 - 3, "finished parts are not written again"
    after = contents(gallery)
    assert after.keys() == before.keys()
    assert not gallery.verify().findings


def test_rows_that_are_embedded_again_can_refit_the_bridge(shapes: str, tmp_path: Path) -> None:
    folder = Path(shapes.partition(":")[2]).parent
    old, new = model(8, OLD.fingerprint), model(12, NEW.fingerprint, seed=2)
    gallery, made = Gallery.open(tmp_path / "gallery", create=True), make_bridge(noise=0.3)
    index(old, folder, gallery, workers=0)
    upgrade_gallery(gallery, made)
    upgrade(new, gallery, workers=0, order="spread", limit=15)
    upgrade(new, gallery, workers=0, order="spread", limit=15)
    bridged = contents(gallery)
    left = [id_ for id_, row in bridged.items() if row[BRIDGE_ERROR] is not None]
    assert refit_gallery(gallery, made) == len(left) == len(gallery) - 30
    refitted = contents(gallery)
    upgrade(new, gallery, workers=0)
    truth, before, after = (
        np.stack([rows[id_]["embedding"] for id_ in left]) for rows in (contents(gallery), bridged, refitted)
    )
    assert (after * truth).sum(axis=1).mean() > (before * truth).sum(axis=1).mean() + 0.1
    assert sum(len(ids) for ids, *_ in gallery.originals(8)) == len(gallery)
    with pytest.raises(SfscError, match="has no original embeddings"):
        gallery.drop_originals()
        gallery.drop_originals()
