"""`stepwell executions delete | export`: what is kept of executions."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import click

from stepwell import App
from stepwell.cli.bulk import CHOOSING, Deed, Verb, on_many
from stepwell.cli.console import put_value, say, set_up_logging
from stepwell.cli.locate import viewer_of
from stepwell.cli.target import NAMING, Target, json_option, target_options
from stepwell.cli.text import json_text
from stepwell.types import STATUSES, TERMINAL

ENDED = tuple(status for status in STATUSES if status in TERMINAL)


@click.command(epilog=CHOOSING)
@on_many(Verb("delete", ENDED, ENDED, is_grave=True, is_last=True))
def delete() -> Deed:
    """Delete executions that have ended, with everything that is kept of them.

    It cannot be undone; `export` writes one to a file before. What a living execution still refers to is refused.
    """
    return Deed(lambda execution: execution.delete(), "deleted")


@click.command(epilog=NAMING)
@click.argument("id", metavar="ID")
@click.option(
    "--output",
    "-o",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write it there; to stdout by default.",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@json_option
@target_options
@click.pass_context
def export(ctx: click.Context, /, id: str, path: Path | None, force: bool, as_json: bool) -> None:
    """Write everything that is kept of one execution as one JSON document.

    Its format is described in docs/export.md.
    """
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
