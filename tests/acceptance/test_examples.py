"""The examples, as a user runs them: workers are processes of their own, and are killed in the middle."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from typing import Any, Final

import pytest

from stepwell import Execution, ExecutionFailedError
from tests.acceptance.harness import ROOT
from tests.acceptance.project import EXAMPLES, Mark, Project

NAMES: Final = sorted(file.parent.name for file in EXAMPLES.glob("*/stepwell.toml"))
CRASHING: Final = [name for name in NAMES if name != "order"]
"""Those whose crashes are tested here; `order` has a demo that proves itself."""


def example(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("project", [name], indirect=True)


# --------------------------------------------------------------------------------------------------------- approval


@example("approval")
async def test_a_decision_that_comes_while_no_worker_lives_is_kept(project: Project) -> None:
    worker = project.start_worker()
    id = await project.call("trigger")
    await project.await_step(id, "manager", "listening")
    worker.kill()
    asked = project.lines("outbox.log")

    await project.call("send-event")
    project.start_worker()
    outcome = await project.result(id)

    assert (outcome["decision"]["by"], outcome["payment"]) == ("grace", f"payment-{id}")
    assert [line.partition(":")[0] for line in asked] == ["manager@example.org"]
    assert [line.partition(":")[0] for line in project.lines("outbox.log")] == [
        "manager@example.org",
        "ada@example.org",
    ]
    assert len(project.lines("payments.log")) == 1


@example("approval")
async def test_silence_escalates_although_workers_die(project: Project) -> None:
    first = project.start_worker()
    id = await project.call("trigger", answer_within="1 second")
    waiting = await project.await_step(id, "manager", "listening")
    first.kill()
    second = project.start_worker()
    await project.await_step(id, "director", "listening")
    second.kill()

    await project.app.get_execution(id).send_event("decision", {"approved": False, "by": "joan"})
    project.start_worker()
    outcome = await project.result(id)

    assert (outcome["decision"]["by"], outcome["payment"]) == ("joan", None)
    assert [line.partition(":")[0] for line in project.lines("outbox.log")] == [
        "manager@example.org",
        "director@example.org",
        "ada@example.org",
    ]
    assert project.lines("payments.log") == []
    steps = await project.steps(id)
    assert (steps["manager"].started_at, steps["manager"].wake_at) == (waiting.started_at, None)
    assert steps["manager"].finished_at is not None
    assert waiting.wake_at is not None
    assert steps["manager"].finished_at >= waiting.wake_at


# ------------------------------------------------------------------------------------------------------- onboarding


@example("onboarding")
async def test_a_family_goes_on_after_a_crash(project: Project) -> None:
    worker = project.start_worker()
    id = await project.call("trigger", delivery="3 seconds", survey_after="3 seconds")
    parent: Execution[Any] = project.app.get_execution(id)
    await project.await_step(id, "lend", "completed")
    children = {child.id for child in await parent.children()}
    for path in ("mailbox", "badge"):
        child = (await project.steps(id))[path].awaits
        assert child in children
        await project.await_step(child, "delivery", "sleeping")
    worker.kill()
    before = project.lines("deeds.log")

    project.start_worker()
    things = await project.result(id)
    family = await parent.children()
    for child in family:
        if child.workflow == "survey":
            await project.result(child.id)

    assert things == ["hand mailbox to ada", "hand badge to ada", "lend a laptop to ada"]
    assert {child.id for child in family} == children
    assert Counter(child.status for child in await parent.children()) == {"completed": 3, "failed": 1}
    assert sorted(before) == ["lend a laptop to ada", "order badge for ada", "order mailbox for ada"]
    after = project.lines("deeds.log")
    assert after[: len(before)] == before
    assert sorted(after[len(before) :]) == [
        "ask ada how it went",
        "hand badge to ada",
        "hand mailbox to ada",
        "welcome ada",
    ]


# -------------------------------------------------------------------------------------------------------- data flow


@pytest.mark.guarantee("G3")
@pytest.mark.parity("P2.4")
@example("data_flow")
async def test_a_batch_is_stored_once_although_its_transaction_was_cut_off(project: Project) -> None:
    worker = project.start_worker(PACE=2)
    id = await project.call("trigger")
    await project.await_line("bodies.log", f"{id} store")
    worker.kill()
    before = project.rows("SELECT name FROM sqlite_master WHERE name = 'results'")

    project.start_worker()
    summary = await project.result(id)

    assert before == []
    assert summary == {"rows": 4, "total": 1 + 9 + 16 + 25}
    assert project.rows("SELECT * FROM results") == [("B-1", n, 2 * n, n * n) for n in (1, 3, 4, 5)]
    bodies = Counter(project.lines("bodies.log"))
    assert bodies == {f"{id} validate": 1, f"{id} double": 1, f"{id} square": 1, f"{id} store": 2}


@pytest.mark.guarantee("G3")
@pytest.mark.parity("P2.4")
@example("data_flow")
async def test_many_batches_are_stored_once_whoever_dies(project: Project) -> None:
    await project.run("pipeline.py", "60")
    marks: list[Mark] = []
    for stored in (5, 10):
        worker = project.start_worker(PACE=0.01)
        await project.await_rows("results", 8 * stored)
        worker.kill()
        marks.append(await project.mark("bodies.log"))
        assert len(project.rows("SELECT * FROM results")) < 8 * 60, "the worker was killed too late"

    project.start_worker()
    for info in (await project.app.list_executions(limit=1000)).executions:
        await project.result(info.id)

    rows = project.rows("SELECT batch, COUNT(*), COUNT(DISTINCT value) FROM results GROUP BY batch")
    assert rows == [(f"B-{n:03}", 8, 8) for n in range(60)]
    assert all(mark.finished for mark in marks)
    assert [project.begun_again(mark) for mark in marks] == [set(), set()]


# ------------------------------------------------------------------------------------------------------------- saga


@pytest.mark.guarantee("G3")
@example("saga")
async def test_cancellations_go_on_after_crashes(project: Project) -> None:
    first = project.start_worker(SLOW="hotel")
    id = await project.call("trigger")
    await project.await_line("bookings.log", f"cancel hotel: {id}/hotel/1")
    first.kill()
    second = project.start_worker(SLOW="flight")
    await project.await_line("bookings.log", f"cancel flight: {id}/flight/1")
    second.kill()
    middle = await project.steps(id)

    project.start_worker()
    with pytest.raises(ExecutionFailedError, match="no cars in Venice"):
        await project.result(id)

    assert [path for path, step in middle.items() if step.undone] == ["hotel"]
    steps = await project.steps(id)
    assert [path for path, step in steps.items() if step.undone] == ["flight", "hotel"]
    assert steps["#undo/hotel"] == middle["#undo/hotel"]
    assert project.lines("bookings.log") == [
        f"book flight: {id}/flight/1",
        f"book hotel: {id}/hotel/1",
        *[f"cancel hotel: {id}/hotel/1"] * 2,
        *[f"cancel flight: {id}/flight/1"] * 2,
        "tell ada: there are no cars in Venice",
    ]


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.guarantee("G3")
@example("files")
async def test_only_missing_files_are_counted_after_a_crash(project: Project) -> None:
    await project.run("words.py", "100")
    texts = {path.name: path.read_bytes() for path in (project.folder / "texts").iterdir()}
    worker = project.start_worker(PACE=0.1)
    id = await project.call("trigger")
    await project.await_step(id, "count/20", "completed")
    worker.kill()
    mark = await project.mark("bodies.log")
    (project.folder / "texts" / "9999.txt").write_text("too late")

    project.start_worker()
    report = await project.result(id)

    unreadable = [f"texts/{n:04}.txt" for n in range(19, 100, 20)]
    words = sum(len(text.split()) for name, text in texts.items() if f"texts/{name}" not in unreadable)
    assert report == {"files": 100, "words": words, "unreadable": unreadable}
    assert 20 < len(mark.finished) < 100, "the worker was not killed in the middle"
    assert project.begun_again(mark) == set()
    bodies = Counter(project.lines("bodies.log"))
    assert bodies.keys() == {f"{id} list", *(f"{id} count/{n}" for n in range(100))}
    assert bodies.total() <= 101 + 4


# ------------------------------------------------------------------------------------------------- all of them


@pytest.mark.timeout(60)
def test_the_examples_show_tests_that_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "examples"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", CRASHING)
def test_what_a_readme_quotes_stands_in_the_code(name: str) -> None:
    folder = EXAMPLES / name
    code = {line.strip() for file in folder.glob("*.py") for line in file.read_text().splitlines()}
    blocks = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)

    assert blocks
    assert {line.strip() for block in blocks for line in block.splitlines()} - code == set()


def test_the_readme_lists_all_examples() -> None:
    listed = re.findall(r"\]\(examples/(\w+)/\)", (ROOT / "README.md").read_text())

    assert sorted(set(listed)) == NAMES
