"""How to test a step that writes into your own table: the sandbox takes a database file."""

import sqlite3
from pathlib import Path

import pipeline
import pytest
from pipeline import Batch, Summary, app, data_processing

from stepwell import ExecutionFailedError
from stepwell.testing import sandbox


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test writes."""
    monkeypatch.setattr(pipeline, "FOLDER", tmp_path)
    return tmp_path


async def test_numbers_are_doubled_squared_and_stored(folder: Path) -> None:
    async with sandbox(app, database=f"sqlite:///{folder}/test.db"):
        execution = await data_processing.trigger(Batch("B-1", [3, 1, 3]))

        assert await execution.result() == Summary(rows=2, total=10)

    connection = sqlite3.connect(folder / "test.db")
    rows = connection.execute("SELECT * FROM results ORDER BY value").fetchall()
    connection.close()
    assert rows == [("B-1", 1, 2, 1), ("B-1", 3, 6, 9)]


async def test_an_empty_batch_is_refused() -> None:
    async with sandbox(app):
        execution = await data_processing.trigger(Batch("B-1", []))

        with pytest.raises(ExecutionFailedError, match="Batch B-1 is empty"):
            await execution.result()
