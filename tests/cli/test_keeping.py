from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Call


@pytest.fixture
def ended(call: Call) -> list[str]:
    """Three cancelled executions, newest first, and a living one."""
    for id in ("a", "b", "c", "living"):
        call("trigger", "waiting", "--id", id, "--tag", f"tag-{id}")
    for id in ("a", "b", "c"):
        call("executions", "cancel", id)
    return ["c", "b", "a"]


def left(call: Call) -> list[str]:
    return [info["id"] for info in call("executions", "list", "--json").json["executions"]]


def test_a_deleted_execution_is_gone(call: Call, ended: list[str]) -> None:
    answer = call("executions", "delete", "a")

    assert (answer.code, answer.out, answer.err) == (0, "", "deleted a\n")
    assert left(call) == ["living", "c", "b"]
    assert call("executions", "delete", "a").code == 3


def test_a_living_one_is_refused(call: Call, ended: list[str]) -> None:
    answer = call("executions", "delete", "living", "--json")

    message = "Cannot delete execution 'living': it is queued; cancel it first."
    assert (answer.code, answer.err) == (4, f"error: {message}\n")
    error = {"code": "invalid_transition", "message": message}
    assert answer.json == {
        "executions": [{"id": "living", "status": None, "error": error}],
        "count": 1,
        "failed": 1,
    }


def test_of_several_the_rest_is_deleted(call: Call, ended: list[str]) -> None:
    answer = call("executions", "delete", "a", "living", "nobody", "b", "--json")

    assert answer.code == 3
    assert (answer.json["count"], answer.json["failed"]) == (4, 2)
    assert {each["id"]: each["error"] and each["error"]["code"] for each in answer.json["executions"]} == {
        "nobody": "execution_not_found",
        "a": None,
        "living": "invalid_transition",
        "b": None,
    }
    assert left(call) == ["living", "c"]


def test_filters_find_what_has_ended(call: Call, ended: list[str]) -> None:
    assert call("executions", "delete", "--tag", "tag-b", "--yes").err == "deleted b\ndeleted 1 of 1 execution\n"
    assert call("executions", "delete", "--status", "failed", "--yes").err == "deleted 0 of 0 executions\n"
    assert call("executions", "delete", "--workflow", "waiting", "--since", "1 hour", "--yes", "--json").json == {
        "executions": [{"id": id, "status": None, "error": None} for id in ("c", "a")],
        "count": 2,
        "failed": 0,
    }
    assert left(call) == ["living"]


def test_a_dry_run_deletes_nothing(call: Call, ended: list[str]) -> None:
    answer = call("executions", "delete", "--workflow", "waiting", "--dry-run")
    assert (answer.code, answer.err) == (0, "would delete 3 executions\n")
    assert [line.split()[0] for line in answer.out.splitlines()] == ["ID", *ended]
    assert call("executions", "delete", "a", "c", "--dry-run", "--json").json == {
        "executions": [{"id": id, "status": "cancelled", "error": None} for id in ("a", "c")],
        "count": 2,
        "failed": 0,
    }
    assert left(call) == ["living", *ended]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "Which executions? Give ids, or filters such as --status or --workflow."),
        (["a", "--status", "failed"], "Give either ids or filters, not both."),
        (["--status", "running"], "'running' is not one of"),
        (["--workflow", "waiting"], "delete 3 executions? Give --yes"),
    ],
)
def test_what_is_not_clear_deletes_nothing(call: Call, ended: list[str], args: list[str], said: str) -> None:
    answer = call("executions", "delete", *args)

    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert left(call) == ["living", *ended]


def test_export_prints_one_document(call: Call) -> None:
    call("run", "order", "id=A-1", "total:=3", "--id", "a")

    document = call("executions", "export", "a").json

    assert (document["format"], document["format_version"]) == ("stepwell.execution", 1)
    assert [step["path"] for step in document["runs"][0]["steps"]] == ["charge", "deliver", "deliver/pack"]


def test_export_writes_a_file_and_never_over_another(call: Call, ended: list[str], project: Path) -> None:
    assert call("executions", "export", "a", "--output", "a.json").err == "exported a to a.json\n"
    assert json.loads(Path("a.json").read_text())["execution"]["id"] == "a"

    refused = call("executions", "export", "b", "--output", "a.json")
    assert (refused.code, "'a.json' is there already. Give --force" in refused.err) == (2, True)
    assert json.loads(Path("a.json").read_text())["execution"]["id"] == "a"

    assert call("executions", "export", "b", "-o", "a.json", "--force").code == 0
    assert json.loads(Path("a.json").read_text())["execution"]["id"] == "b"
    assert [path.name for path in project.iterdir() if "a.json" in path.name] == ["a.json"]


def test_export_that_cannot_be_written_is_explained(call: Call, ended: list[str]) -> None:
    assert call("executions", "export", "nobody", "-o", "a.json").code == 3
    assert not Path("a.json").exists()
    answer = call("executions", "export", "a", "--output", "no/such/folder/a.json")
    assert (answer.code, "no/such/folder/a.json" in answer.err) == (2, True)
