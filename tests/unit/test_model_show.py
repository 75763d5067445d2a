"""`overspill model show`: what it says of what was learned, and of a history that holds nothing."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
import sqlalchemy as sql
import yaml
from rich.console import Console

from scheduler.cli.main import invoke
from scheduler.cli.model_page import _smooth, page
from scheduler.cli.model_show import _tables, described
from scheduler.daemon.history.tables import LEARNED, METADATA
from scheduler.daemon.learning.learner import NAME
from scheduler.predict.learning import Learning
from scheduler.predict.use import Use
from tests.property.test_predict_learned import learned
from tests.unit.engine_world import bought_pool

FEDERATION = {
    "apiVersion": "overspill.dev/v1alpha1",
    "kind": "Federation",
    "metadata": {"name": "test"},
    "spec": {
        "history": {"url": "sqlite+aiosqlite:///history.db"},
        "members": [{"name": "onprem", "region": "dc1", "provider": {"type": "onprem"}}],
    },
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "federation.yaml"
    path.write_text(yaml.safe_dump(FEDERATION))
    return path


def save(folder: Path, body: str | None) -> None:
    engine = sql.create_engine(f"sqlite:///{folder / 'history.db'}")
    METADATA.create_all(engine)
    if body is not None:
        with engine.begin() as connection:
            connection.execute(sql.insert(LEARNED), {"name": NAME, "saved_at": 1_790_000_000.0, "body": body})
    engine.dispose()


def test_it_shows_errors_by_queue_and_gpu_over_time(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, orjson.dumps(learned().state()).decode())
    plot = tmp_path / "out.html"
    assert invoke(["model", "show", "--config", str(config), "--json", "--plot", str(plot)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs_learned"] == 120
    assert set(found["queues"]) == {"q1", "q2"}
    assert found["queues"]["q2"]["order"][0] == "work"
    assert found["queues"]["q2"]["error"] < found["queues"]["q1"]["errors_by_source"]["hint"]
    assert set(found["by_day"]["gpu"]) == {"A100-80GB", "V100"}
    assert found["provisioning"]["a/x"]["scale_ups"] == 5
    assert found["reclaims_per_node_hour"]["a/z"] > 0.08
    by_hour = found["reclaims_by_hour"]["a/z z1"]
    assert min(by_hour[1::2]) > max(by_hour[::2])
    written = plot.read_text()
    assert written.count('<svg role="img" aria-label="') == 5
    assert "Coverage by GPU model" in written
    assert found["use"] == {"queue": {}, "gpu": {}, "model": {}}
    assert invoke(["model", "show", "--config", str(config)]) == 0
    assert "q1" in capsys.readouterr().out


def test_it_shows_what_runs_made_of_their_gpus() -> None:
    learning = learned()
    learning.uses.learn("gpu", "V100", Use(10, 6.0, 3 * 2.0**30), 0)
    learning.uses.learn("gpu", "V100", Use(), 1)
    found = described(0.0, learning)
    told = {"runs": 2, "gpu_utilization": 0.6, "gpu_memory_bytes": 3 * 2**30, "restarts_per_run": 0.5}
    assert found["use"]["gpu"] == {"V100": told}
    screen = Console(width=200)
    with screen.capture() as shown:
        screen.print(*_tables(found))
    assert "60 %" in shown.get()
    assert "3.0 GiB" in shown.get()


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ("missing", "no history there"),
        (None, "nothing was learned yet"),
        ("[]", "cannot be read"),
        ("{", "cannot be read"),
        ('{"version":99}', "version 99"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(
    body: str | None, want: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if body != "missing":
        save(tmp_path, body)
    assert invoke(["model", "show", "--config", str(config)]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert want in told[0]


def test_the_page_weighs_days_by_their_runs_and_says_when_there_are_none() -> None:
    days = [{"day": f"2026-01-{day:02}", "runs": runs, "error": error} for day, runs, error in
            ((1, 1, 1.0), (2, 3, 0.2), (9, 5, 0.5))]  # fmt: skip
    assert _smooth(days, "error") == pytest.approx([1.0, 0.4, 0.5])
    empty = page(described(0.0, Learning()))
    assert "No run has ended yet" in empty
    assert "<svg" not in empty


def test_waits_costs_and_serving_are_told() -> None:
    learning, where = Learning(), bought_pool("eks", "p4d")
    for index in range(12):
        learning.waited("onprem", 60.0, 300.0)
        learning.paid(where.ref, 10.0, 15.0, 12.0)
        learning.served("uid-1", 300.0 * index, 0.4, 5.0, 2)
    found = described(0.0, learning)
    assert found["said"]["wait"]["onprem"]["factor"] == pytest.approx(3.0)
    assert found["said"]["cost"]["eks/p4d"] == {
        "count": 12, "error": pytest.approx(0.0, abs=0.2), "factor": 1.2, "under_p90": 1.0, "drifting": False,
    }  # fmt: skip
    assert found["serving"]["uid-1"]["replicas"] == 2
    assert found["serving"]["uid-1"]["p95_in_an_hour_seconds"] == pytest.approx(0.4)
    assert [table.columns[0].header for table in _tables(found)] == ["by", "said"]
