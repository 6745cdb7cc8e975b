from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call


def write(project: Path, name: str, text: str) -> None:
    (project / f"{name}.py").write_text(text)


def test_app_is_found_from_a_folder_below_the_config(
    call: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")

    assert call("trigger", "waiting").code == 0
    assert (project / ".stepwell" / "stepwell.db").exists()


def test_module_alone_is_enough_with_one_app(call: Call) -> None:
    assert call("--app", "shop", "trigger", "waiting").code == 0


def test_no_app_says_how_to_name_one(call: Call, project: Path) -> None:
    (project / "stepwell.toml").unlink()

    answer = call("trigger", "waiting")

    assert answer.code == 2
    assert "--app module:attribute" in answer.err


@pytest.mark.parametrize(
    ("module", "spec", "said"),
    [
        ("", "ghost:app", "cannot import 'ghost' from {folder}: there is no module 'ghost'."),
        ("", "sad app", "The app must be module:attribute, such as 'shop:app', got 'sad app'."),
        ("import numby", "sad:app", "cannot import 'sad' from {folder}: ModuleNotFoundError: No module named 'numby'"),
        ("x = 1\ny = x / 0", "sad:app", "ZeroDivisionError: division by zero ({folder}/sad.py, line 2)"),
        ("def (:", "sad:app", "SyntaxError: invalid syntax (sad.py, line 1)"),
        ("import sys; sys.exit(3)", "sad:app", "SystemExit: 3 ({folder}/sad.py, line 1)"),
        ("from shop import app as one", "sad:won", "sad:won is not there. Did you mean 'one'? Apps in 'sad': one."),
        ("app = 3", "sad:app", "sad:app is a int, not an App. There is no App in 'sad'."),
        ("x = 3", "sad", "There is no App in module 'sad' ({folder}/sad.py)."),
        ("from stepwell import App\na, b = App(), App()", "sad", "several apps. Say which one: sad:a, sad:b."),
    ],
)
def test_app_that_cannot_be_had_is_explained(call: Call, project: Path, module: str, spec: str, said: str) -> None:
    write(project, "sad", module)

    answer = call("--app", spec, "trigger", "waiting")

    assert (answer.code, answer.out) == (2, "")
    assert said.format(folder=project) in answer.err
    assert "Traceback" not in answer.err


def test_what_the_module_prints_is_not_data(call: Call, project: Path) -> None:
    write(project, "loud", "print('hello')\nfrom shop import app")

    answer = call("--app", "loud:app", "trigger", "waiting", "--json")

    assert answer.json["workflow"] == "waiting"
    assert "hello" in answer.err


def test_executions_need_no_code_when_the_database_is_given(call: Call, project: Path) -> None:
    call("trigger", "waiting", "--id", "a")
    write(project, "shop", "import ghost")

    answer = call("executions", "describe", "a", "--database", "sqlite:///.stepwell/stepwell.db")

    assert answer.code == 0


def test_looking_does_not_make_a_database(call: Call, project: Path) -> None:
    answer = call("executions", "list", "--database", "sqlite:///typo.db")

    assert answer.code == 5
    assert str(project / "typo.db") in answer.err
    assert not (project / "typo.db").exists()


def test_file_that_is_no_database_is_refused(call: Call, project: Path) -> None:
    (project / "notes.db").write_text("this is text, not a database, whatever its name says" * 10)

    assert call("executions", "list", "--database", "sqlite:///notes.db").code == 5
