from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from sfsc.errors import SfscError
from sfsc.report.html import write_report
from tests.report.synthetic_run import COLOUR, evaluation, with_exported, write_evaluated, write_trained

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a browser sees: the elements with their attributes, and the text outside style sheets."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text("utf-8"))
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return write_trained(tmp_path / "first-run")


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    return write_evaluated(tmp_path / "first-run")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report, for looking only."""
    run = write_evaluated(tmp_path_factory.mktemp("report") / "first-run")
    write_report(run)
    return run


@pytest.fixture(scope="module")
def page(reported: Path) -> Page:
    return Page(reported / "report.html")


def test_page_stands_in_the_run_and_nothing_else_is_left(evaluated: Path) -> None:
    before = {path.name for path in evaluated.iterdir()}
    assert write_report(str(evaluated)) == evaluated / "report.html"
    assert {path.name for path in evaluated.iterdir()} == before | {"report.html"}


def test_two_reports_of_a_run_are_the_same(evaluated: Path) -> None:
    first = write_report(evaluated).read_bytes()
    assert write_report(evaluated).read_bytes() == first


def test_key_figures(page: Page) -> None:
    for words in (
        "first-run",
        "10 / 12",
        "73.5 % mAP",
        "64.0 % mAP",
        "60.9 % mAP",
        "18.3 % mAP",
        "312 k to 3.89 M",
        "1843 queries (12 skipped",
        "gallery of 5530",
        "3f2a9c51",
    ):
        assert words in page.text


def test_every_metric_has_its_table(page: Page) -> None:
    assert len(page.all("table", class_="numbers")) == 4  # and the gallery gain
    assert len(page.all("td", class_="self")) == 3 * 4
    assert "rank-1 in percent (baseline 31.4)" in page.text
    assert "76.3 78.5 77.4 73.2" in page.text


def test_exported_files_stand_beside_the_sub_models(evaluated: Path, page: Page) -> None:
    (evaluated / "evaluation.json").write_text(json.dumps(with_exported()))
    wider = Page(write_report(evaluated))
    for words in ("73.5 % mAP", "60.9 % mAP", "a<b>.onnx", "0.25 int8 33.30 27.60", "a<b>.onnx 33.30 40.20"):
        assert words in wider.text
    assert len(wider.all("td", class_="self")) == 3 * 6
    assert len(wider.all("table", class_="numbers")) == 5
    assert "exported" not in page.text


def test_matrices_after_re_ranking_and_of_tracks_are_shown(evaluated: Path) -> None:
    path = evaluated / "evaluation.json"
    result = json.loads(path.read_text())
    better = [[value + 0.01 for value in row] for row in result["metrics"]["mAP"]]
    other = {
        "reranked": {"rule": "k-reciprocal", "depth": 50, "metrics": {"mAP": better}},
        "tracks": {"count": 1678, "metrics": {"mAP": result["metrics"]["mAP"]}},
    }
    path.write_text(json.dumps(result | other))
    text = Page(write_report(evaluated)).text
    assert "mAP % with k-reciprocal re-ranking of the first 50, and the change" in text
    assert "mAP % of image-to-track retrieval, 1678 tracks, and the change" in text
    assert "65.0 (+1.0)" in text
    assert "64.0 (+0.0)" in text


def test_a_cascade_is_shown(evaluated: Path) -> None:
    path = evaluated / "evaluation.json"
    accuracy = {"mAP": 0.5, "rank-1": 0.75}
    cascade = {
        "widths": [0.25, 1.0],
        "limits": [{"limit": 0.9, "multiply_adds": 60.0, "shares": [0.625, 0.375], **accuracy}],
        "alone": [{"width": width, "multiply_adds": int(100 * width), **accuracy} for width in (0.25, 1.0)],
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cascade": cascade}))
    text = Page(write_report(evaluated)).text
    assert "cascade 0.25 → 1: queries stop at a probability" in text
    assert "from 0.9 60.0 50.0 75.0 62.5 37.5" in text


def test_an_adaptation_is_shown(evaluated: Path) -> None:
    candidate = {"statistics": 0.0, "calibrated": False, "matrix": [[0.5]], "cross_tests": 0.5, "error": 0.01}
    candidates = [
        candidate | {"name": "as it is", "gain": 0.0, "galleries_stay": True},
        candidate | {"name": "statistics", "gain": 0.02, "galleries_stay": False},
    ]
    content = {"images": "folder:<b>", "fitted": 90, "held_out": 10, "chosen": "statistics"}
    (evaluated / "adaptation.json").write_text(json.dumps(content | {"candidates": candidates}))
    text = Page(write_report(evaluated)).text
    assert "adapted to 90 images of folder:<b>" in text
    assert "statistics (chosen) 50.0 +2.0 ± 1.0 must be embedded again" in text


def test_hits_are_marked_right_and_wrong(page: Page) -> None:
    verdicts = [item["class"] for item in page.all("li")]
    assert verdicts == ["right", "wrong", "right", "wrong", "wrong", "right"]
    captions = page.text[page.text.index("Ranked lists") : page.text.index("Training")]
    assert re.findall(r"([✓✗]) 0\.\d{3}", captions) == ["✓", "✗", "✓", "✗", "✗", "✓"]
    assert "AP 77.7" in captions


def test_thumbnails_show_the_images(page: Page) -> None:
    sources = [image["src"] or "" for image in page.all("img")]
    assert len(sources) == 2 + 6
    encoded = np.frombuffer(base64.b64decode(sources[0].split(",")[1]), np.uint8)
    thumbnail = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    assert thumbnail.shape == (128, 64, 3)
    np.testing.assert_allclose(thumbnail[64, 32], COLOUR, atol=8)


def test_configuration_and_environment_are_shown(page: Page) -> None:
    assert "learning_rate 0.00123" in page.text
    assert "widths [0.25, 0.5, 0.75, 1.0]" in page.text
    assert "torch 2.99.1" in page.text


def test_page_asks_the_network_for_nothing(page: Page) -> None:
    loaded = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "data", "action")
    ]
    assert loaded
    assert all(value and value.startswith(("data:", "#")) for value in loaded)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.elements}


def test_style_sheets_load_nothing(reported: Path) -> None:
    text = (reported / "report.html").read_text("utf-8")
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_hostile_names_are_escaped(page: Page, reported: Path) -> None:
    titles = {image["title"] for image in page.all("img")}
    assert titles == {str(reported / 'a"b<i>&c.png')}
    assert "<script>alert(1)</script>" in page.text
    assert 'query: identity <script>alert(1)</script>, camera c"1' in {
        image["alt"] for image in page.all("img")
    }


def test_pictures_have_words_and_ids_are_unique(page: Page) -> None:
    assert len(page.all("svg")) == len(page.all("div", role="img")) == 5
    assert all(drawing["aria-label"] for drawing in page.all("div", role="img"))
    assert all(image["alt"] for image in page.all("img"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_page_names_its_language(page: Page) -> None:
    assert page.all("html", lang="en")


def test_a_run_without_evaluation_says_how_to_get_one(trained: Path) -> None:
    page = Page(write_report(trained))
    assert "sfsc evaluate RUN" in page.text
    assert len(page.all("svg")) == 3
    assert "Compatibility matrix" not in page.text
    assert "Ranked lists" not in page.text


def test_results_on_other_data_stand_apart(evaluated: Path) -> None:
    for name, accuracy in (("one", 0.111), ("two", 0.222)):
        other = evaluation() | {"dataset": f"folder:/<{name}>", "metrics": {"mAP": [[accuracy] * 4] * 4}}
        (evaluated / "evaluations" / name).mkdir(parents=True)
        (evaluated / "evaluations" / name / "evaluation.json").write_text(json.dumps(other))
    page = Page(write_report(evaluated))
    assert "Evaluated on emoji:data/emoji: 1843 queries" in page.text
    assert len(page.all("table", class_="numbers")) == 4 + 2
    section = page.text[page.text.index("Other data sets") : page.text.index("Training")]
    for words in ("folder:/<one>: 1843 queries", "11.1 11.1", "folder:/<two>: 1843 queries", "22.2 22.2"):
        assert words in section


def test_results_on_other_data_are_not_taken_for_its_own(evaluated: Path) -> None:
    """Earlier versions wrote them over its own."""
    (evaluated / "evaluation.json").write_text(json.dumps(evaluation() | {"dataset": "folder:other"}))
    page = Page(write_report(evaluated))
    assert "has not been evaluated on its own data set yet" in page.text
    assert "Compatibility matrix" not in page.text
    assert "Ranked lists" not in page.text
    assert "folder:other: 1843 queries" in page.text[page.text.index("Other data sets") :]


@pytest.mark.parametrize("place", [".", "evaluations/other"])
def test_results_of_a_family_before_are_left_out(evaluated: Path, place: str) -> None:
    (evaluated / "family.json").write_text(json.dumps({"fingerprint": "3f2a9c51"}))
    (evaluated / place).mkdir(parents=True, exist_ok=True)
    old = evaluation() | {"fingerprint": "before", "dataset": "emoji:data/emoji"}
    (evaluated / place / "evaluation.json").write_text(json.dumps(old))
    page = Page(write_report(evaluated))
    assert "results on emoji:data/emoji are left out: they belong to another family" in page.text
    assert ("Compatibility matrix" in page.text) == (place != ".")
    assert "Other data sets" not in page.text


def test_a_curve_that_was_not_logged_is_left_out(trained: Path) -> None:
    (trained / "log.jsonl").write_text('{"epoch": 1.0, "loss": [4.0, 3.0, 2.0, 1.0]}\n')
    assert len(Page(write_report(trained)).all("svg")) == 1


def test_configuration_alone_is_enough(trained: Path) -> None:
    (trained / "log.jsonl").unlink()
    (trained / "environment.json").unlink()
    page = Page(write_report(trained))
    assert "learning_rate" in page.text
    assert page.all("svg") == []


def test_a_missing_picture_does_not_stop_the_report(evaluated: Path) -> None:
    complete = write_report(evaluated).read_text("utf-8")
    (evaluated / 'a"b<i>&c.png').unlink()
    assert write_report(evaluated).read_text("utf-8") != complete


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_that_is_no_run_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SfscError, match=re.escape(f"{tmp_path / name} is not a run")):
        write_report(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "environment.json", "log.jsonl"),
        *("evaluation.json", "rankings.json", "adaptation.json"),
    ],
)
@pytest.mark.parametrize("content", [b'{"dataset": ', b"[1, 2]\n", b"\xff\xfe"])
def test_a_broken_file_is_named(evaluated: Path, name: str, content: bytes) -> None:
    (evaluated / name).write_bytes(content)
    with pytest.raises(SfscError, match=re.escape(str(evaluated / name))):
        write_report(evaluated)
    assert not (evaluated / "report.html").exists()


def test_the_broken_line_of_a_log_is_named(trained: Path) -> None:
    with (trained / "log.jsonl").open("a") as log:
        log.write('{"step": 2')
    with pytest.raises(SfscError, match=r"log\.jsonl, line 21"):
        write_report(trained)


def test_a_missing_key_is_named(evaluated: Path) -> None:
    (evaluated / "evaluation.json").write_text('{"dataset": "emoji"}')
    with pytest.raises(SfscError, match=r"evaluation\.json lacks fingerprint, widths"):
        write_report(evaluated)


def test_a_page_that_cannot_be_written_is_named(trained: Path) -> None:
    (trained / "report.html").mkdir()
    with pytest.raises(SfscError, match=r"cannot write .*report\.html"):
        write_report(trained)
    shutil.rmtree(trained / "report.html")
    assert write_report(trained).is_file()


def test_images_whose_names_are_not_utf_8_are_shown(evaluated: Path) -> None:
    file = evaluated / "rankings.json"
    content = json.loads(file.read_text())
    for row in content["rows"]:
        row["query"]["path"] = "/photos/caf\udce9.png"
    file.write_text(json.dumps(content))
    assert "/photos/caf\\xe9.png" in write_report(evaluated).read_text("utf-8")


def test_the_gallery_gain_stands_beside_the_cost_of_queries(evaluated: Path, page: Page) -> None:
    """The gains of the narrow widths are MAP[r][3] - MAP[r][r]: -3.1, 0.1 and 0.2 points."""
    assert "mean -0.9; parameters of a query" in page.text  # older results know parameters only
    assert "0.25 -3.1 8.0 0.5 +0.1 26.3 0.75 +0.2 56.8" in page.text
    assert "bytes" not in page.text
    tests = [{"dimension": d, "self_tests": [0.1, 0.2, 0.3, 0.4], "smallest_to_full": 0.1} for d in (32, 128)]
    more = {"multiply_adds": [1, 20, 50, 100], "gallery_gain": [-0.031, 0.001, 0.002], "dimensions": tests}
    (evaluated / "evaluation.json").write_text(json.dumps(evaluation() | more))
    text = Page(write_report(evaluated)).text
    assert "mean -0.9; multiply-adds of a query" in text
    assert "0.25 -3.1 1.0 0.5 +0.1 20.0 0.75 +0.2 50.0" in text
    assert "512 bytes in float32" in text


def test_a_single_width_gains_nothing(evaluated: Path) -> None:
    one = {
        "widths": [1.0],
        "parameters": [5],
        "multiply_adds": [7],
        "gallery_gain": [],
        "criterion": [[False]],
    }
    metrics = {name: [[0.5]] for name in evaluation()["metrics"]}
    config = json.loads((evaluated / "config.json").read_text()) | {"widths": [1.0]}
    (evaluated / "config.json").write_text(json.dumps(config))
    (evaluated / "log.jsonl").unlink()
    (evaluated / "evaluation.json").write_text(json.dumps(evaluation() | one | {"metrics": metrics}))
    assert "gallery gain" not in Page(write_report(evaluated)).text.lower()


@pytest.mark.parametrize("change", [{"gallery_gain": [0.1]}, {"multiply_adds": [1]}])
def test_gains_of_other_sub_models_are_refused(evaluated: Path, change: dict[str, list[float]]) -> None:
    (evaluated / "evaluation.json").write_text(json.dumps(evaluation() | change))
    with pytest.raises(SfscError, match="belong to different sub-models"):
        write_report(evaluated)
