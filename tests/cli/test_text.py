from __future__ import annotations

import json

import pytest

from stepwell.cli.text import clean, clean_line, duration_text, json_text

HOSTILE = "a\x1b[2J\x9b31m\r\u202eb\x00\x7f\ud800c"


def test_control_characters_are_stripped() -> None:
    assert clean(HOSTILE) == "a[2J31mbc"
    assert clean("two\n\tlines") == "two\n\tlines"
    assert clean_line("two \n\t lines,  two blanks\n") == "two lines,  two blanks"


def test_json_keeps_its_meaning_and_harms_no_terminal() -> None:
    text = json_text({"ä": HOSTILE})

    assert json.loads(text) == {"ä": HOSTILE}
    assert clean(text) == text
    assert "ä" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.048, "48 ms"),
        (1.25, "1.2 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (7_800, "2 h 10 min"),
        (442_800, "5 d 3 h"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
