"""examples/gitops: a pull request on policies, reviewed as its CI would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.helm.render import render
from scheduler.daemon.config.federation import load_federation, validate_settings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "gitops"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The example, committed on `main`."""
    place = tmp_path / "policies"
    shutil.copytree(EXAMPLE, place)
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=place, check=True)
    return place


def review(repository: Path) -> subprocess.CompletedProcess[str]:
    """What the workflow's last step runs, against `main`."""
    workflow = yaml.safe_load((repository / ".github" / "workflows" / "policies.yaml").read_text())
    command = workflow["jobs"]["review"]["steps"][-1]["run"]
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", command.replace("origin/$GITHUB_BASE_REF", "main")],
        cwd=repository, capture_output=True, text=True, check=False,
        env={**ENVIRONMENT, "GITHUB_STEP_SUMMARY": str(repository.parent / "summary")},
    )  # fmt: skip


def edit(repository: Path, old: str, new: str) -> None:
    file = repository / "policies" / "research.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_change_is_told_with_its_cost_and_wait(repository: Path) -> None:
    edit(repository, "afterWait: 10m", "afterWait: 30m")
    done = review(repository)
    assert done.returncode == 0, done.stderr
    told = (repository.parent / "summary").read_text()
    assert told == done.stdout
    (row,) = re.findall(r"^after +(-[\d.]+) +(-[\d.]+) +(\+\S+) +(\+\S+) *$", told.partition("What changes")[2], re.M)
    assert "".join(row) in (ROOT / "docs" / "gitops.md").read_text().replace(" ", ""), "docs/gitops.md shows this table"


def test_policies_that_are_the_same_are_not_replayed(repository: Path) -> None:
    done = review(repository)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "The policies are those of main.")


def test_a_mistake_fails_the_pull_request_with_its_place(repository: Path) -> None:
    edit(repository, "maxNodes", "maxNode")
    done = review(repository)
    assert done.returncode == 1
    assert (
        'policies/research.yaml:9:5: unknown key "maxNode" in burst; did you mean "maxNodes"?'
        in done.stderr + done.stdout
    )


def test_the_application_installs_the_chart_with_these_values(tmp_path: Path) -> None:
    application = yaml.safe_load((EXAMPLE / "application.yaml").read_text())
    chart, policies = application["spec"]["sources"]
    assert (ROOT / chart["path"] / "Chart.yaml").is_file()
    assert chart["helm"]["valueFiles"] == [f"${policies['ref']}/values.yaml"]
    values = yaml.safe_load((EXAMPLE / "values.yaml").read_text())
    assert values["policiesFrom"]["git"]["repository"] == policies["repoURL"]
    assert (EXAMPLE / values["policiesFrom"]["git"]["path"]).is_dir()
    made = render(values, name=chart["helm"]["releaseName"])
    (text,) = (one["data"]["federation.yaml"] for one in made if one["kind"] == "ConfigMap" and "data" in one)
    (tmp_path / "federation.yaml").write_text(text)
    federation = load_federation(tmp_path / "federation.yaml", validate_provider=validate_settings)
    assert [member.id for member in federation.members] == ["onprem", "eks"]
