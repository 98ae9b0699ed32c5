"""HTTP clients that cost so little that they do not limit a measurement: sockets that send prepared bytes."""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

SECONDS = 60.0  # maximum time of one answer
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass
class Load:
    """The milliseconds of each answer, how many were not 200, the seconds of all, and the last answer."""

    times: list[float]
    failed: int
    seconds: float
    last: bytes


def post(path: str, body: bytes, kind: str = "application/json") -> bytes:
    """Return the bytes of a POST request."""
    header = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
    return header.encode() + b"\r\n\r\n" + body


def send(url: str, requests: Iterator[bytes], clients: int, seconds: float) -> Load:
    """Send requests from clients that each wait for an answer before the next."""
    address = urlsplit(url).hostname, urlsplit(url).port
    selector, load, start = selectors.DefaultSelector(), Load([], 0, 0.0, b""), time.perf_counter()
    sent: dict[socket.socket, tuple[float, bytes]] = {}

    def ask(client: socket.socket) -> None:
        sent[client] = time.perf_counter(), b""
        client.sendall(next(requests))

    for _ in range(clients):
        client = socket.create_connection(address, timeout=SECONDS)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(client, selectors.EVENT_READ)
        ask(client)
    while sent:
        for key, _ in selector.select(SECONDS) or [(None, 0)]:
            assert key is not None, "no answer"
            client = key.fileobj
            since, received = sent[client]
            received += (part := client.recv(1 << 20))
            assert part, "the connection was closed"
            sent[client] = since, received
            if not _complete(received):
                continue
            now = time.perf_counter()
            load.times.append(1000 * (now - since))
            load.failed += not received.startswith(b"HTTP/1.1 200 ")
            load.last = received.partition(b"\r\n\r\n")[2]
            if now < start + seconds:
                ask(client)
            else:
                selector.unregister(client)
                client.close()
                del sent[client]
    load.seconds = time.perf_counter() - start
    return load


def _complete(answer: bytes) -> bool:
    header, end, body = answer.partition(b"\r\n\r\n")
    return bool(end) and len(body) >= int(LENGTH.findall(header + b"\r\n")[0])
