"""What a gallery contains and finds, compared with the changes that were acknowledged."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from changes import Change, Rows, after, backup_of, embeddings, quiet, restored_of

from sfsc import Gallery, SfscError
from sfsc.gallery.backup import restore
from sfsc.gallery.lance_table import TABLE
from sfsc.gallery.milvus_address import is_milvus

PROBLEMS = ("lost", "came back", "torn", "wrong answers", "findings of verify")
TOP = 10
REFUSALS = "is incomplete: ", "is not a backup: "

Stored = Mapping[int, np.ndarray]  # embeddings by id


class Found(NamedTuple):
    """How often each problem was found, and the rows that the gallery contains if there was none."""

    counts: dict[str, int]
    rows: Rows


def check(address: str, rows: Rows, pending: Change | None, copies: Sequence[Change] = ()) -> Found:
    """Compare a gallery with the rows that it must contain, apart from a change that may have been made."""
    quiet()
    with Gallery.open(address) as gallery:
        wrong = 0 if is_milvus(address) else sum(wrong_answers(gallery, exact) for exact in (True, False))
        found = compared(contents(gallery), rows, pending)
        for change in copies:
            wrong += not restores(gallery, change, Path(f"{address}.files"), found.rows, change == pending)
        findings = sum(finding.count for finding in gallery.verify().findings)
    shutil.rmtree(f"{address}.files", ignore_errors=True)
    return found._replace(counts=found.counts | {"wrong answers": wrong, "findings of verify": findings})


def contents(gallery: Gallery) -> dict[int, np.ndarray]:
    """Return the embeddings of all rows by id."""
    return {int(row["id"]): row["embedding"] for row in gallery.rows(embeddings=True)}


def compared(stored: Stored, rows: Rows, pending: Change | None) -> Found:
    """Compare what is stored with the rows that must be there before a change, or after it."""
    made, changed = after(rows, pending), {*pending.ids} if pending else set[int]()
    before = [id_ for id_ in changed if not agrees(stored, rows, id_)]
    behind = [id_ for id_ in changed if not agrees(stored, made, id_)]
    others = [id_ for id_ in {*rows, *stored} - changed if not agrees(stored, rows, id_)]
    lost = sum(id_ in rows for id_ in others)
    counts = {"lost": lost, "came back": len(others) - lost, "torn": int(bool(before and behind))}
    return Found(counts, rows if behind else made)


def agrees(stored: Stored, rows: Rows, id_: int) -> bool:
    """Return whether a row is stored as it should be, or is missing as it should be."""
    if id_ not in stored or id_ not in rows:
        return (id_ in stored) == (id_ in rows)
    return bool(np.allclose(stored[id_], embeddings([id_], rows[id_])[0], atol=1e-6))


def wrong_answers(gallery: Gallery, exact: bool) -> int:
    """Search the embedding of each row; return how many searches give a wrong answer."""
    stored = contents(gallery)
    wrong = int(len(stored) != len(gallery))
    if stored:
        hits = gallery.search(np.stack([*stored.values()]), "f", TOP, exact=exact)
        for id_, own in zip(stored, hits, strict=True):
            found = [int(hit.id) for hit in own]
            wrong += found[:1] != [id_] or not {*found} <= stored.keys() or len({*found}) < len(found)
    return wrong


def restores(gallery: Gallery, change: Change, folder: Path, rows: Rows, cut: bool) -> bool:
    """Return whether a backup restores to these rows; what was cut short may have to be continued."""
    backup, restored = backup_of(change, folder), restored_of(change, folder)
    try:
        if change.operation == "backup" or (cut and not (restored / TABLE).exists()):
            try:
                restore(backup, restored)
            except SfscError as error:
                if not cut or not any(words in str(error) for words in REFUSALS):
                    raise
                gallery.backup(backup)
                restore(backup, restored)
        with Gallery.open(restored) as copy:
            return not any(compared(contents(copy), rows, None).counts.values())
    except SfscError as error:
        print(f"{backup}: {error}", file=sys.stderr)
        return False
