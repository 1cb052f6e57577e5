"""Prometheus beside the containers: it sees every tier, its rules work, and every query of every board has data."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy as np
import numpy.typing as npt
import pytest

from device_agent.client import AsyncClient
from services.errors import InvalidInput, UnknownModel
from tests.boards import Asked, asked, filled_in
from tests.conftest import ROOT
from tests.containers.conftest import BUILD_SECONDS, Stack
from tests.containers.load import ask, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(BUILD_SECONDS + 300)]

STEP_SECONDS = 5
PLANNED = {"SPLITS": "", "DEVICE_SLOWDOWN": "1000"}
"""A device so slow that it is worth asking others, while the links are good."""


@dataclass(slots=True)
class Prometheus:
    """The HTTP API, asked about all the time since `started`."""

    address: str
    started: float = field(default_factory=time.time)

    def get(self, path: str, **parameters: object) -> Any:
        with urlopen(f"http://{self.address}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as reply:
            return json.load(reply)["data"]

    def values(self, expr: str, instant: bool = True) -> list[float]:
        """Every number that the series of `expr` have: now, or at any step since the start."""
        now = time.time()
        if instant:
            series = self.get("query", query=expr, time=now)["result"]
            return [float(one["value"][1]) for one in series]
        series = self.get("query_range", query=expr, start=self.started, end=now, step=STEP_SECONDS)["result"]
        return [float(value) for one in series for _, value in one["values"]]

    def seconds(self) -> int:
        return math.ceil(time.time() - self.started)


@pytest.fixture(scope="module")
def prometheus(stack: Stack, images: npt.NDArray[np.uint8]) -> Iterator[Prometheus]:
    """It has seen easy and hard inputs, bad ones, a cloud that went and came back, and a plan that changed."""
    watching = Prometheus(f"127.0.0.1:{stack.port('PROMETHEUS_PORT')}")
    try:
        until(lambda: _sees(stack, "count(up == 1) == 3"))
        asyncio.run(ask(stack, images))
        asyncio.run(_ask_badly(stack, images))
        _lose_the_cloud(stack, images)
        _change_the_plan(stack, images)
        yield watching
    finally:
        stack.up()


def _sees(stack: Stack, expr: str) -> bool:
    """Whether Prometheus has anything for `expr` now. Starting a process takes its time, so asking again is cheap."""
    return bool(stack.inside("prometheus", "promtool", "query", "instant", "http://127.0.0.1:9090", expr).strip())


async def _ask_badly(stack: Stack, images: npt.NDArray[np.uint8]) -> None:
    async with AsyncClient(stack.target) as client:
        for model, samples, error in (("nobody", images[:1], UnknownModel), ("digits", images[:1, :5], InvalidInput)):
            with pytest.raises(error):
                await client.infer(model, samples)


def _lose_the_cloud(stack: Stack, images: npt.NDArray[np.uint8]) -> None:
    stack.docker("kill", stack.container("cloud-node"))
    asyncio.run(ask(stack, images))
    until(lambda: _sees(stack, 'ALERTS{alertname="TierDown"}'))
    stack.up()


def _change_the_plan(stack: Stack, images: npt.NDArray[np.uint8]) -> None:
    stack.compose("up", "--detach", "--wait", "--wait-timeout", "60", "--no-deps", "device-agent", **PLANNED)
    asyncio.run(ask(stack, images))
    until(lambda: _sees(stack, "offramp_planned_requests_total > 0"))
    _link(stack, rate="50kbit", rtt="200ms")
    asyncio.run(ask(stack, images))
    until(lambda: _sees(stack, "offramp_plan_changes_total > 0"))
    _link(stack, rate="20mbit", rtt="10ms")


def _link(stack: Stack, **shape: str) -> None:
    door = f"http://127.0.0.1:{stack.port('DEVICE_EDGE_CONTROL_PORT')}/link"
    urlopen(Request(door, json.dumps(shape).encode(), method="PUT"), timeout=10).close()


@pytest.mark.parametrize("query", asked(), ids=lambda query: query.where)
def test_every_query_of_every_board_returns_data(prometheus: Prometheus, query: Asked) -> None:
    expr = filled_in(query.expr, prometheus.seconds())
    assert any(map(math.isfinite, prometheus.values(expr, query.instant))), expr


def test_a_query_for_nothing_would_be_noticed(prometheus: Prometheus) -> None:
    assert prometheus.values("offramp_no_such_series", instant=False) == []


def test_every_tier_is_scraped_and_says_which_it_is(prometheus: Prometheus) -> None:
    targets = prometheus.get("targets")["activeTargets"]
    assert {target["labels"]["job"]: target["health"] for target in targets} == dict.fromkeys(
        ("device", "edge", "cloud"), "up"
    )
    assert prometheus.values("count(count by (job, tier) (offramp_model_info))") == [3]


def test_all_rules_are_loaded_and_none_fails(prometheus: Prometheus) -> None:
    found = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    files = [path.read_text("utf-8") for path in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml")]
    assert len(found) == sum(text.count("- record:") + text.count("- alert:") for text in files)
    assert {rule["health"] for rule in found} == {"ok"}


def test_every_recorded_series_has_had_data(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.get("rules", type="record")["groups"] for rule in group["rules"]]
    assert rules
    assert not [rule["name"] for rule in rules if not prometheus.values(rule["name"], instant=False)]


def test_a_tier_that_went_was_noticed(prometheus: Prometheus) -> None:
    assert prometheus.values('ALERTS{alertname="TierDown", job="cloud"}', instant=False)


def test_prometheus_has_no_more_rights_than_the_tiers_and_is_no_way_between_networks(stack: Stack) -> None:
    host = stack.inspect("prometheus")["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert {b["HostIp"] for bindings in host["PortBindings"].values() for b in bindings} == {"127.0.0.1"}
    assert stack.inside("prometheus", "id", "-u").strip() == "1000"
    assert stack.inside("prometheus", "cat", "/proc/sys/net/ipv4/ip_forward").strip() == "0"


def test_its_watching_takes_little(prometheus: Prometheus) -> None:
    """A page of metrics must not cost a tier what requests need: half a core answers it in good time."""
    took = prometheus.values("scrape_duration_seconds", instant=False)
    assert np.percentile(took, 75) < 1, took  # the rest is for stalls of the machine: what costs, costs every time
    assert max(prometheus.values("scrape_samples_scraped")) < 5000
