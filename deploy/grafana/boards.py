"""A dashboard of ours: rows of views, and the variables that their queries name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.panels import SOURCE, View, built

TAG: Final = "overspill"


@dataclass(frozen=True, slots=True)
class Choice:
    """A template variable: what it offers, and whether several, or all, can be chosen at once."""

    label: str
    description: str
    values: str
    several: bool = True


VARIABLES: Final = {
    "cluster": Choice("Cluster", "Members of the federation.", "label_values(overspill_member_reachable, cluster)"),
    "queue": Choice("Queue", "Queues that have workloads.", "label_values(overspill_workloads, queue)"),
    "workload": Choice(
        "Workload",
        "kind/namespace/name; of not more than listen.workloadMetrics of the federation file.",
        'label_values(overspill_workload_phase{queue=~"$queue"}, workload)',
        several=False,
    ),
    "service": Choice(
        "Service",
        "Workloads that a ServingSLO divides; of not more than listen.workloadMetrics of the federation file.",
        "label_values(overspill_service_condition, service)",
    ),
}
"""In the order in which they are shown: one may name those before it."""


@dataclass(frozen=True, slots=True)
class Board:
    uid: str
    """As alerts link to it: /d/UID."""
    title: str
    description: str
    rows: Mapping[str, Sequence[View]]
    """Views by heading."""
    since: str = "now-6h"

    @property
    def file(self) -> str:
        return f"{self.uid}.json"

    @property
    def variables(self) -> tuple[str, ...]:
        """Those that its queries name, and those that these name."""
        text = " ".join(query for views in self.rows.values() for view in views for query in view.queries.values())
        for name, choice in reversed(VARIABLES.items()):
            if _names(name, text):
                text += choice.values
        return tuple(name for name in VARIABLES if _names(name, text))

    def json(self) -> str:
        """What Grafana imports, or its sidecar finds: the same text each time."""
        board = dashboard.Dashboard(self.title).uid(self.uid).description(self.description).tags([TAG])
        board.time(self.since, "now").refresh("30s").timezone("browser").editable()
        board.tooltip(model.DashboardCursorSync.CROSSHAIR)
        board.link(
            dashboard.DashboardLink("Overspill").type(model.DashboardLinkType.DASHBOARDS).tags([TAG])
            .as_dropdown(True).keep_time(True).include_vars(True)
        )  # fmt: skip
        board.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        for name in self.variables:
            board.with_variable(_variable(name, VARIABLES[name]))
        number = 0
        for heading, views in self.rows.items():
            number += 1
            board.with_row(dashboard.Row(heading).id(number))
            for view in views:
                number += 1
                board.with_panel(built(view).id(number))
        return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


def _names(variable: str, text: str) -> bool:
    return re.search(rf"\${variable}\b", text) is not None


def _variable(name: str, choice: Choice) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(name).label(choice.label).description(choice.description)
    variable.datasource(SOURCE).query({"query": choice.values, "refId": name}).sort(model.VariableSort.ALPHABETICAL_ASC)
    variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    if choice.several:
        variable.multi(True).include_all(True).all_value(".*")
        variable.current(model.VariableOption(selected=True, text="All", value="$__all"))
    return variable
