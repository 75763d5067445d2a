"""The shipped dashboards: committed is what is made, every panel says what it shows, and links lead somewhere."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploy.grafana.boards import Board
from deploy.grafana.build import BOARDS, FOLDER
from tests.builders.dashboards import panels_of, rows_of
from tests.unit.test_prometheus_rules import ALERTS, RECORDED, SCRAPED

UNITS = {
    "short", "percentunit", "s", "currencyUSD", "suffix: USD/h", "cpm", "suffix: GPU-s", "dateTimeFromNow",
}  # fmt: skip
ROOT = Path(__file__).parents[2]
each_board = pytest.mark.parametrize("board", BOARDS, ids=[board.uid for board in BOARDS])


def shipped(board: Board) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / board.file).read_text(encoding="utf-8"))
    return found


@each_board
def test_what_is_committed_is_what_is_made(board: Board) -> None:
    assert (FOLDER / board.file).read_text(encoding="utf-8") == board.json() == board.json(), "run `make dashboards`"


def test_there_is_one_of_each_and_no_other() -> None:
    assert {file.name for file in FOLDER.glob("*.json")} == {board.file for board in BOARDS}
    assert len({board.title for board in BOARDS}) == len(BOARDS)


@each_board
def test_every_panel_says_what_it_shows(board: Board) -> None:
    panels = panels_of(shipped(board))
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["fieldConfig"]["defaults"]["noValue"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        for target in panel["targets"]:
            legend = target["legendFormat"]
            assert legend
            grouped = re.search(r"by \(([a-z_, ]+)\)", target["expr"])
            kept = set(grouped[1].split(", ")) - {"le"} if grouped else set()
            assert set(re.findall(r"{{(\w+)}}", legend)) <= kept, "a label that the query drops is always empty"


@each_board
def test_panels_lie_side_by_side_and_fill_their_rows(board: Board) -> None:
    places = [panel["gridPos"] for panel in shipped(board)["panels"]]
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    for line in {place["y"] for place in places}:
        beside = [place for place in places if place["y"] == line]
        assert sum(place["w"] for place in beside) == 24, beside
        assert len({place["h"] for place in beside}) == 1, beside
    ids = [panel["id"] for panel in shipped(board)["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(rows_of(shipped(board)).values()), "a row without panels"


@each_board
def test_variables_are_those_that_are_used(board: Board) -> None:
    found = shipped(board)
    variables = {one["name"]: one for one in found["templating"]["list"]}
    asked = [target["expr"] for panel in panels_of(found) for target in panel["targets"]]
    asked += [one["query"]["query"] for one in variables.values() if one["type"] == "query"]
    used = {name for text in asked for name in re.findall(r"\$(?!__)(\w+)", text)}
    assert set(variables) == used | {"datasource"}
    for one in variables.values():
        assert one["label"]
    assert {"__rate_interval", "__range"} >= {name for text in asked for name in re.findall(r"\$(__\w+)", text)}


@each_board
def test_queries_ask_only_for_what_is_scraped_or_recorded(board: Board) -> None:
    for panel in panels_of(shipped(board)):
        for target in panel["targets"]:
            asked = set(re.findall(r"overspill[:_][a-z0-9_:]*[a-z0-9]", target["expr"]))
            assert asked or "ALERTS" in target["expr"]
            assert asked <= SCRAPED | RECORDED, asked - SCRAPED - RECORDED


def test_links_of_alerts_and_panels_lead_to_a_dashboard_that_is_there() -> None:
    texts = [(FOLDER / board.file).read_text(encoding="utf-8") for board in BOARDS]
    linked = {alert["annotations"]["dashboard_url"] for alert in ALERTS.values()}
    linked |= {urlsplit(url).path for text in texts for url in re.findall(r"/d/[^\"]+", text)}
    assert linked <= {f"/d/{board.uid}" for board in BOARDS}
    assert len(linked) >= 6


def test_what_alerts_watch_can_be_seen_on_the_dashboard_that_they_lead_to() -> None:
    for name, alert in ALERTS.items():
        (board,) = (one for one in BOARDS if alert["annotations"]["dashboard_url"] == f"/d/{one.uid}")
        shown = " ".join(target["expr"] for panel in panels_of(shipped(board)) for target in panel["targets"])
        asked = set(re.findall(r"overspill[:_][a-z0-9_:]*[a-z0-9]", alert["expr"]))
        families = {each.rpartition(":")[0] or each for each in asked}
        assert any(family in shown for family in families) or name == "OverspillDown", (name, families)
