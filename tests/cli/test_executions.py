from __future__ import annotations

import json
import signal

import pytest

from tests.cli.conftest import Call, Spawn

ORDER = ("order", "id=A-1", "total:=3")


def test_run_prints_the_output_and_nothing_else(call: Call) -> None:
    answer = call("run", *ORDER)

    assert answer.code == 0
    assert answer.json == "parcel A-1"
    assert "charging" in answer.err


def test_run_of_what_fails_exits_with_1(call: Call) -> None:
    answer = call("run", "failing", "--json")

    assert (answer.code, answer.out) == (1, "")
    error = json.loads(answer.err.splitlines()[-1])["error"]
    assert error["code"] == "execution_failed"
    assert "ValueError: no \x1b[31mluck" in error["message"]
    assert "\x1b" not in answer.err


@pytest.mark.parametrize("command", ["run", "trigger"])
@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["oder"], 3, "Workflow 'oder' is not in app 'shop'. Did you mean 'order'? Known: failing, order,"),
        (["order"], 2, "Workflow 'order' takes an input."),
        (["order", "id=A", "total=x"], 2, "$.total"),
        (["waiting", "5"], 2, "takes no input"),
        (["waiting", "--id", "no blanks"], 2, "'no blanks'"),
        (["waiting", "--delay", "soon"], 2, "soon"),
        (["waiting", "--at", "2030-01-01T00:00:00"], 2, "has no time zone"),
        (["waiting", "--at", "tomorrow"], 2, "is not an ISO 8601 time"),
    ],
)
def test_what_cannot_be_started_is_explained(call: Call, command: str, args: list[str], code: int, said: str) -> None:
    answer = call(command, *args)

    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err


def test_trigger_prints_the_id(call: Call) -> None:
    answer = call("trigger", *ORDER)

    info = call("executions", "describe", answer.out.strip(), "--json").json
    assert (info["status"], info["input"]) == ("queued", {"id": "A-1", "total": 3})


def test_trigger_passes_its_options_on(call: Call) -> None:
    options = ("--id", "a", "--tag", "x", "--tag", "y", "--priority", "7", "--at", "2040-01-01T00:00:00Z")

    info = call("trigger", "waiting", "--json", *options).json

    assert (info["id"], info["tags"], info["priority"]) == ("a", ["x", "y"], 7)
    assert info["wake_at"] == "2040-01-01T00:00:00+00:00"


def test_taken_id_is_a_wrong_state_unless_it_is_the_same(call: Call) -> None:
    call("trigger", *ORDER, "--id", "a")

    assert call("trigger", *ORDER, "--id", "a").code == 4
    assert call("trigger", *ORDER, "--id", "a", "--if-exists", "return").out == "a\n"


def test_list_filters_and_pages(call: Call) -> None:
    for id in ("a", "b", "c"):
        call("trigger", "waiting", "--id", id, "--tag", id)
    call("executions", "cancel", "c")

    page = call("executions", "list", "--json", "--limit", "1", "--status", "queued").json
    rest = call("executions", "list", "--json", "--status", "queued", "--limit", "1", "--cursor", page["next_cursor"])

    assert [page["executions"][0]["id"], rest.json["executions"][0]["id"]] == ["b", "a"]
    assert [info["id"] for info in call("executions", "list", "--json", "--tag", "a").json["executions"]] == ["a"]
    assert call("executions", "list", "--json", "--workflow", "order").json["executions"] == []
    assert call("executions", "list", "--json", "--since", "2040-01-01").json["executions"] == []
    assert len(call("executions", "list", "--json", "--since", "1 hour").json["executions"]) == 3


def test_list_for_people_has_a_head_and_a_line_each(call: Call) -> None:
    call("trigger", "waiting", "--id", "a")

    head, line = call("executions", "list").out.splitlines()

    assert head.split()[:3] == ["ID", "WORKFLOW", "STATUS"]
    assert line.split()[:3] == ["a", "waiting", "queued"]
    assert line.endswith("a worker")


def test_empty_list_prints_no_data(call: Call) -> None:
    call("trigger", "waiting")

    answer = call("executions", "list", "--status", "failed")

    assert (answer.code, answer.out, answer.err) == (0, "", "no executions\n")


def test_describe_tells_of_steps_attempts_and_errors(call: Call) -> None:
    call("run", "failing", "--id", "a")

    out = call("executions", "describe", "a").out

    assert out.startswith("✗ failing a failed\n")
    assert "ValueError: no [31mluck" in out
    assert "└─ ✗ explode  attempt 2" in out
    assert "attempt 1 failed after" in out
    assert "\x1b" not in out


def test_steps_are_nested_by_their_paths(call: Call) -> None:
    call("run", *ORDER, "--id", "a")

    lines = call("executions", "steps", "a").out.splitlines()

    assert [line.split("  ")[0] for line in lines[:2]] == ["├─ ✓ charge", "└─ ✓ deliver"]
    assert lines[0].endswith('→ {"charged": 3}')
    assert lines[2].startswith("   └─ ✓ pack")
    paths = [step["path"] for step in call("executions", "steps", "a", "--json").json]
    assert paths == ["charge", "deliver", "deliver/pack"]


def test_result_is_the_output(call: Call) -> None:
    call("run", *ORDER, "--id", "a")

    assert call("executions", "result", "a").json == "parcel A-1"


def test_result_that_does_not_come_is_a_timeout(call: Call) -> None:
    call("trigger", "waiting", "--id", "a")

    answer = call("executions", "result", "a", "--timeout", "0.05", "--json")

    assert (answer.code, answer.out) == (6, "")
    assert json.loads(answer.err.splitlines()[-1])["error"]["code"] == "timeout"


def test_cancelled_is_final(call: Call) -> None:
    call("trigger", "waiting", "--id", "a")

    assert call("executions", "cancel", "a", "--reason", "changed my mind").code == 0

    info = call("executions", "describe", "a", "--json").json
    assert (info["status"], info["reason"]) == ("cancelled", "changed my mind")
    result = call("executions", "result", "a")
    assert (result.code, result.err) == (1, "error: Execution 'a' was cancelled: changed my mind.\n")


def test_undos_are_shown_with_their_steps(call: Call) -> None:
    call("run", "saga", "id=fails", "total:=5", "--id", "good")
    call("run", "saga", "id=fails", "total:=500", "--id", "bad")

    good, bad = (call("executions", "steps", id, "--json").json for id in ("good", "bad"))
    assert {step["path"]: (step["status"], step["undone"]) for step in good} == {
        "charge": ("completed", True),
        "#undo/charge": ("completed", False),
    }
    assert {step["path"]: (step["status"], step["undone"]) for step in bad} == {
        "charge": ("completed", False),
        "#undo/charge": ("failed", False),
    }
    assert "undone" in call("executions", "describe", "good").out
    told = call("executions", "describe", "bad").out
    assert "undone" not in told
    assert "#undo" in told
    assert "ValueError: too much to forget" in told


def test_cancel_with_undo_waits_for_a_worker(call: Call, spawn: Spawn) -> None:
    call("trigger", "saga", "id=x", "total:=5", "--id", "a")
    process = spawn("worker")
    process.out_until("charging")
    process.signal(signal.SIGTERM)
    process.end()

    answer = call("executions", "cancel", "a", "--undo", "--reason", "enough")

    assert "will be cancelled when their steps are undone: a" in answer.err
    info = call("executions", "describe", "a", "--json").json
    assert (info["status"], info["ending"], info["reason"]) == ("queued", "cancelled", "enough")
    assert "ends as" in call("executions", "describe", "a").out
    spawn("worker")
    assert call("executions", "result", "a", "--timeout", "10").code == 1
    info = call("executions", "describe", "a", "--json").json
    assert (info["status"], info["ending"]) == ("cancelled", None)
    assert [step["path"] for step in info["steps"] if step["undone"]] == ["charge"]


def test_cancelling_what_has_ended_is_a_wrong_state(call: Call) -> None:
    call("run", *ORDER, "--id", "a")

    assert call("executions", "cancel", "a").code == 4


def test_executions_are_named_by_latest_or_a_beginning(call: Call) -> None:
    call("run", "failing", "--id", "bad")
    for id in ("abc-1", "abc-2"):
        call("trigger", "waiting", "--id", id)

    def found(name: str) -> str:
        return call("executions", "describe", name, "--json").json["id"]

    assert (found("latest"), found("latest:queued"), found("latest:failed")) == ("abc-2", "abc-2", "bad")
    assert found("abc-1") == "abc-1"
    assert found("b") == "bad"
    ambiguous = call("executions", "describe", "abc")
    assert (ambiguous.code, "abc-1" in ambiguous.err, "abc-2" in ambiguous.err) == (2, True, True)
    assert call("executions", "describe", "zzz").code == 3


def test_watch_prints_a_line_for_each_change(call: Call) -> None:
    answer = call("run", *ORDER, "--id", "a", "--watch")

    assert answer.code == 0
    assert "✓ deliver/pack completed" in answer.out
    assert answer.out.splitlines()[-1].endswith('"parcel A-1"')


def test_watch_of_what_failed_exits_with_1(call: Call) -> None:
    call("run", "failing", "--id", "a")

    answer = call("executions", "watch", "a", "--json")

    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert answer.code == 1
    assert [line["type"] for line in lines] == ["step", "execution"]
    assert lines[-1]["error"]["type"].endswith("ValueError")


def test_interrupted_wait_says_that_the_execution_goes_on(spawn: Spawn) -> None:
    process = spawn("trigger", "waiting", "--id", "a", "--wait")
    process.err_until("triggered a")
    process.signal(signal.SIGINT)

    answer = process.end()
    assert (answer.code, answer.out) == (130, "")
    assert answer.err == "interrupted; execution a goes on, see: stepwell executions watch a\n"
