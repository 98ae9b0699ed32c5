"""Serving a family and a gallery over HTTP, with a page for the browser."""

from sfsc.serving.app import create_app

__all__ = ["create_app"]
