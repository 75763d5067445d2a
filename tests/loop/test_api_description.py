"""The OpenAPI description is true: it is valid, names every route, and every answer is as it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from scheduler.daemon.http.page import FILES
from scheduler.daemon.http.server import HttpServer
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import NODES
from tests.loop import test_behaviours_remedies as remedies
from tests.loop.harness import POLICIES, World, a_job, a_world, until

BUDGETED = POLICIES.replace(
    "  return:", "  budgets:\n    - name: all\n      limitUsd: 400\n      window: day\n  return:"
)


def closed(node: Any) -> Any:
    """The schema with no room for keys that it does not name: what is told and not described is found."""
    if isinstance(node, list):
        return [closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {key: closed(value) for key, value in node.items()}
    return made | {"additionalProperties": False} if "properties" in made else made


class Described:
    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self._schemas = closed(description["components"])

    def schema(self, path: str, status: int, method: str = "get") -> tuple[str, dict[str, Any]]:
        """(media type, JSON schema) of an answer."""
        responses = self.description["paths"][path][method]["responses"]
        assert str(status) in responses, (path, status, sorted(responses))
        ((media, told),) = responses[str(status)]["content"].items()
        return media, {**told["schema"], "components": self._schemas}

    def check(self, path: str, status: int, body: Any, method: str = "get") -> None:
        _, schema = self.schema(path, status, method)
        errors = [f"{path}: {'/'.join(map(str, e.absolute_path))}: {e.message}" for e in self._errors(schema, body)]
        assert not errors, errors[:5]

    @staticmethod
    def _errors(schema: dict[str, Any], body: Any) -> Iterator[Any]:
        return Draft202012Validator(schema).iter_errors(body)


@pytest.mark.timeout(120)
async def test_every_route_is_described_and_every_answer_is_as_described(tmp_path: Path) -> None:
    policies = BUDGETED + remedies.REMEDY
    async with (
        a_world(tmp_path, policies=policies) as world,
        world.daemon() as (daemon, _),
        aiohttp.ClientSession() as http,
    ):
        server = HttpServer("127.0.0.1", 0, daemon.served)
        url = await server.start()
        try:

            async def get(path: str) -> tuple[int, Any]:
                async with http.get(f"{url}{path}") as answer:
                    text = await answer.text()
                    return answer.status, orjson.loads(text) if answer.content_type == "application/json" else text

            _, told = await get("/api/v1/openapi.json")
            validate(told)
            described = Described(told)
            assert server._runner is not None
            served = {
                (route.method.lower(), route.resource.canonical)
                for route in server._runner.app.router.routes()
                if route.resource is not None and route.method != "HEAD"
            }
            assert served - {("get", path) for path in FILES} == {
                (method, path) for path, methods in told["paths"].items() for method in methods
            }
            await remedies_and_jobs(world, daemon)
            tried = 0
            for path in told["paths"]:
                for asked in ASKED.get(path, (path,)):
                    if "get" not in told["paths"][path] or path == "/api/v1/events":
                        continue
                    status, body = await get(asked)
                    assert status == 200, (asked, body)
                    described.check(path, 200, body)
                    tried += 1
            assert tried >= 18
            for path, asked, want in REFUSED:
                status, body = await get(asked)
                assert status == want, asked
                described.check(path, want, body)
            async with http.get(f"{url}/api/v1/events") as stream:
                assert stream.headers["Content-Type"] == "text/event-stream"
                async for line in stream.content:
                    if line.startswith(b"data: {"):
                        described.check("/api/v1/events", 200, orjson.loads(line[6:]))
                        break
        finally:
            await server.stop()


ASKED = {
    "/api/v1/workloads": ("/api/v1/workloads", "/api/v1/workloads?limit=1", "/api/v1/workloads?queue=research"),
    "/api/v1/explain": tuple(f"/api/v1/explain?workload={name}" for name in ("train", "too-large", "cloudy")),
    "/api/v1/clusters/{name}": ("/api/v1/clusters/eks", "/api/v1/clusters/onprem"),
    "/api/v1/incidents": ("/api/v1/incidents", "/api/v1/incidents?days=3"),
    "/api/v1/incidents/{name}": ("/api/v1/incidents/i1",),
}
REFUSED = (
    ("/api/v1/workloads", "/api/v1/workloads?limit=0", 400),
    ("/api/v1/workloads", "/api/v1/workloads?limit=-1", 400),
    ("/api/v1/workloads", "/api/v1/workloads?limit=5001", 400),
    ("/api/v1/workloads", "/api/v1/workloads?limit=%C2%B2", 400),
    ("/api/v1/explain", "/api/v1/explain?workload=nobody", 404),
    ("/api/v1/clusters/{name}", "/api/v1/clusters/nowhere", 404),
    ("/api/v1/metrics", "/api/v1/metrics?metric=nothing", 404),
    ("/api/v1/incidents", "/api/v1/incidents?days=-1", 404),
    ("/api/v1/incidents/{name}", "/api/v1/incidents/nothing", 404),
)


async def remedies_and_jobs(world: World, daemon: Daemon) -> None:
    """One runs on-prem, one on bought nodes, one waits; an incident is being looked at; something was spent."""
    await world.submit("train", seconds=36000)
    template: dict[str, Any] = a_job("any", seconds=36000)["spec"]["template"]
    template["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": "A10G"}
    await world.submit("cloudy", template=template)
    await world.submit("too-large", gpus=64)
    told = remedies.Told(daemon)
    name = (await world.member("onprem").list(NODES)).items[0]["metadata"]["name"]
    told.open("i1", "gpu.xid.79", "onprem", name)

    async def all_there() -> bool:
        kept = daemon.report.status()
        return bool(kept["spend"]) and bool(kept["budgets"]) and kept["workloads"]["started"] >= 1

    await until(all_there, "there is something to tell of")
    await until(lambda: daemon.remedies.state.cases, "the incident is looked at")
    await until(lambda: daemon.readings.readings(), "metrics are read")
