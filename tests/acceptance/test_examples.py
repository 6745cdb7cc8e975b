"""The examples, as a user runs them: workers are processes of their own, and are killed in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from stepwell import App, Execution, StepInfo
from tests.acceptance.harness import Process

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "examples"
NAMES: Final = sorted(file.parent.name for file in EXAMPLES.glob("*/stepwell.toml"))
CRASHING: Final = [name for name in NAMES if name != "order"]
"""Those whose crashes are tested here; `order` has a demo that proves itself."""
LOOK_SECONDS: Final = 0.005
PATIENCE_SECONDS: Final = 15.0


class Project:
    """A copy of an example's folder, and the processes that work there."""

    def __init__(self, name: str, folder: Path) -> None:
        shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns(".stepwell", "__pycache__"))
        self.folder = folder
        self.database = folder / ".stepwell" / "stepwell.db"
        self.app = App("onlooker", database=f"sqlite:///{self.database}")
        self._workers: list[Process] = []
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    # Processes

    def start_worker(self, **environment: object) -> Process:
        """Start `stepwell worker`; what it says is shown when the test fails."""
        popen = subprocess.Popen(
            [sys.executable, "-m", "stepwell", "worker"],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self._environment, **{name: str(value) for name, value in environment.items()}},
        )
        self._workers.append(Process(popen, "worker"))
        return self._workers[-1]

    async def call(self, command: str, **changes: object) -> str:
        """Call the command line as the README does, with other values for these fields; what it prints."""
        words = [word for word in self.words(command) if re.split(":?=", word)[0] not in changes]
        words += [f"{field}:={json.dumps(value)}" for field, value in changes.items()]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "stepwell", *words, cwd=self.folder, env=self._environment, stdout=subprocess.PIPE
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, words
        return said.decode().strip()

    def words(self, command: str) -> list[str]:
        """The arguments of a command in the README."""
        [line] = [line for line in commands(self.folder) if f" {command} " in f"{line} "]
        return shlex.split(line)[1:]

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def show_logs(self) -> str:
        return "\n".join(f"--- worker {worker.pid} exit {worker.exit_code}\n{worker.log}" for worker in self._workers)

    # What happened

    def lines(self, file: str) -> list[str]:
        """What bodies have written, each line on disk before its body went on."""
        path = self.folder / ".stepwell" / file
        return path.read_text().splitlines() if path.exists() else []

    async def steps(self, id: str) -> dict[str, StepInfo]:
        return {step.path: step for step in await self.app.get_execution(id).steps()}

    async def await_step(self, id: str, path: str, status: str) -> StepInfo:
        """Wait until a step has this status."""

        async def look() -> StepInfo | None:
            step = (await self.steps(id)).get(path)
            return step if step is not None and step.status == status else None

        return await until(look, f"{path} of {id} to be {status}")

    async def result(self, id: str) -> Any:
        return await self.app.get_execution(id).result(PATIENCE_SECONDS)


async def until(look: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Look again and again until there is something true."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (found := await look()):
                await asyncio.sleep(LOOK_SECONDS)
            return found
    except TimeoutError:
        raise AssertionError(f"Waited {PATIENCE_SECONDS:g} s for {what}.") from None


def commands(folder: Path) -> list[str]:
    """The calls of stepwell in a README."""
    lines = re.findall(r"^\$ .*/(stepwell .*)$", (folder / "README.md").read_text(), re.MULTILINE)
    return [line.removesuffix(" &") for line in lines]


@pytest.fixture
async def project(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Project]:
    project = Project(request.param, tmp_path / request.param)
    try:
        async with project.app.connected():
            yield project
    finally:
        project.close()
        print(project.show_logs())


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
    assert [line.partition(":")[0] for line in project.lines("outbox.log")] == ["manager@example.org", "ada@example.org"]
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
    assert steps["manager"].started_at == waiting.started_at
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
