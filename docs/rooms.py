"""The rooms of the package, floor by floor, and what the imports of every file say about them.

Read by tests/core/test_layout.py, which holds the rules, and by docs/draw_rooms.py, which draws the picture.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tgpo_ray"

# From the top. A room imports only from floors below its own, and rooms on one floor do not know each other.
FLOORS: tuple[dict[str, str], ...] = (
    {"cli": "the command `tgpo-ray`, a file for each command"},
    {
        "train": "`python -m tgpo_ray.train`",
        "studies": "variants times seeds of a run on Ray Tune, and the page that compares them",
        "__init__": "the names that users import from `tgpo_ray`",
    },
    {
        "driver": "the stages of an iteration and of a run, one after the other",
        "suites": "models on evaluation sets: answers that are kept, and a table with intervals",
    },
    {"checks": "what can be known to be wrong before a run: environments, files, running actors"},
    {"env_runners": "vLLM engines with environments, which answer tasks with groups of episodes"},
    {
        "teachers": "read what the policy wrote, and say at every position what they would have written",
        "learners": "Ray Train ranks that hold weights and optimizer, behind one `LearnerGroup`",
    },
    {
        "cluster": "joining Ray, starting and ending actors, folders and URIs",
        "costs": "what a run would need and where it would wait, from a card's data sheet, without Ray",
    },
    {"config": "strict YAML, the builder over the same models, the rules between keys"},
    {
        "reporting": "metrics with their writers, the progress line, the HTML report",
        "guidance": "guidance for any environment and any RL trainer; needs only torch",
    },
    {
        "episode": "what one answer to one problem leaves behind",
        "models": "model folders, their loading, vLLM's engine around them",
    },
    {"kernels": "the loss and its gradient without a tokens-by-vocabulary tensor; needs only torch"},
)

# Beside the rooms: real folders at the top of the repository, and links in the package.
GUESTS: dict[str, str] = {
    "envs": "environments and verifiers; import no room, found by id",
    "algorithms": "a short file for each method; stand on the rooms, found by import path",
}

# A name in a string is an import that no type checker sees. From one room to another it needs a reason.
NAMED_IN_STRINGS: dict[tuple[str, str], str] = {
    ("driver", "train"): "a trial of Ray Tune starts `python -m tgpo_ray.train` as a process of its own",
    ("studies", "cli"): "a study's `prepare` runs commands of this installation's `tgpo-ray`",
    ("config", "driver"): "`config.trainable()` is a door to a module that stands on the configuration",
}


def floor_of(room: str) -> int:
    """The room's floor, 0 at the top."""
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def rooms() -> list[str]:
    return [room for floor in FLOORS for room in floor]


def sign_of(room: str) -> str:
    """The room as it stands in the tree: `driver/`, `train.py`."""
    return f"{room}/" if room in GUESTS or (ROOT / PACKAGE / room).is_dir() else f"{room}.py"


def door_of(room: str) -> Path:
    """The file whose names other rooms may import."""
    folder = ROOT / PACKAGE / room
    return folder / "__init__.py" if folder.is_dir() else ROOT / PACKAGE / f"{room}.py"


def files_of(room: str) -> list[Path]:
    folder = ROOT / room if room in GUESTS else ROOT / PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [door_of(room)]


@dataclass(frozen=True)
class Import:
    """`from module import names`, or `import module` with no names; the module's name is absolute."""

    file: Path
    line: int
    module: str
    names: tuple[str, ...] = ()
    relative: bool = False
    in_function: bool = False  # executed when the function is called
    for_types: bool = False  # under `if TYPE_CHECKING`, never executed

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT).as_posix()}:{self.line}: {self.module} {', '.join(self.names)}".rstrip()

    @property
    def rooms(self) -> set[str]:
        """The rooms that it reaches: `from tgpo_ray import config` reaches `config`."""
        package, _, rest = self.module.partition(".")
        if package != PACKAGE:
            return set()
        if rest:
            return {rest.partition(".")[0]}
        known = {*rooms(), *GUESTS}
        return {name if name in known else "__init__" for name in self.names or ("__init__",)}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_of(path: Path) -> str:
    """The dotted name of a file: `tgpo_ray.envs.base` for `envs/base.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = (PACKAGE, *parts) if parts[0] in GUESTS else parts
    return ".".join(parts).removesuffix(".__init__")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    """Every import of a file, wherever in it."""
    return tuple(_imports(path, tree_of(path).body, in_function=False, for_types=False))


def _imports(path: Path, nodes: Iterable[ast.AST], *, in_function: bool, for_types: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name, in_function=in_function, for_types=for_types)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            yield Import(path, node.lineno, _absolute(path, node), names, node.level > 0, in_function, for_types)
        else:
            inner = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            types = for_types or is_type_checking(node)
            yield from _imports(path, ast.iter_child_nodes(node), in_function=inner, for_types=types)


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    package = module_of(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def room_of(path: Path) -> str:
    """The room, or the guest, that a file is in; of other files their top folder."""
    parts = path.relative_to(ROOT).parts
    return parts[1].removesuffix(".py") if parts[0] == PACKAGE else parts[0]


def imports_between(room: str) -> list[Import]:
    """The imports by which a room (or a guest) reaches others, those for types included: an arrow is an arrow."""
    return [found for path in files_of(room) for found in imports_of(path) if found.rooms - {room}]


def room_arrows() -> Counter[tuple[str, str]]:
    """(room, room that it imports) -> number of import statements; guests import, and nobody imports them."""
    arrows: Counter[tuple[str, str]] = Counter()
    for room in (*rooms(), *GUESTS):
        for found in imports_between(room):
            arrows.update((room, other) for other in found.rooms - {room})
    return arrows


def strings_between(room: str) -> set[tuple[str, str]]:
    """(another room, string) for each string of a room that names something in another: `tgpo_ray.driver:fit`."""
    constants = {
        node.value
        for path in files_of(room)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    pattern = re.compile(rf"{PACKAGE}\.(\w+)(\.\w+)*(:\w+)?")
    found = {(match[1], match[0]) for match in map(pattern.fullmatch, constants) if match}
    return {(other, text) for other, text in found if other in rooms() and other != room}


def file_arrows(room: str) -> dict[str, set[str]]:
    """file -> files of the same room that it imports when it runs, inside functions too; names are modules'.

    A door lists under TYPE_CHECKING what it imports on first use, so that these count.
    """
    modules = {module_of(path): path for path in files_of(room)}
    arrows: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for found in imports_of(path):
            if found.for_types and path.name != "__init__.py":
                continue
            inner = {f"{found.module}.{imported}" for imported in found.names}
            targets = inner & modules.keys()
            if len(targets) < max(1, len(inner)) and found.module in modules:
                targets |= {found.module}
            arrows[name] |= targets
    return arrows


def circle_in(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """One circle, its first element repeated at the end; empty where there is none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def imported_by_door(path: Path) -> dict[str, set[str]]:
    """module inside the package -> names, as a door imports them for type checkers (or at once, where it is cheap)."""
    package = module_of(path)
    found = [item for item in imports_of(path) if item.module.startswith(f"{package}.")]
    return {item.module.removeprefix(f"{package}."): set(item.names) for item in found}


def listed_by_door(path: Path) -> dict[str, set[str]] | set[str]:
    """What a door gives out: `submod_attrs` of `lazy_loader.attach`, or the names in `__all__`."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.keyword) and node.arg == "submod_attrs":
            return {module: set(names) for module, names in ast.literal_eval(node.value).items()}
    for node in tree_of(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def given_out(room: str, name: str) -> bool:
    """Whether others may import the name from the room: its door lists it, or the room is a file and it is public."""
    path = door_of(room)
    if path.name != "__init__.py":
        return not name.startswith("_")
    listed = listed_by_door(path)
    return name in (set().union(*listed.values()) if isinstance(listed, dict) else listed)
