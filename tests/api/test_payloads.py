"""Secrets, keys and limits of payloads, as users meet them."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from stepwell import (
    App,
    ConfigError,
    ExecutionExistsError,
    ExecutionFailedError,
    InvalidInputError,
    PayloadCodecError,
    Secret,
    SecretKeyError,
    SerializationError,
    Step,
    SyncStep,
    Workflow,
)
from stepwell import _revealed as revealed
from stepwell.cli import main
from stepwell.testing import sandbox

pytestmark = pytest.mark.anyio

CANARY = "canary-7f3a-51cc"
KEY = Fernet.generate_key().decode()
OTHER_KEY = Fernet.generate_key().decode()
VARIABLE = "STEPWELL_SECRET_KEY"
MASK = "**********"
PAUSE = "31 seconds"
"""After so long a worker looks again at an execution that it could not read."""


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)


@pytest.fixture(autouse=True)
def _nothing_revealed() -> Iterator[None]:
    revealed._texts.clear()
    yield
    revealed._texts.clear()


@dataclass
class Login:
    user: str
    password: Secret[str]


@dataclass
class Session:
    user: str
    token: Secret[str]


class LoginError(Exception):
    pass


def tell(secret: Secret[str]) -> None:
    raise LoginError(f"wrong: {secret.reveal()}")


def hand_back(secret: Secret[str]) -> Secret[str]:
    return Secret(secret.reveal() * 2)


async def sign_in(login: Login) -> Session:
    return Session(login.user, Secret(f"{login.password.reveal()}-token"))


async def unannotated(login: Login):
    return {"token": login.password}


async def refuse(login: Login, wrapped: bool) -> None:
    raise LoginError("no", login.password if wrapped else login.password.reveal())


def site() -> tuple[App, Workflow[Login, Session]]:
    app = App("site")

    @app.workflow(retries=1)
    async def enter(step: Step, login: Login) -> Session:
        session = await step.run("sign-in", sign_in, login)
        same = await step.run("plain", unannotated, login)
        assert same["token"] == login.password
        for wrapped in (True, False):
            try:
                await step.run(f"refuse-{wrapped}", refuse, login, wrapped, retry_delay=0)
            except LoginError as error:
                step.log.warning("refused: %s, %s", error, login)
        await step.run("input", sign_in, login, input={"for": login.password})
        await step.sleep("nap", "1 hour")
        return session

    @app.workflow(retries=0)
    async def failing(step: Step, login: Login) -> None:
        step.log.error("about to fail with %s", login.password.reveal())
        raise LoginError(f"wrong password {login.password.reveal()}", login.password)

    return app, enter


# ---------------------------------------------------------------------------------------------------- the canary


def test_a_secret_is_nowhere_in_clear(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S17."""
    caplog.set_level(logging.DEBUG)
    app, enter = site()
    seen: list[str] = []
    database = f"sqlite:///{tmp_path}/site.db"

    async def live() -> None:
        async with sandbox(app, database=database) as tester:
            execution = await enter.trigger(Login("ann", Secret(CANARY)), id="good")
            failed = await app.workflows["failing"].trigger({"user": "ann", "password": CANARY}, id="bad")
            await tester.settle()
            await tester.crash()
            await tester.advance("2 hours")
            assert (await execution.result()).token.reveal() == f"{CANARY}-token"
            with pytest.raises(ExecutionFailedError) as raised:
                await failed.result()
            seen.append(repr(raised.value) + repr(raised.value.__cause__))
            for each in (execution, failed):
                info, steps = await each.info(), await each.steps()
                seen.append(json.dumps([info.to_dict(), *[step.to_dict() for step in steps]]) + repr((info, steps)))
            for path in tmp_path.iterdir():
                assert CANARY.encode() not in path.read_bytes(), path.name
                assert path.stat().st_mode & 0o777 == 0o600, path.name
            assert {"site.db", "site.db-wal"} <= {path.name for path in tmp_path.iterdir()}

    asyncio.run(live())
    monkeypatch.chdir(tmp_path)
    for key in (KEY, ""):
        monkeypatch.setenv(VARIABLE, key)
        for command in ("describe", "steps", "result"):
            for more in ((), ("--json",)):
                for id in ("good", "bad"):
                    with pytest.raises(SystemExit):
                        main(["--database", database, "executions", command, id, *more])
                    said = capsys.readouterr()
                    seen.append(said.out + said.err)

    everything = "".join(seen) + caplog.text
    assert CANARY not in everything
    assert MASK in everything
    assert "gAAAA" not in "".join(seen)


async def test_views_show_masks_and_results_give_secrets() -> None:
    app, enter = site()

    async with sandbox(app) as tester:
        execution = await enter.trigger(Login("ann", Secret(CANARY)))
        await tester.advance("2 hours")

        info = await execution.info()
        assert info.input == {"user": "ann", "password": MASK}
        assert info.output == Session("ann", Secret(f"{CANARY}-token"))
        assert info.to_dict()["output"] == {"user": "ann", "token": MASK}
        steps = {step.name: step for step in await execution.steps()}
        assert steps["sign-in"].input == [{"user": "ann", "password": MASK}]
        assert steps["plain"].output == {"token": MASK}
        assert steps["input"].input == {"for": MASK}
        assert await app.get_execution(execution.id).result() == {"user": "ann", "token": Secret(f"{CANARY}-token")}


async def test_secrets_reach_other_processes_and_are_masked_in_what_they_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.workflow(retries=0)
    async def flow(step: Step, secret: Secret[str]) -> Secret[str]:
        with pytest.raises(LoginError, match=r"wrong: \*{10}"):
            await step.run("tell", tell, secret, executor="process")
        return await step.run("hand-back", hand_back, secret, executor="process")

    async with sandbox(app, database=f"sqlite:///{tmp_path}/site.db") as tester:
        execution = await flow.trigger(Secret(CANARY))
        await tester.settle()
        assert (await execution.result()).reveal() == CANARY * 2
        assert CANARY not in repr(await execution.steps()) + caplog.text
        assert all(CANARY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------ without a key


@pytest.mark.parametrize("value", ["", "not-a-key"])
def test_a_workflow_with_secrets_needs_a_key_at_its_definition(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VARIABLE, value)
    app = App()

    async def takes(step: Step, login: Login) -> None: ...
    async def gives(step: Step) -> list[Session]: ...
    async def neither(step: Step, name: str) -> int: ...

    for function in (takes, gives):
        with pytest.raises(ConfigError, match=f"Workflow '{function.__name__}' uses Secret.*STEPWELL_SECRET_KEY"):
            app.workflow(function)
    app.workflow(neither)
    assert list(app.workflows) == ["neither"]


async def test_annotations_that_are_resolved_later_are_checked_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    app, ran = App(), list[int]()

    def later(step: SyncStep) -> Any:
        ran.append(1)

    later.__annotations__["return"] = "DefinedLater"
    flow = app.workflow(later)
    monkeypatch.setitem(globals(), "DefinedLater", Session)

    async with sandbox(app):
        with pytest.raises(SecretKeyError, match="set STEPWELL_SECRET_KEY"):
            await flow.trigger()
        assert ((await app.list_executions()).executions, ran) == ([], [])

    async with sandbox(app) as tester:
        monkeypatch.setenv(VARIABLE, KEY)
        execution = await flow.trigger(delay=60)
        monkeypatch.delenv(VARIABLE)
        await tester.advance("2 min")
        assert ((await execution.info()).status, ran) == ("queued", [])


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_a_step_that_gives_secrets_waits_for_a_worker_with_the_key(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sync: bool
) -> None:
    app, ran = App(), list[str]()

    def make(name: str) -> Secret[str]:
        ran.append(name)
        return Secret(CANARY)

    if sync:

        @app.workflow
        def flow(step: SyncStep) -> int:
            step.run("before", ran.append, "before")
            return len(step.run("make", make, "made").reveal())
    else:

        @app.workflow
        async def flow(step: Step) -> int:
            await step.run("before", ran.append, "before")
            return len((await step.run("make", make, "made")).reveal())

    monkeypatch.delenv(VARIABLE)
    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()

        info = await execution.info()
        assert (info.status, ran) == ("queued", ["before"])
        assert "set STEPWELL_SECRET_KEY" in str(info.waiting_for)
        assert "goes back to the queue" in caplog.text

        monkeypatch.setenv(VARIABLE, KEY)
        await tester.advance(PAUSE)
        assert await execution.result() == len(CANARY)
        assert ran == ["before", "made"]


async def test_a_secret_that_no_annotation_shows_fails_its_step_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    app, ran = App(), list[int]()

    def make():
        ran.append(1)
        return [Secret(CANARY)]

    @app.workflow
    async def flow(step: Step) -> object:
        return await step.run("make", make)

    monkeypatch.delenv(VARIABLE)
    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()

        with pytest.raises(ExecutionFailedError, match=r"SerializationError: Step 'make': .*STEPWELL_SECRET_KEY"):
            await execution.result()
        assert ran == [1]


async def test_an_output_that_no_annotation_shows_waits_for_a_worker_with_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> object:
        return Secret(CANARY)

    monkeypatch.delenv(VARIABLE)
    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        assert (await execution.info()).status == "queued"

        monkeypatch.setenv(VARIABLE, KEY)
        await tester.advance(PAUSE)
        assert await execution.result() == Secret(CANARY)


# ----------------------------------------------------------------------------------------------------- another key


@pytest.mark.parametrize("key", [OTHER_KEY, ""], ids=["another", "none"])
async def test_a_replay_that_cannot_read_runs_nothing_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    app, ran = App(), list[str]()

    def make(name: str) -> object:
        ran.append(name)
        return Secret(CANARY)

    @app.workflow
    async def flow(step: Step) -> bool:
        try:
            first = await step.run("first", make, "first")
        except Exception:
            ran.append("swallowed")
            first = None
        await step.sleep("nap", "1 hour")
        second = await step.run("second", make, "second")
        return first == second

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.advance("30 min")
        monkeypatch.setenv(VARIABLE, key)
        await tester.advance("1 hour")
        info = await execution.info()
        assert info.status == "queued"
        assert VARIABLE in str(info.waiting_for)
        assert [step.name for step in await execution.steps()] == ["first", "nap"]

        monkeypatch.setenv(VARIABLE, f"{OTHER_KEY},{KEY}")
        await tester.advance(PAUSE)
        assert await execution.result() is True
        assert ran[0] == "first"
        assert ran[-1] == "second"
        assert ran.count("first") == ran.count("second") == 1


@pytest.mark.parametrize("key", [OTHER_KEY, ""], ids=["another", "none"])
async def test_an_input_that_cannot_be_read_waits_for_a_worker_with_the_key(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    app, ran = App(), list[str]()

    @app.workflow
    async def flow(step: Step, login: Login) -> str:
        ran.append("run")
        return login.password.reveal()

    @flow.on_error
    async def clean_up(step: Step, login: Login, error: BaseException) -> None:
        ran.append("on_error")

    async with sandbox(app) as tester:
        execution = await flow.trigger(Login("ann", Secret(CANARY)), delay=60)
        monkeypatch.setenv(VARIABLE, key)
        await tester.advance("2 min")
        assert ((await execution.info()).status, ran) == ("queued", [])

        monkeypatch.setenv(VARIABLE, KEY)
        await tester.advance(PAUSE)
        assert await execution.result() == CANARY


async def test_on_error_waits_for_a_worker_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    app, ran = App(), list[str]()

    @app.workflow
    async def flow(step: Step, login: Login) -> None:
        monkeypatch.setenv(VARIABLE, OTHER_KEY)
        raise LoginError("no")

    @flow.on_error
    async def clean_up(step: Step, login: Login, error: BaseException) -> None:
        ran.append(login.password.reveal())

    async with sandbox(app) as tester:
        execution = await flow.trigger(Login("ann", Secret(CANARY)))
        await tester.settle()
        assert ((await execution.info()).status, ran) == ("queued", [])

        monkeypatch.setenv(VARIABLE, KEY)
        await tester.advance(PAUSE)
        assert ((await execution.info()).status, ran) == ("failed", [CANARY])


async def test_a_result_that_cannot_be_read_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> Session:
        return Session("ann", Secret(CANARY))

    async with sandbox(app) as tester:
        execution = await flow.trigger()
        await tester.settle()
        monkeypatch.setenv(VARIABLE, OTHER_KEY)

        with pytest.raises(SecretKeyError, match="not the key in STEPWELL_SECRET_KEY") as raised:
            await execution.result()
        assert CANARY not in str(raised.value)
        assert (await execution.info()).to_dict()["output"] == {"user": "ann", "token": MASK}


async def test_the_same_input_is_found_again_although_its_text_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    app, enter = site()

    async with sandbox(app):
        first = await enter.trigger(Login("ann", Secret("a")), id="A", delay=60)
        monkeypatch.setenv(VARIABLE, f"{OTHER_KEY},{KEY}")
        assert await enter.trigger(Login("ann", Secret("a")), id="A", if_exists="return") == first
        with pytest.raises(ExecutionExistsError):
            await enter.trigger(Login("ann", Secret("b")), id="A", if_exists="return")
        with pytest.raises(ExecutionExistsError):
            await enter.trigger(Login("ann", Secret("a")), id="A")


async def test_the_same_secret_input_is_found_again_in_a_transaction_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    app = App()

    @app.workflow
    async def flow(step: Step, token: Secret[str]) -> None: ...

    async with sandbox(app, database=f"sqlite:///{tmp_path}/shop.db"):
        first = await flow.trigger(Secret("a"), id="A", delay=60)
        with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
            assert await flow.trigger(Secret("a"), id="A", if_exists="return", connection=connection) == first
            with pytest.raises(ExecutionExistsError):
                await flow.trigger(Secret("b"), id="A", if_exists="return", connection=connection)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "a\0b", "\ud800", ["x", {"y": float("-inf")}]])
async def test_what_databases_do_not_take_is_refused_where_it_enters(value: Any) -> None:
    """S14."""
    app = App()

    @app.workflow
    async def flow(step: Step, value: Any) -> Any:
        return value

    @app.workflow
    async def returning(step: Step) -> Any:
        with pytest.raises(SerializationError):
            await step.run("body", lambda: value, retries=0)
        return "refused"

    async with sandbox(app) as tester:
        for refused in (value, Secret(value)):
            with pytest.raises(InvalidInputError):
                await flow.trigger(refused)
        execution = await returning.trigger()
        await tester.settle()
        assert await execution.result() == "refused"


async def test_payloads_have_a_limit() -> None:
    """S13."""
    app = App(payload_limit=2048)

    @app.workflow
    async def flow(step: Step, text: str) -> str:
        with pytest.raises(SerializationError, match="at most 2,048 are allowed"):
            await step.run("long", lambda: text * 2, retries=0)
        return text * 2

    async with sandbox(app) as tester:
        with pytest.raises(InvalidInputError, match="at most 2,048 are allowed"):
            await flow.trigger("x" * 2100)
        execution = await flow.trigger("x" * 1500)
        await tester.settle()
        with pytest.raises(ExecutionFailedError, match="at most 2,048 are allowed"):
            await execution.result()


# ----------------------------------------------------------------------------------------------------- App(codec=…)


class Locked:
    """A codec with a key ring, which can be taken away. What it gives differs each time."""

    def __init__(self, *keys: int) -> None:
        self.keys = list(keys)
        self.count = 0
        self.refused = ""

    async def encode(self, data: bytes) -> bytes:
        await asyncio.sleep(0)
        self._check(data.decode())
        self.count += 1
        key = self.keys[0]
        return f"{self.count}.{key}.".encode() + bytes(byte ^ key for byte in data)

    def decode(self, data: bytes) -> bytes:
        _, key, rest = data.split(b".", 2)
        if int(key) not in self.keys:
            raise LookupError(f"key {int(key)} is not here")
        text = bytes(byte ^ int(key) for byte in rest)
        return text

    def _check(self, text: str) -> None:
        if self.refused and self.refused in text:
            raise OSError("the key server is away")


class Shop:
    """Workflows whose every kind of payload says `canary`."""

    def __init__(self, codec: Locked | None) -> None:
        self.ran: list[str] = []
        self.app = app = App(codec=codec)

        @app.workflow(retries=1)
        async def order(step: Step, name: str) -> str:
            made = await step.run("make", self.note, f"{name}-made", retry_delay=0)
            try:
                await step.run("fail", self.fail, name, retry_delay=0)
            except LoginError as error:
                self.ran.append(f"caught {error}")
            heard = await step.listen("go", returns=str)
            child = await step.execute_workflow("child", part, name)
            await step.sleep("nap", "1 hour")
            last = await step.run("last", self.note, "last")
            return f"{made} {heard} {child} {last}"

        @app.workflow
        async def part(step: Step, name: str) -> str:
            return f"{name}-part"

        @app.workflow(retries=0)
        async def failing(step: Step, name: str) -> None:
            raise LoginError(name)

        @failing.on_error
        async def clean_up(step: Step, name: str, error: BaseException) -> None:
            self.ran.append(f"cleaned up {name} {error}")

        self.order, self.failing = order, failing

    async def note(self, text: str) -> str:
        self.ran.append(text)
        return text

    async def fail(self, text: str) -> None:
        raise LoginError(text)


RESULT = f"{CANARY}-made {CANARY}-event {CANARY}-part last"


async def test_all_payloads_go_through_the_codec(tmp_path: Path) -> None:
    shop = Shop(Locked(7))

    async with sandbox(shop.app, database=f"sqlite:///{tmp_path}/shop.db") as tester:
        execution = await shop.order.trigger(CANARY)
        failed = await shop.failing.trigger(CANARY)
        await tester.settle()
        await tester.crash()
        await execution.send_event("go", f"{CANARY}-event")
        await tester.settle()
        await tester.crash()
        await tester.advance("2 hours")

        assert await execution.result() == RESULT
        with pytest.raises(ExecutionFailedError, match=CANARY):
            await failed.result()
        assert shop.ran.count(f"{CANARY}-made") == shop.ran.count("last") == 1
        assert f"cleaned up {CANARY} {CANARY}" in shop.ran
        steps = {step.name: step for step in await execution.steps()}
        assert (steps["make"].input, steps["make"].output) == ([f"{CANARY}-made"], f"{CANARY}-made")
        assert [attempt.error.message for attempt in steps["fail"].attempts] == [CANARY] * 2
        assert (await execution.info()).input == CANARY
        for path in tmp_path.iterdir():
            assert CANARY.encode() not in path.read_bytes(), path.name


async def test_streams_own_tables_new_runs_and_exports_go_through_the_codec(tmp_path: Path) -> None:
    app = App(codec=Locked(7))

    @app.workflow
    async def story(step: Step, name: str) -> str:
        def store(connection: sqlite3.Connection, text: str) -> str:
            connection.execute("CREATE TABLE IF NOT EXISTS counts (n)")
            connection.execute("INSERT INTO counts VALUES (?)", (len(text),))
            return text

        stored = await step.transaction("store", store, name)
        await step.emit("news", stored)
        await step.map("map", [name, name], str.upper)
        return stored

    async with sandbox(app, database=f"sqlite:///{tmp_path}/shop.db") as tester:
        execution = await story.trigger(CANARY)
        await execution.result(5)
        await execution.restart(input=f"{CANARY}-again")
        assert await execution.result(5) == f"{CANARY}-again"
        copy = await execution.fork(input=f"{CANARY}-copy")
        assert await copy.result(5) == f"{CANARY}-copy"
        await tester.settle()

        assert [run.output for run in await execution.runs()] == [CANARY, f"{CANARY}-again"]
        assert [item.value async for item in execution.stream("news")] == [CANARY, f"{CANARY}-again"]
        document = await execution.export()
        assert [run["input"] for run in document["runs"]] == [CANARY, f"{CANARY}-again"]
        assert [item["value"] for item in document["streams"]] == [CANARY, f"{CANARY}-again"]
        assert document["runs"][0]["steps"][0]["output"] == CANARY
        for path in tmp_path.iterdir():
            assert CANARY.encode() not in path.read_bytes(), path.name


async def test_without_a_codec_nothing_stands_before_the_store() -> None:
    async with sandbox(App()) as tester:
        assert type(tester.app.client.store).__name__ == "SqliteStore"


async def test_a_codec_may_come_later_and_its_keys_may_change(tmp_path: Path) -> None:
    codec = Locked(7)
    database = f"sqlite:///{tmp_path}/shop.db"
    plain, coded = Shop(None), Shop(codec)
    async with sandbox(plain.app, database=database) as tester:
        execution = await plain.order.trigger(CANARY, id="A")
        await tester.settle()

    async with sandbox(coded.app, database=database) as tester:
        await coded.order.get_execution("A").send_event("go", f"{CANARY}-event")
        await tester.settle()
    codec.keys = [9, 7]
    async with sandbox(coded.app, database=database) as tester:
        await tester.advance("2 hours")
        assert await coded.order.get_execution("A").result() == RESULT

    assert [*plain.ran, *coded.ran].count(f"{CANARY}-made") == 1
    assert execution.id == "A"


@pytest.mark.parametrize("loss", ["key", "codec"])
async def test_what_cannot_be_decoded_waits_and_is_not_done_again(tmp_path: Path, loss: str) -> None:
    codec = Locked(7)
    database = f"sqlite:///{tmp_path}/shop.db"
    shop = Shop(codec)
    async with sandbox(shop.app, database=database) as tester:
        execution = await shop.order.trigger(CANARY, id="A")
        await shop.failing.trigger(CANARY, id="F", delay=1)
        await tester.settle()
        await execution.send_event("go", f"{CANARY}-event")

    codec.keys = [9]
    other = Shop(codec if loss == "key" else None)
    async with sandbox(other.app, database=database) as tester:
        await tester.advance("2 min")
        for id in ("A", "F"):
            info = await other.app.get_execution(id).info()
            assert (info.status, other.ran) == ("queued", [])
            assert ("key 7 is not here" if loss == "key" else "opened the database without that codec") in str(
                info.waiting_for
            )
            assert "cannot be read" in str(info.to_dict()["input"])
        assert {step.status for step in await other.app.get_execution("A").steps()} <= {
            "completed",
            "failed",
            "listening",
        }

    codec.keys = [9, 7]
    async with sandbox(shop.app, database=database) as tester:
        for _ in range(3):
            await tester.advance("1 hour")
        assert await shop.order.get_execution("A").result() == RESULT
        assert (await shop.failing.get_execution("F").status()) == "failed"
        assert shop.ran.count(f"{CANARY}-made") == 1


async def test_a_result_that_cannot_be_decoded_is_a_clear_error() -> None:
    codec = Locked(7)
    shop = Shop(codec)

    async with sandbox(shop.app) as tester:
        done = await shop.app.workflows["part"].trigger(CANARY)
        failed = await shop.failing.trigger(CANARY)
        await tester.settle()
        codec.keys = [9]

        for execution in (done, failed):
            with pytest.raises(PayloadCodecError, match="key 7 is not here"):
                await execution.result()
            assert (await execution.info()).is_terminal


async def test_one_value_that_cannot_be_encoded_fails_its_step_alone() -> None:
    codec = Locked(7)
    app = App(codec=codec)

    @app.workflow(retries=0)
    async def flow(step: Step, text: str) -> str:
        with pytest.raises(SerializationError, match="the codec's encode\\(\\) raised OSError: the key server is away"):
            await step.run("bad", lambda: "".join(["b", "ad"]))
        return await step.run("good", lambda: text)

    async with sandbox(app) as tester:
        codec.refused = '"bad"'
        execution = await flow.trigger("fine")
        with pytest.raises(PayloadCodecError, match="the key server is away"):
            await flow.trigger("bad")
        await tester.settle()

        assert await execution.result() == "fine"
        assert [step.status for step in await execution.steps()] == ["failed", "completed"]


async def test_a_failure_that_cannot_be_recorded_is_no_outcome() -> None:
    """Neither of a step, which workflow code would act upon without a record, nor of an execution."""
    codec = Locked(7)
    shop = Shop(codec)

    @shop.app.workflow(retries=0)
    async def flow(step: Step) -> str:
        with suppress(Exception):
            await step.run("bad", shop.fail, "no")
        return await step.run("next", shop.note, "next")

    @shop.app.workflow
    async def without_clean_up(step: Step) -> None:
        raise LoginError("no")

    async with sandbox(shop.app) as tester:
        codec.refused = "LoginError"
        executions = [await flow.trigger(), await shop.failing.trigger("x"), await without_clean_up.trigger()]
        await tester.settle()
        for execution in executions:
            info = await execution.info()
            assert info.status == "queued"
            assert "the key server is away" in str(info.waiting_for)
        assert shop.ran == []

        codec.refused = ""
        await tester.advance(PAUSE)
        assert await executions[0].result() == "next"
        assert [await execution.status() for execution in executions[1:]] == ["failed", "failed"]
        assert shop.ran.count("next") == 1


async def heard_first(shop: Shop, step: Step) -> None:
    await step.listen("go")


async def failed_first(shop: Shop, step: Step) -> None:
    await step.run("bad", shop.fail, "no")


async def started_first(shop: Shop, step: Step) -> None:
    await step.execute_workflow("child", shop.app.workflows["part"], "x")


@pytest.mark.parametrize("first", [heard_first, failed_first, started_first], ids=lambda first: first.__name__)
async def test_no_recorded_outcome_that_cannot_be_read_looks_like_a_failure(
    tmp_path: Path, first: Callable[[Shop, Step], Coroutine[Any, Any, None]]
) -> None:
    database = f"sqlite:///{tmp_path}/shop.db"

    def shop_with(codec: Locked | None) -> tuple[Shop, Workflow[None, str]]:
        shop = Shop(codec)

        @shop.app.workflow(retries=0)
        async def flow(step: Step) -> str:
            with suppress(Exception):
                await first(shop, step)
            await step.sleep("nap", "1 hour")
            return await step.run("next", shop.note, "next")

        return shop, flow

    shop, flow = shop_with(Locked(7))
    async with sandbox(shop.app, database=database) as tester:
        execution = await flow.trigger(id="A")
        await tester.settle()
        if first is heard_first:
            await execution.send_event("go", 1)
        await tester.settle()
        assert await execution.status() == "sleeping"

    blind, blind_flow = shop_with(None)
    async with sandbox(blind.app, database=database) as tester:
        await tester.advance("2 hours")
        info = await blind_flow.get_execution("A").info()
        assert (info.status, blind.ran) == ("queued", [])
        assert "opened the database without that codec" in str(info.waiting_for)


async def test_the_same_input_is_found_again_with_a_codec_that_differs_each_time() -> None:
    shop = Shop(Locked(7))

    async with sandbox(shop.app):
        first = await shop.order.trigger("a", id="A", delay=60)
        assert await shop.order.trigger("a", id="A", if_exists="return") == first
        with pytest.raises(ExecutionExistsError):
            await shop.order.trigger("b", id="A", if_exists="return")


async def test_secrets_are_encrypted_inside_of_what_the_codec_gets() -> None:
    codec, seen = Locked(7), list[bytes]()
    app = App(codec=codec)
    encode = codec.encode

    async def spy(data: bytes) -> bytes:
        seen.append(data)
        return await encode(data)

    codec.encode = spy

    @app.workflow
    async def flow(step: Step, login: Login) -> Secret[str]:
        return login.password

    async with sandbox(app) as tester:
        execution = await flow.trigger(Login("ann", Secret(CANARY)))
        await tester.settle()
        assert await execution.result() == Secret(CANARY)
        assert seen
        assert CANARY.encode() not in b"".join(seen)


@pytest.mark.parametrize("codec", ["zlib", 5, object()], ids=["text", "number", "object"])
def test_what_is_no_codec_is_refused(codec: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"codec must be an object with the methods encode\(data\)"):
        App(codec=codec)
