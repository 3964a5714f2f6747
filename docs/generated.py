"""What the scripts of this folder write: files, and the part of a page between two marks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

END = "<!-- end of the generated part -->"


def with_part(page: Path, script: str, part: str) -> str:
    """Returns the page's text with `part` between its marks. The first mark names the script."""
    start = f"<!-- generated: python docs/{script} -->"
    before, rest = page.read_text(encoding="utf-8").split(start)
    return f"{before}{start}\n\n{part}\n\n{END}{rest.split(END)[1]}"


def write_or_check(texts: Mapping[Path, str], script: str) -> None:
    """Write the files. With `--check` on the command line, exit 1 where one of them has another text."""
    for path, text in texts.items():
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.name} is not up to date: run `python docs/{script}`")
