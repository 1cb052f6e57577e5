"""One board: rows of panels, and what all boards share: variables, links to each other, marks where a plan changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard

from deploy.grafana.boards.panels import SOURCE, Panel

COLUMNS = 24
TAG = "offramp"


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading, left to right; each line of them is full."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """What a board answers, and the rows that answer it. `name` is its file; its uid comes from it."""

    name: str
    title: str
    answers: str
    rows: tuple[Row, ...]

    @property
    def uid(self) -> str:
        return f"{TAG}-{self.name}"

    def build(self) -> dashboard.Dashboard:
        """The dashboard as Grafana's types have it, without an `id`: that is the installation's to give."""
        built = builders.Dashboard(f"Offramp / {self.title}").uid(self.uid).description(self.answers).tags([TAG])
        built = built.time("now-15m", "now").refresh("5s").timezone("browser").readonly()
        built = built.tooltip(dashboard.DashboardCursorSync.CROSSHAIR).variables(_variables()).link(_others())
        built = built.annotation(_plan_changes())
        numbers = iter(range(1, 1000))
        for row in self.rows:
            built = built.with_row(builders.Row(row.title).id(next(numbers)))
            for panel in row.panels:
                built = built.with_panel(panel.id(next(numbers)))
        return built.build()


def _variables() -> list[Builder[dashboard.VariableModel]]:
    source = builders.DatasourceVariable("datasource").label("Data source").type("prometheus")
    return [source, *(_choice(name) for name in ("tier", "model"))]


def _choice(label: str) -> builders.QueryVariable:
    """Any of the values that `label` has on a served model, or all of them."""
    every = dashboard.VariableOption(selected=True, text=["All"], value=["$__all"])
    choice = builders.QueryVariable(label).label(label.capitalize()).datasource(SOURCE)
    choice = choice.query(f"label_values(offramp_model_info, {label})").sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    choice = choice.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True)
    return choice.include_all(True).all_value(".*").current(every)


def _others() -> builders.DashboardLink:
    link = builders.DashboardLink("Boards").type(dashboard.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.include_vars(True).keep_time(True).as_dropdown(False)


def _plan_changes() -> builders.AnnotationQuery:
    expr = 'sum by (model) (increase(offramp_plan_changes_total{model=~"$model"}[$__rate_interval])) > 0'
    return (
        builders.AnnotationQuery().name("Plan changed").datasource(SOURCE).enable(True).icon_color("purple").expr(expr)
    )


def panels_of(built: dashboard.Dashboard) -> Iterator[dashboard.Panel]:
    """Those that show something; rows are headings."""
    return (panel for panel in built.panels or [] if isinstance(panel, dashboard.Panel))
