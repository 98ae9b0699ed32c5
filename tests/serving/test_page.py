"""The page in a real browser: it is read and used as a person would."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from sfsc.images.reading import decode
from tests.serving.conftest import in_browser, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def address(run: Path, indexed: Path) -> Iterator[str]:
    with serving(run, indexed) as (_, address):
        yield address


@pytest.fixture
def page(browser: sync_api.Browser, address: str) -> Iterator[sync_api.Page]:
    """The page once its first search is answered; whatever the browser complains of fails the test."""
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.wait_for_selector("#results li")
    yield page
    page.close()
    assert [text for text in complaints if "422" not in text] == []


def ranking(page: sync_api.Page) -> list[str]:
    """The images that the page shows, with their scores, once the search is answered."""
    page.wait_for_selector("#results:not([aria-busy])")
    return page.locator("#results figcaption span:first-child").all_inner_texts()


def status(page: sync_api.Page, text: str) -> None:
    sync_api.expect(page.locator("#status")).to_contain_text(re.compile(text))


@in_browser
def test_another_submodel_gives_other_results(page: sync_api.Page) -> None:
    status(page, "18 of 24 images .* by sub-model 0.25 in")
    small = ranking(page)
    page.get_by_role("radio", name=re.compile("full")).check()
    status(page, "by sub-model 1 in")
    assert len(small) == len(ranking(page)) == 18
    assert ranking(page) != small
    sync_api.expect(page.locator("#family tr.chosen th")).to_have_text("1")
    assert (
        page.locator("#results img").first.evaluate("image => image.decode().then(() => image.naturalWidth)")
        > 0
    )


@in_browser
def test_another_image_by_keyboard(page: sync_api.Page) -> None:
    before = ranking(page)
    page.get_by_role("radio", name=re.compile("full")).check()
    page.locator("#examples button").nth(3).focus()
    with page.expect_response("**/search/id"):
        page.keyboard.press("Enter")
    assert page.locator("#examples button").nth(3).get_attribute("aria-pressed") == "true"
    assert ranking(page) != before


@in_browser
def test_a_filter_is_added_and_removed(page: sync_api.Page) -> None:
    page.get_by_label("Only where").select_option("camera")
    page.get_by_label("Value").select_option("c1")
    page.get_by_role("button", name="Add filter").click()
    status(page, "1[12] of 24")
    cameras = page.locator("#results figcaption span:nth-child(2)").all_inner_texts()
    assert set(cameras) == {"c1"}
    page.get_by_role("button", name="Remove the filter camera=c1").click()
    status(page, "18 of 24")


@in_browser
def test_all_submodels_side_by_side(page: sync_api.Page) -> None:
    page.get_by_role("switch", name="All sub-models side by side").check()
    sync_api.expect(page.locator(".lane h3")).to_have_count(3)
    assert "of 10 as the full sub-model" in page.locator(".lane h3").first.inner_text()
    assert page.locator(".lane").first.locator("li").count() == 10


@in_browser
def test_a_file_is_searched_and_a_text_file_is_refused(
    page: sync_api.Page, picture: Path, tmp_path: Path
) -> None:
    page.get_by_role("radio", name=re.compile("full")).check()
    page.set_input_files("#file", picture)
    sync_api.expect(page.locator("#results figcaption b").first).to_have_text("1.000")
    sync_api.expect(page.locator("#drop-text")).to_have_text(picture.name)
    note = tmp_path / "note.txt"
    note.write_text("not an image")
    page.set_input_files("#file", note)
    problem = page.get_by_role("alert")
    sync_api.expect(problem).to_have_text("note.txt: not a JPEG, PNG, WebP or BMP image")
    assert page.locator("#results li").count() == 0
    page.set_input_files("#file", picture)
    sync_api.expect(problem).to_be_hidden()


@in_browser
def test_a_rectangle_searches_with_a_part_of_the_image(page: sync_api.Page, picture: Path) -> None:
    page.locator("#file").set_input_files(picture)
    status(page, "by sub-model 0.25 in")
    whole = ranking(page)
    page.locator("#whole").evaluate("image => image.decode()")
    height, width = decode(str(picture), None).shape[:2]
    area = page.locator("#frame").bounding_box()
    assert area is not None
    page.mouse.move(area["x"] + 1, area["y"] + 1)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    with page.expect_response("**/search/image") as answered:
        page.mouse.up()
    assert answered.value.ok
    box = [int(number) for number in page.locator("#box").input_value().split(",")]
    assert abs(box[0] + box[2] - width / 2) <= 2 and abs(box[1] + box[3] - height / 2) <= 2
    sync_api.expect(page.locator("#rectangle")).to_be_visible()
    assert ranking(page) != whole
    with page.expect_response("**/search/image"):
        page.get_by_role("button", name="Whole image").click()
    assert ranking(page) == whole
    page.get_by_label("Part of the image").fill("0,0,9999,5")
    with page.expect_response("**/search/image"):
        page.keyboard.press("Enter")
    sync_api.expect(page.locator("#problem")).to_contain_text("is not inside the image")


@in_browser
def test_it_fits_a_phone(page: sync_api.Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@in_browser
def test_the_key_is_asked_for(browser: sync_api.Browser, run: Path, indexed: Path) -> None:
    with serving(run, indexed, "--api-key", "secret") as (_, address):
        page = browser.new_page()
        page.goto(address)
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Continue").click()
        sync_api.expect(page.get_by_role("alert")).to_contain_text("wants its API key")
        page.get_by_label("API key").fill("secret")
        page.get_by_role("button", name="Continue").click()
        status(page, "18 of 24")
        sync_api.expect(page.get_by_label("API key")).to_be_hidden()
        image = page.locator("#results img").first
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        page.close()


def test_the_page_asks_no_other_host(client: TestClient) -> None:
    policy = client.get("/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in ("/", "/page.js", "/page.css", "/style.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert not re.search(r"https?://|\son\w+=|style=", answer.text)


SLIDE = "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('change')); }"


@in_browser
def test_matches_are_apart_and_depend_on_the_strictness(
    browser: sync_api.Browser, sure: Path, indexed: Path
) -> None:
    with serving(sure, indexed) as (_, address):
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#results li")
        slider, counts = page.get_by_label("Strictness of matches"), []
        for value in (slider.get_attribute("min"), slider.get_attribute("max")):
            with page.expect_response("**/search/id"):
                slider.evaluate(SLIDE, value)
            assert len(ranking(page)) == 18
            counts.append(page.locator(".others li").count())
        assert counts[0] == 0 < counts[1]
        assert "wrong per query" in page.locator("#fmr-said").inner_text()
        second = page.locator("#results figcaption span:nth-child(2)").first
        sync_api.expect(second).to_have_text(re.compile("match: .*%"))
        page.close()
