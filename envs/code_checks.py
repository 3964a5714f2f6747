"""What a test that is Python code does when it runs: what it calls, and whether it can fail at all."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

CHECK = "check"  # HumanEval's tests define it and leave the call to the harness
SOLUTION = "solution"  # the module from which tests of other data sets import the candidate
EXECUTORS = {"exec", "eval", "globals", "__import__"}  # may do anything, so nothing is said against them
_ASSERTS = re.compile(r"(?:assert|fail)[A-Z_]\w*|fail", re.ASCII)  # `assertEqual`, `assert_allclose`

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.lru_cache(maxsize=256)  # the tests of a row share their setup, and each is looked at several times
def parsed(code: str) -> ast.Module:
    """The syntax tree of `code`, to look at only. Raises SyntaxError and what else `compile` raises."""
    return ast.parse(code)


def functions_to_call(code: str, entry_point: str) -> list[str]:
    """The names of the functions that a harness calls after it has run `code`, each a test of its own.

    They are HumanEval's `check(candidate)`, and pytest's functions `test...`, unless the code calls them itself. An
    argument is the candidate where it is called `candidate` or as the entry point.

    Raises:
        ValueError: for a `test...` function with another argument, one that is a coroutine, and a class of tests.
    """
    tree = parsed(code)
    if not any(isinstance(node, Function | ast.ClassDef) for node in tree.body):
        return []
    reached = _Reached.of(tree, _definitions(code))
    functions = [node for node in tree.body if isinstance(node, Function) and node.name not in reached.names]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name not in reached.names and _holds_tests(node):
            raise ValueError(
                f"its test is the class {node.name!r}, which nobody calls: write asserts or functions test_..."
            )
    tests = [node for node in functions if node.name.startswith("test")]
    for node in tests:
        _check_callable(node, entry_point)
    checks = [node for node in functions if node.name == CHECK and len(node.args.args) == 1]
    return [node.name for node in (*checks, *tests)]


def why_it_never_fails(code: str, setup: str, entry_point: str, calls: Iterable[str]) -> str:
    """Why a candidate cannot fail this test, or "" where it may.

    A test may fail where it reaches an `assert` or a `raise`, or calls a function that by its name asserts, and where
    it uses the candidate. Functions and classes that nobody calls are not reached.
    """
    definitions = {**_definitions(setup), **_definitions(code)}
    reached = _Reached.of(parsed(code), definitions, calls)
    if not reached.may_fail:
        return "it asserts nothing: every response would pass"
    handed = any(_arguments(definitions[name]) for name in calls)  # the candidate is an argument
    if not handed and not reached.names & {entry_point, SOLUTION, *EXECUTORS}:
        return f"it never uses {entry_point!r}: every response would pass"
    return ""


@dataclass
class _Reached:
    """What the statements of a module reach when they run, through the functions and classes that they name."""

    definitions: dict[str, Function | ast.ClassDef]
    names: set[str] = field(default_factory=set)
    may_fail: bool = False

    @classmethod
    def of(
        cls, tree: ast.Module, definitions: dict[str, Function | ast.ClassDef], calls: Iterable[str] = ()
    ) -> _Reached:
        reached = cls(definitions)
        waiting: list[ast.AST] = [node for node in tree.body if not _is_main_guard(node)]
        reached._visit(waiting)
        for name in calls:
            reached._see(name)
        return reached

    def _visit(self, waiting: list[ast.AST]) -> None:
        while waiting:
            node = waiting.pop()
            waiting += _runs(node)
            if isinstance(node, ast.Raise) or (isinstance(node, ast.Assert) and not _is_always_true(node.test)):
                self.may_fail = True
            for name in _names(node):
                self._see(name)

    def _see(self, name: str) -> None:
        if name in self.names:
            return
        self.names.add(name)
        definition = self.definitions.get(name)
        if definition is not None:
            self._visit(_bodies(definition))
        elif name in EXECUTORS or _ASSERTS.fullmatch(name):  # somebody else's, whose body is not at hand
            self.may_fail = True


def _runs(node: ast.AST) -> Iterator[ast.AST]:
    """The children of a node that run when it does: the bodies of functions do not."""
    if isinstance(node, Function):
        yield from (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults))
    elif isinstance(node, ast.Assert):
        yield from (node.test, *([node.msg] if node.msg else []))
    else:
        yield from ast.iter_child_nodes(node)


def _bodies(definition: Function | ast.ClassDef) -> list[ast.AST]:
    """The statements that run when a function is called, or when a class and its methods are."""
    if isinstance(definition, Function):
        return list(definition.body)
    return [child for node in definition.body for child in (node.body if isinstance(node, Function) else [node])]


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.ImportFrom) and node.module == SOLUTION:
        yield SOLUTION


@functools.lru_cache(maxsize=256)
def _definitions(code: str) -> dict[str, Function | ast.ClassDef]:
    """The functions and classes by name, also those within others and in branches; the last of a name."""
    if "def" not in code and "class" not in code:
        return {}
    return {node.name: node for node in ast.walk(parsed(code)) if isinstance(node, Function | ast.ClassDef)}


def _is_always_true(test: ast.expr) -> bool:
    """True for `assert True` and for `assert (x == 1, "message")`, which asserts that a pair is not empty."""
    return bool(isinstance(test, ast.Constant) and test.value) or bool(isinstance(test, ast.Tuple) and test.elts)


def _is_main_guard(node: ast.AST) -> bool:
    """True for `if __name__ == "__main__":`, whose body does not run here."""
    return isinstance(node, ast.If) and "__name__" in ast.dump(node.test) and "__main__" in ast.dump(node.test)


def _holds_tests(node: ast.ClassDef) -> bool:
    return any(isinstance(item, Function) and item.name.startswith("test") for item in node.body)


def _arguments(definition: Function | ast.ClassDef) -> list[str]:
    if isinstance(definition, ast.ClassDef):
        return []
    required = definition.args.args[: len(definition.args.args) - len(definition.args.defaults)]
    return [argument.arg for argument in required]


def _check_callable(node: Function, entry_point: str) -> None:
    if isinstance(node, ast.AsyncFunctionDef):
        raise ValueError(f"its test {node.name!r} is a coroutine, which nobody awaits: write `def {node.name}()`")
    for name in _arguments(node):
        if name not in ("candidate", entry_point):
            raise ValueError(
                f"its test {node.name!r} takes {name!r}, which nobody gives: fixtures and parameters of pytest are not "
                f"at hand; the only argument is the candidate, `candidate` or {entry_point!r}"
            )
