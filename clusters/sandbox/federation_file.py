"""The federation file and kubeconfigs that a sandbox writes for those who use it, readable by their owner only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from clusters.sandbox.emulation.machines import node_labels
from clusters.sandbox.scenario import POOL_LABELS, ClusterPlan, PoolPlan, Scenario
from scheduler.model.contract import API_VERSION, LABEL_POOL


def make_folder(path: Path) -> None:
    """Create it if need be, closed to others."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)


def write_private(path: Path, text: str) -> None:
    """Write `path` whole or not at all, mode 0600."""
    make_folder(path.parent)
    draft = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def federation_document(
    scenario: Scenario,
    *,
    kubeconfigs: Mapping[str, str],
    metrics_urls: Mapping[str, str],
    provider_settings: Mapping[str, Mapping[str, object]],
) -> dict[str, Any]:
    """The `kind: Federation` document; paths in it are relative to the state folder."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Federation",
        "metadata": {"name": "sandbox"},
        "spec": {
            "mode": "active",
            "clockFile": "clock",
            "hub": {"name": scenario.hub.name, "kubeconfig": kubeconfigs[scenario.hub.name]},
            "listen": {"address": "127.0.0.1", "port": 8080},
            "history": {"url": "sqlite+aiosqlite:///overspill.db"},
            "members": [
                _member(
                    member,
                    _login(member, kubeconfigs[member.name], by_provider=scenario.login_by_provider),
                    metrics_urls[member.name],
                    provider_settings[member.name],
                )
                for member in scenario.members
            ],
        },
    }


def _login(plan: ClusterPlan, kubeconfig: str, *, by_provider: bool) -> dict[str, Any]:
    """How to log in to the cluster's API; nobody issues tokens for owned machines."""
    return {"login": "provider"} if by_provider and plan.provider != "onprem" else {"kubeconfig": kubeconfig}


def _member(
    plan: ClusterPlan, login: Mapping[str, Any], metrics: str, settings: Mapping[str, object]
) -> dict[str, Any]:
    member: dict[str, Any] = {"name": plan.name, "region": plan.region}
    if plan.labels:
        member["labels"] = dict(plan.labels)
    return member | {
        **login,
        "provider": dict(settings),
        "metrics": {"type": "scrape", "url": metrics},
        "pools": [_pool(plan, pool) for pool in plan.pools],
    }


def _pool(plan: ClusterPlan, pool: PoolPlan) -> dict[str, Any]:
    spec = pool.spec
    naming = POOL_LABELS.get(plan.provider, LABEL_POOL)
    document: dict[str, Any] = {
        "name": spec.name,
        "selector": {naming: spec.name},
        "labels": {key: value for key, value in sorted(node_labels(plan, pool).items()) if key != naming},
        "capacityType": spec.capacity_type,
        "scaling": "fixed" if pool.fixed else "managed",
    }
    if not pool.fixed:
        document["minNodes"] = spec.min_nodes
        document["maxNodes"] = spec.max_nodes
        document["provisioningSeconds"] = int(spec.provisioning_seconds)
    document["price"] = {"usdPerHour": spec.usd_per_hour}
    if spec.taints:
        document["taints"] = [{"key": key, "value": value, "effect": effect} for key, value, effect in spec.taints]
    node: dict[str, Any] = {"instanceType": spec.instance_type, "cpu": spec.cpu, "memory": spec.memory}
    if spec.gpus:
        node |= {"gpus": spec.gpus, "gpuModel": spec.gpu_model, "gpuMemory": spec.gpu_memory}
    document["node"] = node
    return document


def dump(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False)
