"""`clusters`, `prices` and `metrics` with `--config`: the sandbox looked at once, without a daemon."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.cli.main import invoke
from tests.loop.harness import World, a_world


async def look(world: World, capsys: pytest.CaptureFixture[str], *command: str, want: int = 0) -> str:
    """What a command prints, errors included; nothing secret is ever in it."""
    capsys.readouterr()
    config = ["--config", str(world.sandbox.federation_file)]
    assert await asyncio.to_thread(invoke, [*command, *config]) == want
    printed = capsys.readouterr()
    shown = printed.out + printed.err
    for server in world.sandbox.servers.values():
        assert server.token not in shown
    return shown


async def look_json(world: World, capsys: pytest.CaptureFixture[str], *command: str) -> Any:
    return json.loads(await look(world, capsys, *command, "--json"))


async def change(world: World, **members: dict[str, Any]) -> None:
    """Other keys of members in the federation file; None takes one out."""

    def rewrite() -> None:
        path = world.sandbox.federation_file
        document: dict[str, Any] = yaml.safe_load(path.read_text())
        for member in document["spec"]["members"]:
            member |= members.get(member["name"], {})
            for key in [key for key, value in member.items() if value is None]:
                del member[key]
        path.write_text(yaml.safe_dump(document))

    await asyncio.to_thread(rewrite)


async def test_every_member_is_told_with_what_its_cloud_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with a_world(tmp_path) as world:
        found = await look_json(world, capsys, "clusters", "list")
        onprem, eks = found["clusters"]
        assert (onprem["id"], onprem["nodes"], onprem["gpus"], onprem["available"]) == ("onprem", 10, 64, True)
        assert (eks["id"], eks["nodes"], eks["provider"], eks["login"]) == ("eks", 0, "eks", "kubeconfig")
        assert all(0 < one["round_trip_seconds"] < 5 for one in (onprem, eks))
        assert all(found["now"] - 3600 < one["pools_at"] <= found["now"] for one in (onprem, eks))
        shown = await look(world, capsys, "clusters", "show", "eks")
        assert "p4d-spot" in shown
        assert "21.9576" in shown


async def test_a_difference_between_file_and_cloud_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with a_world(tmp_path) as world:

        def rewrite() -> None:
            path = world.sandbox.federation_file
            document: dict[str, Any] = yaml.safe_load(path.read_text())
            g5 = document["spec"]["members"][1]["pools"][2]
            g5["node"]["instanceType"], g5["maxNodes"] = "g6.xlarge", 99
            path.write_text(yaml.safe_dump(document))

        await asyncio.to_thread(rewrite)
        told = (await look_json(world, capsys, "clusters", "show", "eks"))["warnings"]
        assert "g5: instanceType: the file says g6.xlarge, the cloud g5.xlarge" in told
        assert "g5: maxNodes: the file says 99, the cloud allows 16" in told
        assert "g6.xlarge" in await look(world, capsys, "clusters", "show", "eks")


async def test_one_bad_member_costs_the_others_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with a_world(tmp_path) as world:
        await change(
            world,
            eks={"kubeconfig": "kubeconfigs/none.yaml", "metrics": {"type": "scrape", "url": "http://127.0.0.1:1"}},
        )
        onprem, eks = (await look_json(world, capsys, "clusters", "list"))["clusters"]
        assert (onprem["nodes"], onprem["error"]) == (10, None)
        assert (eks["nodes"], eks["gpus"], eks["available"]) == (None, None, False)
        assert "kubeconfigs/none.yaml does not exist" in eks["error"]
        readings = (await look_json(world, capsys, "metrics"))["readings"]
        states = {(one["cluster"], one["metric"]): one["state"] for one in readings}
        assert states["onprem", "gpu_utilization_ratio"] == "ok"
        assert states["onprem", "api_round_trip_seconds"] == "ok"
        assert states["eks", "gpu_utilization_ratio"] == "failed"
        assert states["eks", "api_round_trip_seconds"] == "failed"


async def test_samples_of_one_metric_on_one_member(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with a_world(tmp_path) as world:
        flags = ("--metric", "gpu_utilization_ratio", "--cluster", "onprem")
        (reading,) = (await look_json(world, capsys, "metrics", *flags))["readings"]
        assert (reading["state"], reading["unit"], reading["sample_count"]) == ("ok", "ratio", 64)
        assert {sample["labels"]["gpu"] for sample in reading["samples"]} == {str(gpu) for gpu in range(8)}
        assert "node=onprem-a100-0" in await look(world, capsys, "metrics", *flags)


async def test_prices_of_the_file_and_of_the_catalogue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with a_world(tmp_path) as world:

        def rewrite() -> None:
            path = world.sandbox.federation_file
            document: dict[str, Any] = yaml.safe_load(path.read_text())
            for pool in document["spec"]["members"][1]["pools"]:
                del pool["price"]
            path.write_text(yaml.safe_dump(document))

        await asyncio.to_thread(rewrite)
        found = await look_json(world, capsys, "prices")
        rows = {(row["cluster"], row["pool"]): row for row in found["prices"]}
        assert rows["onprem", "a100"]["winner"] == "federation file"
        assert (rows["eks", "g5"]["winner"], rows["eks", "g5"]["usd_per_hour"]) == ("catalogue", "1.006")
        assert rows["eks", "p4d-spot"]["usd_per_hour"] is None
        assert rows["eks", "p4d-spot"]["why_unknown"]
        assert {line["cluster"] for line in found["egress"]} == {"eks"}
        assert "eks/p4d-spot: unknown" in await look(world, capsys, "prices")


@pytest.mark.parametrize(
    ("command", "want"),
    [
        (("clusters", "show", "mars"), "no cluster 'mars' is a member; there are onprem, eks"),
        (("metrics", "--cluster", "mars"), "no cluster 'mars' is a member; there are onprem, eks"),
        (("metrics", "--metric", "speed"), "no metric 'speed' is collected; there are api_round_trip_seconds, "),
    ],
)
async def test_unknown_names_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], want: str
) -> None:
    async with a_world(tmp_path) as world:
        told = await look(world, capsys, *command, want=1)
        assert want in told
        assert told.count("\n") == 1


async def test_wrong_queries_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with a_world(tmp_path) as world:

        def rewrite() -> None:
            path = world.sandbox.federation_file
            document: dict[str, Any] = yaml.safe_load(path.read_text())
            document["spec"]["metricQueries"] = "queries.yaml"
            path.write_text(yaml.safe_dump(document))
            (path.parent / "queries.yaml").write_text("kind: Nonsense\n")

        await asyncio.to_thread(rewrite)
        told = await look(world, capsys, "metrics", want=2)
        assert "queries.yaml" in told
        assert told.count("\n") == 1
