from dataclasses import dataclass
from pathlib import Path
@dataclass(frozen=True)
class Config:
    app: str | None = None
    database: str | None = None
    root: Path = Path.cwd()
    file: Path | None = None
def load_config(start=None, environ=None):
    return Config(root=Path(start or Path.cwd()))
