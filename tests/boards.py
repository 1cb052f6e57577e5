"""The committed boards as Prometheus sees them: every query that Grafana would send, with its variables filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
LABEL_VALUES = re.compile(r"label_values\((?P<metric>\w+), (?P<label>\w+)\)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One query of one panel. `instant`: of this moment, not over the time shown."""

    where: str
    expr: str
    instant: bool


def boards() -> dict[str, dict[str, Any]]:
    """The JSON of each board by its file's name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*/*.json"))}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """What shows something; rows are headings."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def asked() -> list[Asked]:
    """The queries of all panels and annotations, and the variables' as queries for the series they look at."""
    return [query for name, board in boards().items() for query in _of(name, board)]


def _of(name: str, board: dict[str, Any]) -> Iterator[Asked]:
    for panel in panels(board):
        for target in panel["targets"]:
            yield Asked(f"{name} / {panel['title']} / {target['refId']}", target["expr"], target["instant"])
    for annotation in board["annotations"]["list"]:
        yield Asked(f"{name} / mark {annotation['name']}", annotation["expr"], False)
    for variable in board["templating"]["list"]:
        if (found := LABEL_VALUES.fullmatch(variable["query"])) is not None:
            expr = f"count by ({found['label']}) ({found['metric']})"
            yield Asked(f"{name} / ${variable['name']}", expr, True)


def filled_in(expr: str, seconds: int, window: str = "1m") -> str:
    """`expr` with all tiers and models chosen, over the last `seconds`, as Grafana would send it."""
    values = {"$__rate_interval": window, "$__range": f"{seconds}s", "$tier": ".*", "$model": ".*"}
    for name, value in values.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, f"a variable that is not filled in: {expr}"
    return expr


def provisioned(kind: str) -> Path:
    """The one provisioning file of `kind`, `datasources` or `dashboards`."""
    (path,) = (ROOT / "deploy" / "grafana" / "provisioning" / kind).glob("*.yaml")
    return path
