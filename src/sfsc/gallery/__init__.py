"""The gallery: stored embeddings that every sub-model of one family can write to and search."""

from sfsc.gallery.conditions import Condition
from sfsc.gallery.gallery import Gallery
from sfsc.gallery.info import GalleryInfo
from sfsc.gallery.store import Hit

__all__ = ["Condition", "Gallery", "GalleryInfo", "Hit"]
