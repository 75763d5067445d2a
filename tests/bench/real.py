"""The whole loop over real API servers: etcd and kube-apiservers of $KUBEBUILDER_ASSETS, and the daemon as a process.

Run: KUBEBUILDER_ASSETS=... python -m tests.bench.real [--variant real|mixed|newer] [--json]. Prints one JSON line.
Measured are Jobs (submitted -> a copy exists; the copy has finished -> the hub says so; Jobs in a second through the
whole loop), or, where the hub is older than 1.32 and would drop spec.managedBy, FederatedWorkloads of one replica (the
copy is ready -> the hub says so). "mixed": real members under an emulated hub; "newer": tests/e2e/newer_definitions.py.

Kubelets and controllers are the sandbox's, in this one Python process, over the same API servers: the throughput is
what all of it together reaches on this machine, not the most that the daemon could do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clusters.kubernetes.client import HttpKubeApi
from clusters.sandbox.scenario import Scenario
from scheduler.model.contract import DEPLOYMENTS, FEDERATED_WORKLOADS, JOBS, LABEL_ORIGIN_UID, LABEL_QUEUE
from scheduler.model.ports import RawObject, Resource
from tests.bench.loop import cpu_seconds, process, quantiles, resident_mib, until_all
from tests.e2e.federations import MANAGED_JOBS, VARIANTS, Federation, a_federation, a_service, scenario
from tests.e2e.real_cluster import Assets, find_assets
from tests.loop.harness import a_job, is_complete

LATENCY, PER_SECOND = 100, 5.0
THROUGHPUT, SUBMITTERS = 500, 16
MACHINES = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """A kind of workload: where it is, how one is made, and when it is done, as a copy and on the hub."""

    hub: Resource
    copy: Resource
    make: Callable[[str], dict[str, Any]]
    copy_done: Callable[[RawObject], bool]
    hub_done: Callable[[RawObject], bool]


def is_ready(obj: RawObject) -> bool:
    return (obj.get("status") or {}).get("readyReplicas") == 1


MEASURED = {
    "jobs": Measured(JOBS, JOBS, lambda name: a_job(name, gpus=0, seconds=0.5), is_complete, is_complete),
    "services": Measured(FEDERATED_WORKLOADS, DEPLOYMENTS, lambda name: a_service(name, gpus=0), is_ready, is_ready),
}


@dataclass
class Seen:
    """When things were first seen, by the UID of the hub object."""

    copied: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    mirrored: dict[str, float] = field(default_factory=dict)

    async def watch_hub(self, api: HttpKubeApi, what: Measured) -> None:
        async for obj in _changes(api, what.hub, LABEL_QUEUE):
            if what.hub_done(obj):
                self.mirrored.setdefault(obj["metadata"]["uid"], time.monotonic())

    async def watch_member(self, api: HttpKubeApi, what: Measured) -> None:
        async for obj in _changes(api, what.copy, LABEL_ORIGIN_UID):
            origin = obj["metadata"]["labels"][LABEL_ORIGIN_UID]
            self.copied.setdefault(origin, time.monotonic())
            if what.copy_done(obj):
                self.ended.setdefault(origin, time.monotonic())


async def _changes(api: HttpKubeApi, resource: Resource, selector: str) -> AsyncIterator[RawObject]:
    version = (await api.list(resource, label_selector=selector)).resource_version
    while True:
        async for event in api.watch(resource, resource_version=version, label_selector=selector):
            version = event.object["metadata"]["resourceVersion"]
            if event.type in ("ADDED", "MODIFIED"):
                yield event.object


@asynccontextmanager
async def watched(federation: Federation, what: Measured) -> AsyncIterator[Seen]:
    seen = Seen()
    watches = [asyncio.ensure_future(seen.watch_hub(federation.hub, what))]
    watches += [asyncio.ensure_future(seen.watch_member(federation.apis[name], what)) for name in federation.members]
    try:
        yield seen
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)


async def submit(federation: Federation, what: Measured, name: str) -> tuple[str, float]:
    """(UID, when the request was sent)."""
    sent = time.monotonic()
    made = await federation.hub.create(what.hub, "default", what.make(name))
    return str(made["metadata"]["uid"]), sent


async def latency(federation: Federation, what: Measured, seen: Seen) -> dict[str, float]:
    """One after the other at a steady rate."""
    sent = {}
    for number in range(LATENCY):
        uid, at = await submit(federation, what, f"latency-{number}")
        sent[uid] = at
        await asyncio.sleep(1 / PER_SECOND)
    await until_all(seen.mirrored, sent, "done", 60)
    result: dict[str, float] = {}
    for label, values in (
        ("submit_to_copy", [seen.copied[uid] - at for uid, at in sent.items()]),
        ("done_to_mirrored", [max(0.0, seen.mirrored[uid] - seen.ended[uid]) for uid in sent]),
    ):
        p50, p99 = quantiles(values)
        result |= {f"{label}_p50_ms": round(p50, 1), f"{label}_p99_ms": round(p99, 1)}
    return result


async def throughput(federation: Federation, what: Measured, seen: Seen, daemon_pid: int) -> dict[str, float]:
    """As many as the hub takes, all at once."""
    sent: dict[str, float] = {}
    numbers = iter(range(THROUGHPUT))
    began, cpu = time.monotonic(), cpu_seconds(daemon_pid)

    async def submitter() -> None:
        for number in numbers:
            uid, at = await submit(federation, what, f"through-{number}")
            sent[uid] = at

    async with asyncio.TaskGroup() as group:
        for _ in range(SUBMITTERS):
            group.create_task(submitter())
    await until_all(seen.mirrored, sent, "done", 240)
    seconds = max(seen.mirrored[uid] for uid in sent) - began
    return {
        "per_second": round(THROUGHPUT / seconds, 1),
        "daemon_cpu_ms_each": round((cpu_seconds(daemon_pid) - cpu) / THROUGHPUT * 1000, 2),
        "daemon_rss_mib": round(resident_mib(daemon_pid), 1),
    }


def spacious() -> Scenario:
    """The small federation with room for all pods at once."""
    plan = scenario()
    onprem = plan.members[0]
    pool = onprem.pools[0]
    spec = replace(pool.spec, min_nodes=MACHINES, max_nodes=MACHINES, cpu="256", memory="2Ti")
    roomy = replace(onprem, pools=(replace(pool, spec=spec, initial_nodes=MACHINES),))
    return replace(plan, members=(roomy, *plan.members[1:]))


async def measure(variant: str, assets: Assets) -> dict[str, Any]:
    name = "jobs" if "hub" not in VARIANTS[variant] or assets.version >= MANAGED_JOBS else "services"
    what = MEASURED[name]
    with tempfile.TemporaryDirectory(prefix="overspill-bench-") as folder:
        async with a_federation(variant, Path(folder), spacious()) as federation, watched(federation, what) as seen:
            arguments = ("run", "--config", str(federation.federation_file), "--policies", str(federation.policies))
            async with process(*arguments, log=Path(folder) / "daemon.log") as daemon:
                uid, at = await submit(federation, what, "warm-up")
                await until_all(seen.mirrored, {uid: at}, "done (is the daemon up?)", 60)
                return {
                    "variant": variant,
                    "kubernetes": ".".join(map(str, assets.version)),
                    "workloads": name,
                    **await latency(federation, what, seen),
                    **await throughput(federation, what, seen, daemon.pid),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=[name for name, real in VARIANTS.items() if real], default="real")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    arguments = parser.parse_args()
    assets = find_assets()
    if isinstance(assets, str):
        raise SystemExit(f"bench: {assets}")
    result = asyncio.run(measure(arguments.variant, assets))
    if not arguments.json:
        for label, value in result.items():
            print(f"{label:28}{value:>12}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
