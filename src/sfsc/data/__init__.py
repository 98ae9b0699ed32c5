"""Data sets: images on disk, each with an identity, a camera and a split.

`sfsc.training.loading` turns them into batches.
"""

from sfsc.data.dataset import Dataset, Split
from sfsc.data.emoji_build import build_emoji
from sfsc.data.sheet import contact_sheet, dataset_sheet, summarise
from sfsc.data.sources import open_dataset
from sfsc.data.walking import find_images
from sfsc.images.reading import CorruptImage, decode, write_png

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
