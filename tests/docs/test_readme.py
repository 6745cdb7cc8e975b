"""What README.md shows works: its code runs, its commands and files are there."""

from __future__ import annotations

import asyncio
import io
import re
import shlex
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import click
import pytest

import stepwell
from stepwell import App, Step
from stepwell.clock import SystemClock
from stepwell.testing import sandbox
from stepwell.types import STATUSES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks(language: str) -> list[Block]:
    """The fenced blocks of a language, with the line at which their text begins."""
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [
        Block(match[1], match[2], README.count("\n", 0, match.start(2)) + 1) for match in found if match[1] == language
    ]


def commands() -> Iterator[list[str]]:
    """The commands of the console blocks as words, several on one line apart."""
    for block in blocks("console"):
        for line in block.text.splitlines():
            assert line.startswith("$ "), f"a console block shows something else than a command: {line!r}"
            for part in re.split("&&|&", line.removeprefix("$ ").partition(" #")[0]):
                if part.strip():
                    yield shlex.split(part)


# ------------------------------------------------------------------------------------------------- python


class Shop(NamedTuple):
    """The module that the python blocks make, what they printed, and the folder in which they ran."""

    module: ModuleType
    printed: str
    folder: Path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """All python blocks, run one after the other as the module `shop`, in a folder of their own."""
    folder, module, printed = tmp_path_factory.mktemp("shop"), ModuleType("shop"), io.StringIO()
    (folder / "stepwell.toml").write_text(blocks("toml")[0].text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("STEPWELL_DATABASE", raising=False)
        patch.setitem(sys.modules, "shop", module)
        with redirect_stdout(printed):
            for block in blocks("python"):
                # Blank lines in front, so that a traceback shows the line of the README.
                quick = block.text.replace('"10 seconds"', '"1 second"')
                exec(compile("\n" * (block.line - 1) + quick, ROOT / "README.md", "exec"), vars(module))  # noqa: S102
        yield Shop(module, printed.getvalue(), folder)


@pytest.fixture
def shop(ran: Shop) -> Any:
    return ran.module


def test_all_blocks_run_and_main_prints_the_parcel(ran: Shop) -> None:
    assert ran.printed == "parcel for payment-A-1\n"
    assert (ran.folder / ".stepwell/stepwell.db").exists()


def test_looking_and_cancelling(shop: Any) -> None:
    async def status() -> str:
        async with shop.app.connected():
            return await shop.order_processing.get_execution("A-2").status()

    asyncio.run(shop.look())

    assert asyncio.run(status()) == "cancelled"


def test_operating(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(shop.operate())

    assert capsys.readouterr().out == "['cancelled', 'cancelled', 'queued'] queued\n"


def test_the_test_of_the_readme_passes(shop: Any) -> None:
    asyncio.run(shop.test_order())


def test_the_failing_order_releases_its_stock(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def declined(order: object) -> str:
        raise stepwell.NonRetryableError("card declined")

    with (
        shop.app.overridden(database="sqlite://", clock=SystemClock(), stubs={"charge": declined}),
        pytest.raises(stepwell.ExecutionFailedError, match="card declined"),
    ):
        shop.app.execute(shop.order_processing, shop.Order("A-9", 5))

    assert "released A-9: card declined" in capsys.readouterr().out


def test_the_failing_trip_is_undone(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        shop.app.overridden(database="sqlite://", clock=SystemClock(), stubs={}),
        pytest.raises(stepwell.ExecutionFailedError, match="do not fit"),
    ):
        shop.app.execute(shop.book_trip, "short trip")

    assert capsys.readouterr().out == "cancelled the hotel of short trip\ncancelled the flight of short trip\n"


async def in_memory(app: App, workflow: Any, input: object) -> Any:
    async with sandbox(app) as tester:
        execution = await workflow.trigger(input)
        await tester.advance("1 minute")
        return await execution.result()


def test_events_children_and_fan_out(shop: Any) -> None:
    async def of_the_event() -> int:
        async with sandbox(shop.app) as tester:
            execution = await shop.invoice.trigger(shop.Order("A-6", 5))
            await tester.settle()
            await shop.invoice.send_event(execution.id, "payment", 4200, id="payment-17")
            await tester.settle()
            return await execution.result()

    assert asyncio.run(of_the_event()) == 4200
    orders = [shop.Order("A-7", 1), shop.Order("A-8", 2)]
    assert asyncio.run(in_memory(shop.app, shop.both, orders)) == ["parcel for payment-A-7", "parcel for payment-A-8"]
    assert asyncio.run(in_memory(shop.app, shop.basket, ["tea", "milk"])) == 700


def test_the_stream_is_read(
    shop: Any, ran: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ran.folder)

    async def tell() -> str:
        async with shop.app.running():
            execution = await shop.story.trigger("fox")
            await execution.result()
            return execution.id

    asyncio.run(shop.read(asyncio.run(tell())))

    assert capsys.readouterr().out == "1 once\n2 upon\n3 a\n4 fox\n"


def test_the_resource_reaches_its_workflow(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with shop.app.overridden(database="sqlite://", clock=SystemClock(), stubs={}):
        shop.app.execute(shop.welcome, "ada@example.org")

    assert "ada@example.org" in capsys.readouterr().out


def test_the_sync_twins_that_are_named_exist(shop: Any) -> None:
    for owner, method in re.findall(r"`(order_processing|execution)\.(\w+_sync)\(", README):
        assert callable(getattr(shop.order_processing if owner == "order_processing" else stepwell.Execution, method))


# ------------------------------------------------------------------------------------------------- the verbs


def public(cls: type) -> dict[str, Any]:
    return {name: value for base in cls.__mro__ for name, value in vars(base).items() if not name.startswith("_")}


def test_the_table_has_all_verbs_and_no_others() -> None:
    verbs = {name for name, value in public(Step).items() if not isinstance(value, property)}
    table = README.partition("### The verbs")[2].partition("\n\nBranches")[0]

    assert set(re.findall(r"step\.(\w+)\(", table)) == verbs


def test_all_that_is_called_on_a_step_exists() -> None:
    names = {*re.findall(r"\bstep\.(\w+)", README), *re.findall(r"current_step\(\)\.(\w+)", README)}

    assert names - public(Step).keys() == set()


def test_the_options_of_run_are_all_named() -> None:
    options = set(Step.run.__kwdefaults__ or ())

    [row] = [line for line in README.splitlines() if line.startswith("| `await step.run(")]
    assert set(re.findall(r"`(\w+)`", row.partition("options:")[2])) == options


def test_all_statuses_that_are_named_exist() -> None:
    [line] = [line for line in README.splitlines() if line.startswith("Statuses: ")]

    assert set(re.findall(r"\w+", line.split("`")[1])) <= set(STATUSES)


def test_errors_that_are_named_exist() -> None:
    assert {name for name in re.findall(r"`(\w+Error)`", README) if not hasattr(stepwell, name)} == set()


# ------------------------------------------------------------------------------------------------- files, commands


def test_links_lead_to_files() -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_folders_that_commands_enter_exist() -> None:
    assert [
        words[1]
        for words in commands()
        if words[0] == "cd" and words[1] != "stepwell" and not (ROOT / words[1]).is_dir()
    ] == []


def test_all_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {words[1] for words in commands() if words[0] == "make"} | set(re.findall(r"`make (\w+)", README))

    assert shown
    assert shown - targets == set()


def cli_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The click command of `stepwell ...`, and the words that are left for it."""
    cli = pytest.importorskip("stepwell.cli.root")
    command: click.Command = cli.cli
    words = list(words)
    while isinstance(command, click.Group):
        context = click.Context(command)
        found = command.get_command(context, words[0]) if words else None
        assert found is not None, f"no command {words[0] if words else '(none)'!r} in {command.name}"
        command = found
        words.pop(0)
    return command, words


def stepwell_commands() -> list[list[str]]:
    shown = [words[1:] for words in commands() if words[0].endswith("/stepwell")]
    inline = [shlex.split(text) for text in re.findall(r"`stepwell ([^`|]+)`", README)]
    group = re.search(r"`stepwell executions ((?:[\w-]+ \|\s)+[\w-]+)`", README)
    listed = [["executions", name] for name in re.split(r"\s*\|\s*", group[1])] if group else []
    return [*shown, *inline, *listed]


@pytest.mark.parametrize("words", stepwell_commands(), ids=" ".join)
def test_all_commands_of_the_command_line_exist(words: list[str]) -> None:
    command, rest = cli_command(words)

    known = {option for parameter in command.params for option in parameter.opts}
    assert [word for word in rest if word.startswith("--") and word not in known] == []


def test_the_commands_of_the_readme_are_found_at_all() -> None:
    assert ["executions", "list", "--limit", "5"] in stepwell_commands()
    assert ["executions", "watch"] in stepwell_commands()


def test_shown_names_are_installed() -> None:
    assert 'stepwell = "stepwell.cli:main"' in (ROOT / "pyproject.toml").read_text()
    assert callable(pytest.importorskip("stepwell.cli").main)


# ------------------------------------------------------------------------------------------------- SQL


def test_views_that_are_named_exist(tmp_path: Path) -> None:
    app = App(database=f"sqlite:///{tmp_path}/test.db")

    @app.workflow
    async def flow(step: Step) -> None: ...

    app.execute(flow)
    connection = sqlite3.connect(tmp_path / "test.db")
    views = set(re.findall(r"`(stepwell_\w+)`", README))
    rows = {view: connection.execute(f"SELECT count(*) FROM {view}").fetchone()[0] for view in views}
    connection.close()

    assert rows == {"stepwell_executions": 1, "stepwell_steps": 0}


def test_own_tables(shop: Any, ran: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger's row comes with its step, the execution with the order."""
    monkeypatch.chdir(ran.folder)
    shop.place(shop.Order("own", 7))
    status: str = shop.order_processing.get_execution_sync("own").status_sync()
    total: int = asyncio.run(run_bookkeeping(shop))
    with closing(sqlite3.connect(".stepwell/stepwell.db")) as database:
        orders = database.execute("SELECT id FROM orders").fetchall()
        ledger = database.execute("SELECT id, total FROM ledger").fetchall()

    assert (status, orders) == ("queued", [("own",)])
    assert (total, ledger) == (5, [("A-5", 5)])


async def run_bookkeeping(shop: Any) -> int:
    async with shop.app.running():
        execution = await shop.bookkeeping.trigger(shop.Order("A-5", 5))
        return await execution.result()


# ------------------------------------------------------------------------------------------------- form


def test_lines_and_rows_are_short() -> None:
    pages = [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]
    lines = [(page.name, line) for page in pages for line in page.read_text().splitlines()]
    verbs = README.partition("### The verbs")[2].partition("\n\nBranches")[0].splitlines()

    assert [line for line in lines if len(line[1]) > 120 and not line[1].startswith(("|", "$"))] == []
    assert [row for row in verbs if len(row) > 200] == []
