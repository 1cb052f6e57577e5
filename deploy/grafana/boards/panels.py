"""The kinds of panel the boards are made of. Each takes its title, what it says, its unit, and its queries."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    heatmap,
    piechart,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BarGaugeNamePlacement,
    BarGaugeSizing,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    LineInterpolation,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.piechart import PieChartLegendValues, PieChartType
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
HUES = {"device": "green", "edge": "orange", "cloud": "blue"}
SHADES = {"queue": "super-light-", "decode": "light-", "compute": "", "encode": "semi-dark-", "network": "dark-"}
"""What a tier spends its time on, in the order it does: one hue a tier, one shade a stage."""

Panel = (
    timeseries.Panel | stat.Panel | bargauge.Panel | heatmap.Panel | piechart.Panel | statetimeline.Panel | table.Panel
)
P = TypeVar(
    "P", timeseries.Panel, stat.Panel, bargauge.Panel, heatmap.Panel, piechart.Panel, statetimeline.Panel, table.Panel
)
C = TypeVar("C", timeseries.Panel, bargauge.Panel, piechart.Panel)


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression, and what its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """What stands on a panel. `width` is in 24ths of the board, `unit` in Grafana's spelling."""

    title: str
    says: str
    unit: str
    width: int = 12
    height: int = 8
    none: str = "no data"


def number(
    about: About,
    query: Query,
    amber_above: float | None = None,
    red_above: float | None = None,
    named: bool = False,
) -> stat.Panel:
    """One value, with its course behind it. With `named` it also says whose; then it is of this moment."""
    panel = _panel(stat.Panel(), about, (query,), instant=named).thresholds(_steps(amber_above, red_above))
    colored = red_above is not None or amber_above is not None
    panel = panel.color_mode(BigValueColorMode.VALUE if colored else BigValueColorMode.NONE).reduce_options(_last())
    panel = panel.text_mode(BigValueTextMode.VALUE_AND_NAME if named else BigValueTextMode.AUTO)
    return panel.graph_mode(BigValueGraphMode.NONE if named else BigValueGraphMode.AREA)


def lines(about: About, *queries: Query, steps: bool = False) -> timeseries.Panel:
    """Values over time. With `steps` a value holds until the next one."""
    panel = _over_time(about, queries).line_width(2).fill_opacity(5)
    return panel.line_interpolation(LineInterpolation.STEP_AFTER) if steps else panel


def stack(about: About, *queries: Query) -> timeseries.Panel:
    """Parts of a whole over time; shares reach up to 1."""
    panel = _over_time(about, queries).fill_opacity(70).line_width(1)
    panel = panel.axis_soft_max(1) if about.unit == "percentunit" else panel
    return panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))


def events(about: About, *queries: Query) -> timeseries.Panel:
    """Things that happen now and then, as stacked bars."""
    panel = _over_time(about, queries).draw_style(GraphDrawStyle.BARS).fill_opacity(80)
    return panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))


def bars(about: About, *queries: Query) -> bargauge.Panel:
    """One bar for each series, from the values over the whole time shown."""
    panel = _panel(bargauge.Panel(), about, queries, instant=True).orientation(VizOrientation.HORIZONTAL)
    panel = panel.display_mode(BarGaugeDisplayMode.BASIC).name_placement(BarGaugeNamePlacement.LEFT)
    panel = _in_colors(panel.sizing(BarGaugeSizing.AUTO).reduce_options(_last()).min(0))
    return panel.color_scheme(builders.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC))


def share(about: About, query: Query) -> piechart.Panel:
    """Parts of a whole over the whole time shown, as a ring."""
    legend = piechart.PieChartLegendOptions().placement(LegendPlacement.RIGHT).show_legend(True)
    legend = legend.display_mode(LegendDisplayMode.TABLE).values(
        [PieChartLegendValues.PERCENT, PieChartLegendValues.VALUE]
    )
    panel = _panel(piechart.Panel(), about, (query,), instant=True).pie_type(PieChartType.DONUT).legend(legend)
    return _in_colors(panel).reduce_options(_last())


def shaded(panel: C) -> C:
    """Series named by tier and stage, in the tier's hue and the stage's shade."""
    for tier, hue in HUES.items():
        for stage, shade in SHADES.items():
            panel = panel.override_by_name(f"{tier} {stage}", [_color(f"{shade}{hue}")])
    return panel


def heat(about: About, query: Query) -> heatmap.Panel:
    """A histogram over time; the query gives the buckets of a classic one."""
    panel = _panel(heatmap.Panel(), about, (query,), form=PromQueryFormat.HEATMAP).calculate(False).show_legend()
    color = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(32).exponent(0.5)
    axis = heatmap.YAxisConfig().unit(about.unit)
    return panel.color(color).y_axis(axis).cell_gap(1).mode(TooltipDisplayMode.SINGLE)


def states(about: About, query: Query, names: dict[int, tuple[str, str]]) -> statetimeline.Panel:
    """Which of a few states something was in; `names` gives the word and the color for each value."""
    texts = {str(value): dashboard.ValueMappingResult(text=t, color=c) for value, (t, c) in names.items()}
    panel = _panel(statetimeline.Panel(), about, (query,)).mappings([dashboard.ValueMap(options=texts)])
    return panel.show_value(VisibilityMode.NEVER).row_height(0.8).fill_opacity(80).merge_values(True).legend(_legend())


def rows(about: About, query: Query) -> table.Panel:
    """The labels of the series as a table."""
    panel = _panel(table.Panel(), about, (query,), instant=True, form=PromQueryFormat.TABLE)
    without = {"Time": True, "Value": True}
    return panel.with_transformation(
        dashboard.DataTransformerConfig(id_val="organize", options={"excludeByName": without})
    )


def _over_time(about: About, queries: tuple[Query, ...]) -> timeseries.Panel:
    panel = _panel(timeseries.Panel(), about, queries).show_points(VisibilityMode.NEVER).axis_soft_min(0)
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    return _in_colors(panel).legend(_legend()).tooltip(tooltip)


def _panel(
    panel: P, about: About, queries: tuple[Query, ...], *, instant: bool = False, form: PromQueryFormat | None = None
) -> P:
    panel = panel.title(about.title).description(about.says).unit(about.unit).no_value(about.none)
    panel = panel.span(about.width).height(about.height).datasource(SOURCE)
    for letter, query in zip(string.ascii_uppercase, queries, strict=False):
        asked = prometheus.Dataquery().ref_id(letter).expr(query.expr).datasource(SOURCE)
        asked = asked.legend_format(query.legend or "__auto").format(form or PromQueryFormat.TIME_SERIES)
        panel = panel.with_target(asked.instant() if instant else asked.range())
    return panel


def _in_colors(panel: C) -> C:
    """A tier has the same color everywhere, and what was expected is dashed."""
    for tier, hue in HUES.items():
        panel = panel.override_by_name(tier, [_color(hue)])
    dashes = dashboard.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 8]})
    return panel.override_by_regexp("/expected|raw|image/", [dashes])


def _color(name: str) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": name})


def _steps(amber_above: float | None, red_above: float | None) -> builders.ThresholdsConfig:
    steps = [dashboard.Threshold(value=None, color="green")]
    given = ((amber_above, "orange"), (red_above, "red"))
    steps += [dashboard.Threshold(value=value, color=color) for value, color in given if value is not None]
    return builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _legend() -> common.VizLegendOptions:
    shown = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    return shown.placement(LegendPlacement.BOTTOM).calcs([])


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
