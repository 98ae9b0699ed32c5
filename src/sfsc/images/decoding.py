"""Decoding many images with threads, without torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from sfsc.images.reading import CorruptImage, decode_to
from sfsc.notation import Size

AHEAD = 2  # batches per thread that are decoded in advance


class DecodedBatch(NamedTuple):
    """Images that could be read, and the errors of the others.

    Attributes:
        indices: (n,) int64 positions in the list of paths.
        images: for each size, (n, height, width, 3) uint8 RGB, in the same order.
        corrupt: one error for each image that was left out.
    """

    indices: np.ndarray
    images: dict[Size, np.ndarray]
    corrupt: list[CorruptImage]


def decode_images(
    paths: Sequence[str], sizes: Collection[Size], batch_size: int, threads: int
) -> Iterator[DecodedBatch]:
    """Decode all images in order, in batches and in each size; images that cannot be read are reported.

    Args:
        paths: the paths of the images.
        sizes: each (height, width) that images are decoded to; each file is read only once.
        batch_size: the number of images in a batch; the last batch may be smaller.
        threads: the number of threads that decode (OpenCV releases the GIL); 0 decodes in the calling thread.
    """
    starts = range(0, len(paths), batch_size)
    if threads == 0:
        yield from (_decode_batch(paths, start, batch_size, sizes) for start in starts)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[DecodedBatch]] = deque()
        try:
            for start in starts:
                waiting.append(pool.submit(_decode_batch, paths, start, batch_size, sizes))
                if len(waiting) > AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode_batch(paths: Sequence[str], start: int, batch_size: int, sizes: Collection[Size]) -> DecodedBatch:
    indices, images, corrupt = [], [], []
    for index in range(start, min(start + batch_size, len(paths))):
        try:
            images.append(decode_to(paths[index], sizes))
            indices.append(index)
        except CorruptImage as error:
            corrupt.append(error)
    stacked = {
        size: np.stack([image[size] for image in images]) if images else np.empty((0, *size, 3), np.uint8)
        for size in sizes
    }
    return DecodedBatch(np.array(indices, np.int64), stacked, corrupt)
