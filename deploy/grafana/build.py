"""Writes the dashboards: `make dashboards`. tests/unit/test_grafana.py tells when it is due."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from deploy.grafana.boards import Board
from deploy.grafana.views import bursts, fleet, incidents, predictions, queues, services, spend, workload

FOLDER: Final = Path(__file__).parent
BOARDS: Final[tuple[Board, ...]] = (
    fleet.BOARD, queues.BOARD, spend.BOARD, bursts.BOARD, predictions.BOARD, incidents.BOARD, workload.BOARD,
    services.BOARD,
)  # fmt: skip

if __name__ == "__main__":
    for board in BOARDS:
        (FOLDER / board.file).write_text(board.json(), encoding="utf-8")
        sys.stdout.write(f"{board.file}\n")
