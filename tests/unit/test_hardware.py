"""What runs may use of a machine, and a provider that is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services import hardware, process
from services.domain import Segment, Tier
from services.errors import SettingsError
from services.hardware import Hardware, check_providers, cores
from services.settings import TierSettings
from tests.networks import write_bundle


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "1000000000 100000\n"}, None),
        ({"cpu.max": "0 0\n"}, None),
        ({"cpu.max": ""}, None),
        ({}, None),
        ({"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.25),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_a_container_has_the_processors_of_its_quota(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores(tmp_path) == (len(os.sched_getaffinity(0)) if expected is None else expected)


def test_the_processor_is_always_there() -> None:
    check_providers(("cpu",))
    assert Hardware().asked == ["CPUExecutionProvider"]
    assert not Hardware().accelerated


def test_what_another_cannot_run_the_processor_runs() -> None:
    assert Hardware(providers=("cuda",)).asked == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_a_provider_that_is_not_installed_is_refused_with_what_to_do() -> None:
    with pytest.raises(SettingsError, match=r"cuda is not in .*, which has cpu, openvino; install onnxruntime-gpu"):
        check_providers(("cuda",), ("CPUExecutionProvider", "OpenVINOExecutionProvider"))


def test_a_provider_that_does_not_start_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime itself would go on without it, and only warn."""
    monkeypatch.setattr(hardware.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("services.sessions._providers", lambda _: ["CPUExecutionProvider"])
    given = TierSettings(bundle=(write_bundle(tmp_path / "b"),), providers=("cuda",), profile_seconds=0)
    running = process.runtime(process.Tier.EDGE, process.bundles.load(given.bundle, 1 << 30)[0], given)
    with pytest.raises(SettingsError, match="cuda is installed but does not start here"):
        running.warm(Segment(0, 8))
    running.close()


@pytest.mark.parametrize("agrees", [True, False])
def test_a_provider_that_answers_differently_is_not_used_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agrees: bool
) -> None:
    events, asked = list[str](), list[list[str]]()
    monkeypatch.setattr(hardware.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("services.sessions.PROVIDERS", dict.fromkeys(hardware.PROVIDERS, "CPUExecutionProvider"))
    monkeypatch.setattr("services.sessions._providers", lambda on: asked.append(on.asked) or ["CPUExecutionProvider"])
    monkeypatch.setattr("services.sessions.alike", lambda *_: agrees)
    monkeypatch.setattr("services.sessions.log.event", lambda name, *_, **__: events.append(name))
    given = TierSettings(bundle=(write_bundle(tmp_path / "b"),), providers=("cuda",), profile_seconds=0)
    running = process.runtime(process.Tier.EDGE, process.bundles.load(given.bundle, 1 << 30)[0], given)
    running.warm(Segment(0, 8))
    running.close()
    assert asked[0][0] == "CUDAExecutionProvider"
    assert ("provider_not_used" in events) is not agrees


def test_a_dedicated_machine_gives_a_run_all_its_cores_unless_settings_say_how_many() -> None:
    all_of_it = process.hardware(TierSettings(dedicated=True))
    assert all_of_it == Hardware(max(int(cores()), 1), spinning=True)
    assert process.hardware(TierSettings(dedicated=True, threads=2)) == Hardware(2, spinning=True)
    assert process.hardware(TierSettings()) == Hardware(1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 4), ({"threads": 2}, 2), ({"threads": 8}, 1), ({"workers": 3}, 3), ({"dedicated": True}, 1)],
)
def test_a_tier_runs_as_much_side_by_side_as_there_are_cores_and_reckons_with_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, int], expected: int
) -> None:
    monkeypatch.setattr(process, "cores", lambda: 4.7)
    settings = TierSettings(bundle=(write_bundle(tmp_path / "tiny"),), **given)
    models = process.models(Tier.CLOUD, settings, None)
    running = models.first.runtime
    assert (running.backlog.workers, running.batcher.workers._max_workers) == (expected, expected)  # type: ignore[attr-defined]
    models.close()
