"""The whole loop over HTTP, three processes: sandbox, daemon, and this one, which submits and watches.

Run: python -m tests.bench.loop [--json]. Prints a table and one JSON line:
latency (hub Job created -> copy exists on a member), throughput (jobs from submit to Complete on the hub, finalizer
gone), mirroring (copy finished -> hub Complete), and the daemon's resident memory with 1,000 jobs placed or waiting.
Published figures of peers, measured on a two-core machine over real API servers, stand beside as orientation: they ran
against etcd and kube-apiserver, this runs against the sandbox, so the comparison is not like for like.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from clusters.kubernetes.client import HttpKubeApi
from scheduler.model.contract import JOBS, LABEL_ORIGIN_UID, LABEL_QUEUE
from scheduler.model.ports import KubeApi
from tests.loop.harness import POLICIES, a_job, is_complete

SPEED = 60.0
LATENCY_JOBS, LATENCY_PER_SECOND = 300, 20.0
THROUGHPUT_JOBS, SUBMITTERS = 3000, 24
MEMORY_JOBS = 1000


class Witness:
    """Watches hub and members and notes when things were first seen, by the UID of the hub Job."""

    def __init__(self) -> None:
        self.copied: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.completed: dict[str, float] = {}
        self.let_go: dict[str, float] = {}

    async def watch_hub(self, api: KubeApi) -> None:
        listed = await api.list(JOBS, label_selector=LABEL_QUEUE)
        while True:
            async for event in api.watch(JOBS, resource_version=listed.resource_version, label_selector=LABEL_QUEUE):
                if event.type != "BOOKMARK" and is_complete(event.object):
                    meta = event.object["metadata"]
                    self.completed.setdefault(meta["uid"], time.monotonic())
                    if not meta.get("finalizers"):
                        self.let_go.setdefault(meta["uid"], time.monotonic())

    async def watch_member(self, api: KubeApi) -> None:
        listed = await api.list(JOBS, label_selector=LABEL_ORIGIN_UID)
        while True:
            async for event in api.watch(
                JOBS, resource_version=listed.resource_version, label_selector=LABEL_ORIGIN_UID
            ):
                if event.type in ("ADDED", "MODIFIED"):
                    origin = event.object["metadata"]["labels"][LABEL_ORIGIN_UID]
                    self.copied.setdefault(origin, time.monotonic())
                    if is_complete(event.object):
                        self.ended.setdefault(origin, time.monotonic())


@asynccontextmanager
async def process(*arguments: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child for the block, ended by SIGTERM."""
    with log.open("wb") as file:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "scheduler.cli.main", *arguments, stdout=file, stderr=file
        )
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
            await child.wait()


async def wait_for(path: Path) -> None:
    async with asyncio.timeout(30):
        while not path.exists():  # noqa: ASYNC240  (a stat)
            await asyncio.sleep(0.05)


def quantiles(values: list[float]) -> tuple[float, float]:
    """(median, 99th percentile) in milliseconds."""
    ordered = sorted(values)
    return statistics.median(ordered) * 1000, ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000


def resident_mib(pid: int) -> float:
    """VmRSS of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def submit(api: KubeApi, name: str, **how: Any) -> tuple[str, float]:
    """(UID, when the request was sent)."""
    sent = time.monotonic()
    made = await api.create(JOBS, "default", a_job(name, **how))
    return str(made["metadata"]["uid"]), sent


async def until_all(seen: dict[str, float], uids: dict[str, float], what: str, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not uids.keys() <= seen.keys():
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        missing = len(uids.keys() - seen.keys())
        raise SystemExit(f"bench: {missing} of {len(uids)} jobs not {what} within {seconds:g} s") from error


async def latency(hub: KubeApi, witness: Witness) -> dict[str, float]:
    """One job after the other at a steady rate."""
    sent: dict[str, float] = {}
    for number in range(LATENCY_JOBS):
        uid, at = await submit(hub, f"latency-{number}", gpus=0, seconds=1)
        sent[uid] = at
        await asyncio.sleep(1 / LATENCY_PER_SECOND)
    await until_all(witness.completed, sent, "complete", 60)
    created = [witness.copied[uid] - at for uid, at in sent.items()]
    mirrored = [max(0.0, witness.completed[uid] - witness.ended[uid]) for uid in sent if uid in witness.ended]
    p50, p99 = quantiles(created)
    mirror_p50, mirror_p99 = quantiles(mirrored)
    return {
        "submit_to_copy_p50_ms": round(p50, 1),
        "submit_to_copy_p99_ms": round(p99, 1),
        "finish_mirrored_p50_ms": round(mirror_p50, 1),
        "finish_mirrored_p99_ms": round(mirror_p99, 1),
    }


async def throughput(hub: KubeApi, witness: Witness, daemon_pid: int) -> dict[str, float]:
    """As many jobs as the hub takes, all at once."""
    sent: dict[str, float] = {}
    numbers = iter(range(THROUGHPUT_JOBS))
    began, cpu = time.monotonic(), cpu_seconds(daemon_pid)

    async def submitter() -> None:
        for number in numbers:
            uid, at = await submit(hub, f"through-{number}", gpus=0, seconds=1)
            sent[uid] = at

    async with asyncio.TaskGroup() as group:
        for _ in range(SUBMITTERS):
            group.create_task(submitter())
    submitted = time.monotonic() - began
    await until_all(witness.let_go, sent, "finished", 240)
    seconds = max(witness.let_go[uid] for uid in sent) - began
    return {
        "throughput_jobs": THROUGHPUT_JOBS,
        "submitted_per_second": round(THROUGHPUT_JOBS / submitted, 1),
        "jobs_per_second": round(THROUGHPUT_JOBS / seconds, 1),
        "daemon_cpu_ms_per_job": round((cpu_seconds(daemon_pid) - cpu) / THROUGHPUT_JOBS * 1000, 2),
    }


async def memory(hub: KubeApi, witness: Witness, daemon_pid: int) -> dict[str, float]:
    """1,000 jobs that stay: most wait for GPUs, those that fit run."""
    sent: dict[str, float] = {}
    for number in range(MEMORY_JOBS):
        uid, at = await submit(hub, f"memory-{number}", gpus=1, seconds=86400)
        sent[uid] = at
    async with asyncio.timeout(60):
        while sum(uid in witness.copied for uid in sent) < 60:
            await asyncio.sleep(0.05)
    await asyncio.sleep(3.0)
    return {"daemon_rss_mib": round(resident_mib(daemon_pid), 1)}


async def measure() -> dict[str, float]:
    """Latency and throughput on one daemon; memory on a fresh one, which has seen no more than its 1,000 jobs."""
    async with running() as (apis, witness, daemon_pid):
        hub = apis["hub"]
        result = {**await latency(hub, witness), **await throughput(hub, witness, daemon_pid)}
    async with running() as (apis, witness, daemon_pid):
        return {**result, **await memory(apis["hub"], witness, daemon_pid)}


@asynccontextmanager
async def running() -> AsyncIterator[tuple[dict[str, HttpKubeApi], Witness, int]]:
    """A sandbox and a daemon as child processes, watched: APIs by cluster, what is seen, the daemon's process id."""
    with tempfile.TemporaryDirectory(prefix="overspill-bench-") as name:
        folder = Path(name)
        policies, state = folder / "policies", folder / "state"
        policies.mkdir()
        (policies / "policies.yaml").write_text(POLICIES)
        async with process("sandbox", "--dir", str(state), "--speed", str(SPEED), log=folder / "sandbox.log"):
            await wait_for(state / "sandbox.json")
            config = str(state / "federation.yaml")
            async with (
                process("run", "--config", config, "--policies", str(policies), log=folder / "daemon.log") as daemon,
                observed(state) as (apis, witness),
            ):
                await warm_up(apis["hub"], witness)
                yield apis, witness, daemon.pid


@asynccontextmanager
async def observed(state: Path) -> AsyncIterator[tuple[dict[str, HttpKubeApi], Witness]]:
    names = sorted(path.stem for path in (state / "kubeconfigs").glob("*.yaml"))
    apis = {
        name: await HttpKubeApi.connect(name=name, kubeconfig=state / "kubeconfigs" / f"{name}.yaml", context=None)
        for name in names
    }
    witness = Witness()
    watches = [asyncio.ensure_future(witness.watch_hub(apis["hub"]))]
    watches += [asyncio.ensure_future(witness.watch_member(api)) for name, api in apis.items() if name != "hub"]
    try:
        yield apis, witness
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        for api in apis.values():
            await api.close()


async def warm_up(hub: KubeApi, witness: Witness) -> None:
    """The daemon is up once it has run a job."""
    uid, at = await submit(hub, "warm-up", gpus=0, seconds=1)
    await until_all(witness.let_go, {uid: at}, "finished (is the daemon up?)", 60)


PEERS = (
    ("submit -> on a member, p50 ms", "submit_to_copy_p50_ms", "MultiKueue 1100 (140 without its client limit)"),
    ("submit -> on a member, p99 ms", "submit_to_copy_p99_ms", ""),
    ("finished -> mirrored, p50 ms", "finish_mirrored_p50_ms", "MultiKueue 1030"),
    ("finished -> mirrored, p99 ms", "finish_mirrored_p99_ms", ""),
    ("jobs/s, whole loop", "jobs_per_second", "Kueue 36 (one cluster), MultiKueue 1.2 (6.0)"),
    ("daemon CPU ms per job", "daemon_cpu_ms_per_job", "Kueue 7.8"),
    ("daemon memory MiB, 4 members, 1,000 jobs", "daemon_rss_mib", "Kueue 623, MultiKueue 174"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    arguments = parser.parse_args()
    result = asyncio.run(measure())
    if not arguments.json:
        print(f"{'':42}{'Overspill':>12}   peers over real API servers")
        for label, key, peer in PEERS:
            print(f"{label:42}{result[key]:>12}   {peer}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
