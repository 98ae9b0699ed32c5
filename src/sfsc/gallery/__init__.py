"""A durable gallery that every sub-model of one family can write to and search."""

from sfsc.gallery.gallery import Gallery, GalleryInfo, Hit

__all__ = ["Gallery", "GalleryInfo", "Hit"]
