"""Searches and rows with embeddings that clients computed, alone and many at once."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from sfsc.family.family import Family
from sfsc.gallery import Gallery
from sfsc.gallery.store import Hit
from sfsc.serving.answers import Found, search_responses
from sfsc.serving.embeddings import MOST_HEADER, NPY
from sfsc.serving.guard import JSON_NUMBER, MAX_MANY
from sfsc.serving.messages import MOST_QUERIES, MOST_ROWS, SearchAnswers
from tests.serving.test_service import refused, upload

ONE = [1.0] * 16


@pytest.fixture(scope="module")
def rows(indexed: Path) -> dict[str, np.ndarray]:
    """The embedding of each row of the gallery, by its id."""
    with Gallery.open(indexed) as gallery:
        return {row["id"]: row["embedding"] for row in gallery.rows(embeddings=True)}


@pytest.fixture(scope="module")
def fingerprint(run: Path) -> str:
    return Family.load(run).fingerprint


def packed(embedding: np.ndarray) -> str:
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()


def npy(embeddings: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, embeddings)
    return file.getvalue()


def send_npy(client: TestClient, body: bytes, **query: Any) -> httpx.Response:
    return client.post("/search/embeddings", content=body, params=query, headers={"Content-Type": NPY})


def first_hits(answer: httpx.Response) -> list[list[str]]:
    assert answer.status_code == 200, answer.text
    return [[hit["id"] for hit in one["hits"]] for one in answer.json()["answers"]]


# Searching


def test_one_embedding_as_text_finds_what_its_numbers_find(
    client: TestClient, rows: dict[str, np.ndarray]
) -> None:
    for id_, embedding in [*rows.items()][:3]:
        answers = [
            client.post("/search/embedding", json={"embedding": form}).json()
            for form in (embedding.tolist(), packed(embedding))
        ]
        assert answers[0]["hits"] == answers[1]["hits"]
        assert answers[0]["hits"][0]["id"] == id_


def test_no_request_hashes_the_weights_of_the_family(
    client: TestClient, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashed(_: Family) -> str:
        raise AssertionError("the weights were hashed")

    monkeypatch.setattr(Family, "fingerprint", property(hashed))
    assert client.post("/search/embedding", json={"embedding": ONE}).status_code == 200
    assert client.post("/search/embeddings", json={"embeddings": [ONE, ONE]}).status_code == 200
    assert client.post("/search/image", files=upload(picture)).status_code == 200
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("dimension", [4, 16])
def test_many_embeddings_are_answered_like_each_alone(
    client: TestClient, rows: dict[str, np.ndarray], dimension: int
) -> None:
    queries = np.stack([*rows.values()])[:, :dimension]
    rest = {"top": 3, "where": ["camera=c1"], "exact": True, "width": 0.5}
    alone = [
        client.post("/search/embedding", json={"embedding": query.tolist(), **rest}).json()
        for query in queries
    ]
    mixed = [query.tolist() if place % 2 else packed(query) for place, query in enumerate(queries)]
    together = client.post("/search/embeddings", json={"embeddings": mixed, **rest}).json()["answers"]
    by_columns = np.asfortranarray(queries)
    for answers in (
        together,
        send_npy(client, npy(queries), **rest).json()["answers"],
        send_npy(client, npy(by_columns), **rest).json()["answers"],
    ):
        assert [answer["width"] for answer in answers] == [0.5] * len(queries)
        for answer, expected in zip(answers, alone, strict=True):
            assert [hit["id"] for hit in answer["hits"]] == [hit["id"] for hit in expected["hits"]]
            assert [hit["score"] for hit in answer["hits"]] == pytest.approx(
                [hit["score"] for hit in expected["hits"]], abs=1e-6
            )


def test_every_answer_is_what_the_description_promises(client: TestClient, picture: Path) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]
    for path, body in [
        ("/search/embedding", {"embedding": ONE}),
        ("/search/id", {"id": str(picture)}),
        ("/search/embeddings", {"embeddings": [ONE, ONE]}),
        ("/compare/id", {"id": str(picture)}),
    ]:
        answer = client.post(path, json=body).json()
        answers = SearchAnswers.model_validate(answer if "answers" in answer else {"answers": [answer]})
        assert json.loads(answers.model_dump_json())["answers"] == answer.get("answers", [answer])
        for one in answer.get("answers", [answer]):
            assert set(one) == set(schema["SearchAnswer"]["properties"])
            assert all(set(hit) == set(schema["HitAnswer"]["properties"]) for hit in one["hits"])


def test_an_answer_is_written_as_pydantic_writes_it() -> None:
    attributes = {"text": 'a "ü"\n', "none": None, "nan": math.nan, "whole": 2**53, "number": 0.1, "is": True}
    hit = Hit("1", "s3://1", None, "c", 0.25, "int8", 0.5, attributes)
    found = [Found(None, [hit, hit], 0.0, 1.25), Found(1.0, [], 0.5, 0.0)]
    written = bytes(search_responses(found).body)
    expected = {"answers": [one.fields() for one in found]}
    assert written == SearchAnswers.model_validate(expected).model_dump_json().encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"embeddings": []}, ["embeddings", "at least 1"]),
        ({"embeddings": [ONE] * (MOST_QUERIES + 1)}, ["embeddings", "at most 256"]),
        ({"embeddings": [ONE] * 101, "top": 100}, ["10,000 hits", "smaller top"]),
        ({"embeddings": [ONE, ONE[:8]]}, ["embedding 1 has 8 dimensions", "embedding 0 has 16"]),
        ({"embeddings": [ONE, [0.0] * 16]}, ["embedding 1", "zeros"]),
        ({"embeddings": [packed(np.array([*ONE[1:], np.nan]))]}, ["embedding 0", "NaN"]),
        ({"embeddings": [packed(np.array([*ONE[1:], np.inf]))]}, ["embedding 0", "infinity"]),
        ({"embeddings": [ONE[:3]]}, ["16 dimensions", "have 3"]),
        ({"embeddings": [[1.0] * 17]}, ["17 dimensions", "this family has 16"]),
        ({"embeddings": [ONE], "fingerprint": "other"}, ["belongs to the family"]),
        ({"embeddings": [ONE], "width": 2}, ["width 2"]),
        ({"embeddings": ["!" * 64]}, ["embeddings.0", "base64"]),
        ({"embeddings": [packed(np.ones(16))[:-1]]}, ["embeddings.0", "base64"]),
        ({"embeddings": [base64.b64encode(b"12345").decode()]}, ["embeddings.0", "float32"]),
        ({"embeddings": [""]}, ["embeddings.0", "base64"]),
        ({"embeddings": [["1", "x"]]}, ["embeddings.0.1", "valid number"]),
        ({"embeddings": {"0": ONE}}, ["embeddings", "valid array"]),
        ({"embedding": ONE}, ["embeddings", "required"]),
    ],
)
def test_many_embeddings_that_are_wrong(client: TestClient, body: dict[str, Any], words: list[str]) -> None:
    refused(client.post("/search/embeddings", json=body), 422, *words)


def test_other_kinds_of_bodies_are_refused(client: TestClient) -> None:
    body = json.dumps({"embedding": ONE, "embeddings": [ONE]})
    for path, kind in [
        ("/search/embedding", NPY),
        ("/search/embedding", "text/plain"),
        ("/search/embeddings", "application/octet-stream"),
        ("/rows/embeddings", NPY),
    ]:
        answer = client.post(path, content=body, headers={"Content-Type": kind})
        refused(answer, 422, f"content type of the body is {kind}: send application/json")
    refused(client.post("/search/embeddings", content=body), 422, "not given: send application/json or", NPY)


class Unpickled:
    """A Python object in a file: loading it must not run code."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("the object was loaded",)


def with_header(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ["not a .npy file"]),
        (b"\x93NUMPY\x07\x00", ["not a .npy file"]),
        (npy(np.ones((2, 16), np.float32))[:50], ["not a .npy file"]),
        (npy(np.ones((2, 16), np.float32))[:-1], ["127 bytes", "instead of 128"]),
        (npy(np.ones((2, 16), np.float32)) + b"x", ["129 bytes", "instead of 128"]),
        (npy(np.ones((2, 16))), ["float64", "little-endian float32"]),
        (npy(np.ones((2, 16), ">f4")), [">f4", "little-endian float32"]),
        (npy(np.ones(16, np.float32)), ["shape (16,)"]),
        (npy(np.ones((0, 16), np.float32)), ["shape (0, 16)"]),
        (npy(np.array([[Unpickled()]], object)), ["object"]),
        (with_header(HEADER % "10**9, 16"), ["not a .npy file"]),
        (with_header(HEADER % "1000000000, 1000000000"), ["instead of 4000000000000000000"]),
        (with_header(HEADER % "-1, 16", b"x" * 64), ["shape (-1, 16)"]),
        (with_header("(" * 500), ["not a .npy file"]),
        (with_header(HEADER % ("1," * MOST_HEADER)), ["not a .npy file"]),
        (with_header("{'descr': __import__('os'), 'fortran_order': False, 'shape': (1, 1)}"), ["not a .npy"]),
        (npy(np.full((1, 16), np.nan, np.float32)), ["embedding 0", "NaN"]),
        (npy(np.ones((MOST_QUERIES + 1, 16), np.float32)), ["embeddings", "at most 256"]),
    ],
)
def test_npy_files_that_are_wrong(client: TestClient, body: bytes, words: list[str]) -> None:
    refused(send_npy(client, body), 422, *words)


@pytest.mark.parametrize(
    ("query", "word"), [({"top": "x"}, "top"), ({"tops": 1}, "tops"), ({"top": 0}, "top")]
)
def test_npy_queries_that_are_wrong(client: TestClient, query: dict[str, Any], word: str) -> None:
    refused(send_npy(client, npy(np.ones((1, 16), np.float32)), **query), 422, word)


def test_many_embeddings_have_a_limit_of_their_own(client: TestClient) -> None:
    most = MAX_MANY + JSON_NUMBER * 16
    for path in ("/search/embeddings", "/rows/embeddings"):
        headers = {"Content-Type": "application/json"}
        refused(client.post(path, content=b" " * most, headers=headers), 422)
        refused(client.post(path, content=b" " * (most + 1), headers=headers), 413, "2048 KiB")


# Adding rows


def new_rows(count: int, **rest: Any) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((count, 16))
    return [
        {"path": f"s3://{place}", "embedding": packed(vector) if place % 2 else vector.tolist(), **rest}
        for place, vector in enumerate(vectors)
    ]


def test_rows_are_stored_with_all_that_was_sent(writer: TestClient, stored: Path, fingerprint: str) -> None:
    rows = new_rows(3)
    rows[0] |= {"id": "zero", "identity": "star", "camera": "c7", "attributes": {"price": 1}}
    rows[1] |= {"attributes": {"price": 2.5, "new": True}}
    body = {"fingerprint": fingerprint, "width": 0.5, "form": "int8", "rows": rows}
    assert writer.post("/rows/embeddings", json=body).json() == {"added": 3}
    with Gallery.open(stored) as gallery:
        assert len(gallery) == 27
        found = {row["id"]: row for row in gallery.rows(["form=int8"])}
    assert set(found) == {"zero", "s3://1", "s3://2"}
    names = ("path", "identity", "camera", "width", "price", "new")
    assert [found["zero"][name] for name in names] == ["s3://0", "star", "c7", 0.5, 1.0, None]
    assert [found["s3://1"][name] for name in names] == ["s3://1", None, None, 0.5, 2.5, True]
    for row in rows:
        answer = writer.post("/search/embedding", json={"embedding": row["embedding"], "top": 1}).json()
        assert answer["hits"][0]["path"] == row["path"]
    assert writer.get("/gallery").json()["rows"] == 27


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fingerprint": None}, ["fingerprint", "string"]),
        ({"fingerprint": "other"}, ["belongs to the family"]),
        ({"width": None}, ["width"]),
        ({"width": 0.3}, ["width 0.3"]),
        ({"form": "float8"}, ["unknown numeric form 'float8'", "float32, float16, int8"]),
        ({"rows": []}, ["rows", "at least 1"]),
        ({"rows": [{"path": "s3://x", "embedding": ONE}] * (MOST_ROWS + 1)}, ["rows", "at most 1000"]),
        ({"rows": new_rows(2, id="same")}, ["id 'same' is given twice"]),
        ({"rows": [{"embedding": ONE}]}, ["rows.0.path", "required"]),
        ({"rows": [{"path": "s3://x"}]}, ["rows.0.embedding", "required"]),
        ({"rows": [{"path": "/etc/passwd", "embedding": ONE}]}, ["path /etc/passwd", "URI", "/rows"]),
        ({"rows": [{"path": "s3://x", "embedding": ONE[:3]}]}, ["16 dimensions", "have 3"]),
        ({"rows": [{"path": "s3://x", "embedding": ONE[:8]}]}, ["have 8", "longer embeddings"]),
        ({"rows": [{"path": "s3://x", "embedding": [0.0] * 16}]}, ["embedding 0", "zeros"]),
        ({"rows": [{"path": "s3://x", "embedding": "?"}]}, ["rows.0.embedding", "base64"]),
        ({"rows": new_rows(1, attributes={"a": [1]})}, ["column a contains list"]),
        ({"rows": new_rows(1, attributes={"a": 2**65})}, ["64 bits"]),
        ({"rows": new_rows(1, attributes={"id": 1})}, ["cannot be named 'id'"]),
        ({"rows": new_rows(1, attributes={str(n): 1 for n in range(101)})}, ["attributes", "at most 100"]),
        ({"rows": new_rows(1, colour="red")}, ["rows.0.colour"]),
    ],
)
def test_rows_that_are_wrong(
    client: TestClient, fingerprint: str, change: dict[str, Any], words: list[str]
) -> None:
    body = {"fingerprint": fingerprint, "width": 1.0, "rows": new_rows(2), **change}
    refused(client.post("/rows/embeddings", json=body), 422, *words)
    assert client.get("/health").json()["rows"] == 24


def test_the_key_is_wanted_and_a_lost_gallery_is_not_the_clients_fault(
    run: Path, stored: Path, fingerprint: str
) -> None:
    from sfsc.serving import create_app

    body = {"fingerprint": fingerprint, "width": 1.0, "rows": new_rows(1)}
    with TestClient(create_app(run, stored, api_key="secret", hosts=["testserver"])) as client:
        refused(client.post("/rows/embeddings", json=body), 401, "X-API-Key")
        refused(client.post("/search/embeddings", json={"embeddings": [ONE]}), 401, "X-API-Key")
        for file in (stored / "gallery.lance" / "_versions").iterdir():
            file.unlink()
        refused(client.post("/rows/embeddings", json=body, headers={"X-API-Key": "secret"}), 503)


def test_direct_endpoints_are_counted_and_described(writer: TestClient, fingerprint: str) -> None:
    writer.post("/search/embeddings", json={"embeddings": [ONE, ONE]})
    writer.post("/rows/embeddings", json={"fingerprint": fingerprint, "width": 1.0, "rows": []})
    text = writer.get("/metrics").text
    assert 'sfsc_requests_total{route="/search/embeddings",status="200"} 1.0' in text
    assert 'sfsc_requests_total{route="/rows/embeddings",status="422"} 1.0' in text
    assert "sfsc_search_seconds_count 1.0" in text
    refused(writer.get("/search/embeddings"), 405)
    paths = writer.get("/openapi.json").json()["paths"]
    assert set(paths["/search/embeddings"]["post"]["requestBody"]["content"]) == {"application/json", NPY}
