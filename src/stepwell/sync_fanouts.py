"""The fan-outs of `SyncStep`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Literal, TypeVar, Unpack, overload

from stepwell._engine.bridge import call_from_thread
from stepwell._engine.fanout import fan_out
from stepwell.facts import UNSET
from stepwell.items import Failures, ItemOptions, TakesItems

T = TypeVar("T")
A = TypeVar("A")


class SyncFanOuts(TakesItems):
    """The verbs of plain workflow code that run a body for each of many items; each call blocks its thread."""

    __slots__ = ()

    @overload
    def map(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[A], object],
        /,
        *,
        returns: type[T],
        failures: Literal["raise"] = ...,
        concurrency: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[T]: ...

    @overload
    def map(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[A], object],
        /,
        *,
        returns: type[T],
        failures: Failures,
        concurrency: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[T | BaseException]: ...

    @overload
    def map(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[A], Coroutine[Any, Any, T]],
        /,
        *,
        failures: Literal["raise"] = ...,
        concurrency: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[T]: ...

    @overload
    def map(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[A], Coroutine[Any, Any, T]],
        /,
        *,
        failures: Failures,
        concurrency: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[T | BaseException]: ...

    @overload
    def map(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[A], T],
        /,
        *,
        failures: Literal["raise"] = ...,
        concurrency: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[T]: ...

    @overload
    def map(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[A], T],
        /,
        *,
        failures: Failures,
        concurrency: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[T | BaseException]: ...

    @overload
    def map(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[A], object],
        /,
        *,
        returns: object,
        failures: Failures = ...,
        concurrency: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[Any]: ...

    def map(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[A], Any],
        /,
        *,
        concurrency: int = 10,
        failures: Failures = "raise",
        returns: object = UNSET,
        **options: Unpack[ItemOptions],
    ) -> list[Any]:
        """Run `fn(item)` for each item, some at a time, as `Step.map`; plain functions run in the threads of the pool."""
        scope = self._scope("step.map")
        work = self._fan_out(
            "map", name, items, fn, options, failures=failures, returns=returns, concurrency=concurrency
        )
        return call_from_thread("step.map", lambda _: fan_out(scope, name, work, inline=True))

    def for_each(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[A], object],
        /,
        *,
        concurrency: int = 10,
        failures: Failures = "raise",
        **options: Unpack[ItemOptions],
    ) -> None:
        """Run `fn(item)` for each item for its effects, as `Step.for_each`."""
        scope = self._scope("step.for_each")
        work = self._fan_out("for_each", name, items, fn, options, failures=failures, concurrency=concurrency)
        return call_from_thread("step.for_each", lambda _: fan_out(scope, name, work, inline=True))

    @overload
    def batch(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[list[A]], object],
        /,
        *,
        returns: type[T],
        failures: Literal["raise"] = ...,
        batch_size: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[T]: ...

    @overload
    def batch(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[list[A]], object],
        /,
        *,
        returns: type[T],
        failures: Failures,
        batch_size: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[T | BaseException]: ...

    @overload
    def batch(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[list[A]], Coroutine[Any, Any, T]],
        /,
        *,
        failures: Literal["raise"] = ...,
        batch_size: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[T]: ...

    @overload
    def batch(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[list[A]], Coroutine[Any, Any, T]],
        /,
        *,
        failures: Failures,
        batch_size: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[T | BaseException]: ...

    @overload
    def batch(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[list[A]], T],
        /,
        *,
        failures: Literal["raise"] = ...,
        batch_size: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[T]: ...

    @overload
    def batch(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[list[A]], T],
        /,
        *,
        failures: Failures,
        batch_size: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[T | BaseException]: ...

    @overload
    def batch(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[list[A]], object],
        /,
        *,
        returns: object,
        failures: Failures = ...,
        batch_size: int = ...,
        **options: Unpack[ItemOptions],
    ) -> list[Any]: ...

    def batch(
        self,
        name: str,
        items: Iterable[A],
        fn: Callable[[list[A]], Any],
        /,
        *,
        batch_size: int = 100,
        failures: Failures = "raise",
        returns: object = UNSET,
        **options: Unpack[ItemOptions],
    ) -> list[Any]:
        """Run `fn(slice)` for one slice of the items after the other, as `Step.batch`."""
        scope = self._scope("step.batch")
        work = self._fan_out(
            "batch", name, items, fn, options, failures=failures, returns=returns, batch_size=batch_size
        )
        return call_from_thread("step.batch", lambda _: fan_out(scope, name, work, inline=True))
