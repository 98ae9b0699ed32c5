"""Batches of images: sampling by identity, decoding in worker processes, augmenting whole batches."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache, partial
from types import FrameType
from typing import Any

import cv2
import kornia.augmentation as kornia
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sfsc.data.listing import image_digest
from sfsc.errors import SfscError
from sfsc.images.reading import CorruptImage, decode, decode_bytes, read_image
from sfsc.progress import track

_CHECK_CHUNK = 32
_OF_THE_BATCH = {"order", "forward_input_shape"}  # parameters that kornia draws once for a batch


def identity_batches(
    labels: np.ndarray, identities_per_batch: int, images_per_identity: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Return the batches of one epoch: P different identities with K images each.

    `labels` is (N,) int64. The result is max(1, round(N / (P K))) arrays (P K,) int64 of positions in
    `labels`; the K images of an identity are consecutive. The numbers of draws of two identities differ by at
    most one. An identity with fewer than K images repeats them. Seed and epoch determine the result. Raises
    SfscError if there are fewer than P identities.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if identities_per_batch > len(members):
        raise SfscError(
            f"identities_per_batch is {identities_per_batch}, but only {len(members)} identities are "
            "there to train on: set a smaller number"
        )
    random = np.random.default_rng([seed, epoch])
    count = max(1, round(len(labels) / (identities_per_batch * images_per_identity)))
    return [
        np.concatenate([np.resize(random.permutation(members[i]), images_per_identity) for i in chosen])
        for chosen in _draw_identities(len(members), identities_per_batch, count, random)
    ]


def _draw_identities(
    identities: int, per_batch: int, batches: int, random: np.random.Generator
) -> Iterator[list[int]]:
    """Draw from successive permutations, and postpone identities that a batch contains already."""
    waiting: list[int] = []
    for _ in range(batches):
        chosen, waiting = waiting[:per_batch], waiting[per_batch:]
        if len(chosen) < per_batch:
            fresh = random.permutation(identities).tolist()
            added = [i for i in fresh if i not in chosen][: per_batch - len(chosen)]
            waiting = [i for i in fresh if i not in added]
            chosen = chosen + added
        yield chosen


def unlabelled_batches(images: int, per_batch: int, batches: int, seed: int) -> list[np.ndarray]:
    """Return the positions of the images without labels in each batch, (per_batch,) int64, of `images`.

    They are drawn from successive permutations, so the numbers of draws of two images differ by at most one.
    The seed determines the result.
    """
    random = np.random.default_rng([seed, images])
    rounds = -(-batches * per_batch // images)
    order = np.concatenate([random.permutation(images) for _ in range(rounds)])
    return [*order[: batches * per_batch].reshape(batches, per_batch)]


def rank_share(
    batches: Sequence[np.ndarray], setting: str, number: int, rank: int, ranks: int
) -> list[np.ndarray]:
    """Return one rank's part of every batch. The parts of all ranks, concatenated, are the batches.

    Args:
        batches: (P K,) or (per_batch,) each, as `identity_batches` and `unlabelled_batches` return them.
        setting: the name of the setting that says how much a batch has, for the error.
        number: its value: of identities, or of images without labels.
        rank: the rank, counted from 0.
        ranks: the number of ranks.

    Raises:
        SfscError: the number is not a multiple of the ranks.
    """
    if number % ranks:
        raise SfscError(
            f"{setting} is {number}, which {ranks} ranks cannot share evenly: set a multiple of {ranks}"
        )
    return [batch.reshape(ranks, -1)[rank] for batch in batches]


def load_batches(
    paths: Sequence[str], batches: Sequence[np.ndarray], size: tuple[int, int], workers: int
) -> Generator[Tensor]:
    """Yield the images of each batch, in order: (batch, 3, height, width) uint8 RGB.

    A batch is an array of positions in `paths`. `workers` processes decode the images; with 0, this process
    does. Raises CorruptImage at the first image that cannot be read.
    """
    for decoded in _in_workers(partial(_try_decode, size=size), paths, batches, workers):
        for image in decoded:
            if isinstance(image, CorruptImage):
                raise image
        yield _stack(decoded, size)


def check_images(paths: Sequence[str], workers: int) -> list[bytes | CorruptImage]:
    """Decode every image once, with a progress bar, and return its digest or its error for each path."""
    chunks = _chunks(len(paths), _CHECK_CHUNK)
    results = _in_workers(_check_image, paths, chunks, workers)
    each = (result for chunk in results for result in chunk)
    return list(track(each, "checking the images", total=len(paths)))


def augment(
    images: Tensor,
    mirrors: bool,
    seed: int,
    strength: float = 1.0,
    part: int = 0,
    parts: int = 1,
    erasing: float | None = None,
) -> Tensor:
    """Change position, size and colours of each image at random, add white patches, and mirror if `mirrors`.

    `images` and the result are (batch, 3, height, width) float32 in [0, 1]. The seed determines the result;
    the global random state does not change. `strength` in [0, 1] scales all changes; 0 turns them off.
    `erasing` is the probability of a white patch in an image, by default half of `strength`. If `images` is
    one of several equal parts of a batch, its images change as they would in the whole batch. The function
    does not wait for the device.
    """
    steps = _augmentation(mirrors, strength, 0.5 * strength if erasing is None else erasing)
    if not steps:
        return images
    count = len(images)
    chosen, whole = slice(part * count, (part + 1) * count), (parts * count, *images.shape[1:])
    with torch.random.fork_rng(devices=[]):
        # kornia draws on the CPU; torch.manual_seed would reseed the accelerators too.
        torch.default_generator.manual_seed(seed)
        for step in steps:
            drawn = step.forward_parameters(whole)
            own = {name: value if name in _OF_THE_BATCH else value[chosen] for name, value in drawn.items()}
            images = step(images, params=own)
    return images


@cache
def _augmentation(mirrors: bool, strength: float, erasing: float) -> list[Any]:
    s = strength
    # Hue is not changed, because conversion to HSV and back costs more than all other steps together.
    changes = [
        kornia.RandomAffine(
            10 * s, (0.1 * s, 0.1 * s), (1 - 0.2 * s, 1 + 0.2 * s), padding_mode="border", p=1.0
        ),
        kornia.ColorJitter(brightness=0.2 * s, contrast=0.2 * s, saturation=0.2 * s, p=1.0),
    ]
    changes = [kornia.RandomHorizontalFlip(), *changes] if mirrors else changes
    patches = [kornia.RandomErasing(scale=(0.02, 0.2), value=1.0, p=erasing)]
    return [*(changes if strength else []), *(patches if erasing else [])]


class _Mapped(Dataset[Any]):
    """The results of `function` for each path."""

    def __init__(self, function: Callable[[str], Any], paths: Sequence[str]) -> None:
        self.function = function
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.function(self.paths[index])


def _in_workers(
    function: Callable[[str], Any], paths: Sequence[str], chunks: Sequence[np.ndarray], workers: int
) -> Iterator[list[Any]]:
    """Return an iterator over the chunks, in order, with the list of the function's results for each."""
    loader: DataLoader[Any] = DataLoader(
        _Mapped(function, paths),
        batch_sampler=[chunk.tolist() for chunk in chunks],
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=_start_worker if workers else None,
        # Without a generator, the loader draws from the global random state.
        generator=torch.Generator(),
    )
    return iter(loader)


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)
    # Terminals, torchrun and job schedulers signal all processes at once, but training needs its workers to
    # complete the current step, and ends them afterwards. So a worker ends at the second SIGTERM only.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _obey_the_next)


def _obey_the_next(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


def _try_decode(path: str, size: tuple[int, int]) -> np.ndarray | CorruptImage:
    try:
        return decode(path, size)
    except CorruptImage as error:  # returned, because a worker's exception arrives with its traceback
        return error


def _check_image(path: str) -> bytes | CorruptImage:
    try:
        data = read_image(path)
        decode_bytes(data, path, None)
    except CorruptImage as error:
        return error
    return image_digest(data)


def _chunks(count: int, size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def _stack(images: list[np.ndarray], size: tuple[int, int]) -> Tensor:
    """Stack n arrays (height, width, 3) as (n, 3, height, width) uint8; n may be 0."""
    stacked = np.stack(images) if images else np.empty((0, *size, 3), np.uint8)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()
