"""Following the streams of executions: pages from the store, and one shared query for all who wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, NamedTuple

from stepwell._engine.background import start
from stepwell.codec import NO_ANNOTATION, codec_for
from stepwell.endings import POLL_SECONDS
from stepwell.errors import ExecutionNotFoundError, InvalidInputError, StoreUnavailableError
from stepwell.ids import check_stream_name
from stepwell.store.protocol import StoreReader
from stepwell.store.records import StreamRow, StreamWait

log: Final = logging.getLogger("stepwell")

_UNTYPED: Final = codec_for(NO_ANNOTATION)


class StreamItem(NamedTuple):
    """One value of a stream.

    `offset` counts 1, 2, 3, … within the stream; pass the last one as `after` to go on from there. `take` rises when a body
    that ran again emits something else than before: what it emits then begins anew.
    """

    offset: int
    value: Any
    take: int


class Followers:
    """Who in this process waits for the next value of which stream; one shared query for all of them."""

    def __init__(self, reader: StoreReader, url: str) -> None:
        self._reader = reader
        self._url = url
        self._waiting: dict[asyncio.Future[None], StreamWait] = {}
        self._looking: asyncio.Task[None] | None = None
        self._again = False
        self._timer: asyncio.TimerHandle | None = None

    async def pages(
        self, execution_id: str, name: str, after: int, *, follow: bool
    ) -> AsyncIterator[Sequence[StreamRow]]:
        """The rows above `after`, until the run has ended; without `follow` only those that are there."""
        while True:
            page = await self._reader.stream(execution_id, name, after)
            if page is None:
                raise ExecutionNotFoundError(execution_id)
            if page.rows:
                after = page.rows[-1].offset
                yield page.rows
            if page.more:
                continue
            if page.ended or not follow:
                return
            await self._wait(StreamWait(execution_id, name, after))

    async def _wait(self, wait: StreamWait) -> None:
        """Return when there is something to read, or nothing to come."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[future] = wait
        if self._timer is None:
            self._timer = loop.call_later(POLL_SECONDS, self._poll)
        # It may have come between the page and this moment.
        self.look()
        try:
            await future
        finally:
            self._waiting.pop(future, None)

    def look(self) -> None:
        """Ask the database for all that is awaited."""
        if not self._waiting:
            return
        if self._looking is not None:
            self._again = True
            return
        self._looking = start(self._ask(), name="stepwell-streams")

    def close(self) -> None:
        """Let go of everybody who waits."""
        for future in self._waiting:
            if not future.done():
                future.set_exception(StoreUnavailableError(self._url, "it is closed"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looking is not None:
            self._looking.cancel()

    async def _ask(self) -> None:
        try:
            while self._waiting:
                self._again = False
                asked = list(self._waiting.items())
                for index in await self._reader.stream_news([wait for _, wait in asked]):
                    future, _ = asked[index]
                    if not future.done():
                        future.set_result(None)
                    self._waiting.pop(future, None)
                if not self._again:
                    return
        except StoreUnavailableError as error:
            log.warning("Whether streams have gone on is asked again in a while: %s", error)
        finally:
            self._looking = None

    def _poll(self) -> None:
        self._timer = None
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(POLL_SECONDS, self._poll)
            self.look()


def item_of(row: StreamRow) -> StreamItem:
    """The public view of a row."""
    return StreamItem(row.offset, _UNTYPED.decode(row.value), row.take)


def check_stream(name: object, after: object) -> None:
    """Refuse what cannot be the name of a stream, or an offset in it."""
    check_stream_name(name)
    if isinstance(after, bool) or not isinstance(after, int) or not 0 <= after < 1 << 63:
        raise InvalidInputError(f"after must be the offset of a value, or 0 for the beginning, got {after!r}.")
