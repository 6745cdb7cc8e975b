from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click


def test_terminal_shows_the_whole_tree_at_the_end(project: Path) -> None:
    reader, terminal = os.openpty()
    command = [sys.executable, "-m", "stepwell", "run", "order", "id=A-1", "total:=3", "--id", "a", "--watch"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TERM": "xterm"}

    ended = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, cwd=project, env=environment)
    os.close(terminal)
    shown = click.unstyle(os.read(reader, 100_000).decode())
    os.close(reader)

    assert ended.returncode == 0
    title, *steps = shown.splitlines()[-4:]
    assert "✓ order a completed" in title
    assert [line.split("  ")[0] for line in steps[:2]] == ["├─ ✓ charge", "└─ ✓ deliver"]
    assert steps[2].startswith("   └─ ✓ pack")
