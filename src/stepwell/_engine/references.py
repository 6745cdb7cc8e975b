"""The functions that the code of a workflow refers to, by name.

A recorded name must never decide what is called: whoever can write to the database could then call anything. So names are
looked up only among functions that the code itself mentions. Nothing is imported.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from stepwell._engine.undo import dotted_name

_LIMIT: Final = 10_000


def functions_mentioned_by(roots: Iterable[Callable[..., Any]]) -> dict[str, FunctionType]:
    """The functions of modules and classes that these mention, directly or through functions of their own packages."""
    search = _Search()
    for root in roots:
        for fn in _plain(root):
            search.packages.add(_package(fn))
            search.waiting.append(fn)
    search.run()
    return {name: fn for name, fn in search.found.items() if fn is not None}


class _Search:
    def __init__(self) -> None:
        self.packages: set[str] = set()
        self.waiting: list[FunctionType] = []
        self.found: dict[str, FunctionType | None] = {}
        """None where several functions have one name."""
        self._seen: set[int] = set()

    def run(self) -> None:
        while self.waiting and len(self._seen) < _LIMIT:
            fn = self.waiting.pop()
            if id(fn) not in self._seen:
                self._seen.add(id(fn))
                self._read(fn)

    def _read(self, fn: FunctionType) -> None:
        names = set(_names(fn.__code__))
        for name in names:
            self._meet(fn.__globals__.get(name, sys.modules.get(name)), names)
        for cell in fn.__closure__ or ():
            try:
                self._meet(cell.cell_contents, names)
            except ValueError:  # not filled yet
                continue

    def _meet(self, value: object, names: set[str], depth: int = 0) -> None:
        if isinstance(value, staticmethod):
            value = value.__func__
        if isinstance(value, FunctionType):
            self._add(value)
        elif isinstance(value, functools.partial):
            self._meet(value.func, names, depth)
        elif isinstance(value, ModuleType | type) and depth < 4:
            members = vars(value)
            for name in names & members.keys():
                self._meet(members[name], names, depth + 1)

    def _add(self, fn: FunctionType) -> None:
        name = dotted_name(fn)
        if name is not None and self.found.setdefault(name, fn) is not fn:
            self.found[name] = None
        for plain in _plain(fn):
            if _package(plain) in self.packages:
                self.waiting.append(plain)


def _plain(fn: Any) -> Iterator[FunctionType]:
    """The function and those that it wraps."""
    for _ in range(20):
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif inspect.ismethod(fn):
            fn = fn.__func__
        elif isinstance(fn, FunctionType):
            yield fn
            fn = getattr(fn, "__wrapped__", None)
        elif isinstance(method := inspect.getattr_static(fn, "__call__", None), FunctionType) and not isinstance(
            fn, type
        ):
            fn = method
        else:
            return


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _package(fn: FunctionType) -> str:
    return fn.__module__.partition(".")[0]
