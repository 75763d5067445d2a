from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.cli import crds
from scheduler.cli.sandbox import NOTE, read_note
from scheduler.model.contract import FEDERATED_WORKLOADS
from scheduler.model.errors import InvalidObjectError


def test_a_sandbox_that_is_not_up_has_no_note(tmp_path: Path) -> None:
    assert read_note(tmp_path) is None


def test_the_note_is_read(tmp_path: Path) -> None:
    (tmp_path / NOTE).write_text(json.dumps({"control_url": "http://127.0.0.1:1"}), encoding="utf-8")
    assert read_note(tmp_path) == {"control_url": "http://127.0.0.1:1"}


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_damaged_note_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / NOTE).write_text(text, encoding="utf-8")
    with pytest.raises(InvalidObjectError, match="start `overspill sandbox` anew"):
        read_note(tmp_path)


def test_the_definitions_are_found() -> None:
    names = {definition["metadata"]["name"] for definition in crds.load()}
    assert f"{FEDERATED_WORKLOADS.plural}.{FEDERATED_WORKLOADS.group}" in names
