"""What every store must do: the same tests on Lance and on Milvus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfsc.errors import SfscError
from sfsc.gallery import Condition, Gallery, GalleryInfo, Hit
from sfsc.gallery.gallery import open_store
from sfsc.gallery.store import BRIDGED_FORMAT, Description

DIM = 16
NESTED = (4, 8, DIM)  # in which a family's embeddings stand alone
Opener = Callable[..., Gallery]


def embeddings(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def add(gallery: Gallery, rows: np.ndarray, ids: list[str] | None = None, **changes: Any) -> int:
    names = ids or [f"{row}" for row in range(len(rows))]
    arguments = {"paths": [f"{name}.png" for name in names], "width": 0.5, "fingerprint": "f"}
    return gallery.add(rows, names, **{**arguments, **changes})


@pytest.fixture(params=["lance", "milvus"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "gallery") if request.param == "lance" else f"milvus://{tmp_path}/gallery.db/rows"


@pytest.fixture
def opener(address: str) -> Iterator[Opener]:
    """Opens the gallery; one of milvus-lite is closed first, which only one client can have open."""
    opened: list[Gallery] = []

    def reopen(create: bool = False) -> Gallery:
        while opened:
            opened.pop().close()
        opened.append(Gallery.open(address, create=create))
        return opened[0]

    yield reopen
    while opened:
        opened.pop().close()


@pytest.fixture
def gallery(opener: Opener) -> Gallery:
    gallery = opener(create=True)
    add(gallery, embeddings(300))
    return gallery


def coloured(gallery: Gallery) -> None:
    """Give 300 rows attributes of each kind."""
    add(
        gallery,
        embeddings(300),
        cameras=[str(row % 3) for row in range(300)],
        attributes={
            "colour": [["red", "blue", 'it\'s "green"', None][row % 4] for row in range(300)],
            "price": [row / 10 for row in range(300)],
            "Stock": np.arange(300),
            "sold": [row % 2 == 0 for row in range(300)],
        },
    )


def test_search_is_exact(gallery: Gallery) -> None:
    queries = embeddings(7, seed=1)
    cosine = unit(queries) @ unit(embeddings(300)).T
    for scores, hits in zip(cosine, gallery.search(queries, "f", top=20), strict=True):
        best = np.argsort(-scores)[:20]
        assert [hit.id for hit in hits] == [str(row) for row in best]
        assert [hit.score for hit in hits] == pytest.approx(scores[best], abs=1e-6)


def test_rows_come_back_as_they_were_added(opener: Opener) -> None:
    rows = embeddings(2)
    gallery = opener(create=True)
    assert gallery.info() == GalleryInfo(0, None, None, {}, {}, {})
    assert len(gallery) == 0
    assert gallery.search(rows, "f") == [[], []]
    labels = {"identities": np.array(["cat", "dog"]), "cameras": ["1", "2"]}
    assert add(gallery, rows, ["a", "b"], width=0.25, **labels, attributes={"price": [1, 2.5]}) == 2
    assert add(gallery, embeddings(1, seed=1), ["c"], width=1.0, attributes={"new": [True]}) == 1
    assert add(gallery, rows[:0], []) == 0
    again = opener()
    assert len(again) == 3
    kinds = {"price": "number", "new": "boolean"}
    assert again.info() == GalleryInfo(3, DIM, "f", {0.25: 2, 1.0: 1}, {"float32": 3}, kinds)
    hits = again.search(rows, "f")
    assert [len(found) for found in hits] == [3, 3]
    assert hits[1][0] == Hit(
        *("b", "b.png", "dog", "2", 0.25, "float32", pytest.approx(1, abs=1e-6)),
        attributes={"price": 2.5, "new": None},
    )
    last = next(hit for hit in hits[0] if hit.id == "c")
    assert (last.identity, last.attributes) == (None, {"price": None, "new": True})
    stored = {row["id"]: row for row in again.rows(["price>2"], embeddings=True)}
    assert list(stored) == ["b"]
    np.testing.assert_allclose(stored["b"]["embedding"], unit(rows)[1], atol=1e-6)
    assert stored["b"]["fingerprint"] == "f"
    assert stored["b"]["time"] > 1.7e9


def test_the_same_id_replaces_the_row(gallery: Gallery) -> None:
    new = embeddings(2, seed=9)
    assert gallery.search(new, "f", top=1)[0][0].score < 0.99
    add(gallery, new, ["5", "new"], width=1.0)
    assert gallery.info().rows_by_width == {0.5: 299, 1.0: 2}
    assert [hits[0].id for hits in gallery.search(new, "f", top=1)] == ["5", "new"]
    assert gallery.search(embeddings(300)[5:6], "f", top=1)[0][0].id != "5"


def test_ties_are_ordered_by_id(gallery: Gallery) -> None:
    names = [f"tied {number}" for number in range(50)]
    row = embeddings(1, seed=3)
    for chosen in np.random.default_rng(0).permutation(names).reshape(5, 10):
        add(gallery, np.repeat(row, 10, axis=0), chosen.tolist())
    assert [hit.id for hit in gallery.search(row, "f", top=8)[0]] == sorted(names)[:8]
    assert [hit.id for hit in gallery.search(row, "f", top=8, where=["width=0.5"])[0]] == sorted(names)[:8]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["camera=1"], lambda row: row % 3 == 1),
        (['camera="0","2"', "price < 5"], lambda row: row % 3 != 1 and row < 50),
        (["colour!=red"], lambda row: row % 4 in (1, 2)),
        (['colour!="red","blue"'], lambda row: row % 4 == 2),
        (["colour="], lambda row: row % 4 == 3),
        (["colour!="], lambda row: row % 4 != 3),
        (["colour=red", "colour="], lambda row: row % 4 in (0, 3)),
        (["identity="], lambda row: True),
        (["camera=1", "camera=2", "Stock>=200"], lambda row: row % 3 and row >= 200),
        (['colour="it\'s ""green"""'], lambda row: row % 4 == 2),
        ([Condition("colour", "=", ('it\'s "green"',))], lambda row: row % 4 == 2),
        (["sold=true", "Stock>=290"], lambda row: row >= 290 and row % 2 == 0),
        (["Stock<=3", "Stock>1"], lambda row: row in (2, 3)),
        (['price="0.3","0.4","1000"'], lambda row: row in (3, 4)),
        (["id=7"], lambda row: row == 7),
        (["identity=cat"], lambda row: False),
    ],
)
def test_filters_are_exact(gallery: Gallery, where: Any, expected: Callable[[int], bool]) -> None:
    coloured(gallery)
    cosine = (unit(embeddings(300)) @ unit(embeddings(1, seed=2)).T)[:, 0]
    best = [str(row) for row in np.argsort(-cosine) if expected(int(row))]
    for exact in (True, False):
        hits = gallery.search(embeddings(1, seed=2), "f", top=300, where=where, exact=exact)[0]
        assert [hit.id for hit in hits] == best
    assert sorted(row["id"] for row in gallery.rows(where)) == sorted(best)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("size=2", "no column 'size'; its columns are id, path, .*, colour"),
        ("price=cheap", "column price has type number, but 'cheap' is not"),
        ("Stock=1.5", "column Stock has type integer, but '1.5' is not"),
        ("sold=maybe", "column sold has type boolean, but 'maybe' is not"),
        ("colour<red", "column colour has type text: compare it with = or !=, not <"),
        ("colour", "a condition must have the form COLUMN=VALUE"),
    ],
)
def test_a_filter_that_says_nothing_is_refused(gallery: Gallery, where: str, message: str) -> None:
    coloured(gallery)
    for use in (
        lambda: gallery.search(embeddings(1), "f", where=[where]),
        lambda: gallery.delete(where=[where]),
        lambda: list(gallery.rows([where])),
    ):
        with pytest.raises(SfscError, match=message):
            use()
    assert len(gallery) == 300


def test_rows_are_deleted_by_id_and_by_condition(gallery: Gallery) -> None:
    coloured(gallery)
    assert gallery.delete(["3", "4", "none"]) == 2
    assert gallery.delete(where=["price>=29"]) == 10
    assert gallery.delete([str(row) for row in range(20)], where=["sold=true"]) == 9
    assert len(gallery) == 279
    found = {hit.id for hit in gallery.search(embeddings(1), "f", top=300)[0]}
    assert len(found) == 279
    assert not found & {"0", "3", "4", "290"}
    with pytest.raises(SfscError, match="give ids or conditions"):
        gallery.delete()
    add(gallery, embeddings(300)[3:4], ["3"])
    assert gallery.search(embeddings(300)[3:4], "f", top=1)[0][0].id == "3"


def test_what_was_deleted_and_what_was_added_at_once_is_seen(gallery: Gallery) -> None:
    assert gallery.search(embeddings(300)[:1], "f", top=1)[0][0].id == "0"
    gallery.delete(["0"])
    add(gallery, embeddings(1, seed=5), ["new"])
    assert gallery.search(embeddings(300)[:1], "f", top=1)[0][0].id != "0"
    assert gallery.search(embeddings(1, seed=5), "f", top=1)[0][0].id == "new"


@pytest.mark.parametrize(("form", "error"), [("float16", 1e-3), ("int8", 1e-2)])
def test_rows_of_all_forms_are_searched_together(
    opener: Opener, gallery: Gallery, form: str, error: float
) -> None:
    more = embeddings(40, seed=6)
    add(gallery, more, [f"{form} {row}" for row in range(40)], form=form)
    gallery = opener()
    assert gallery.info().rows_by_form == {"float32": 300, form: 40}
    hits = gallery.search(np.concatenate([more, embeddings(300)[:10]]), "f", top=1)
    assert [found[0].id for found in hits[:40]] == [f"{form} {row}" for row in range(40)]
    assert [found[0].id for found in hits[40:]] == [str(row) for row in range(10)]
    rounded = [abs(1 - found[0].score) for found in hits[:40]]
    assert 1e-8 < max(rounded) < error
    assert hits[0][0].form == form
    stored = {row["id"]: row["embedding"] for row in gallery.rows([f"form={form}"], embeddings=True)}
    np.testing.assert_allclose(stored[f"{form} 3"], unit(more)[3], atol=error)


def test_an_unknown_form_is_refused(gallery: Gallery) -> None:
    with pytest.raises(SfscError, match="unknown numeric form 'int4'; choose one of float32, float16, int8"):
        add(gallery, embeddings(1), ["new"], form="int4")


def test_optimize_changes_no_answer(gallery: Gallery) -> None:
    gallery.delete([str(row) for row in range(100)])
    before = gallery.search(embeddings(3, seed=1), "f")
    gallery.optimize()
    after = gallery.search(embeddings(3, seed=1), "f")
    assert [[hit.id for hit in hits] for hits in after] == [[hit.id for hit in hits] for hits in before]
    assert len(gallery) == 200


def test_another_family_is_refused(gallery: Gallery, address: str) -> None:
    message = f"gallery {address} belongs to the family f, but the embeddings belong to other: use"
    with pytest.raises(SfscError, match=message):
        add(gallery, embeddings(1), ["new"], fingerprint="other")
    with pytest.raises(SfscError, match=message):
        gallery.search(embeddings(1), "other")
    assert len(gallery) == 300
    add(gallery, embeddings(1), ["new"], fingerprint="f.calibrated")
    assert len(gallery) == 301


@pytest.mark.parametrize(
    ("rows", "ids", "changes", "message"),
    [
        (embeddings(2), ["a", "a"], {}, "id 'a' is given twice"),
        (embeddings(2), ["a"], {}, "2 embeddings, but 1 values of id"),
        (embeddings(2), ["a", "b"], {"cameras": ["1"]}, "2 embeddings, but 1 values of camera"),
        (embeddings(2)[:, 1:], ["a", "b"], {}, "has 16 dimensions, but the embeddings have 15"),
        (embeddings(2)[0], ["a"], {}, r"must have shape \(N, dim\)"),
        (embeddings(2) * np.nan, ["a", "b"], {}, "contain NaN"),
        (embeddings(2) * 0, ["a", "b"], {}, "row of zeros"),
        (embeddings(2), ["a", "b"], {"attributes": {"price": [1]}}, "2 embeddings, but 1 values of price"),
        (embeddings(2), ["a", "b"], {"attributes": {"price": ["a", 1]}}, "column price contains int, str"),
        (embeddings(2), ["a", "b"], {"attributes": {"price": [b"", b""]}}, "column price contains bytes"),
        (embeddings(2), ["a", "b"], {"attributes": {"width": [1, 1]}}, "cannot be named 'width'"),
        (embeddings(2), ["a", "b"], {"attributes": {"": [1, 1]}}, "cannot be named ''"),
        (embeddings(2), ["a", "b"], {"attributes": {"a\n": [1, 1]}}, "cannot be named"),
        (embeddings(2), ["a", "b"], {"attributes": {"\ud800": [1, 1]}}, "cannot be named"),
        (embeddings(2), ["a", "b"], {"attributes": {"a" * 201: [1, 1]}}, "a name has 1 to 200"),
        (
            embeddings(2),
            ["a", "b"],
            {"attributes": {"n": ["\ud800", "x"]}},
            "column n has a value that is not Un",
        ),
        (
            embeddings(2),
            ["a", "b"],
            {"attributes": {"n": [1, 2**63]}},
            "an integer that does not fit in 64 bits",
        ),
        (embeddings(2), ["a", "b"], {"attributes": {"n": [1.5, 2**54]}}, "column n contains float64 numbers"),
        (embeddings(2), ["a", "\ud800"], {}, "column id has a value that is not Unicode text"),
        (embeddings(2), ["a", None], {}, "every row needs a text as its id"),
        (
            embeddings(2),
            ["a", "b"],
            {"attributes": {"Stock": ["1", "x"]}},
            "column Stock has type integer, but the values",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    gallery: Gallery, rows: np.ndarray, ids: list[str], changes: dict[str, Any], message: str
) -> None:
    add(gallery, embeddings(1), ["0"], attributes={"Stock": [1]})
    before = gallery.info()
    with pytest.raises(SfscError, match=message):
        add(gallery, rows, ids, **changes)
    assert gallery.info() == before


def test_a_first_add_that_is_refused_binds_the_gallery_to_nothing(opener: Opener) -> None:
    gallery = opener(create=True)
    with pytest.raises(SfscError, match="not Unicode text"):
        add(gallery, embeddings(1), ["a"], attributes={"name": ["\udfff"]})
    assert gallery.info() == GalleryInfo(0, None, None, {}, {}, {})
    assert gallery.add(embeddings(1)[:, :5], ["a"], paths=["a"], width=1.0, fingerprint="other") == 1


def test_a_gallery_has_so_many_attributes_and_no_more(opener: Opener, address: str) -> None:
    gallery = opener(create=True)
    names = [f"n{place}" for place in range(501)]
    with pytest.raises(SfscError, match="at most 500 attributes, but with these it would have 501"):
        add(gallery, embeddings(1), ["a"], attributes={name: [1] for name in names})
    add(gallery, embeddings(1), ["a"], attributes={name: [1] for name in names[:500]})
    with pytest.raises(SfscError, match="with these it would have 501"):
        add(gallery, embeddings(1), ["b"], attributes={"other": [1]})
    assert len(gallery.info().attributes) == 500


NAMES = [
    *(
        "action",
        "_rowid",
        "_rowaddr",
        "__action",
        "_distance",
        "source",
        "target",
        "ID",
        "Path",
        "select",
        "in",
    ),
    *("id ", "time.x", "$meta", "Größe", "unit price (EUR)", "a`b", 'a"b', "a=b", "日本", "😀"),
    *("sfsc_x", "sfsc_", "sfscn_x", "x_20_"),
]


def test_an_attribute_may_have_any_name(opener: Opener) -> None:
    gallery = opener(create=True)
    add(gallery, embeddings(1), ["plain"])
    for turn in range(2):
        for place, name in enumerate(NAMES):
            add(gallery, embeddings(1, seed=place), [f"row {place}"], attributes={name: [turn]})
    gallery = opener()
    assert gallery.info().attributes == dict.fromkeys(NAMES, "integer")
    for place, name in enumerate(NAMES):
        where = ['"' + name.replace('"', '""') + '"=1']
        [[hit]] = gallery.search(embeddings(1), "f", where=where)
        assert (hit.id, hit.attributes[name]) == (f"row {place}", 1)
        assert [row["id"] for row in gallery.rows(where)] == [f"row {place}"]
    assert gallery.delete(where=['"a=b"=1']) == 1


def test_a_name_is_one_in_both_unicode_forms(opener: Opener) -> None:
    gallery = opener(create=True)
    add(gallery, embeddings(1), ["a"], attributes={"Gro\u0308\u00dfe": [1]})
    assert [*gallery.info().attributes] == ["Gr\u00f6\u00dfe"]
    assert len(list(gallery.rows(["Gro\u0308\u00dfe=1"]))) == 1


def test_integers_become_numbers_when_numbers_come(opener: Opener) -> None:
    gallery = opener(create=True)
    add(gallery, embeddings(2), ["a", "b"], attributes={"price": [9, None]})
    assert gallery.search(embeddings(1), "f", top=1)[0][0].attributes == {"price": 9}
    add(gallery, embeddings(1, seed=1), ["c"], attributes={"price": [9.5]})
    add(gallery, embeddings(1, seed=2), ["d"], attributes={"price": [10]})
    gallery = opener()
    assert gallery.info().attributes == {"price": "number"}
    assert {row["id"] for row in gallery.rows(["price>=9.5"])} == {"c", "d"}
    assert {hit.id for hit in gallery.search(embeddings(1), "f", where=["price<10"])[0]} == {"a", "c"}


def test_what_is_not_finite_is_no_value(opener: Opener) -> None:
    gallery = opener(create=True)
    values = [2.5, float("nan"), float("inf"), np.float32("-inf"), 9.5]
    add(gallery, embeddings(5), list("abcde"), attributes={"price": values, "none": [float("nan")] * 5})
    assert gallery.info().attributes == {"price": "number"}
    assert {hit.id for hit in gallery.search(embeddings(1), "f", where=["price>=5"])[0]} == {"e"}
    assert {hit.id for hit in gallery.search(embeddings(1), "f", where=["price="])[0]} == set("bcd")
    assert gallery.delete(where=["price>=5"]) == 1
    assert len(gallery) == 4


def test_queries_that_do_not_fit_are_refused(gallery: Gallery) -> None:
    with pytest.raises(SfscError, match="contain NaN"):
        gallery.search(embeddings(1) * np.nan, "f")
    with pytest.raises(SfscError, match="16 dimensions, but the embeddings have 15"):
        gallery.search(embeddings(1)[:, 1:], "f")
    with pytest.raises(SfscError, match="top must be at least 1"):
        gallery.search(embeddings(1), "f", top=0)


def test_longer_embeddings_are_shortened_to_a_small_gallerys_rows(opener: Opener) -> None:
    rows, queries, gallery = embeddings(50), embeddings(3, seed=1), opener(create=True)
    add(gallery, unit(rows)[:, :8], dimensions=NESTED)
    add(gallery, unit(embeddings(2, seed=2)), ["a", "b"], dimensions=NESTED)
    gallery = opener()
    assert (gallery.info().dimension, gallery.info().dimensions) == (8, NESTED)
    stored = np.concatenate([rows, embeddings(2, seed=2)])[:, :8]
    names = [*map(str, range(50)), "a", "b"]
    cosine = unit(queries[:, :8]) @ unit(stored).T
    for sent in (queries, queries[:, :8]):
        for scores, hits in zip(cosine, gallery.search(sent, "f", top=10), strict=True):
            best = np.argsort(-scores)[:10]
            assert [hit.id for hit in hits] == [names[row] for row in best]
            assert [hit.score for hit in hits] == pytest.approx(scores[best], abs=1e-6)
    [found] = gallery.rows(["id=b"], embeddings=True)
    np.testing.assert_allclose(found["embedding"], unit(stored)[-1], atol=1e-6)


def test_shorter_queries_are_compared_with_first_components(opener: Opener, address: str) -> None:
    gallery, queries = opener(create=True), embeddings(3, seed=1)[:, :4]
    add(gallery, embeddings(100), cameras=[str(row % 2) for row in range(100)], dimensions=NESTED)
    if address.startswith("milvus"):
        with pytest.raises(
            SfscError, match=f"gallery {address}: Milvus compares whole embeddings, and these"
        ):
            gallery.search(queries, "f")
        return
    cosine = unit(queries) @ unit(embeddings(100)[:, :4]).T
    for exact in (True, False):
        for scores, hits in zip(cosine, gallery.search(queries, "f", top=5, exact=exact), strict=True):
            best = np.argsort(-scores)[:5]
            assert [hit.id for hit in hits] == [str(row) for row in best]
            assert [hit.score for hit in hits] == pytest.approx(scores[best], abs=1e-6)
    [hits] = gallery.search(queries[:1], "f", top=100, where=["camera=1"])
    assert [hit.id for hit in hits] == [str(row) for row in np.argsort(-cosine[0]) if row % 2]
    add(gallery, np.pad(queries[:1], ((0, 0), (0, DIM - 4))), ["new"])
    gallery.delete([hits[0].id])
    [[first, *others]] = gallery.search(queries[:1], "f", top=100)
    assert (first.id, first.score) == ("new", pytest.approx(1))
    assert hits[0].id not in {hit.id for hit in others}


@pytest.mark.parametrize("dimension", [4, 8])
def test_rows_of_fewer_dimensions_are_refused(opener: Opener, address: str, dimension: int) -> None:
    gallery = opener(create=True)
    add(gallery, embeddings(3), dimensions=NESTED)
    with pytest.raises(
        SfscError, match=f"{address} has rows of 16 dimensions, but the embeddings have {dimension}: "
    ):
        add(gallery, embeddings(1)[:, :dimension], ["new"], dimensions=NESTED)
    assert len(gallery) == 3


def test_dimensions_that_do_not_stand_alone_are_refused(opener: Opener) -> None:
    gallery, message = opener(create=True), "the embeddings have 5; its family supports dimensions 4, 8, 16"
    with pytest.raises(SfscError, match="dimension 5 is not one of this family's dimensions: 4, 8, 16"):
        add(gallery, embeddings(1)[:, :5], dimensions=NESTED)
    assert gallery.info().rows == 0
    add(gallery, embeddings(3)[:, :8], dimensions=NESTED)
    with pytest.raises(SfscError, match=message):
        add(gallery, embeddings(1)[:, :5], ["new"])
    with pytest.raises(SfscError, match=message):
        gallery.search(embeddings(1)[:, :5], "f")
    flat = np.eye(1, DIM, DIM - 1)
    with pytest.raises(SfscError, match="row of zeros"):
        gallery.search(flat, "f")
    with pytest.raises(SfscError, match="row of zeros"):
        add(gallery, flat, ["new"])
    assert len(gallery) == 3


def test_a_gallery_that_knows_no_dimensions_takes_its_own_alone(gallery: Gallery) -> None:
    """As galleries are that were written before there were any."""
    assert gallery.info().dimensions == ()
    with pytest.raises(SfscError, match=r"has 16 dimensions, but the embeddings have 8$"):
        gallery.search(embeddings(1)[:, :8], "f")
    with pytest.raises(SfscError, match=r"has 16 dimensions, but the embeddings have 8$"):
        add(gallery, embeddings(1)[:, :8], ["new"], dimensions=NESTED)


def test_what_is_missing_is_not_created(address: str) -> None:
    with pytest.raises(SfscError, match=f"gallery {address} does not exist"):
        Gallery.open(address)


def test_a_newer_format_is_refused(address: str) -> None:
    store = open_store(address, create=True)
    store.create(Description(DIM, "f", format=BRIDGED_FORMAT + 1))
    store.close()
    with pytest.raises(SfscError, match=f"gallery {address} was written by a newer sfsc: upgrade"):
        Gallery.open(address)


@pytest.mark.parametrize("kind", [[[0.5]], {}, None, "image", 1])
def test_attributes_of_unknown_kinds_are_refused(kind: Any) -> None:
    values = Description(DIM, "f", {"price": "number"}).to_json()
    values["attributes"]["price"] = kind
    with pytest.raises(SfscError, match=r"gallery g is damaged|g is not a gallery"):
        Description.from_json(values, "g")


def test_a_gallery_without_rows_can_be_maintained_and_filled_again(gallery: Gallery, tmp_path: Path) -> None:
    gallery.search(embeddings(1), "f")
    assert gallery.delete([f"{row}" for row in range(300)]) == 300
    gallery.optimize()
    gallery.refresh()
    assert not gallery.verify().findings
    assert gallery.search(embeddings(1), "f") == [[]]
    assert add(gallery, embeddings(2)) == 2
    assert len(gallery.search(embeddings(1), "f")[0]) == 2
