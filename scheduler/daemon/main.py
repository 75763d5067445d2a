"""The process: reads its files, connects, runs the daemon until SIGTERM, reloads policies on SIGHUP and on change."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog
import uvloop

from clusters.clock import SharedClock, SystemClock
from clusters.kinds import load_kinds
from clusters.kubernetes.client import HttpKubeApi
from clusters.providers import load_provider
from policies.reload import PolicyFolder
from scheduler.daemon.federation import Federation, Member, load_federation, validate_settings
from scheduler.daemon.history import History
from scheduler.daemon.http import HttpServer
from scheduler.daemon.leader import LeaseSettings
from scheduler.daemon.parts import Daemon, Outside
from scheduler.daemon.supervise import supervised
from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.watch_files import changes
from scheduler.model.errors import FencedError, OverspillError
from scheduler.model.ids import ClusterId
from scheduler.model.ports import Clock, NodePoolProvider
from scheduler.predict.first import FirstPredictor

log = structlog.get_logger(__name__)


def run(config: Path, policies: Path, *, mode: str | None) -> int:
    """Run the daemon of one federation file; the exit status.

    0: stopped by SIGTERM or SIGINT; 1: leadership was lost or a part failed for good.
    Raises: OverspillError for files and settings that it cannot start with.
    """
    configure_logging()
    return uvloop.run(_run(config, policies, mode))


def configure_logging() -> None:
    """One JSON object a line on stderr; values of keys that name secrets are never shown."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _hide_secrets,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _hide_secrets(_logger: Any, _method: str, event: Any) -> Any:
    for key in event:
        if any(word in key.lower() for word in ("token", "secret", "password", "authorization")):
            event[key] = "(hidden)"
    return event


async def _run(config: Path, policies: Path, mode: str | None) -> int:
    federation = load_federation(config, validate_provider=validate_settings)
    folder = PolicyFolder([policies])
    folder.reload()
    if folder.error is not None:
        raise OverspillError(folder.error)
    shadow = (mode or federation.mode) == "shadow"
    async with AsyncExitStack() as stack:
        outside = await _connect(federation, folder, stack)
        daemon = Daemon(outside, shadow=shadow)
        server = HttpServer(
            federation.listen_address,
            federation.listen_port,
            daemon.report,
            outside.telemetry,
            healthy=lambda: None,
        )
        url = await server.start()
        stack.push_async_callback(server.stop)
        log.info("started", federation=federation.name, mode="shadow" if shadow else "active", url=url)
        return await _until_stopped(daemon, folder, policies)


async def _until_stopped(daemon: Daemon, folder: PolicyFolder, policies: Path) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: reload_policies(daemon, folder))
    reload_policies(daemon, folder)

    async def watch_policies() -> None:
        async for _ in changes(policies):
            reload_policies(daemon, folder)

    work = asyncio.ensure_future(daemon.run())
    files = asyncio.ensure_future(supervised("policies", watch_policies, daemon.outside.telemetry))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (files, stopping, work):
            task.cancel()
        results = await asyncio.gather(work, files, stopping, return_exceptions=True)
    log.info("stopped", leader=daemon.leader.is_leader)
    return _exit_status(results[0])


def _exit_status(result: object) -> int:
    if isinstance(result, BaseExceptionGroup):
        lost, other = result.split(FencedError)
        if other is not None:
            raise other
        for error in lost.exceptions if lost is not None else ():
            log.error("fenced", error=str(error))
        return 1
    if isinstance(result, Exception):
        raise result
    return 0


def reload_policies(daemon: Daemon, folder: PolicyFolder) -> None:
    """Read the policy files again; a bad set is reported and the last good one stays in force."""
    outcome = folder.reload()
    telemetry = daemon.outside.telemetry
    telemetry.policy_reload.set(0 if folder.error is not None else 1)
    if folder.error is not None:
        log.error("policies_refused", error=folder.error, in_force=folder.current.digest)
        return
    folder.loaded_at = daemon.outside.clock.now() if outcome.changed or folder.loaded_at is None else folder.loaded_at
    telemetry.policy_reloaded_at.set(folder.loaded_at)
    if outcome.changed:
        log.info("policies_loaded", digest=folder.current.digest, policies=len(folder.current.policies))
    daemon.planner.trigger()


async def _connect(federation: Federation, folder: PolicyFolder, stack: AsyncExitStack) -> Outside:
    clock: Clock = SharedClock(federation.clock_file) if federation.clock_file is not None else SystemClock()
    telemetry = Telemetry()
    history = await History.open(federation.history_url, telemetry)
    stack.push_async_callback(history.close)
    hub = federation.hub
    hub_api = await HttpKubeApi.connect(name=hub.name, kubeconfig=hub.kubeconfig, context=hub.context)
    stack.push_async_callback(hub_api.close)
    member_apis: dict[ClusterId, HttpKubeApi] = {}
    providers: dict[ClusterId, NodePoolProvider] = {}
    for member in federation.members:
        api = await HttpKubeApi.connect(name=member.id, kubeconfig=member.kubeconfig, context=member.context)
        stack.push_async_callback(api.close)
        member_apis[member.id] = api
        providers[member.id] = _provider(member, clock)
        stack.push_async_callback(providers[member.id].close)
    return Outside(
        federation=federation,
        hub_api=hub_api,
        member_apis=member_apis,
        providers=providers,
        kinds=load_kinds(),
        clock=clock,
        policies=folder,
        predictor=FirstPredictor(),
        history=history,
        telemetry=telemetry,
        identity=f"{socket.gethostname()}-{os.getpid()}",
        lease=LeaseSettings(name=f"overspill-{federation.name}"[:63]),
    )


def _provider(member: Member, clock: Clock) -> NodePoolProvider:
    module = load_provider(member.provider_type)
    settings = module.Settings.model_validate(member.provider_settings)
    provider: NodePoolProvider = module.create(settings, clock=clock)
    return provider
