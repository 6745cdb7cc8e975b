"""The example and its demo, as a user runs them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_demo_proves_what_it_shows(tmp_path: Path) -> None:
    folder = tmp_path / "examples" / "order"
    shutil.copytree(ROOT / "examples" / "order", folder, ignore=shutil.ignore_patterns(".stepwell", "__pycache__"))

    done = subprocess.run([sys.executable, str(folder / "demo.py")], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "bodies begun again after being recorded" in done.stdout
