"""Every query of every dashboard, alert and recording rule, asked of a real Prometheus that scrapes a working daemon.

The federation is emulated and its time runs fast: within seconds jobs wait, run, burst, are reclaimed and stopped for
others, an alert comes and goes, a GPU fails and a cloud runs dry. A query has returned data when it did at some moment
of that.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
import yaml

from clusters.sandbox.emulation.requests import LOAD as CLIENTS
from clusters.sandbox.scenario import FaultPlan
from scheduler.cli import crds
from scheduler.cli.demo.manifests import route_definition
from scheduler.daemon.http.server import HttpServer
from scheduler.daemon.parts import Daemon
from scheduler.daemon.placing.planning import phase_of
from scheduler.model.contract import ANNOTATION_REPLICA_SPEED, CRDS, FEDERATED_WORKLOADS, HTTP_ROUTES, JOBS, NODES
from tests.builders.dashboards import panels_of
from tests.builders.prometheus_process import RunningPrometheus, Scraped, prometheus
from tests.builders.promql import filled, selectors
from tests.loop.harness import World, a_job, a_world, tiny_scenario, until
from tests.loop.test_behaviours_serving import deployment

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
RULES: Final = DEPLOY / "prometheus" / "alerts.rules.yaml"
_PATIENCE_SECONDS: Final = 120.0
_FOR_EVER: Final = 1e5
"""Virtual seconds: longer than the test."""
LIFE: Final = "job/default/life"
"""The workload whose life is looked at: it waits, is burst, and tells how far it is."""
FINE: Final = "all is well there"
EMPTY: Final[Mapping[str, str]] = {
    "alert OverspillBreakerOpen": FINE,
    "alert OverspillBreakerOpen asks for overspill_remedy_breakers_open": "none has a series before it opens once",
    "alert OverspillBudgetGone": FINE,
    "alert OverspillHistoryDropping": FINE,
    "alert OverspillLoopRestarts": FINE,
    "alert OverspillLoopRestarts asks for overspill_loop_restarts_total": "none has a series before it fails once",
    "alert OverspillMemberUnreachable": FINE,
    "alert OverspillModelDrifting": "nothing drifts within so few runs",
    "alert OverspillNoLeader": FINE,
    "alert OverspillPaused": "nobody has thrown a switch",
    "alert OverspillPolicyReloadFailed": FINE,
    "alert OverspillPriceStale": "prices that the federation file tells are new when it is read",
    "alert OverspillProviderErrors": "a shortage is an answer, no error",
    "alert OverspillTwoLeaders": FINE,
    "alert OverspillUnpricedPools": FINE,
    "alert OverspillWaitBurnFast": "nobody waits for two hours",
    "alert OverspillWaitBurnSlow": "nobody waits for two hours",
    "alert OverspillWatchFailing": FINE,
    'alert OverspillWatchFailing asks for overspill_fleet_watch_rounds_total{result="failed"}': "no round fails",
    "overspill-bursts: Nodes taken back: {{cluster}}/{{pool}} advised": "the emulated cloud takes nodes without advice",
    "overspill-incidents: Breakers: {{policy}} {{cause}}": "none has a series before it opens once",
    "overspill-services: Errors by revision: {{service}} {{cluster}} {{revision}}": "emulated replicas tell none",
    "overspill-spend: Price sources: changed at {{cluster}}": "the emulated clouds' prices do not change",
    "overspill-spend: Price sources: failed: {{source}}": "prices come from the federation file, which cannot fail",
}
"""What is expected to return nothing, and why. Nothing else may; what is told here must not return data."""
EITHER: Final[Mapping[str, str]] = {
    "alert OverspillDown": "a scrape that a busy machine answers late counts as down",
    "alert OverspillIdleBought": "how long a bought node idles between two looks depends on the machine's speed",
    "alert OverspillLoopLag": "so does whether the loop lags",
}
"""What may return data or not, and why."""

POLICIES: Final = """
apiVersion: overspill.dev/v1alpha1
kind: Queue
metadata: {name: research}
spec:
  quotas: [{resource: gpu, nominal: 1000}]
  preemption: {priority: lower}
---
apiVersion: overspill.dev/v1alpha1
kind: Queue
metadata: {name: batch}
spec:
  quotas: [{resource: gpu, nominal: 1000}]
  waitObjective: 1m
---
apiVersion: overspill.dev/v1alpha1
kind: Queue
metadata: {name: valued}
spec:
  quotas: [{resource: gpu, nominal: 1000}]
---
apiVersion: overspill.dev/v1alpha1
kind: PlacementPolicy
metadata: {name: onprem-first}
spec:
  match: {queues: [research]}
  objective: onprem-first
  burst: {afterWait: 30m, maxNodes: 8}
  return: {idle: 2m}
  budgets: [{name: month, limitUsd: "5000", window: total}]
---
apiVersion: overspill.dev/v1alpha1
kind: PlacementPolicy
metadata: {name: patient}
spec:
  match: {queues: [batch]}
  objective: onprem-first
  constraints: {clusters: [onprem]}
---
apiVersion: overspill.dev/v1alpha1
kind: PlacementPolicy
metadata: {name: valued}
spec:
  match: {queues: [valued]}
  objective: cost
  constraints: {clusters: [onprem]}
  valueOfTime: {usdPerGpuHour: "1.00"}
---
apiVersion: overspill.dev/v1alpha1
kind: RemediationPolicy
metadata: {name: gpu}
spec:
  match: {signals: ["gpu.*"]}
  actions: [{action: notify}]
  guards: {dryRun: false}
---
apiVersion: overspill.dev/v1alpha1
kind: RemediationPolicy
metadata: {name: alerts}
spec:
  match: {signals: ["alert.*"]}
  actions: [{action: notify}]
  guards: {dryRun: true}
---
apiVersion: overspill.dev/v1alpha1
kind: Queue
metadata: {name: serving}
spec:
  quotas: [{resource: gpu, nominal: 1000}]
---
apiVersion: overspill.dev/v1alpha1
kind: PlacementPolicy
metadata: {name: serving}
spec:
  match: {queues: [serving]}
  objective: cost
  constraints: {clusters: [eks], gpuModels: [A10G]}
  burst: {maxNodes: 8}
---
apiVersion: overspill.dev/v1alpha1
kind: ServingSLO
metadata: {name: chat}
spec:
  match: {queues: [serving]}
  objective: {p95Latency: 2s}
  limits: {maxReclaimableShare: 0}
  scaling: {minReplicas: 2, maxReplicas: 4}
"""
LOAD: Final = {
    "app": "chat",
    "backends": {"chat-eks": "eks"},
    "basePerSecond": 1.0,
    "peakPerSecond": 1.2,
    "daySeconds": 14400.0,
    "regions": {"eu": 1.0},
    "speeds": {"A10G": 1.0},
    "idleP95Seconds": 0.4,
    "sloSeconds": 2.0,
}
"""Of the service's clients: all its life, and within what two replicas carry."""
SAID: Final = {
    "overspill.dev/model": "resnet",
    "overspill.dev/batch-size": "64",
    "overspill.dev/total-steps": "6000",
    "overspill.dev/expected-duration": "30m",
}


def queries() -> dict[str, str]:
    """By what asks: dashboards' panels, alerts, what alerts hold against their limits, and recording rules."""
    found: dict[str, str] = {}
    for file in sorted((DEPLOY / "grafana").glob("*.json")):
        for panel in panels_of(json.loads(file.read_text(encoding="utf-8"))):
            for target in panel["targets"]:
                found[f"{file.stem}: {panel['title']}: {target['legendFormat']}"] = target["expr"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                found[f"record {rule['record']}"] = rule["expr"]
                continue
            found[f"alert {rule['alert']}"] = rule["expr"]
            for selector in selectors(rule["expr"]):
                found[f"alert {rule['alert']} asks for {selector}"] = selector
    return {name: filled(expression, {"workload": LIFE}) for name, expression in found.items()}


class Asker:
    """Asks for what has not returned anything yet, as a panel does: for all seconds since it was made."""

    def __init__(self, server: RunningPrometheus, wanted: Mapping[str, str]) -> None:
        self._server = server
        self._wanted = wanted
        self._since = time.time()
        self.answered: set[str] = set()

    async def run(self) -> None:
        """Again and again until nothing is missing. Raises: AssertionError for a query that is refused."""
        async with aiohttp.ClientSession() as http:
            while self.missing():
                for name in self._wanted.keys() - self.answered:
                    body = {"query": self._wanted[name], "start": self._since, "end": time.time(), "step": 1}
                    async with http.post(f"{self._server.url}/api/v1/query_range", data=body) as answer:
                        told = await answer.json()
                    assert told["status"] == "success", f"{name}: {self._wanted[name]}: {told.get('error')}"
                    if told["data"]["result"]:
                        self.answered.add(name)
                await asyncio.sleep(0.5)

    def missing(self) -> set[str]:
        return self._wanted.keys() - self.answered - EMPTY.keys() - EITHER.keys()


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[tuple[World, Daemon, RunningPrometheus]]:
    """A federation, its daemon that leads, and a Prometheus with our rules that scrapes it."""
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    rules["groups"] = [{**group, "interval": "1s"} for group in rules["groups"]]
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    async with (
        a_world(folder, speed=600.0, policies=POLICIES, scenario=tiny_scenario(2)) as world,
        AsyncExitStack() as stack,
    ):
        await crds.install(world.hub)
        daemon, _ = await stack.enter_async_context(world.daemon())
        server = HttpServer("127.0.0.1", 0, daemon.served)
        scraped = Scraped("overspill", f"{await server.start()}/metrics", {})
        try:
            async with prometheus(folder, [scraped], more={"rule_files": ["rules.yml"]}) as running:
                await running.until("overspill_leader == 1")
                yield world, daemon, running
        finally:
            await server.stop()


async def submit(
    world: World,
    name: str,
    queue: str = "research",
    *,
    gpus: int = 8,
    seconds: float,
    selector: Mapping[str, str] | None = None,
    **annotations: str,
) -> None:
    """A Job that says what it is and, while it runs, how far it is."""
    job = a_job(name, gpus=gpus, seconds=seconds, backoffLimit=6)
    job["metadata"]["labels"]["overspill.dev/queue"] = queue
    job["metadata"]["annotations"] = SAID | {f"overspill.dev/{key}": value for key, value in annotations.items()}
    template = job["spec"]["template"]
    template["metadata"]["annotations"]["sandbox.overspill.dev/steps-per-second"] = str(6000 / seconds)
    template["spec"]["nodeSelector"] = dict(selector or {})
    await world.hub.create(JOBS, "default", job)


async def serve(world: World) -> None:
    """A service, its route, and clients who ask."""
    steered = {"routes": [{"name": "chat", "backends": [{"name": "chat-eks", "cluster": "eks"}]}]}
    body = {
        "apiVersion": FEDERATED_WORKLOADS.api_version,
        "kind": FEDERATED_WORKLOADS.kind,
        "metadata": {
            "name": "chat",
            "namespace": "default",
            "labels": {"overspill.dev/queue": "serving"},
            "annotations": {ANNOTATION_REPLICA_SPEED: "A10G=1@400ms"},
        },
        "spec": {"template": deployment(replicas=2), "traffic": steered},
    }
    rule = {"backendRefs": [{"name": "chat-eks", "port": 80}]}
    route = {
        "apiVersion": HTTP_ROUTES.api_version,
        "kind": HTTP_ROUTES.kind,
        "metadata": {"name": "chat", "namespace": "default", "annotations": {CLIENTS: json.dumps(LOAD)}},
        "spec": {"rules": [rule]},
    }
    await world.hub.create(CRDS, "", route_definition())
    await world.hub.create(FEDERATED_WORKLOADS, "default", body)
    await world.hub.create(HTTP_ROUTES, "default", route)


def alert(status: str) -> bytes:
    labels = {"alertname": "Rack on fire", "severity": "critical", "cluster": "onprem"}
    told = {"status": status, "labels": labels, "startsAt": "2026-03-01T00:00:00Z", "fingerprint": "a1"}
    return json.dumps({"version": "4", "alerts": [told]}).encode()


async def live(world: World, daemon: Daemon) -> None:
    """All that is to be seen. What is there only for a while lasts until the end, so that no scrape can miss it."""
    world.sandbox.strike(FaultPlan(0.0, "eks", "capacity-shortage", pool="p4d"))
    alike = [f"alike-{number}" for number in range(4)]
    for name in alike:
        await submit(world, name, gpus=4, seconds=600.0)
    daemon.alerts.receive(alert("firing"))
    await until(lambda: world.all_done(*alike), "runs to learn from", 60)
    node = (await world.member("onprem").list(NODES)).items[0]["metadata"]["name"]
    world.sandbox.strike(FaultPlan(0.0, "onprem", "gpu-xid", node=node, code=79))
    daemon.alerts.receive(alert("resolved"))
    for name, queue in (("stopped", "research"), ("batch-0", "batch")):
        await submit(world, name, queue, seconds=_FOR_EVER)
    await until(lambda: running(daemon) == 2, "what is owned is full", 60)
    await submit(world, "batch-1", "batch", seconds=_FOR_EVER, deadline="10m")
    for number in range(4):
        await submit(world, f"valued-{number}", "valued", seconds=_FOR_EVER)
    await submit(world, "life", seconds=_FOR_EVER)
    await submit(world, "dry", seconds=_FOR_EVER, selector={"eks.amazonaws.com/capacityType": "ON_DEMAND"})
    await submit(world, "short", gpus=1, seconds=300.0, selector={"nvidia.com/gpu.product": "A10G"})
    spot = await until(lambda: a_spot_node(world), "a spot node is bought", 60)
    world.sandbox.strike(FaultPlan(0.0, "eks", "spot-reclaim", node=spot))
    await submit(world, "urgent", seconds=_FOR_EVER, priority="100")
    await serve(world)


def running(daemon: Daemon) -> int:
    phases = (phase_of(entry.workload) for entry in daemon.mirror.hub.values())
    return sum(phase == "started" for phase in phases)


async def a_spot_node(world: World) -> str | None:
    nodes = (await world.member("eks").list(NODES)).items
    return next((str(each["metadata"]["name"]) for each in nodes if "spot" in str(each["metadata"]["labels"])), None)


def test_what_is_told_to_be_empty_is_asked() -> None:
    assert EMPTY.keys() | EITHER.keys() <= queries().keys()


@pytest.mark.timeout(180)
async def test_every_query_returns_data_or_is_expected_not_to(tmp_path: Path) -> None:
    async with watched(tmp_path) as (world, daemon, running):
        asker = Asker(running, queries())
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await live(world, daemon)
                await asker.run()
        except TimeoutError:
            pytest.fail(f"nothing within {_PATIENCE_SECONDS:g} s for {sorted(asker.missing())}")
    assert sorted(asker.answered & EMPTY.keys()) == [], "these are told to return nothing"
