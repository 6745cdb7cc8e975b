"""What the package promises: the names in `__all__`, each of them documented."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import stepwell
import stepwell.testing
from stepwell.clock import Clock

SOURCES = Path(stepwell.__file__).parents[1]
MODULES = [stepwell, stepwell.testing]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_all_is_exactly_what_is_importable(module: ModuleType) -> None:
    submodules = {path.stem for path in Path(str(module.__file__)).parent.iterdir()}
    public = {name for name in dir(module) if name.isidentifier() and not name.startswith("_")}

    assert list(module.__all__) == sorted(set(module.__all__))
    assert public - submodules <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("name", ["Workflows", "charge"])
def test_a_name_that_is_not_there_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
        getattr(stepwell, name)


def test_every_error_of_the_design_is_exported() -> None:
    defined = {
        name for name, value in vars(stepwell.errors).items() if inspect.isclass(value) and issubclass(value, Exception)
    }

    assert defined <= set(stepwell.__all__)


def public_things() -> Iterator[tuple[str, object]]:
    """Classes and functions that users import, and the classes' public methods (a clock's stand in its protocol)."""
    for module in MODULES:
        for name in module.__all__:
            thing: Any = getattr(module, name)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            yield f"{module.__name__}.{name}", thing
            for attribute, value in vars(thing).items():
                function = value.fget if isinstance(value, property) else value
                if not attribute.startswith("_") and inspect.isfunction(function) and not hasattr(Clock, attribute):
                    yield f"{module.__name__}.{name}.{attribute}", function


@pytest.mark.parametrize(
    ("name", "thing"), list(public_things()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_everything_public_has_a_docstring(name: str, thing: object) -> None:
    documentation = thing.__doc__

    assert documentation is not None
    assert not documentation.startswith(f"{name.rpartition('.')[2]}("), (
        "dataclasses document themselves with their signature"
    )
    assert documentation.strip().splitlines()[0].rstrip().endswith((".", ":", "…"))


def test_no_public_name_shows_its_private_home() -> None:
    homes = {
        name: getattr(stepwell, name).__module__
        for name in stepwell.__all__
        if inspect.isclass(getattr(stepwell, name))
    }

    assert not {name: home for name, home in homes.items() if "._" in home}


def test_the_types_are_announced() -> None:
    assert (SOURCES / "stepwell/py.typed").exists()


@pytest.mark.parametrize("name", ["cryptography", "pydantic", "rich", "click", "watchfiles", "pytest"])
def test_importing_stepwell_does_not_import(name: str) -> None:
    script = f"import sys, stepwell, stepwell.testing.plugin as p; print({name!r} in sys.modules)"
    if name == "pytest":
        script = f"import sys, stepwell; print({name!r} in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCES)}, capture_output=True, text=True, check=True
    )

    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "name", ["app", "workflow", "step", "execution", "errors", "types", "retry", "secret", "clock", "testing.plugin"]
)
def test_public_modules_can_be_imported_alone(name: str) -> None:
    assert importlib.import_module(f"stepwell.{name}").__doc__
