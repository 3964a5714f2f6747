"""The rules of the house that a type checker cannot see: links, packages, floors, doors, imports, names and sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.rooms import (
    GUESTS,
    NAMED_IN_STRINGS,
    ROOT,
    circle_in,
    door_of,
    file_arrows,
    floor_of,
    given_out,
    imported_by_door,
    imports_between,
    imports_of,
    listed_by_door,
    room_arrows,
    room_of,
    rooms,
    strings_between,
    tree_of,
)

LINKS = ("envs", "algorithms")
CODE = ("tgpo_ray", "envs", "algorithms", "tests", "benchmarks", "examples", "docs", ".ci")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40  # the docstring does not count

# "path" or "path::function" -> why it may be longer. Empty is the wish.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}

HEAVY_AT_IMPORT = {"vllm", "deepspeed"}  # imported inside the functions of the actors that need them, nowhere else
NOT_ON_A_LAPTOP = {*HEAVY_AT_IMPORT, "torch", "ray", "transformers"}


def real_files() -> list[Path]:
    """Every Python file once: a file behind a link counts in its real folder."""
    links = [ROOT / "tgpo_ray" / name for name in LINKS]
    files = [path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in files if not any(path.is_relative_to(link) for link in links)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """The dotted names of the absolute imports of a file, those under `if TYPE_CHECKING` left out."""
    for found in imports_of(path):
        if not (found.relative or found.for_types or (top_level_only and found.in_function)):
            yield found.module
            yield from (f"{found.module}.{name}" for name in found.names)


def offenders(files: list[Path], forbidden: set[str], *, top_level_only: bool = False) -> list[str]:
    """`file: import` for each import of a forbidden package or of something inside it."""
    return [
        f"{name_of(path)}: {name}"
        for path in files
        for name in imports(path, top_level_only=top_level_only)
        if any(name == package or name.startswith(f"{package}.") for package in forbidden)
    ]


def files_under(*folders: str) -> list[Path]:
    return [path for path in real_files() if name_of(path).startswith(folders)]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after the statement."""
    script = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize("name", LINKS)
def test_envs_and_algorithms_are_real_folders_at_the_top_and_links_in_the_package(name: str) -> None:
    link = ROOT / "tgpo_ray" / name
    assert link.is_symlink(), f"{link} must be a link to ../{name}; check it out with git's core.symlinks on"
    assert link.readlink() == Path("..", name)
    assert (ROOT / name).is_dir() and not (ROOT / name).is_symlink()


def test_the_packages_listed_in_pyproject_are_the_packages_of_the_tree() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in files_under("tgpo_ray/", "envs/", "algorithms/")}
    prefix = {name: f"tgpo_ray.{name}" for name in LINKS}
    found = {".".join((prefix.get(path.parts[0], path.parts[0]), *path.parts[1:])) for path in folders}
    assert sorted(listed) == sorted(found)
    assert all((ROOT / path / "__init__.py").is_file() for path in folders)


def test_every_folder_and_file_of_the_package_stands_on_one_floor() -> None:
    found = {room_of(path) for path in files_under("tgpo_ray/")}
    assert sorted(rooms()) == sorted(found)


def test_a_room_imports_only_from_floors_below_its_own() -> None:
    upwards = [
        str(item)
        for room in rooms()
        for item in imports_between(room)
        if any(other not in GUESTS and floor_of(other) <= floor_of(room) for other in item.rooms - {room})
    ]
    assert upwards == []


def test_no_room_reaches_itself_through_others() -> None:
    arrows: dict[str, set[str]] = {}
    for room, other in room_arrows():
        arrows.setdefault(room, set()).add(other)
    assert circle_in(arrows) == []


@pytest.mark.parametrize("room", [*rooms(), *GUESTS])
def test_no_file_of_a_room_reaches_itself_through_others(room: str) -> None:
    assert circle_in(file_arrows(room)) == []


def test_a_circle_is_found() -> None:
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) in (["a", "b", "c", "a"], ["b", "c", "a", "b"], list("cabc"))
    assert circle_in({"a": {"b", "c"}, "b": {"c"}}) == []


def test_rooms_are_entered_through_their_doors() -> None:
    """From other rooms and from outside the package: `from tgpo_ray.models import x`, which `models/__init__` lists."""
    visitors = files_under("tgpo_ray/", "algorithms/", "examples/", "benchmarks/", "docs/", ".ci/")
    past_the_door = [
        str(item)
        for path in visitors
        for item in imports_of(path)
        for room in (item.rooms & set(rooms())) - {room_of(path), "__init__"}
        if item.module not in ("tgpo_ray", f"tgpo_ray.{room}")
        or (item.module != "tgpo_ray" and not all(given_out(room, name) for name in item.names))
    ]
    assert past_the_door == []


def test_names_in_strings_hide_no_arrow_between_rooms() -> None:
    found = {(room, other) for room in rooms() for other, _ in strings_between(room)}
    assert found == NAMED_IN_STRINGS.keys()
    assert all(NAMED_IN_STRINGS.values())


DOORS = [room for room in rooms() if door_of(room).name == "__init__.py"]


@pytest.mark.parametrize("room", DOORS)
def test_a_door_says_in_one_to_three_sentences_what_is_behind_it(room: str) -> None:
    text = ast.get_docstring(tree_of(door_of(room))) or ""
    assert 1 <= len(re.findall(r"[.!?](?=\s|$)", text)) <= 3, text


@pytest.mark.parametrize("room", DOORS)
def test_a_door_gives_out_what_it_imports(room: str) -> None:
    listed, imported = listed_by_door(door_of(room)), imported_by_door(door_of(room))
    assert listed == (imported if isinstance(listed, dict) else set().union(*imported.values()))


def test_nobody_imports_a_bare_envs_or_algorithms() -> None:
    assert offenders(real_files(), set(LINKS)) == []


def test_the_machinery_never_imports_environments_or_algorithms() -> None:
    assert offenders(files_under("tgpo_ray/"), {"tgpo_ray.envs", "tgpo_ray.algorithms"}) == []


def test_environments_stand_alone() -> None:
    assert offenders(files_under("envs/"), {"tgpo_ray", *NOT_ON_A_LAPTOP}) == []


def test_algorithms_import_their_siblings_relatively() -> None:
    assert offenders(files_under("algorithms/"), {"tgpo_ray.algorithms", "tgpo_ray.envs"}) == []


def test_vllm_and_deepspeed_are_imported_only_inside_functions() -> None:
    assert offenders(files_under("tgpo_ray/", "envs/", "algorithms/"), HEAVY_AT_IMPORT, top_level_only=True) == []


def test_guidance_and_kernels_import_torch_and_numpy_alone() -> None:
    allowed = {*sys.stdlib_module_names, "torch", "numpy", "tgpo_ray.guidance", "tgpo_ray.kernels"}
    strangers = [
        f"{name_of(path)}: {name}"
        for path in files_under("tgpo_ray/guidance", "tgpo_ray/kernels")
        for name in imports(path)
        if not any(name == package or name.startswith(f"{package}.") for package in allowed)
    ]
    assert strangers == []


def test_no_file_bears_the_name_of_a_standard_library_module() -> None:
    modules = sys.stdlib_module_names
    assert [name_of(path) for path in real_files() if path.stem in modules and path.stem != "__init__"] == []


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in files_under("tests/") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_files_have_at_most_300_lines() -> None:
    long = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in real_files()}
    assert {name: lines for name, lines in long.items() if lines > MAX_FILE_LINES and name not in LONG_FILES} == {}


def functions_of(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines, without the docstring and the decorators, of each function of a file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node, clean=False) is not None:
                docstring = node.body[0]
                assert docstring.end_lineno is not None
                lines -= docstring.end_lineno - docstring.lineno + 1
            yield f"{name_of(path)}::{node.name}", lines


def test_functions_have_at_most_40_lines() -> None:
    sizes = dict(item for path in real_files() for item in functions_of(path))
    assert {name: n for name, n in sizes.items() if n > MAX_FUNCTION_LINES and name not in LONG_FUNCTIONS} == {}


def test_the_exceptions_for_long_files_and_functions_are_needed_and_have_a_reason() -> None:
    sizes = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in real_files()}
    sizes |= dict(item for path in real_files() for item in functions_of(path))
    for exceptions, limit in ((LONG_FILES, MAX_FILE_LINES), (LONG_FUNCTIONS, MAX_FUNCTION_LINES)):
        assert all(sizes.get(name, 0) > limit and reason for name, reason in exceptions.items())


def test_no_decision_reads_the_wall_clock() -> None:
    """A clock that jumps, as at a time server's correction, moves no deadline and no measured time."""
    wall = re.compile(r"\btime\.time\(|\bdatetime\.(now|utcnow|today)\(")
    found = [name_of(path) for path in real_files() if wall.search(path.read_text(encoding="utf-8"))]
    assert [name for name in found if not name.startswith("tests/")] == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import tgpo_ray") & {*NOT_ON_A_LAPTOP, "numpy", "pydantic", "gymnasium"}


def test_importing_the_environments_loads_neither_torch_nor_ray_nor_vllm() -> None:
    assert not loaded_by("import tgpo_ray.envs") & NOT_ON_A_LAPTOP


def test_importing_the_configuration_loads_neither_torch_nor_ray_nor_vllm() -> None:
    assert not loaded_by("import tgpo_ray.config") & NOT_ON_A_LAPTOP


def test_importing_the_guidance_module_loads_neither_ray_nor_transformers() -> None:
    assert not loaded_by("import tgpo_ray.guidance") & (NOT_ON_A_LAPTOP - {"torch"})


def test_every_public_name_resolves() -> None:
    loaded_by("import tgpo_ray\nfor name in tgpo_ray.__all__: getattr(tgpo_ray, name)")


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import tgpo_ray

    with pytest.raises(AttributeError, match="No tgpo_ray attribute Learner_Group"):
        tgpo_ray.Learner_Group  # type: ignore[attr-defined]  # noqa: B018
