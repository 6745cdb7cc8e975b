"""From `module:attribute` to an App, with errors that say what to do."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from stepwell import App, Workflow
from stepwell.cli.exits import WorkflowNotFoundError
from stepwell.cli.target import Target
from stepwell.cli.text import did_you_mean
from stepwell.config.load import load_config
from stepwell.config.model import APP_FORM, Config, is_app_spec
from stepwell.errors import ConfigError, StoreUnavailableError


def app_of(target: Target) -> App:
    """The app that the flags or the configuration name.

    Raises:
        ConfigError: None is named, or it cannot be imported.
    """
    config = load_config()
    spec = target.app or config.app
    if spec is None:
        raise ConfigError(f"Which app? Give --app {APP_FORM}, set STEPWELL_APP, or write app = … into stepwell.toml.")
    app = load_app(spec, config)
    if target.database is not None:
        app.use_database(target.database)
    return app


def viewer_of(target: Target) -> App:
    """An app to look at executions with: without the user's code if the database is known without it.

    Raises:
        StoreUnavailableError: The database does not exist yet; looking must not make it.
    """
    config = load_config()
    if target.database is not None or (target.app is None and config.app is None):
        app = App("cli", database=target.database)
    else:
        app = app_of(target)
    _refuse_missing(app.database)
    return app


def workflow_of(app: App, name: str) -> Workflow[Any, Any]:
    """The app's workflow of this name, or WorkflowNotFoundError with a hint."""
    workflow = app.workflows.get(name)
    if workflow is None:
        known = ", ".join(sorted(app.workflows)) or "none"
        raise WorkflowNotFoundError(
            f"Workflow {name!r} is not in app {app.name!r}.{did_you_mean(name, app.workflows)} Known: {known}."
        )
    return workflow


def load_app(spec: str, config: Config) -> App:
    """Import the module and take the app out of it; the config file's folder and the current one come first."""
    if not is_app_spec(spec):
        raise ConfigError(f"The app must be {APP_FORM}, got {spec!r}.")
    folders = [str(folder) for folder in dict.fromkeys((config.root, Path.cwd()))]
    sys.path[:] = [*folders, *(entry for entry in sys.path if entry not in folders)]
    name, _, attribute = spec.partition(":")
    module = _imported(name, folders)
    return _attribute_of(module, attribute) if attribute else _only_app_of(module)


def _imported(name: str, folders: list[str]) -> ModuleType:
    where = " or ".join(folders)
    try:
        # What the module prints is not the data that was asked for.
        with redirect_stdout(sys.stderr):
            return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"cannot import {name!r} from {where}: {_short(error, folders)}") from error
        raise ConfigError(f"cannot import {name!r} from {where}: there is no module {error.name!r}.") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"cannot import {name!r} from {where}: {_short(error, folders)}") from error


def _short(error: BaseException, folders: list[str]) -> str:
    """The error on one line, with the place in the user's own code."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(tuple(folders))]
    return f"{text} ({own[-1].filename}, line {own[-1].lineno})" if own else text


def _attribute_of(module: ModuleType, path: str) -> App:
    value: object = module
    for part in path.split("."):
        value = getattr(value, part, None)
    if isinstance(value, App):
        return value
    problem = "is not there" if value is None else f"is a {type(value).__name__}, not an App"
    apps = _apps_in(module)
    hint = f"Apps in {module.__name__!r}: {', '.join(apps)}." if apps else f"There is no App in {module.__name__!r}."
    raise ConfigError(f"{module.__name__}:{path} {problem}.{did_you_mean(path, apps)} {hint}")


def _only_app_of(module: ModuleType) -> App:
    apps = _apps_in(module)
    if len({id(app) for app in apps.values()}) == 1:
        return next(iter(apps.values()))
    if not apps:
        raise ConfigError(f"There is no App in module {module.__name__!r} ({module.__file__}).")
    choices = ", ".join(f"{module.__name__}:{name}" for name in apps)
    raise ConfigError(f"Module {module.__name__!r} has several apps. Say which one: {choices}.")


def _apps_in(module: ModuleType) -> Mapping[str, App]:
    return {name: value for name, value in vars(module).items() if isinstance(value, App)}


def _refuse_missing(url: str) -> None:
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).exists():
        raise StoreUnavailableError(
            url, "the file does not exist; a worker or a trigger makes it, or name another one with --database"
        )
