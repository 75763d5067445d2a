"""docs/install.md, command by command.

First the emulated federation as it stands there, then the part for one's own clusters: there kubectl runs against the
same APIs, and what Helm would install is made by the Helm engine of the chart's tests."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.helm.render import render

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "install.md").read_text()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(420),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]
PROLOGUE = "set -euo pipefail; trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n"
PATIENT = """#!/usr/bin/env bash
# The command; what a reader would ask once more while the daemon is still coming up waits until it says it is ready
# (asking that costs nothing, where each command is a process that imports a lot), and is asked again if it must be.
ready() {
  exec 3<>"/dev/tcp/127.0.0.1/${OVERSPILL_URL##*:}" && printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 && grep -q '200 OK' <&3
}
case $1 in
  explain|status)
    for _ in $(seq 600); do (ready) 2>/dev/null && break; sleep 0.1; done
    for _ in $(seq 50); do "{command}" "$@" 2>/dev/null && exit; sleep 0.2; done
    exec "{command}" "$@" ;;
  *) exec "{command}" "$@" ;;
esac
"""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```sh{kind}\n(.*?)^```$", GUIDE, re.M | re.S)


def run(script: str, folder: Path, **environment: str) -> str:
    path = f"{folder / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", PROLOGUE + script], cwd=folder, capture_output=True, text=True, check=False, timeout=400,
        env={**os.environ, "PATH": path, "HOME": str(folder), **environment},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("deploy", "examples", "Containerfile"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "overspill"
    command.write_text(PATIENT.replace("{command}", str(Path(sys.executable).parent / "overspill")))
    command.chmod(0o755)
    return tmp_path


def own_port() -> tuple[str, int]:
    """A line that has the daemon listen on a port that is free, which nobody but a test needs; and the port."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = int(one.getsockname()[1])
    return f"sed -i 's/port: 8080$/port: {port}/' first/sandbox/federation.yaml\n", port


def kubectl_part() -> str:
    """The kubectl commands of the part for one's own clusters."""
    return "".join(line + "\n" for text in blocks(" cluster") for line in text.splitlines() if "kubectl" in line)


def test_the_guide_from_nothing_to_a_burst(clone: Path) -> None:
    steps = blocks("")
    set_port, port = own_port()
    assert [step.split()[0] for step in steps] == ["mkdir", "cat", "overspill", "overspill", "kill", "for", "kill"]
    steps[0] += set_port
    members = "printf x >onprem.yaml; printf x >eks.yaml\n"
    steps.insert(
        -1, f"export KUBECONFIG=$(echo first/sandbox/kubeconfigs/*.yaml | tr ' ' :)\n{members}{kubectl_part()}"
    )
    said = run("\n".join(steps), clone, OVERSPILL_URL=f"http://127.0.0.1:{port}")
    assert "0 fail" in said
    assert "condition met" in said
    assert "onprem" in said.partition("finetune-llama serverside-applied")[2]
    assert "job.batch/train-3 condition met" in said
    spend = re.search(r"^total +\$([\d.]+) *$", said.rpartition("Spend")[2], re.M)
    assert spend is not None
    assert 20 < float(spend[1]) < 60, (
        "one machine at 22 USD an hour for an hour and a half, its start and its idle time"
    )
    assert "configmap/overspill-my-policies created" in said


def helm(command: str) -> list[dict[str, Any]]:
    """What a `helm install` or `helm upgrade` of the guide makes."""
    words = shlex.split(command)
    assert words[:1] == ["helm"]
    assert words[3] == "deploy/helm/overspill"
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert options.pop("--namespace") == "overspill"
    values = yaml.safe_load((ROOT / options.pop("--values")).read_text())
    if "--set" in options:
        key, _, value = options.pop("--set").partition("=")
        values[key] = value
    assert options == {}
    return render(values, name=words[2])


def test_the_release_finds_what_the_commands_before_it_laid_down() -> None:
    commands = "".join(blocks(" cluster")).splitlines()
    made = [helm(command) for command in commands if command.startswith("helm")]
    laid = set(re.findall(r"create (?:secret generic|configmap) (\S+)", "\n".join(commands)))
    image = re.findall(r"podman build -t (\S+) -f Containerfile \.", "\n".join(commands))
    modes = []
    for objects in made:
        pod = next(one for one in objects if one["kind"] == "Deployment")["spec"]["template"]["spec"]
        named = {one["name"] for volume in pod["volumes"] for one in _sources(volume)}
        assert named == laid | {"overspill-federation"}
        assert [pod["containers"][0]["image"]] == image
        text = next(one for one in objects if one["metadata"]["name"] == "overspill-federation")["data"][
            "federation.yaml"
        ]
        modes.append(yaml.safe_load(text)["spec"]["mode"])
    assert modes == ["shadow", "active"]


def _sources(volume: dict[str, Any]) -> list[dict[str, Any]]:
    if "projected" in volume:
        return [each.get("secret") or each["configMap"] for each in volume["projected"]["sources"]]
    return [volume["configMap"]] if "configMap" in volume else []


def test_each_file_that_the_guide_names_is_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", GUIDE):
        assert (ROOT / "docs" / link).exists(), link
    (setup,) = blocks(" setup")
    assert setup.splitlines()[0] == "make setup"
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(), re.M)
