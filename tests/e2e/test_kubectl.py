"""A newcomer's first session: `overspill sandbox`, `overspill run`, and kubectl against every cluster of it; and that
none of the secrets in play is ever shown or kept where it does not belong."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.daemon.config.federation import load_federation, validate_settings
from tests.loop.harness import POLICIES, until

ROOT = Path(__file__).parents[2]
KUBECTL = shutil.which("kubectl")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed"),
]


async def told(*command: str, ok: bool = True, seconds: float = 30.0) -> str:
    """Standard output and error of a command that must end well (or not, when `ok` is False)."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=ROOT
    )
    async with asyncio.timeout(seconds):
        output, _ = await process.communicate()
    text = output.decode()
    assert (process.returncode == 0) == ok, f"{' '.join(command)}: {process.returncode}: {text}"
    assert "Traceback" not in text
    return text


@dataclass
class Session:
    folder: Path
    kubeconfigs: dict[str, str]
    url: str
    outputs: list[Path]

    async def kubectl(self, cluster: str, *arguments: str, ok: bool = True) -> str:
        assert KUBECTL is not None
        cache = str(self.folder / "kubectl-cache" / cluster)
        return await told(KUBECTL, "--kubeconfig", self.kubeconfigs[cluster], "--cache-dir", cache, *arguments, ok=ok)

    async def overspill(self, *arguments: str) -> str:
        return await told(sys.executable, "-m", "scheduler.cli.main", *arguments)


@asynccontextmanager
async def running(output: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """An overspill command in the background; it must end well at SIGTERM."""
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "scheduler.cli.main", *arguments, stdout=file, stderr=file, cwd=ROOT
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                await process.wait()
    assert process.returncode == 0, f"see {output}"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    state, policies = tmp_path / "state", tmp_path / "policies"
    policies.mkdir()
    (policies / "policies.yaml").write_text(POLICIES)
    logs = [tmp_path / "sandbox.log", tmp_path / "run.log"]
    async with running(logs[0], "sandbox", "--dir", str(state), "--speed", "600", "--json"):
        note_file = state / "sandbox.json"
        await until(note_file.exists, "the sandbox is up", 60)
        note = json.loads(note_file.read_text())
        federation = yaml.safe_load((state / "federation.yaml").read_text())
        port = free_port()
        federation["spec"]["listen"] = {"address": "127.0.0.1", "port": port}
        (state / "federation.yaml").write_text(yaml.safe_dump(federation))
        run = ("run", "--config", str(state / "federation.yaml"), "--policies", str(policies))
        async with running(logs[1], *run):
            await until(lambda: '"started"' in logs[1].read_text(), "the daemon is up", 60)
            yield Session(tmp_path, note["kubeconfigs"], f"http://127.0.0.1:{port}", logs)


async def follow_a_plain_job(session: Session, cluster: str) -> None:
    """What Done means 3 lists, on one cluster, with a Job that is the cluster's own."""
    manifest = yaml.safe_load((ROOT / "examples" / "job.yaml").read_text())
    manifest["metadata"] |= {"name": "own", "labels": {}}
    del manifest["spec"]["managedBy"]
    file = session.folder / f"own-{cluster}.yaml"
    file.write_text(yaml.safe_dump(manifest))
    assert "serverside-applied" in await session.kubectl(cluster, "apply", "--server-side", "-f", str(file))
    for resources in ("nodes,jobs,pods", "events"):
        await session.kubectl(cluster, "get", resources, "-A")
    assert "own" in await session.kubectl(cluster, "get", "jobs", "-A")
    description = await session.kubectl(cluster, "describe", "job", "own")
    assert re.search(r"Name:\s+own", description)
    await session.kubectl(cluster, "get", "jobs", "--watch", "--request-timeout=1s", "--output-watch-events", ok=True)
    assert "deleted" in await session.kubectl(cluster, "delete", "job", "own", "--timeout=20s")
    await session.kubectl(cluster, "get", "job", "own", ok=False)


def secrets_of(state: Path) -> set[str]:
    """Every token, password and key that the sandbox's files hold."""
    found = {json.loads((state / "sandbox.json").read_text())["control_token"]}
    names = r"(?:token|password|client-key-data|aws_secret_access_key|secret|private_key|clientSecret|client_secret)"
    for file in state.rglob("*"):
        if file.is_file() and file.stat().st_size < 10**6 and file.name != "clock":
            text = file.read_text(errors="replace")
            found |= set(re.findall(rf"{names}\"?\s*[:=]\s*\"?([A-Za-z0-9_\-+/=.]{{12,}})", text))
    return found


async def test_a_first_session(session: Session) -> None:
    async with asyncio.TaskGroup() as group:
        for cluster in session.kubeconfigs:
            group.create_task(follow_a_plain_job(session, cluster))

    await session.kubectl("hub", "apply", "--server-side", "-f", "examples/job.yaml")
    done = await session.kubectl("hub", "wait", "--for=condition=complete", "job/finetune-llama", "--timeout=60s")
    assert "condition met" in done
    assert "Placed" in await session.kubectl("hub", "get", "events", "-A")
    await session.kubectl("hub", "get", "fw", "-A")
    status: dict[str, Any] = json.loads(await session.overspill("status", "--json", "--url", session.url))
    assert {cluster["id"] for cluster in status["clusters"]} == set(session.kubeconfigs) - {"hub"}
    explained = await session.overspill("explain", "finetune-llama", "--url", session.url)
    assert "onprem" in explained

    state = session.folder / "state"
    secrets = secrets_of(state)
    assert len(secrets) > len(session.kubeconfigs), "the sandbox's files hold secrets"
    shown = [explained, json.dumps(status), await session.overspill("status", "--url", session.url)]
    shown += [path.read_text() for path in session.outputs]
    shown += [path.read_bytes().decode("latin-1") for path in session.folder.rglob("*.db*")]
    for secret in secrets:
        assert not any(secret in text for text in shown), "a secret was shown or kept"
    for file in state.rglob("*"):
        assert not stat.S_IMODE(file.stat().st_mode) & 0o077, f"{file.name} can be read by others"


async def test_the_examples_load_as_they_are() -> None:
    federation = load_federation(ROOT / "examples" / "federation.yaml", validate_provider=validate_settings)
    assert [member.id for member in federation.members] == ["onprem", "eks"]
    for path in ("examples/policy.yaml", "policies/examples"):
        await told(sys.executable, "-m", "scheduler.cli.main", "policy", "check", path)
