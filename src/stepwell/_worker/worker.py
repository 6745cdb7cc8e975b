"""A process that executes: it claims runnable executions, keeps them in memory, and gives up what it has lost.

Start: register the row (from then on the store renews the lease), then the loops. Stop: claim nothing more, let bodies
end for the grace period, give the rest back, then end the loops, and the row last, so that until then nobody takes over.

What belongs to this worker is in the database; `residents` only mirrors it. Both are compared whenever the fence has
moved, once a lease period, and after anything that may have gone unheard: what is resident without being owned stops
unwritten, what is owned without being resident starts.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from stepwell._engine.arrivals import Arrivals
from stepwell._engine.background import start
from stepwell._engine.call import Call
from stepwell._engine.deadlines import Deadlines
from stepwell._engine.definition import Definition
from stepwell._engine.failure import ErrorRegistry
from stepwell._engine.journal import Journal
from stepwell._engine.outcome import Aborted, Cancelled, Completed, Failed, Lost, Park, Release, Stop
from stepwell._engine.ports import Executor, Processes
from stepwell._engine.runner import Runner
from stepwell._engine.unwinding import HURRY_SECONDS
from stepwell._worker import process
from stepwell._worker.culprit import owner_of
from stepwell._worker.loop import Loop
from stepwell._worker.pulse import LoopPulse
from stepwell._worker.reaper import LOOK_SECONDS, Reaper
from stepwell._worker.retention import Retention
from stepwell.clock import Clock
from stepwell.errors import StoreUnavailableError
from stepwell.ids import Ids, Rng
from stepwell.retry import RetryPolicy
from stepwell.store.protocol import Store
from stepwell.store.records import Claimed, Owned, WorkerRow
from stepwell.store.transitions import NewExecution, Transition, Verdict

log: Final = logging.getLogger("stepwell.worker")

CLAIM_AT_ONCE: Final = 500
POLL_SECONDS: Final = 2.0
"""How often the queue is looked at even if nothing was heard."""
LAST_WRITES_SECONDS: Final = 0.25
"""How long, on leaving, the database may take to write what is left."""
REBIRTH_SECONDS: Final = 1.0
"""How long until a worker that could not register again after a lost lease tries once more."""
RECONCILE_SECONDS: Final = 15.0
ORPHANS_SECONDS: Final = 5.0
"""How often one looks for children whose parent has ended badly, even if nothing was heard."""
ORPHANS_AT_ONCE: Final = 500
EXPECTED_AT_ONCE: Final = 1_000
SLOW_BODY_US: Final = 1_000_000
"""A body that runs longer is shown as running."""


class Worker:
    """The executions of one process."""

    def __init__(
        self,
        *,
        name: str,
        store: Store,
        journal: Journal,
        clock: Clock,
        rng: Rng,
        ids: Ids,
        executor: Executor,
        processes: Processes,
        errors: ErrorRegistry,
        definitions: Mapping[str, Definition],
        policy: Callable[[Definition], RetryPolicy],
        step: Callable[[Runner], object],
        resources: object,
        stubs: Mapping[str, Callable[..., object]],
        concurrency: int,
        payload_limit: int,
        strict_names: bool,
        record_arguments: bool,
        on_ended: Callable[[str, Stop], object],
        version: str,
    ) -> None:
        self.database = store
        self.clock = clock
        self.rng = rng
        self.journal = journal
        self.executor = executor
        self.processes = processes
        self.errors = errors
        self.resources = resources
        self.stubs = stubs
        self.payload_limit = payload_limit
        self.strict_names = strict_names
        self.record_arguments = record_arguments
        self.deadlines = Deadlines(clock)
        self.arrivals = Arrivals()
        self.bodies: dict[Call, int] = {}
        self.base_context = contextvars.copy_context()
        self.residents: dict[str, Runner] = {}
        self.worker_id = ids.new()
        self._name = name
        self._store = store
        self._ids = ids
        self._definitions = definitions
        self._policy = policy
        self._step = step
        self._concurrency = concurrency
        self._on_ended = on_ended
        self._version = version
        self._reserved = 0
        self._backlog = True
        self._draining = False
        self._empty = asyncio.Event()
        self._next_look = None
        self._next_look_at: int | None = None
        self._reaper = Reaper(store, clock, self.worker_id)
        self._claiming = Loop("claim", self._claim, interval=POLL_SECONDS)
        self._reaping = Loop("reap", self._reap, interval=LOOK_SECONDS)
        self._reconciling = Loop("reconcile", self._reconcile, interval=RECONCILE_SECONDS)
        self._announcing = Loop("announce", self._announce, interval=SLOW_BODY_US / 4_000_000)
        self._hearing = Loop("arrivals", self._hear, interval=POLL_SECONDS)
        self._orphans = Loop("orphans", self._cancel_orphans, interval=ORPHANS_SECONDS)
        self._loops = (
            self._claiming,
            self._reaping,
            self._reconciling,
            self._announcing,
            self._hearing,
            self._orphans,
        )
        self._retention = Retention(
            store, clock, rng, self.deadlines, (definition.options.retention for definition in definitions.values())
        )
        self._pulse: LoopPulse | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._rebirth: asyncio.Task[None] | None = None

    # ---------------------------------------------------------------------------------------------- start and stop

    async def start(self) -> None:
        await self._register()
        self._unsubscribe = self._store.subscribe(self._heard)
        for loop in self._loops:
            loop.start()
        self._retention.start()

    async def stop(self, grace: float) -> None:
        """Claim nothing more, let bodies end for `grace` seconds, and give the rest back."""
        await self._claiming.stop()
        if self._rebirth is not None:
            self._rebirth.cancel()
        await self.drain(grace)
        for loop in self._loops:
            await loop.stop()
        await self._retention.stop()
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._next_look is not None:
            self._next_look.cancel()
        try:
            async with asyncio.timeout(LAST_WRITES_SECONDS):
                await self.journal.flush()
                await self._store.deregister(self.worker_id)
        except (TimeoutError, StoreUnavailableError) as error:
            log.error(
                "The worker leaves without having written everything; others take over once its lease ends: %s", error
            )
        self.journal.worker_id = None
        self.journal.on_fence = None
        self.journal.on_woken = None
        if self._pulse is not None:
            self._pulse.stop()
        self.deadlines.close()

    def is_lease_sure(self) -> bool:
        """Whether the lease is known to be valid now."""
        return self._pulse is not None and self.clock.uptime() < self._pulse.lease_until

    async def drain(self, grace: float) -> None:
        """Let what runs come to a good place: bodies end, no further one starts, everything goes back to the queue."""
        self._draining = True
        for runner in list(self.residents.values()):
            runner.drain()
        if not await self._emptied(grace):
            log.warning("%d executions are given back although their bodies still run", len(self.residents))
            for runner in list(self.residents.values()):
                runner.hurry = True
                runner.request_stop(Release(runner.claimed.created_at))
            if not await self._emptied(1.1 * HURRY_SECONDS):
                log.error("%d executions did not leave in time", len(self.residents))

    @property
    def id(self) -> str:
        """The id of this worker; a new one for each start of the process, and after a lost lease."""
        return self.worker_id

    @property
    def resident(self) -> int:
        """How many executions are in memory."""
        return len(self.residents)

    def running_steps(self) -> list[str]:
        """Where bodies run, as `execution id/path`."""
        return [f"{call.runner.id}/{call.path}" for call in self.bodies]

    def has_threads(self) -> bool:
        """Whether workflow code runs in threads, which nobody sees between two step calls."""
        return any(runner.threads for runner in self.residents.values())

    def is_settled(self) -> bool:
        """Whether nothing moves: every execution in memory waits for the clock, and everything is written."""
        return (
            not self._backlog
            and self._reserved == 0
            and not self.journal.is_busy()
            and not self._retention.is_busy
            and all(runner.is_waiting() for runner in self.residents.values())
        )

    async def crash(self) -> None:
        """Lose everything that is in memory, as if the process had died, and begin again as a new worker; for tests."""
        self._lost(crashed=True)
        if self._rebirth is not None:
            await self._rebirth

    async def _emptied(self, seconds: float) -> bool:
        self._empty.clear()
        if self.residents:
            try:
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
            except TimeoutError:
                return False
        return True

    async def _register(self) -> None:
        pid = os.getpid()
        row = WorkerRow(
            id=self.worker_id,
            host=process.host_name(),
            boot_id=process.boot_id(),
            pid=pid,
            pid_started_at=process.started_at(pid),
            app=self._name,
            version=self._version,
            concurrency=self._concurrency,
            started_at=self.clock.now(),
        )
        pulse = LoopPulse(self._lost, partial(owner_of, self.residents, self.bodies))
        try:
            await self._store.register(row, pulse)
        except BaseException:
            pulse.stop()
            raise
        self._pulse = pulse
        self.journal.worker_id = self.worker_id
        self.journal.fence = 0
        self.journal.on_fence = self._fence_moved
        self.journal.on_woken = self.look

    # ---------------------------------------------------------------------------------------------- direct starts

    def admit(self, definition: Definition) -> bool:
        """Take a place for a direct start, if there is one and nobody waits in the queue."""
        if self._backlog or self._draining or self.journal.worker_id is None or not self._free():
            return False
        if self._definitions.get(definition.name) is not definition:
            return False
        self._reserved += 1
        return True

    def starter(self, definition: Definition, new: NewExecution) -> _Starter:
        return _Starter(self, definition, new)

    def trigger_settled(self, definition: Definition, new: NewExecution, verdict: Verdict) -> None:
        """A direct start has its answer."""
        self._reserved -= 1
        if verdict is not None:
            return
        if new.owner != self.worker_id:
            # Written under an id that this worker has lost since; whoever reaped it gave the execution to the queue.
            self.look()
            return
        claimed = Claimed(
            id=new.id,
            workflow=new.workflow,
            epoch=1,
            run=1,
            generation=1,
            input=new.input,
            created_at=new.created_at,
            started_at=new.created_at,
            deadline_at=new.deadline_at,
            options=new.options,
            version=new.version,
            crashes=0,
            ending=None,
            reason=None,
            signal=0,
            failing=None,
            history=[],
        )
        self._begin(definition, claimed)

    def _free(self) -> int:
        return self._concurrency - len(self.residents) - self._reserved

    # ---------------------------------------------------------------------------------------------- residents

    def _begin(self, definition: Definition, claimed: Claimed) -> None:
        runner = Runner(self, definition, claimed, self._policy(definition))
        runner.step = self._step(runner)
        self.residents[claimed.id] = runner
        runner.start()
        if self._draining:
            runner.drain()

    def left(self, runner: Runner, stop: Stop) -> None:
        """A runner is over and everything about it is written."""
        if self.residents.get(runner.id) is runner:
            del self.residents[runner.id]
        if runner.signalled:
            # It left without having seen what it was told, and may be claimable at once.
            self.look()
        match stop:
            case Park(wake_at=int(wake_at)) | Release(wake_at=wake_at):
                self._look_at(wake_at)
            case Park():
                pass
            case Completed() | Failed() | Aborted() | Cancelled() | Lost():
                self._on_ended(runner.id, stop)
                self.ended(runner.id, bad=not isinstance(stop, Completed))
        if isinstance(stop, Lost):
            # While it was on its way out it may have become ours again, unseen.
            self._reconciling.wake()
        if not self._draining and (self._backlog or runner.claimed.crashes):
            # One that was a suspect made others wait, who stand in the queue unseen.
            self._claiming.wake()
        if not self.residents:
            self._empty.set()

    def ended(self, execution_id: str, *, bad: bool) -> None:
        """An execution has ended, or may have."""
        self.arrivals.end(execution_id)
        self._retention.ended()
        if bad:
            self._orphans.wake()

    def event(self, execution_id: str, name: str) -> None:
        """An execution, here or outside of memory, has an event."""
        self.arrivals.event(execution_id, name)
        if execution_id not in self.residents:
            self.look()

    def has_room(self) -> bool:
        """Whether there is room in memory for all who want to run."""
        return not self._backlog or self._free() > 0

    def is_resident(self, execution_id: str) -> bool:
        return execution_id in self.residents

    def taken(self, execution_id: str) -> None:
        """This process took an execution away from itself (a cancel)."""
        runner = self.residents.get(execution_id)
        if runner is not None:
            runner.request_stop(Lost())
        self._reconciling.wake()

    def signalled(self, execution_id: str) -> None:
        """This process has paused an execution, ended its waits, or let it go on."""
        runner = self.residents.get(execution_id)
        if runner is not None:
            runner.suspend()
            self._reconciling.wake()
        self.look()

    def begun_anew(self, execution_id: str, run: int) -> None:
        """This process has begun a new run of an execution; children of the old one may be left."""
        runner = self.residents.get(execution_id)
        if runner is not None and runner.run < run:
            # The new run may have come here already.
            runner.request_stop(Lost())
        self._reconciling.wake()
        self._orphans.wake()
        self.look()

    # ---------------------------------------------------------------------------------------------- the loops

    def look(self) -> None:
        self._backlog = True
        self._claiming.wake()

    def _heard(self) -> None:
        self.look()
        self._reaper.heard()
        self._reconciling.wake()
        self._hearing.wake()

    def _look_at(self, when: int) -> None:
        """Look for due executions at this time, if not before."""
        if self._next_look_at is not None and self._next_look_at <= when:
            return
        if self._next_look is not None:
            self._next_look.cancel()
        self._next_look_at = when
        self._next_look = self.deadlines.at(when, self._next_look_due)

    def _next_look_due(self) -> None:
        self._next_look_at = None
        self.look()

    async def _claim(self) -> None:
        more = True
        while more and not self._draining:
            wanted = min(self._free(), CLAIM_AT_ONCE)
            if wanted <= 0:
                self._backlog = True
                self._make_room()
                return
            worker_id = self.worker_id
            self._reserved += wanted
            try:
                result = await self._store.claim(
                    worker_id, self._definitions.keys(), wanted, suspects=self._suspects_allowed(), now=self.clock.now()
                )
            finally:
                self._reserved -= wanted
            if worker_id != self.worker_id:
                return
            for claimed in result.claimed:
                self._take_over(claimed)
            self._backlog = more = result.more
            if result.next_at is not None:
                self._look_at(result.next_at)
            if not result.claimed:
                return

    def _make_room(self) -> None:
        """Who only stays in memory because more might arrive goes now."""
        for runner in self.residents.values():
            runner.check_park()

    def _suspects_allowed(self) -> int:
        return 0 if any(runner.is_suspect() for runner in self.residents.values()) else 1

    def _take_over(self, claimed: Claimed) -> None:
        old = self.residents.get(claimed.id)
        if old is not None:
            # Given back and claimed again before its last task ended: the old incarnation can record nothing any more.
            old.request_stop(Lost())
        self._begin(self._definitions[claimed.workflow], claimed)

    async def _reap(self) -> None:
        if await self._reaper.tick():
            self.look()

    def _fence_moved(self, fence: int | None) -> None:
        if fence is None:
            self._lost()
        else:
            self._reconciling.wake()

    async def _reconcile(self) -> None:
        """Compare everything that the database says is ours with what is here; only then remember the fence."""
        worker_id, before = self.worker_id, list(self.residents.values())
        owned = await self._store.owned(worker_id)
        if worker_id != self.worker_id:
            return
        if owned.fence is None:
            self._lost()
            return
        epochs = {id: epoch for id, epoch, _ in owned.executions}
        for runner in before:
            # Only who was here before the list was read: what came since may be ours without standing in it.
            if epochs.get(runner.id) != runner.epoch:
                runner.request_stop(Lost())
                self.journal.lose(runner.id, runner.epoch)
        self.journal.fence = owned.fence
        strangers = [execution_id for execution_id in epochs if execution_id not in self.residents]
        if strangers and self._reserved:
            # They may be on their way here from a claim or a direct start.
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._reconciling.wake)
        elif strangers:
            for claimed in await self._store.load(worker_id, strangers):
                if claimed.id not in self.residents and claimed.workflow in self._definitions:
                    log.info("Execution %s is owned by this worker without being here; it is started", claimed.id)
                    self._begin(self._definitions[claimed.workflow], claimed)
        await self._show_signals(owned)

    async def _show_signals(self, owned: Owned) -> None:
        """Have executions look at what was done to them meanwhile, without being taken away."""
        told: list[str] = []
        for id, epoch, signal in owned.executions:
            runner = self.residents.get(id)
            if runner is not None and runner.epoch == epoch and (runner.signal != signal or runner.signalled):
                told.append(id)
        if not told:
            return
        for claimed in await self._store.load(self.worker_id, told):
            runner = self.residents.get(claimed.id)
            if runner is not None and runner.epoch == claimed.epoch:
                runner.look(claimed)

    def _lost(self, *, crashed: bool = False) -> None:
        """Others have taken over everything: stop it all unwritten and begin again as a new worker."""
        if self.journal.worker_id is None:
            return
        if self._pulse is not None:
            self._pulse.stop()
        if not crashed:
            log.error("Worker %s has lost its lease; it stops %d executions", self.worker_id, len(self.residents))
        self.journal.lose_worker()
        for runner in list(self.residents.values()):
            runner.request_stop(Lost())
        old, self.worker_id = self.worker_id, self._ids.new()
        self._reaper.worker_id = self.worker_id
        self._rebirth = start(self._be_reborn(old, crashed), name="stepwell-rebirth")

    async def _be_reborn(self, old: str, crashed: bool) -> None:
        while True:
            try:
                await self._register()
                break
            except StoreUnavailableError as error:
                log.error("Worker %s cannot register; next try in %g s: %s", self.worker_id, REBIRTH_SECONDS, error)
                await asyncio.sleep(REBIRTH_SECONDS)
        if crashed:
            await self._store.reap(self.worker_id, old, dead=True, crashed=True, now=self.clock.now())
        await self._store.deregister(old)
        self.look()

    async def _hear(self) -> None:
        """Look whether something has come for executions in memory that this process did not write itself."""
        began = asyncio.get_running_loop().time()
        events = self.arrivals.expected_events()
        for i in range(0, len(events), EXPECTED_AT_ONCE):
            for execution_id, name in await self._store.arrived(events[i : i + EXPECTED_AT_ONCE]):
                self.arrivals.event(execution_id, name)
        ends = self.arrivals.expected_ends()
        for i in range(0, len(ends), EXPECTED_AT_ONCE):
            for execution_id in await self._store.finished(ends[i : i + EXPECTED_AT_ONCE]):
                self.arrivals.end(execution_id)
        # Thousands of awaited executions must not keep the database busy while others write all the time.
        await asyncio.sleep(min(POLL_SECONDS, 5 * (asyncio.get_running_loop().time() - began)))

    async def _cancel_orphans(self) -> None:
        """Children do not outlive a parent that ended badly, unless they were started as detached."""
        while taken := await self._store.cancel_orphans(now=self.clock.now(), limit=ORPHANS_AT_ONCE):
            for one in taken:
                self.taken(one.execution_id)
                self.ended(one.execution_id, bad=False)
            self.look()

    async def _announce(self) -> None:
        """Show bodies that have been running for long."""
        long_ago = self.clock.now() - SLOW_BODY_US
        for call, began_at in self.bodies.items():
            if began_at > long_ago:
                return
            call.runner.announce(call)


class _Starter:
    """Starts an execution once its trigger is durable, whatever has become of the caller."""

    __slots__ = ("_definition", "_new", "_worker")

    def __init__(self, worker: Worker, definition: Definition, new: NewExecution) -> None:
        self._worker = worker
        self._definition = definition
        self._new = new

    def settled(self, transition: Transition, verdict: Verdict) -> None:
        self._worker.trigger_settled(self._definition, self._new, verdict)
