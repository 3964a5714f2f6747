"""Stand-ins for libraries that a bare machine lacks and that its parts of the kit import but never use."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

UNUSED = ("ray", "ray.exceptions", "pyarrow", "pyarrow.fs")


def fill_in_absent(names: Sequence[str] = UNUSED) -> list[str]:
    """Returns the names of the libraries that are not there, after making their import succeed.

    The package's doors need `lazy_loader`, of which `attach` is all that they use. A name of another absent library is
    an exception class that nobody raises: code may mention it, catch it and compare types with it.
    """
    absent = [name for name in names if not _is_there(name)]
    for name in absent:
        sys.modules[name] = _Unused(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    if not _is_there("lazy_loader"):
        loader: Any = ModuleType("lazy_loader")
        loader.attach = attach
        sys.modules["lazy_loader"] = loader
        absent.append("lazy_loader")
    return absent


def _is_there(name: str) -> bool:
    if name in sys.modules:
        return not isinstance(sys.modules[name], _Unused)
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


class _Unused(ModuleType):
    """A module whose names are exception classes. Ray is never running in it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = ModuleSpec(name, None)  # other libraries look whether it is there

    @staticmethod
    def is_initialized() -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, type(name, (Exception,), {"__class_getitem__": lambda cls, _: cls}))
        return getattr(self, name)


class _Door(ModuleType):
    """A package whose names are not hidden by modules of the same names, which an import puts there."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in self.__dict__["given_out"]):
            super().__setattr__(name, value)


def attach(
    package: str, submodules: Sequence[str] = (), submod_attrs: Mapping[str, Sequence[str]] | None = None
) -> Any:
    """Returns (`__getattr__`, `__dir__`, `__all__`) of a package whose names are imported when they are first used."""
    places = {name: module for module, names in (submod_attrs or {}).items() for name in names}
    names = sorted({*places, *submodules})
    sys.modules[package].__dict__["given_out"] = frozenset(places)
    sys.modules[package].__class__ = _Door

    def get(name: str) -> Any:
        if name in places:
            return getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        if name in submodules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"no {name} in {package}")

    return get, lambda: names, names
