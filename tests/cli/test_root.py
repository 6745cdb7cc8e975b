from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import stepwell
from stepwell.cli.root import COMMANDS
from tests.cli.conftest import Call, Spawn

# The package's own __init__ is left out: here it is about what the command line adds to it.
PROBE = """
import sys, types
package = types.ModuleType("stepwell")
package.__path__ = [{path!r}]
sys.modules["stepwell"] = package
from stepwell.cli import main
try:
    main([{args}])
except SystemExit:
    heavy = ("stepwell._engine", "stepwell.store", "stepwell.app", "rich", "watchfiles", "asyncio", "msgspec")
    print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("args", ["'--help'", "'executions', '--help'", "'--version'"])
def test_help_imports_nothing_heavy(args: str) -> None:
    probe = PROBE.format(path=str(Path(stepwell.__file__).parent), args=args)

    ended = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert ended.stderr.strip() == "[]"


def test_help_lists_every_command(call: Call) -> None:
    answer = call("--help")

    assert answer.code == 0
    assert all(f"  {name} " in answer.out for name in COMMANDS)


@pytest.mark.parametrize("name", [*COMMANDS, "executions list", "executions describe", "executions cancel"])
def test_every_command_has_help(call: Call, name: str) -> None:
    assert call(*name.split(), "--help").out.startswith(f"Usage: stepwell {name} ")


def test_alone_it_shows_its_help(call: Call) -> None:
    assert call().out.startswith("Usage: stepwell ")
    assert call("executions").out.startswith("Usage: stepwell executions ")


def test_wrong_command_gets_a_hint(call: Call) -> None:
    answer = call("trigr")

    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "error: No such command 'trigr'. Did you mean 'trigger'? Try 'stepwell --help'.\n"


def test_wrong_usage_is_told_as_json_too(call: Call) -> None:
    answer = call("executions", "list", "--json", "--limit", "0")

    assert answer.code == 2
    assert json.loads(answer.err.splitlines()[-1])["error"]["code"] == "usage"


def test_options_count_before_and_after_the_command(call: Call, project: Path) -> None:
    (project / "stepwell.toml").unlink()
    call("--app", "shop:app", "trigger", "waiting", "--database", "sqlite:///one.db", "--id", "a")

    before = call("--database", "sqlite:///one.db", "executions", "list", "--json")
    between = call("executions", "--database", "sqlite:///one.db", "list", "--json")
    after = call("--database", "sqlite:///no.db", "executions", "list", "--json", "--database", "sqlite:///one.db")

    assert [info["id"] for info in before.json["executions"]] == ["a"]
    assert before.json == between.json == after.json


def test_closed_pipe_is_quiet(call: Call, spawn: Spawn) -> None:
    call("trigger", "waiting")

    process = spawn("executions", "list")
    assert process.popen.stdout is not None
    process.popen.stdout.close()
    process.popen.stdout = None

    assert process.end()[::2] == (141, "")


def test_configuration_mistakes_are_all_listed(call: Call, project: Path) -> None:
    (project / "stepwell.toml").write_text("app = 3\ndatabse = 4")

    answer = call("executions", "list")

    assert answer.code == 2
    assert "app must be text" in answer.err
    assert "Did you mean 'database'?" in answer.err


def test_colours_are_for_terminals_only(call: Call) -> None:
    call("trigger", "waiting")

    assert "\x1b" not in call("executions", "describe", "latest").out
