"""What strangers may try on a service: other hosts and files, many connections, endless bodies, keys."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient

import sfsc.serving.attempts as attempts_module
import sfsc.serving.guard as guard_module
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.gallery import Gallery
from sfsc.images.reading import write_png
from sfsc.serving import create_app
from sfsc.serving.connections import MOST_HEADER, limited_connections
from sfsc.serving.row_images import common_folder, is_uri

HOSTS = ["testserver"]


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("192.168.1.7:80", True),
        ("localhost:8000", True),
        ("app.localhost", True),
        ("testserver", True),
        ("TestServer.:8000", True),
        ("evil.example", False),
        ("testserver.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:8000", False),
        ("[::1].evil.example", False),
    ],
)
def test_a_name_that_was_not_allowed_is_no_host(client: TestClient, host: str, allowed: bool) -> None:
    answer = client.get("/health", headers={"Host": host})
    assert answer.status_code == (200 if allowed else 421)
    assert allowed or "--allow-host" in answer.json()["error"]


def test_any_host_can_be_allowed_and_a_wrong_one_is_refused(run: Path, indexed: Path) -> None:
    with TestClient(create_app(run, indexed, hosts=["*"])) as client:
        assert client.get("/health", headers={"Host": "any.example"}).status_code == 200
    with pytest.raises(SfscError, match="host http://a: give the name alone"):
        create_app(run, indexed, hosts=["http://a"])


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("https://shop.example/1.jpg", True),
        ("s3://bucket/1.jpg", True),
        ("git+ssh://x", True),
        ("../../etc/passwd::x://y", False),
        ("/etc/passwd", False),
        ("://x", False),
        ("1a://x", False),
        ("a b://x", False),
    ],
)
def test_a_uri_begins_with_a_scheme(path: str, uri: bool) -> None:
    assert is_uri(path) is uri


def test_the_common_folder_of_rows() -> None:
    assert common_folder(["/a/b/1.jpg", "/a/b/c/2.jpg", "https://x/y", "/a/b/z.zip::m/3.png"]) == Path("/a/b")
    assert common_folder(["/a/1.jpg", "/b/2.jpg"]) is None
    assert common_folder(["https://x/y", "relative.jpg"]) is None


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Rows of a gallery from elsewhere: their ids, and files inside and outside of a folder."""
    inside, outside = tmp_path / "photos", tmp_path / "private"
    for folder in (inside, outside):
        folder.mkdir()
        write_png(folder / "1.png", np.zeros((32, 32, 3), np.uint8))
    (inside / "link.png").symlink_to(outside / "1.png")
    yield {
        "inside": str(inside / "1.png"),
        "outside": str(outside / "1.png"),
        "link": str(inside / "link.png"),
        "climbing": f"{inside}/../private/1.png",
        "relative": os.path.relpath(outside / "1.png"),
        "zero": f"{inside}/1.png\0",
        "long": f"{inside}/{'a' * 3000}.png",
    }


def test_rows_show_only_images_of_the_roots(run: Path, hostile: dict[str, str], tmp_path: Path) -> None:
    fingerprint, names = Family.load(run).fingerprint, [*hostile]
    with Gallery.open(tmp_path / "gallery", create=True) as gallery:
        rows = np.random.default_rng(0).standard_normal((len(names), 16)).astype(np.float32)
        gallery.add(rows, names, paths=[*hostile.values()], width=1.0, fingerprint=fingerprint)
    app = create_app(run, tmp_path / "gallery", hosts=HOSTS, image_roots=[tmp_path / "photos"])
    with TestClient(app) as client:
        for name in names:
            expected = 200 if name == "inside" else 404
            assert client.get(f"/images/{name}").status_code == expected, name
            answer = client.post("/search/id", json={"id": name, "width": 0.25})
            assert answer.status_code == (200 if name == "inside" else 422), name
        assert [example["id"] for example in client.get("/gallery").json()["examples"]] == ["inside"]


def test_wrong_keys_are_counted(run: Path, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(create_app(run, indexed, api_key="secret", hosts=HOSTS)) as client:
        for _ in range(attempts_module.MOST_WRONG):
            assert client.get("/gallery", headers={"X-API-Key": "guess"}).status_code == 401
        answer = client.get("/gallery", headers={"X-API-Key": "secret"})
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "60")
        assert client.get("/health").status_code == 200
        now = time.monotonic()
        monkeypatch.setattr(attempts_module.time, "monotonic", lambda: now + attempts_module.SECONDS + 1)
        assert client.get("/gallery", headers={"X-API-Key": "secret"}).status_code == 200


def test_a_missing_key_is_not_a_wrong_one(run: Path, indexed: Path) -> None:
    with TestClient(create_app(run, indexed, api_key="secret", hosts=HOSTS)) as client:
        for _ in range(attempts_module.MOST_WRONG + 1):
            assert client.get("/gallery").status_code == 401
        assert client.get("/gallery", headers={"X-API-Key": "secret"}).status_code == 200


def test_clients_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts_module, "MOST_CLIENTS", 3)
    attempts = attempts_module.Attempts()
    for client in "abcd":
        for _ in range(attempts_module.MOST_WRONG):
            attempts.note(client)
    assert [attempts.wait(client) > 0 for client in "abcd"] == [False, True, True, True]


def test_answers_are_for_the_services_own_pages(client: TestClient, run: Path, indexed: Path) -> None:
    assert client.get("/health").headers["Cross-Origin-Resource-Policy"] == "same-origin"
    page = "http://shop.example"
    with TestClient(create_app(run, indexed, hosts=HOSTS, origins=[page])) as other:
        answer = other.get("/health", headers={"Origin": page})
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/search/id", "[" * 100_000),
        ("/search/id", '{"id":' + "[" * 100_000),
        ("/search/id", '{"id": "\\ud800"}'),
        ("/search/id", '{"id": "a", "where": ["' + " " * 500_000 + '"]}'),
        ("/search/id", json.dumps({"id": "a", "where": ["a=" + '"' * 200_000]})),
        ("/search/id", json.dumps({"id": "a", "where": ["a=1"] * 10_000})),
        ("/search/embedding", '{"embedding": [1e400]}'),
        ("/search/embedding", '{"embedding": [' + "9" * 5000 + "]}"),
        ("/search/embedding", '{"embedding": [NaN]}'),
    ],
)
def test_hostile_bodies_are_the_clients_mistakes(client: TestClient, path: str, body: str) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text[:200]
    assert len(answer.json()["error"]) < 1000


def test_a_body_that_does_not_end_is_given_up(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "BODY_SECONDS", 0.1)
    never = asyncio.Event

    async def receive() -> Any:
        await never().wait()

    async def run() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            **{"type": "http", "method": "POST", "path": "/search/id", "raw_path": b"/search/id"},
            **{"query_string": b"", "root_path": "", "http_version": "1.1", "scheme": "http"},
            "headers": [(b"host", b"testserver"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await client.app(scope, receive, send)
        return sent

    sent = asyncio.run(run())
    assert sent[0]["status"] == 408


@contextmanager
def listening(most: int, seconds: float) -> Iterator[int]:
    """The port of a server that answers every request, with these limits on connections."""

    async def app(scope: Any, _: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, http=limited_connections(most, seconds), log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def connected(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
    return client


def test_a_crowd_that_sends_half_a_header_keeps_nobody_out() -> None:
    with listening(most=10, seconds=60) as port:
        crowd = [connected(port) for _ in range(100)]
        for _ in range(5):
            assert httpx.get(f"http://127.0.0.1:{port}", timeout=20).text == "ok"
        for client in crowd:
            client.close()


def test_a_header_that_is_too_long_is_given_up() -> None:
    with listening(most=10, seconds=60) as port, connected(port) as client:
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            for _ in range(2 * MOST_HEADER // 1024):
                client.sendall(b"x" * 1024)
                time.sleep(0.001)
        with connected(port) as other:
            other.sendall(b"x\r\nContent-Length: 200000\r\n\r\n")
            for _ in range(200):
                other.sendall(b"x" * 1000)
            assert other.recv(12) == b"HTTP/1.1 200"


def test_a_header_that_does_not_end_is_given_up() -> None:
    with listening(most=10, seconds=0.3) as port:
        with httpx.Client(timeout=20) as patient:
            for _ in range(2):
                assert patient.get(f"http://127.0.0.1:{port}").text == "ok"
        client = connected(port)
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass
        finally:
            client.close()
