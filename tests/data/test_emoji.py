from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import sys
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfsc.data import build_emoji, decode, emoji_build, npm, open_dataset
from sfsc.data.emoji_build import render
from sfsc.data.emoji_codepoints import IconSet, assign, base, has_skin_tone, normalise
from sfsc.errors import SfscError

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8" width="128" height="128">{}</svg>'
COLOURS = {"anna": "#f00", "bert": "#d20", "carl": "#b04", "dora": "#906"}
NAMED_ONLY = "dora"
CHARACTERS = {
    "1F534": "red-circle",
    "1f44b": "waving-hand",
    "1f44b-1f3fb": "waving-hand-light-skin-tone",
    "1f1eb-1f1f7": "flag-france",
    "2b1c": "white-large-square",
    "1f501": "copy-of-red-circle",
    "1f449": "pointing-right",
    "1f600": "grinning-face",
    "e000": "private",
}


def icons_of(vendor: str) -> dict[str, Any]:
    """What a package holds: seven emoji, one of them blank, one a copy, one drawn by three vendors only."""
    colour = COLOURS[vendor]
    bodies = {
        "red-circle": f'<circle cx="4" cy="4" r="3" fill="{colour}"/>',
        "copy-of-red-circle": f'<circle cx="4" cy="4" r="3" fill="{colour}"/>',
        "waving-hand": '<path d="M1 1h3v6H1z" fill="currentColor"/>'
        + f'<path d="M5 5h1v1z" fill="{colour}"/>',
        "waving-hand-light-skin-tone": f'<path d="M1 1h4v6H1z" fill="{colour}"/>',
        "flag-for-france"
        if vendor == NAMED_ONLY
        else "flag-france": f'<path d="M0 2h8v4H0z" fill="{colour}"/>',
        "white-large-square": '<path d="M0 0h8v8H0z" fill="#fff"/>',
        "pointing-left": f'<path d="M0 4l4 4V0z" fill="{colour}"/>',
        "private": f'<path d="M0 0l4 4V0z" fill="{colour}"/>',
    }
    if vendor != "anna":
        bodies["grinning-face"] = f'<circle cx="4" cy="4" r="2" fill="{colour}"/>'
    return {
        "width": 8,
        "height": 8,
        "icons": {name: {"body": body} for name, body in bodies.items()},
        "aliases": {"pointing-right": {"parent": "pointing-left", "hFlip": True}},
    }


def package(vendor: str) -> bytes:
    """The .tgz that the registry would send."""
    members = {
        "icons": icons_of(vendor),
        "chars": {} if vendor == NAMED_ONLY else CHARACTERS,
        "info": {
            "name": f"{vendor}'s emoji",
            "author": {"name": f"{vendor} and friends"},
            "license": {"title": f"{vendor}'s licence", "spdx": "X-1.0"},
        },
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(f"package/{name}.json")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A registry of four small packages in place of npm; what was fetched from it."""
    log: list[str] = []
    archives = {vendor: package(vendor) for vendor in COLOURS}

    def fetch(name: str, folder: Path) -> None:
        log.append(name)
        vendor, version = name.removeprefix("@iconify-json/").split("@")
        (folder / f"iconify-json-{vendor}-{version}.tgz").write_bytes(archives[vendor])

    monkeypatch.setattr(emoji_build, "VENDORS", dict.fromkeys(COLOURS, "1.0.0"))
    known = {vendor: integrity(archive) for vendor, archive in archives.items()}
    monkeypatch.setattr(emoji_build, "INTEGRITY", known)
    monkeypatch.setattr(npm, "pack", fetch)
    return log


def integrity(data: bytes) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(data).digest()).decode()}"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestBuild:
    def test_keeps_what_enough_vendors_draw_differently(self, tmp_path: Path, fetched: list[str]) -> None:
        dataset = open_dataset(f"emoji:{build_emoji(tmp_path / 'emoji', size=32)}")
        assert len(fetched) == 4
        # copies differ in nothing but their codepoint, and the second codepoint goes
        assert set(dataset.identities.tolist()) == {"1f44b", "1f1eb-1f1f7", "1f501"}
        assert len(dataset.paths) == 3 * 4
        assert dataset.cameras is not None
        assert set(dataset.cameras.tolist()) == set(COLOURS)
        assert dataset.image_size == (32, 32)
        assert not dataset.mirrors
        assert {decode(path, None).shape for path in dataset.paths} == {(32, 32, 3)}

    def test_skin_tones_are_identities_if_wanted(self, tmp_path: Path, fetched: list[str]) -> None:
        dataset = open_dataset(f"emoji:{build_emoji(tmp_path / 'emoji', skin_tones=True)}")
        assert "1f44b-1f3fb" in dataset.identities
        split = dict(zip(dataset.identities.tolist(), dataset.splits.tolist(), strict=True))
        assert split["1f44b-1f3fb"] == split["1f44b"]

    @pytest.mark.parametrize(("share", "split"), [(0.0, "train"), (1.0, "test")])
    def test_share_for_testing(self, tmp_path: Path, fetched: list[str], share: float, split: str) -> None:
        dataset = open_dataset(f"emoji:{build_emoji(tmp_path / 'emoji', test_share=share)}")
        assert set(dataset.splits.tolist()) == {split}

    def test_two_builds_are_equal_byte_by_byte(self, tmp_path: Path, fetched: list[str]) -> None:
        one, two = (contents(build_emoji(tmp_path / name)) for name in ("one", "two"))
        assert len(one) > 12
        assert one == two

    def test_a_complete_build_is_returned_at_once(self, tmp_path: Path, fetched: list[str]) -> None:
        before = contents(build_emoji(tmp_path / "emoji"))
        fetched.clear()
        assert contents(build_emoji(tmp_path / "emoji")) == before
        assert not fetched

    def test_other_settings_need_another_folder(self, tmp_path: Path, fetched: list[str]) -> None:
        build_emoji(tmp_path / "emoji")
        with pytest.raises(SfscError, match="other settings"):
            build_emoji(tmp_path / "emoji", size=48)

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path: Path, fetched: list[str]) -> None:
        (tmp_path / "images").mkdir()
        with pytest.raises(SfscError, match="not an emoji build"):
            build_emoji(tmp_path)
        assert list(tmp_path.iterdir()) == [tmp_path / "images"]

    def test_every_set_is_attributed(self, tmp_path: Path, fetched: list[str]) -> None:
        text = (build_emoji(tmp_path / "emoji") / "ATTRIBUTION.md").read_text()
        for vendor in COLOURS:
            assert f"{vendor}'s emoji" in text
            assert f"@iconify-json/{vendor} 1.0.0" in text
            assert f"{vendor} and friends" in text
            assert f"{vendor}'s licence" in text


class TestInterruption:
    def test_a_second_run_reuses_the_downloads_and_finishes(
        self, tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "emoji"
        with monkeypatch.context() as patch:
            patch.setattr(emoji_build, "_write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                build_emoji(out)
        assert not out.exists()
        with pytest.raises(SfscError, match="sfsc data emoji --out"):
            open_dataset(f"emoji:{out}")
        fetched.clear()
        resumed = contents(build_emoji(out))
        assert not fetched
        assert resumed == contents(build_emoji(tmp_path / "whole"))
        assert not out.with_name("emoji.partial").exists()

    def test_a_torn_download_is_fetched_again(
        self, tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def tear(name: str, folder: Path) -> None:
            (folder / "iconify-json-anna-1.0.0.tgz").write_bytes(b"half")
            raise SfscError("the network went away")

        with monkeypatch.context() as patch:
            patch.setattr(npm, "pack", tear)
            with pytest.raises(SfscError, match="went away"):
                build_emoji(tmp_path / "emoji")
        build_emoji(tmp_path / "emoji")
        assert len(fetched) == 4

    def test_a_damaged_download_is_fetched_again(self, tmp_path: Path, fetched: list[str]) -> None:
        archive = tmp_path / "emoji.partial" / "packages" / "iconify-json-anna-1.0.0.tgz"
        archive.parent.mkdir(parents=True)
        archive.write_bytes(package("anna")[:200])
        build_emoji(tmp_path / "emoji")
        assert len(fetched) == 4

    def test_another_package_of_the_same_name_is_refused(
        self, tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setitem(emoji_build.INTEGRITY, "anna", integrity(b"what was published"))
            with pytest.raises(SfscError, match=r"a different file than @iconify-json/anna@1\.0\.0"):
                build_emoji(tmp_path / "emoji")
        assert not list((tmp_path / "emoji.partial").rglob("*anna*"))

    def test_a_package_that_holds_no_icons_is_named(self, tmp_path: Path) -> None:
        archive = tmp_path / "iconify-json-anna-1.0.0.tgz"
        archive.write_bytes(b"no archive")
        with pytest.raises(SfscError, match=r"anna-1\.0\.0\.tgz.*delete it"):
            emoji_build._read_package(archive)

    def test_all_packages_are_pinned(self) -> None:
        assert emoji_build.INTEGRITY.keys() == emoji_build.VENDORS.keys()
        for known in emoji_build.INTEGRITY.values():
            algorithm, _, digest = known.partition("-")
            assert algorithm == "sha512"
            assert len(base64.b64decode(digest, validate=True)) == 64


class TestMissingTools:
    def test_npm_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SfscError, match=r"npm is not installed: install Node\.js"):
            npm.pack("@iconify-json/noto@1.0.0", tmp_path)

    def test_npm_failing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script = tmp_path / "npm"
        script.write_text(
            f"#!{shutil.which('sh')}\necho 'npm error code ENOTFOUND' >&2\necho more >&2\nexit 1\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SfscError, match=r"noto@1\.0\.0 \(npm error code ENOTFOUND\).*network") as caught:
            npm.pack("@iconify-json/noto@1.0.0", tmp_path)
        assert "\n" not in str(caught.value)

    @pytest.mark.skipif(not shutil.which("npm"), reason="needs npm")
    def test_npm_reads_no_settings_of_the_working_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With those settings it would write nothing."""
        (tmp_path / "theirs").mkdir()
        published = {"name": "published-by-nobody", "version": "1.0.0"}
        (tmp_path / "theirs" / "package.json").write_text(json.dumps(published))
        (tmp_path / "package.json").write_text('{"name": "x", "version": "1.0.0"}')
        (tmp_path / ".npmrc").write_text("dry-run=true\nregistry=http://127.0.0.1:1\nfetch-retries=0\n")
        (tmp_path / "packed").mkdir()
        monkeypatch.chdir(tmp_path)
        npm.pack(f"file:{tmp_path / 'theirs'}", Path("packed"))
        assert (tmp_path / "packed" / "published-by-nobody-1.0.0.tgz").is_file()

    def test_resvg_missing(self, tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "resvg_py", None)
        with pytest.raises(SfscError, match=r"resvg-py.*sfsc\[emoji\]"):
            build_emoji(tmp_path / "emoji")
        assert not fetched


class TestRender:
    @pytest.mark.parametrize("size", [17, 64, 128, 150])
    def test_flat_colours_stay_flat_and_nothing_is_white(self, size: int) -> None:
        full = render(SVG.format('<path d="M0 0h8v8H0z" fill="#123456"/>'), size)
        assert full.shape == (size, size, 3)
        np.testing.assert_array_equal(full, np.broadcast_to([0x12, 0x34, 0x56], full.shape))
        assert (render(SVG.format(""), size) == 255).all()

    def test_mirrored_drawing_gives_the_mirrored_image(self) -> None:
        shape = '<path d="M0 0h3v5H0z" fill="#205"/>'
        mirrored = render(SVG.format(f'<g transform="matrix(-1 0 0 1 8 0)">{shape}</g>'), 48)
        np.testing.assert_array_equal(mirrored[:, ::-1], render(SVG.format(shape), 48))

    def test_reduction_keeps_the_mean(self) -> None:
        svg = SVG.format('<circle cx="4" cy="4" r="2.5" fill="#0a0"/>')
        assert abs(render(svg, 32).mean() - render(svg, 128).mean()) < 1


class TestCodepoints:
    @pytest.mark.parametrize(
        "variants",
        [
            ["1f44b", "1f44b-1f3fb", "1f44b-1f3ff"],
            [
                "1f3c3",
                "1f3c3-200d-2640",
                "1f3c3-1f3fb-200d-2642",
                "1f3c3-200d-27a1",
                "1f3c3-200d-2640-200d-27a1",
            ],
            ["1f9d1-200d-1f33e", "1f468-200d-1f33e", "1f469-1f3fd-200d-1f33e"],
            ["1f9d1", "1f468", "1f469", "1f469-200d-1f9b0"],
            ["1f46a", "1f468-200d-1f469-200d-1f466", "1f469-200d-1f467-200d-1f467"],
            ["1f491", "1f468-200d-2764-200d-1f468"],
            ["1f46b", "1f46d", "1f9d1-200d-1f91d-200d-1f9d1"],
            ["2640"],
            ["1f3fb"],
            ["1f1eb-1f1f7"],
            ["1f1f7-1f1eb"],
            ["0023-20e3"],
        ],
    )
    def test_variants_share_their_base(self, variants: list[str]) -> None:
        assert all(base(one) == base(other) for one, other in pairwise(variants))

    def test_different_emoji_have_different_bases(self) -> None:
        different = ["1f44b", "1f3c3", "1f468-200d-1f33e", "1f469-200d-1f373", "1f9d1", "1f9d2", "1f46a"]
        different += [
            "1f491",
            "1f48f",
            "1f46b",
            "2640",
            "2642",
            "1f3fb",
            "1f3fc",
            "1f1eb-1f1f7",
            "1f1f7-1f1eb",
        ]
        assert len({base(codepoints) for codepoints in different}) == len(different)

    def test_normal_form(self) -> None:
        assert normalise("2764-FE0F-200D-1F525") == "2764-200d-1f525"
        assert normalise("1f600-e123") is None
        assert normalise("f0001") is None

    def test_skin_tone_is_a_variant_not_the_swatch(self) -> None:
        assert has_skin_tone("1f44b-1f3fb")
        assert not has_skin_tone("1f3fb")
        assert not has_skin_tone("1f44b")

    def test_names_are_matched_by_vote_alias_spelling_and_standard(self) -> None:
        def voter(codepoints: str) -> IconSet:
            drawings = {"bell": "bell", "ringer": "bell", "flag-france": "flag-france", "x": "x"}
            return IconSet(drawings, {codepoints: "bell", "1f1eb-1f1f7": "flag-france", "1f98a": "x"})

        named = IconSet({name: name for name in ("ringer", "flag-for-france", "foxface", "unheard-of")}, {})
        sets = {"a": voter("1f514"), "b": voter("1f515"), "c": voter("1f514"), "named": named}
        assert assign(sets)["named"] == {
            "1f514": "ringer",
            "1f1eb-1f1f7": "flag-for-france",
            "1f98a": "foxface",
        }

    def test_one_drawing_has_one_codepoint(self) -> None:
        voter = IconSet({"a": "a", "b": "b"}, {"1f514": "a", "1f515": "b"})
        named = IconSet({"a": "a", "b": "a"}, {})
        assert assign({"voter": voter, "named": named})["named"] == {"1f514": "a"}
