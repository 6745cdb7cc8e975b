"""`stepwell executions stream`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Call, Spawn

WORDS = ("talking", '["to", "be\\u001b[31m", "or\\nnot"]')

APP = """
import asyncio
from stepwell import App, Step

app = App("shop")


@app.workflow
async def talking(step: Step, words: list[str]) -> None:
    for word in words:
        await step.emit("words", word)
    await step.emit("counts", {"words": len(words)})


@app.workflow
async def endless(step: Step) -> None:
    await step.emit("words", "first")
    await step.sleep("pause", "1 hour")


@app.workflow
async def counting(step: Step) -> None:
    async def count() -> None:
        for number in range(3):
            await step.emit("numbers", number)
            await asyncio.sleep(0.2)

    await step.run("count", count)


@app.workflow
async def again(step: Step) -> None:
    async def speak() -> None:
        await step.emit("words", f"attempt {step.attempt}")
        if step.attempt == 1:
            raise ValueError("no")

    await step.run("speak", speak, retry_delay=0)
"""


@pytest.fixture(autouse=True)
def app(project: Path) -> None:
    (project / "shop.py").write_text(APP)


def test_text_is_printed_as_it_is_and_other_values_as_json(call: Call) -> None:
    call("run", *WORDS, "--id", "a")

    assert call("executions", "stream", "a", "words").out == "to\nbe[31m\nor not\n"
    assert call("executions", "stream", "a", "counts").json == {"words": 3}


def test_json_tells_offsets_and_takes(call: Call) -> None:
    call("run", *WORDS, "--id", "a")

    lines = call("executions", "stream", "a", "words", "--json", "--after", "1").out.splitlines()

    assert [json.loads(line) for line in lines] == [
        {"offset": 2, "value": "be\u001b[31m", "take": 1},
        {"offset": 3, "value": "or\nnot", "take": 1},
    ]


def test_without_following_only_what_is_there_is_printed(call: Call) -> None:
    call("trigger", "endless", "--id", "a")

    answer = call("executions", "stream", "a", "words", "--no-follow")

    assert (answer.code, answer.out, answer.err) == (0, "", "nothing is in stream 'words'\n")


def test_people_are_told_when_a_body_begins_anew(call: Call) -> None:
    call("run", "again", "--id", "a")

    answer = call("executions", "stream", "a", "words")

    assert answer.out == "attempt 1\nattempt 2\n"
    assert answer.err == "take 2: what follows begins anew\n"


def test_a_process_of_its_own_follows_to_the_end(call: Call, spawn: Spawn) -> None:
    call("trigger", "counting", "--id", "a")
    follower = spawn("executions", "stream", "a", "numbers")
    worker = spawn("worker")

    assert follower.out_until("0") == "0\n"
    answer = follower.end()

    worker.signal(signal.SIGTERM)
    assert (answer.code, answer.out) == (0, "1\n2\n")
    assert worker.end().code == 0


def test_an_interrupted_follower_says_that_the_execution_goes_on(call: Call, spawn: Spawn) -> None:
    call("trigger", "endless", "--id", "a")
    follower = spawn("executions", "stream", "a", "words")
    worker = spawn("worker")
    follower.out_until("first")

    follower.signal(signal.SIGINT)
    answer = follower.end()

    worker.signal(signal.SIGTERM)
    assert answer.code == 130
    assert "execution a goes on" in answer.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("nowhere", "words"), 3), (("a", ""), 2), (("a", "words", "--after", "-1"), 2), (("a",), 2)],
    ids=["execution", "name", "offset", "no name"],
)
def test_mistakes_are_told(call: Call, arguments: tuple[str, ...], code: int) -> None:
    call("trigger", "endless", "--id", "a")

    answer = call("executions", "stream", *arguments)

    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith("error:")
