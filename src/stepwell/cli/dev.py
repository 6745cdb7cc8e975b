"""`stepwell dev`: a worker that starts again when the code changes.

This process only watches; the worker is a child, so that code which cannot be imported does no harm here. In-flight
executions are no concern of ours: the old worker gives them back, the new one goes on with them.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import FrameType
from typing import Final

import click
from watchfiles import PythonFilter, watch

from stepwell.cli.child import Child
from stepwell.cli.console import say
from stepwell.cli.target import Target, target_options
from stepwell.config.load import FILE, PYPROJECT, load_config
from stepwell.config.model import APP_FORM, is_app_spec
from stepwell.errors import ConfigError

LOOK_MS: Final = 200
"""How often we look after the child while no file changes."""
SHOWN: Final = 3


@click.command()
@target_options
@click.pass_obj
def dev(target: Target, /) -> None:
    """Run a worker and start it again when the source files of the app change.

    Executions that are in flight go on in the new worker. Code that cannot be imported is reported, and the next change
    tries again. Ctrl-C ends both.
    """
    config = load_config()
    spec = target.app or config.app
    if spec is None or not is_app_spec(spec):
        raise ConfigError(f"Which app? Give --app {APP_FORM}, or write app = … into {FILE}; got {spec!r}.")
    folders = _folders(spec, [config.root, Path.cwd()])
    say(f"watching {', '.join(map(str, folders))}")
    stop = _stop_on_signals()
    child = Child(_command(spec, target.database))
    child.start()
    try:
        _reload_on_change(child, folders, stop)
    finally:
        child.stop()


def _reload_on_change(child: Child, folders: Sequence[Path], stop: threading.Event) -> None:
    changes = watch(
        *folders,
        watch_filter=PythonFilter(extra_extensions=(FILE, PYPROJECT)),
        debounce=200,
        stop_event=stop,
        rust_timeout=LOOK_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    for changed in changes:
        if changed:
            say(f"changed: {_names(path for _, path in changed)}; starting again")
            child.stop()
            child.start()
        elif (code := child.ended()) is not None:
            say(f"the worker has ended with exit code {code}; waiting for a change")


def _command(spec: str, database: str | None) -> list[str]:
    command = [sys.executable, "-m", "stepwell", "worker", "--app", spec, "--drain-timeout", "2 seconds"]
    return command if database is None else [*command, "--database", database]


def _folders(spec: str, roots: Sequence[Path]) -> list[Path]:
    """Where the app's module is, without importing it, and the folders that it is searched in."""
    name = spec.partition(":")[0].partition(".")[0]
    found = PathFinder.find_spec(name, [*map(str, roots), *sys.path])
    folders = [roots[0]]
    if found is not None:
        folders += [Path(place).resolve() for place in found.submodule_search_locations or ()]
        folders += [Path(found.origin).resolve().parent] if found.origin is not None else []
    return _outermost(folders)


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Without those that are inside others."""
    distinct = list(dict.fromkeys(folders))
    return [folder for folder in distinct if not any(other in folder.parents for other in distinct)]


def _names(paths: Iterable[str]) -> str:
    names = sorted({Path(path).name for path in paths})
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def heard(number: int, _: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, heard)
    signal.signal(signal.SIGINT, heard)
    return stop
