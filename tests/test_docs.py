"""The documents against the program: settings, commands, files, links and code that are written down."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from torch.distributed.run import get_args_parser

import sfsc
from sfsc.cli import app
from sfsc.images.reading import write_png
from sfsc.training.config import Config
from tests.conftest import draw

ROOT = Path(__file__).parents[1]
GUIDES = [
    ROOT / "docs" / f"{name}.md"
    for name in (
        "data",
        "training",
        "backbones",
        "conversion",
        "evaluation",
        "comparison",
        "gallery",
        "changing-the-model",
        "decisions",
        "service",
        "deploy",
        "method",
    )
]
DOCUMENTS = [
    *GUIDES,
    *(ROOT / "docs" / f"{name}.md" for name in ("benchmarks", "pictures", "results", "research", "security")),
    *sorted((ROOT / "docs" / "api").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    ROOT / "examples" / "README.md",
]
IMAGE = re.compile(r"data/emoji/images/([\w-]+)/([\w-]+)\.png")
VENDORS = ["noto", "openmoji", "fxemoji"]
TRAINED_IDENTITIES = 18  # a batch holds 16 by default


def blocks(document: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in fences if language in languages]


def table(document: Path, heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading, cells without their spaces."""
    lines = iter(document.read_text().splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            break
    next(lines)
    rows = []
    while (line := next(lines, "")).startswith("|"):
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def first_cells(document: Path, heading: str) -> list[str]:
    return [row[0].strip("`") for row in table(document, heading)]


def anchors(document: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(document: Path) -> list[str]:
    text = "".join(blocks(document, "sh", "bash", "console")).replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set in data/emoji, as `sfsc data emoji` leaves one, of drawn shapes."""
    folder = tmp_path_factory.mktemp("documents")
    texts = [document.read_text() for document in [ROOT / "README.md", *GUIDES] if document.exists()]
    named = {match for text in texts for match in IMAGE.findall(text)} or {("twemoji", "1f98a")}
    trained = [f"1f{number:03x}" for number in range(TRAINED_IDENTITIES)]
    tested = sorted({codepoints for _, codepoints in named} | {"26f00", "26f01", "26f02"})
    vendors = sorted({vendor for vendor, _ in named} | set(VENDORS))
    lines = ["path,identity,camera,split"]
    for number, codepoints in enumerate([*trained, *tested]):
        for place, vendor in enumerate(vendors):
            path = folder / "data" / "emoji" / "images" / vendor / f"{codepoints}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, draw(number, place % 2, place))
            split = "test" if codepoints in tested else "train"
            lines.append(f"images/{vendor}/{codepoints}.png,{codepoints},{vendor},{split}")
    (folder / "data" / "emoji" / "emoji.csv").write_text("\n".join(lines) + "\n")
    (folder / "data" / "emoji" / "build.json").write_text(json.dumps({"size": 32}))
    return folder


@pytest.fixture(scope="module")
def guided(emoji: Path) -> Path:
    """The folder after all Python blocks of the guides were run in it, one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(emoji)
        for document in GUIDES:
            for number, block in enumerate(blocks(document, "python")):
                exec(compile(block, f"{document.name}, block {number}", "exec"), {})
    return emoji


def test_the_guides_run(guided: Path) -> None:
    assert sum(len(blocks(document, "python")) for document in GUIDES) == 16
    for name in ("config.json", "environment.json", "log.jsonl", "checkpoint.safetensors", "report.html"):
        assert (guided / "runs" / "first" / name).stat().st_size > 0
    assert len(sfsc.Gallery.open(guided / "galleries" / "first")) > 0


def test_the_readme_runs(
    emoji: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = blocks(ROOT / "README.md", "python")
    assert found, "README.md shows no Python"
    monkeypatch.chdir(emoji)
    exec(compile(found[0], "README.md", "exec"), {})
    assert sfsc.Family.load(emoji / "runs" / "mini").widths.ratios[-1] == 1.0
    assert len(sfsc.Gallery.open(emoji / "galleries" / "mini")) > 0
    assert "print(" not in found[0] or capsys.readouterr().out.strip()


def test_all_settings_are_described() -> None:
    expected = [
        [
            f"`{name}`",
            "required" if field.is_required() else f"`{json.dumps(field.get_default())}`",
            field.description,
        ]
        for name, field in Config.model_fields.items()
    ]
    assert table(ROOT / "docs" / "training.md", "setting") == expected


def test_the_keys_of_the_results_are_described(guided: Path) -> None:
    document, run = ROOT / "docs" / "evaluation.md", guided / "runs" / "first"
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert first_cells(document, "key") == list(evaluation)
    text = document.read_text()
    assert all(f"`{name}`" in text for name in evaluation["metrics"])
    rankings = json.loads((run / "rankings.json").read_text())
    after = document.read_text().partition("## rankings.json")[2]
    assert all(f"| `{key}` |" in after for key in [*rankings, *rankings["rows"][0]])
    assert all(f"`{key}`" in after for key in rankings["rows"][0]["hits"][0])
    assert first_cells(document, "key of a row") == list(rankings["rows"][0])


def test_the_files_of_a_run_are_described(guided: Path) -> None:
    described = set(
        re.findall(r"`([\w.]+\.(?:jsonl?|safetensors|png|html))`", text_of("training", "evaluation"))
    )
    described |= set(re.findall(r"^## ([\w.]+\.json)$", text_of("evaluation"), re.MULTILINE))
    assert {file.name for file in (guided / "runs" / "first").iterdir()} <= described


def text_of(*guides: str) -> str:
    return "\n".join((ROOT / "docs" / f"{name}.md").read_text() for name in guides)


def test_the_log_is_described(guided: Path) -> None:
    line = json.loads((guided / "runs" / "first" / "log.jsonl").read_text().splitlines()[0])
    row = next(row for row in table(ROOT / "docs" / "training.md", "file") if row[0] == "`log.jsonl`")
    assert set(line) <= set(re.findall(r"`(\w+)`", row[1]))


def test_kinds_backbones_and_splits_are_described() -> None:
    from sfsc.backbones.builtin import BACKBONES
    from sfsc.backbones.sources import FORMS
    from sfsc.data.dataset import SPLITS
    from sfsc.data.emoji_build import VENDORS as BUILT
    from sfsc.data.sources import KINDS

    data, backbones = ROOT / "docs" / "data.md", ROOT / "docs" / "backbones.md"
    assert first_cells(data, "KIND") == list(KINDS)
    assert first_cells(data, "split") == list(SPLITS)
    assert all(vendor in data.read_text() for vendor in BUILT)
    named = [name for cell in first_cells(backbones, "backbone") for name in re.findall(r"\w+", cell)]
    assert named == list(BACKBONES)
    sources = [cell.partition(":")[0] for cell in first_cells(backbones, "name")[1:]]
    assert sources == ["transformers", "transformers", "timm", "torchvision", "python"]
    assert all(f"{source}:" in FORMS for source in sources)


def test_what_may_change_on_resume_is_described() -> None:
    from sfsc.training.run import NOT_RESULTS

    sentence = re.search(r"except those that do not change the result: (.*?)\.", text_of("training"))
    assert sentence
    assert set(re.findall(r"`(\w+)`", sentence[1])) == NOT_RESULTS


@pytest.mark.parametrize(
    "command", sorted({c for document in DOCUMENTS if document.exists() for c in commands(document)})
)
def test_commands_are_understood(command: str) -> None:
    """Every `sfsc` command parses, every make target is there."""
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert next(word for word in words[1:] if "=" not in word) in targets
    elif words[0] == "sfsc":
        parse(typer.main.get_command(app), words[1:])
    elif words[0] == "torchrun":
        launcher, module = words.index("-m"), words.index("sfsc")
        get_args_parser().parse_args(words[1:launcher] + words[module:])
        assert words[launcher + 1] == "sfsc"
        parse(typer.main.get_command(app), words[module + 1 :])
    else:
        assert words[0] in (
            "pip",
            "npm",
            "git",
            "cd",
            "python",
            "python3",
            "source",
            "curl",
            ".venv/bin/pytest",
        )


def parse(command: Any, arguments: list[str]) -> None:
    """Have the command line parse its arguments without running anything; an error is an exception."""
    context = command.make_context(command.name, arguments)
    if hasattr(command, "commands"):
        left = [*context._protected_args, *context.args]
        name, inner, rest = command.resolve_command(context, left)
        assert inner is not None, name
        parse(inner, rest)


def test_a_wrong_command_would_be_noticed() -> None:
    wrong = ["train --epoch 1", "serch", "data show", "index run images --top 1", "search run"]
    for words in map(str.split, wrong):
        with pytest.raises(Exception, match=r"(?i)no such|missing"):
            parse(typer.main.get_command(app), words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = document.parent / file if file else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_what_proves_security_is_there() -> None:
    rows = table(ROOT / "docs" / "security.md", "promise")
    assert len(rows) > 20
    for _, enforced, test in rows:
        file, _, name = test.strip("`").partition("::")
        assert re.search(rf"^ *def {name}\(", (ROOT / file).read_text(), re.MULTILINE), test
        modules = re.findall(r"`([\w/]+\.py)`", enforced)
        assert all((ROOT / "src" / "sfsc" / module).is_file() for module in modules), enforced


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.name)
def test_options_in_the_text_exist(document: Path) -> None:
    inline = re.findall(r"`[^`\n]*`", document.read_text())
    options = {option for text in inline for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)}
    assert options <= all_options(typer.main.get_command(app))


def all_options(command: Any) -> set[str]:
    own = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    return own.union(*(all_options(inner) for inner in getattr(command, "commands", {}).values()))


def test_the_hooks_are_the_linters_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    tools = re.findall(r"\$\(BIN\)/(\w+)", lint)
    assert {hook["entry"].split()[0] for hook in hooks} == {f".venv/bin/{tool}" for tool in tools}
    assert {hook["language"] for hook in hooks} == {"system"}
