"""`step.map`, `step.for_each` and `step.batch`: a body for each item.

A fan-out is a scope, and its items are the steps `0`, `1`, … in it. Its own row only says that it runs, how many items there
are, and how it ended; the results stand in the rows of the items and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
from copy import copy
from typing import Any, Final, Literal, NamedTuple

from stepwell._engine.body import BodyWork
from stepwell._engine.call import NOTHING, Call, Work
from stepwell._engine.invoke import invoke
from stepwell._engine.lanes import Lanes
from stepwell._engine.outcome import Outcome
from stepwell._engine.waits import finished
from stepwell.codec import Codec, preview
from stepwell.errors import SerializationError
from stepwell.ids import quote_step_name
from stepwell.store.records import HistoryRow


class Shape(NamedTuple):
    """How much a fan-out has to do."""

    items: int
    concurrency: int
    batch_size: int | None

    def text(self) -> str:
        """What is recorded as the input of the fan-out."""
        if self.batch_size is not None:
            return json.dumps({"items": self.items, "batch_size": self.batch_size})
        return json.dumps({"items": self.items, "concurrency": self.concurrency})

    def differs(self, recorded: str) -> str | None:
        """What makes the items of the record others than these; the concurrency may change."""
        then: dict[str, Any] = json.loads(recorded)
        if then.get("items") != self.items:
            return f"was recorded with {then.get('items')} items and now has {self.items}"
        if then.get("batch_size") != self.batch_size:
            return f"was recorded with batch_size={then.get('batch_size')} and now has batch_size={self.batch_size}"
        return None


class _Discarded(Codec):
    __slots__ = ()

    def snapshot(self, value: object) -> tuple[str, object]:
        return "null", None


DISCARDED: Final = _Discarded()
"""The codec of results that nobody gets."""


class FanOut:
    """The work of a fan-out.

    Args:
        kind: The verb.
        each: The body of every item, without its argument; its input is a preview of all items.
        units: What the bodies get, one for each: items, or slices of them.
        shape: What is recorded of them.
        collects: Whether failed items stand in the result instead of failing the whole.
    """

    __slots__ = ("_collects", "_each", "_errors", "_lanes", "_texts", "_units", "_values", "kind", "shape")

    def __init__(
        self,
        kind: Literal["map", "for_each", "batch"],
        each: BodyWork,
        units: list[Any],
        shape: Shape,
        *,
        collects: bool,
    ) -> None:
        each.args = ()
        self.kind = kind
        self.shape = shape
        self._each = each
        self._units = units
        self._collects = collects
        self._texts: list[str | None] | None = None
        self._values: list[object] = []
        self._errors: dict[int, str] = {}
        """Failed items, in the order in which they failed."""
        self._lanes: Lanes | None = None

    def same_as(self, other: Work) -> bool:
        return isinstance(other, FanOut) and other.shape == self.shape and self._each.same_as(other._each)

    # ---------------------------------------------------------------------------------------------- what is recorded

    def value_of(self, call: Call, text: str) -> object:
        if self.kind == "for_each":
            return None
        if self._texts is None:
            self._load(call)
        missing = self._missing()
        if missing:
            raise call.runner.mismatch(call.path, f"was recorded as completed without its item {missing[0]}")
        return self._result(call, self._decoded_all(call))

    def rebuild(self, call: Call) -> None:
        """Have the undos of the recorded items again; nothing else."""
        self._load(call)

    def _load(self, call: Call) -> list[int]:
        """Take over what is recorded of the items; gives those that have begun and not ended."""
        history = call.runner.history
        texts: list[str | None] = [None] * len(self._units)
        begun: list[int] = []
        failed: list[tuple[int, int, str]] = []
        for index in range(len(texts)) if history else ():
            row = history.get(f"{call.path}/{index}")
            if row is None:
                continue
            match row.status:
                case "completed":
                    texts[index] = row.output or "null"
                    if row.undo:
                        call.runner.take_undo(row, self._each)
                case "failed":
                    failed.append((row.finished_at or 0, index, row.error or ""))
                case _:
                    begun.append(index)
        self._texts = texts
        self._errors = {index: error for _, index, error in sorted(failed)}
        return begun

    def _missing(self) -> list[int]:
        return [index for index, text in enumerate(self._texts or ()) if text is None and index not in self._errors]

    def _decoded_all(self, call: Call) -> list[object]:
        """The recorded values; None where there is none."""
        texts = self._texts or []
        if self.kind == "for_each":
            return [None] * len(texts)
        return [None if text is None else self._decoded(call, index, text) for index, text in enumerate(texts)]

    def _decoded(self, call: Call, index: int, text: str) -> object:
        try:
            return self._each.codec.decode(text)
        except SerializationError as error:
            path = f"{call.path}/{index}"
            raise call.runner.mismatch(
                path, f"recorded a result that does not fit the code any more ({error})"
            ) from error

    def _result(self, call: Call, values: list[object]) -> list[object]:
        """The values with the failures in their places, which are new objects each time."""
        if not self._errors:
            return values
        if not self._collects:
            raise call.runner.mismatch(call.path, "was recorded with failures='collect' and has failed items")
        for index, text in self._errors.items():
            error = values[index] = call.runner.host.errors.restore(text)
            if call.parent is not None and call.parent.is_body:
                # The body may raise it: it is the failure of a step that is out of attempts.
                call.parent.raised = [*(call.parent.raised or ()), error]
        return values

    def _remember(self, call: Call) -> None:
        """Should this call be made anew, by another attempt of the body around it, what has ended must not run again."""
        call.remember_children()
        for index, text in enumerate(self._texts or ()):
            error = self._errors.get(index)
            if text is not None or error is not None:
                item = Call(call.runner, call, str(index), f"{call.path}/{index}", call.seq, self._each)
                item.remember(Outcome("completed", text) if error is None else Outcome("failed", error))

    # ---------------------------------------------------------------------------------------------- running

    async def perform(self, call: Call, record: HistoryRow | None) -> Outcome:
        lanes = self._lanes or self._begin(call, record)
        try:
            await lanes.finish(call)
            if lanes.broken is not None:
                raise lanes.broken
        except BaseException:
            if call.runner.stop is None:
                self._remember(call)
            raise
        return await self._end(call)

    def _begin(self, call: Call, record: HistoryRow | None) -> Lanes:
        runner = call.runner
        call.input = self.shape.text()
        call.started_at = runner.clock.now() if record is None else record.started_at
        begun = self._load(call)
        self._values = self._decoded_all(call)
        # Beside a failure nothing more begins; only what had begun before this incarnation runs to its end.
        missing = begun if self._errors and not self._collects else self._missing()
        lanes = self._lanes = Lanes(missing, self._work_of, self._ended)
        if missing:
            runner.announce(call)
            lanes.start(call, min(self.shape.concurrency, len(missing)))
        return lanes

    def _work_of(self, index: int) -> BodyWork:
        work = copy(self._each)
        work.args = (self._units[index],)
        if work.input is not None:
            work.input = preview(work.args)
        return work

    def _ended(self, index: int, item: Call, outcome: Outcome) -> bool:
        """Keep of an item what the result needs, and let go of the rest."""
        self._units[index] = None
        if outcome.status == "failed":
            self._errors[index] = outcome.text or ""
            return self._collects
        texts, text = self._texts or [], outcome.text or "null"
        texts[index] = text
        if self.kind != "for_each":
            self._values[index] = self._decoded(item, index, text) if item.kept is NOTHING else item.kept
        return True

    async def _end(self, call: Call) -> Outcome:
        if self._errors and not self._collects:
            outcome = Outcome("failed", next(iter(self._errors.values())))
            row = finished(call, self.kind, None, outcome.text)
        else:
            failed = len(self._errors)
            outcome = Outcome("completed", json.dumps({"completed": len(self._units) - failed, "failed": failed}))
            row = finished(call, self.kind, outcome.text)
        try:
            await call.runner.record(row)
        except asyncio.CancelledError:
            call.settle_later(outcome)
            raise
        values, self._values = self._values, []
        if outcome.status == "completed":
            call.kept = None if self.kind == "for_each" else self._result(call, values)
        return outcome


async def fan_out(scope: Call, name: str, work: FanOut, *, inline: bool = False) -> Any:
    """Make the step call of a fan-out; see `invoke`.

    Raises:
        ReplayMismatchError: It was recorded with another number of items.
    """
    runner = scope.runner
    if runner.stop is None and name not in (scope.calls or ()):
        quoted = quote_step_name(name)
        path = f"{scope.path}/{quoted}" if scope.path else quoted
        record = runner.history.get(path)
        if record is not None and record.kind == work.kind and record.input is not None:
            problem = work.shape.differs(record.input)
            if problem is not None:
                raise runner.mismatch(path, problem)
    return await invoke(scope, name, work, inline=inline)
