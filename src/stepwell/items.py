"""What the fan-outs take: items, and the options of each item's body."""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, TypedDict, cast

from msgspec.structs import replace

from stepwell._engine.fanout import DISCARDED, FanOut, Shape
from stepwell.duration import Duration
from stepwell.errors import InvalidInputError
from stepwell.facts import UNSET, Facts
from stepwell.retry import Backoff, RetryPolicy

Failures: TypeAlias = Literal["raise", "collect"]
"""What a failed item does: fail the whole, or stand in the result."""


class ItemOptions(TypedDict, total=False):
    """Options of `step.run` that a fan-out takes for each of its items."""

    retries: int | RetryPolicy | None
    retry_delay: Duration | None
    backoff: Backoff | None
    max_delay: Duration | None
    retry_if: Callable[[Exception], bool] | None
    timeout: Duration | None
    undo: Callable[[Any], object] | None
    executor: Literal["thread", "process"] | concurrent.futures.Executor | None


_DEFAULTS: Final[ItemOptions] = {
    "retries": None,
    "retry_delay": None,
    "backoff": None,
    "max_delay": None,
    "retry_if": None,
    "timeout": None,
    "undo": None,
    "executor": None,
}


class TakesItems(Facts):
    """What both kinds of step share of the fan-outs."""

    __slots__ = ()

    def _fan_out(
        self,
        kind: Literal["map", "for_each", "batch"],
        name: str,
        items: object,
        fn: Callable[..., Any],
        options: ItemOptions,
        *,
        failures: Failures,
        returns: object = UNSET,
        concurrency: int = 1,
        batch_size: int | None = None,
    ) -> FanOut:
        what = f"step.{kind}"
        options = _all_options(what, options)
        _checked_size("concurrency", concurrency)
        size = None if batch_size is None else _checked_size("batch_size", batch_size)
        tolerant = _collects(failures)
        units = _listed(what, items)
        shape = Shape(len(units), concurrency, size)
        each = self._body(what, name, fn, (units,), input=UNSET, returns=returns, **options)
        if kind == "for_each":
            each.codec = DISCARDED
            if each.undo is not None:
                each.undo = replace(each.undo, codec=DISCARDED, name=None)
        if size is not None:
            units = [units[start : start + size] for start in range(0, len(units), size)]
        return FanOut(kind, each, units, shape, collects=tolerant)


def _all_options(what: str, options: ItemOptions) -> ItemOptions:
    """The options with what was not given."""
    unknown = ", ".join(sorted(options.keys() - _DEFAULTS.keys()))
    if unknown:
        known = ", ".join(_DEFAULTS)
        raise TypeError(f"{what}() got unknown options: {unknown} (known for each item: {known}).")
    return {**_DEFAULTS, **options}


def _listed(what: str, items: object) -> list[Any]:
    """The items in their order, which every replay must repeat."""
    advice = None
    if isinstance(items, str | bytes | bytearray | memoryview):
        advice = "Wrap it in a list, or pass list(…) to take it apart"
    elif isinstance(items, Mapping):
        advice = "Pass list(mapping.items()), or its keys or values"
    elif isinstance(items, set | frozenset):
        advice = "A set has another order in each process; pass sorted(…)"
    elif isinstance(items, AsyncIterable):
        advice = "Collect what it gives in a step of its own, and pass the list"
    elif not isinstance(items, Iterable):
        advice = "Pass a list"
    if advice is not None:
        shown = ascii(cast("object", items))
        shown = shown if len(shown) <= 120 else f"{shown[:117]}..."
        raise InvalidInputError(f"The items of {what} must be an iterable such as a list, got {shown}. {advice}.")
    return list(cast("Iterable[Any]", items))


def _checked_size(option: str, value: object) -> int:
    """A `concurrency` or a `batch_size`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInputError(f"{option} must be a whole number, 1 or more, got {value!r}.")
    return value


def _collects(failures: object) -> bool:
    """Whether failed items stand in the result."""
    if failures not in ("raise", "collect"):
        raise InvalidInputError(f"failures must be 'raise' or 'collect', got {failures!r}.")
    return failures == "collect"
