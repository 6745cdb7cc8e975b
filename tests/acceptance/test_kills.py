"""kill -9 at any moment in every verb, while clients send events, cancel, pause, wake, restart, retry and fork."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pytest

from stepwell import Execution, InvalidTransitionError
from stepwell.errors import InvalidInputError
from tests.acceptance.harness import TERMINAL, Process, Site
from tests.acceptance.programs import everything
from tests.acceptance.programs.everything import EVENTS, ITEMS, WORDS, expected

SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "1").split(",")]
"""Give more of them for a longer run."""
CREW: Final = 2
MOST_KILLS: Final = 25
MOST_SECONDS: Final = 60.0


@dataclass
class Story:
    """What clients have done, as far as it was acknowledged."""

    dice: random.Random
    triggered: dict[str, str] = field(default_factory=dict[str, str])
    sent: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    cancelled: dict[str, bool] = field(default_factory=dict[str, bool])
    """With undo or not."""
    forks: set[str] = field(default_factory=set[str])

    async def pause(self, most: float) -> None:
        await asyncio.sleep(self.dice.random() * most)

    async def send_events(self, handle: Execution[Any]) -> None:
        """In order, some twice."""
        for number in range(EVENTS):
            await self.pause(2.0)
            for _ in range(self.dice.choice([1, 1, 2])):
                await handle.send_event("go", f"event {number}", id=f"e-{number}")
                self.sent[handle.id, f"e-{number}"] = f"event {number}"

    async def cancel(self, handle: Execution[Any]) -> None:
        await self.pause(3.0)
        undo = self.dice.random() < 0.6
        await handle.cancel("enough", undo=undo)
        self.cancelled[handle.id] = undo

    async def operate(self, handle: Execution[Any]) -> None:
        """Anything that operators do, and then see to it that it ends."""
        for _ in range(self.dice.randint(3, 6)):
            await self.pause(0.8)
            with suppress(InvalidTransitionError, InvalidInputError):
                match self.dice.choice(["pause", "pause", "wake", "restart", "from", "fork", "fork", "cancel"]):
                    case "pause":
                        await handle.pause()
                        await self.pause(0.6)
                        await handle.resume()
                    case "wake":
                        await handle.wake()
                    case "restart":
                        await handle.restart()
                    case "from":
                        await handle.restart(from_step=f"leg-{self.dice.randrange(3)}")
                    case "fork":
                        fork = await handle.fork(from_step=self.dice.choice([None, "leg-0", "leg-1"]))
                        self.forks.add(fork.id)
                    case _:
                        await handle.cancel()
                        assert await handle.status() == "cancelled"
                        await self.pause(0.3)
                        await handle.retry()
        await self.see_through(handle)

    async def see_through(self, handle: Execution[Any]) -> None:
        while (status := await handle.status()) not in TERMINAL:
            assert status != "paused"
            with suppress(InvalidTransitionError):
                await handle.wake()
            await asyncio.sleep(0.1)

    async def retry(self, handle: Execution[Any]) -> None:
        async for info in handle.watch():
            assert info.status not in TERMINAL or info.status == "failed"
        await handle.retry()

    async def begin(self, workflow: str, n: int) -> Execution[Any]:
        await self.pause(5.0)
        id = f"{workflow}-{n}"
        handle = await getattr(everything, workflow).trigger(n, id=id)
        self.triggered[id] = workflow
        return handle

    async def tell(self) -> None:
        deeds: dict[str, tuple[int, Callable[[Execution[Any]], Coroutine[Any, Any, None]] | None]] = {
            "verbs": (4, self.send_events),
            "plain": (2, self.send_events),
            "plodder": (6, self.operate),
            "stumbler": (2, self.retry),
            "saga": (8, None),
            "patient": (5, self.cancel),
        }

        async def one(workflow: str, n: int) -> None:
            deed = deeds[workflow][1]
            handle = await self.begin(workflow, n)
            if deed is not None:
                await deed(handle)

        async with asyncio.TaskGroup() as group:
            for workflow, (count, _) in deeds.items():
                for n in range(count):
                    group.create_task(one(workflow, n))
        for id in sorted(self.forks):
            await self.see_through(everything.app.get_execution(id))


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G3")
@pytest.mark.guarantee("G7")
@pytest.mark.guarantee("G8")
@pytest.mark.timeout(150)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_verb_survives_kills(site: Site, seed: int) -> None:
    dice = random.Random(seed)
    story = Story(random.Random(seed + 1))

    site.prepare(everything.app, nothing)
    site.rows(everything.ENTRIES)
    kills = site.as_client(everything.app, lambda: live(site, story, dice))

    assert kills >= MOST_KILLS // 3
    assert interrupted(site) >= kills // 2
    check_ends(site, story)
    check_records(site)
    check_events(site, story)
    check_children(site)
    check_undos(site, story)
    check_streams(site)


async def nothing() -> None:
    """The file is made by whoever opens it."""


async def live(site: Site, story: Story, dice: random.Random) -> int:
    """Kill workers until all has been told and has ended."""

    def spare() -> Process:
        return site.start("everything", WAIT_FOR_GO=1)

    kills = 0
    crew = [site.start("everything") for _ in range(CREW)]
    spares = [spare() for _ in range(CREW + 1)]
    told = asyncio.create_task(story.tell())
    try:
        async with asyncio.timeout(MOST_SECONDS):
            while not (told.done() and not site.living()):
                await asyncio.sleep(dice.choice([0.02, 0.2, 0.2, 0.8]) * dice.random())
                at_work = site.rows("SELECT pid FROM workers")
                victim = dice.randrange(CREW)
                # Five crashes in a row would be taken for the fault of those that ran.
                if kills < MOST_KILLS and (crew[victim].pid,) in map(tuple, at_work) and site.most_crashes() < 4:
                    crew[victim].kill()
                    kills += 1
                    crew[victim] = spares.pop(0)
                    crew[victim].go()
                    spares.append(spare())
        await told
    except TimeoutError:
        site.ask_for_stacks()
        raise AssertionError(f"not all has ended: {unfinished(site)}") from None
    finally:
        told.cancel()
    return kills


def interrupted(site: Site) -> int:
    """How many bodies were cut short, as far as they begin and end in the ledger."""
    begins = Counter((line.place, line.more.get("run"), line.attempt) for line in site.lines("begin"))
    return sum(count - 1 for count in begins.values())


def unfinished(site: Site) -> list[dict[str, Any]]:
    return [
        dict(row)
        for row in site.rows(
            "SELECT id, status, owner, epoch, run, wake_at, waiting_for, ending, crashes, signal"
            " FROM executions WHERE finished_at IS NULL"
        )
    ]


# ------------------------------------------------------------------------------------------------------ the oracle


def check_ends(site: Site, story: Story) -> None:
    """Everybody has ended, as it should, with the output that a plain calculation gives."""
    ends = {row["id"]: row for row in site.rows("SELECT * FROM stepwell_executions")}
    assert {row["status"] for row in ends.values()} <= set(TERMINAL)
    assert not [row["error"] for row in ends.values() if "CrashLoop" in (row["error"] or "")]
    for id, workflow in {**story.triggered, **dict.fromkeys(story.forks, "plodder")}.items():
        row = ends[id]
        n, told = json.loads(row["input"]), f"{id}: {row['status']} {row['error']}"
        match workflow:
            case "verbs" | "plain":
                assert row["status"] == "completed", told
                assert unmarked(json.loads(row["output"])) == expected(workflow, n)
            case "plodder":
                assert row["status"] == "completed", told
                legs = [str(n + leg) for leg in range(everything.LEGS) for _ in range(2)]
                assert unmarked(json.loads(row["output"])) == [*legs[:4], str(n), *legs[4:]]
            case "stumbler":
                assert (row["status"], site.value("SELECT run FROM executions WHERE id = ?", id)) == ("completed", 2), (
                    told
                )
                assert unmarked(json.loads(row["output"])) == [str(n)] * 3
            case "patient":
                assert row["status"] == "cancelled", told
            case _:
                assert row["status"] == ("aborted" if n % 4 == 3 else "failed"), told
                assert n % 4 == 3 or ("bad item" if n % 4 == 2 else "as agreed") in row["error"], told


def unmarked(value: Any) -> Any:
    """Without the marks of those who made it."""
    if isinstance(value, dict):
        return {key: unmarked(each) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [unmarked(each) for each in cast("list[Any]", value)]
    return value.partition(":")[0]


def check_records(site: Site) -> None:
    """What is recorded was made by one body, never runs again, and is what every replay and the output show."""
    steps = {(row["execution_id"], row["run"], row["path"]): row for row in site.rows("SELECT * FROM steps")}
    changes: defaultdict[tuple[str, int, str], list[Any]] = defaultdict(list)
    for row in site.rows("SELECT * FROM test_steps ORDER BY n"):
        changes[row["execution_id"], row["run"], row["path"]].append(row)
    for key, history in changes.items():
        ended = [row for row in history if row["finished_at"] is not None]
        same = {(row["status"], row["output"], row["error"], row["finished_at"]) for row in ended}
        assert len(same) <= 1, f"{key} changed after its end: {[tuple(row) for row in history]}"
    assert not [key for key, row in steps.items() if row["finished_at"] is None], "open steps of what has ended"

    made = {line.more["value"] for line in site.lines("end")}
    shown: defaultdict[tuple[str, int, str], set[Any]] = defaultdict(set)
    for line in site.ledger():
        key = (line.execution, line.more.get("run", 0), line.path)
        if line.what == "begin" and key in steps and steps[key]["status"] in ("completed", "failed"):
            assert line.at <= steps[key]["finished_at"], f"{key} began again {line}: {dict(steps[key])}"
        if line.what == "seen":
            shown[line.execution, line.more["run"], line.more["of"]].add(line.more["value"])
    for key, values in shown.items():
        assert len(values) == 1, f"{key}: replays saw {values}"
    for key, row in steps.items():
        output = json.loads(row["output"]) if row["output"] else None
        if row["kind"] == "run" and row["status"] == "completed" and isinstance(output, str) and ":" in output:
            assert output in made, f"{key}: no body made {output}"
        if key in shown and row["status"] == "completed" and row["kind"] in ("run", "transaction", "now"):
            assert {output} == shown[key] or row["kind"] == "now", f"{key}: {output}, seen {shown[key]}"
    entries = Counter(row["value"] for row in site.rows("SELECT value FROM entries"))
    recorded = {
        json.loads(row["output"])
        for row in steps.values()
        if row["kind"] == "transaction" and row["status"] == "completed"
    }
    assert set(entries) == recorded
    assert set(entries.values()) <= {1}
    for row in site.rows("SELECT id, workflow, run FROM executions WHERE workflow IN ('verbs', 'plain')"):
        for name in ("map", "effects"):
            items = [
                path for id, run, path in steps if (id, run) == (row["id"], row["run"]) and path.startswith(f"{name}/")
            ]
            assert len([path for path in items if path.count("/") == 1]) == ITEMS
    assert site.value("PRAGMA integrity_check") == "ok"


def check_events(site: Site, story: Story) -> None:
    """Each event that was acknowledged stands there once, and was received by one step."""
    rows = site.rows("SELECT * FROM events WHERE received_at IS NOT NULL")
    assert Counter((row["execution_id"], row["id"]) for row in rows) == Counter(story.sent.keys())
    for row in rows:
        assert row["received_by"] == f"event-{row['id'].removeprefix('e-')}"


def check_children(site: Site) -> None:
    """One child for each step that starts one; attached ones of those that ended badly were cancelled, if they still lived."""
    places = Counter(
        (row["parent_id"], row["parent_run"], row["parent_path"])
        for row in site.rows("SELECT parent_id, parent_run, parent_path FROM executions WHERE parent_id IS NOT NULL")
    )
    assert set(places.values()) <= {1}
    ends = site.rows(
        "SELECT c.id, c.workflow, c.status, c.attached, p.workflow AS parent, p.status AS parent_status"
        " FROM executions AS c JOIN executions AS p ON p.id = c.parent_id"
    )
    for row in ends:
        if row["parent"] == "plodder":  # cancelled with its parent, or with a run that another one has followed
            assert row["status"] in ("completed", "cancelled"), dict(row)
        else:
            assert row["status"] == ("cancelled" if row["workflow"] == "sleeper" else "completed"), dict(row)
    sagas = [row for row in ends if row["parent"] == "saga"]
    assert Counter(row["workflow"] for row in sagas) == {"sleeper": 8, "leaf": 8}
    assert not site.value("SELECT COUNT(*) FROM executions WHERE orphaning = 1")
    begun = site.rows("SELECT status FROM executions WHERE id LIKE 't-%'")
    verbs = site.value("SELECT COUNT(*) FROM executions WHERE workflow = 'verbs'")
    assert [row["status"] for row in begun] == ["completed"] * verbs


def check_undos(site: Site, story: Story) -> None:
    """Completed steps with an undo were undone, once each, in reverse order of their start."""
    for row in site.rows(
        "SELECT id, workflow, status, input FROM stepwell_executions WHERE workflow IN ('saga', 'patient')"
    ):
        steps = site.rows("SELECT * FROM steps WHERE execution_id = ? ORDER BY seq", row["id"])
        undos = [step["path"].removeprefix("#undo/") for step in steps if step["path"].startswith("#undo/")]
        wanted = [step["path"] for step in steps if step["undo"] and step["status"] == "completed"]
        if row["status"] == "aborted" or not story.cancelled.get(row["id"], True):
            assert undos == [], row["id"]
            continue
        assert undos == wanted[::-1], row["id"]
        assert row["workflow"] == "patient" or len(undos) >= 5
        outputs = {step["path"]: json.loads(step["output"]) for step in steps if step["path"] in wanted}
        assert {line.more["of"] for line in site.lines("undone", row["id"])} == set(outputs.values())
        first = {
            line.path: line.at for line in reversed(site.lines("begin", row["id"])) if line.path.startswith("#undo/")
        }
        assert [path.removeprefix("#undo/") for path in sorted(first, key=first.__getitem__)] == undos
        sorry = [step for step in steps if step["path"].startswith("#on_error/")]
        assert len(sorry) == (row["status"] == "failed")


def check_streams(site: Site) -> None:
    """Offsets have no gaps; nothing was emitted twice; a body that says the same again adds nothing."""
    streams: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in site.rows('SELECT * FROM streams ORDER BY execution_id, stream, "offset"'):
        streams[row["execution_id"], row["stream"]].append(row)
    assert len(streams) == 6
    for (id, _), rows in streams.items():
        assert [row["offset"] for row in rows] == list(range(1, len(rows) + 1))
        values = [json.loads(row["value"]) for row in rows]
        words = list(range(WORDS)) if id.startswith("verbs") else []
        assert values == ["begin", *words, "end"], (id, values)
