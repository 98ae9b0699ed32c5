"""The service behind a reverse proxy, which offers it below a path of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from sfsc.serving.attempts import MOST_WRONG
from tests.serving.conftest import serving

PREFIX = "/visual"
CLIENT = "X-Client"  # by which a request says to the proxy whom it plays


@contextmanager
def proxy(service: str) -> Iterator[str]:
    """The address of a proxy that forwards what is below PREFIX, as nginx does with `proxy_pass`."""

    class Forward(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path.startswith(PREFIX)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name != CLIENT}
            headers["X-Forwarded-For"] = self.headers.get(CLIENT, "192.0.2.1")
            url = service.rstrip("/") + self.path.removeprefix(PREFIX)
            answer = httpx.request(self.command, url, content=body, headers=headers, timeout=60)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def status(url: str, key: str, **headers: str) -> int:
    named = {"X-API-Key": key, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.get(f"{url}/gallery", headers=named, timeout=60).status_code


def test_page_and_searches_work_below_a_path(run: Path, indexed: Path, picture: Path) -> None:
    options = ("--proxy", "127.0.0.1", "--root-path", PREFIX, "--allow-host", "search.example")
    with serving(run, indexed, *options) as (_, service), proxy(service) as url:
        headers = {"Host": "search.example"}
        page = httpx.get(f"{url}/", headers=headers, timeout=60)
        assert (page.status_code, "page.js" in page.text) == (200, True)
        assert httpx.get(f"{url}/page.js", headers=headers, timeout=60).status_code == 200
        own = {**headers, "Origin": "http://search.example"}
        found = httpx.post(
            f"{url}/search/image", files={"image": picture.read_bytes()}, headers=own, timeout=60
        )
        assert found.status_code == 200
        row = found.json()["hits"][0]["id"]
        assert httpx.get(f"{url}/images/{row}", headers=headers, timeout=60).status_code == 200
        assert httpx.get(f"{url}/gallery", headers={"Host": "other.example"}, timeout=60).status_code == 421


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False], ids=["named proxy", "any client"])
def test_only_a_named_proxy_says_who_asks(run: Path, indexed: Path, named: bool) -> None:
    options = ("--api-key", "right", "--root-path", PREFIX, *(["--proxy", "127.0.0.1"] if named else []))
    with serving(run, indexed, *options) as (_, service), proxy(service) as url:
        for _ in range(MOST_WRONG):
            assert status(url, "wrong", X_Client="192.0.2.7") == 401
        assert status(url, "right", X_Client="192.0.2.7") == 429
        assert status(url, "right", X_Client="192.0.2.8") == (200 if named else 429)
