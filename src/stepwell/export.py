"""Everything about one execution as one JSON document; `docs/export.md` describes it.

The document is made from the rows as they are stored, column by column, so that nothing can be forgotten: what a later
column or table holds appears by itself, formatted by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final, TypeAlias

from stepwell.clock import from_us
from stepwell.execution import error_of, shown
from stepwell.store.records import Everything

FORMAT: Final = "stepwell.execution"
FORMAT_VERSION: Final = 1

_Row: TypeAlias = dict[str, Any]


def document_of(found: Everything, now: int) -> dict[str, Any]:
    """The document about one execution as it was read at `now`."""
    tables = {name: [_plain(row) for row in rows] for name, rows in found.tables.items()}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "exported_at": _moment(now),
        "execution": _plain(found.execution),
        "tags": [row["tag"] for row in tables.pop("tags")],
        "children": found.children,
        "runs": _runs(found.execution, tables),
        **tables,
    }


def _runs(execution: Mapping[str, Any], tables: dict[str, list[_Row]]) -> list[_Row]:
    """The runs, oldest first, with their steps, and these with their failed attempts."""
    attempts: dict[tuple[int, str], list[_Row]] = {}
    for row in tables.pop("attempts"):
        attempts.setdefault((row.pop("run"), row.pop("path")), []).append(row)
    steps: dict[int, list[_Row]] = {}
    for row in tables.pop("steps"):
        row["attempts"] = attempts.get((row["run"], row["path"]), [])
        steps.setdefault(row.pop("run"), []).append(row)
    runs = tables.pop("payloads")
    for run in runs:
        if run["run"] == execution["run"]:
            # How the current run stands is kept with the execution.
            current = {name: execution[name] for name in ("status", "reason", "started_at", "finished_at")}
            run.update(_plain(current))
        run["steps"] = steps.get(run["run"], [])
    return runs


def _plain(row: Mapping[str, Any]) -> _Row:
    return {name: _value(name, value) for name, value in row.items() if name != "execution_id"}


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name.endswith("_at"):
        return _moment(value)
    shape = _SHAPES.get(name)
    return value if shape is None else shape(value)


def _moment(us: int) -> str:
    return from_us(us).isoformat()


def _seconds(us: int) -> float:
    return us / 1_000_000


def _error(text: str) -> dict[str, Any] | None:
    error = error_of(text)
    return None if error is None else asdict(error)


_SHAPES: Final[Mapping[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("input", "output", "options", "payload", "value"), shown),
    **dict.fromkeys(("retention", "timeout"), _seconds),
    **dict.fromkeys(("attached", "crashed", "orphaning", "undo"), bool),
    "error": _error,
}
"""How a column is shown, by its name; times (`…_at`) are moments, everything else is shown as it is stored."""
