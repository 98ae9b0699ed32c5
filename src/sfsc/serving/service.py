"""The service behind the endpoints: queues that embed images, and queues for the gallery."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from starlette.concurrency import run_in_threadpool

from sfsc.bridges.bridge import Bridge
from sfsc.bridges.model import BridgedModel
from sfsc.embedding.model import Model, same_space
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.gallery import Condition, Gallery
from sfsc.gallery.answering import answer
from sfsc.gallery.answering import together as mean_query
from sfsc.gallery.conditions import Value
from sfsc.gallery.deciding import decide
from sfsc.gallery.forms import check_form
from sfsc.gallery.store import Hit, Row
from sfsc.gallery.values import unit_rows
from sfsc.images.boxes import Box
from sfsc.images.header import read_header
from sfsc.images.reading import decode_sizes
from sfsc.serving.answers import Found
from sfsc.serving.batches import Batches
from sfsc.serving.embeddings import stacked
from sfsc.serving.messages import MOST_HITS, Added, GalleryAnswer, NewRow, Search
from sfsc.serving.metrics import Metrics
from sfsc.serving.overview import describe_family, describe_gallery
from sfsc.serving.queries import Query, choose_queries
from sfsc.serving.row_images import RowImages, check_path, common_folder
from sfsc.serving.worker import Worker
from sfsc.serving.writes import Add, Delete, choose, write

EMBEDDING_THREADS = 2
LARGE_IMAGE = 4_000_000  # pixels; larger ones are decoded one at a time, so that they do not delay the others
IMAGES_WAITING = 64
IMAGE_MEMORY = 300_000_000  # bytes for decoding one image, enough for a baseline JPEG of 50 million pixels
GALLERY_WAITING = 256  # a page requests dozens of images at once
CHANGES_WAITING = 64  # each of them may hold a thousand rows
GALLERY_THREADS = 4
SEARCH_THREADS = 2
SUMMARY_SECONDS = 60.0  # lifetime of a summary, because other processes may write to the gallery
ONLY_SEARCHED = (
    "the gallery has embeddings of an old model: add such embeddings, or move its rows into the family's "
    "space with `sfsc gallery upgrade`"
)
NO_THRESHOLDS = (
    "max_fmr and min_probability need the width of the sub-model that embedded the query, and thresholds: "
    "fit them with `sfsc thresholds`, and start the service again"
)

Result = TypeVar("Result")
Source = Callable[[], tuple[str, bytes]]


class UnknownId(SfscError):
    """Raised if no row of the gallery has this id."""

    def __init__(self, id_: str) -> None:
        super().__init__(f"the gallery has no row {id_!r}")


class Service:
    """One family, one gallery, and the threads that use them. Call `close` to release them."""

    def __init__(
        self,
        run: Path,
        gallery: str | Path,
        image_roots: Sequence[str | Path] | None = None,
        allow_code: str | None = None,
        memory: float = math.inf,
        bridge: str | Path | None = None,
    ) -> None:
        """Load the family, open the gallery and prepare it for searches.

        `image_roots`, `allow_code`, `memory` and `bridge` are as for `create_app`.

        Raises:
            SfscError: the family or the gallery does not exist, the gallery or the thresholds belong to
                another family, or the bridge is damaged or leads elsewhere.
        """
        self.family = Family.load(run, allow_code)
        self.fingerprint = self.family.fingerprint  # a hash of all weights, too slow for each request
        self.bridged = BridgedModel(self.family, Bridge.load(bridge)) if bridge else None
        self.space: Model = self.bridged or self.family
        self.space_fingerprint = self.space.fingerprint
        self.thresholds = self.space.thresholds
        if self.thresholds is not None:
            self.thresholds.check(self.fingerprint)
        self.gallery = Gallery.open(gallery, maintain=True, memory=memory)
        self.gallery.check_family(self.space.dimension, self.space_fingerprint)
        self.description = describe_family(self.family, run, bridged=bridge is not None)
        self.roots = [Path(root) for root in image_roots or ()]
        if image_roots is None and (common := common_folder(self.gallery.column("path"))):
            self.roots = [common]
        self.images = RowImages(self.roots)
        self.gallery.refresh()
        self._embedding = Worker("embedding", EMBEDDING_THREADS, IMAGES_WAITING)
        self._large = Worker("large images", 1, IMAGES_WAITING)
        self._gallery = Worker("gallery", GALLERY_THREADS, GALLERY_WAITING)
        self._searches = Batches(
            "searches", SEARCH_THREADS, GALLERY_WAITING, choose_queries, self._search_now
        )
        self._changes = Batches("changes", 1, CHANGES_WAITING, choose, partial(write, self.gallery))
        self.metrics = Metrics([self._embedding, self._large, self._gallery, self._searches, self._changes])
        self._summary: tuple[float, GalleryAnswer] | None = None

    def close(self) -> None:
        """Finish all accepted work and close the gallery."""
        self._embedding.close()
        self._large.close()
        self._gallery.close()
        self._searches.close()
        self._changes.close()
        self.gallery.close()

    async def search_image(
        self, data: bytes, name: str, width: float, search: Search, box: Box | None = None
    ) -> Found:
        """Search with an image, the bytes of its file, or with a part of it, embedded by one sub-model."""
        worker = await self._worker(data)
        return (await self._compare(lambda: (name, data), [width], search, worker, box))[0]

    async def search_id(self, id_: str, width: float | None, search: Search) -> Found:
        """Search with the stored embedding of a row or, given a width, with its image embedded again."""
        if width is not None:
            return (await self._compare(await self._source(id_), [width], search))[0]
        row = await self._in_gallery(lambda: self._row(id_, embeddings=True))
        return await self._search(row["embedding"], row["width"], search)

    async def search_embeddings(
        self,
        embeddings: Sequence[np.ndarray],
        width: float | None,
        fingerprint: str | None,
        search: Search,
        together: bool = False,
    ) -> list[Found]:
        """Search with each of the (dim,) embeddings that a client computed, or with their mean."""
        if width is not None:
            self.family.widths.index(width)
        each = max(search.top, search.rerank_depth if search.rerank else 0)
        if not together and len(embeddings) * each > MOST_HITS:
            raise SfscError(
                f"{len(embeddings)} embeddings with {each} hits each are more than {MOST_HITS:,} hits: "
                "send fewer embeddings, or a smaller top"
            )
        queries = self._stacked(embeddings)
        if self.bridged and same_space(fingerprint or self.fingerprint, self.fingerprint):
            queries, fingerprint = self.bridged.mapped(unit_rows(queries, self.gallery.name)), None
        if together:
            queries = mean_query(unit_rows(queries, self.gallery.name))
        query = Query(queries, fingerprint or self.space_fingerprint, search, width)
        hits, seconds = await self._searches.run(query)
        return [Found(width, one, 0.0, _milliseconds(seconds)) for one in hits]

    async def compare_image(
        self, data: bytes, name: str, search: Search, box: Box | None = None
    ) -> list[Found]:
        """Search with an image, or a part of it, embedded by every sub-model."""
        widths = list(self.family.widths)
        return await self._compare(lambda: (name, data), widths, search, await self._worker(data), box)

    async def compare_id(self, id_: str, search: Search) -> list[Found]:
        """Search with the image of a row, embedded by every sub-model."""
        return await self._compare(await self._source(id_), list(self.family.widths), search)

    async def add(
        self,
        data: bytes,
        row: Mapping[str, str | None],
        attributes: Mapping[str, Value | None],
        width: float,
        box: Box | None = None,
    ) -> Added:
        """Embed an image, or a part, and store it with the `path`, `id`, `identity` and `camera` in `row`."""
        if self.bridged:
            raise SfscError(ONLY_SEARCHED)
        file = row["path"] or ""
        path = file if box is None else box.named(file)
        id_ = row["id"] or path
        self.family.widths.index(width)

        def source() -> tuple[str, bytes]:
            check_path(file, data)
            return id_, data

        [(embedding, seconds)] = await self._embed(source, [width], await self._worker(data), box)
        await self._change(
            Add(
                embeddings=embedding[None],
                ids=[id_],
                paths=[path],
                identities=[row["identity"]],
                cameras=[row["camera"]],
                attributes=[attributes],
                width=width,
                fingerprint=self.fingerprint,
            )
        )
        return Added(id=id_, width=width, embed_ms=_milliseconds(seconds))

    async def add_embeddings(self, rows: Sequence[NewRow], width: float, fingerprint: str, form: str) -> int:
        """Store rows with embeddings that a client computed, all or none, and return their number."""
        self.family.widths.index(width)
        check_form(form)
        for row in rows:
            check_path(row.path, None)
        return await self._change(
            Add(
                embeddings=self._stacked([row.embedding for row in rows]),
                ids=[row.id or row.path for row in rows],
                paths=[row.path for row in rows],
                identities=[row.identity for row in rows],
                cameras=[row.camera for row in rows],
                attributes=[row.attributes for row in rows],
                width=width,
                fingerprint=fingerprint,
                form=form,
            )
        )

    async def delete(self, ids: Sequence[str], where: Sequence[str]) -> int:
        """Delete rows as `Gallery.delete` does, and return their number."""
        return await self._change(Delete(ids, where))

    async def image(self, id_: str) -> bytes:
        """Return the image file of a row."""
        return await self._in_gallery(lambda: self.images.read(self._row(id_)["path"]))

    async def summary(self) -> GalleryAnswer:
        """Return a summary of the gallery. It includes changes by other processes after at most a minute."""
        kept = self._summary
        if kept is None or kept[0] < time.monotonic():
            described = await self._in_gallery(lambda: describe_gallery(self.gallery, self.images))
            described.bridged = self.bridged is not None
            kept = self._summary = (time.monotonic() + SUMMARY_SECONDS, described)
        return kept[1]

    async def rows(self) -> int:
        """Search the gallery once, and return its current number of rows.

        Raises:
            StoreUnavailable: the gallery cannot be searched.
        """

        def count() -> int:
            probe = np.eye(1, self.space.dimension)
            self.gallery.search(probe, self.space_fingerprint, top=1, exact=False)
            return len(self.gallery)

        return await run_in_threadpool(count)  # outside the queue, to respond even if it is full

    async def _worker(self, data: bytes) -> Worker:
        """Return the worker that embeds an image of a client, by the size in its header."""
        try:
            header = await run_in_threadpool(read_header, data)
            return self._large if header.pixels > LARGE_IMAGE else self._embedding
        except ValueError:  # the thread that decodes the image reports what is wrong
            return self._embedding

    async def _compare(
        self,
        source: Source,
        widths: Sequence[float],
        search: Search,
        worker: Worker | None = None,
        box: Box | None = None,
    ) -> list[Found]:
        for width in widths:
            self.family.widths.index(width)
        embedded = await self._embed(source, widths, worker or self._embedding, box)
        answers = []
        for width, (embedding, seconds) in zip(widths, embedded, strict=True):
            answer = await self._search(embedding, width, search)
            answers.append(answer.embedded(_milliseconds(seconds)))
        return answers

    async def _embed(
        self, source: Source, widths: Sequence[float], worker: Worker, box: Box | None = None
    ) -> list[tuple[np.ndarray, float]]:
        """Return the (dim,) float32 query by each sub-model, and the seconds that its network took."""
        return await worker.run(lambda: self._embed_now(source, widths, box))

    @torch.inference_mode()
    def _embed_now(
        self, source: Source, widths: Sequence[float], box: Box | None
    ) -> list[tuple[np.ndarray, float]]:
        name, data = source()
        sizes = [self.family.image_size_of(width) for width in widths]
        images = decode_sizes(data, name, sizes, IMAGE_MEMORY, box)
        found = []
        for width, size in zip(widths, sizes, strict=True):
            image = torch.from_numpy(images[size]).permute(2, 0, 1)[None]
            start = time.perf_counter()
            embeddings = self.family.embed(image, width).numpy()
            seconds = time.perf_counter() - start
            self.metrics.embedding.labels(f"{width:g}").observe(seconds)
            found.append(((self.bridged.mapped(embeddings) if self.bridged else embeddings)[0], seconds))
        return found

    async def _search(self, embedding: np.ndarray, width: float | None, search: Search) -> Found:
        """Search with a (dim,) float32 embedding in the space of the gallery."""
        query = Query(embedding[None], self.space_fingerprint, search, width)
        [hits], seconds = await self._searches.run(query)
        return Found(width, hits, 0.0, _milliseconds(seconds))

    def _search_now(self, queries: Sequence[Query]) -> list[tuple[list[list[Hit]], float]]:
        """Return the hits for each embedding of each query, and the seconds of their common search."""
        fingerprint, search = queries[0].fingerprint, queries[0].search
        embeddings = np.concatenate([query.embeddings for query in queries])
        start = time.perf_counter()
        hits = iter(answer(self.gallery, embeddings, fingerprint, search.wanted()))
        seconds = time.perf_counter() - start
        for _ in queries:
            self.metrics.search.observe(seconds)
        return [([self._decided(next(hits), query) for _ in query.embeddings], seconds) for query in queries]

    def _decided(self, hits: list[Hit], query: Query) -> list[Hit]:
        """Return hits with their probabilities; only matches if the client set a limit."""
        search, described = query.search, self.gallery.describe() if self.thresholds else None
        if self.thresholds is None or query.width is None or described is None:
            if search.limited:
                raise SfscError(NO_THRESHOLDS)
            return hits
        dimension, rows = min(query.embeddings.shape[1], described.dimension), len(self.gallery)
        limits = search.max_fmr, search.min_probability
        try:
            hits = decide(hits, self.thresholds, query.width, dimension, rows, *limits)
        except SfscError:
            if search.limited:
                raise
        return [hit for hit in hits if hit.match] if search.limited else hits

    def _stacked(self, embeddings: Sequence[np.ndarray]) -> np.ndarray:
        """Return embeddings of a client as (n, dim) float32; refuse large ones before they wait."""
        return stacked(embeddings, max(self.family.dimension, self.space.dimension))

    async def _source(self, id_: str) -> Source:
        """Return a function that reads the image of a row, for the thread that decodes it."""
        path = (await self._in_gallery(lambda: self._row(id_)))["path"]
        return lambda: (path, self.images.read(path))

    def _row(self, id_: str, embeddings: bool = False) -> Row:
        for row in self.gallery.rows([Condition("id", "=", (id_,))], embeddings):
            return row
        raise UnknownId(id_)

    async def _change(self, change: Add | Delete) -> int:
        result = await self._changes.run(change)
        self._summary = None
        return result

    async def _in_gallery(self, work: Callable[[], Result]) -> Result:
        return await self._gallery.run(work)


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
