"""The parts around the tiers that need no socket."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from device_agent.client import ModelInfo, Prediction
from services.bundle import read_manifest
from services.domain import Plan, Segment, Stage, Tier
from services.errors import InvalidInput, SettingsError
from testbed import ask, local, report
from testbed.cli import app
from testbed.load import Outcome, submit
from testbed.local import LinkAsked, TestbedSettings
from tests.conftest import ROOT

INFO = ModelInfo("tiny", "1", "input", (1, 8, 8), (8, 8, 1))


def prediction(label: int = 1, tier: Tier = Tier.DEVICE, **changes: object) -> Prediction:
    hop = dict.fromkeys(("queue_seconds", "decode_seconds", "compute_seconds", "encode_seconds"), 0.0)
    hops = [hop | {"tier": t.label, "network_seconds": 0.001, "bytes_up": 10} for t in Tier if t <= tier]
    trace = {"seconds": 0.001 * len(hops), "hops": hops, "links": []}
    fields = {"degraded": False, "degraded_reason": "", "plan": "p", "request_id": "r", "trace": trace} | changes
    return Prediction(label, np.ones(2, np.float32), 0.9, 0, tier, **fields)  # type: ignore[arg-type]


def test_a_summary_counts_failures_degraded_answers_and_bytes() -> None:
    outcomes = [
        Outcome(0, 1, 0.002, prediction()),
        Outcome(1, 0, 0.004, prediction(tier=Tier.EDGE, degraded=True)),
        Outcome(2, 0, 0.001, error="UNAVAILABLE: no"),
    ]
    found = report.summarise(outcomes, 0.5, 64, TestbedSettings(Path("b")))
    assert (found["requests"], found["failed"], found["degraded"]) == (3, 1, 1)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["answered_at"] == {"device": 1, "edge": 1, "cloud": 0}
    assert found["bytes_sent"] == {"device_edge": 20, "edge_cloud": 10}
    assert found["latency_ms"]["cloud"] == {"p50": None, "p95": None, "p99": None}
    assert found["raw_input_bytes"] == 192


def test_a_plan_reads_back_as_it_was_written() -> None:
    plan = Plan((Stage(Tier.DEVICE, Segment(0, 3)), Stage(Tier.EDGE, Segment(3, 7), "int8+zstd")))
    assert Plan.parse(str(plan)) == plan


@pytest.mark.parametrize(
    "asked", [("--data", "nowhere"), ("--limit", "5"), ("--in-flight", "9"), ("--then", "1mbit,10ms"), ("--then", "-")]
)
def test_what_is_asked_of_requests_is_refused_where_none_are_sent(asked: tuple[str, str]) -> None:
    refused = CliRunner().invoke(app, ["run", "--serve", *asked])
    assert isinstance(refused.exception, InvalidInput)
    assert "--serve sends nothing" in str(refused.exception)


@pytest.mark.parametrize(
    "text", ["20mbit", "20mbit,", ",10ms", "20,10", "-1mbit,1ms", "nan,1ms", "1mbit,1ms,1ms", "1mbit,200s"]
)
def test_a_link_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="RATE,RTT"):
        LinkAsked.parse(text)


@pytest.mark.parametrize(
    ("text", "example"), [("5mbit", "5mbit,10ms"), *((wrong, "20mbit,10ms") for wrong in ("fast", "", "10ms"))]
)
def test_a_link_without_a_round_trip_is_refused_with_an_example_and_no_more(text: str, example: str) -> None:
    with pytest.raises(SettingsError) as error:
        LinkAsked.parse(text)
    assert str(error.value) == f"{text!r} is not RATE,RTT: write both, like {example}"


@pytest.mark.parametrize("option", ["--port", "--console-port"])
async def test_a_port_in_use_is_refused_with_the_option_that_chooses_another(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        place = {"listen": taken} if option == "--port" else {"console": taken}
        with pytest.raises(SettingsError, match=f"in use.*choose one with {option}"):
            async with local.running(TestbedSettings(tmp_path, logs=tmp_path / "logs", **place)):
                pytest.fail("it came up")
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(("splits", "hints"), [(None, 2), ("8,14", 0)])
def test_a_run_that_left_a_tier_idle_says_why(splits: str | None, hints: int) -> None:
    settings = TestbedSettings(Path("b"), splits=splits)
    summary = report.summarise([Outcome(0, 1, 0.002, prediction())], 0.5, 64, settings)
    summary["plans"] = [{"plan": "device 0:0 > edge 0:20 int2+zstd"}]
    found = report.hints(summary, read_manifest(ROOT / "models" / "digits"), settings)
    assert len(found) == hints
    if found:
        assert "at the edge and the cloud" in found[0]
        assert "(64 bytes each)" in found[0]
        assert "--splits 8,14" in found[0]
        assert found[1].startswith("int2: 2 bits")


async def test_every_sample_is_sent_once_and_errors_become_outcomes() -> None:
    class Client:
        async def infer(self, model: str, image: np.ndarray, **_: object) -> list[Prediction]:
            if int(image[0, 0, 0, 0]) == 3:
                raise InvalidInput("no")
            return [prediction(label=int(image[0, 0, 0, 0]))]

    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    outcomes = await submit(Client(), "m", images, np.arange(10), seed=1, in_flight=3)  # type: ignore[arg-type]
    assert sorted(o.sample for o in outcomes) == list(range(10))
    assert [o.sample for o in outcomes if not o.right] == [3]
    assert [o.sample for o in outcomes] != list(range(10))


@pytest.mark.parametrize(("name", "shown"), [("middle", "middle exit"), ("", "exit 0"), ("[/]", "[/] exit")])
def test_an_answer_names_the_exit_that_gave_it(name: str, shown: str) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(ask.shown(Path("a.png"), [prediction(tier=Tier.EDGE, exit_name=name, trace=None)]))
    assert f"tier edge  {shown}" in console.export_text()


def test_a_waterfall_has_a_bar_for_each_stage_that_took_time() -> None:
    trace = prediction(tier=Tier.CLOUD).trace
    assert trace is not None
    assert ask.waterfall(trace).row_count == 4


def test_a_tier_is_started_again_with_what_it_was_given_but_for_its_doors() -> None:
    given = ("edge_node", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--next", "127.0.0.1:1")
    assert local.without(given, ("--listen", "--metrics-listen")) == ["edge_node", "--next", "127.0.0.1:1"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parts end with their parent on Linux only")
def test_a_part_whose_parent_went_while_it_was_starting_ends_at_once() -> None:
    gone = str(os.getppid())
    done = subprocess.run([sys.executable, "-m", "testbed.child", gone, "this"], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
