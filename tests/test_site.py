"""The site: every public name has its place, every document is reached, and nothing comes from elsewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import sfsc

ROOT = Path(__file__).parents[1]
API = sorted((ROOT / "docs" / "api").glob("*.md"))


def described(page: Path) -> list[str]:
    return re.findall(r"^::: (.+)$", page.read_text(), re.MULTILINE)


def test_every_public_name_is_described_once() -> None:
    found = [name.removeprefix("sfsc.") for page in API for name in described(page)]
    assert len(found) == len({*found})
    assert {*sfsc.__all__} == {name for name in found if "." not in name}


@pytest.mark.parametrize(
    "page", [page for page in API if page.name != "index.md"], ids=lambda path: path.stem
)
def test_the_overview_names_what_a_page_describes(page: Path) -> None:
    [row] = [
        line
        for line in (page.parent / "index.md").read_text().splitlines()
        if line.startswith("| [") and f"({page.name})" in line
    ]
    public = {name.removeprefix("sfsc.") for name in described(page)} & {*sfsc.__all__}
    assert {*re.findall(r"`(\w+)`", row)} == public


def test_every_document_is_on_the_site() -> None:
    listed = {*re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2])}
    documents = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"} | documents <= listed


@pytest.mark.slow
def test_the_site_is_built_without_a_warning() -> None:
    done = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    site = ROOT / "build" / "site"
    assert 'id="sfsc.train"' in (site / "docs" / "api" / "training.html").read_text()
    assert (site / "search" / "search_index.js").stat().st_size > 0
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link)[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*", page.read_text()
        )
        assert not loaded, page
