"""Functions are found among those that code mentions, and nowhere else."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from stepwell._engine.references import functions_mentioned_by


def target() -> None: ...


def other() -> None: ...


class Bank:
    @staticmethod
    def refund() -> None: ...

    def method(self) -> None: ...

    @staticmethod
    def audit() -> None: ...


def direct() -> None:
    target()


def through_another() -> None:
    direct()


def in_an_inner_function() -> Callable[[], object]:
    async def inner() -> None:
        target()

    return inner


def in_a_lambda() -> Callable[[], object]:
    return lambda: target()


def decorated_with(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        return fn(*args)

    return wrapper


@decorated_with
def decorated() -> None:
    target()


class Callee:
    def __call__(self) -> None:
        target()

    def bound(self) -> None:
        target()


def of_a_class() -> None:
    Bank.refund()


def of_a_module() -> None:
    shutil.disk_usage(".")


def with_a_local_import() -> None:
    import shutil

    shutil.disk_usage(".")


TARGET = f"{__name__}:target"


@pytest.mark.parametrize(
    "root",
    [
        direct,
        through_another,
        in_an_inner_function,
        in_a_lambda,
        decorated,
        functools.partial(direct),
        Callee(),
        Callee().bound,
    ],
    ids=lambda root: getattr(root, "__name__", type(root).__name__),
)
def test_finds_what_code_mentions(root: Callable[..., Any]) -> None:
    found = functions_mentioned_by([root])

    assert found[TARGET] is target
    assert f"{__name__}:other" not in found


def test_finds_functions_of_classes_and_modules_by_their_mentioned_names() -> None:
    assert set(functions_mentioned_by([of_a_class])) == {f"{__name__}:Bank.refund"}
    for root in (of_a_module, with_a_local_import):
        assert set(functions_mentioned_by([root])) == {"shutil:disk_usage"}


def test_does_not_read_the_code_of_foreign_packages() -> None:
    """`disk_usage` is mentioned; what the rest of `shutil` could do is not."""
    assert "shutil:rmtree" not in functions_mentioned_by([of_a_module])
