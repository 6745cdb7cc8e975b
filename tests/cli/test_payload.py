from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepwell.cli.payload import parse
from stepwell.errors import InvalidInputError


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (['{"a": [1, null]}'], {"a": [1, None]}),
        (["5"], 5),
        (['"a=b"'], "a=b"),
        (["a=b=c"], {"a": "b=c"}),
        (["a="], {"a": ""}),
        (["a:=1", "b=1", "c:=[1, 2]", "d=x:=y"], {"a": 1, "b": "1", "c": [1, 2], "d": "x:=y"}),
        (["customer-id=K 1"], {"customer-id": "K 1"}),
    ],
)
def test_words_become_json_values(words: list[str], value: Any) -> None:
    assert parse(words) == value


def test_file_and_stdin_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "order.json").write_text('{"id": "ü"}', encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"[1]")))

    assert parse([f"@{tmp_path}/order.json"]) == {"id": "ü"}
    assert parse(["-"]) == [1]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["{a: 1}"], "INPUT is not JSON"),
        (["NaN"], "NaN is not a JSON number"),
        (["[" * 100_000], "nested too deeply"),
        (["a:=x"], "a is not JSON"),
        (["a=1", "a=2"], "'a' is given twice"),
        (["a=1", "{}"], "'{}' is not key=text or key:=json"),
        (["@missing.json"], "'missing.json' cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_read_is_named(words: list[str], problem: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse(words)

    assert problem in str(caught.value)
