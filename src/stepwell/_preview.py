"""A short look at the arguments of a step."""

from __future__ import annotations

from typing import Any

import msgspec


def preview(args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> str:
    return msgspec.json.encode(args, enc_hook=lambda value: f"<{type(value).__name__}>").decode()[:4096]
