'''Options of environments: typed dataclasses, filled from the flat keyword arguments of `gymnasium.make` and YAML.

An environment names its options once, and its constructor receives them as one object:

    @dataclass(frozen=True, kw_only=True)
    class MyOptions(VerifierOptions, RowOptions):
        """What `my/Env-v0` takes."""

        bonus: float = 0.0
        """Added to the reward of a short response."""

    class MyEnv(SingleTurnEnv):
        @takes(MyOptions)
        def __init__(self, options: MyOptions) -> None: ...

    MyEnv("problems.jsonl", bonus=0.5)

The string below a field is its documentation. `tgpo-ray env show --arguments` and `docs/environments.md` print it.
'''

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Concatenate, ParamSpec, TypeVar

from .hints import nearest

P = ParamSpec("P")
EnvT = TypeVar("EnvT")
OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True)
class Options:
    """Base of all groups of options. An environment's options inherit from the groups that it takes.

    Dataclasses list the fields of the last base first. So the groups are named in reverse order of their appearance in
    the signature: `class MathOptions(VerifierOptions, PromptOptions, RowOptions)` begins with the rows.
    """

    def __post_init__(self) -> None:
        """Checks the values. A group's own check calls `super().__post_init__()`, which checks the other groups."""

    def arguments(self, group: type[Options] | None = None) -> dict[str, Any]:
        """The values by name, as flat keyword arguments. With `group`, only those of that group."""
        return {option.name: getattr(self, option.name) for option in fields(group or self)}

    @classmethod
    def texts(cls) -> dict[str, str]:
        """The documentation of each option by name, in the order of the signature.

        It is read from the source, as Python drops strings below fields. Without the source the texts are empty.
        """
        texts: dict[str, str] = {}
        for group in reversed(cls.__mro__):  # bases first, so that the text of a field declared again replaces theirs
            if issubclass(group, Options):
                texts |= _field_texts(group)
        return {option.name: texts.get(option.name, "") for option in fields(cls)}


def takes(
    options: Callable[P, OptionsT],
) -> Callable[[Callable[[EnvT, OptionsT], None]], Callable[Concatenate[EnvT, P], None]]:
    """Decorates `__init__(self, options)` so that callers pass the fields of `options` as flat arguments.

    `inspect.signature` of the environment shows these arguments, and type checkers know them.

    Raises:
        TypeError: from the decorated constructor, for an unknown argument (it names the nearest) or a missing one.
    """
    # Without a first parameter `self`, `inspect` would take the first option for it and hide it.
    signature = inspect.signature(options)
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY), *signature.parameters.values()]

    def decorate(init: Callable[[EnvT, OptionsT], None]) -> Callable[Concatenate[EnvT, P], None]:
        @functools.wraps(init)
        def filled(self: EnvT, *args: P.args, **kwargs: P.kwargs) -> None:
            for name in kwargs:
                if name not in signature.parameters:
                    hint = nearest(name, signature.parameters)
                    raise TypeError(
                        f"{type(self).__name__}.__init__() got an unexpected keyword argument '{name}'{hint}"
                    )
            init(self, options(*args, **kwargs))

        filled.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        filled.options = options  # pyright: ignore[reportAttributeAccessIssue]
        return filled

    return decorate


def options_of(env_class: type) -> type[Options] | None:
    """The options that an environment's constructor takes, or None where it takes plain arguments."""
    return getattr(env_class.__init__, "options", None)


def _field_texts(group: type[Options]) -> dict[str, str]:
    """The string below each field in the source of one class; lines are joined."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(group)))
    except (OSError, TypeError):  # no source, as in a frozen application or an interactive session
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    texts: dict[str, str] = {}
    for statement, below in pairwise(body):
        match statement, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                texts[name] = " ".join(text.split())
    return texts
