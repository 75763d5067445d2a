"""The shipped Prometheus rules: promtool's own checks, and that alerts, metrics, tests and runbooks belong together."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.telemetry.reference import families
from tests.builders.prometheus_process import promtool_binary

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = [
    rule for group in yaml.safe_load((FOLDER / "alerts.rules.yaml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
SCRAPED = {
    name
    for family in families(Telemetry)
    for name in ([f"{family.name}_bucket", f"{family.name}_count", f"{family.name}_sum"]
                 if family.kind == "histogram" else [family.name])
}  # fmt: skip


@pytest.mark.parametrize(
    "command", [("check", "rules", "alerts.rules.yaml"), ("test", "rules", "tests.yaml", "tests-hours.yaml")]
)
def test_promtool(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [promtool_binary(), *command], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", RULES, ids=[rule.get("alert") or rule["record"] for rule in RULES])
def test_rules_ask_only_for_what_is_there(rule: dict[str, Any]) -> None:
    asked = set(re.findall(r"overspill[:_][a-z0-9_:]*[a-z0-9]", rule["expr"]))
    assert asked
    assert asked <= SCRAPED | RECORDED, asked - SCRAPED - RECORDED


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_every_alert_says_what_it_means_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert re.fullmatch(r"\d+[mh]", alert["for"])
    told = alert["annotations"]
    assert told.keys() == {"summary", "description", "runbook_url", "dashboard_url"}
    runbook = (ROOT / told["runbook_url"]).read_text()
    assert runbook.startswith(f"# {name}\n")
    assert alert["expr"] in runbook, "the runbook shows another expression"
    for heading in ("What it means", "How to check", "What to do"):
        assert f"## {heading}\n" in runbook


def test_every_alert_is_tested_both_ways_and_every_runbook_has_an_alert() -> None:
    files = [yaml.safe_load(file.read_text()) for file in FOLDER.glob("tests*.yaml")]
    tested = {test["name"] for file in files for test in file["tests"]}
    assert {f"{name} {way}" for name in ALERTS for way in ("fires", "stays quiet")} <= tested
    books = {f"docs/runbooks/{file.name}" for file in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert books - {"docs/runbooks/README.md"} == {alert["annotations"]["runbook_url"] for alert in ALERTS.values()}
