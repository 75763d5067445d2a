"""Real Kubernetes APIs for tests: one etcd and as many kube-apiservers as are asked for, on free loopback ports.

The binaries come from $KUBEBUILDER_ASSETS, as those of envtest do. What a whole cluster would add (controllers,
scheduler, kubelets) is left to the sandbox's emulation. Nothing listens beyond loopback; clients know the servers by a
throw-away authority and are known by a random token.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from clusters.kubernetes.client import HttpKubeApi
from clusters.sandbox.clouds.certificates import ServerCertificate, make_server_certificate, write_private
from scheduler.model.contract import NAMESPACES
from scheduler.model.errors import ExternalError

ASSETS = "KUBEBUILDER_ASSETS"
ACCOUNT = "system:serviceaccount:overspill:overspill"
_START_SECONDS = 90.0
_STOP_SECONDS = 20.0
_LOG_LINES = 25


@dataclass(frozen=True, slots=True)
class Assets:
    """The binaries, and what `kube-apiserver --version` says, as (major, minor)."""

    etcd: Path
    apiserver: Path
    version: tuple[int, int]
    definitions: Path | None
    """An apiextensions-apiserver of a newer Kubernetes (tests/e2e/newer_definitions.py); None: there is none."""


def find_assets() -> Assets | str:
    """The binaries that $KUBEBUILDER_ASSETS names; a sentence that says what is missing when they cannot be used."""
    named = os.environ.get(ASSETS)
    if not named:
        return f"set {ASSETS} to a folder with etcd and kube-apiserver to run this against real API servers"
    etcd, apiserver = Path(named) / "etcd", Path(named) / "kube-apiserver"
    missing = [path.name for path in (etcd, apiserver) if not os.access(path, os.X_OK)]
    if missing:
        return f"{ASSETS} has no executable {' and no '.join(missing)}"
    told = subprocess.run([apiserver, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    found = re.search(r"v(\d+)\.(\d+)", told)
    if found is None:
        return f"{ASSETS}: kube-apiserver --version says {told[:80]!r}"
    definitions = Path(named) / "apiextensions-apiserver"
    newer = definitions if os.access(definitions, os.X_OK) else None
    return Assets(etcd, apiserver, (int(found[1]), int(found[2])), newer)


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    port: int
    token: str
    kubeconfig: Path
    log: Path
    process: asyncio.subprocess.Process
    account: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class RealCluster:
    """How it is reached, and how it is cut off."""

    kubeconfig: Path
    processes: tuple[asyncio.subprocess.Process, ...]
    etcd: str
    """Its URL."""
    certificate: ServerCertificate
    account: Path
    """The kubeconfig of Overspill's own service account, which may do what roles grant it."""

    def fall_silent(self) -> None:
        """It takes connections, as a broken network seems to, and answers none."""
        for process in self.processes:
            process.send_signal(signal.SIGSTOP)

    def speak(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def real_clusters(assets: Assets, folder: Path, names: Sequence[str]) -> AsyncIterator[dict[str, RealCluster]]:
    """Each named cluster, while they run. They share one etcd, each under its own prefix; their logs stay in
    `folder`."""
    folder.mkdir(parents=True)  # noqa: ASYNC240
    certificate = make_server_certificate(folder, "apiserver")
    keys = _service_account_keys(folder)
    ports = iter(free_ports(2 + len(names)))
    client, peer = (f"http://127.0.0.1:{next(ports)}" for _ in range(2))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder / "etcd", ignore_errors=True)
        await stack.enter_async_context(running(folder / "etcd.log", *_etcd(assets, folder, client, peer)))
        servers = []
        for name in names:
            port, token, log = next(ports), secrets.token_urlsafe(24), folder / f"{name}-apiserver.log"
            account = secrets.token_urlsafe(24)
            arguments = _apiserver(assets, folder, name, client, port, (token, account), certificate, keys)
            process = await stack.enter_async_context(running(log, *arguments))
            kubeconfig = folder / f"{name}.yaml"
            write_private(kubeconfig, _kubeconfig(name, port, token, certificate).encode())
            restricted = folder / f"{name}-account.yaml"
            write_private(restricted, _kubeconfig(name, port, account, certificate).encode())
            servers.append(_Server(name, port, token, kubeconfig, log, process, restricted))
        tls = ssl.create_default_context(cafile=str(certificate.ca_file))
        for server in servers:
            await _until_ready(server, tls)
        yield {
            one.name: RealCluster(one.kubeconfig, (one.process,), client, certificate, one.account) for one in servers
        }


def _apiserver(
    assets: Assets,
    folder: Path,
    name: str,
    etcd: str,
    port: int,
    known: tuple[str, str],
    certificate: ServerCertificate,
    keys: tuple[Path, Path],
) -> list[str]:
    """`known`: the token of one who may do everything, and that of Overspill's own account."""
    tokens = folder / f"{name}-tokens.csv"
    lines = f'{known[0]},test,test,"system:masters"\n{known[1]},{ACCOUNT},overspill\n'
    write_private(tokens, lines.encode())
    return [
        str(assets.apiserver),
        f"--etcd-servers={etcd}",
        f"--etcd-prefix=/{name}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}",
        f"--tls-cert-file={certificate.certificate_file}",
        f"--tls-private-key-file={certificate.key_file}",
        "--service-account-issuer=https://localhost",
        f"--service-account-signing-key-file={keys[0]}",
        f"--service-account-key-file={keys[1]}",
        f"--token-auth-file={tokens}",
        "--anonymous-auth=false",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        # Without its controller no service account exists, and no pod could be created.
        "--disable-admission-plugins=ServiceAccount",
    ]


def _etcd(assets: Assets, folder: Path, client: str, peer: str) -> list[str]:
    return [
        str(assets.etcd),
        "--name=test",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=test={peer}",
        "--unsafe-no-fsync",
    ]


def _service_account_keys(folder: Path) -> tuple[Path, Path]:
    """(private, public) key files, which a kube-apiserver does not start without."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = folder / "service-account.key", folder / "service-account.pub"
    pem = serialization.Encoding.PEM
    write_private(
        private, key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    write_private(public, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def _kubeconfig(name: str, port: int, token: str, certificate: ServerCertificate) -> str:
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(certificate.ca_file)}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
            "current-context": name,
        }
    )


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; all held at once, so that no two are the same."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@asynccontextmanager
async def running(
    log: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child for the block: asked to end, then made to."""
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
                try:
                    async with asyncio.timeout(_STOP_SECONDS):
                        await process.wait()
                except TimeoutError:
                    process.kill()
            await process.wait()


async def _until_ready(server: _Server, tls: ssl.SSLContext) -> None:
    """Return once the server says that it is ready, and has made the namespace that everybody uses."""
    api = await HttpKubeApi.connect(name=server.name, kubeconfig=server.kubeconfig, context=None)
    headers = {"Authorization": f"Bearer {server.token}"}
    try:
        async with asyncio.timeout(_START_SECONDS), aiohttp.ClientSession(headers=headers) as session:
            while server.process.returncode is None:
                with contextlib.suppress(ExternalError, aiohttp.ClientError):
                    async with session.get(f"{server.url}/readyz", ssl=tls) as answer:
                        answer.raise_for_status()
                    await api.get(NAMESPACES, "", "default")
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    finally:
        await api.close()
    lines = "\n".join(server.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
    raise AssertionError(f"kube-apiserver of {server.name} is not ready; the end of {server.log.name}:\n{lines}")
