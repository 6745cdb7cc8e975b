"""The command line. It starts in a blink: commands are imported when they are used, the engine with them."""

from stepwell.cli.root import main

__all__ = ["main"]
