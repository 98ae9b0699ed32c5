"""Measure the service under load from a second process, and the fate of requests when it is told to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import cv2
import httpx
import numpy as np
from neighbours import clustered
from page import parser, section, table

from sfsc import Condition, Family, Gallery
from sfsc.progress import track

BATCH = 50_000
SECONDS = 60.0  # maximum time of one answer
PATIENCE = 600.0  # maximum seconds until the service answers, or until it ends
EXPLANATION = """
`sfsc serve` runs in a separate process, on loopback, with {rows:,} rows of {dimension} dimensions. This
process sends {requests:,} searches by embedding with ten hits each, and a twentieth of that number of exact
searches, from {clients} clients at once. Each client waits for its answer before it sends the next request.
An embedding takes about {size:.1f} kB of JSON."""
END = """
**SIGTERM under load.** While {clients} clients added rows (an image is embedded for each, and its row is
stored), the service was told to end after {after:g} s. It ended with code {code}. {acknowledged} adds had
been answered with 200; **{lost}** of their rows are missing in the gallery. {cut} requests that had a
connection got no answer; {refused} were refused a connection."""
HEADING = ["search", "requests", "requests/s", "p50", "p95", "in Gallery.search, p50", "not 200"]


def main() -> None:
    """Measure, and print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000, help="rows of the gallery")
    arguments.add_argument("--dimension", type=int, default=128, help="embedding dimension")
    arguments.add_argument("--requests", type=int, default=2000, help="for each kind of search")
    arguments.add_argument("--clients", type=int, default=8, help="number of clients at once")
    arguments.add_argument("--after", type=float, default=3.0, help="seconds of load before SIGTERM")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, gallery = Path(folder, "run"), Path(folder, "gallery")
        queries = build(run, gallery, chosen.rows, chosen.dimension)
        with served(run, gallery) as (url, _):
            load = partial(searches, url, queries, chosen.requests, chosen.clients)
            rows = [["approximate", *load(exact=False)], ["exact", *load(exact=True, share=20)]]
        with served(run, gallery) as (url, process):
            ended = end_under_load(url, process, gallery, chosen.clients, chosen.after)
    size = len(json.dumps(queries[0].tolist())) / 1000
    print(
        section(
            "The service under load",
            EXPLANATION.format(**vars(chosen), size=size),
            table(HEADING, rows),
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
def served(run: Path, gallery: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start the service; once it answers, yield its address and its process."""
    command = [sys.executable, "-m", "sfsc", "serve", str(run), "--gallery", str(gallery), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = next(word for word in process.stdout.readline().split() if word.startswith("http")).rstrip(
                "/"
            )
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until and process.poll() is None:
                try:
                    httpx.get(f"{url}/health", timeout=SECONDS).raise_for_status()
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield url, process
        finally:
            process.terminate()


def searches(
    url: str, queries: np.ndarray, requests: int, clients: int, exact: bool, share: int = 1
) -> list[str]:
    """Send requests; return their number, rate, p50 and p95, time in the gallery, and failures."""
    bodies = [{"embedding": query.tolist(), "exact": exact} for query in queries]

    def ask(client: httpx.Client, number: int) -> tuple[float, float, bool]:
        start = time.perf_counter()
        answer = client.post(f"{url}/search/embedding", json=bodies[number % len(bodies)])
        inside = answer.json().get("search_ms", 0.0) if answer.status_code == 200 else 0.0
        return 1000 * (time.perf_counter() - start), inside, answer.status_code == 200

    def work(first: int) -> list[tuple[float, float, bool]]:
        with httpx.Client(timeout=SECONDS) as client:
            return [ask(client, number) for number in range(first, requests // share, clients)]

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(requests // share - clients, requests // share)))  # not counted
        start = time.perf_counter()
        found = [one for part in pool.map(work, range(clients)) for one in part]
        seconds = time.perf_counter() - start
    times, inside = np.array([one[0] for one in found]), np.array([one[1] for one in found])
    p50, p95 = np.percentile(times, [50, 95])
    failed = sum(not one[2] for one in found)
    return [
        *(f"{len(found):,}", f"{len(found) / seconds:,.0f}", f"{p50:.1f} ms", f"{p95:.1f} ms"),
        *(f"{np.median(inside):.1f} ms", str(failed)),
    ]


def end_under_load(
    url: str, process: subprocess.Popen[str], gallery: Path, clients: int, after: float
) -> dict[str, int]:
    """Tell the service to end while clients add rows, and count what happened to the requests."""
    counts: Counter[str] = Counter()
    acknowledged: list[str] = []
    picture = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()

    def work(client: int) -> None:
        for number in count():
            name = f"https://example.org/{client}/{number}.png"
            try:  # one connection for each request, so that no idle one is closed
                answer = httpx.post(
                    f"{url}/rows", files={"image": picture}, data={"path": name}, timeout=SECONDS
                )
            except httpx.TransportError as error:
                counts["refused" if isinstance(error, httpx.ConnectError) else "cut"] += 1
                return
            if answer.status_code == 200:
                acknowledged.append(name)

    with ThreadPoolExecutor(clients) as pool:
        waiting = [pool.submit(work, number) for number in range(clients)]
        time.sleep(after)
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE)
        for one in waiting:
            one.result()
    with Gallery.open(gallery) as opened:
        stored = {row["id"] for row in opened.rows([Condition("id", "=", tuple(acknowledged))])}
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
