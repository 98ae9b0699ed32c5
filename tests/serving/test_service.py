"""The contract of every endpoint, and what becomes of requests that are wrong, too large or too many."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

import sfsc.serving.service as service_module
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.gallery import Gallery
from sfsc.gallery.indexing import index
from sfsc.gallery.searching import search
from sfsc.images.boxes import Box
from sfsc.images.reading import decode, decode_bytes, write_png
from sfsc.serving import create_app
from sfsc.serving.guard import JSON_NUMBER, MAX_BODY, MAX_JSON, check_origins
from tests.conftest import draw
from tests.serving.conftest import WIDTHS, serving

PAGES = "http://pages.example:8080"
HIT_KEYS = {
    *("id", "path", "identity", "camera", "width", "form", "score", "attributes"),
    "probability",
    "match",
}


def upload(picture: Path) -> dict[str, Any]:
    return {"image": (picture.name, picture.read_bytes())}


def refused(answer: httpx.Response, status: int, *words: str) -> None:
    """The answer is an error of this status, in one line of JSON that holds these words."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    message = answer.json()["error"]
    assert "\n" not in message
    assert len(message) < 10_000
    assert all(word in message for word in words), message


def image_address(id_: object) -> str:
    return f"/images/{quote(str(id_), safe='')}"


def png_header(width: int, height: int) -> bytes:
    """A PNG file that says it is of this size, and holds no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


# Searching


@pytest.mark.parametrize("width", WIDTHS)
def test_an_image_finds_what_the_library_finds(
    client: TestClient, run: Path, indexed: Path, picture: Path, width: float
) -> None:
    answer = client.post("/search/image", files=upload(picture), data={"width": width, "top": 5}).json()
    expected = search(Family.load(run), picture, Gallery.open(indexed), width, 5)
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([hit.score for hit in expected])
    assert set(answer["hits"][0]) == HIT_KEYS
    assert (answer["width"], answer["hits"][0]["width"]) == (width, 1.0)
    assert answer["embed_ms"] > 0
    assert answer["search_ms"] > 0


def test_conditions_hold_all_at_once(client: TestClient, picture: Path) -> None:
    where = ["camera=c1", 'identity="shape09","shape10"']
    hits = client.post("/search/image", files=upload(picture), data={"top": 50, "where": where}).json()[
        "hits"
    ]
    assert len(hits) == 6
    assert {hit["camera"] for hit in hits} == {"c1"}
    assert {hit["identity"] for hit in hits} == {"shape09", "shape10"}


def test_a_row_is_the_query_as_stored_or_embedded_anew(client: TestClient, picture: Path) -> None:
    query = {"id": str(picture), "top": 3}
    as_stored = client.post("/search/id", json=query).json()
    assert (as_stored["width"], as_stored["embed_ms"]) == (1.0, 0.0)
    assert as_stored["hits"][0]["id"] == str(picture)
    assert as_stored["hits"][0]["score"] == pytest.approx(1)
    anew = client.post("/search/id", json={**query, "width": 0.25}).json()
    uploaded = client.post("/search/image", files=upload(picture), data={"width": 0.25, "top": 3}).json()
    assert anew["hits"] == uploaded["hits"] != as_stored["hits"]


def test_answers_by_identity_and_re_ranked_are_those_of_the_library(
    client: TestClient, run: Path, indexed: Path, picture: Path
) -> None:
    family, gallery = Family.load(run), Gallery.open(indexed)
    for wanted in (
        {"by": "identity"},
        {"rerank": "k-reciprocal", "rerank_depth": 12},
        {"rerank": "expansion"},
    ):
        data = {"width": 0.25, "top": 6, **wanted}
        hits = client.post("/search/image", files=upload(picture), data=data).json()["hits"]
        expected = search(family, picture, gallery, 0.25, 6, **wanted)  # type: ignore[arg-type]
        assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
        assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected])
        as_json = client.post("/search/id", json={"id": str(picture), "top": 6, **wanted}).json()["hits"]
        assert len(as_json) == (4 if "by" in wanted else 6)  # four identities are in the gallery
        assert "by" not in wanted or len({hit["identity"] for hit in as_json}) == 4


def test_embeddings_of_one_object_are_one_query(client: TestClient, indexed: Path) -> None:
    with Gallery.open(indexed) as gallery:
        rows = [row["embedding"] for _, row in zip(range(3), gallery.rows(embeddings=True), strict=False)]
        [expected] = gallery.search(np.mean(rows, axis=0)[None], gallery.info().fingerprint or "", 4)
    body = {"embeddings": [(k * row).tolist() for k, row in enumerate(rows, 1)], "top": 4, "together": True}
    [answer] = client.post("/search/embeddings", json=body).json()["answers"]
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
    body["embeddings"] = [rows[0].tolist(), (-rows[0]).tolist()]
    refused = client.post("/search/embeddings", json=body)
    assert (refused.status_code, "cancel each other" in refused.json()["error"]) == (422, True)


def test_a_part_of_an_image_is_searched_added_and_shown(
    writer: TestClient, run: Path, picture: Path, stored: Path
) -> None:
    box = Box(2, 3, 10, 9)
    family = Family.load(run)
    expected = search(family, picture, Gallery.open(stored), 0.25, 3, box=box)
    data = {"width": 0.25, "top": 3, "box": str(box)}
    hits = writer.post("/search/image", files=upload(picture), data=data).json()["hits"]
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
    answers = writer.post("/compare/image", files=upload(picture), data={"top": 3, "box": str(box)}).json()[
        "answers"
    ]
    assert answers[0]["hits"] == hits
    added = writer.post("/rows", files=upload(picture), data={"path": str(picture), "box": str(box)}).json()
    assert added["id"] == f"{picture}#xywh=2,3,10,9"
    shown = writer.get(f"/images/{quote(added['id'], safe='')}")
    assert shown.headers["content-type"] == "image/png"
    assert np.array_equal(decode_bytes(shown.content, "shown", None), decode(added["id"], None))
    for wrong, word in (("500,0,10,10", "is not inside the image"), ("1,2,3", "must be x,y,w,h")):
        refused = writer.post("/search/image", files=upload(picture), data={"box": wrong})
        assert (refused.status_code, word in refused.json()["error"]) == (422, True)


def test_an_embedding_finds_its_row_at_any_length(client: TestClient, indexed: Path) -> None:
    with Gallery.open(indexed) as gallery:
        row = next(gallery.rows(embeddings=True))
    for scale in (1.0, 1e-30, 1e30):
        body = {"embedding": (row["embedding"].astype(float) * scale).tolist(), "top": 1, "exact": True}
        [hit] = client.post("/search/embedding", json=body).json()["hits"]
        assert (hit["id"], hit["score"]) == (row["id"], pytest.approx(1))


@pytest.mark.parametrize("dimension", [4, 8])
def test_an_embedding_may_have_any_nested_dimension(
    client: TestClient, indexed: Path, dimension: int
) -> None:
    with Gallery.open(indexed) as gallery:
        row = next(gallery.rows(embeddings=True))
    body = {"embedding": row["embedding"][:dimension].astype(float).tolist(), "top": 1}
    [hit] = client.post("/search/embedding", json=body).json()["hits"]
    assert (hit["id"], hit["score"]) == (row["id"], pytest.approx(1))


def test_a_small_gallery_is_searched_with_images_and_embeddings(
    run: Path, shapes: str, picture: Path, tmp_path: Path
) -> None:
    family = Family.load(run)
    with Gallery.open(tmp_path / "small", create=True) as gallery:
        index(family, shapes, gallery, 1.0, workers=0, dimension=8)
    with TestClient(create_app(run, tmp_path / "small", hosts=["testserver"])) as client:
        [hit] = client.post("/search/image", files=upload(picture), data={"top": 1}).json()["hits"]
        assert (hit["id"], hit["score"]) == (str(picture), pytest.approx(1))
        added = {"path": "s3://new.png", "id": "new", "width": 1.0}
        assert client.post("/rows", files=upload(picture), data=added).status_code == 200
        assert client.get("/gallery").json()["dimension"] == 8
        for numbers in (4, 8, 16):
            embedding = family.embed_pixels(decode(str(picture), (32, 32))[None], 1.0)[0, :numbers].tolist()
            answer = client.post("/search/embedding", json={"embedding": embedding, "top": 2}).json()
            assert {hit["id"] for hit in answer["hits"]} == {str(picture), "new"}


def test_all_submodels_side_by_side(client: TestClient, picture: Path) -> None:
    by_image = client.post("/compare/image", files=upload(picture), data={"top": 4}).json()["answers"]
    by_id = client.post("/compare/id", json={"id": str(picture), "top": 4}).json()["answers"]
    assert [answer["width"] for answer in by_image] == list(WIDTHS)
    for answer, other in zip(by_image, by_id, strict=True):
        alone = client.post("/search/image", files=upload(picture), data={"width": answer["width"], "top": 4})
        assert answer["hits"] == other["hits"] == alone.json()["hits"]


# Rows


def test_a_row_is_added_found_replaced_and_deleted(writer: TestClient, tmp_path: Path, stored: Path) -> None:
    image = tmp_path / "new.png"
    write_png(image, draw(99, 0, 0))
    row = {"path": "s3://bucket/new.png", "id": "new", "identity": "star", "camera": "c7", "width": 0.5}
    for price in (3.5, 4.5):
        body = {**row, "attributes": json.dumps({"price": price, "name": "a 'quoted' one"})}
        assert writer.post("/rows", files=upload(image), data=body).json()["id"] == "new"
    hits = writer.post("/search/image", files=upload(image), data={"width": 0.5, "where": "price>4"}).json()
    [hit] = hits["hits"]
    assert (hit["id"], hit["path"], hit["identity"], hit["camera"]) == ("new", row["path"], "star", "c7")
    assert (hit["width"], hit["score"]) == (0.5, pytest.approx(1))
    assert hit["attributes"] == {"price": 4.5, "name": "a 'quoted' one"}
    summary = writer.get("/gallery").json()
    assert summary["rows"] == 25
    assert summary["columns"]["price"] == {"kind": "number", "values": [4.5]}
    assert writer.delete("/rows", params={"id": ["new", "unknown"]}).json() == {"deleted": 1}
    assert writer.delete("/rows", params={"where": ["camera=c0", "identity=shape08"]}).json() == {
        "deleted": 3
    }
    assert len(Gallery.open(stored)) == writer.get("/health").json()["rows"] == 21
    refused(writer.delete("/rows"), 422, "give ids or conditions")


def test_the_id_of_a_row_is_its_path_by_default(writer: TestClient, picture: Path) -> None:
    assert writer.post("/rows", files=upload(picture), data={"path": str(picture)}).json()["id"] == str(
        picture
    )
    assert writer.get("/health").json()["rows"] == 24


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("no json", "attributes must be a JSON object"),
        ("[1]", "attributes must be a JSON object"),
        ('{"a": "' + "x" * 100_000 + '"}', "at most 100,000 characters"),
        ('{"a": [1]}', "column a contains list"),
        ('{"a": {"b": 1}}', "column a contains dict"),
        ('{"": 1}', "an attribute cannot be named ''"),
        ('{"embedding": 1}', "an attribute cannot be named 'embedding'"),
        ('{"\\ud800": 1}', "an attribute cannot be named"),
        ('{"a": "\\ud800"}', "column a has a value that is not Unicode text"),
        ('{"a": 36893488147419103232}', "column a has an integer that does not fit in 64 bits"),
    ],
)
def test_attributes_that_cannot_be_stored(
    client: TestClient, picture: Path, attributes: str, message: str
) -> None:
    before = client.get("/gallery").json()
    data = {"path": "s3://x", "attributes": attributes}
    refused(client.post("/rows", files=upload(picture), data=data), 422, message)
    assert client.get("/gallery").json() == before


@pytest.mark.parametrize("name", ["_rowid", "action", "unit price", "ID"])
def test_an_attribute_of_any_name_is_stored_and_found(writer: TestClient, picture: Path, name: str) -> None:
    data = {"path": "s3://x", "attributes": json.dumps({name: 'a, "b"', "nothing": float("nan")})}
    assert writer.post("/rows", files=upload(picture), data=data).status_code == 200
    where = [f'"{name}"="a, ""b"""']
    [hit] = writer.post("/search/id", json={"id": "s3://x", "where": where}).json()["hits"]
    assert hit["attributes"] == {name: 'a, "b"'}
    assert writer.request("HEAD", "/health").status_code == 200


def test_health_says_when_the_gallery_cannot_be_searched(run: Path, stored: Path) -> None:
    with TestClient(create_app(run, stored, hosts=["testserver"])) as client:
        assert client.get("/health").json()["rows"] == 24
        for file in (stored / "gallery.lance" / "_versions").iterdir():
            file.unlink()
        refused(client.get("/health"), 503, "cannot be read")
        assert client.head("/health").status_code == 503


@pytest.mark.parametrize("path", ["/health", "/", "/metrics", "/family", "/openapi.json"])
def test_head_is_answered_as_get_without_a_body(client: TestClient, path: str) -> None:
    full, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == full.headers["content-type"]


# Images: what rows name, and nothing else on the disk


def test_the_image_of_a_row(client: TestClient, picture: Path) -> None:
    answer = client.get(image_address(picture))
    assert answer.content == picture.read_bytes()
    assert answer.headers["content-type"] == "image/png"


def test_no_other_file_is_served(client: TestClient, picture: Path, run: Path) -> None:
    unnamed = picture.with_name("00_c0_0.png")  # of the training split: on the disk, but not in the gallery
    assert unnamed.exists()
    odd = [
        "nothing",
        "../" * 9 + "etc/passwd",
        "/etc/passwd",
        unnamed,
        run / "family.json",
        "a\0b",
        "'",
        "x" * 5000,
    ]
    for id_ in odd:
        refused(client.get(image_address(id_)), 404)


def test_a_client_cannot_name_files_that_it_does_not_have(client: TestClient, picture: Path) -> None:
    for path in [
        "/etc/passwd",
        str(picture.with_name("00_c0_0.png")),
        "relative.png",
        "/missing/later.png",
        "/dev/zero",
    ]:
        refused(client.post("/rows", files=upload(picture), data={"path": path}), 422, path)
    assert client.get("/health").json()["rows"] == 24


def test_a_row_of_a_file_that_is_no_image(
    writer: TestClient, run: Path, stored: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with Gallery.open(stored) as gallery:
        fingerprint = Family.load(run).fingerprint
        gallery.add(
            np.ones((1, 16), np.float32), ["s"], paths=[str(secret)], width=1.0, fingerprint=fingerprint
        )
    refused(writer.get("/images/s"), 404, "no such file")
    with TestClient(create_app(run, stored, hosts=["testserver"], image_roots=[tmp_path])) as client:
        refused(client.get("/images/s"), 404, "not a JPEG")
        refused(client.post("/search/id", json={"id": "s", "width": 0.25}), 422, "not a JPEG")
    assert len(writer.post("/search/id", json={"id": "s"}).json()["hits"]) == 10


# Descriptions


def test_the_family_is_described(client: TestClient, run: Path) -> None:
    family, answer = Family.load(run), client.get("/family").json()
    assert [one["width"] for one in answer["submodels"]] == list(WIDTHS)
    assert [one["parameters"] for one in answer["submodels"]] == [family.parameter_count(w) for w in WIDTHS]
    adds = [one["multiply_adds"] for one in answer["submodels"]]
    assert adds == sorted(adds)
    assert all(one["latency_ms"] > 0 for one in answer["submodels"])
    assert (answer["fingerprint"], answer["dimension"], answer["evaluation"]) == (
        family.fingerprint,
        16,
        None,
    )
    assert answer["dimensions"] == [4, 8, 16]


def test_the_matrix_of_the_run_is_shown_if_it_is_this_familys(
    run: Path, stored: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    matrix = [[0.1, 0.2, 0.3]] * 3
    evaluation = {
        "fingerprint": Family.load(run).fingerprint,
        **{"dataset": "d", "widths": WIDTHS, "metrics": {"mAP": matrix}, "criterion": [[True] * 3] * 3},
    }
    file = tmp_path / "run" / "evaluation.json"
    file.write_text(json.dumps(evaluation))
    with TestClient(create_app(tmp_path / "run", stored, hosts=["testserver"])) as client:
        assert client.get("/family").json()["evaluation"]["matrix"] == matrix
    wider = {
        "metrics": {"mAP": [[*row, 0.9] for row in [*matrix, matrix[0]]]},
        "exported": {"0.25 int8": 0.25},
    }
    file.write_text(json.dumps({**evaluation, **wider}))
    with TestClient(create_app(tmp_path / "run", stored, hosts=["testserver"])) as client:
        assert client.get("/family").json()["evaluation"]["matrix"] == matrix, "the sub-models alone"
    file.write_text(json.dumps({**evaluation, "fingerprint": "other"}))
    with pytest.raises(SfscError, match="another family"):
        create_app(tmp_path / "run", stored, hosts=["testserver"])


def test_the_gallery_is_described(client: TestClient, picture: Path) -> None:
    answer = client.get("/gallery").json()
    assert (answer["rows"], answer["rows_by_width"], answer["rows_by_form"]) == (
        24,
        {"1": 24},
        {"float32": 24},
    )
    assert answer["columns"]["camera"] == {"kind": "text", "values": ["c0", "c1"]}
    assert answer["examples"] == client.get("/gallery").json()["examples"]
    assert {"id": str(picture), "identity": "shape08"} in answer["examples"]


def test_what_is_counted(writer: TestClient, picture: Path) -> None:
    writer.post("/search/image", files=upload(picture), data={"width": 0.25})
    writer.get("/images/none")
    writer.get("/nowhere")
    lines = writer.get("/metrics").text.splitlines()
    assert 'sfsc_requests_total{route="/search/image",status="200"} 1.0' in lines
    assert 'sfsc_requests_total{route="/images/{id:path}",status="404"} 1.0' in lines
    assert 'sfsc_requests_total{route="other",status="404"} 1.0' in lines
    assert 'sfsc_embedding_seconds_count{width="0.25"} 1.0' in lines
    assert "sfsc_search_seconds_count 1.0" in lines
    assert "sfsc_gallery_rows 24.0" in lines
    assert 'sfsc_queue_length{queue="embedding"} 0.0' in lines
    assert 'sfsc_rejected_total{queue="embedding"} 0.0' in lines


# Requests that are wrong


def test_images_that_are_none(client: TestClient) -> None:
    for data, words in [(b"hello", "not a JPEG"), (b"", "empty"), (png_header(32, 32)[:40], "truncated")]:
        refused(client.post("/search/image", files={"image": ("note.txt", data)}), 422, words)


def test_a_bomb_is_refused_before_it_is_decoded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfsc.images.reading.decode_pixels", lambda *_: pytest.fail("it was decoded"))
    refused(
        client.post("/search/image", files={"image": ("bomb.png", png_header(60_000, 60_000))}), 422, "pixels"
    )


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"id": "none"}, "no row 'none'"),
        ({"id": "{picture}", "width": 0.3}, "width 0.3"),
        ({"id": "{picture}", "where": ["colour=red"]}, "colour"),
        ({"id": "{picture}", "where": ["nonsense"]}, "nonsense"),
        ({"id": "{picture}", "where": ["width=nan"]}, "nan"),
        ({"id": "{picture}", "top": 0}, "top"),
        ({"id": "{picture}", "top": 101}, "top"),
        ({"id": "{picture}", "tops": 1}, "tops"),
        ({}, "id"),
    ],
)
def test_searches_that_are_wrong(client: TestClient, picture: Path, body: dict[str, Any], word: str) -> None:
    filled = {name: str(picture) if value == "{picture}" else value for name, value in body.items()}
    refused(client.post("/search/id", json=filled), 404 if word.startswith("no row") else 422, word)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ('{"embedding": [1, 2, 3]}', "16 dimensions"),
        ('{"embedding": [NaN' + ", 1" * 15 + "]}", "NaN"),
        ('{"embedding": [1e999' + ", 1" * 15 + "]}", "infinity"),
        ('{"embedding": [0' + ", 0" * 15 + "]}", "zeros"),
        ('{"embedding": [1' + ", 1" * 15 + '], "width": 2}', "width 2"),
        ('{"embedding": [1' + ", 1" * 15 + '], "fingerprint": "other"}', "belongs to the family"),
        ('{"embedding": "text"}', "embedding"),
        ('{"embedding": ["x"' + ', "x"' * 10_000 + "]}", "embedding.0: Input should be a valid number"),
        ("{", "JSON"),
    ],
)
def test_embeddings_that_are_wrong(client: TestClient, body: str, word: str) -> None:
    headers = {"Content-Type": "application/json"}
    refused(client.post("/search/embedding", content=body, headers=headers), 422, word)


def test_ways_that_are_not_there(client: TestClient) -> None:
    refused(client.get("/nowhere"), 404)
    refused(client.put("/rows"), 405)


def test_a_body_that_is_too_large(client: TestClient) -> None:
    part = b"x" * 2**20

    def parts() -> Iterator[bytes]:
        for _ in range(40):
            yield part

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(client.post("/rows", content=b"x" * (MAX_BODY + 1), headers=form), 413, "10 MiB")
    refused(client.post("/rows", content=parts(), headers=form), 413, "10 MiB")  # no Content-Length
    most = MAX_JSON + JSON_NUMBER * 16
    refused(client.post("/search/id", content=b" " * (most + 1)), 413, "128 KiB")
    refused(client.post("/search/id", content=b" " * most), 422)
    refused(client.post("/search/id", content=parts()), 413, "128 KiB")
    refused(client.post("/search/image", files={"image": ("a.png", part * 11)}), 413, "10 MiB")
    assert client.get("/health").status_code == 200


def test_a_failure_of_the_service_is_json_too(
    run: Path, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(run, stored, hosts=["testserver"])
    monkeypatch.setattr(app.state.service.gallery, "search", lambda *_: 1 / 0)
    client = TestClient(app, raise_server_exceptions=False)
    refused(client.post("/search/embedding", json={"embedding": [1.0] * 16}), 500, "failed")


def test_a_gallery_that_is_lost_is_not_the_clients_fault(writer: TestClient, stored: Path) -> None:
    shutil.rmtree(stored)
    refused(writer.post("/search/embedding", json={"embedding": [1.0] * 16}), 503, str(stored))


# The key


def test_the_key(run: Path, stored: Path, picture: Path) -> None:
    with TestClient(create_app(run, stored, api_key="secret", hosts=["testserver"])) as client:
        for path in ("/", "/page.js", "/page.css", "/style.css", "/health", "/metrics"):
            assert client.get(path).status_code == 200
        for path in ("/family", "/gallery", image_address(picture), "/nowhere"):
            refused(client.get(path), 401, "X-API-Key")
        refused(client.post("/search/id", json={"id": str(picture)}, headers={"X-API-Key": "Secret"}), 401)
        refused(client.delete("/rows", params={"id": str(picture)}, headers={"X-API-Key": "é".encode()}), 401)
        assert (
            client.post("/search/id", json={"id": str(picture)}, headers={"X-API-Key": "secret"}).status_code
            == 200
        )
    with pytest.raises(SfscError, match="key is empty"):
        create_app(run, stored, api_key=" ", hosts=["testserver"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://testserver:8080"},
        {"Origin": "http://testserver:8080"},
        {"Origin": "null"},
    ],
)
def test_pages_of_other_sites_change_nothing(
    client: TestClient, picture: Path, headers: dict[str, str]
) -> None:
    refused(client.post("/rows", files=upload(picture), data={"path": "s3://x"}, headers=headers), 403)
    assert client.get("/health").json()["rows"] == 24


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://testserver"}])
def test_the_services_own_page_may_ask(client: TestClient, picture: Path, headers: dict[str, str]) -> None:
    answer = client.post("/search/id", json={"id": str(picture)}, headers=headers)
    assert answer.status_code == 200


@pytest.fixture
def shared(run: Path, indexed: Path) -> Iterator[TestClient]:
    """A service that pages of one other origin may use, with the key."""
    with TestClient(
        create_app(run, indexed, api_key="secret", origins=[PAGES], hosts=["testserver"])
    ) as client:
        yield client


def test_pages_of_an_allowed_origin_may_ask(shared: TestClient, picture: Path) -> None:
    page = {"Origin": PAGES, "Sec-Fetch-Site": "cross-site"}
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-api-key",
    }
    preflight = shared.options("/search/id", headers={**page, **asks})  # which browsers send without the key
    assert (preflight.status_code, preflight.content) == (204, b"")
    assert preflight.headers["Access-Control-Allow-Headers"] == "Content-Type, X-API-Key"
    assert preflight.headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE"
    with_key = {**page, "X-API-Key": "secret"}
    answers = [
        preflight,
        shared.post("/search/id", json={"id": str(picture)}, headers=with_key),
        shared.get(image_address(picture), headers=with_key),
        shared.post("/search/id", json={"id": "nothing"}, headers=with_key),  # errors, too, can be read
        shared.post("/search/id", json={"id": str(picture)}, headers=page),
    ]
    assert [answer.status_code for answer in answers] == [204, 200, 200, 404, 401]
    for answer in answers:
        assert (answer.headers["Access-Control-Allow-Origin"], answer.headers["Vary"]) == (PAGES, "Origin")


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8081", "https://pages.example", "null", f"{PAGES}/"])
def test_pages_of_other_origins_still_may_not(shared: TestClient, picture: Path, origin: str) -> None:
    page = {"Origin": origin, "Sec-Fetch-Site": "cross-site", "X-API-Key": "secret"}
    preflight = shared.options("/search/id", headers={**page, "Access-Control-Request-Method": "POST"})
    refused(preflight, 403, "--allow-origin")
    refused(shared.post("/search/image", files=upload(picture), headers=page), 403)
    seen = shared.get(image_address(picture), headers=page)
    for answer in (preflight, seen):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert seen.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "127.0.0.1:8080",
        f"{PAGES}/",
        f"{PAGES}/page",
        "http://Pages",
        "http://a:80",
        "https://a:443",
        "ftp://a",
    ],
)
def test_what_is_no_origin_is_refused(run: Path, indexed: Path, origin: str) -> None:
    with pytest.raises(SfscError, match=rf"origin {re.escape(origin)}: give scheme, host and port"):
        create_app(run, indexed, origins=[origin], hosts=["testserver"])


@pytest.mark.parametrize(
    "origin", ["http://a", "https://a.example:8443", "http://a:8080", "http://[::1]:8080"]
)
def test_what_is_an_origin_is_taken(origin: str) -> None:
    check_origins([origin])


# Too much at once


def test_a_full_queue_refuses_and_recovers(
    run: Path, stored: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "IMAGES_WAITING", 1)
    monkeypatch.setattr(service_module, "EMBEDDING_THREADS", 1)
    app = create_app(run, stored, hosts=["testserver"])
    family, go, begun = app.state.service.family, threading.Event(), threading.Event()
    embed = family.embed

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert go.wait(30)
        return embed(*arguments)

    monkeypatch.setattr(family, "embed", slow)
    with TestClient(app) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/search/image", files=upload(picture))
        assert begun.wait(30)
        second = pool.submit(client.post, "/search/image", files=upload(picture))
        while 'sfsc_queue_length{queue="embedding"} 1.0' not in client.get("/metrics").text:
            pass
        third = client.post("/search/image", files=upload(picture))
        refused(third, 429, "try again")
        assert third.headers["Retry-After"] == "1"
        # One slow image stalls no request of another kind.
        assert client.post("/search/id", json={"id": str(picture)}).status_code == 200
        go.set()
        assert [first.result().status_code, second.result().status_code] == [200, 200]
        assert client.post("/search/image", files=upload(picture)).status_code == 200
        assert 'sfsc_rejected_total{queue="embedding"} 1.0' in client.get("/metrics").text


def test_large_images_leave_threads_for_the_others(
    run: Path, stored: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(run, stored, hosts=["testserver"])
    decode, go, begun = service_module.decode_sizes, threading.Event(), threading.Event()

    def slow_if_large(data: bytes, *arguments: Any) -> Any:
        if data == large:
            begun.set()
            assert go.wait(30)
        return decode(data, *arguments)

    large = cv2.imencode(".png", np.zeros((2100, 2100, 3), np.uint8))[1].tobytes()
    monkeypatch.setattr(service_module, "decode_sizes", slow_if_large)
    with TestClient(app) as client, ThreadPoolExecutor(3) as pool:
        files = {"image": ("large.png", large)}
        answers = [pool.submit(client.post, "/search/image", files=files) for _ in range(3)]
        assert begun.wait(30)
        while 'sfsc_queue_length{queue="large images"} 2.0' not in client.get("/metrics").text:
            pass
        assert client.post("/search/image", files=upload(picture)).status_code == 200
        go.set()
        assert {answer.result().status_code for answer in answers} == {200}


def test_one_slow_image_does_not_stall_the_others(
    run: Path, stored: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(run, stored, hosts=["testserver"])
    family, go, begun = app.state.service.family, threading.Event(), threading.Event()
    embed = family.embed

    def first_is_slow(*arguments: Any) -> Any:
        if not begun.is_set():
            begun.set()
            assert go.wait(30)
        return embed(*arguments)

    monkeypatch.setattr(family, "embed", first_is_slow)
    with TestClient(app) as client, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.post, "/search/image", files=upload(picture))
        assert begun.wait(30)
        assert client.post("/search/image", files=upload(picture)).status_code == 200
        assert not slow.done()
        go.set()
        assert slow.result().status_code == 200


# The process


def test_sigterm_finishes_what_was_accepted(run: Path, stored: Path, picture: Path) -> None:
    added: list[str] = []
    stop = threading.Event()

    def add(writer: int, address: str) -> None:
        with httpx.Client(base_url=address, timeout=30) as client:
            for number in range(1000):
                try:
                    answer = client.post(
                        "/rows", files=upload(picture), data={"path": f"s3://{writer}/{number}"}
                    )
                except httpx.TransportError:
                    return  # the service is gone: nothing was acknowledged
                assert answer.status_code == 200
                added.append(answer.json()["id"])
                if len(added) >= 6:
                    stop.set()

    with serving(run, stored) as (process, address), ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(add, writer, address) for writer in range(3)]
        assert stop.wait(60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        for writer in writers:
            writer.result()
    ids = {row["id"] for row in Gallery.open(stored).rows()}
    assert len(added) >= 6
    assert set(added) <= ids


def test_ctrl_c_ends_it_as_it_ends_every_command(run: Path, indexed: Path) -> None:
    with serving(run, indexed) as (process, address):
        assert httpx.get(f"{address}/health").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_a_port_in_use_is_refused_in_one_line(run: Path, stored: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "sfsc", "serve", str(run), "--gallery", str(stored), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"port {port}" in done.stderr


def test_a_gallery_of_another_family(stored: Path, tmp_path: Path) -> None:
    Family.create("small", WIDTHS, 16, (32, 32), seed=1).save(tmp_path / "other")
    with pytest.raises(SfscError, match="belongs to the family"):
        create_app(tmp_path / "other", stored, hosts=["testserver"])


# Its document


def test_the_document_names_every_endpoint_and_metric(client: TestClient) -> None:
    text = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        assert all(f"`{method.upper()} {path}`" in text for method in operations), path
    names = set(re.findall(r"^# TYPE (sfsc_\w+)", client.get("/metrics").text, re.MULTILINE))
    assert set(re.findall(r"`(sfsc_\w+)`", text)) == {name for name in names if not name.endswith("_created")}
