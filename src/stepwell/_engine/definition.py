"""A workflow as the engine sees it: a function, what it takes, how its values are stored, and its options."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, NamedTuple

from stepwell._keys import secret_keys
from stepwell.codec import Codec, codec_for, names_secrets
from stepwell.errors import ConfigError, InvalidInputError, SecretKeyError
from stepwell.retry import RetryPolicy

NO_INPUT: Final = "null"
"""What is stored as the input of a workflow that takes none."""


class Arguments(NamedTuple):
    """How a user function is called."""

    args: tuple[object, ...]
    kwargs: dict[str, object]


class Options(NamedTuple):
    """Options of `@app.workflow`; None is unset."""

    policy: RetryPolicy | None = None
    timeout: int | None = None
    version: str | None = None
    tags: tuple[str, ...] = ()
    retention: int | None = None


class Definition:
    """A registered workflow function. Annotations are resolved at first use, so that they may name later classes."""

    def __init__(self, name: str, function: Callable[..., Any], options: Options) -> None:
        self.name = name
        self.function = function
        self.options = options
        self.is_async = inspect.iscoroutinefunction(function)
        self.on_error: Callable[..., Any] | None = None
        self.input_name, self.takes_env = _shape(function, name, {1: None, 2: 1}, "(step) or (step, input)")
        self._error_takes_input = False
        self._error_takes_env = False

    @property
    def takes_input(self) -> bool:
        return self.input_name is not None

    def set_on_error(self, handler: Callable[..., Any]) -> None:
        """Register the function that cleans up after a failed run."""
        if self.on_error is not None:
            raise InvalidInputError(f"Workflow {self.name!r} has an on_error function already: {self.on_error!r}.")
        input_name, self._error_takes_env = _shape(
            handler, f"{self.name}.on_error", {2: None, 3: 1}, "(step, error) or (step, input, error)"
        )
        self._error_takes_input = input_name is not None
        self.on_error = handler

    @cached_property
    def input_codec(self) -> Codec:
        """How inputs are checked, stored and restored."""
        if self.input_name is None:
            return codec_for(None)
        return codec_for(self._hints.get(self.input_name, Any))

    @cached_property
    def output_codec(self) -> Codec:
        """How outputs are stored and restored."""
        return codec_for(self._hints.get("return", Any))

    @cached_property
    def input_type(self) -> object:
        return None if self.input_name is None else self._hints.get(self.input_name, Any)

    @cached_property
    def output_type(self) -> object:
        return self._hints.get("return", Any)

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return resolved_hints(self.function)

    def check_secrets(self) -> None:
        """Refuse a workflow that takes or gives secrets when there is no key, as far as its annotations can be resolved.

        Raises:
            ConfigError: It does, and there is none.
        """
        hints = resolved_hints(self.function)
        if names_secrets([hints[name] for name in (self.input_name, "return") if name in hints]):
            try:
                secret_keys()
            except SecretKeyError as error:
                raise ConfigError(f"Workflow {self.name!r} uses Secret. {error}") from error

    @cached_property
    def _uses_secrets(self) -> bool:
        return self.input_codec.has_secrets or self.output_codec.has_secrets

    def check_keys(self) -> None:
        """Make sure, before anything runs, that the secrets of this workflow can be stored.

        Raises:
            SecretKeyError: They cannot.
        """
        if self._uses_secrets:
            secret_keys()

    def arguments(self, step: object, input: str, env: object) -> Arguments:
        """The arguments of the workflow function.

        Raises:
            SecretKeyError: A secret cannot be read, or one that comes out later could not be stored.
        """
        self.check_keys()
        args = (step, self.input_codec.decode(input)) if self.takes_input else (step,)
        return Arguments(args, {"env": env} if self.takes_env else {})

    def error_arguments(self, step: object, input: str, error: BaseException, env: object) -> Arguments:
        """The arguments of the on_error function."""
        middle = (self.input_codec.decode(input) if self.takes_input else None,) if self._error_takes_input else ()
        return Arguments((step, *middle, error), {"env": env} if self._error_takes_env else {})


def _shape(
    function: Callable[..., Any], name: str, shapes: dict[int, int | None], allowed: str
) -> tuple[str | None, bool]:
    """The name of the input parameter, if there is one, and whether `env` is taken."""
    if not callable(function):
        raise InvalidInputError(f"{name!r} must be a function, got {function!r}.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidInputError(
            f"{name!r} yields, so calling it would run none of its code. Return a value; for values on the way there is step.emit."
        )
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    others = [p for p in parameters if p not in positional]
    wanted = f"{name!r} must take {allowed}, and optionally a keyword-only env"
    if len(positional) not in shapes or [p.name for p in others] not in ([], ["env"]):
        raise InvalidInputError(f"{wanted}; it takes {inspect.signature(function)}.")
    if others and others[0].kind is not inspect.Parameter.KEYWORD_ONLY:
        raise InvalidInputError(f"{wanted}; it takes {inspect.signature(function)}.")
    for parameter in positional:
        if parameter.default is not parameter.empty:
            raise InvalidInputError(
                f"Parameter {parameter.name!r} of {name!r} has a default. Take it out: the input is stored with each execution, so a default would change what a replay sees."
            )
    index = shapes[len(positional)]
    return (None if index is None else positional[index].name), bool(others)


def resolved_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function as objects; names of enclosing functions are found through its closure."""
    function = inspect.unwrap(function)
    try:
        nonlocals: dict[str, Any] = dict(inspect.getclosurevars(function).nonlocals)
    except (TypeError, ValueError):
        nonlocals = {}
    try:
        return typing.get_type_hints(function, localns=nonlocals)
    except Exception:
        hints = dict(getattr(function, "__annotations__", {}))
        return {name: _resolved_alone(function, hint, nonlocals) for name, hint in hints.items()}


def _resolved_alone(function: Callable[..., Any], hint: Any, nonlocals: dict[str, Any]) -> Any:
    probe: Any = type("probe", (), {"__annotations__": {"hint": hint}})
    try:
        return typing.get_type_hints(probe, getattr(function, "__globals__", {}), nonlocals)["hint"]
    except Exception:
        return Any
