"""New bundles while tiers serve: taken up at SIGHUP, or refused, and nobody's request is the worse for it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

from services.domain import Tier
from services.open_inference import messages
from tests.calls import DOOR, arrays, asking, calling, until
from tests.e2e.test_bad_bundle import cut, flip, rewrite, say
from tests.networks import graph_hash, write_bundle
from tests.processes import Child, child
from tests.scraping import scrape, total
from tests.tiers import upper

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory of bundles, with version 1 of `tiny`."""
    write_bundle(tmp_path / "bundles" / "tiny" / "1")
    return tmp_path / "bundles"


@asynccontextmanager
async def tier(module: str, root: Path, *arguments: str) -> AsyncIterator[Child]:
    with child(module, root, "--metrics-listen", "127.0.0.1:0", *arguments) as running:
        yield running


def events(running: Child, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in running.said if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


async def reload(running: Child, times: int = 1) -> dict[str, Any]:
    """Tells it to, and returns the line that it says once it did; `times`: the how many-th that is."""
    running.process.send_signal(signal.SIGHUP)

    async def done() -> bool:
        return len(events(running, "reload")) >= times

    await until(done, 60)
    return events(running, "reload")[times - 1]


async def reloads(running: Child) -> dict[str, float]:
    page = await scrape(events(running, "ready")[0]["metrics"])
    return {
        outcome: total(page, "offramp_bundle_reloads_total", outcome=outcome)
        for outcome in ("loaded", "unchanged", "refused")
    }


async def scores(address: str, version: str = "") -> tuple[str, bytes]:
    """Which version answers, and what."""
    async with calling(address) as call:
        reply = await call(f"{DOOR}/ModelInfer", asking(PIXELS, model_version=version))
    return reply.model_version, arrays(reply)["scores"].tobytes()


async def alone(path: Path) -> bytes:
    """What a tier that serves nothing else answers."""
    async with upper(Tier.CLOUD, path) as running:
        return (await scores(running.address))[1]


@dataclass(slots=True)
class Load:
    """Four callers, each asking again as soon as it is answered, 50,000 times at most; who said what, and errors."""

    address: str
    version: str = ""
    answers: dict[tuple[str, bytes], int] = field(default_factory=dict)
    degraded: int = 0
    errors: list[Exception] = field(default_factory=list)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _callers: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Load:
        self._callers = [asyncio.create_task(self._ask()) for _ in range(4)]
        await self.more()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.wait_for(asyncio.gather(*self._callers), 60)

    async def more(self, count: int = 40) -> None:
        """Returns when so many more were answered."""
        goal = self.answered + count

        async def answered() -> bool:
            return self.answered >= goal or bool(self.errors)

        await until(answered)

    @property
    def answered(self) -> int:
        return sum(self.answers.values())

    @property
    def versions(self) -> set[str]:
        return {version for version, _ in self.answers}

    async def _ask(self) -> None:
        request = asking(PIXELS, model_version=self.version)
        async with calling(self.address) as call:
            for _ in range(50_000):
                if self._stop.is_set():
                    return
                try:
                    reply = await call(f"{DOOR}/ModelInfer", request)
                except Exception as error:
                    self.errors.append(error)
                    return
                outputs = arrays(reply)
                seen = reply.model_version, outputs["scores"].tobytes()
                self.answers[seen] = self.answers.get(seen, 0) + 1
                self.degraded += bool(outputs["degraded"].any())


@pytest.mark.parametrize("module", ["cloud_node", "edge_node", "device_agent"])
async def test_a_new_version_is_served_beside_the_old_one_and_no_request_fails(root: Path, module: str) -> None:
    async with tier(module, root, "--profile-seconds", "0.2") as running:
        async with Load(running.address) as load:
            load.degraded = 0
            write_bundle(root / "tiny" / "2", 1, version="2")
            line = await reload(running)
            await load.more()  # what was answered before may still have been on its way
            load.answers.clear()
            await load.more()
            old = await scores(running.address, "1")
            assert load.versions == {"2"}
        assert (line["outcome"], line["loaded"]) == ("loaded", {"tiny:2": graph_hash(1)})
        assert (load.errors, load.degraded, len(load.answers)) == ([], 0, 1)
        assert old == ("1", await alone(root / "tiny" / "1"))
        assert set(load.answers) == {("2", await alone(root / "tiny" / "2"))}
        assert await reloads(running) == {"loaded": 1, "unchanged": 0, "refused": 0}


async def test_a_new_version_is_told_of_as_the_others_are(root: Path) -> None:
    async with tier("edge_node", root) as running, calling(running.address) as call:
        write_bundle(root / "tiny" / "2", 1, version="2")
        write_bundle(root / "other", 2, name="other")
        await reload(running)
        index = await call(f"{DOOR}/RepositoryIndex", messages.RepositoryIndexRequest(ready=True))
        assert {(m.name, m.version) for m in index.models} == {("tiny", "1"), ("tiny", "2"), ("other", "1")}
        told = await call(f"{DOOR}/ModelMetadata", messages.ModelMetadataRequest(name="tiny"))
        assert list(told.versions) == ["1", "2"]
        for name, version in (("tiny", "1"), ("tiny", "2"), ("other", "1")):
            await call(f"{DOOR}/ModelInfer", asking(PIXELS, model_name=name, model_version=version))
        counted = (await call(f"{DOOR}/ModelStatistics", messages.ModelStatisticsRequest())).model_stats
        assert [each.inference_count for each in counted] == [4, 4, 4]
        page = await scrape(events(running, "ready")[0]["metrics"])
        for name, version in (("tiny", "1"), ("tiny", "2"), ("other", "1")):
            assert total(page, "offramp_model_info", model=name, version=version) == 1
            assert total(page, "nv_inference_request_success", model=name, version=version) == 1
        assert total(page, "offramp_samples_total", model="other") == 4


def again(path: Path) -> None:
    write_bundle(path, 1)


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("its graph was tampered with", flip, "model.onnx: SHA-256 is"),
    ("its graph is cut short", lambda p: cut(p, "model.onnx", 0.9), "model.onnx: SHA-256 is"),
    ("its graph is noise with its hash", lambda p: rewrite(p, os.urandom(4096)), "model.onnx: not a graph"),
    ("its graph is missing", lambda p: (p / "model.onnx").unlink(), "model.onnx: No such file"),
    ("its manifest is cut short", lambda p: cut(p, "manifest.json", 0.5), "manifest.json: not a JSON object"),
    ("it lies about a shape", lambda p: say(p, lambda m: m["split_points"][2].update(shape=[4, 8, 7])), "split points"),
    ("it lies about the labels", lambda p: say(p, lambda m: m.update(labels=["a", "b"])), "2 labels are not"),
    ("it has the version of another graph", again, "both 'tiny' version 1"),
]


@pytest.mark.parametrize(("break_it", "says"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
async def test_a_good_version_goes_on_unaffected_where_the_new_one_is_bad_as(
    root: Path, break_it: Callable[[Path], object], says: str
) -> None:
    good = await alone(root / "tiny" / "1")
    async with tier("cloud_node", root) as running:
        async with Load(running.address) as load:
            break_it(write_bundle(root / "tiny" / "2", 1, version="2"))
            write_bundle(root / "other", 2, name="other")  # which is good, and has to wait
            line = await reload(running)
            await load.more()
        assert (line["level"], line["outcome"]) == ("error", "refused")
        assert f"{root / 'tiny' / '2'}" in line["reason"]
        assert says in line["reason"]
        assert "exception" not in line
        assert (load.errors, set(load.answers)) == ([], {("1", good)})
        assert await reloads(running) == {"loaded": 0, "unchanged": 0, "refused": 1}
        shutil.rmtree(root / "tiny" / "2")
        write_bundle(root / "tiny" / "2", 1, version="2")
        assert (await reload(running, 2))["outcome"] == "loaded"
        assert (await scores(running.address))[0] == "2"


async def test_what_no_longer_lies_there_is_served_on(root: Path) -> None:
    async with tier("cloud_node", root) as running:
        write_bundle(root / "tiny" / "2", 1, version="2")
        shutil.rmtree(root / "tiny" / "1")
        line = await reload(running)
        assert line["served_but_gone"] == {"tiny:1": graph_hash()}
        assert (await scores(running.address, "1"))[0] == "1"
        assert (await reload(running, 2))["outcome"] == "unchanged"


async def test_a_new_version_goes_over_three_tiers_from_the_cloud_down(root: Path) -> None:
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(tier("cloud_node", root))
        edge = await stack.enter_async_context(tier("edge_node", root, "--next", cloud.address))
        splits = ("--next", edge.address, "--splits", "2,4")
        device = await stack.enter_async_context(tier("device_agent", root, *splits))
        async with Load(device.address) as load:
            write_bundle(root / "tiny" / "2", 1, version="2")
            for each in (cloud, edge, device):
                assert (await reload(each))["outcome"] == "loaded"
            await load.more()
        request = asking(PIXELS)
        request.parameters["exit_threshold"].double_param = 1.5
        async with calling(device.address) as call:
            reply = await call(f"{DOOR}/ModelInfer", request)
    assert (load.errors, load.degraded, load.versions) == ([], 0, {"1", "2"})
    assert (reply.model_version, set(arrays(reply)["tier_index"].tolist())) == ("2", {int(Tier.CLOUD)})


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "fixed splits"])
async def test_a_device_that_is_told_before_the_tier_above_refuses_and_serves_on(root: Path, planned: bool) -> None:
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(tier("edge_node", root))
        above = ("--next", edge.address, *(() if planned else ("--splits", "2,8")))
        device = await stack.enter_async_context(tier("device_agent", root, *above))
        async with Load(device.address) as load:
            write_bundle(root / "tiny" / "2", 1, version="2")
            line = await reload(device)
            assert (line["outcome"], "the tier above must load it first" in line["reason"]) == ("refused", True)
            await load.more()
            assert load.versions == {"1"}
            await reload(edge)
            assert (await reload(device, 2))["outcome"] == "loaded"
            await load.more()
    assert (load.errors, load.versions) == ([], {"1", "2"})


async def test_the_console_offers_a_new_version(root: Path) -> None:
    async with tier("device_agent", root, "--console-listen", "127.0.0.1:0", "--splits", "8,8") as device:
        page = events(device, "ready")[0]["console"]

        async def models(query: str = "") -> dict[str, Any]:
            def get() -> dict[str, Any]:
                with urlopen(f"{page}/api/state{query}", timeout=20) as reply:
                    return dict(json.load(reply))

            return await asyncio.to_thread(get)

        assert (await models())["models"] == ["tiny:1"]
        write_bundle(root / "tiny" / "2", 1, version="2")
        await reload(device)
        await scores(device.address)
        shown = await models("?model=tiny:2")
    assert (shown["models"], shown["model"]["hash"]) == (["tiny:1", "tiny:2"], graph_hash(1))
    assert len(shown["requests"]) == 1


async def test_a_device_whose_tier_above_is_gone_takes_a_new_version_and_answers_by_itself(root: Path) -> None:
    async with tier("device_agent", root, "--next", "127.0.0.1:1", "--profile-seconds", "0.2") as device:
        write_bundle(root / "tiny" / "2", 1, version="2")
        assert (await reload(device))["outcome"] == "loaded"
        assert (await scores(device.address))[0] == "2"
