"""Operating executions from the command line: one by id, many by filter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from stepwell.cli import bulk
from stepwell.cli.target import Target
from tests.cli.conftest import Call


def status_of(call: Call, id: str) -> str:
    return call("executions", "describe", id, "--json").json["status"]


def one(id: str, status: str | None) -> dict[str, Any]:
    """The document of a command that did one thing to one execution."""
    return {"executions": [{"id": id, "status": status, "error": None}], "count": 1, "failed": 0}


def queue(call: Call, *ids: str) -> None:
    for id in ids:
        call("trigger", "waiting", "--id", id, "--tag", f"tag-{id}")


def test_pause_and_resume(call: Call) -> None:
    queue(call, "a")

    answer = call("executions", "pause", "a", "--json")
    assert (answer.code, answer.json, answer.err) == (0, one("a", "paused"), "paused a\n")
    assert call("executions", "pause", "latest").code == 0
    assert call("executions", "resume", "a", "--json").json == one("a", "queued")
    answer = call("executions", "resume", "a")
    assert (answer.code, answer.err) == (4, "error: Cannot resume execution 'a': it is queued.\n")


def test_restart_shows_the_earlier_run(call: Call) -> None:
    call("run", "failing", "--id", "a")

    assert call("executions", "restart", "a", "--json").json == one("a", "queued")
    info = call("executions", "describe", "a", "--json").json
    assert (info["status"], info["run_number"]) == ("queued", 2)
    [earlier] = info["earlier_runs"]
    assert (earlier["run"], earlier["status"], earlier["error"]["type"]) == (1, "failed", "ValueError")
    assert "run 1     failed" in call("executions", "describe", "a").out


def test_retry_and_restart_from_a_step_keep_what_was_done(call: Call) -> None:
    call("run", "order", "id=A", "total:=3", "--id", "a")

    assert call("executions", "retry", "a").code == 4
    assert call("executions", "restart", "a", "--from-step", "deliver", "--input", '{"id": "B", "total": 4}').code == 0
    described = call("executions", "describe", "a", "--json").json
    assert (described["input"], [step["path"] for step in described["steps"]]) == ({"id": "B", "total": 4}, ["charge"])


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("restart", "a", "--from-step", "charg"), 2, "Did you mean 'charge'?"),
        (("restart", "a", "--input", '{"id": 5}'), 2, "$.id"),
        (("restart", "a", "--input", "{"), 2, "not JSON"),
        (("fork", "b"), 3, "'b' does not exist"),
        (("wake", "a"), 4, "it is completed, and no sleep or backoff is open"),
        (("pause",), 2, "Which executions? Give ids, or filters"),
        (("pause", "a", "--status", "queued"), 2, "Give either ids or filters, not both"),
        (("pause", "--status", "asleep"), 2, "'asleep' is not one of"),
    ],
)
def test_what_cannot_be_done_is_explained(call: Call, args: tuple[str, ...], code: int, said: str) -> None:
    call("run", "order", "id=A", "total:=3", "--id", "a")

    answer = call("executions", *args)

    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err
    assert call("executions", "describe", "a", "--json").json["run_number"] == 1


def test_fork_prints_the_new_id(call: Call) -> None:
    call("run", "order", "id=A", "total:=3", "--id", "a")

    answer = call("executions", "fork", "a", "--from-step", "deliver")

    new = answer.out.strip()
    assert answer.err == f"forked a as {new}\n"
    described = call("executions", "describe", new, "--json").json
    assert (described["status"], [step["path"] for step in described["steps"]]) == ("queued", ["charge"])


def test_several_go_on_after_an_error(call: Call) -> None:
    queue(call, "a", "b")

    answer = call("executions", "cancel", "a", "nobody", "b", "--reason", "enough", "--json")

    assert answer.code == 3
    assert answer.err.splitlines()[-1] == "cancelled 2 of 3 executions"
    assert (answer.json["count"], answer.json["failed"]) == (3, 1)
    by_id: dict[str, Any] = {each["id"]: each for each in answer.json["executions"]}
    assert (by_id["a"]["status"], by_id["b"]["status"]) == ("cancelled", "cancelled")
    assert (by_id["a"]["error"], by_id["nobody"]["status"]) == (None, None)
    assert by_id["nobody"]["error"]["code"] == "execution_not_found"
    assert call("executions", "resume", "a", "b").code == 4


def test_one_that_is_named_twice_is_touched_once(call: Call) -> None:
    """And `latest` is what it was when the command was given."""
    queue(call, "first", "second")

    answer = call("executions", "fork", "second", "latest", "sec", "first", "--json")

    assert [each["id"] for each in answer.json["executions"]] == ["second", "first"]
    assert len(call("executions", "list", "--json").json["executions"]) == 4


def test_fork_tells_the_new_id_to_programs(call: Call) -> None:
    queue(call, "a")

    document = call("executions", "fork", "a", "--json").json

    new = document["executions"][0].pop("new_id")
    assert document == one("a", "queued")
    assert status_of(call, new) == "queued"


def test_a_dry_run_shows_a_table_and_what_is_not_there(call: Call) -> None:
    queue(call, "a")

    answer = call("executions", "cancel", "a", "nobody", "--dry-run")
    assert answer.code == 3
    assert answer.err == "error: Execution 'nobody' does not exist in this database.\nwould cancel 1 execution\n"
    assert [line.split()[0] for line in answer.out.splitlines()] == ["ID", "a"]
    assert call("executions", "cancel", "a", "--dry-run", "--json").json == one("a", "queued")
    assert status_of(call, "a") == "queued"


def test_nothing_is_read_after_a_verb_that_leaves_nothing(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    """Another execution may have taken the id of a deleted one."""
    queue(call, "a")

    @click.command()
    @bulk.on_many(bulk.Verb("hold", is_last=True))
    def hold() -> bulk.Deed:
        return bulk.Deed(lambda execution: execution.pause(), "held")

    hold.main(["a", "--json"], obj=Target(), standalone_mode=False)

    assert json.loads(capsys.readouterr().out) == one("a", None)
    assert status_of(call, "a") == "paused"


def test_a_closed_stdin_is_no_terminal(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    queue(call, "a")
    monkeypatch.setattr("sys.stdin", None)

    assert call("executions", "cancel", "--workflow", "waiting").code == 2
    assert call("executions", "pause", "--workflow", "waiting").code == 0


@pytest.mark.parametrize("verb", ["cancel", "restart", "fork"])
def test_what_cannot_be_taken_back_needs_a_yes_where_nobody_can_be_asked(call: Call, verb: str) -> None:
    queue(call, "a", "b")

    answer = call("executions", verb, "--workflow", "waiting")

    assert (answer.code, answer.out) == (2, "")
    assert f"{verb} 2 executions? Give --yes, or --dry-run to list them." in answer.err
    found = call("executions", "list", "--json").json["executions"]
    assert [(info["status"], info["run_number"]) for info in found] == [("queued", 1)] * 2
    answer = call("executions", verb, "--workflow", "waiting", "--yes")
    assert (answer.code, answer.err.splitlines()[-1].split()[1:]) == (0, ["2", "of", "2", "executions"])


def test_by_filter(call: Call) -> None:
    queue(call, "a", "b", "c")
    call("executions", "cancel", "c")

    answer = call("executions", "pause", "--workflow", "waiting", "--dry-run", "--json")
    assert {info["id"] for info in answer.json["executions"]} == {"a", "b"}
    assert (answer.err, status_of(call, "a")) == ("would pause 2 executions\n", "queued")

    answer = call("executions", "pause", "--workflow", "waiting")
    assert (answer.code, answer.err.splitlines()[-1]) == (0, "paused 2 of 2 executions")
    assert [status_of(call, id) for id in "abc"] == ["paused", "paused", "cancelled"]

    assert call("executions", "resume", "--tag", "tag-a").err == "resumed a\nresumed 1 of 1 execution\n"
    assert call("executions", "retry", "--since", "1 hour").err.splitlines()[-1] == "retried 1 of 1 execution"
    assert [status_of(call, id) for id in "abc"] == ["queued", "paused", "queued"]
    answer = call("executions", "resume", "--status", "queued", "--status", "paused", "--json")
    assert (answer.code, answer.json["failed"], answer.json["count"]) == (4, 2, 3)
    assert call("executions", "resume", "--status", "paused").err == "resumed 0 of 0 executions\n"


def test_more_than_a_page(call: Call, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are found before the first is touched, so none slips out of a later page."""
    monkeypatch.setattr(bulk, "PAGE", 2)
    queue(call, *"abcde")

    assert (
        call("executions", "cancel", "--status", "queued", "--yes").err.splitlines()[-1]
        == "cancelled 5 of 5 executions"
    )


def test_a_terminal_is_asked(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    queue(call, "a")
    answers = iter(["n\n", "y\n"])

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())

    def answer(prompt: str) -> str:
        return next(answers)

    monkeypatch.setattr("click.termui.visible_prompt_func", answer)

    assert call("executions", "pause", "--workflow", "waiting").code == 130
    assert status_of(call, "a") == "queued"
    assert call("executions", "pause", "--workflow", "waiting").code == 0
    assert call("executions", "resume", "--workflow", "waiting", "--yes").code == 0
    # One that is named is not asked about.
    assert call("executions", "cancel", "a").code == 0
