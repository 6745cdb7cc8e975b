"""How to test a fan-out: with a few files, one of which is no text."""

from pathlib import Path

import pytest
import words
from words import Job, Report, app, count_words

from stepwell.testing import sandbox


async def test_words_are_counted_and_what_is_no_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "HERE", tmp_path)
    (tmp_path / "a.txt").write_text("down to the water")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "c.txt").write_text("step by step")
    async with sandbox(app):
        execution = await count_words.trigger(Job("."))

        assert await execution.result() == Report(files=3, words=7, unreadable=["b.txt"])
