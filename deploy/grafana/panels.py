"""What a panel of ours says of itself, and how Grafana is told: everything that panels share stands here alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

COUNT: Final = "short"
RATIO: Final = "percentunit"
SECONDS: Final = "s"
USD: Final = "currencyUSD"
USD_PER_HOUR: Final = "suffix: USD/h"
PER_MINUTE: Final = "cpm"
GPU_SECONDS: Final = "suffix: GPU-s"
SINCE: Final = "dateTimeFromNow"
"""Of milliseconds since the epoch."""

Panel = timeseries.Panel | stat.Panel | bargauge.Panel | table.Panel | statetimeline.Panel
Steps = Sequence[tuple[float | None, str]]
"""From which value on which colour; the first from None on."""
_PLAIN: Final[Steps] = ((None, "blue"),)
GOOD_IF_NONE: Final[Steps] = ((None, "green"), (1, "red"))
WARN_IF_ANY: Final[Steps] = ((None, "green"), (1, "orange"))


@dataclass(frozen=True, slots=True)
class View:
    """One panel. `kind`: lines, areas (stacked), number, word (its legend), bars, table, states; `width` of 24."""

    kind: str
    title: str
    description: str
    unit: str
    queries: Mapping[str, str]
    """PromQL by legend; of a table by column."""
    width: int = 8
    height: int = 8
    steps: Steps = ()
    names: Mapping[str, str] | None = None
    """What values are called, such as 1: yes."""
    least: float | None = 0.0
    most: float | None = None
    none: str = "nothing"
    """What is shown where there is no data."""
    link: tuple[str, str] | None = None
    """Title and address of where a row leads."""


def built(view: View) -> Panel:
    """The SDK's builder of it."""
    panel = _KINDS[view.kind](view)
    panel.title(view.title).description(view.description).unit(view.unit)
    panel.datasource(SOURCE).span(view.width).height(view.height).no_value(view.none)
    if view.least is not None:
        panel.min(view.least)
    if view.most is not None:
        panel.max(view.most)
    # Grafana's own steps turn red at 80 of whatever it is.
    if view.steps or view.kind not in ("lines", "areas"):
        steps = [model.Threshold(value, colour) for value, colour in view.steps or _PLAIN]
        panel.thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
    if view.names is not None:
        options = {value: model.ValueMappingResult(text=text) for value, text in view.names.items()}
        panel.mappings([model.ValueMap(options)])
    if view.link is not None:
        panel.data_links([dashboard.DashboardLink(view.link[0]).url(view.link[1])])
    for number, (legend, expression) in enumerate(view.queries.items()):
        panel.with_target(_query(view, chr(ord("A") + number), legend, expression))
    return panel


SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_AT_ONCE: Final = ("number", "word", "bars", "table")
"""Kinds that show the last value."""


def _query(view: View, ref: str, legend: str, expression: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().ref_id(ref).expr(expression).legend_format(legend).datasource(SOURCE)
    if view.kind == "table":
        query.format(PromQueryFormat.TABLE)
    return query.instant() if view.kind in _AT_ONCE else query.range()


def _lines(view: View) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(looks.LegendDisplayMode.LIST)
    legend.placement(looks.LegendPlacement.BOTTOM).show_legend(True)
    tooltip = common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING)
    panel = timeseries.Panel().legend(legend).tooltip(tooltip).line_width(1).fill_opacity(10)
    panel.show_points(looks.VisibilityMode.AUTO)
    if view.steps:
        shown = common.GraphThresholdsStyleConfig().mode(looks.GraphTresholdsStyleMode.LINE)
        panel.thresholds_style(shown)
    return panel


def _areas(view: View) -> Panel:
    return _lines(view).stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL)).fill_opacity(40)


def _number(view: View) -> stat.Panel:
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    panel = stat.Panel().reduce_options(last).graph_mode(looks.BigValueGraphMode.NONE)
    mode = looks.BigValueColorMode.VALUE if view.steps else looks.BigValueColorMode.NONE
    return panel.color_mode(mode).text_mode(looks.BigValueTextMode.AUTO)


def _word(view: View) -> Panel:
    return _number(view).text_mode(looks.BigValueTextMode.NAME)


def _bars(view: View) -> Panel:
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    panel = bargauge.Panel().reduce_options(last).orientation(looks.VizOrientation.HORIZONTAL)
    return panel.display_mode(looks.BarGaugeDisplayMode.BASIC)


def _table(view: View) -> Panel:
    """Labels are columns; so is the value of each query, under its legend. One row for each set of labels."""
    renamed = {f"Value #{chr(ord('A') + number)}": legend for number, legend in enumerate(view.queries)}
    if len(view.queries) == 1:
        renamed = {"Value": next(iter(view.queries))}
    panel = table.Panel().cell_height(looks.TableCellHeight.SM)
    if len(view.queries) > 1:
        panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    options = {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": renamed}
    return panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=options))


def _states(view: View) -> Panel:
    panel = statetimeline.Panel().show_value(looks.VisibilityMode.NEVER).merge_values(True).row_height(0.8)
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    return panel.legend(common.VizLegendOptions().show_legend(False).placement(looks.LegendPlacement.BOTTOM))


_KINDS: Final = {
    "lines": _lines, "areas": _areas, "number": _number, "word": _word,
    "bars": _bars, "table": _table, "states": _states,
}  # fmt: skip
