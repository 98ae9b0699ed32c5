"""The Prometheus metrics of a service."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sfsc.serving.batches import Batches
from sfsc.serving.worker import Worker

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """The metrics of one app, in their own registry."""

    def __init__(self, workers: Sequence[Worker | Batches[Any, Any]]) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "sfsc_requests", "Requests that were answered.", ["route", "status"], registry=registry
        )
        self.embedding = Histogram(
            "sfsc_embedding_seconds",
            "Time to embed one image, without decoding and waiting.",
            ["width"],
            buckets=SECONDS,
            registry=registry,
        )
        self.search = Histogram(
            "sfsc_search_seconds", "Time to search the gallery.", buckets=SECONDS, registry=registry
        )
        self.rejected = Counter(
            "sfsc_rejected", "Requests refused because a queue was full.", ["queue"], registry=registry
        )
        self._rows = Gauge("sfsc_gallery_rows", "Rows of the gallery.", registry=registry)
        queue = Gauge("sfsc_queue_length", "Requests that wait for a thread.", ["queue"], registry=registry)
        for worker in workers:
            queue.labels(worker.name).set_function(partial(getattr, worker, "waiting"))
            self.rejected.labels(worker.name)

    def text(self, rows: int) -> bytes:
        """Return all metrics in the text format of Prometheus; `rows` is the number of gallery rows."""
        self._rows.set(rows)
        return generate_latest(self._registry)
