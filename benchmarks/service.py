"""Measure the service under load from a second process, and the fate of requests when it is told to end."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count, cycle
from multiprocessing import get_context
from pathlib import Path
from threading import Lock

import httpx
import numpy as np
from clients import SECONDS, Load, post, send
from neighbours import clustered
from page import parser, section, table

from sfsc import Family, Gallery
from sfsc.progress import track

Kind = tuple[str, int, list[bytes]]
Sender = Callable[..., Load]

BATCH = 50_000
QUERIES_TOGETHER = 32  # in one request
BARE = Path(__file__).with_name("bare.py")
PATIENCE = 600.0  # maximum seconds until the service answers, or until it ends
EXPLANATION = """
`sfsc serve` runs in a separate process, on loopback, with {rows:,} rows of {dimension} dimensions. Searches
are by embedding, with ten hits each, and each kind is sent for {seconds:g} s. A third process holds {clients}
connections, which send prepared bytes and wait for the answer before they send the next request. As JSON
numbers, an embedding takes about {size:.1f} kB. *Bare* is an ASGI app on uvicorn that answers the same bytes
and does nothing else; it takes turns with the service in {rounds} rounds, of which the medians are shown."""
HEADING = ["search", "searches/s", "bare", "service / bare", "p50", "p95", "in Gallery.search", "not 200"]
ADDING = """
Rows are added by embedding, from the same clients. A request is answered when its rows are on disk."""
ADD_HEADING = ["rows in a request", "requests", "rows/s", "p50", "p95", "not 200"]
END = """
**SIGTERM under load.** While {clients} clients added {together} rows by embedding in each request, the
service was told to end after {after:g} s. It ended with code {code}. {acknowledged:,} rows had been
acknowledged; **{lost}** of them are missing in the gallery. {cut} requests that had a connection got no
answer; {refused} were refused a connection."""


def main() -> None:
    """Measure, and print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000, help="rows of the gallery")
    arguments.add_argument("--dimension", type=int, default=128, help="embedding dimension")
    arguments.add_argument("--seconds", type=float, default=5.0, help="for each kind of request in a round")
    arguments.add_argument("--rounds", type=int, default=5, help="rounds of service and bare app")
    arguments.add_argument("--clients", type=int, default=8, help="number of clients at once")
    arguments.add_argument("--together", type=int, default=100, help="rows in a request")
    arguments.add_argument("--after", type=float, default=3.0, help="seconds of load before SIGTERM")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        run, gallery = Path(folder, "run"), Path(folder, "gallery")
        queries = build(run, gallery, chosen.rows, chosen.dimension)
        fingerprint = Family.load(run).fingerprint
        load = partial(_loaded, pool, chosen.clients, chosen.seconds)
        kinds = searches(queries, QUERIES_TOGETHER)
        with served(run, gallery) as (url, _):
            answers = Path(folder, "answers.json")
            answers.write_text(json.dumps({path: once(url, sent[0]) for path, _, sent in kinds.values()}))
            with process([sys.executable, str(BARE), str(answers)]) as (bare, _):
                rows = [compared(name, load, url, bare, kind, chosen.rounds) for name, kind in kinds.items()]
            added = [adding(load, url, fingerprint, queries, size) for size in (1, chosen.together)]
        with served(run, gallery) as (url, service):
            bodies = new_rows(fingerprint, queries, chosen.together)
            ended = end_under_load(url, service, gallery, bodies, chosen.clients, chosen.after)
    size = len(json.dumps(queries[0].tolist())) / 1000
    print(
        section(
            "The service under load",
            EXPLANATION.format(**vars(chosen), size=size),
            table(HEADING, rows),
            ADDING,
            table(ADD_HEADING, added),
            END.format(**vars(chosen), **ended),
        )
    )


def build(run: Path, gallery: Path, rows: int, dimension: int) -> np.ndarray:
    """Write an untrained family and a gallery of its dimension; return queries."""
    family = Family.create("small", (0.25, 1.0), dimension, (32, 32)).eval()
    family.save(run)
    vectors, queries = clustered(rows, 500, dimension)
    with Gallery.open(gallery, create=True) as opened:
        for start in track(range(0, rows, BATCH), "writing the gallery", -(-rows // BATCH)):
            names = [f"row{number}" for number in range(start, min(start + BATCH, rows))]
            part = vectors[start : start + BATCH]
            opened.add(part, names, paths=names, width=1.0, fingerprint=family.fingerprint)
    return queries


@contextmanager
def process(command: list[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a server; once it prints its address, yield that and its process."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            words = server.stdout.readline().split()
            yield next(word for word in words if word.startswith("http")).rstrip("/"), server
        finally:
            server.terminate()


@contextmanager
def served(run: Path, gallery: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start the service; once it answers, yield its address and its process."""
    command = [sys.executable, "-m", "sfsc", "serve", str(run), "--gallery", str(gallery), "--port", "0"]
    with process(command) as (url, server):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and server.poll() is None:
            try:
                httpx.get(f"{url}/health", timeout=SECONDS).raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url, server


def packed(embedding: np.ndarray) -> str:
    """Return an embedding as base64."""
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()


def searches(queries: np.ndarray, together: int) -> dict[str, Kind]:
    """Return the requests of each kind of search: their path, the embeddings in one, and their bytes."""
    one, many = "/search/embedding", "/search/embeddings"
    parts = [queries[start : start + together] for start in range(0, len(queries) - together, together)]
    bodies: dict[str, tuple[str, int, list[dict[str, object]]]] = {
        "numbers": (one, 1, [{"embedding": query.tolist()} for query in queries]),
        "base64": (one, 1, [{"embedding": packed(query)} for query in queries]),
        f"base64, {together} at once": (
            many,
            together,
            [{"embeddings": [*map(packed, part)]} for part in parts],
        ),
        "exact": (one, 1, [{"embedding": packed(query), "exact": True} for query in queries]),
    }
    return {
        name: (path, size, [post(path, json.dumps(body).encode()) for body in kind])
        for name, (path, size, kind) in bodies.items()
    }


def new_rows(fingerprint: str, queries: np.ndarray, size: int) -> Iterator[bytes]:
    """Yield bodies with rows that no other body contains."""
    texts = [packed(query) for query in queries]
    for number in count():
        rows = [
            {
                "path": f"https://example.org/{size}/{number}/{place}.png",
                "embedding": texts[place % len(texts)],
            }
            for place in range(size)
        ]
        yield json.dumps({"fingerprint": fingerprint, "width": 1.0, "rows": rows}).encode()


def once(url: str, request: bytes) -> str:
    """Return the answer to a request."""
    return send(url, iter([request]), 1, 0.0).last.decode()


def send_again(url: str, clients: int, seconds: float, requests: Sequence[bytes]) -> Load:
    """Send requests, again and again."""
    return send(url, cycle(requests), clients, seconds)


def send_rows(
    url: str, clients: int, seconds: float, fingerprint: str, queries: np.ndarray, size: int
) -> Load:
    """Send rows that no other request contains, so many in each request."""
    bodies = new_rows(fingerprint, queries, size)
    return send(url, (post("/rows/embeddings", body) for body in bodies), clients, seconds)


def _loaded(
    pool: Executor, clients: int, seconds: float, work: Callable[..., Load], url: str, *rest: object
) -> Load:
    """Send requests from the other process."""
    return pool.submit(work, url, clients, seconds, *rest).result()


def compared(name: str, load: Sender, url: str, bare: str, kind: Kind, rounds: int) -> list[str]:
    """Send searches to the service and to the bare app in turns; return the cells of a row."""
    _, size, requests = kind
    turns = [(load(send_again, url, requests), load(send_again, bare, requests)) for _ in range(rounds)]
    rates = [[size * len(one.times) / one.seconds for one in turn] for turn in turns]
    times = [time for own, _ in turns for time in own.times]
    inside = json.loads(turns[-1][0].last)
    cells = [*np.median(rates, axis=0), np.median([own / other for own, other in rates])]
    p50, p95 = np.percentile(times, [50, 95])
    searched = (inside["answers"][0] if "answers" in inside else inside)["search_ms"]
    return [
        *(name, f"{cells[0]:,.0f}", f"{cells[1]:,.0f}", f"{cells[2]:.2f}", f"{p50:.1f} ms", f"{p95:.1f} ms"),
        *(f"{searched:.1f} ms", str(sum(own.failed for own, _ in turns))),
    ]


def adding(load: Sender, url: str, fingerprint: str, queries: np.ndarray, size: int) -> list[str]:
    """Add rows, so many in each request; return the cells of a row."""
    found = load(send_rows, url, fingerprint, queries, size)
    p50, p95 = np.percentile(found.times, [50, 95])
    rate = size * len(found.times) / found.seconds
    cells = [f"{size}", f"{len(found.times):,}", f"{rate:,.0f}", f"{p50:.1f} ms", f"{p95:.1f} ms"]
    return [*cells, str(found.failed)]


def end_under_load(
    url: str,
    process: subprocess.Popen[str],
    gallery: Path,
    bodies: Iterator[bytes],
    clients: int,
    after: float,
) -> dict[str, int]:
    """Tell the service to end while clients add rows, and count what happened to the requests."""
    counts: Counter[str] = Counter()
    acknowledged: list[str] = []
    headers, next_one = {"Content-Type": "application/json"}, Lock()

    def work(_: int) -> None:
        while True:
            with next_one:
                body = next(bodies)
            try:  # one connection for each request, so that no idle one is closed
                answer = httpx.post(f"{url}/rows/embeddings", content=body, headers=headers, timeout=SECONDS)
            except httpx.TransportError as error:
                counts["refused" if isinstance(error, httpx.ConnectError) else "cut"] += 1
                return
            if answer.status_code == 200:
                acknowledged.extend(row["path"] for row in json.loads(body)["rows"])

    with ThreadPoolExecutor(clients) as pool:
        waiting = [pool.submit(work, number) for number in range(clients)]
        time.sleep(after)
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE)
        for one in waiting:
            one.result()
    with Gallery.open(gallery) as opened:
        stored = set(opened.column("id"))
    lost = sum(name not in stored for name in acknowledged)
    return {
        "code": code,
        "acknowledged": len(acknowledged),
        "lost": lost,
        "cut": counts["cut"],
        "refused": counts["refused"],
    }


if __name__ == "__main__":
    main()
