"""Lengths of time and points in time as they are typed; callbacks of click options."""

from __future__ import annotations

from datetime import UTC, datetime

import click


def duration(_: click.Context, __: click.Parameter, value: str | None) -> float | str | None:
    """`30`, `30 seconds`, `1h30m`: a bare number is seconds; text is checked where it is used."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


def moment(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    """An ISO 8601 time with its zone."""
    if value is None:
        return None
    found = _iso(value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not an ISO 8601 time such as 2030-01-31T09:00:00Z.")
    if found.utcoffset() is None:
        raise click.BadParameter(f"{value!r} has no time zone. Add Z for UTC, or an offset such as +01:00.")
    return found


def since(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | float | str | None:
    """A length of time before now, or an ISO 8601 time; without a zone it is UTC, as all times that we print."""
    found = _iso(value) if value is not None and "-" in value[1:] else None
    if found is None:
        return duration(ctx, param, value)
    return found if found.utcoffset() is not None else found.replace(tzinfo=UTC)


def _iso(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
