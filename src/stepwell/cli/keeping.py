"""`stepwell executions delete | export`: what is kept of executions."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import click

from stepwell import App, Execution
from stepwell.cli.bulk import apply_to_all, check_choice, confirm, select
from stepwell.cli.console import put, put_json, put_value, say, set_up_logging
from stepwell.cli.locate import viewer_of
from stepwell.cli.params import since
from stepwell.cli.target import Target, json_option, target_options
from stepwell.cli.text import json_text
from stepwell.types import STATUSES, TERMINAL

ENDED = tuple(status for status in STATUSES if status in TERMINAL)


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--status", type=click.Choice(ENDED), multiple=True, help="All that ended so; may be repeated.")
@click.option("--workflow", metavar="NAME", help="All of this workflow that have ended.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="All with this tag that have ended.")
@click.option("--since", callback=since, metavar="DURATION|TIME", help="All created since that have ended.")
@click.option("--dry-run", is_flag=True, help="Only print the ids of what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@target_options
@click.pass_context
def delete(
    ctx: click.Context, /, ids: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool, **filters: Any
) -> None:
    """Delete executions with everything that is kept of them: by ids, or all that match.

    Only what has ended, and what no living execution refers to. It cannot be undone: export them before.
    """
    check_choice(ctx, ids, filters)
    app = viewer_of(ctx.ensure_object(Target))
    set_up_logging()
    ctx.exit(asyncio.run(_delete(ctx, app, ids, filters, dry_run=dry_run, yes=yes, as_json=as_json)))


async def _delete(
    ctx: click.Context,
    app: App,
    ids: tuple[str, ...],
    filters: dict[str, Any],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    async with app.connected():
        names = ids or await select(app, {**filters, "status": filters["status"] or ENDED})
        if dry_run:
            found = [(await app.find_execution(name)).id for name in ids] or list(names)
            put_json({"would_delete": found}) if as_json else put(found)
            say(f"would delete {len(found)} executions")
            return 0
        if not ids and names:
            confirm(ctx, "delete", len(names), yes=yes)
        if len(ids) == 1:
            # An error is the whole answer.
            execution = await app.find_execution(ids[0])
            await execution.delete()
            say(f"deleted {execution.id}")
            if as_json:
                put_json({"deleted": [execution.id], "errors": []})
            return 0
        done = await apply_to_all(app, names, _erase, "deleted", exact=not ids)
    if as_json:
        errors = [{"id": id, "code": error.code, "message": str(error)} for id, error in done.problems]
        put_json({"deleted": done.ids, "errors": errors})
    elif not ids:
        say(f"deleted {len(done.ids)} of {len(names)} executions")
    return done.code


async def _erase(execution: Execution[Any]) -> None:
    await execution.delete()


@click.command()
@click.argument("id", metavar="ID")
@click.option(
    "--output",
    "-o",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to; stdout by default.",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@json_option
@target_options
@click.pass_context
def export(ctx: click.Context, /, id: str, path: Path | None, force: bool, as_json: bool) -> None:
    """Write everything that is kept of one execution as one JSON document: docs/export.md describes it."""
    if path is not None:
        _check(ctx, path, force)
    app = viewer_of(ctx.ensure_object(Target))
    set_up_logging()
    document = asyncio.run(_export(app, id))
    if path is None:
        put_value(document, as_json=as_json)
        return
    _check(ctx, path, force)
    _write(path, json_text(document, indent=None if as_json else 2) + "\n")
    say(f"exported {document['execution']['id']} to {path}")


async def _export(app: App, id: str) -> dict[str, Any]:
    async with app.connected():
        return await (await app.find_execution(id)).export()


def _check(ctx: click.Context, path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise click.UsageError(f"{str(path)!r} is there already. Give --force to write over it.", ctx)


def _write(path: Path, text: str) -> None:
    """Write the file as a whole or not at all; who reads it meanwhile sees the old one."""
    try:
        with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            finally:
                Path(file.name).unlink(missing_ok=True)
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from error
