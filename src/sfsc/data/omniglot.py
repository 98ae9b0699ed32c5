"""Reading Omniglot: characters of many alphabets, each drawn by 20 people (Lake et al., Science 2015)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sfsc.data.dataset import Dataset, held_out
from sfsc.data.walking import cannot_be_read, is_system_entry, say_passed_over, walk
from sfsc.images.archives import member_names
from sfsc.images.reading import MEMBER

_NAME = re.compile(r"(?:.*/)?images_background[^/]*/([^/]+)/(character\d+)/\d+_(\d+)\.png")


def read_omniglot(source: str, path: Path) -> Dataset:
    """Read one of the original zip files, or a folder that contains them, packed or unpacked.

    Identity = alphabet/character, camera = drawer. An image that is contained in several files is used once.
    Half of the characters of each alphabet are for testing.
    """
    images: dict[tuple[str, str], str] = {}
    for image, name in _files(source, path):
        match = _NAME.fullmatch(name)
        if match:
            alphabet, character, drawer = match.groups()
            images.setdefault((f"{alphabet}/{character}", drawer), image)
    ordered = sorted(images)
    testing = _held_out({identity for identity, _ in ordered})
    return Dataset(
        source=source,
        paths=tuple(images[key] for key in ordered),
        identities=np.array([identity for identity, _ in ordered]),
        cameras=np.array([drawer for _, drawer in ordered]),
        splits=np.array(["test" if identity in testing else "train" for identity, _ in ordered]),
        image_size=(64, 64),
        mirrors=False,
    )


def _files(source: str, path: Path) -> Iterator[tuple[str, str]]:
    """Yield for each file its path for `decode` and its name in the archive, perhaps after other folders."""
    there = [path] if path.is_file() else sorted(path.glob("*images_background*.zip"))
    archives = [file for file in there if file == path or not is_system_entry(file.name)]
    for archive in archives:
        for member in member_names(str(archive)):
            yield f"{archive}{MEMBER}{member}", member.replace("\\", "/")  # some programs write backslashes
    if path.is_dir():
        found = walk(path)
        found.others -= Counter({".zip": len(archives)})
        say_passed_over(source, [found], cannot_be_read([found]))
        for file in found.images:
            yield file, Path(file).absolute().as_posix()


def _held_out(identities: set[str]) -> set[str]:
    alphabets = defaultdict(list)
    for identity in identities:
        alphabets[identity.split("/")[0]].append(identity)
    return set().union(*(held_out(characters) for characters in alphabets.values()))
