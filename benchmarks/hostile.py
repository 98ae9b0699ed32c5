"""Measure how the service answers hostile clients, and how long well-behaved clients wait meanwhile."""

from __future__ import annotations

import json
import random
import socket
import struct
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import quote

import cv2
import httpx
import numpy as np
from page import parser, section, table
from service import SECONDS, build, served

MEBIBYTE = 1024 * 1024
EXPLANATION = """
`sfsc serve` runs in a separate process, on loopback, with {rows:,} rows of {dimension} dimensions. One
well-behaved client searches by image and by embedding in turn, {pause:g} s apart, while a second process runs
{clients} other clients for {seconds:g} s. In the first line, these search as the well-behaved client does,
but without a pause. In the second line, they send hostile requests of {kinds} kinds ({names}). In the third
line, {crowd:,} more connections have also sent half of a header. The table counts the statuses of all answers
to the other clients."""
HEADING = [
    "other clients",
    "their requests",
    "their answers",
    "searches",
    "not 200",
    "p50",
    "p95",
    "p50, ratio",
]
Request = tuple[str, str, dict[str, object]]


def main() -> None:
    """Measure, and print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=20_000, help="rows of the gallery")
    arguments.add_argument("--dimension", type=int, default=128, help="embedding dimension")
    arguments.add_argument("--clients", type=int, default=8, help="number of clients at once")
    arguments.add_argument("--seconds", type=float, default=600.0, help="duration of hostile requests")
    arguments.add_argument("--pause", type=float, default=0.05, help="seconds between well-behaved searches")
    arguments.add_argument("--crowd", type=int, default=1000, help="connections with half of a header")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, gallery = Path(folder, "run"), Path(folder, "gallery")
        queries = build(run, gallery, chosen.rows, chosen.dimension)
        good = searches(queries)
        rows: list[list[str]] = []
        with served(run, gallery) as (url, _):
            measured = partial(measure, url, good, chosen.clients, chosen.pause)
            usual, row = measured("well-behaved", good, min(60.0, chosen.seconds))
            rows.append([*row, "1"])
            for name, crowd in (("hostile", 0), ("hostile, and a crowd", chosen.crowd)):
                with Crowd(url, crowd):
                    p50, row = measured(name, hostile(), chosen.seconds / 2)
                rows.append([*row, f"{p50 / usual:.2f}"])
    kinds = list(HOSTILE)
    print(
        section(
            "Hostile clients",
            EXPLANATION.format(**vars(chosen), kinds=len(kinds), names=", ".join(kinds)),
            table(HEADING, rows),
        )
    )


def searches(queries: np.ndarray) -> list[Request]:
    """Return the requests of well-behaved clients."""
    generator = np.random.default_rng(0)
    found: list[Request] = []
    for query in queries[:50]:
        picture = cv2.imencode(".jpg", generator.integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
        found.append(("POST", "/search/image", {"files": {"image": picture}, "data": {"width": "0.25"}}))
        found.append(("POST", "/search/embedding", {"json": {"embedding": query.tolist()}}))
    return found


def measure(
    url: str,
    good: Sequence[Request],
    clients: int,
    pause: float,
    name: str,
    others: Sequence[Request],
    seconds: float,
) -> tuple[float, list[str]]:
    """Search while other clients send requests; return the median time and the cells of a row."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        sending = pool.submit(send, url, others, clients, seconds)
        times: list[float] = []
        failed = 0
        with httpx.Client(base_url=url, timeout=SECONDS) as client:
            while not sending.done():
                method, path, body = good[len(times) % len(good)]
                start = time.perf_counter()
                failed += client.request(method, path, **body).status_code != 200  # type: ignore[arg-type]
                times.append(1000 * (time.perf_counter() - start))
                time.sleep(pause)
        statuses = sending.result()
    p50, p95 = np.percentile(times, [50, 95])
    answers = ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))
    cells = [name, f"{sum(statuses.values()):,}", answers, f"{len(times):,}", str(failed)]
    return p50, [*cells, f"{p50:.1f} ms", f"{p95:.1f} ms"]


def send(url: str, requests: Sequence[Request], clients: int, seconds: float) -> Counter[str]:
    """Send requests from several clients for some time; return the number of answers by status."""
    until = time.monotonic() + seconds

    def work(seed: int) -> Counter[str]:
        chance = random.Random(seed)
        counts: Counter[str] = Counter()
        with httpx.Client(base_url=url, timeout=SECONDS) as client:
            while time.monotonic() < until:
                method, path, body = chance.choice(requests)
                try:
                    counts[str(client.request(method, path, **body).status_code)] += 1  # type: ignore[arg-type]
                except httpx.TimeoutException:
                    counts["no answer"] += 1
                except httpx.TransportError:
                    counts["closed"] += 1
        return counts

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(work, range(clients)), Counter())


class Crowd:
    """Connections that have sent half of a header; they are open inside the context."""

    def __init__(self, url: str, size: int) -> None:
        host, _, port = url.rpartition("/")[2].partition(":")
        self._address = host, int(port)
        self._size = size
        self._open: list[socket.socket] = []

    def __enter__(self) -> None:
        for _ in range(self._size):
            self._open.append(socket.create_connection(self._address, timeout=SECONDS))
            self._open[-1].sendall(b"POST /search/image HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")

    def __exit__(self, *_: object) -> None:
        for one in self._open:
            one.close()


def _json(path: str, text: str, method: str = "POST") -> Request:
    return method, path, {"content": text.encode(), "headers": {"Content-Type": "application/json"}}


def _npy(shape: str) -> Request:
    """Return a .npy file that states this shape and contains no numbers."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    return (
        "POST",
        "/search/embeddings",
        {"content": content, "headers": {"Content-Type": "application/x-npy"}},
    )


def _image(data: bytes, route: str = "/search/image", **fields: str) -> Request:
    return "POST", route, {"files": {"image": ("x", data)}, "data": fields}


def _png(width: int, height: int, depth: int, colour: int) -> bytes:
    """Return a PNG with this size in its header, but with only 1 MiB of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(MEBIBYTE))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _large_jpeg() -> bytes:
    """Return a JPEG of one colour with 25 million pixels, which is large but allowed."""
    return cv2.imencode(".jpg", np.zeros((5000, 5000, 3), np.uint8))[1].tobytes()


def _parts(count: int) -> Request:
    """Return a form with many parts."""
    part = b'--x\r\nContent-Disposition: form-data; name="where"\r\n\r\na=1\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return "POST", "/search/image", {"content": part * count + b"--x--\r\n", "headers": headers}


def _no_form() -> Request:
    """Return ten megabytes that are declared to be a form."""
    headers = {"Content-Type": "multipart/form-data; boundary=" + "-" * 60}
    return "POST", "/search/image", {"content": b"-" * (10 * MEBIBYTE - 1), "headers": headers}


HOSTILE: dict[str, Callable[[], Request]] = {
    "deep JSON": lambda: _json("/search/id", "[" * 500_000),
    "deep attributes": lambda: _image(b"x", "/rows", path="a://b", attributes="[" * 500_000),
    "half surrogate pairs": lambda: _json("/search/id", '{"id": "\\ud800"}'),
    "numbers without end": lambda: _json("/search/id", '{"id": "1", "top": ' + "9" * 100_000 + "}"),
    "a long embedding": lambda: _json("/search/embedding", json.dumps({"embedding": [0.5] * 180_000})),
    "an embedding of texts": lambda: _json("/search/embedding", json.dumps({"embedding": ["x"] * 100_000})),
    "an embedding that is not finite": lambda: _json("/search/embedding", '{"embedding": [NaN, 1e999]}'),
    "base64 that is none": lambda: _json("/search/embedding", json.dumps({"embedding": "?" * 90_000})),
    "a .npy file without its numbers": lambda: _npy("(1000000000, 1000000000)"),
    "a .npy file of nested brackets": lambda: _npy("(" * 400),
    "many numbers for rows": lambda: _json(
        "/rows/embeddings", json.dumps({"rows": [{"path": "a://b", "embedding": [0.5] * 400_000}]})
    ),
    "a body that is too large": lambda: _json("/search/id", " " * (20 * MEBIBYTE)),
    "blanks for a condition": lambda: _json(
        "/search/id", json.dumps({"id": "row1", "where": [" " * 90_000]})
    ),
    "many conditions": lambda: _json("/search/id", json.dumps({"id": "row1", "where": ["a=1"] * 50_000})),
    "quotes for a condition": lambda: _json(
        "/search/id", json.dumps({"id": "row1", "where": ['"' * 90_000]})
    ),
    "an image that is none": lambda: _image(bytes(9 * MEBIBYTE)),
    "an image that is cut": lambda: _image(_large_jpeg()[:-20_000]),
    "a large image": lambda: _image(_large_jpeg()),
    "an image larger than allowed": lambda: _image(_png(60_000, 60_000, 16, 6)),
    "an image that lacks its pixels": lambda: _image(_png(4000, 4000, 8, 2)),
    "a form of many parts": lambda: _parts(100_000),
    "a form that is none": _no_form,
    "paths upwards": lambda: ("GET", "/images/..%2f..%2f..%2fetc%2fpasswd", {}),
    "a row of a file": lambda: _image(_png(8, 8, 8, 2), "/rows", path="/etc/passwd"),
    "thousands of attributes": lambda: _image(
        _png(8, 8, 8, 2), "/rows", path="a://b", attributes=json.dumps({f"a{i}": 1 for i in range(20_000)})
    ),
    "deleting nothing": lambda: ("DELETE", "/rows?where=" + quote(" " * 20_000), {}),
    "another host": lambda: ("GET", "/gallery", {"headers": {"Host": "evil.example"}}),
    "long headers": lambda: ("GET", "/gallery", {"headers": {"X-Long": "x" * 60_000}}),
}


def hostile() -> list[Request]:
    """Return one request of each hostile kind."""
    return [make() for make in HOSTILE.values()]


if __name__ == "__main__":
    main()
