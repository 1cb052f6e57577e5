"""The boards: what is committed is what the code gives, Grafana's types read it, and nothing on it is left unsaid."""

from __future__ import annotations

import json
import re
import string
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.boards import BOARDS
from deploy.grafana.boards.board import COLUMNS, Board
from deploy.grafana.generate import FOLDER, text_of
from tests.boards import asked, boards, panels

COMMITTED = boards()
PANELS = [(f"{name} / {panel['title']}", panel) for name, board in COMMITTED.items() for panel in panels(board)]
UNITS = {value for name, value in vars(units).items() if not name.startswith("_") and isinstance(value, str)}
WINDOW = re.compile(r"(rate|increase)\([^\[]*\[([^\]]*)\]")

each_board = pytest.mark.parametrize("name", COMMITTED)
each_panel = pytest.mark.parametrize(("where", "panel"), PANELS, ids=[where for where, _ in PANELS])


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_the_committed_board_is_what_the_code_gives(board: Board) -> None:
    assert (FOLDER / f"{board.name}.json").read_text("utf-8") == text_of(board), (
        "run: python -m deploy.grafana.generate"
    )


def test_no_board_is_committed_that_the_code_does_not_give() -> None:
    assert set(COMMITTED) == {board.name for board in BOARDS}


@each_board
def test_grafanas_types_read_a_board_and_lose_nothing(name: str) -> None:
    register_default_plugins()
    read = Dashboard.from_json(json.loads(json.dumps(COMMITTED[name])))
    assert _lost(COMMITTED[name], json.loads(json.dumps(read, cls=JSONEncoder))) == []


def _lost(given: Any, read: Any, at: str = "") -> list[str]:
    """What `given` has and `read` has not; defaults that reading adds are no loss."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [lost for key, value in given.items() for lost in _lost(value, read.get(key), f"{at}/{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        return [lost for i, pair in enumerate(zip(given, read, strict=True)) for lost in _lost(*pair, f"{at}/{i}")]
    return [] if given == read else [at]


def test_a_lost_field_would_be_noticed() -> None:
    assert _lost({"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 1}]}) == ["/a/0/c"]


def test_boards_have_fixed_names_of_their_own_and_leave_ids_to_the_installation() -> None:
    assert [COMMITTED[board.name]["uid"] for board in BOARDS] == [f"offramp-{board.name}" for board in BOARDS]
    assert len({board["title"] for board in COMMITTED.values()}) == len(BOARDS)
    assert not any("id" in board for board in COMMITTED.values())


@each_board
def test_a_board_says_what_it_answers_and_leads_to_the_others(name: str) -> None:
    board = COMMITTED[name]
    assert board["description"].endswith("?")
    (link,) = board["links"]
    assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == (
        "dashboards",
        ["offramp"],
        True,
        True,
    )
    assert board["tags"] == ["offramp"]


@each_board
def test_a_board_asks_for_source_tier_and_model(name: str) -> None:
    source, *choices = COMMITTED[name]["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    assert [choice["name"] for choice in choices] == ["tier", "model"]
    assert all(choice["query"] == f"label_values(offramp_model_info, {choice['name']})" for choice in choices)
    assert all((choice["allValue"], choice["multi"]) == (".*", True) for choice in choices)


@each_panel
def test_a_panel_says_what_it_shows_and_in_what_unit(where: str, panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    assert unit in UNITS or unit.startswith("suffix:")


@each_panel
def test_the_queries_of_a_panel_have_names_and_the_chosen_source(where: str, panel: dict[str, Any]) -> None:
    targets = panel["targets"]
    assert [target["refId"] for target in targets] == list(string.ascii_uppercase[: len(targets)])
    sources = [panel["datasource"], *(target["datasource"] for target in targets)]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


@each_board
def test_titles_and_numbers_of_panels_are_unique(name: str) -> None:
    titles = [panel["title"] for panel in COMMITTED[name]["panels"]]
    numbers = [panel["id"] for panel in COMMITTED[name]["panels"]]
    assert len(set(titles)) == len(titles)
    assert len(set(numbers)) == len(numbers)


@each_board
def test_panels_fill_their_lines_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for at in (panel["gridPos"] for panel in COMMITTED[name]["panels"]):
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert cells.isdisjoint(taken)
        taken |= cells
    lines = 1 + max(y for _, y in taken)
    assert taken == {(x, y) for x in range(COLUMNS) for y in range(lines)}


@pytest.mark.parametrize("query", asked(), ids=lambda query: query.where)
def test_every_window_is_one_that_grafana_chooses(query: Any) -> None:
    assert query.expr.count("rate(") + query.expr.count("increase(") == len(WINDOW.findall(query.expr))
    for function, window in WINDOW.findall(query.expr):
        allowed = {"$__rate_interval"} if function == "rate" or not query.instant else {"$__range"}
        assert window in allowed, query.expr
