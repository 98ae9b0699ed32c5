"""The family, its exported files and its images, as the tests of `deploy` make them."""

from tests.deploy.conftest import family, files, images

__all__ = ["family", "files", "images"]
