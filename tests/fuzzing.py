"""Parsers of what comes from others, seeds that each of them understands, and changes of these seeds."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import cv2
import faiss
import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from pyarrow import parquet
from torch import nn

from sfsc.bridges.bridge import Bridge, Choice, Space
from sfsc.bridges.space_map import SpaceMap
from sfsc.data.csv_table import read_csv
from sfsc.data.listing import Listing
from sfsc.decisions.thresholds import Thresholds
from sfsc.deploy.device import FEWEST, Device, Expense, Sample, Samples
from sfsc.deploy.points import Space as PointSpace
from sfsc.deploy.profile import Profile
from sfsc.deploy.quantities import SIZES, read_quantity
from sfsc.embedding.exported import Exported, ExportedModel
from sfsc.embedding.onnx_file import has_external_data
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.family.spec import read_spec
from sfsc.files.json_text import parse_json
from sfsc.files.writing import read_json
from sfsc.gallery.attributes import read_attributes
from sfsc.gallery.backup import read_list
from sfsc.gallery.changes import CHECKED, FOLDER, Change, Changes
from sfsc.gallery.conditions import Condition, parse_conditions
from sfsc.gallery.imports.ids import read_ids
from sfsc.gallery.imports.importing import open_source
from sfsc.gallery.index import DAMAGE
from sfsc.gallery.index_files import HEADER, Fragment, Source, open_index, write_index
from sfsc.gallery.index_files import read_header as read_header_of_index
from sfsc.gallery.manifests import Manifest
from sfsc.gallery.store import COLUMNS, Description
from sfsc.gallery.view import Part, View
from sfsc.images.header import read_header
from sfsc.images.reading import decode_bytes
from sfsc.report.html import write_report
from sfsc.report.terminal import print_evaluation
from sfsc.runs.log import read_log
from sfsc.runs.paths import started_in
from sfsc.runs.results import own_dataset, read_result
from sfsc.switchable.stored import structure_from_text, structure_to_text
from sfsc.training.checkpoint import read_checkpoint
from sfsc.training.config import Config, read_config, read_settings
from tests.decisions.pairs import example

MEMORY = 20_000_000  # bytes that decoding an image may take here
MOST_BYTES = 1 << 20  # of a changed file
FINGERPRINT = "0123456789abcdef"
TINY = "tests.fuzzing:tiny_network"
# What stands in the place of a part of a JSON value.
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**63 - 1, -(2**63), 0.5, -0.0, 1e308, 5e-324),
    *(
        "",
        "x",
        "\0",
        "\n",
        "../../x",
        "\udc80",
        "é",
        "validation:" * 50,
        "cameras:a/b:csv:x",
        "python:nets:network",
        "1" * 5000,
    ),
    *([], {}, [[]], [None], {"": None}, [0] * 100, [[0.5]], [["a", "b"]]),
)
PIECES = (
    *(
        b"\0",
        b"\xff",
        b"\xff\xd8",
        b"\n",
        b"\r",
        b'"',
        b"'",
        b",",
        b";",
        b"\t",
        b"[",
        b"]",
        b"{",
        b"}",
        b":",
        b"=",
    ),
    *(
        b"-",
        b"1e999",
        b"NaN",
        b"Infinity",
        b"\\ud800",
        b"\\u0000",
        b"null",
        b"9" * 40,
        b" " * 64,
        b"\x7f\xff\xff\xff",
    ),
    *(b"\xef\xbb\xbf", b"&a [*a]", b"!!python/object", b"[" * 200, b'"' * 9, b"<=", b"!=", b"::"),
)
ONE_BIT = bytes(1 << byte % 8 for byte in range(256))


class Parser(NamedTuple):
    """What reads a file's bytes, the errors that it may raise, and files that it understands."""

    read: Callable[[bytes, Path], object]
    seeds: list[bytes]
    errors: tuple[type[Exception], ...] = (SfscError,)


def parsers(folder: Path) -> dict[str, Parser]:
    """All parsers by name; `folder` is for their files."""
    family = Family.create(f"python:{TINY}", "0.5,1.0", 8, (16, 16), round_to=2, nested_dims=(4,))
    for name in ("built", "weights"):
        family.save(folder / name)
    space = PointSpace(family.eval())
    described = (folder / "built" / "family.json").read_bytes()
    config = Config.make({"dataset": "csv:x.csv", "backbone": "small", "nested_dims": [8]})
    exported = Exported(FINGERPRINT, 0.5, 8, (32, 32), "int8", "0.1", dimensions=(4, 8))
    table = b'path,identity,camera,split\r\na.png,1,c1,train\nb.png,"2,""x""",c2,test\n'
    tensors = {"family.a": torch.zeros(2), "classifier.0": torch.ones(1, 2)}
    checkpoint = safetensors.torch.save(tensors, {"step": "5", "format": "1"})
    images = [header_seed(suffix) for suffix in (".png", ".jpg", ".webp", ".bmp")]
    return {
        "header": Parser(lambda data, _: read_header(data), images, (ValueError,)),
        "image": Parser(lambda data, _: decode_bytes(data, "image", (8, 8), MEMORY), images),
        "conditions": Parser(lambda data, _: parse_conditions([text_of(data)]), CONDITIONS),
        "json": Parser(lambda data, _: parse_json(data), [described, values(result())], (ValueError,)),
        "structure": Parser(
            lambda data, _: structure_from_text(text_of(data), family.network),
            [structure_to_text(family.structure).encode()],
            (ValueError,),
        ),
        "family": in_file(
            "family.json", lambda path: read_spec(read_json(path), path), [described, values(old_family())]
        ),
        "config": in_file("config.json", read_run_config, [values(config.model_dump(mode="json"))]),
        "settings": in_file(
            "settings.yaml", read_settings, [b"epochs: 3\nwidths: [0.5, 1.0]\nrecipe: sfsc\n"]
        ),
        "result": in_file("evaluation.json", read_result, [values(result())]),
        "printed": in_file("evaluation.json", print_result, [values(result())]),
        "log": in_file(
            "log.jsonl", lambda path: read_log(path.parent), [values(LINE) + b"\n" + values(LINE)]
        ),
        "images": in_file("images.json", Listing.read, [values(LISTING)]),
        "profile": in_file("profile.json", read_profile, [values(PROFILE)]),
        "device": in_file("device.json", lambda path: read_device(path, space), [device_seed(family)]),
        "environment": in_file("environment.json", lambda path: started_in(path.parent), [values(STARTED)]),
        "table": in_file("table.csv", lambda path: read_csv("csv:table.csv", path), [table]),
        "attributes": in_file(
            "attributes.csv", read_attributes, [table, b"path;price;new\na.png;1.5;true\n"]
        ),
        "metadata": Parser(
            lambda data, path: Exported.from_text(text_of(data), path), [exported.to_text().encode()]
        ),
        "thresholds": in_file("thresholds.json", read_thresholds, [values(example().to_json())]),
        "bridge": in_file("bridge.safetensors", Bridge.load, [bridge_seed(folder)]),
        "onnx": Parser(lambda data, _: has_external_data(data), [onnx_seed()], (ValueError,)),
        "checkpoint": in_file(
            "checkpoint.safetensors", lambda path: read_checkpoint(path.parent), [checkpoint]
        ),
        "gallery": Parser(
            read_gallery, [values(Description(8, FINGERPRINT, {"a": "text"}, dimensions=(4, 8)).to_json())]
        ),
        **{name: in_index(folder, file) for name, file in INDEX.items()},
        "npy": in_file("rows.npy", import_rows, [array_seed(kind) for kind in ("<f2", "<f4")]),
        "faiss": in_file("rows.faiss", import_rows, [index_seed(False), index_seed(True)]),
        "parquet": in_file("rows.parquet", import_rows, [table_seed()]),
        "ids": in_file("ids.txt", lambda path: [*read_ids(path)], [b"a.png\nb.png\r\n"]),
        "change": in_record(folder),
        "backup": in_file("backup.json", lambda path: read_list(path.parent), [values(BACKUP)]),
        "built": in_file("built/family.json", load_family, [described]),
        "weights": in_file(
            "weights/family.safetensors",
            load_family,
            [(folder / "weights" / "family.safetensors").read_bytes()],
        ),
        "report": in_run(folder / "reported", "evaluation.json", [values(result())]),
        "curves": in_run(folder / "drawn", "log.jsonl", [values(LINE) + b"\n" + values(LINE)]),
        "model": Parser(run_model, [model_seed()]),
        "quantity": Parser(lambda data, _: read_quantity(text_of(data), SIZES), [b"10MB", b" 1.5 kB"]),
    }


def bridge_seed(folder: Path) -> bytes:
    """The file of a small bridge."""
    maps = [SpaceMap.linear(np.eye(2, 3), np.zeros(3)), SpaceMap.linear(np.eye(3, 2), np.zeros(2))]
    choices = {name: Choice("relaxed", {"relaxed": 0.9}) for name in ("forward", "backward")}
    Bridge(Space("old", "space:old", 2), Space("new", FINGERPRINT, 3), 9, choices, *maps).save(
        folder / "seed"
    )
    return (folder / "seed").read_bytes()


def tiny_network() -> nn.Module:
    """A backbone that loads in milliseconds: one layer, and one that filters each channel."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4))


def in_file(name: str, read: Callable[[Path], object], seeds: list[bytes]) -> Parser:
    def parse(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return Parser(parse, seeds)


def read_run_config(path: Path) -> object:
    return own_dataset(path.parent), read_config(path.parent)


def print_result(path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        print_evaluation(read_result(path))


def read_profile(path: Path) -> object:
    (path.parent / "family.json").write_bytes(values(old_family()))
    return Profile.read(path.parent)


def device_seed(family: Family) -> bytes:
    """The measurements of some points of a family."""
    ratios = tuple([0.5] * len(family.structure.groups))
    rows = [Sample(ratios, (16, 16), Expense(0.001, 0.002, 1e7, 1e5))] * FEWEST
    return values(asdict(Samples(family.fingerprint, 1, tuple(rows))))


def read_device(path: Path, space: PointSpace) -> object:
    return Device(space, Samples.read(path.parent, space)).predict(space.uniform(0.5, (16, 16)))


def read_thresholds(path: Path) -> object:
    maps = Thresholds.load(path).maps.values()
    return [(one.probability(np.linspace(-1, 1, 9), 10), one.threshold(one.smallest_rate)) for one in maps]


def read_gallery(data: bytes, _: Path) -> object:
    try:
        stored = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return Description.from_json(stored, "gallery")


def in_index(folder: Path, name: str) -> Parser:
    """What opens and searches an index with a changed file whose size the index states."""
    rows = np.eye(30, 4, dtype=np.float32)
    columns = {column: pa.array([f"{row % 7}" for row in range(30)]) for column in COLUMNS}
    columns |= {column: pa.array([float(row) for row in range(30)]) for column in ("width", "time", "price")}
    source = Source(
        manifest=Manifest(folder / "1.manifest", b""),
        description=Description(4, FINGERPRINT, {"price": "number"}),
        columns={column: column for column in columns},
        form="float32",
        fragments=[Fragment(("a.lance",), None, 30)],
        vectors=lambda _: [(rows + np.float32(0.1), np.arange(30, dtype=np.uint32))],
        column=lambda column: pa.chunked_array([columns[column]]),
    )
    index = write_index(folder / f"index of {name}", source, lambda iterable, _: iterable)
    header = json.loads((index / HEADER).read_text())

    def parse(data: bytes, _: Path) -> object:
        (index / name).write_bytes(data)
        if name != HEADER:
            changes = {"sizes": header["sizes"] | {name: len(data)}}
            (index / HEADER).write_bytes(values(header | changes))
        stored = open_index(index, read_header_of_index(index), math.inf)
        view = View((Part(stored.segment, stored.lists),), ("price",))
        for where in ([], [Condition("id", "=", ("3",))], [Condition("price", "<", (9.5,))]):
            view.search(rows[:2], 40, where, exact=False)
        return view

    return Parser(parse, [(index / name).read_bytes()], DAMAGE)


def in_record(folder: Path) -> Parser:
    """What reads a changed record of a gallery's last change, with the checksum of what is there."""
    before = Manifest(folder / "1.manifest", b"")
    after = Manifest(folder / "2.manifest", b"committed by the transaction")
    rows = pa.table({"id": ["a", "b"], "time": [0.5, None]})
    Changes(folder).record(before, Change("the transaction", rows, ("a.lance",)))
    [file] = (folder / FOLDER).iterdir()

    def parse(data: bytes, _: Path) -> object:
        file.write_bytes(data + crc32(data).to_bytes(CHECKED))
        return Changes(folder).between(before, after)

    return Parser(parse, [file.read_bytes()[:-CHECKED]], ())


def import_rows(path: Path) -> object:
    """Read all rows of a source with the ids that a file beside it contains."""
    names = path.with_name("names.txt")
    names.write_text("a\nb\nc\n")
    return [(part.columns, part.embeddings.shape) for part in open_source(path, names).parts()]


def array_seed(kind: str) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones((3, 4), kind))
    return file.getvalue()


def index_seed(numbered: bool) -> bytes:
    index: Any = faiss.IndexFlatIP(4)
    if numbered:
        index = faiss.IndexIDMap(index)
        index.add_with_ids(np.ones((3, 4), np.float32), np.arange(3))
    else:
        index.add(np.ones((3, 4), np.float32))
    return faiss.serialize_index(index).tobytes()


def table_seed() -> bytes:
    file = io.BytesIO()
    rows = {"id": ["a", "b", "c"], "n": [1, None, 3], "embedding": [[1.0, 0.5]] * 3}
    parquet.write_table(pa.table(rows), file, compression="none")
    return file.getvalue()


def load_family(path: Path) -> object:
    return Family.load(path.parent, TINY)


def in_run(run: Path, name: str, seeds: list[bytes]) -> Parser:
    """What writes the report of a run with a changed file, and with no other results."""
    run.mkdir(exist_ok=True)
    (run / "family.json").write_bytes(values(old_family()))
    (run / "config.json").write_bytes(values({"dataset": "csv:x.csv", "recipe": "sfsc", "widths": [0.5, 1]}))
    return in_file(f"{run.name}/{name}", lambda path: write_report(path.parent), seeds)


def run_model(data: bytes, path: Path) -> object:
    model = ExportedModel.of(data, path / "model.onnx")
    height, width = model.image_size
    return model.embed_pixels(np.zeros((2, height, width, 3), np.uint8))


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def values(value: Any) -> bytes:
    return json.dumps(value).encode()


INDEX = {"index": HEADER, "column": "column-0", "repeated column": "column-3", "lists": "counts"}
CONDITIONS = [b"camera=2", b"price<=9.5", b'name="lamp, ""red""","x"', b" a != true "]
LINE = {"step": 1, "epoch": 0.5, "lr": 0.1, "seconds": 2.5, "loss": [1.0, None], "conflicts_by_group": [0.5]}
LISTING = {
    "columns": ["split"],
    "rows": [["train", "a", 3, "00", 3, "11"], ["test", "\udc80", 1, "22", 0, ""]],
}
BACKUP = {"format": 1, "rows": 3, "files": {"data/a.lance": [5, "00"], "_versions/1.manifest": [3, "11"]}}
STARTED = {"sfsc": "0.1.0", "started_in": "/home/somebody"}
PROFILE = {
    **{"fingerprint": FINGERPRINT, "dataset": None, "threads": 1},
    "rows": [
        {
            **{
                "width": 1.0,
                "runtime": "onnx",
                "form": "int8",
                "file": "export/1.onnx",
                "digest": "00",
                "size": 9,
            },
            **{
                "parameters": None,
                "multiply_adds": 5,
                "memory": 7,
                "p50": 0.1,
                "p95": 0.2,
                "throughput": 3.0,
            },
            "accuracy": None,
        }
    ],
}


def old_family() -> dict[str, Any]:
    sizes = {"embedding_dim": 8, "image_size": [32, 32]}
    return {"format": 1, "backbone": "small", "widths": [0.5, 1.0], **sizes, "fingerprint": FINGERPRINT}


def result() -> dict[str, Any]:
    square, costs = [[0.5, 0.25, 0.1], [0.1, 0.2, 0.3], [1, 0, 1]], {"0.5 int8": 0.01}
    rows = {"mAP": [0.5, 0.25, 0.1], "rank-1": [0.1, 0.2, 0.3]}
    return {
        **{"dataset": "csv:x.csv", "fingerprint": FINGERPRINT, "widths": [0.5, 1.0], "parameters": [3, 9]},
        **{"queries": 4, "skipped": 0, "gallery": 5, "metrics": {"mAP": square, "rank-1": square}},
        **{
            "criterion": [[False, True], [True, False]],
            "cells_met": 2,
            "cells": 2,
            "gallery_gain": [-0.25],
            "multiply_adds": [5, 20],
            "image_sizes": [[24, 32], [48, 64]],
            "depths": [0.5, 1.0],
            "exported": {"0.5 int8": 0.5},
        },
        **{"baseline": {"name": "pixels $x$", "mAP": 0.1, "rank-1": 0.2}, "costs": costs},
        **{
            "cosines": [[1.0, 0.9], [0.9, 1.0]],
            "dimensions": [{"dimension": 8, "self_tests": [0.1, 0.2], "smallest_to_full": 0.1}],
        },
        "reranked": {"rule": "expansion", "depth": 9, "metrics": {"mAP": square}},
        "tracks": {"count": 3, "metrics": {"mAP": square}},
        "cascade": {
            "widths": [0.5, 1.0],
            "limits": [{"limit": 0.9, "multiply_adds": 7.5, "shares": [0.5, 0.5], "mAP": 0.1, "rank-1": 1.0}],
            "alone": [{"width": 0.5 * n, "multiply_adds": 9 * n, "mAP": 0.5, "rank-1": 0.6} for n in (1, 2)],
        },
        "decisions": decisions(),
        "images": "pixels",
        "old": {
            **{"name": "old $x$", "fingerprint": "space:old", "dimension": 2, "components": 2},
            **{
                "column": rows,
                "row": rows,
                "self_test": {"mAP": 0.5, "rank-1": 0.6},
                "criterion": [True, False],
            },
        },
        "projection": {"widths": [0.5, 1.0], "identities": ["a"], "points": [[[0.1, 0.2]], [[0.3, 0.4]]]},
    }


def decisions() -> dict[str, Any]:
    cell = {
        **{"matches": 40, "non_matches": 900, "fnmr": [[0.5, 0.4, 0.6]], "identified": [0.1, None]},
        **{"curve": [[0.1, 0.5], [1.0, 0.0]], "matching": [0.0, 1.0], "others": [0.5, 0.5]},
        **{"calibration": {"error": 0.1, "predicted": [0.2], "observed": [0.3]}},
        **{"fmr": [0.01], "fmr_one_threshold": [0.02]},
    }
    return {"rates": [0.01], "alarms": [0.1, 0.01], "fitted_on": "csv:x.csv", "cells": [[cell] * 3] * 3}


def header_seed(suffix: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def onnx_seed() -> bytes:
    from onnx import TensorProto, helper

    tensor = helper.make_tensor("a", TensorProto.FLOAT, [2], [0.5, 1.5])
    inner = helper.make_graph([helper.make_node("Constant", [], ["b"], value=tensor)], "inner", [], [])
    node = helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
    made = helper.make_model(helper.make_graph([node], "graph", [], [], [tensor]))
    return bytes(made.SerializeToString())


def model_seed() -> bytes:
    from tests.embedding.test_onnx_file import WHOLE_MODEL

    return WHOLE_MODEL


def changed(seed: bytes, chance: random.Random) -> bytes:
    """A seed with some of its bytes, or a part of its JSON value, changed."""
    if chance.random() < 0.4:
        try:
            return values(changed_value(json.loads(seed), chance))
        except (ValueError, RecursionError):
            pass
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice((0, 1, 1, 2, 4, 8, len(data))))
        data[start:end] = changed_bytes(bytes(data[start:end]), chance)
        del data[MOST_BYTES:]  # each of sixteen changes can repeat all bytes 50 times
    return bytes(data)


def changed_bytes(part: bytes, chance: random.Random) -> bytes:
    """What replaces `part`: nothing, copies, a hostile piece, noise, or one bit of each byte flipped."""
    match chance.randrange(5):
        case 0:
            return b""
        case 1:
            return part * chance.choice((2, 3, 50))
        case 2:
            return chance.choice(PIECES)
        case 3:
            return chance.randbytes(max(1, len(part)))
    bits = chance.randbytes(len(part)).translate(ONE_BIT)
    return (int.from_bytes(part) ^ int.from_bytes(bits)).to_bytes(len(part))


def changed_value(value: Any, chance: random.Random) -> Any:
    """A JSON value with one of its parts changed, taken out or put elsewhere."""
    if isinstance(value, dict | list) and value and chance.random() < 0.85:
        place = chance.choice([*value]) if isinstance(value, dict) else chance.randrange(len(value))
        copy: Any = {**value} if isinstance(value, dict) else [*value]
        if chance.random() < 0.1:
            del copy[place]
        elif chance.random() < 0.1 and isinstance(copy, list):
            copy *= 2
        else:
            copy[place] = changed_value(copy[place], chance)
        return copy
    return chance.choice(HOSTILE)
