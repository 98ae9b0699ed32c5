from __future__ import annotations

import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from sfsc.data import CorruptImage, decode, write_png
from sfsc.errors import SfscError
from sfsc.images.decoding import decode_images
from sfsc.training.loading import (
    augment,
    check_images,
    identity_batches,
    load_batches,
    rank_share,
)


@pytest.fixture
def labels() -> np.ndarray:
    """13 identities with 1 to 9 images each, in mixed order."""
    random = np.random.default_rng(0)
    return random.permutation(np.repeat(np.arange(13), random.integers(1, 10, 13)))


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    random = np.random.default_rng(0)
    for i in range(10):
        write_png(tmp_path / f"{i}.png", random.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    return [str(tmp_path / f"{i}.png") for i in range(10)]


class TestIdentityBatches:
    @pytest.mark.parametrize(("p", "k"), [(1, 1), (4, 3), (13, 2), (12, 16)])
    def test_each_batch_has_p_identities_with_k_images(self, labels: np.ndarray, p: int, k: int) -> None:
        batches = identity_batches(labels, p, k, seed=0, epoch=0)
        assert len(batches) == max(1, round(len(labels) / (p * k)))
        for batch in batches:
            rows = labels[batch].reshape(p, k)
            assert (rows == rows[:, :1]).all()
            assert len(set(rows[:, 0].tolist())) == p

    @pytest.mark.parametrize("p", [2, 5, 7, 12])
    def test_identities_are_drawn_equally_often(self, p: int) -> None:
        labels = np.repeat(np.arange(13), 40)
        batches = identity_batches(labels, p, 2, seed=1, epoch=3)
        drawn = Counter(int(labels[batch[i]]) for batch in batches for i in range(0, 2 * p, 2))
        assert all(len(set(labels[batch].tolist())) == p for batch in batches)
        assert len(drawn) == 13
        assert max(drawn.values()) - min(drawn.values()) <= 1

    def test_images_repeat_only_where_there_are_too_few(self, labels: np.ndarray) -> None:
        sizes = Counter(labels.tolist())
        for batch in identity_batches(labels, 13, 4, seed=0, epoch=0):
            for row in batch.reshape(13, 4):
                assert len(set(row.tolist())) == min(4, sizes[int(labels[row[0]])])

    def test_seed_and_epoch_determine_the_batches(self, labels: np.ndarray) -> None:
        def flat(seed: int, epoch: int) -> list[int]:
            return np.concatenate(identity_batches(labels, 4, 2, seed, epoch)).tolist()

        assert flat(3, 1) == flat(3, 1)
        assert len({tuple(flat(*key)) for key in [(3, 1), (3, 2), (4, 1), (1, 3)]}) == 4

    def test_too_few_identities(self, labels: np.ndarray) -> None:
        with pytest.raises(SfscError, match="identities_per_batch is 14, but only 13"):
            identity_batches(labels, 14, 2, seed=0, epoch=0)

    @pytest.mark.parametrize("ranks", [1, 2, 3, 6])
    def test_ranks_share_every_batch_by_identities(self, labels: np.ndarray, ranks: int) -> None:
        batches = identity_batches(labels, 6, 3, seed=0, epoch=0)
        shares = [rank_share(batches, "identities_per_batch", 6, rank, ranks) for rank in range(ranks)]
        for batch, *parts in zip(batches, *shares, strict=True):
            assert np.array_equal(np.concatenate(parts), batch)
            identities = [set(labels[part].tolist()) for part in parts]
            assert [len(part) for part in identities] == [6 // ranks] * ranks
            assert sum(map(len, identities)) == len(set.union(*identities))

    def test_ranks_that_cannot_share_evenly(self, labels: np.ndarray) -> None:
        batches = identity_batches(labels, 6, 3, seed=0, epoch=0)
        with pytest.raises(SfscError, match=r"identities_per_batch is 6, which 4 ranks .* a multiple of 4"):
            rank_share(batches, "identities_per_batch", 6, 0, 4)


class TestLoading:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_batches_come_in_order(self, paths: list[str], workers: int) -> None:
        batches = [np.array([3, 1, 1]), np.array([9]), np.array([0, 2])]
        loaded = list(load_batches(paths, batches, (6, 8), workers))
        for batch, images in zip(batches, loaded, strict=True):
            assert images.dtype == torch.uint8
            assert images.is_contiguous()
            expected = np.stack([decode(paths[i], (6, 8)) for i in batch]).transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(images.numpy(), expected)

    def test_workers_read_an_archive_that_is_open_here(self, tmp_path: Path) -> None:
        random = np.random.default_rng(0)
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for i in range(60):
                write_png(tmp_path / "a.png", random.integers(0, 256, (60, 60, 3), dtype=np.uint8))
                archive.write(tmp_path / "a.png", f"{i}.png")
        members = [f"{tmp_path}/a.zip::{i}.png" for i in range(60)]
        expected = np.stack([decode(member, (60, 60)) for member in members]).transpose(0, 3, 1, 2)
        batches = [np.arange(start, start + 5) for start in range(0, 60, 5)]
        loaded = torch.cat(list(load_batches(members, batches, (60, 60), workers=2)))
        np.testing.assert_array_equal(loaded.numpy(), expected)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_corrupt_image_is_named_in_one_line(self, paths: list[str], workers: int) -> None:
        Path(paths[4]).write_bytes(b"")
        batches = [np.array([0, 1]), np.array([2, 4])]
        with pytest.raises(CorruptImage) as caught:
            list(load_batches(paths, batches, (6, 8), workers))
        assert str(caught.value) == f"{paths[4]}: the file is empty"

    @pytest.mark.parametrize("workers", [0, 2])
    def test_corrupt_images_are_left_out_and_named(self, paths: list[str], workers: int) -> None:
        bad = [1, 6, 7, 8]
        for i in bad:
            Path(paths[i]).write_bytes(b"junk")
        # batches of three, so that one holds corrupt images only
        loaded = list(decode_images(paths, [(6, 8), (3, 4)], 3, workers))
        indices = np.concatenate([batch.indices for batch in loaded])
        assert indices.tolist() == [0, 2, 3, 4, 5, 9]
        assert [error.path for batch in loaded for error in batch.corrupt] == [paths[i] for i in bad]
        for size in ((6, 8), (3, 4)):
            images = np.concatenate([batch.images[size] for batch in loaded])
            np.testing.assert_array_equal(images, np.stack([decode(paths[i], size) for i in indices]))
        checked = check_images(paths, workers)
        assert [error.path for error in checked if isinstance(error, CorruptImage)] == [paths[i] for i in bad]
        assert [i for i, found in enumerate(checked) if isinstance(found, bytes)] == indices.tolist()

    @pytest.mark.parametrize("workers", [0, 2])
    def test_digests_are_those_of_the_files(self, paths: list[str], workers: int, tmp_path: Path) -> None:
        for i in (1, 3):
            shutil.copy(paths[0], paths[i])
        digests = check_images(paths, workers)
        assert digests[0] == digests[1] == digests[3]
        assert len(set(digests)) == len(paths) - 2

    def test_the_global_random_state_is_left_alone(self, paths: list[str]) -> None:
        before = torch.get_rng_state()
        list(load_batches(paths, [np.arange(4)], (6, 8), 2))
        assert torch.equal(before, torch.get_rng_state())


class TestAugment:
    @pytest.fixture
    def images(self) -> torch.Tensor:
        one = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
        return one.expand(16, -1, -1, -1).contiguous()

    def test_the_seed_determines_the_result(self, images: torch.Tensor) -> None:
        torch.manual_seed(1)
        first = augment(images, mirrors=True, seed=5)
        augment(images, mirrors=False, seed=8)
        torch.manual_seed(2)
        assert torch.equal(first, augment(images, mirrors=True, seed=5))
        assert not torch.equal(first, augment(images, mirrors=True, seed=6))

    def test_the_global_random_state_is_left_alone(self, images: torch.Tensor) -> None:
        before = torch.get_rng_state()
        augment(images, mirrors=True, seed=5)
        assert torch.equal(before, torch.get_rng_state())

    def test_each_image_is_altered_in_its_own_way(self, images: torch.Tensor) -> None:
        altered = augment(images, mirrors=True, seed=0)
        assert altered.shape == images.shape
        assert altered.dtype == torch.float32
        assert altered.min() >= 0
        assert altered.max() <= 1
        assert len({image.numpy().tobytes() for image in altered}) == 16

    @pytest.mark.parametrize("parts", [1, 2, 4])
    def test_parts_of_a_batch_are_altered_as_the_whole(self, images: torch.Tensor, parts: int) -> None:
        whole = augment(images, mirrors=True, seed=5)
        chunks = enumerate(images.chunk(parts))
        altered = [augment(c, mirrors=True, seed=5, part=i, parts=parts) for i, c in chunks]
        assert torch.equal(torch.cat(altered), whole)

    @pytest.mark.parametrize("mirrors", [True, False])
    def test_images_are_mirrored_only_where_that_is_the_same_identity(self, mirrors: bool) -> None:
        half = torch.ones(64, 3, 24, 24)
        half[..., :12] = 0.2
        altered = augment(half, mirrors=mirrors, seed=0)
        mirrored = altered[..., :4].mean(dim=(1, 2, 3)) > altered[..., -4:].mean(dim=(1, 2, 3))
        assert bool(mirrored.any()) == mirrors
        assert not mirrored.all()

    def test_nothing_black_is_brought_in(self) -> None:
        assert augment(torch.ones(64, 3, 24, 24), mirrors=False, seed=0).min() > 0.5


def test_strength_scales_the_augmentation() -> None:
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    change = [(augment(images, False, 3, strength) - images).abs().mean() for strength in (0.0, 0.2, 1.0)]
    assert change[0] == 0
    assert 0 < change[1] < change[2]


def test_erasing_alone_adds_patches_and_changes_nothing_else() -> None:
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    erased = augment(images, True, 3, 0.0, erasing=1.0)
    patches = (erased == 1.0) & (images != 1.0)
    assert torch.equal(torch.where(patches, images, erased), images)
    assert (patches.flatten(1).float().mean(1) > 0.01).all()
    assert torch.equal(augment(images, False, 3, 1.0), augment(images, False, 3, 1.0, erasing=0.5))
    assert not torch.equal(augment(images, False, 3, 1.0), augment(images, False, 3, 1.0, erasing=0.0))
