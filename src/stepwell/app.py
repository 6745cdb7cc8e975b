"""`App`: wires everything together, and nothing else does."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol, TypeVar, overload

from stepwell._engine.child import is_loading_main
from stepwell._engine.definition import Definition, Options
from stepwell._engine.executor import ThreadExecutor
from stepwell._engine.failure import ErrorRegistry
from stepwell._engine.journal import Journal
from stepwell._engine.outcome import Aborted, Cancelled, Completed, Failed, Stop
from stepwell._engine.processes import ProcessPool
from stepwell._engine.runner import Runner
from stepwell._engine.strands import install
from stepwell._facade import Portal
from stepwell._worker.garbage import relaxed
from stepwell._worker.worker import Worker
from stepwell.client import Client, checked_tags
from stepwell.clock import Clock, SystemClock
from stepwell.config.load import load_config
from stepwell.duration import Duration
from stepwell.duration import to_us as duration_us
from stepwell.endings import Ending
from stepwell.env import Env
from stepwell.errors import ConfigError, InvalidInputError, StoreUnavailableError, WorkflowCodeError
from stepwell.execution import Execution, ExecutionList
from stepwell.ids import Ids, Rng, check_id
from stepwell.retry import RetryPolicy, resolve
from stepwell.step import Step, SyncStep
from stepwell.store.coded import CodedStore
from stepwell.store.open import OpenStore, open_store, resolve_url
from stepwell.types import PayloadCodec, Status
from stepwell.workflow import Workflow, execution_filter

log: Final = logging.getLogger("stepwell")

DEFAULT_DATABASE: Final = "sqlite:///.stepwell/stepwell.db"
DEFAULT_CONCURRENCY: Final = 1_000
PAYLOAD_UNITS: Final = {"B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}

In = TypeVar("In")
Out = TypeVar("Out")
InContra = TypeVar("InContra", contravariant=True)
OutCo = TypeVar("OutCo", covariant=True)
EnvContra = TypeVar("EnvContra", contravariant=True)
ResourceFactory = TypeVar("ResourceFactory", bound=Callable[[], Any])


class _AsyncWithEnv(Protocol[EnvContra, OutCo]):
    def __call__(self, step: Step, /, *, env: EnvContra) -> Coroutine[Any, Any, OutCo]: ...


class _AsyncInputWithEnv(Protocol[InContra, EnvContra, OutCo]):
    def __call__(self, step: Step, input: InContra, /, *, env: EnvContra) -> Coroutine[Any, Any, OutCo]: ...


class _SyncWithEnv(Protocol[EnvContra, OutCo]):
    def __call__(self, step: SyncStep, /, *, env: EnvContra) -> OutCo: ...


class _SyncInputWithEnv(Protocol[InContra, EnvContra, OutCo]):
    def __call__(self, step: SyncStep, input: InContra, /, *, env: EnvContra) -> OutCo: ...


class _Decorator(Protocol):
    """What `@app.workflow(...)` decorates with: the workflow's types come from the function's annotations."""

    @overload
    def __call__(self, fn: Callable[[Step], Coroutine[Any, Any, Out]], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: Callable[[Step, In], Coroutine[Any, Any, Out]], /) -> Workflow[In, Out]: ...
    @overload
    def __call__(self, fn: _AsyncWithEnv[Any, Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _AsyncInputWithEnv[In, Any, Out], /) -> Workflow[In, Out]: ...
    @overload
    def __call__(self, fn: Callable[[SyncStep], Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: Callable[[SyncStep, In], Out], /) -> Workflow[In, Out]: ...
    @overload
    def __call__(self, fn: _SyncWithEnv[Any, Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _SyncInputWithEnv[In, Any, Out], /) -> Workflow[In, Out]: ...


class App:
    """Workflows that share a database.

    Args:
        name: For logs and the dashboard.
        database: A URL: `sqlite:///path`, or `sqlite://` for memory. Default: the config's, then
            `sqlite:///.stepwell/stepwell.db` beside the config file, or in the current folder.
        config: The folder where the search for `stepwell.toml` begins; the current one by default.
        retries: How often steps are tried again unless a workflow or step says otherwise; 3 by default.
        strict_names: Raise when a step's name comes again with other arguments, instead of warning.
        errors: Exception classes that are rebuilt from their record besides those loaded when the worker starts.
        record_arguments: Keep a preview of each step's arguments.
        threads: How many plain functions run as step bodies at the same time.
        processes: How many bodies with `executor="process"` run at the same time, each in a process of its own; the number
            of processors by default. Processes are started when they are needed and end when idle for a minute.
        payload_limit: The largest input, output or step result as JSON, before `codec` sees it.
        codec: Changes each payload on its way into the database and out of it: compresses, encrypts. What was stored
            without it stays readable.
        clock: Where time comes from; for tests.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        database: str | None = None,
        config: str | Path | None = None,
        retries: int | None = None,
        strict_names: bool = False,
        errors: Iterable[type[BaseException]] = (),
        record_arguments: bool = True,
        threads: int = 64,
        processes: int | None = None,
        payload_limit: str | int = "1 MiB",
        codec: PayloadCodec | None = None,
        clock: Clock | None = None,
        rng: Rng | None = None,
    ) -> None:
        for option, number in (("threads", threads), ("processes", 1 if processes is None else processes)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidInputError(f"{option} must be a positive whole number, got {number!r}.")
        self.name = name or "app"
        self._database = database
        self._config_folder = None if config is None else Path(config)
        self._policy = resolve(RetryPolicy(), retries=retries)
        self._strict_names = strict_names
        self._errors = tuple(errors)
        self._record_arguments = record_arguments
        self._threads = threads
        self._processes = processes
        self._payload_limit = _bytes(payload_limit)
        self._codec = _checked_codec(codec)
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random(random.SystemRandom().getrandbits(128))
        self._definitions: dict[str, Definition] = {}
        self._workflows: dict[str, Workflow[Any, Any]] = {}
        self._resources: dict[str, Callable[[], AbstractAsyncContextManager[Any]]] = {}
        self._stubs: Mapping[str, Callable[..., Any]] = {}
        self._client: Client | None = None
        self._pid = os.getpid()
        self.portal = Portal(self.connected, self._forget_parent)

    def __repr__(self) -> str:
        return f"<App {self.name!r}>"

    # ---------------------------------------------------------------------------------------------- definitions

    @overload
    def workflow(self, fn: Callable[[Step], Coroutine[Any, Any, Out]], /) -> Workflow[None, Out]: ...
    @overload
    def workflow(self, fn: Callable[[Step, In], Coroutine[Any, Any, Out]], /) -> Workflow[In, Out]: ...
    @overload
    def workflow(self, fn: _AsyncWithEnv[Any, Out], /) -> Workflow[None, Out]: ...
    @overload
    def workflow(self, fn: _AsyncInputWithEnv[In, Any, Out], /) -> Workflow[In, Out]: ...
    @overload
    def workflow(self, fn: Callable[[SyncStep], Out], /) -> Workflow[None, Out]: ...
    @overload
    def workflow(self, fn: Callable[[SyncStep, In], Out], /) -> Workflow[In, Out]: ...
    @overload
    def workflow(self, fn: _SyncWithEnv[Any, Out], /) -> Workflow[None, Out]: ...
    @overload
    def workflow(self, fn: _SyncInputWithEnv[In, Any, Out], /) -> Workflow[In, Out]: ...
    @overload
    def workflow(
        self,
        fn: None = None,
        /,
        *,
        name: str | None = None,
        retries: int | RetryPolicy | None = None,
        timeout: Duration | None = None,
        version: str | None = None,
        tags: Sequence[str] | None = None,
        retention: Duration | None = "30 days",
    ) -> _Decorator: ...
    @overload
    def workflow(
        self,
        name: str,
        /,
        *,
        retries: int | RetryPolicy | None = None,
        timeout: Duration | None = None,
        version: str | None = None,
        tags: Sequence[str] | None = None,
        retention: Duration | None = "30 days",
    ) -> _Decorator: ...

    def workflow(
        self,
        fn: Callable[..., Any] | str | None = None,
        /,
        *,
        name: str | None = None,
        retries: int | RetryPolicy | None = None,
        timeout: Duration | None = None,
        version: str | None = None,
        tags: Sequence[str] | None = None,
        retention: Duration | None = "30 days",
    ) -> Any:
        """Decorate a function that takes `(step)` or `(step, input)`, and optionally a keyword-only `env`.

        Async functions get a `Step`; plain ones run in a thread of their own and get a `SyncStep`.

        Args:
            fn: The function, when used without arguments.
            name: Default: the function's. 1 to 128 of `A-Za-z0-9_.:-`, one for each workflow of an app.
            retries: How often its steps are tried again, or a whole RetryPolicy; default: the app's.
            timeout: Longest time of an execution from its first start, waiting included.
            version: Stored with each execution.
            tags: Given to each execution.
            retention: How long each execution is kept after its end; then a worker deletes it, within minutes, unless a
                living execution refers to it. None keeps it for ever. Stored with each execution when it is triggered.
        """
        if isinstance(fn, str):
            fn, name = None, fn
        options = Options(
            None if retries is None else resolve(self._policy, retries=retries),
            None if timeout is None else duration_us(timeout, what="timeout", minimum=1),
            version,
            tuple(checked_tags(tags or ())),
            None if retention is None else duration_us(retention, what="retention", minimum=1),
        )

        def define(function: Callable[..., Any]) -> Workflow[Any, Any]:
            if not callable(function):
                raise InvalidInputError(f"@app.workflow decorates a function, got {function!r}.")
            return self._define(getattr(function, "__name__", "") if name is None else name, function, options)

        return define if fn is None else define(fn)

    def _define(self, name: str, function: Callable[..., Any], options: Options) -> Workflow[Any, Any]:
        check_id(name, "A workflow name")
        if name in self._definitions:
            raise InvalidInputError(
                f"Workflow {name!r} is defined already, by {self._definitions[name].function!r}. Give one of them another name: @app.workflow(name=…)."
            )
        definition = Definition(name, function, options)
        definition.check_secrets()
        workflow: Workflow[Any, Any] = Workflow(self, definition)
        self._definitions[name] = definition
        self._workflows[name] = workflow
        return workflow

    def resource(self, factory: ResourceFactory) -> ResourceFactory:
        """Decorate an async context manager that each worker opens once; workflows find it as `env.<its name>`."""
        name = getattr(factory, "__name__", "")
        if not name.isidentifier():
            raise InvalidInputError(f"A resource must be a named function, got {factory!r}.")
        if name in self._resources:
            raise InvalidInputError(f"Resource {name!r} is defined already.")
        if inspect.isgeneratorfunction(factory):
            raise InvalidInputError(
                f"Resource {name!r} must be an async context manager: write `async def {name}()` with one `yield`."
            )
        opener: Any = asynccontextmanager(factory) if inspect.isasyncgenfunction(factory) else factory
        self._resources[name] = opener
        return factory

    @property
    def workflows(self) -> Mapping[str, Workflow[Any, Any]]:
        """The workflows by name."""
        return MappingProxyType(self._workflows)

    # ---------------------------------------------------------------------------------------------- opening

    @property
    def database(self) -> str:
        """The URL of the database, with the full path."""
        if self._database is not None:
            return resolve_url(self._database, Path.cwd())
        config = load_config(self._config_folder)
        return resolve_url(config.database or DEFAULT_DATABASE, config.root)

    def use_database(self, url: str) -> None:
        """Take this database instead of the configured one; before the app is opened."""
        if self._client is not None:
            raise ConfigError("The database cannot be changed while the app is open.")
        self._database = url

    @contextmanager
    def overridden(self, *, database: str, clock: Clock, stubs: Mapping[str, Callable[..., Any]]) -> Generator[None]:
        """Use another database, clock and step bodies for a while; what `stepwell.testing` stands on.

        Args:
            database: A URL.
            clock: Where time comes from.
            stubs: Functions that run instead of the bodies of steps with these names; may change while in use.
        """
        before = self._database, self._clock, self._stubs
        self._database, self._clock, self._stubs = database, clock, stubs
        try:
            yield
        finally:
            self._database, self._clock, self._stubs = before

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[App]:
        """Connect without a worker: trigger, look, wait and cancel; others execute."""
        async with self._open() as _:
            yield self

    @asynccontextmanager
    async def running(
        self, *, concurrency: int = DEFAULT_CONCURRENCY, drain_timeout: Duration = "10 seconds"
    ) -> AsyncGenerator[Worker]:
        """Connect, and execute workflows in this event loop.

        Meanwhile the event loop has a task factory that tells whose task is whose (one that was there still makes the
        tasks), and the garbage collector, unless tuned by the program, runs less often.

        Args:
            concurrency: How many executions are in memory at most; waiting ones do not count.
            drain_timeout: How long, on leaving, running bodies get to end. What is left goes back to the queue.
        """
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"concurrency must be a positive whole number, got {concurrency!r}.")
        grace = duration_us(drain_timeout, what="drain_timeout") / 1_000_000
        async with self._open() as session, AsyncExitStack() as stack:
            env = Env({name: await stack.enter_async_context(open()) for name, open in self._resources.items()})
            worker = self._worker(session, env, concurrency)
            stack.callback(session.executor.close)
            stack.push_async_callback(session.processes.close)
            stack.callback(install(asyncio.get_running_loop()))
            stack.enter_context(relaxed())
            await worker.start()
            session.client.worker = worker
            log.info("Worker %s runs %s on %s", worker.worker_id, ", ".join(self._definitions), self.database)
            try:
                yield worker
            finally:
                session.client.worker = None
                await worker.stop(grace)

    @overload
    def execute(self, workflow: Workflow[None, Out], input: None = None, /) -> Out: ...
    @overload
    def execute(self, workflow: Workflow[In, Out], input: In, /) -> Out: ...

    def execute(self, workflow: Workflow[Any, Out], input: Any = None, /) -> Out:
        """Start one execution, run it to its end in this thread, and give its output or raise its error.

        Raises:
            WorkflowCodeError: Called inside a running event loop; await `workflow.trigger(...)` there.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._execute(workflow, input))
        raise WorkflowCodeError(
            f"app.execute() blocks and was called inside an event loop. There, write: async with app.running(): await (await {workflow.name}.trigger(…)).result()"
        )

    async def _execute(self, workflow: Workflow[Any, Out], input: Any) -> Out:
        async with self.running():
            return await (await workflow.trigger(input)).result()

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[_Session]:
        if is_loading_main():
            raise WorkflowCodeError(
                f"App {self.name!r} is opened by the main program while a process for step bodies imports it. Put what starts it under `if __name__ == '__main__':`."
            )
        if self._pid != os.getpid():
            self._forget_parent()
        if self._client is not None and not await self.portal.end():
            raise ConfigError(f"App {self.name!r} is open already. Open it once, and use it everywhere.")
        url = self.database
        log.info("Database: %s", url)
        async with open_store(url, clock=self._clock) as opened:
            store = opened if self._codec is None else CodedStore(opened, self._codec, self._clock)
            session = self._session(store)
            self._client, self._pid = session.client, os.getpid()
            self.portal.entered(asyncio.get_running_loop())
            try:
                yield session
            finally:
                self.portal.left()
                self._client = None
                session.client.close()
                await session.journal.close()

    def _forget_parent(self) -> None:
        self._client = None

    def _session(self, store: OpenStore) -> _Session:
        ids, errors, journal = Ids(self._clock, self._rng), ErrorRegistry(self._errors), Journal(store)
        client = Client(
            store=store,
            reader=store,
            journal=journal,
            clock=self._clock,
            ids=ids,
            errors=errors,
            definitions=self._definitions,
            payload_limit=self._payload_limit,
            portal=lambda make: self.portal.call("A *_sync method", make),
        )
        threads, processes = ThreadExecutor(self._threads), ProcessPool(self._processes, errors)
        return _Session(store, ids, errors, journal, threads, processes, client)

    def _worker(self, session: _Session, env: Env, concurrency: int) -> Worker:
        return Worker(
            name=self.name,
            store=session.store,
            journal=session.journal,
            clock=self._clock,
            rng=self._rng,
            ids=session.ids,
            executor=session.executor,
            processes=session.processes,
            errors=session.errors,
            definitions=self._definitions,
            policy=lambda definition: definition.options.policy or self._policy,
            step=_step_of,
            resources=env,
            stubs=self._stubs,
            concurrency=concurrency,
            payload_limit=self._payload_limit,
            strict_names=self._strict_names,
            record_arguments=self._record_arguments,
            on_ended=lambda id, stop: session.client.ended(id, _ending_of(stop)),
            version=_version(),
        )

    # ---------------------------------------------------------------------------------------------- executions

    @property
    def client(self) -> Client:
        """The open client, or an error that says how to open one."""
        if self._client is not None and self._pid != os.getpid():
            raise StoreUnavailableError(
                self.database, "the app was opened before this process was forked; open it again in the child"
            )
        if self._client is None:
            raise ConfigError(
                f"App {self.name!r} is not open. Use `async with app.running():` for a worker in this process, `async with app.connected():` for a client, or the *_sync methods outside an event loop."
            )
        return self._client

    def get_execution(self, id: str) -> Execution[Any]:
        """A handle with this id, of whatever workflow; outputs come as plain JSON values."""
        return Execution(self.client, check_id(id))

    async def find_execution(self, text: str) -> Execution[Any]:
        """The execution that `latest`, `latest:<status>`, an id or a unique beginning of one means."""
        return await self.client.find(text)

    async def list_executions(
        self,
        *,
        workflow: str | None = None,
        status: Status | Sequence[Status] | None = None,
        tags: Sequence[str] = (),
        since: datetime | Duration | None = None,
        id_prefix: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ExecutionList:
        """A page of executions, newest first, without payloads.

        Args:
            workflow: Only of the workflow with this name.
            status: Only with this status, or one of these.
            tags: Only with all of these tags.
            since: Only created since this time, or within this duration.
            id_prefix: Only with ids that begin so.
            limit: At most so many, 1 to 1000.
            cursor: The `next_cursor` of the page before.
        """
        query = execution_filter(
            self._clock.now(),
            workflow=workflow,
            status=status,
            tags=tags,
            since=since,
            id_prefix=id_prefix,
            limit=limit,
            cursor=cursor,
        )
        return await self.client.list_executions(query)


class _Session(NamedTuple):
    """What is open while an app is open."""

    store: OpenStore
    ids: Ids
    errors: ErrorRegistry
    journal: Journal
    executor: ThreadExecutor
    processes: ProcessPool
    client: Client


def _step_of(runner: Runner) -> Step | SyncStep:
    return Step(runner) if runner.definition.is_async else SyncStep(runner)


def _ending_of(stop: Stop) -> Ending | None:
    match stop:
        case Completed(text):
            return Ending("completed", text)
        case Failed(error):
            return Ending("failed", error)
        case Aborted(reason):
            return Ending("aborted", reason)
        case Cancelled(reason):
            return Ending("cancelled", reason)
        case _:
            return None


def _checked_codec(codec: PayloadCodec | None) -> PayloadCodec | None:
    missing = [] if codec is None else [m for m in ("encode", "decode") if not callable(getattr(codec, m, None))]
    if missing:
        raise InvalidInputError(
            f"codec must be an object with the methods encode(data) and decode(data), got {codec!r}, which has no {' and no '.join(missing)}."
        )
    return codec


def _bytes(value: str | int) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        number, _, unit = str(value).strip().partition(" ")
        factor = PAYLOAD_UNITS.get(unit.strip().upper())
        if factor is None or not number.isdigit():
            raise InvalidInputError(
                f"payload_limit must be a number of bytes or text such as '1 MiB', '500 KB', got {value!r}."
            )
        size = int(number) * factor
    if size < 1024:
        raise InvalidInputError(f"payload_limit must be at least 1 KiB, got {value!r}.")
    return size


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("stepwell")
    except PackageNotFoundError:
        return "unknown"
