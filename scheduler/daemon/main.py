"""The process: reads its files, connects, runs the daemon until SIGTERM, reloads policies on SIGHUP and on change."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog
import uvloop

from clusters.clock import SharedClock, SystemClock
from clusters.kinds import load_kinds
from clusters.kubernetes.client import HttpKubeApi
from clusters.kubernetes.connection import Limits
from clusters.providers import load_provider
from clusters.providers._checked import CheckedProvider
from scheduler.daemon.config.federation import Federation, Member, load_federation, validate_settings
from scheduler.daemon.config.live_policies import LivePolicies
from scheduler.daemon.garbage import collect_seldom
from scheduler.daemon.gathering.metrics import open_collector
from scheduler.daemon.gathering.prices import open_book
from scheduler.daemon.gathering.shards import Gathering
from scheduler.daemon.history.store import History
from scheduler.daemon.http.server import HttpServer
from scheduler.daemon.leading.leader import LeaseSettings
from scheduler.daemon.parts import Daemon, Outside
from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.telemetry.otel import open_spans
from scheduler.model.errors import FencedError
from scheduler.model.ids import ClusterId
from scheduler.model.ports import Clock, NodePoolProvider
from scheduler.model.secrecy import hide_in
from scheduler.predict.first import FirstPredictor

log = structlog.get_logger(__name__)


def run(config: Path, policies: Sequence[Path], *, mode: str | None) -> int:
    """Run the daemon of one federation file; the exit status.

    0: stopped by SIGTERM or SIGINT; 1: leadership was lost or a part failed for good.
    Raises: OverspillError for files and settings that it cannot start with.
    """
    configure_logging()
    collect_seldom()
    return uvloop.run(_run(config, policies, mode))


def configure_logging() -> None:
    """One JSON object a line on stderr; what names or looks like a secret is never shown."""
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
    return hide_in(event)


async def _run(config: Path, policies: Sequence[Path], mode: str | None) -> int:
    federation = load_federation(config, validate_provider=validate_settings)
    shadow = (mode or federation.mode) == "shadow"
    async with AsyncExitStack() as stack:
        outside = await connect(federation, policies, stack)
        daemon = Daemon(outside, shadow=shadow)
        address, port = federation.listen_address, federation.listen_port
        server = HttpServer(address, port, daemon.served)
        url = await server.start()
        stack.push_async_callback(server.stop)
        log.info("started", federation=federation.name, mode="shadow" if shadow else "active", url=url)
        return await _until_stopped(daemon)


async def _until_stopped(daemon: Daemon) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, daemon.outside.policies.reload)
    work = asyncio.ensure_future(daemon.run())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopping, work):
            task.cancel()
        results = await asyncio.gather(work, stopping, return_exceptions=True)
    log.info("stopped")
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


async def connect(
    federation: Federation, policies: Sequence[Path], stack: AsyncExitStack, limits: Limits | None = None
) -> Outside:
    """Everything outside that the federation file names, opened; closed again by `stack`. `limits`: of each API call.

    Raises: OverspillError for settings, credentials, policies or a history that cannot be used.
    """
    clock: Clock = SharedClock(federation.clock_file) if federation.clock_file is not None else SystemClock()
    telemetry = Telemetry()
    history = await History.open(federation.history_url, telemetry)
    stack.push_async_callback(history.close)
    hub = federation.hub
    hub_api = await HttpKubeApi.connect(name=hub.name, kubeconfig=hub.kubeconfig, context=hub.context, limits=limits)
    stack.push_async_callback(hub_api.close)
    member_apis: dict[ClusterId, HttpKubeApi] = {}
    providers: dict[ClusterId, NodePoolProvider] = {}
    for member in federation.members:
        provider = providers[member.id] = open_provider(member, clock)
        stack.push_async_callback(provider.close)
        api = member_apis[member.id] = await open_member(member, provider, limits)
        stack.push_async_callback(api.close)
    prices = open_book(federation, clock)
    stack.push_async_callback(prices.book.close)
    spans = open_spans(federation.traces_endpoint, federation.name, os.environ)
    if spans is not None:
        stack.push_async_callback(spans.close)
    metrics = open_collector(federation, clock)
    stack.push_async_callback(metrics.collector.close)
    return Outside(
        federation=federation,
        hub_api=hub_api,
        hub_reviews=hub_api,
        member_apis=member_apis,
        providers=providers,
        kinds=load_kinds(),
        clock=clock,
        policies=LivePolicies(policies, clock, telemetry, federation.names),
        prices=prices,
        metrics=metrics,
        predictor=FirstPredictor(),
        history=history,
        telemetry=telemetry,
        identity=f"{socket.gethostname()}-{os.getpid()}",
        lease=lease_settings(federation),
        gathering=gathering_of(federation, os.environ),
        export_trace=None if spans is None else spans.export,
    )


def gathering_of(federation: Federation, environment: Mapping[str, str]) -> Gathering | None:
    """How this replica shares the gathering. Others reach it at OVERSPILL_ADVERTISE_URL, else at the address POD_IP,
    else where it listens."""
    if not federation.shards or federation.shards_token_file is None:
        return None
    address = environment.get("POD_IP") or federation.listen_address
    host = f"[{address}]" if ":" in address else address
    url = environment.get("OVERSPILL_ADVERTISE_URL") or f"http://{host}:{federation.listen_port}"
    return Gathering(federation.shards, url.rstrip("/"), federation.shards_token_file)


def lease_settings(federation: Federation) -> LeaseSettings:
    """Every federation has a Lease of its own on its hub."""
    return LeaseSettings(name=f"overspill-{federation.name}"[:63])


async def open_member(member: Member, provider: NodePoolProvider, limits: Limits | None = None) -> HttpKubeApi:
    """A member's Kubernetes API, logged in to as the federation file says. Raises: OverspillError."""
    log_in = provider.log_in if member.login == "provider" else None
    return await HttpKubeApi.connect(
        name=member.id, kubeconfig=member.kubeconfig, context=member.context, limits=limits, log_in=log_in
    )


def open_provider(member: Member, clock: Clock) -> NodePoolProvider:
    """A member's cloud; nothing is sent yet. Raises: OverspillError for settings and credentials of no use."""
    module = load_provider(member.provider_type)
    settings = module.Settings.model_validate(dict(member.provider_settings), context={"base_dir": member.base_dir})
    return CheckedProvider(f"{member.id} ({member.provider_type})", module.create(settings, clock=clock))
