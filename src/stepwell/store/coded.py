"""A store behind the user's codec: payloads are encoded on their way into another store, and decoded on their way out.

Neither the engine nor the store below knows of it. What is a payload is said by two tables, for all records: `PAYLOADS`
and `PARTS`. Encoding takes time and may be async, so everything that a store answers in order takes its turn here.

What cannot be encoded is refused alone, as what a database cannot take. What cannot be decoded is never passed on as
something else: an execution goes back to the queue, and people see why.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Struct

from stepwell._coded import is_coded, unreadable, unwrapped, wrapped
from stepwell.clock import Clock
from stepwell.errors import (
    InvalidInputError,
    PayloadCodecError,
    SerializationError,
    StepwellError,
    StoreUnavailableError,
)
from stepwell.store.open import OpenStore
from stepwell.store.protocol import Pulse, StepTransaction
from stepwell.store.records import (
    Applied,
    AttemptRow,
    Claimed,
    ClaimResult,
    Deletion,
    EmittedTake,
    Everything,
    ExecutionFilter,
    ExecutionPage,
    ExecutionRow,
    Expired,
    HistoryRow,
    NewRun,
    Owned,
    Recorded,
    RolledBack,
    RunRow,
    Standing,
    StepRow,
    StreamPage,
    StreamRow,
    StreamWait,
    Taken,
    WorkerRow,
)
from stepwell.store.transitions import (
    ChildAwaited,
    ChildStarted,
    ClientTransition,
    Emitted,
    EventSent,
    Exists,
    Failing,
    Finished,
    Listened,
    NewExecution,
    Over,
    Received,
    Refused,
    Released,
    StepFinished,
    StepRetrying,
    StepStarted,
    StepWaiting,
    Transition,
    Triggered,
    TriggeredMany,
    Verdict,
)
from stepwell.types import PayloadCodec

log: Final = logging.getLogger("stepwell.codec")

PAUSE_US: Final = 30_000_000
"""How long an execution that cannot be decoded stays in the queue before a worker looks at it again."""
_NO_FENCE: Final = -1
"""Never the value of a fence: each transition is checked row by row."""

_COLUMNS: Final = ("input", "output", "error", "payload", "value")
"""The columns of all tables that hold a payload."""


class _Texts(Struct, frozen=True):
    """Payloads that are in no record."""

    texts: tuple[str, ...]


PAYLOADS: Final[dict[type, tuple[str, ...]]] = {
    NewExecution: ("input",),
    EventSent: ("payload",),
    StepStarted: ("input",),
    StepWaiting: ("input",),
    Listened: ("input", "error"),
    ChildStarted: ("input",),
    ChildAwaited: ("input",),
    StepRetrying: ("input", "error"),
    StepFinished: ("input", "output", "error"),
    Emitted: ("values",),
    Failing: ("error",),
    Finished: ("output", "error"),
    Received: ("payload",),
    Over: ("text",),
    Recorded: ("output", "error"),
    EmittedTake: ("values",),
    StreamRow: ("value",),
    HistoryRow: ("input", "output", "error"),
    Claimed: ("input", "failing"),
    ExecutionRow: ("input", "output", "error"),
    AttemptRow: ("error",),
    StepRow: ("input", "output", "error"),
    RunRow: ("input", "output", "error"),
    _Texts: ("texts",),
}
"""The fields of each record that hold a payload: JSON text, a list or tuple of such texts, or None."""

PARTS: Final[dict[type, tuple[str, ...]]] = {
    Triggered: ("execution",),
    TriggeredMany: ("executions",),
    ChildStarted: ("child",),
    Claimed: ("history",),
    StepRow: ("attempts",),
    ExecutionPage: ("rows",),
    StreamPage: ("rows",),
}
"""The fields of each record that hold other records, one or a sequence."""

T = TypeVar("T")
Change: TypeAlias = Callable[[str], str]


class CodedStore:
    """An `OpenStore` around another one."""

    def __init__(self, store: OpenStore, codec: PayloadCodec, clock: Clock) -> None:
        self._store = store
        self._codec = _Codec(codec)
        self._clock = clock
        self._last: asyncio.Future[None] | None = None

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def payload_limit(self) -> int | None:
        return self._store.payload_limit

    # ------------------------------------------------------------------------------------------ the engine's side

    def apply(self, batch: Sequence[Transition], worker_id: str | None = None, fence: int = 0) -> Awaitable[Applied]:
        # The turn is taken here, not when the coroutine begins: what is called next must come after.
        return _begun(self._apply(self._turn(), batch, worker_id, fence))

    async def _apply(self, turn: _Turn, batch: Sequence[Transition], worker_id: str | None, fence: int) -> Applied:
        async with turn:
            encoded = await self._codec.encoded(batch)
            sent = [transition for transition in encoded if not isinstance(transition, SerializationError)]
            answer = _begun(self._store.apply(sent, worker_id, fence))
        applied = await answer
        answers = iter(await self._codec.decoded(applied.verdicts))
        verdicts: list[Verdict] = []
        for transition, each in zip(batch, encoded, strict=True):
            if isinstance(each, SerializationError):
                verdicts.append(_refusal(transition, each))
            else:
                verdicts.append(await self._compared(transition, next(answers)))
        return msgspec.structs.replace(applied, verdicts=verdicts)

    async def _compared(self, transition: Transition, verdict: Verdict) -> Verdict:
        """The store below compares encoded texts, which may differ where the inputs do not."""
        if not isinstance(verdict, Exists) or verdict.same:
            return verdict
        match transition:
            case Triggered(execution):
                news: Sequence[NewExecution] = (execution,)
            case TriggeredMany(executions):
                news = executions
            case _:
                return verdict
        wanted = {(new.workflow, new.input) for new in news if new.id == verdict.execution_id}
        row = await self._store.execution(verdict.execution_id)
        if row is not None:
            # Without a row the same id stands twice in what was to be triggered.
            [decoded] = await self._codec.shown([row])
            wanted.add((decoded.workflow, cast("str", decoded.input)))
        return Exists(verdict.execution_id, same=len(wanted) == 1)

    @property
    def takes_async_transactions(self) -> bool:
        return self._store.takes_async_transactions

    async def transact_step(self, worker_id: str, step: StepTransaction) -> Refused | Recorded | RolledBack | None:
        inner = _CodedStep(step, self._codec, asyncio.get_running_loop())
        result = await self._in_turn(lambda: self._store.transact_step(worker_id, inner))
        [decoded] = await self._codec.decoded([result])
        if isinstance(decoded, SerializationError):
            # It is recorded and cannot be read now: sending it again meets the same record, once it can.
            raise StoreUnavailableError(self.url, str(decoded))
        return decoded

    def enlist(self, connection: object, batch: Sequence[ClientTransition]) -> list[Verdict]:
        encoded = [self._codec.encoded_at_once(transition) for transition in batch]
        return self._store.enlist(connection, encoded)

    async def emitted(
        self, execution_id: str, run: int, path: str, stream: str, *, take: int | None = None, start: int = 0
    ) -> EmittedTake:
        found = await self._store.emitted(execution_id, run, path, stream, take=take, start=start)
        [decoded] = await self._codec.decoded([found])
        if isinstance(decoded, SerializationError):
            raise decoded
        return decoded

    async def claim(
        self, worker_id: str, workflows: Collection[str], limit: int, *, suspects: int, now: int
    ) -> ClaimResult:
        result = await self._in_turn(lambda: self._store.claim(worker_id, workflows, limit, suspects=suspects, now=now))
        claimed = await self._readable(worker_id, result.claimed)
        if len(claimed) == len(result.claimed):
            return msgspec.structs.replace(result, claimed=claimed)
        again = self._clock.now() + PAUSE_US
        next_at = again if result.next_at is None else min(result.next_at, again)
        return msgspec.structs.replace(result, claimed=claimed, next_at=next_at)

    async def load(self, worker_id: str, ids: Collection[str]) -> list[Claimed]:
        return await self._readable(worker_id, await self._in_turn(lambda: self._store.load(worker_id, ids)))

    async def _readable(self, worker_id: str, claimed: list[Claimed]) -> list[Claimed]:
        """Those that can be decoded as a whole; the others go back to the queue, for a worker that can."""
        decoded = await self._codec.decoded(claimed)
        released: list[Transition] = []
        for each, result in zip(claimed, decoded, strict=True):
            if isinstance(result, SerializationError):
                log.error("Execution %s goes back to the queue: %s", each.id, result)
                released.append(Released(each.id, each.epoch, self._clock.now() + PAUSE_US, str(result)))
        if released:
            try:
                await self._in_turn(lambda: self._store.apply(released, worker_id, _NO_FENCE))
            except StepwellError:
                log.exception("%d executions that cannot be decoded could not be given back", len(released))
        return [each for each in decoded if not isinstance(each, SerializationError)]

    async def cancel(self, execution_id: str, *, reason: str | None, now: int, undo: bool = False) -> Taken | None:
        return await self._in_turn(lambda: self._store.cancel(execution_id, reason=reason, now=now, undo=undo))

    async def cancel_orphans(self, *, now: int, limit: int) -> list[Taken]:
        return await self._in_turn(lambda: self._store.cancel_orphans(now=now, limit=limit))

    async def standing(self, execution_id: str) -> Standing | None:
        return await self._in_turn(lambda: self._store.standing(execution_id))

    async def pause(self, execution_id: str) -> Taken | None:
        return await self._in_turn(lambda: self._store.pause(execution_id))

    async def resume(self, execution_id: str, *, now: int) -> Taken | None:
        return await self._in_turn(lambda: self._store.resume(execution_id, now=now))

    async def wake(self, execution_id: str, *, run: int, waits: Collection[tuple[str, int]], now: int) -> Taken | None:
        return await self._in_turn(lambda: self._store.wake(execution_id, run=run, waits=waits, now=now))

    async def restart(
        self,
        execution_id: str,
        *,
        expected_run: int,
        request: str,
        from_step: str | None,
        input: str | None,
        now: int,
    ) -> NewRun | None:
        coded = await self._encoded(input)
        return await self._in_turn(
            lambda: self._store.restart(
                execution_id, expected_run=expected_run, request=request, from_step=from_step, input=coded, now=now
            )
        )

    async def retry(self, execution_id: str, *, expected_run: int, request: str, now: int) -> NewRun | None:
        return await self._in_turn(
            lambda: self._store.retry(execution_id, expected_run=expected_run, request=request, now=now)
        )

    async def fork(
        self, execution_id: str, *, new_id: str, from_step: str | None, input: str | None, now: int
    ) -> NewRun | None:
        coded = await self._encoded(input)
        return await self._in_turn(
            lambda: self._store.fork(execution_id, new_id=new_id, from_step=from_step, input=coded, now=now)
        )

    async def _encoded(self, text: str | None) -> str | None:
        if text is None:
            return None
        [encoded] = await self._codec.encoded([_Texts((text,))])
        if isinstance(encoded, SerializationError):
            raise encoded
        return encoded.texts[0]

    async def delete(self, execution_id: str) -> Deletion | None:
        return await self._in_turn(lambda: self._store.delete(execution_id))

    async def expire(self, *, now: int, limit: int, after: tuple[int, str] | None = None) -> Expired:
        return await self._store.expire(now=now, limit=limit, after=after)

    async def register(self, worker: WorkerRow, pulse: Pulse) -> None:
        await self._store.register(worker, pulse)

    async def deregister(self, worker_id: str) -> None:
        await self._in_turn(lambda: self._store.deregister(worker_id))

    async def owned(self, worker_id: str) -> Owned:
        return await self._in_turn(lambda: self._store.owned(worker_id))

    async def workers(self) -> list[WorkerRow]:
        return await self._store.workers()

    async def reap(self, reaper_id: str, worker_id: str, *, dead: bool, crashed: bool, now: int) -> int:
        return await self._store.reap(reaper_id, worker_id, dead=dead, crashed=crashed, now=now)

    async def arrived(self, wanted: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
        return await self._store.arrived(wanted)

    async def finished(self, ids: Collection[str]) -> list[str]:
        return await self._store.finished(ids)

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        return self._store.subscribe(callback)

    async def close(self) -> None:
        await self._store.close()

    # ------------------------------------------------------------------------------------------------- for people

    async def execution(self, execution_id: str) -> ExecutionRow | None:
        row = await self._store.execution(execution_id)
        return None if row is None else (await self._codec.shown([row]))[0]

    async def executions(self, query: ExecutionFilter) -> ExecutionPage:
        return (await self._codec.shown([await self._store.executions(query)]))[0]

    async def steps(self, execution_id: str, run: int | None = None) -> list[StepRow]:
        return await self._codec.shown(await self._store.steps(execution_id, run))

    async def children(self, execution_id: str) -> list[ExecutionRow]:
        return await self._codec.shown(await self._store.children(execution_id))

    async def runs(self, execution_id: str) -> list[RunRow]:
        return await self._codec.shown(await self._store.runs(execution_id))

    async def everything(self, execution_id: str) -> Everything | None:
        found = await self._store.everything(execution_id)
        if found is None:
            return None
        tables = {name: await self._shown_rows(rows) for name, rows in found.tables.items()}
        return msgspec.structs.replace(found, tables=tables)

    async def _shown_rows(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        places = [(number, name) for number, row in enumerate(rows) for name in _COLUMNS if row.get(name) is not None]
        texts = await self._codec.shown([_Texts((rows[number][name],)) for number, name in places])
        shown = [dict(row) for row in rows]
        for (number, name), each in zip(places, texts, strict=True):
            shown[number][name] = each.texts[0]
        return shown

    async def stream(self, execution_id: str, name: str, after: int) -> StreamPage | None:
        page = await self._store.stream(execution_id, name, after)
        return None if page is None else (await self._codec.shown([page]))[0]

    async def stream_news(self, waits: Sequence[StreamWait]) -> list[int]:
        return await self._store.stream_news(waits)

    async def revision(self, execution_id: str) -> tuple[object, ...]:
        return await self._store.revision(execution_id)

    async def counts(self) -> dict[str, int]:
        return await self._store.counts()

    # ------------------------------------------------------------------------------------------------ taking turns

    def _turn(self) -> _Turn:
        before, self._last = self._last, asyncio.get_running_loop().create_future()
        return _Turn(before, self._last)

    async def _in_turn(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask the store below after everything that was asked before, and without waiting for the answers to that."""
        async with self._turn():
            answer = _begun(call())
        return await answer


class _Turn(NamedTuple):
    """A place in the line in front of the store."""

    before: asyncio.Future[None] | None
    mine: asyncio.Future[None]

    async def __aenter__(self) -> None:
        if self.before is not None and not self.before.done():
            try:
                await asyncio.shield(self.before)
            except asyncio.CancelledError:
                # Who gives up waiting neither stops those behind, nor lets them overtake those before.
                self.before.add_done_callback(lambda _: self.mine.set_result(None))
                raise

    async def __aexit__(self, *_: object) -> None:
        # A task begins at the next turn of the loop, in the order in which tasks were made: so does the next in line.
        self.mine.set_result(None)


def _refusal(transition: Transition, problem: SerializationError) -> SerializationError:
    match transition:
        case Triggered(execution):
            ids = execution.id
        case TriggeredMany(executions):
            ids = ", ".join(each.id for each in executions[:3])
        case _:
            ids = transition.execution_id
    return type(problem)(f"The {type(transition).__name__} of execution {ids!r} cannot be stored: {problem}")


def _begun(answer: Awaitable[T]) -> asyncio.Future[T]:
    return asyncio.ensure_future(answer)


class _CodedStep:
    """A step whose record is encoded before it is written, while its transaction is open."""

    def __init__(self, step: StepTransaction, codec: _Codec, loop: asyncio.AbstractEventLoop) -> None:
        self._step = step
        self._codec = codec
        self._loop = loop
        self.execution_id, self.epoch, self.run, self.path = step.execution_id, step.epoch, step.run, step.path

    def begin(self) -> bool:
        return self._step.begin()

    def is_over(self) -> bool:
        return self._step.is_over()

    def call(self, connection: object, /) -> StepFinished:
        record = self._step.call(connection)
        [encoded] = asyncio.run_coroutine_threadsafe(self._codec.encoded([record]), self._loop).result()
        if isinstance(encoded, SerializationError):
            raise _refusal(record, encoded)
        return encoded

    def close(self) -> bool:
        return self._step.close()


class _Codec:
    """The user's codec, applied to records."""

    def __init__(self, codec: PayloadCodec) -> None:
        self._codec = codec

    async def encoded(self, records: Sequence[T]) -> list[T | SerializationError]:
        """Each record with its payloads encoded, or why that cannot be."""
        return await self._changed(records, _any_text, self._encode_all)

    def encoded_at_once(self, record: T) -> T:
        """The record encoded in this thread, where nothing can be awaited; raises why that cannot be."""

        def encode(text: str) -> str:
            try:
                result: Any = self._codec.encode(text.encode(errors="replace"))
            except Exception as error:  # code of the user's
                result = error
            if inspect.iscoroutine(result):
                result.close()
            if inspect.isawaitable(result):
                raise InvalidInputError(
                    "connection= needs a codec whose encode() is a plain function, not an async one."
                )
            stored = _stored(text, result)
            if isinstance(stored, SerializationError):
                raise stored
            return stored

        return _rewritten(record, _any_text, encode)

    async def decoded(self, records: Sequence[T]) -> list[T | SerializationError]:
        """Each record with its payloads decoded, or why that cannot be. What was stored without a codec stays."""
        return await self._changed(records, is_coded, self._decode_all)

    async def shown(self, records: Sequence[T]) -> list[T]:
        """Each record decoded; what cannot be read is replaced by the reason."""
        decoded = await self.decoded(records)
        return [
            _without_coded(record, result) if isinstance(result, SerializationError) else result
            for record, result in zip(records, decoded, strict=True)
        ]

    async def _changed(
        self,
        records: Sequence[T],
        is_meant: Callable[[str], bool],
        change: Callable[[list[str]], Awaitable[list[str | SerializationError]]],
    ) -> list[T | SerializationError]:
        texts = [_texts(record, is_meant) for record in records]
        results = iter(await change([text for each in texts for text in each]))
        changed: list[T | SerializationError] = []
        for record, each in zip(records, texts, strict=True):
            new = list(islice(results, len(each)))
            problem = next((result for result in new if isinstance(result, SerializationError)), None)
            changed.append(problem or (_rewritten(record, is_meant, _one_by_one(new)) if new else record))
        return changed

    async def _encode_all(self, texts: list[str]) -> list[str | SerializationError]:
        results = await _called(self._codec.encode, [text.encode(errors="replace") for text in texts])
        return [_stored(text, result) for text, result in zip(texts, results, strict=True)]

    async def _decode_all(self, texts: list[str]) -> list[str | SerializationError]:
        results = await _called(self._codec.decode, [_octets(text) for text in texts])
        return [_json_text(result) for result in results]


async def _called(fn: Callable[[bytes], Any], data: list[bytes]) -> list[Any]:
    """What the codec gives for each, or the error that it raises; async ones run side by side."""
    results: list[Any] = []
    for each in data:
        try:
            results.append(fn(each))
        except Exception as error:  # code of the user's
            results.append(error)
    waiting = [index for index, result in enumerate(results) if inspect.isawaitable(result)]
    if waiting:
        done = await asyncio.gather(*(results[index] for index in waiting), return_exceptions=True)
        for index, result in zip(waiting, done, strict=True):
            results[index] = result
    return results


def _stored(text: str, result: Any) -> str | SerializationError:
    problem = _failure(result)
    if problem is not None:
        return PayloadCodecError(f"the codec's encode() {problem}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # The codec would hide from the store below what no store takes.
        return SerializationError(f"{error}.")
    return wrapped(result)


def _failure(result: object) -> str | None:
    if isinstance(result, BaseException):
        return f"raised {type(result).__name__}: {result}"
    return None if isinstance(result, bytes) else f"gave a {type(result).__name__} instead of bytes"


def _json_text(result: Any) -> str | SerializationError:
    problem = _failure(result)
    if problem is None:
        try:
            msgspec.json.decode(result, type=msgspec.Raw)
            return cast("bytes", result).decode()
        except (msgspec.MsgspecError, UnicodeDecodeError):
            problem = "gave something else than encode() was given"
    return PayloadCodecError(f"A stored payload cannot be read: the codec's decode() {problem}.")


def _octets(text: str) -> bytes:
    try:
        return unwrapped(text)
    except ValueError:  # somebody has changed the database by hand; the codec will not know it
        return b""


# ------------------------------------------------------------------------------------------------ walking the records


def _any_text(_: str) -> bool:
    return True


def _texts(record: object, is_meant: Callable[[str], bool]) -> list[str]:
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    _rewritten(record, is_meant, note)
    return found


def _one_by_one(texts: Sequence[str | SerializationError]) -> Change:
    following = iter(texts)
    return lambda _: cast("str", next(following))


def _without_coded(record: T, problem: SerializationError) -> T:
    text = unreadable(str(problem))
    return _rewritten(record, is_coded, lambda _: text)


def _rewritten(record: T, is_meant: Callable[[str], bool], change: Change) -> T:
    """The record with `change` made to those of its payloads that are meant, always in the same order."""
    cls: type = type(record)
    if isinstance(record, Over) and record.status not in ("completed", "failed"):
        return record  # its text is the reason that somebody gave
    new: dict[str, Any] = {}
    for name in PAYLOADS.get(cls, ()):
        value: Any = getattr(record, name)
        if isinstance(value, (list, tuple)):
            texts = [change(text) if is_meant(text) else text for text in cast("Sequence[str]", value)]
            new[name] = texts if isinstance(value, list) else tuple(texts)
        elif value is not None and is_meant(value):
            new[name] = change(value)
    for name in PARTS.get(cls, ()):
        part: Any = getattr(record, name)
        if isinstance(part, Struct):
            new[name] = _rewritten(part, is_meant, change)
        else:
            parts = [_rewritten(each, is_meant, change) for each in cast("Sequence[object]", part)]
            new[name] = parts if type(part) is list else tuple(parts)
    if not new:
        return record
    if isinstance(record, Struct):
        return cast("T", msgspec.structs.replace(record, **new))
    return cast("Any", record)._replace(**new)
