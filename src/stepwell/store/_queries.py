"""SQL lives in `.sql` files, one statement each; here they are read, once."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def load_query(package: str, name: str) -> str:
    """The statement in `queries/<name>.sql` of a store's package."""
    return files(package).joinpath("queries", f"{name}.sql").read_text(encoding="utf-8").strip()
