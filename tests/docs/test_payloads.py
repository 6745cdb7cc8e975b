"""What docs/payloads.md shows works."""

from __future__ import annotations

import io
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.fernet import Fernet

from stepwell._keys import MAKE

PAGE = Path(__file__).parents[2] / "docs/payloads.md"
TEXT = PAGE.read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
PRINTED = ["********** token for ann, 13 characters\n", "4999\n"]


@pytest.mark.parametrize(("program", "printed"), list(zip(PROGRAMS, PRINTED, strict=True)), ids=["secret", "codec"])
def test_the_programs_run(program: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPWELL_DATABASE", raising=False)
    monkeypatch.setenv("STEPWELL_SECRET_KEY", Fernet.generate_key().decode())
    module, said = ModuleType("page"), io.StringIO()
    monkeypatch.setitem(sys.modules, "page", module)

    with redirect_stdout(said):
        exec(compile(program, PAGE, "exec"), vars(module))  # noqa: S102

    assert said.getvalue() == printed
    connection = sqlite3.connect(tmp_path / ".stepwell/stepwell.db")
    stored = str(connection.execute("SELECT input, output FROM payloads").fetchall())
    connection.close()
    assert "correct horse" not in stored
    assert "word" not in stored.replace('"password"', "")


def test_the_command_makes_a_key_that_works() -> None:
    assert f"$({MAKE})" in TEXT
    command = MAKE.replace("python", sys.executable, 1)

    made = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True, env=os.environ)

    Fernet(made.stdout.strip())


def test_the_numbers_are_right() -> None:
    from stepwell import _revealed
    from stepwell._engine.runner import MISMATCH_PAUSE_US
    from stepwell.store.coded import PAUSE_US

    assert f"the last {_revealed.KEPT} texts" in TEXT
    assert _revealed.SHORTEST == 6
    assert "six characters" in TEXT
    assert MISMATCH_PAUSE_US == PAUSE_US == 30_000_000
