"""`offramp watch`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from services.errors import InvalidInput, UpstreamUnavailable
from testbed import watch
from testbed.watch import Watched, sparkline
from tests.consoles import console
from tests.tiers import device


def test_a_sparkline_rises_from_nothing_to_the_largest_and_leaves_blanks() -> None:
    assert sparkline([0.0, 0.5, None, 1.0]) == "▁▅ █"
    assert sparkline([None, None]) == "  "
    assert sparkline([0.0]) == "▁"


async def test_one_look_shows_tiers_links_plan_and_requests_in_a_hundred_columns(tiny: Path) -> None:
    async with console(tiny) as served:
        await served.view.ask(np.zeros((1, 1, 8, 8), np.float32), "r")
        found = await watch.once(Watched(served.url.removeprefix("http://")))
    assert json.loads(json.dumps(found))["model"]["name"] == "tiny"
    terminal = Console(width=100, record=True, file=io.StringIO())
    terminal.print(watch.shown(found))
    text = terminal.export_text()
    said = ("device", "cloud", "unknown", "plan device 0:8", "runs 0:8", "100% answered here", " exit ")
    assert all(word in text for word in said)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("label", ["[unknown]", "[/x]"])
async def test_a_label_is_no_markup(tiny: Path, label: str) -> None:
    async with console(tiny) as served:
        await served.view.ask(np.zeros((1, 1, 8, 8), np.float32), "r")
        found = await watch.once(Watched(served.url))
    found["requests"][-1]["label"] = label
    terminal = Console(width=100, record=True, file=io.StringIO())
    terminal.print(watch.shown(found))
    assert label in terminal.export_text()


async def test_where_no_console_answers_the_sentence_says_what_to_give() -> None:
    with pytest.raises(UpstreamUnavailable, match="no console answers at 127"):
        await watch.once(Watched("127.0.0.1:1"))


async def test_what_is_no_console_is_told_from_nobody(tiny: Path) -> None:
    async with device(tiny) as running:
        with pytest.raises(InvalidInput, match="is no console; is it the gRPC port") as error:
            await watch.once(Watched(running.address))
    assert "Error" not in str(error.value)


def test_a_tier_that_was_lost_says_since_when() -> None:
    assert watch._does({"state": "silent", "silent_seconds": 12.3, "blocks": None}) == "unreachable 12 s"


async def test_a_model_that_is_not_there_is_refused(tiny: Path) -> None:
    async with console(tiny) as served:
        with pytest.raises(InvalidInput, match="no model is called"):
            await watch.once(Watched(served.url, "nothing:1"))
