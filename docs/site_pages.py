"""Pages of the docs site that are no files in docs/; mkdocs.yml names this file as a hook.

An API page for each door, with a directive of mkdocstrings for each name that the door gives out. And a page for each
file or folder outside docs/ to which a page links, so that one link leads somewhere on GitHub and on the site alike.
"""

# pyright: reportMissingImports=false
# mkdocs is installed in .venv-docs only

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from rooms import GUESTS, PACKAGE, ROOT, door_of, imported_by_door, rooms

DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)(?=[)#])")
SHOWN = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".sh": "bash", "": "text"}  # suffix -> language
MODULE_OPTIONS = "    options: {members: false, show_root_heading: false, show_root_toc_entry: false}"
FILE_OPTIONS = "    options: {show_root_heading: false, show_root_toc_entry: false}"
NOT_IMPORTED = ("__init__", "cli", "train")  # the overview shows the first; the others are commands
PROJECT = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")


def on_config(config: MkDocsConfig) -> None:
    """The navigation's last two parts, whose pages are made here."""
    nav: list[Any] = config.nav or []
    nav.append({"API": [{"Overview": "api/index.md"}, *({module: f"api/{module}.md"} for module in modules())]})
    nav.append({"Project": [outside_uri(ROOT / name) for name in PROJECT]})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages of the API, and those of all that is linked from the pages that are there."""
    pages = {"api/index.md": api_index()} | {f"api/{module}.md": api_page(module) for module in modules()}
    waiting = {ROOT / name for name in PROJECT}
    for file in files.documentation_pages():
        waiting |= linked_outside(DOCS / file.src_uri)
    while waiting:
        path = waiting.pop()
        if outside_uri(path) not in pages:
            pages[outside_uri(path)] = outside_page(path)
            waiting |= linked_outside(text_file(path))
    for uri, content in sorted(pages.items()):
        files.append(File.generated(config, uri, content=content))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links out of docs/ led to the pages made for them."""
    return relinked(markdown, DOCS / page.file.src_uri, page.file.src_uri) if not page.file.generated_by else markdown


# ---- the API


def modules() -> dict[str, list[str]]:
    """Public module -> the names that it gives out, in the order of its files."""
    doors = {room: door_of(room) for room in rooms() if room not in NOT_IMPORTED}
    doors |= {guest: ROOT / guest / "__init__.py" for guest in GUESTS}
    return {f"{PACKAGE}.{room}": names_of(path) for room, path in sorted(doors.items())}


def names_of(door: Path) -> list[str]:
    return [name for _, names in sorted(imported_by_door(door).items()) for name in sorted(names)]


def api_page(module: str) -> str:
    constants = [name for name in modules()[module] if name.isupper()]  # some are unpacked, which griffe cannot follow
    if not modules()[module]:  # a room that is one file
        return f"# {module}\n\n::: {module}\n{FILE_OPTIONS}\n"
    directives = [f"::: {module}.{name}" for name in modules()[module] if name not in constants]
    if constants:
        directives.append("### Constants\n\n" + ", ".join(f"`{name}`" for name in constants))
    return "\n\n".join([f"# {module}", f"::: {module}\n{MODULE_OPTIONS}", *directives, ""])


def api_index() -> str:
    public = imported_by_door(ROOT / PACKAGE / "__init__.py")
    lines = [f"- [`{name}`][{PACKAGE}.{room}.{name}]" for room in sorted(public) for name in sorted(public[room])]
    pages = [f"- [{module}]({module}.md)" for module in modules()]
    return "\n".join(["# API", "", f"What `import {PACKAGE}` gives:", "", *lines, "", "All doors:", "", *pages, ""])


# ---- files outside docs/


def target_of(link: str, source: Path) -> Path | None:
    """The file or folder of the repository that a link of a source file leads to."""
    path = Path(os.path.normpath(source.parent / link))
    return path if path.is_relative_to(ROOT) and path.exists() else None


def linked_outside(source: Path) -> set[Path]:
    if source.suffix != ".md" or not source.exists():
        return set()
    targets = (target_of(link, source) for link in LINK.findall(source.read_text(encoding="utf-8")))
    return {path for path in targets if path is not None and not path.is_relative_to(DOCS)}


def text_file(path: Path) -> Path:
    return path / "README.md" if (path / "README.md").exists() else path


def outside_uri(path: Path) -> str:
    """Where on the site a file outside docs/ is: `repository/examples/trl.md`."""
    relative = text_file(path).relative_to(ROOT).as_posix()
    return f"repository/{relative}" if relative.endswith(".md") else f"repository/{relative}.md"


def outside_page(path: Path) -> str:
    """A Markdown file with its links fitted, or the code of a file or of a folder's files."""
    path = text_file(path)
    if path.suffix == ".md":
        return relinked(path.read_text(encoding="utf-8"), path, outside_uri(path))
    shown = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.suffix in SHOWN]
    blocks = [code_of(file) for file in shown if file.is_file()]
    return "\n\n".join([f"# {path.relative_to(ROOT).as_posix()}", *blocks, ""])


def code_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return f"`{path.relative_to(ROOT).as_posix()}`\n\n````{SHOWN.get(path.suffix, 'text')}\n{text}\n````"


def relinked(markdown: str, source: Path, uri: str) -> str:
    """Markdown of a source file, with its links as they must read on the site's page `uri`."""

    def replace(match: re.Match[str]) -> str:
        path = target_of(match[1], source)
        if path is None:
            return match[1]
        inside = path.is_relative_to(DOCS)
        target = path.relative_to(DOCS).as_posix() if inside else outside_uri(path)
        return os.path.relpath(target, PurePosixPath(uri).parent)

    return LINK.sub(replace, markdown)
