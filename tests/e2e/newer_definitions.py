"""A real cluster whose custom resources are served by a newer Kubernetes than its other objects.

Where $KUBEBUILDER_ASSETS has an apiextensions-apiserver beside an older kube-apiserver: definitions and what they make
(FederatedWorkloads, HTTPRoutes, KServe's and Knative's objects) are that one's, with its rules in CEL, over the same
etcd; authentication, authorization and namespaces are the kube-apiserver's, as of any aggregated API. A front that only
passes bytes on makes one address of both, by the group that a path names.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp
import yaml
from aiohttp import web
from yarl import URL

from clusters.kubernetes.client import HttpKubeApi
from clusters.sandbox.clouds.certificates import write_private
from scheduler.model.contract import CRDS
from scheduler.model.errors import ExternalError
from tests.e2e.real_cluster import RealCluster, free_ports, running
from tests.loop.harness import until

_CUSTOM: Final = "apiextensions.k8s.io"
_PASSED_ON: Final = ("Authorization", "Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_PASSED_BACK: Final = ("Content-Type", "Content-Encoding", "Retry-After", "Warning")


@asynccontextmanager
async def newer_definitions(server: Path, folder: Path, name: str, core: RealCluster) -> AsyncIterator[RealCluster]:
    """That cluster with custom resources by `server`, an apiextensions-apiserver."""
    port, own = free_ports(2)
    log = folder / f"{name}-apiextensions.log"
    newer, front, account = (folder / f"{name}-{what}.yaml" for what in ("newer", "front", "front-account"))
    for path, of, at in ((newer, core.kubeconfig, port), (front, core.kubeconfig, own), (account, core.account, own)):
        write_private(path, _readdressed(of, f"https://127.0.0.1:{at}").encode())
    # Its informers are to list and watch: an older kube-apiserver does not stream lists.
    told = {"KUBE_FEATURE_WatchListClient": "false"}
    async with running(log, *_arguments(server, name, core, port), env=told) as process:
        api = await HttpKubeApi.connect(name=name, kubeconfig=newer, context=None)
        try:
            await until(lambda: _answers(api), f"{server.name} of {name} answers; see {log}")
        finally:
            await api.close()
        async with _front(core, f"https://127.0.0.1:{port}", own):
            yield replace(core, kubeconfig=front, account=account, processes=(*core.processes, process))


def _arguments(server: Path, name: str, core: RealCluster, port: int) -> list[str]:
    return [
        str(server),
        f"--etcd-servers={core.etcd}",
        f"--etcd-prefix=/{name}-newer",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={core.certificate.certificate_file}",
        f"--tls-private-key-file={core.certificate.key_file}",
        f"--kubeconfig={core.kubeconfig}",
        f"--authentication-kubeconfig={core.kubeconfig}",
        f"--authorization-kubeconfig={core.kubeconfig}",
        "--authentication-skip-lookup",
        # What an older kube-apiserver has no objects of.
        "--enable-priority-and-fairness=false",
        "--disable-admission-plugins=MutatingAdmissionPolicy,ValidatingAdmissionPolicy",
    ]


def _readdressed(kubeconfig: Path, url: str) -> str:
    document = yaml.safe_load(kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = url
    return yaml.safe_dump(document)


async def _answers(api: HttpKubeApi) -> bool:
    try:
        await api.list(CRDS)
    except ExternalError:
        return False
    return True


@asynccontextmanager
async def _front(core: RealCluster, newer: str, port: int) -> AsyncIterator[None]:
    trusted = ssl.create_default_context(cafile=str(core.certificate.ca_file))
    document = yaml.safe_load(core.kubeconfig.read_text())
    older, token = document["clusters"][0]["cluster"]["server"], document["users"][0]["user"]["token"]
    connector = aiohttp.TCPConnector(ssl=trusted, limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        async with session.get(f"{older}/apis", headers={"Authorization": f"Bearer {token}"}) as answer:
            groups = {one["name"] for one in (await answer.json())["groups"]}

        async def passed(request: web.Request) -> web.StreamResponse:
            return await _pass(session, newer if _is_custom(request.path, groups) else older, request)

        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", passed)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.5)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port, ssl_context=core.certificate.tls_context()).start()
            yield
        finally:
            await runner.cleanup()


def _is_custom(path: str, groups: Collection[str]) -> bool:
    words = path.split("/")
    return len(words) > 2 and words[1] == "apis" and (words[2] == _CUSTOM or words[2] not in groups)


async def _pass(session: aiohttp.ClientSession, base: str, request: web.Request) -> web.StreamResponse:
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    response: web.StreamResponse | None = None
    try:
        url = URL(base + request.raw_path, encoded=True)
        body = await request.read()
        async with session.request(request.method, url, data=body or None, headers=headers) as answer:
            back = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=back)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response
    except (aiohttp.ClientError, ConnectionError):
        # As the server broke it off: in the middle of an answer, or before there was one.
        if request.transport is not None:
            request.transport.abort()
        return response or web.Response(status=502)
