"""`tgpo-ray init FOLDER`: a small project of one's own, ready to test, to run here, and to submit to a cluster."""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

# in the project -> among this package's data. `.template`: nothing in the checkout imports, collects or obeys them.
PROJECT = {
    "README.md": "README.md.template",
    "sort_words.py": "sort_words.py.template",
    "test_sort_words.py": "test_sort_words.py.template",
    "train.yaml": "train.yaml.template",
    "tiny.yaml": "tiny.yaml.template",
    ".rayignore": "rayignore.template",
}
HARMLESS = {".git"}  # may be there before: `git init` first, then `tgpo-ray init .`


def add_init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="where to write it: a folder that is empty or not there yet")


def init(options: argparse.Namespace) -> int:
    """Write a small project: an environment of one's own with its test, the run's YAML, .rayignore, README."""
    folder = Path(options.folder)
    for path in write_project(folder):
        print(path)
    print(f"next: cd {folder} && python -m pytest; README.md says how it goes on")
    return 0


def write_project(folder: Path) -> list[Path]:
    """Returns the files of the project, after writing them into `folder`.

    Raises:
        ValueError: `folder` is a file, or holds something already. Nothing is written then.
    """
    folder = folder.expanduser()
    _refuse_used(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = files("tgpo_ray.cli") / "project"
    written = []
    for name, template in PROJECT.items():
        with (folder / name).open("x", encoding="utf-8") as file:  # x: never over a file of somebody else
            file.write((source / template).read_text(encoding="utf-8"))
        written.append(folder / name)
    return written


def _refuse_used(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder that is empty or not there yet")
    held = sorted(path.name for path in folder.iterdir() if path.name not in HARMLESS) if folder.is_dir() else []
    if held:
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        raise ValueError(
            f"{folder} holds {held[0]}{more}: a project is written into an empty folder, so that nothing of yours is "
            f"overwritten; name another one, such as {folder / 'project'}"
        )
