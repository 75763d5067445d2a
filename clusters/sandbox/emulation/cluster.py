"""One cluster's emulation: its controllers, scheduler, kubelets and machines, over any Kubernetes API."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from clusters.sandbox.emulation.billing import Billing
from clusters.sandbox.emulation.deployment_controller import DeploymentController, ReplicaSetController
from clusters.sandbox.emulation.garbage_collector import GarbageCollector
from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.job_controller import JobController
from clusters.sandbox.emulation.kubelet import Kubelets, Pace
from clusters.sandbox.emulation.node_lifecycle import NodeLifecycle
from clusters.sandbox.emulation.objects import condition_true, phase
from clusters.sandbox.emulation.pod_scheduler import PodScheduler
from clusters.sandbox.emulation.pools import NodePools
from clusters.sandbox.emulation.serving_controllers import inference_services, knative_services
from clusters.sandbox.emulation.stateful_set_controller import StatefulSetController
from clusters.sandbox.emulation.timers import Timers
from clusters.sandbox.emulation.work import Supervisor, WorkQueue
from clusters.sandbox.scenario import ClusterPlan
from scheduler.model.contract import (
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    JOBS,
    KNATIVE_ROUTES,
    KNATIVE_SERVICES,
    NODES,
    PODS,
    REPLICASETS,
    STATEFULSETS,
)
from scheduler.model.errors import TransientError
from scheduler.model.ports import Clock, KubeApi

_SYNC_SECONDS = 60.0


class ClusterEmulation:
    """Everything behind one cluster's API. `timers` are shared by all clusters of a sandbox and run by it."""

    def __init__(
        self,
        plan: ClusterPlan,
        api: KubeApi,
        clock: Clock,
        timers: Timers,
        *,
        seed: int = 0,
        heartbeat_seconds: float = 300.0,
        pace: Pace | None = None,
        workers: int = 8,
    ) -> None:
        self.name = plan.name
        self.pods = Informer(api, PODS)
        self.nodes = Informer(api, NODES)
        self.jobs = Informer(api, JOBS)
        self._sets = Informer(api, REPLICASETS)
        self._deployments = Informer(api, DEPLOYMENTS)
        self._stateful = Informer(api, STATEFULSETS)
        self._inference = Informer(api, INFERENCE_SERVICES, optional=True)
        self._knative = Informer(api, KNATIVE_SERVICES, optional=True)
        salt = f"{seed}/{plan.name}"
        self.scheduler = PodScheduler(api, clock, self.pods, self.nodes, workers=workers)
        self.kubelets = Kubelets(api, clock, timers, self.pods, self.nodes, pace=pace, workers=workers)
        self._job_controller = JobController(api, clock, timers, self.jobs, self.pods, seed=salt, workers=workers)
        self._set_controller = ReplicaSetController(api, self._sets, self.pods, seed=salt)
        self._deployment_controller = DeploymentController(api, clock, self._deployments, self._sets)
        self._stateful_controller = StatefulSetController(api, self._stateful, self.pods)
        self._serving = (
            inference_services(api, clock, self._inference, self._deployments),
            knative_services(api, clock, self._knative, self._deployments),
        )
        self.lifecycle = NodeLifecycle(api, clock, timers, self.pods, self.nodes, heartbeat_seconds=heartbeat_seconds)
        self.pools = NodePools(plan, api, clock, timers, self.nodes, self.kubelets, seed=seed)
        self.billing = Billing(plan, clock, self.nodes)
        owners = (self.jobs, self._sets, self._deployments, self._stateful)
        routes = Informer(api, KNATIVE_ROUTES, optional=True)
        self._optional = (self._inference, self._knative, routes)
        """Of definitions that may be installed, or not."""
        controlled = (self.pods, self._sets, self._deployments)
        self._garbage = GarbageCollector(api, (*owners, *self._optional), controlled, (routes,))
        self._informers = (*owners, self.pods, self.nodes)
        self._supervisor = Supervisor(plan.name)
        self.xids: dict[str, int] = {}
        """By node, the last error that its first GPU has reported."""

    @property
    def busy(self) -> bool:
        """Whether any controller has something to do at this very instant."""
        return self.scheduler.busy or any(queue.busy for queue in self._queues)

    @property
    def _queues(self) -> tuple[WorkQueue, ...]:
        return (
            self._job_controller.queue,
            self._set_controller.queue,
            self._deployment_controller.queue,
            self._stateful_controller.queue,
            *(each.queue for each in self._serving),
            self.kubelets.queue,
            self.lifecycle.nodes_queue,
            self.lifecycle.evictions,
            self.pools.queue,
            self._garbage.queue,
        )

    async def start(self) -> None:
        """Return once everything is synced, runs, and the fixed pools' nodes exist.

        Raises: TransientError when the API does not answer or lets no node be created.
        """
        for informer in (*self._informers, *self._optional):
            self._supervisor.run(f"watch-{informer.resource.key}", informer.run)
        try:
            async with asyncio.timeout(_SYNC_SECONDS):
                for informer in self._informers:
                    await informer.synced.wait()
                for queue in self._queues:
                    self._supervisor.run(queue.name, queue.run)
                self._supervisor.run("scheduler", self.scheduler.run)
                self.pools.start()
                wanted = sum(state.desired for state in self.pools.pools())
                while len(self.nodes.objects) < wanted:  # noqa: ASYNC110  (bounded by the timeout around it)
                    await asyncio.sleep(0.005)
        except TimeoutError as error:
            await self.stop()
            text = f"cluster {self.name}: not emulated: its API did not do what was asked within {_SYNC_SECONDS:g} s"
            raise TransientError(text) from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        await self._supervisor.stop()

    def knows_node(self, node: str) -> bool:
        return node in self.nodes.objects

    def summary(self) -> dict[str, Any]:
        """Counts for the control API: nodes, pods by phase, jobs by state."""
        jobs: Counter[str] = Counter()
        for job in self.jobs.objects.values():
            status = job.get("status") or {}
            if condition_true(job, "Complete"):
                jobs["complete"] += 1
            elif condition_true(job, "Failed"):
                jobs["failed"] += 1
            elif job["spec"].get("suspend"):
                jobs["suspended"] += 1
            else:
                jobs["running" if status.get("ready") else "pending"] += 1
        return {
            "nodes": len(self.nodes.objects),
            "nodes_ready": sum(condition_true(node, "Ready") for node in self.nodes.objects.values()),
            "pods": dict(sorted(Counter(phase(pod).lower() for pod in self.pods.objects.values()).items())),
            "jobs": dict(sorted(jobs.items())),
            "busy": self.busy,
        }


@asynccontextmanager
async def run_emulation(
    api: KubeApi,
    clock: Clock,
    plan: ClusterPlan,
    *,
    seed: int = 0,
    heartbeat_seconds: float = 300.0,
    pace: Pace | None = None,
    workers: int = 16,
) -> AsyncIterator[ClusterEmulation]:
    """One cluster's controllers, kubelets and machines over `api`, such as a real kube-apiserver, for the block."""
    timers = Timers(clock)
    emulation = ClusterEmulation(
        plan, api, clock, timers, seed=seed, heartbeat_seconds=heartbeat_seconds, pace=pace, workers=workers
    )
    supervisor = Supervisor(f"{plan.name}-time")
    supervisor.run("timers", timers.run)
    try:
        await emulation.start()
        try:
            yield emulation
        finally:
            await emulation.stop()
    finally:
        await supervisor.stop()
