"""A Dask cluster as the executor of bodies. It has a process of its own: its threads and warnings are not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.harness import PROGRAMS, ROOT

pytest.importorskip("distributed", reason="the extra `dask` is not installed")


@pytest.mark.slow
def test_bodies_run_on_a_dask_cluster(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "dask_cluster.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=18,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "elsewhere": True,
        "async": True,
        "parallel": [2 * n for n in range(20)],
        "retried": "done",
        "marks": 3,
        "error": "('of the body', 7)",
        "context": "NoStepContextError",
        "timeout": "Step 'slow' did not end within 0.3 s.",
        "after": 3,
    }
