"""The tree of steps in a terminal, drawn anew while things happen and time passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from stepwell import ExecutionInfo, StepInfo
from stepwell.cli.console import data_stream
from stepwell.cli.describe import ending, title
from stepwell.cli.tree import tree_lines

FRAME_SECONDS: Final = 0.25


async def show_live(snapshots: AsyncIterator[tuple[ExecutionInfo, list[StepInfo]]]) -> ExecutionInfo:
    """Draw until the execution has ended; what stays on the screen is the whole tree."""
    console = Console(file=data_stream(), highlight=False)
    picture = _Picture(console)
    with Live(console=console, transient=True, auto_refresh=False) as live:
        drawing = asyncio.create_task(_keep_drawing(live, picture), name="stepwell-live")
        try:
            async for info, steps in snapshots:
                picture.info, picture.steps = info, steps
                live.update(picture.draw(), refresh=True)
        finally:
            drawing.cancel()
    assert picture.info is not None  # noqa: S101 - there is at least one snapshot
    console.print(picture.draw(whole=True), soft_wrap=True)
    return picture.info


async def _keep_drawing(live: Live, picture: _Picture) -> None:
    """Count down between the changes."""
    while True:
        await asyncio.sleep(FRAME_SECONDS)
        live.update(picture.draw(), refresh=True)


class _Picture:
    """The last that is known of an execution."""

    def __init__(self, console: Console) -> None:
        self.info: ExecutionInfo | None = None
        self.steps: Sequence[StepInfo] = ()
        self._console = console

    def draw(self, *, whole: bool = False) -> Text:
        """As it stands now; of a tree that is higher than the screen the end, unless the whole is wanted."""
        if self.info is None:
            return Text()
        now = datetime.now(UTC)
        lines = tree_lines(self.steps, now)
        room = max(self._console.height - 3, 1)
        if not whole and len(lines) > room:
            lines = [f"… {len(lines) - room} more above", *lines[-room:]]
        head = f"{title(self.info)}  {ending(self.info, now)}"
        return Text.from_ansi("\n".join([head, *lines]), no_wrap=not whole, overflow="ellipsis")
