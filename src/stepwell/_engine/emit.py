"""`step.emit`: values go to a durable stream without a wait for each.

What is emitted in one turn of the event loop goes into the journal at the end of the turn, and in any case before whatever
else the execution records: so it is durable no later than the end of its step or workflow. When too much is under way,
`emit` waits.

What was emitted before is not emitted again. A body that runs again is compared with its last take, value by value: while it
says the same, nothing is added; where it differs a new take begins, which has its values from the first one on. Workflow
code is replayed, and its branches may come in another order: there a value is left out if it is recorded and has not been
met in this replay yet. The first incarnation has nothing to compare and reads nothing.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from stepwell._engine.outcome import Lost
from stepwell.codec import NO_ANNOTATION, codec_for
from stepwell.errors import PayloadCodecError, SerializationError, StoreUnavailableError
from stepwell.ids import check_stream_name
from stepwell.store.transitions import Emitted, Transition, Verdict

if TYPE_CHECKING:
    from stepwell._engine.call import Call
    from stepwell._engine.runner import Runner
    from stepwell.store.records import EmittedTake

log: Final = logging.getLogger("stepwell")

ROOM_VALUES: Final = 256
"""How many values of an execution may wait for their commit until `emit` waits too."""
ROOM_CHARACTERS: Final = 1024 * 1024
"""The same in characters of JSON."""
HANDED_CHARACTERS: Final = ROOM_CHARACTERS // ROOM_VALUES
"""A longer value is not taken from a thread without a wait."""
UNAVAILABLE_PAUSE_SECONDS: Final = 1.0

_UNTYPED: Final = codec_for(NO_ANNOTATION)


def text_of(runner: Runner, stream: str, value: object) -> str:
    """The JSON text of a value that is to be emitted.

    Raises:
        InvalidInputError: The stream cannot have this name.
        SerializationError: The value cannot be stored and restored, or is too long.
    """
    check_stream_name(stream)
    try:
        text = _UNTYPED.encode(value)
    except SerializationError as error:
        problem = _UNTYPED.refusal(value, "emit") or error
        raise SerializationError(f"A value for stream {stream!r}: {problem}") from error
    if len(text) > runner.host.payload_limit // 4:
        runner.check_size(text, f"A value for stream {stream!r}")
    return text


async def emit(scope: Call, stream: str, text: str) -> None:
    """Queue a value for a stream; it has its place in the journal on return."""
    runner = scope.runner
    if runner.stop is not None:
        await runner.unwound()
    if scope.is_body and not scope.announced:
        runner.announce(scope)
    emitter = runner.emitter
    if emitter is None:
        emitter = runner.emitter = Emitter(runner)
    await emitter.emit(scope, stream, text)


def emit_from_thread(scope: Call, stream: str, text: str) -> bool:
    """Hand a value over to the event loop without waiting for it; False when the caller has to go there and wait.

    The loop works on what threads tell it in the order of the telling, so the value is in the journal before anything that
    this thread does afterwards, and before the end of its body.
    """
    runner = scope.runner
    places, emitter = scope.places, runner.emitter
    place = None if places is None else places.get(stream)
    if place is None or place.lock is not None or emitter is None or runner.stop is not None:
        return False
    return emitter.hand_over(place, text)


class Place:
    """One stream as one run of a body, or the workflow code of an incarnation, emits to it."""

    __slots__ = ("counts", "is_again", "lock", "n", "page", "path", "retold", "stream", "take")

    def __init__(self, path: str, stream: str, *, is_again: bool, is_new: bool) -> None:
        """`is_again`: this incarnation has emitted here before. `is_new`: nobody has."""
        self.path = path
        self.stream = stream
        self.take = 1
        self.n = 0
        """The number of the next value in its take."""
        self.is_again = is_again
        self.lock = None if is_new else asyncio.Lock()
        """Held while a value is compared with what is recorded; None when there is nothing left to compare."""
        self.page: deque[str] | None = None
        """For a body: what is recorded from the n-th value on, as far as it has been read."""
        self.retold = 0
        """How many values of the take before this one begins with."""
        self.counts: Counter[str] | None = None
        """For workflow code: what is recorded and has not been met."""


class _Group(NamedTuple):
    """Values that will be one transition."""

    place: Place
    take: int
    n: int
    values: list[str]


class Emitter:
    """All that an incarnation emits; it hears the journal's answers."""

    __slots__ = (
        "_characters",
        "_closed",
        "_groups",
        "_handed",
        "_lock",
        "_problem",
        "_runner",
        "_seen",
        "_values",
        "_waiting",
    )

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._groups: list[_Group] = []
        self._values = 0
        self._characters = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._seen: set[tuple[str, str]] = set()
        self._problem: Exception | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._handed: list[tuple[Place, str]] = []

    async def emit(self, scope: Call, stream: str, text: str) -> None:
        if self._problem is not None:
            raise self._problem
        if scope.places is None:
            scope.places = {}
        place = scope.places.get(stream)
        if place is None:
            place = scope.places[stream] = self._place(scope.path, stream)
        lock = place.lock
        if lock is None:
            self._append(place, text)
        else:
            async with lock:
                await self._check()
                if place.lock is not None and await self._was_emitted(place, text, positional=scope.is_body):
                    return
                self._append(place, text)
        await self._wait_for_room()

    def hand_over(self, place: Place, text: str) -> bool:
        """Take a value from a thread, unless it is large or there is no room."""
        if len(text) > HANDED_CHARACTERS or self._problem is not None:
            return False
        with self._lock:
            if self._values + len(self._handed) >= ROOM_VALUES:
                return False
            self._handed.append((place, text))
            is_first = len(self._handed) == 1
        if is_first:
            self._runner.loop.call_soon_threadsafe(self._take_over)
        return True

    def _take_over(self) -> None:
        with self._lock:
            handed, self._handed = self._handed, []
        if self._runner.stop is None:
            for place, text in handed:
                self._append(place, text)

    def flush(self) -> None:
        """Put what was emitted into the journal."""
        if not self._groups:
            return
        groups, self._groups = self._groups, []
        runner = self._runner
        if self._closed or isinstance(runner.stop, Lost):
            self._drop(groups)
            return
        now = runner.clock.now()
        for place, take, n, values in groups:
            emitted = Emitted(
                runner.id, runner.epoch, runner.run, place.path, place.stream, take, n, tuple(values), now
            )
            runner.host.journal.note(emitted, self)

    def close(self) -> None:
        """The incarnation is over: nothing may be written for it any more."""
        self._closed = True

    def settled(self, transition: Transition, verdict: Verdict) -> None:
        """The journal's answer."""
        transition = cast("Emitted", transition)
        if isinstance(verdict, Exception):
            log.error("Values of stream %r cannot be stored: %s", transition.stream, verdict)
            self._problem = verdict
        self._settle(transition.values)
        self._runner.settled(transition, verdict)

    def _place(self, path: str, stream: str) -> Place:
        key = path, stream
        is_again = key in self._seen
        self._seen.add(key)
        return Place(path, stream, is_again=is_again, is_new=self._runner.epoch == 1 and not is_again)

    def _append(self, place: Place, text: str) -> None:
        groups = self._groups
        if groups and groups[-1].place is place and groups[-1].take == place.take:
            groups[-1].values.append(text)
        else:
            if not groups:
                self._runner.loop.call_soon(self.flush)
            groups.append(_Group(place, place.take, place.n, [text]))
            self._runner.writes += 1
        place.n += 1
        self._values += 1
        self._characters += len(text)

    def _drop(self, groups: list[_Group]) -> None:
        """Nobody writes this any more."""
        for group in groups:
            self._runner.writes -= 1
            self._settle(group.values)

    def _settle(self, values: list[str] | tuple[str, ...]) -> None:
        self._values -= len(values)
        self._characters -= sum(map(len, values))
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _wait_for_room(self) -> None:
        while self._values > ROOM_VALUES or self._characters > ROOM_CHARACTERS:
            future: asyncio.Future[None] = self._runner.loop.create_future()
            self._waiting.append(future)
            await future
            await self._check()

    async def _check(self) -> None:
        """After a wait: whether the world is still the same."""
        if self._runner.stop is not None:
            await self._runner.unwound()
        if self._problem is not None:
            raise self._problem

    # ---------------------------------------------------------------------------------------- what was emitted before

    async def _was_emitted(self, place: Place, text: str, *, positional: bool) -> bool:
        """Compare a value with what is recorded; what differs is to be appended. The place is locked."""
        if positional:
            return await self._says_the_same(place, text)
        if place.counts is None:
            place.counts = await self._everything(place)
        counts = place.counts
        if counts[text]:
            counts[text] -= 1
            return True
        return False

    async def _says_the_same(self, place: Place, text: str) -> bool:
        if not place.retold:
            recorded = await self._next_recorded(place)
            if recorded == text and place.page is not None:
                place.page.popleft()
                place.n += 1
                return True
            if recorded is not None:
                place.take, place.retold, place.n = place.take + 1, place.n, 0
        while place.n < place.retold:
            # This may be cut at any time: the next value goes on with it.
            page = await self._load(place, place.take - 1, place.n)
            for value in page.values[: place.retold - place.n]:
                self._append(place, value)
            await self._wait_for_room()
        place.lock = place.page = None
        return False

    async def _next_recorded(self, place: Place) -> str | None:
        if place.page is None:
            place.page = deque(await self._last_take(place))
        elif not place.page:
            place.page.extend((await self._load(place, place.take, place.n)).values)
        return place.page[0] if place.page else None

    async def _everything(self, place: Place) -> Counter[str]:
        values = await self._last_take(place)
        counts = Counter[str]()
        n = 0
        while values:
            counts.update(values)
            n += len(values)
            values = (await self._load(place, place.take, n)).values
        place.n = n
        return counts

    async def _last_take(self, place: Place) -> list[str]:
        """The beginning of the last take. In a new run there is none yet: a new one begins."""
        if place.is_again:
            # What the body before it has emitted may be on its way yet: a write tells when it is there to be read.
            await self._runner.make_sure()
        page = await self._load(place, None, 0)
        place.take = page.take if page.values else page.take + 1
        return page.values

    async def _load(self, place: Place, take: int | None, start: int) -> EmittedTake:
        runner = self._runner
        while True:
            try:
                page = await runner.host.database.emitted(
                    runner.id, runner.run, place.path, place.stream, take=take, start=start
                )
            except PayloadCodecError as error:
                raise runner.give_back(error) from error
            except StoreUnavailableError as error:
                # As with writes, that is no fault of the workflow: it waits.
                log.error("Stream %r of execution %s is read again in a while: %s", place.stream, runner.id, error)
                await asyncio.sleep(UNAVAILABLE_PAUSE_SECONDS)
                await self._check()
            else:
                await self._check()
                return page
