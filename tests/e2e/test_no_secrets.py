"""No secret is ever shown or kept: every credential of a whole federation is searched for in all that Overspill writes,
while all goes well and while everything goes wrong."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from clusters.sandbox.apiserver.failures import StatusError
from clusters.sandbox.clouds.faults import Fault
from clusters.sandbox.federation_file import dump
from clusters.sandbox.scenario import default_scenario
from scheduler.cli import crds
from scheduler.cli.main import app
from scheduler.model.contract import NODES
from tests.builders.commands import overspill
from tests.loop.harness import World, a_job, a_world, until

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
CLOUDS = ("eks", "gke", "aks")
MODELS = {"eks": "A10G", "gke": "H100-80GB", "aks": "A100-80GB"}
"""A GPU that only (or, for aks, not only) this cloud has."""
PASSWORD = "correct-horse-battery-9"
TOKEN = "opaque-metrics-token-0123456789"
HEADER = "opaque-tenant-key-9876543210"
_NAMES = (
    r"(?:token|password|client-key-data|aws_secret_access_key|aws_access_key_id|aws_session_token|secret|private_key"
    r"|clientSecret|client_secret|bearerToken)"
)
FORMS = {
    "bearer token": re.compile(r"(?i)\bbearer\s+(?!\(hidden\))(?=\S*\d)[A-Za-z0-9._~+/-]{12,}"),
    "private key": re.compile(r"PRIVATE KEY-----"),
    "EKS token": re.compile(r"k8s-aws-v1\.(?!\(hidden\))\w"),
    "AWS signature": re.compile(r"X-Amz-(?:Signature|Credential|Security-Token)=(?!\(hidden\))\w"),
    "client secret": re.compile(r"client_secret[\"']?\s*[=:]\s*[\"']?(?!\(hidden\))\w"),
    "JSON web token": re.compile(r"\beyJ[\w-]{6,}\.[\w-]{6,}"),
    "password in a URL": re.compile(r"://[^/\s:@\"]+:(?!\(hidden\)|\*\*\*)[^/\s@\"]+@"),
}


@dataclass
class Evidence:
    """Everything that was shown or kept, by where."""

    folder: Path
    url: str
    texts: dict[str, str] = field(default_factory=dict)
    presented: set[str] = field(default_factory=set)
    """Tokens with which the clusters' APIs were called."""

    def add(self, place: str, text: str) -> None:
        self.texts[f"{place} #{len(self.texts)}"] = text

    def add_history(self, folder: Path) -> None:
        """The whole database, with what its journal holds."""
        for file in folder.rglob("*.db*"):
            self.add(f"the history, {file.name}", file.read_bytes().decode("latin-1"))

    async def overspill(self, *arguments: str) -> int:
        status, output = await overspill(*arguments)
        assert "Traceback" not in output, output[-2000:]
        self.add(" ".join(arguments[:2]), output)
        return status

    async def look(self, federation: Path) -> None:
        """All that the daemon and the command line have to say just now."""
        async with aiohttp.ClientSession() as session:
            for path in (
                "status",
                "workloads",
                "decisions",
                "explain?workload=burst-eks",
                "clusters",
                "prices",
                "metrics",
            ):
                async with session.get(f"{self.url}/api/v1/{path}") as answer:
                    self.add(path, await answer.text())
            for path in ("metrics", "readyz", "healthz", "nowhere"):
                async with session.get(f"{self.url}/{path}") as answer:
                    self.add(path, await answer.text())
        commands = {info.name for info in app.registered_commands} | {info.name for info in app.registered_groups}
        runs = [("status", "--json", "--url", self.url), ("explain", "burst-eks", "--json", "--url", self.url)]
        # Its lines are made of the same texts; they are looked at once, in `look_offline`.
        runs.append(("doctor", "--config", str(federation), "--json"))
        for name, *words in (("clusters", "list"), ("prices",), ("metrics",)):
            if name in commands:
                runs.append((name, *words, "--json", "--url", self.url))
                runs.append((name, *words, "--json", "--config", str(federation)))
        await asyncio.gather(*(self.overspill(*arguments) for arguments in runs))

    async def look_offline(self, federation: Path) -> None:
        """What the command line says without a daemon."""
        await asyncio.gather(
            self.overspill("doctor", "--config", str(federation), "--json"),
            self.overspill("doctor", "--config", str(federation)),
            self.overspill("status", "--url", "http://127.0.0.1:1", "--json"),
        )

    def search(self, secrets: set[str]) -> list[str]:
        """Where a secret or the form of one was found."""
        found = []
        for place, text in self.texts.items():
            found += [f"{place}: a secret ({secret[:4]}...)" for secret in secrets if secret in text]
            found += [
                f"{place}: {name}: {match[0][:60]}" for name, form in FORMS.items() if (match := form.search(text))
            ]
        return found


def secrets_in(folder: Path) -> set[str]:
    """Every credential that the sandbox's files hold."""
    found: set[str] = set()
    for file in folder.rglob("*"):
        if not file.is_file() or file.name == "clock" or file.suffix.startswith(".db"):
            continue
        text = file.read_text(errors="replace")
        found |= set(re.findall(rf"{_NAMES}\"?\s*[:=]\s*\"?([A-Za-z0-9_\-+/=.]{{12,}})", text))
        if "secret" in file.name or "token" in file.name:
            found.add(text.strip())
        for key in re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", text.replace("\\n", "\n"), re.DOTALL):
            found |= {line for line in key.split("\n") if len(line) >= 40}
    return {one for one in found if len(one) >= 12 and not one.startswith("/")}


def listen(federation: Path, repeater: str = "") -> str:
    """Give the daemon a free port; its URL. With `repeater` two members' metrics are read there, with credentials."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = int(one.getsockname()[1])
    document = yaml.safe_load(federation.read_text())
    document["spec"]["listen"] = {"address": "127.0.0.1", "port": port}
    if repeater:
        (federation.parent / "metrics-token").write_text(TOKEN)
        (federation.parent / "metrics-password").write_text(PASSWORD)
        first, second, *_ = document["spec"]["members"]
        first["metrics"] = {"type": "prometheus", "url": repeater, "bearerTokenFile": "metrics-token"}
        basic = {"username": "over", "passwordFile": "metrics-password"}
        headers = {"X-Scope-Key": HEADER}
        second["metrics"] = {"type": "prometheus", "url": repeater, "basicAuth": basic, "headers": headers}
    federation.write_text(dump(document))
    return f"http://127.0.0.1:{port}"


@asynccontextmanager
async def repeating_metrics() -> AsyncIterator[str]:
    """A Prometheus API that refuses everything, and repeats what it was sent; its URL."""

    async def refuse(request: web.Request) -> web.Response:
        text = f"you sent {dict(request.headers)}, token={request.headers.get('Authorization', '')}"
        body = {"status": "error", "errorType": "odd", "error": text}
        return web.json_response(body, status=(401, 422, 200)[len(request.query_string) % 3])

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def daemon(world: World, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "scheduler.cli.main", "run", "--config", str(world.sandbox.federation_file),
            "--policies", str(world.policies), stdout=file, stderr=file, cwd=ROOT,
        )  # fmt: skip
    try:
        await until(lambda: '"started"' in log.read_text() or process.returncode is not None, "the daemon is up", 60)
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                await process.wait()


def watch_tokens(world: World, evidence: Evidence) -> None:
    """Remember every token that the clusters' APIs are called with."""
    for server in world.sandbox.servers.values():
        accepts = server.accepts_token

        def remembering(token: str, accepts: Any = accepts) -> bool:
            evidence.presented.add(token)
            return bool(accepts(token))

        server.accepts_token = remembering


async def burst_everywhere(world: World) -> None:
    for cloud in CLOUDS:
        template = a_job("any", seconds=1800)["spec"]["template"]
        template["spec"]["nodeSelector"] = {
            "nvidia.com/gpu.product": MODELS[cloud],
            "topology.kubernetes.io/region": next(m.region for m in world.sandbox.scenario.members if m.name == cloud),
        }
        await world.submit(f"burst-{cloud}", template=template)

    async def bought() -> bool:
        return all([(await world.member(cloud).list(NODES)).items for cloud in CLOUDS])

    await until(bought, "machines are bought in every cloud", 90)


def make_clouds_fail(world: World) -> None:
    for cloud in world.sandbox.clouds.values():
        for writes in (False, True):
            for _ in range(3):
                cloud.faults.add(Fault("denied", writes=writes))
                cloud.faults.add(Fault("throttled", writes=writes, retry_after_seconds=1))
                cloud.faults.add(Fault("unmapped", writes=writes, code="SomethingNew"))
                cloud.faults.add(Fault("lost-answer", writes=writes))


def make_servers_repeat(world: World, *names: str) -> None:
    """Refuse everything, and repeat in the refusal what was sent, credentials first."""
    for number, name in enumerate(names):
        server = world.sandbox.servers[name]

        async def repeating(request: web.BaseRequest, status: int = (401, 403, 500, 422)[number % 4]) -> Any:
            given = request.headers.get("Authorization", "")
            bare = given.rpartition(" ")[2]
            raise StatusError(status, "Odd", f"what is {bare}? you sent {given} and {dict(request.headers)}")

        server._route = repeating  # type: ignore[method-assign]
        server.store.close_watchers()


async def test_no_secret_is_shown_or_kept(tmp_path: Path) -> None:
    scenario = replace(default_scenario(), login_by_provider=True)
    async with repeating_metrics() as repeater, a_world(tmp_path, scenario=scenario, speed=600.0) as world:
        await crds.install(world.hub)
        federation, log = world.sandbox.federation_file, tmp_path / "run.log"
        evidence = Evidence(tmp_path, listen(federation, repeater))
        watch_tokens(world, evidence)
        async with daemon(world, log) as process:
            await burst_everywhere(world)
            await evidence.look(federation)
            make_clouds_fail(world)
            await until(lambda: "Throttled" in log.read_text() or "throttl" in log.read_text().lower(), "they fail", 60)
            for cloud in world.sandbox.clouds.values():
                cloud.revoke_credentials()
            await evidence.look(federation)
            make_servers_repeat(world, "onprem", *CLOUDS)
            await until(lambda: "what is" in log.read_text(), "the refusals are logged", 60)
            await evidence.look(federation)
            assert process.returncode is None, "it lives on"
            # Without the hub the Lease is lost, which ends the process.
            make_servers_repeat(world, "hub")
            await until(lambda: "cluster hub: " in log.read_text(), "the hub's refusals are logged", 60)
            await evidence.look_offline(federation)
        evidence.add("the log", log.read_text())
        evidence.add_history(tmp_path)
        secrets = secrets_in(tmp_path / "sandbox") | evidence.presented | {world.sandbox.control_token}
        secrets |= {server.token for server in world.sandbox.servers.values()} | {TOKEN, PASSWORD, HEADER}
        assert len(secrets) >= 10, "there is something to look for"
        assert any(token.startswith("k8s-aws-v1.") for token in evidence.presented)
        assert any("history" in place for place in evidence.texts)
        assert evidence.search(secrets) == []


async def test_the_password_of_the_history_is_shown_to_nobody(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        federation = world.sandbox.federation_file
        evidence = Evidence(tmp_path, listen(federation))
        document = yaml.safe_load(federation.read_text())
        document["spec"]["history"]["url"] = f"postgresql+asyncpg://over:{PASSWORD}@127.0.0.1:1/history"
        federation.write_text(dump(document))
        assert await evidence.overspill("doctor", "--config", str(federation), "--json") == 1
        run = ("run", "--config", str(federation), "--policies", str(world.policies))
        assert await evidence.overspill(*run) != 0
        document["spec"]["history"]["url"] = f"mysql://over:{PASSWORD}@127.0.0.1:1/history"
        federation.write_text(dump(document))
        assert await evidence.overspill("doctor", "--config", str(federation)) == 2
        document["spec"]["members"][0]["kubeconfig"] = f"https://over:{PASSWORD}@somewhere/kubeconfig"
        federation.write_text(dump(document))
        assert await evidence.overspill("doctor", "--config", str(federation)) == 2
        assert evidence.search({PASSWORD}) == []


def test_the_search_finds_what_it_is_for(tmp_path: Path) -> None:
    for name, text in {
        "bearer token": "Authorization: Bearer abcdefgh12345678",
        "private key": json.dumps("-----BEGIN PRIVATE KEY-----\nabc"),
        "EKS token": "k8s-aws-v1.aHR0cHM6",
        "AWS signature": "?X-Amz-Signature=0123abc",
        "client secret": "client_secret=abc",
        "JSON web token": "eyJhbGciOi.eyJzdWIiOi.x",
        "password in a URL": "postgresql://over:abc@db/x",
    }.items():
        evidence = Evidence(tmp_path, "")
        evidence.add("here", text)
        assert [name in one for one in evidence.search(set())] == [True], name
    evidence.add("there", "a word of secrets")
    assert evidence.search({"word of"})
