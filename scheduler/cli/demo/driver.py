"""The course of a demo: start both processes, submit the jobs when they are due, leap over quiet time, sum up."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Final

from clusters.clock import SharedClock
from clusters.kubernetes.client import HttpKubeApi
from policies.loader import load_policies
from scheduler.cli import explain
from scheduler.cli.api import ExplainReply
from scheduler.cli.demo import DemoOptions, manifests
from scheduler.cli.demo.arrivals import Arrival, draw_jobs, read_trace
from scheduler.cli.demo.course import Course
from scheduler.cli.demo.federation import DemoFederation, prepare
from scheduler.cli.demo.invariants import Invariants
from scheduler.cli.demo.observer import Observer
from scheduler.cli.demo.processes import Child
from scheduler.cli.demo.remote import Remote
from scheduler.cli.demo.report import write_report
from scheduler.cli.demo.summary import Summary
from scheduler.cli.demo.view import LiveScreen, PlainScreen, Screen
from scheduler.cli.output import CommandError, console, print_json
from scheduler.cli.sandbox import read_note

_DRAWN_JOBS: Final = 60
_START_WALL_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_GRACE_WALL_SECONDS: Final = 3.0
_GRACE_VIRTUAL_SECONDS: Final = 300.0


_Ended = tuple[Summary, ExplainReply | None]
"""What a run comes to: the figures, and why one of its bursts was decided."""


def run_demo(options: DemoOptions) -> int:
    """See `scheduler.cli.demo.run`."""
    if options.first and options.trace is None:
        raise CommandError("--from leaves out rows of a trace; give one with --trace", exit_code=2)
    if options.trace is not None:
        arrivals = read_trace(options.trace, first=options.first, count=options.jobs, seed=options.seed)
    else:
        arrivals = draw_jobs(options.jobs or _DRAWN_JOBS, seed=options.seed)
    if options.policies is not None:
        load_policies([options.policies])
    screen_console = console(stderr=options.as_json)
    screen: Screen = LiveScreen(screen_console) if screen_console.is_terminal else PlainScreen(screen_console)
    folder = Path(tempfile.mkdtemp(prefix="overspill-demo-"))
    try:
        summary, explained = asyncio.run(_stoppable(_Demo(options, arrivals, folder, screen).run()))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    finally:
        screen.close()
        if options.keep:
            screen.say(f"state kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    screen_console.print()
    if explained is not None:
        screen_console.print(explain.view(explained))
        screen_console.print()
    screen_console.print(summary.table())
    if options.report is not None:
        try:
            write_report(options.report, summary)
        except OSError as error:
            raise CommandError(f"{options.report}: cannot be written ({error.strerror})") from error
        screen_console.print(f"the report is in {options.report}", markup=False, soft_wrap=True)
    if options.as_json:
        print_json(summary.as_json())
    return 0 if summary.ok else 1


async def _stoppable(work: Coroutine[Any, Any, _Ended]) -> _Ended:
    """`work`, cancelled by SIGTERM and when the terminal is closed (SIGINT is asyncio's own)."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


class _Demo:
    def __init__(self, options: DemoOptions, arrivals: tuple[Arrival, ...], folder: Path, screen: Screen) -> None:
        self._options = options
        self._arrivals = arrivals
        self._folder = folder
        self._screen = screen
        self._drawn = options.trace is None
        self._children: list[Child] = []

    async def run(self) -> _Ended:
        try:
            return await self._run()
        finally:
            for child in reversed(self._children):
                await child.stop()

    async def _run(self) -> _Ended:
        note = await self._start_sandbox()
        federation = prepare(Path(note["federation_file"]))
        policies = self._options.policies or self._folder / "policies"
        if self._options.policies is None:
            manifests.write_policies(policies, self._arrivals, drawn=self._drawn, gpus=federation.max_gpus)
        clock = SharedClock(Path(note["clock"]))
        invariants = Invariants(
            queues=load_policies([policies]).queues,
            bought=federation.bought,
            grace_seconds=max(_GRACE_VIRTUAL_SECONDS, _GRACE_WALL_SECONDS * self._options.speed),
        )
        async with contextlib.AsyncExitStack() as stack:
            hub, members = await _connect(federation, stack)
            remote = Remote(
                control_url=note["control_url"],
                control_token=note["control_token"],
                daemon_url=federation.daemon_url,
            )
            stack.push_async_callback(remote.close)
            observer = Observer(hub, members, invariants, clock)
            await stack.enter_async_context(_background(observer.run()))
            async with asyncio.timeout(_START_WALL_SECONDS):
                await observer.ready()
            daemon = await self._start_daemon(federation, policies, remote)
            course = Course(
                self._options,
                self._arrivals,
                self._screen,
                hub=hub,
                remote=remote,
                observer=observer,
                clock=clock,
                daemon=daemon,
                children=tuple(self._children),
                members=tuple(name for name, _ in federation.members),
            )
            return await course.run()

    async def _start_sandbox(self) -> dict[str, Any]:
        self._screen.say("starting the emulated federation ...")
        options = self._options
        arguments = ["sandbox", "--dir", str(self._folder), "--speed", repr(options.speed), "--seed", str(options.seed)]
        child = await self._start("sandbox", arguments)
        deadline = time.monotonic() + _START_WALL_SECONDS
        while (note := read_note(self._folder)) is None:
            _still_starting(child, deadline)
            await asyncio.sleep(_POLL_SECONDS)
        return note

    async def _start_daemon(self, federation: DemoFederation, policies: Path, remote: Remote) -> Child:
        self._screen.say("starting the daemon ...")
        child = await self._start("daemon", ["run", "--config", str(federation.file), "--policies", str(policies)])
        deadline = time.monotonic() + _START_WALL_SECONDS
        while (status := await remote.status()) is None or not (status.synced and status.leader):
            _still_starting(child, deadline)
            await asyncio.sleep(_POLL_SECONDS)
        return child

    async def _start(self, name: str, arguments: list[str]) -> Child:
        child = await Child.start(name, arguments, self._folder / f"{name}.log")
        self._children.append(child)
        return child


async def _connect(
    federation: DemoFederation, stack: contextlib.AsyncExitStack
) -> tuple[HttpKubeApi, dict[str, HttpKubeApi]]:
    async def connect(name: str, kubeconfig: Path) -> HttpKubeApi:
        api = await HttpKubeApi.connect(name=name, kubeconfig=kubeconfig, context=None)
        stack.push_async_callback(api.close)
        return api

    hub = await connect(*federation.hub)
    return hub, {name: await connect(name, kubeconfig) for name, kubeconfig in federation.members}


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """`work` beside the body, cancelled at its end; its failure ends the body too."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield
        finally:
            task.cancel()


def _still_starting(child: Child, deadline: float) -> None:
    child.check()
    if time.monotonic() > deadline:
        raise CommandError(f"the {child.name} did not start within {_START_WALL_SECONDS:.0f} s: {child.last_line()}")
