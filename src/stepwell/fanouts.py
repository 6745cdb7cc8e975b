"""The fan-outs of `Step`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Literal, TypeVar, Unpack, overload

from stepwell._engine.fanout import fan_out
from stepwell.facts import UNSET
from stepwell.items import Failures, ItemOptions, TakesItems

T = TypeVar("T")
A = TypeVar("A")


class FanOuts(TakesItems):
    """The verbs of async workflow code that run a body for each of many items."""

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
    ) -> Coroutine[Any, Any, list[T]]: ...

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
    ) -> Coroutine[Any, Any, list[T | BaseException]]: ...

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
    ) -> Coroutine[Any, Any, list[T]]: ...

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
    ) -> Coroutine[Any, Any, list[T | BaseException]]: ...

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
    ) -> Coroutine[Any, Any, list[T]]: ...

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
    ) -> Coroutine[Any, Any, list[T | BaseException]]: ...

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
    ) -> Coroutine[Any, Any, list[Any]]: ...

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
    ) -> Coroutine[Any, Any, list[Any]]:
        """Run `fn(item)` for each item, some at a time, and give the results in the order of the items.

        Each item is the step `name/0`, `name/1`, … and is recorded when it ends. When the execution continues after a
        crash only the missing items run. Inside, `current_step().index` is the item's index.

        Args:
            name: Names the fan-out within its scope.
            items: Any iterable with an order; it is read at once. A replay must come with the same number of items.
            fn: Takes one item. Async functions run in the event loop, others in threads.
            concurrency: How many items are in flight at most; the next one starts when one of them has been recorded.
            failures: With "raise" an item that is out of attempts lets no further item start; those in flight run to
                their end, and then its error is raised here. With "collect" all items run, and the errors stand in
                the places of their results.
            returns: The type of one result, if `fn` has no (good) return annotation.
            options: `retries`, `retry_delay`, `backoff`, `max_delay`, `retry_if`, `timeout`, `undo` and `executor` as in `run`,
                for each item.

        Raises:
            Exception: The error of the item that failed first; the same on every replay.
            ReplayMismatchError: The record has another number of items.
        """
        scope = self._scope("step.map")
        work = self._fan_out(
            "map", name, items, fn, options, failures=failures, returns=returns, concurrency=concurrency
        )
        return fan_out(scope, name, work)

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
    ) -> Coroutine[Any, Any, None]:
        """Run `fn(item)` for each item as `map` does, for its effects: what it returns is neither recorded nor given.

        With `failures="collect"` failed items are to be seen in the history only. An `undo` is called with None.
        """
        scope = self._scope("step.for_each")
        work = self._fan_out("for_each", name, items, fn, options, failures=failures, concurrency=concurrency)
        return fan_out(scope, name, work)

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
    ) -> Coroutine[Any, Any, list[T]]: ...

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
    ) -> Coroutine[Any, Any, list[T | BaseException]]: ...

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
    ) -> Coroutine[Any, Any, list[T]]: ...

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
    ) -> Coroutine[Any, Any, list[T | BaseException]]: ...

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
    ) -> Coroutine[Any, Any, list[T]]: ...

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
    ) -> Coroutine[Any, Any, list[T | BaseException]]: ...

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
    ) -> Coroutine[Any, Any, list[Any]]: ...

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
    ) -> Coroutine[Any, Any, list[Any]]:
        """Run `fn(slice)` for one slice of the items after the other, and give the list of what it returned.

        Each slice is the step `name/0`, `name/1`, …; all else as in `map`.

        Args:
            name: Names the fan-out within its scope.
            items: Any iterable with an order; it is read at once. A replay must come with the same number of items.
            fn: Takes a list of at most `batch_size` items.
            batch_size: How many items a slice has; the last may have fewer. A replay must come with the same size.
            failures: As in `map`, for slices.
            returns: The type of what `fn` returns for a slice, if it has no (good) return annotation.
            options: As in `map`, for each slice.
        """
        scope = self._scope("step.batch")
        work = self._fan_out(
            "batch", name, items, fn, options, failures=failures, returns=returns, batch_size=batch_size
        )
        return fan_out(scope, name, work)
