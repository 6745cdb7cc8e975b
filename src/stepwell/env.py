"""`env`: what a worker has opened for its workflows."""

from __future__ import annotations

from collections.abc import Mapping


class Env:
    """The resources of a worker as attributes, under the names of the functions that `@app.resource` decorates."""

    def __init__(self, resources: Mapping[str, object]) -> None:
        self.__dict__.update(resources)

    def __getattr__(self, name: str) -> object:
        known = ", ".join(sorted(self.__dict__)) or "none"
        raise AttributeError(f"env has no {name!r} (known: {known}). Resources are named by @app.resource functions.")
