"""Datasets: images on disk with identity, camera and split. `sfsc.data.loading` makes batches of them."""

from sfsc.data.dataset import open_dataset
from sfsc.data.emoji_build import build_emoji
from sfsc.data.images import CorruptImage, decode, write_png
from sfsc.data.records import Dataset, Split
from sfsc.data.sheet import contact_sheet, dataset_sheet, summarise
from sfsc.data.walking import find_images

__all__ = [
    "CorruptImage",
    "Dataset",
    "Split",
    "build_emoji",
    "contact_sheet",
    "dataset_sheet",
    "decode",
    "find_images",
    "open_dataset",
    "summarise",
    "write_png",
]
