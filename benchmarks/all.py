"""Run benchmarks and write their output into docs/benchmarks.md, each at its mark."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from page import parser

from sfsc.files.writing import write_atomic

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
MARK = re.compile(r"^<!-- (\w+) -->$", re.MULTILINE)


def main() -> None:
    """Run the benchmarks in order; the sections that are done remain if a later benchmark fails."""
    names = MARK.findall(PAGE.read_text())
    arguments = parser(__doc__)
    arguments.add_argument("names", nargs="*", default=names, help="names of the benchmarks")
    chosen = arguments.parse_args().names
    if unknown := set(chosen).difference(names):
        arguments.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    for name in chosen:
        print(f"benchmarks/{name}.py", file=sys.stderr)
        script = [sys.executable, str(Path(__file__).with_name(f"{name}.py"))]
        printed = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout
        write_atomic(PAGE, replace_section(PAGE.read_text(), name, printed).encode())


def replace_section(page: str, name: str, section: str) -> str:
    """Return the page with this section after its mark, instead of the previous section.

    A section without a heading gets the name of the script as its heading.
    """
    if not section.startswith("## "):
        section = f"## {name.capitalize()}\n\n{section}"
    before, mark, after = page.partition(f"<!-- {name} -->\n")
    following = MARK.search(after)
    rest = after[following.start() :] if following else ""
    return f"{before}{mark}\n{section.strip()}\n" + (f"\n{rest}" if rest else "")


if __name__ == "__main__":
    main()
