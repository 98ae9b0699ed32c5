"""Requests that wait at the same time: which are worked on together, in which order, and what fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

import sfsc.serving.service as service_module
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.gallery import Gallery
from sfsc.gallery.store import StoreUnavailable
from sfsc.serving import create_app
from sfsc.serving.batches import Batches
from sfsc.serving.messages import Search
from sfsc.serving.queries import MOST_TOGETHER, Query, choose_queries
from sfsc.serving.worker import Busy
from sfsc.serving.writes import MOST_ROWS, Add, Delete, choose
from tests.serving.test_service import refused


def together(items: Sequence[Any], work: Any, waiting: int = 100, count: int | None = None) -> list[Any]:
    """The outcomes of items of which the first is worked on while all others begin to wait."""
    go, begun = threading.Event(), threading.Event()

    def held(chosen: list[Any]) -> list[Any]:
        begun.set()
        assert go.wait(30)
        return work(chosen)

    async def run() -> list[Any]:
        batches: Batches[Any, Any] = Batches("b", 1, waiting, lambda queue: [*range(len(queue))], held)
        tasks = [asyncio.ensure_future(batches.run(items[0]))]
        await asyncio.to_thread(begun.wait, 30)
        tasks += [asyncio.ensure_future(batches.run(item)) for item in items[1:]]
        await asyncio.sleep(0)
        assert batches.waiting == (len(items) - 1 if count is None else count)
        go.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        batches.close()
        return outcomes

    return asyncio.run(run())


def test_what_waits_is_worked_on_together() -> None:
    calls: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        calls.append(items)
        return [10 * item for item in items]

    assert together([1, 2, 3, 4], work) == [10, 20, 30, 40]
    assert calls == [[1], [2, 3, 4]]


def test_a_refusal_is_only_of_the_item_that_causes_it() -> None:
    def work(items: list[int]) -> list[int]:
        if 3 in items:
            raise SfscError("three")
        return items

    outcomes = together([1, 2, 3, 4], work)
    assert outcomes[:2] + outcomes[3:] == [1, 2, 4]
    assert isinstance(outcomes[2], SfscError)


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), ZeroDivisionError()])
def test_a_failure_is_not_tried_again_for_each(error: Exception) -> None:
    calls: list[int] = []

    def work(items: list[int]) -> list[int]:
        calls.append(len(items))
        raise error

    assert together([1, 2, 3, 4], work) == [error] * 4
    assert calls == [1, 3]


def test_a_full_queue_refuses() -> None:
    outcomes = together([1, 2, 3, 4], lambda items: items, waiting=2, count=2)
    assert outcomes[:3] == [1, 2, 3]
    assert isinstance(outcomes[3], Busy)


def test_a_request_that_is_cancelled_in_the_queue_has_no_effect() -> None:
    done: list[int] = []
    go, begun = threading.Event(), threading.Event()

    def work(items: list[int]) -> list[int]:
        begun.set()
        assert go.wait(30)
        done.extend(items)
        return items

    async def run() -> None:
        batches: Batches[int, int] = Batches("b", 1, 9, lambda queue: [*range(len(queue))], work)
        first, second, third = (asyncio.ensure_future(batches.run(item)) for item in (1, 2, 3))
        await asyncio.to_thread(begun.wait, 30)
        first.cancel()
        second.cancel()
        await asyncio.sleep(0)
        go.set()
        assert await third == 3
        batches.close()

    asyncio.run(run())
    assert done[0] == 1, "work that was begun is finished"


# Changes


def add(ids: Sequence[str], width: float = 1.0, number: int = 0, **attributes: Any) -> Add:
    nothing = [None] * len(ids)
    vectors = np.eye(1, 16, number, np.float32).repeat(len(ids), axis=0)
    return Add(
        vectors, ids, [f"s3://{id_}" for id_ in ids], nothing, nothing, [attributes] * len(ids), width, "f"
    )


def rounds(changes: Sequence[Add | Delete]) -> list[list[Add | Delete]]:
    """All changes in the rounds in which they are made if no more come."""
    left, made = [*changes], []
    while left:
        places = choose(left)
        made.append([left[place] for place in places])
        left = [change for place, change in enumerate(left) if place not in places]
    return made


def test_additions_of_one_kind_are_one_commit() -> None:
    a, b, c, d = add(["a"]), add(["b"], 0.5), add(["c"]), add(["d"], 0.5)
    assert rounds([a, b, c, d]) == [[a, c], [b, d]]
    large = [add([f"{part}.{row}" for row in range(MOST_ROWS // 2)]) for part in range(5)]
    assert [len(one) for one in rounds(large)] == [2, 2, 1]


CHANGES = st.lists(
    st.tuples(st.sampled_from(["delete", "add"]), st.sampled_from("abc"), st.sampled_from([0.5, 1.0])),
    max_size=12,
)


@given(CHANGES)
@settings(max_examples=200, deadline=None)
def test_the_order_of_changes_of_one_row_is_kept(kinds: list[tuple[str, str, float]]) -> None:
    changes = [Delete([id_], []) if kind == "delete" else add([id_], width) for kind, id_, width in kinds]
    made = rounds(changes)
    place = {id(change): number for number, one in enumerate(made) for change in one}
    assert sorted(place) == sorted(map(id, changes))
    for number, later in enumerate(changes):
        for earlier in changes[:number]:
            if isinstance(later, Delete) or isinstance(earlier, Delete) or earlier.ids == later.ids:
                assert place[id(earlier)] < place[id(later)]


def test_adds_of_many_clients_are_few_commits(
    run: Path, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(run, stored, hosts=["testserver"])
    fingerprint = Family.load(run).fingerprint
    gallery, go, begun = app.state.service.gallery, threading.Event(), threading.Event()
    real, calls = gallery.add, []

    def slow(embeddings: np.ndarray, ids: Sequence[str], **rest: Any) -> int:
        begun.set()
        assert go.wait(30)
        calls.append([*ids])
        return real(embeddings, ids, **rest)

    monkeypatch.setattr(gallery, "add", slow)

    def body(name: str, price: Any) -> dict[str, Any]:
        row = {"path": f"s3://{name}", "id": name, "embedding": [1.0] * 16, "attributes": {"price": price}}
        return {"fingerprint": fingerprint, "width": 1.0, "rows": [row]}

    prices = {"a": 1, "b": 2.5, "wrong": "text", "c": 3}
    with TestClient(app) as client, ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.post, "/rows/embeddings", json=body("first", 1))
        assert begun.wait(30)
        others = {
            name: pool.submit(client.post, "/rows/embeddings", json=body(name, price))
            for name, price in prices.items()
        }
        while 'sfsc_queue_length{queue="changes"} 4.0' not in client.get("/metrics").text:
            pass
        deleted = pool.submit(client.delete, "/rows", params={"id": "c"})
        while 'sfsc_queue_length{queue="changes"} 5.0' not in client.get("/metrics").text:
            pass
        assert not any(one.done() for one in others.values()), "nothing is acknowledged before it is stored"
        go.set()
        assert first.result().json() == {"added": 1}
        refused(others.pop("wrong").result(), 422, "column price")
        assert all(one.result().json() == {"added": 1} for one in others.values())
        assert deleted.result().json() == {"deleted": 1}
    assert [len(ids) for ids in calls[:2]] == [1, 4]
    with Gallery.open(stored) as opened:
        prices = {row["id"]: row["price"] for row in opened.rows(["price>=0"])}
    assert prices == {"first": 1.0, "a": 1.0, "b": 2.5}


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({}, [0, 1, 2]),
        ({"where": ["camera=1"]}, [0, 1, 2]),
        ({"where": ["camera=1"], "exact": True}, [0, 1, 2]),
        ({"exact": True}, [0]),
    ],
)
def test_searches_that_become_faster_go_together(settings: dict[str, Any], chosen: list[int]) -> None:
    def query(count: int, **change: Any) -> Query:
        return Query(np.ones((count, 16), np.float32), "f", Search(**{**settings, **change}))

    assert choose_queries([query(1), query(2), query(1), query(1, top=3)]) == chosen
    assert choose_queries([query(MOST_TOGETHER), query(1)]) == [0]


def test_searches_that_wait_are_one_search(run: Path, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "SEARCH_THREADS", 1)
    app = create_app(run, indexed, hosts=["testserver"])
    gallery, go, begun = app.state.service.gallery, threading.Event(), threading.Event()
    real, calls = gallery.search, []

    def slow(embeddings: np.ndarray, *rest: Any) -> Any:
        begun.set()
        assert go.wait(30)
        calls.append(len(embeddings))
        return real(embeddings, *rest)

    monkeypatch.setattr(gallery, "search", slow)
    vectors = np.random.default_rng(0).standard_normal((8, 16))
    bodies = [{"embedding": vector.tolist(), "top": 2 + place // 6} for place, vector in enumerate(vectors)]
    wrong = {"embedding": [1.0] * 3, "top": 2}
    with TestClient(app) as client, ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(client.post, "/search/embedding", json=bodies[0])]
        assert begun.wait(30)
        answers += [pool.submit(client.post, "/search/embedding", json=body) for body in [*bodies[1:], wrong]]
        while app.state.service._searches.waiting < 8:
            pass
        go.set()
        hits = [answer.result().json()["hits"] for answer in answers[:-1]]
        refused(answers[-1].result(), 422, "16 dimensions")
    assert calls[0] == 1 and {2, 5} <= {*calls}
    monkeypatch.undo()
    with TestClient(create_app(run, indexed, hosts=["testserver"])) as client:
        for found, body in zip(hits, bodies, strict=True):
            alone = client.post("/search/embedding", json=body).json()["hits"]
            assert [hit["id"] for hit in found] == [hit["id"] for hit in alone]
            assert len(found) == body["top"]
