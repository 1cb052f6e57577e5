"""Clients that others wrote, each in an environment of its own, against running tiers.

`make compat` makes the environments; without them these tests are skipped, unless TEST_REQUIRE_COMPAT is set.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent.client import AsyncClient
from services import bundle
from tests.conftest import ROOT
from tests.tiers import three_tiers

HERE = Path(__file__).parent
SECONDS = 60


def python_of(client: str) -> str:
    found = ROOT / "out" / "compat" / client / "bin" / "python"
    if not found.exists():
        assert not os.environ.get("TEST_REQUIRE_COMPAT"), f"{found} is missing: make compat"
        pytest.skip(f"{client} has no environment: make compat")
    return str(found)


async def said_by(python: str, script: str, address: str, file: Path) -> dict[str, Any]:
    """What the script prints as its last line; fails with its errors where it fails."""
    process = await asyncio.create_subprocess_exec(
        python,
        str(HERE / script),
        address,
        "tiny",
        str(file),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode == 0, errors.decode()[-2000:]
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def file(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compat") / "pixels.npy"
    np.save(path, bundle.load_samples(bundle.load(tiny))[0][:20, ..., None])
    return path


async def both(tiny: Path, file: Path, python: str, script: str) -> tuple[dict[str, Any], list[int], np.ndarray]:
    """What the foreign client got, and the labels and scores that ours gets."""
    async with three_tiers(tiny) as tiers, AsyncClient(tiers.device.address) as ours:
        theirs = await said_by(python, script, tiers.device.address, file)
        answers = await ours.predict_many(file, "tiny")
    return theirs, [answer.label for answer in answers], np.stack([answer.scores for answer in answers])


@pytest.mark.timeout(180)
async def test_kserve_s_client_gets_the_answers_that_ours_gets(tiny: Path, file: Path) -> None:
    theirs, labels, scores = await both(tiny, file, python_of("kserve"), "by_kserve.py")
    assert theirs["ready"] == [True, True, True]
    assert theirs["labels"] == labels
    assert np.array_equal(np.asarray(theirs["scores"], np.float32), scores)
    assert set(theirs["hurried"]) == {0}
    assert (theirs["id"], theirs["tier"]) == ("k1", "cloud")


@pytest.mark.timeout(180)
async def test_mlserver_s_client_gets_the_answers_that_ours_gets(tiny: Path, file: Path) -> None:
    theirs, labels, scores = await both(tiny, file, python_of("mlserver"), "by_mlserver.py")
    assert theirs["ready"] == [True, True, True]
    assert theirs["inputs"] == ["input", "image"]
    assert np.ravel(theirs["labels"]).tolist() == labels
    assert np.array_equal(np.asarray(theirs["scores"], np.float32).reshape(scores.shape), scores)
    assert theirs["typed"] == theirs["scores"]


@pytest.mark.timeout(180)
async def test_reflection_is_all_that_a_client_needs(tiny: Path, file: Path) -> None:
    theirs, labels, _ = await both(tiny, file, sys.executable, "by_reflection.py")
    assert theirs["labels"] == labels
    assert theirs["ready"]
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(theirs["services"])
    assert {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"} <= set(
        theirs["methods"]
    )
