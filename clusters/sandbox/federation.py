"""The whole emulated federation in one process: API servers, what runs behind them, clouds, metrics, control API."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from clusters.clock import SharedClock, SystemClock, keep_in_step
from clusters.sandbox.apiserver.server import kubeconfig
from clusters.sandbox.clouds import RunningCloud, start_cloud
from clusters.sandbox.control import ControlApi
from clusters.sandbox.emulation.billing import Charge
from clusters.sandbox.emulation.clients import Clients
from clusters.sandbox.emulation.cluster import ClusterEmulation
from clusters.sandbox.emulation.dcgm import Spelling
from clusters.sandbox.emulation.exporters import CONTENT_TYPE, render
from clusters.sandbox.emulation.faults import KINDS, strike
from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.timers import Timers
from clusters.sandbox.emulation.work import Supervisor
from clusters.sandbox.federation_file import dump, federation_document, make_folder, write_private
from clusters.sandbox.ports import ApiAddress
from clusters.sandbox.scenario import ClusterPlan, FaultPlan, Scenario, default_scenario, load_scenario
from clusters.sandbox.silence import FallibleApiServer
from scheduler.model.contract import HTTP_ROUTES
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant

_HEARTBEAT_WALL_SECONDS: Final = 60.0
"""Nodes report at most this often in wall time, however fast the virtual clock runs."""


class Sandbox:
    """A running emulated federation. Make one with `start`; end it with `stop`."""

    def __init__(self, state_dir: Path, scenario: Scenario, clock: SharedClock, seed: int) -> None:
        self.state_dir = state_dir
        self.scenario = scenario
        self.clock = clock
        self.servers: dict[str, FallibleApiServer] = {}
        self.emulations: dict[str, ClusterEmulation] = {}
        self.clouds: dict[str, RunningCloud] = {}
        self.kubeconfigs: dict[str, Path] = {}
        self.metrics_urls: dict[str, str] = {}
        self.federation_file = state_dir / "federation.yaml"
        self.control_url = ""
        self.control_token = secrets.token_urlsafe(24)
        self.stopping = asyncio.Event()
        """Set when somebody asked for the end by the control API."""
        self._seed = seed
        self.clients: Clients | None = None
        """Of services under load."""
        self._timers = Timers(clock)
        self._supervisor = Supervisor("sandbox")
        self._open = AsyncExitStack()

    @classmethod
    async def start(
        cls,
        state_dir: Path,
        *,
        speed: float = 60.0,
        seed: int = 0,
        scenario: Scenario | Path | None = None,
        start_at: Instant | None = None,
        in_step: bool = False,
    ) -> Sandbox:
        """Everything up and listening, fixed nodes there, and the files in `state_dir` written.

        `speed`: virtual seconds per second. `start_at`: virtual time at the start (None: now).
        `in_step`: time waits for this event loop when it is busy (for a daemon in this process).
        Raises: InvalidObjectError for a wrong scenario or speed.
        """
        if not 0 < speed <= 100_000:
            raise InvalidObjectError(f"speed {speed:g} is out of range; give more than 0 and at most 100000")
        plan = load_scenario(scenario) if isinstance(scenario, Path) else scenario or default_scenario()
        make_folder(state_dir)
        begin = SystemClock().now() if start_at is None else start_at
        clock = SharedClock.create(state_dir / "clock", start=begin, speed=speed)
        (state_dir / "clock").chmod(0o600)
        sandbox = cls(state_dir, plan, clock, seed)
        try:
            await sandbox._bring_up()
            if in_step:
                sandbox._supervisor.run("clock", partial(keep_in_step, clock))
        except BaseException:
            await sandbox.stop()
            raise
        return sandbox

    async def stop(self) -> None:
        """End everything, the newest first. May be called twice."""
        await self._open.aclose()

    # ControlApi

    def state(self) -> dict[str, Any]:
        """What GET /state answers."""
        quiet = min(time.monotonic() - server.store.last_write_wall for server in self.servers.values())
        clusters = {
            name: {
                **emulation.summary(),
                "writes": self.servers[name].store.writes,
                "resource_version": str(self.servers[name].store.resource_version),
                "pools": {
                    pool.spec.name: {
                        "desired": pool.desired,
                        "machines": len(pool.instances),
                        "shortage": pool.shortage,
                    }
                    for pool in emulation.pools.pools()
                },
            }
            for name, emulation in self.emulations.items()
        }
        return {
            "now": self.clock.now(),
            "speed": self.clock.speed,
            "next_event_at": self._timers.next_due(),
            "quiet_wall_seconds": quiet,
            "busy": self._busy,
            "clusters": clusters,
        }

    def leap(self, to: Instant) -> Instant:
        """Set the clock forward to `to`, or to the next event if that is earlier; not at all while there is work in
        hand that belongs to the present. The new time."""
        if not self._busy:
            due = self._timers.next_due()
            self.clock.leap(to if due is None else min(to, due))
            self._timers.wake()
        return self.clock.now()

    def hold(self, at: Instant | None) -> None:
        """Let time run on to `at` and then stand still, until this is called again; None: let it run."""
        self.clock.wind(math.inf if at is None else max(0.0, at - self.clock.now()) / self.clock.speed)

    def charges(self) -> tuple[Charge, ...]:
        """The bill of all clusters."""
        return tuple(charge for name in sorted(self.emulations) for charge in self.emulations[name].billing.charges())

    def services(self) -> dict[str, Any]:
        """What GET /services answers: each service under load, minute by minute."""
        return {} if self.clients is None else self.clients.as_json()

    def strike(self, fault: FaultPlan) -> None:
        """Make a fault happen now. Raises: InvalidObjectError."""
        emulation = self.emulations.get(fault.cluster)
        if emulation is None:
            names = ", ".join(sorted(self.emulations))
            raise InvalidObjectError(f"fault: no cluster {fault.cluster!r}; there are {names}")
        strike(emulation, fault, self.clock, self._timers, partial(self._silence, self.servers[fault.cluster]))

    def request_stop(self) -> None:
        self.stopping.set()

    # Bringing up

    async def _bring_up(self) -> None:
        self._supervisor.run("timers", self._timers.run)
        self._open.push_async_callback(self._supervisor.stop)
        self._check_faults()
        for plan in self.scenario.clusters:
            await self._start_cluster(plan)
        routes = Informer(self.servers[self.scenario.hub.name].local, HTTP_ROUTES, optional=True)
        self.clients = Clients(routes, self.clock)
        for plan in self.scenario.members:
            self.clients.watch(plan.name, self.emulations[plan.name].pods, self.emulations[plan.name].nodes)
        self._supervisor.run("watch-routes", routes.run)
        for plan in self.scenario.members:
            emulation = self.emulations[plan.name]
            server = self.servers[plan.name]
            address = ApiAddress(server.secure_url, server.ca_pem)
            cloud = await start_cloud(plan.provider, emulation.pools, self.clock, self.state_dir, address)
            self._open.push_async_callback(cloud.stop)
            server.accepts_token = cloud.accepts_token
            self.clouds[plan.name] = cloud
            app = web.Application()
            app.router.add_get("/metrics", partial(self._metrics, emulation, plan.dcgm_exporter))
            self.metrics_urls[plan.name] = f"{await self._serve(app)}/metrics"
        self.control_url = await self._serve(ControlApi(self, self.control_token).application())
        now = self.clock.now()
        for fault in self.scenario.faults:
            self._timers.at(now + fault.at_seconds, partial(self._strike_planned, fault))
        self._write_files()

    async def _start_cluster(self, plan: ClusterPlan) -> None:
        name = plan.name
        server = FallibleApiServer(name, self.clock, token=secrets.token_urlsafe(24), port=0)
        await server.start()
        self._open.push_async_callback(server.stop)
        self.servers[name] = server
        heartbeat = max(300.0, _HEARTBEAT_WALL_SECONDS * self.clock.speed)
        emulation = ClusterEmulation(
            plan, server.local, self.clock, self._timers, seed=self._seed, heartbeat_seconds=heartbeat
        )
        await emulation.start()
        self._open.push_async_callback(emulation.stop)
        self.emulations[name] = emulation

    async def _serve(self, app: web.Application) -> str:
        """Serve on a free loopback port until the end; the URL."""
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._open.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _metrics(self, emulation: ClusterEmulation, dcgm: Spelling, request: web.Request) -> web.Response:
        nodes, pods = emulation.nodes.objects.values(), emulation.pods.objects.values()
        assert self.clients is not None
        more = partial(self.clients.tell, emulation.name)
        options: dict[str, Any] = {"answers": self.clients.answers, "more": more}
        text = render(nodes, pods, self.clock.now(), self._seed, dcgm, emulation.xids, **options)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    def _write_files(self) -> None:
        relative = {}
        for name, server in self.servers.items():
            relative[name] = f"kubeconfigs/{name}.yaml"
            self.kubeconfigs[name] = self.state_dir / relative[name]
            write_private(self.kubeconfigs[name], dump(kubeconfig(server)))
        document = federation_document(
            self.scenario,
            kubeconfigs=relative,
            metrics_urls=self.metrics_urls,
            provider_settings={name: cloud.settings for name, cloud in self.clouds.items()},
        )
        write_private(self.federation_file, dump(document))

    # Faults and time

    @property
    def _busy(self) -> bool:
        return any(emulation.busy for emulation in self.emulations.values())

    def _check_faults(self) -> None:
        for fault in self.scenario.faults:
            if fault.kind not in KINDS:
                raise InvalidObjectError(f"scenario: fault {fault.kind!r} is not known; known: {', '.join(KINDS)}")

    def _strike_planned(self, fault: FaultPlan, _: Instant) -> None:
        self.strike(fault)

    def _silence(self, server: FallibleApiServer, seconds: float) -> None:
        server.fall_silent()
        self._timers.at(self.clock.now() + seconds, lambda _: server.speak())
