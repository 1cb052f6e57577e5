"""Where settings come from, and how wrong ones end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services import settings
from services.domain import Segment
from services.errors import SettingsError
from services.settings import DeviceSettings, TierSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty directory, and no variable of ours."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("OFFRAMP_")]:
        monkeypatch.delenv(name)


def test_without_anything_given_the_defaults_hold() -> None:
    given = settings.read(DeviceSettings, [])
    assert (given.bundle, given.listen, given.next) == ((Path("models/digits"),), "127.0.0.1:8001", None)
    assert given.split_points is None
    assert given.hop_codecs == ("int8+zstd", "int8+zstd")


def test_an_argument_wins_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("OFFRAMP_MAX_BATCH=1\nOFFRAMP_WORKERS=1\nOFFRAMP_THREADS=1\n")
    monkeypatch.setenv("OFFRAMP_MAX_BATCH", "2")
    monkeypatch.setenv("OFFRAMP_WORKERS", "2")
    given = settings.read(TierSettings, ["--max-batch", "3"])
    assert (given.max_batch, given.workers, given.threads) == (3, 2, 1)


GIVEN = {
    "bundle": "models/x",
    "listen": "0.0.0.0:0",
    "next": "edge:8001",
    "threads": "3",
    "workers": "4",
    "dedicated": "true",
    "providers": "cuda,cpu",
    "max_batch_size": "16",
    "max_queue_delay_microseconds": "100",
    "default_timeout_microseconds": "50000",
    "timeout_action": "delay",
    "max_in_flight": "5",
    "max_batch": "6",
    "max_message_bytes": "70000",
    "memory_bytes": "268435456",
    "deadline_seconds": "1.5",
    "drain_delay_seconds": "0.5",
    "drain_grace_seconds": "2.5",
    "holds": "0:4",
    "compute_slowdown": "8",
    "profile_seconds": "0.5",
    "profile_cache": "profiles",
    "log_level": "debug",
    "metrics_listen": "-",
    "compat_metrics": "none",
    "otlp_endpoint": "http://127.0.0.1:4317",
    "splits": "2,4",
    "codecs": "fp32,fp16+zstd",
    "policy": "energy",
    "min_accuracy": "0.9",
    "max_accuracy_loss": "0.01",
    "privacy": "true",
    "compute_watts": "4",
    "idle_watts": "2",
    "joules_per_byte": "0.0001",
    "refresh_seconds": "5",
    "console_listen": "127.0.0.1:9000",
    "link_control": "127.0.0.1:8474,127.0.0.1:8475",
    "hedge_after_seconds": "0.5",
    "transport": "unary",
    "adaptive_limit": "true",
    "tls_cert": "a.crt",
    "tls_key": "a.key",
    "tls_client_ca": "ca.crt",
    "allowed_sans": "device",
    "token_file": "tokens",
    "next_ca": "next.crt",
    "next_cert": "b.crt",
    "next_key": "b.key",
    "next_server_name": "edge",
    "health_listen": "127.0.0.1:8003",
}
"""One value for every setting there is."""


def test_every_setting_can_be_given_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(GIVEN) == set(DeviceSettings.model_fields)
    by_argument = settings.read(
        DeviceSettings, [part for name, value in GIVEN.items() for part in (f"--{name.replace('_', '-')}", value)]
    )
    for name, value in GIVEN.items():
        monkeypatch.setenv(f"OFFRAMP_{name.upper()}", value)
    assert settings.read(DeviceSettings, []) == by_argument
    assert by_argument.holds == Segment(0, 4)
    assert by_argument.split_points == (2, 4)
    assert by_argument.hop_codecs == ("fp32", "fp16+zstd")
    assert by_argument.model_dump(mode="json")["deadline_seconds"] == 1.5


def test_an_empty_variable_is_one_that_was_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_NEXT", "")
    monkeypatch.setenv("OFFRAMP_THREADS", "")
    given = settings.read(TierSettings, [])
    assert (given.next, given.threads) == (None, 1)


def test_a_misspelt_variable_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_MAX_BACH", "1")
    with pytest.raises(SettingsError, match=r"OFFRAMP_MAX_BACH: no such setting; known: .*OFFRAMP_MAX_BATCH"):
        settings.read(TierSettings, [])


def test_a_misspelt_variable_in_the_file_is_refused_too() -> None:
    Path(".env").write_text("UNRELATED=1\nOFFRAMP_NECKST=1\n")
    with pytest.raises(SettingsError, match="OFFRAMP_NECKST"):
        settings.read(TierSettings, [])


def test_tiers_that_share_an_environment_do_not_refuse_each_others_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_SPLITS", "2,4")
    assert settings.read(DeviceSettings, []).split_points == (2, 4)
    assert not hasattr(settings.read(TierSettings, []), "splits")


def test_an_argument_of_the_device_is_refused_by_an_upper_tier() -> None:
    with pytest.raises(SettingsError, match="--splits"):
        settings.read(TierSettings, ["--splits", "2,4"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", "0"),
        ("threads", "many"),
        ("workers", "257"),
        ("max-in-flight", "0"),
        ("max-batch", "-1"),
        ("max-message-bytes", "1"),
        ("max-message-bytes", "9999999999"),
        ("deadline-seconds", "0"),
        ("deadline-seconds", "nan"),
        ("deadline-seconds", "inf"),
        ("drain-delay-seconds", "-1"),
        ("drain-grace-seconds", "1e9"),
        ("listen", "8001"),
        ("listen", ":8001"),
        ("listen", "host:"),
        ("listen", "host:65536"),
        ("listen", "host:port"),
        ("holds", "4"),
        ("holds", "4:2"),
        ("holds", "a:b"),
        ("holds", "-1:2"),
        ("compute-slowdown", "0.5"),
        ("compute-slowdown", "inf"),
        ("profile-seconds", "-1"),
        ("profile-seconds", "1e6"),
        ("log-level", "loud"),
        ("splits", "2"),
        ("splits", "2,4,6"),
        ("splits", "2,x"),
        ("splits", "²,4"),
        ("codecs", "int8"),
        ("codecs", "int8,gzip"),
        ("allowed-sans", ","),
        ("allowed-sans", " "),
        ("next", "edge"),
        ("next", ","),
        ("next", "http://edge:1"),
        ("next", "edge:99999"),
        ("next", "edge:1,other"),
        ("next", "dns:///edge"),
        ("compute-watts", "inf"),
        ("idle-watts", "inf"),
        ("joules-per-byte", "inf"),
    ],
)
def test_a_value_that_cannot_work_is_one_clear_line(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings.read(DeviceSettings, [f"--{name}={value}"])
    message = str(refused.value)
    assert name.replace("-", "_") in message
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize("arguments", [["--no-such", "1"], ["stray"], ["--threads"]])
def test_an_argument_that_is_none_is_one_clear_line(arguments: list[str]) -> None:
    with pytest.raises(SettingsError, match=arguments[0].removeprefix("--")) as refused:
        settings.read(DeviceSettings, arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("arguments", [["--allowed-sans", ""], ["--token-file="], ["--threads", "1", ""]])
def test_an_empty_argument_is_not_taken_for_none(arguments: list[str]) -> None:
    with pytest.raises(SettingsError, match="is empty; leave it out"):
        settings.read(TierSettings, arguments)


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("module", ["device_agent", "edge_node", "cloud_node"])
def test_a_wrong_setting_ends_the_process_with_exit_code_2_and_one_line(module: str) -> None:
    ended = run(module, "--threads", "none")
    tier = module.partition("_")[0]
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"{tier}: threads: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--splits", "2,99"], ["--holds", "0:99"]])
def test_settings_that_do_not_fit_the_bundle_end_with_exit_code_2(tiny: Path, arguments: list[str]) -> None:
    ended = run("device_agent", "--bundle", str(tiny), "--listen", "127.0.0.1:0", *arguments)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith(f"device: {arguments[0].removeprefix('--')}")


@pytest.mark.parametrize("module", ["device_agent", "edge_node", "cloud_node"])
def test_a_missing_bundle_ends_the_process_with_exit_code_1_and_one_line(module: str, tmp_path: Path) -> None:
    ended = run(module, "--bundle", str(tmp_path / "nowhere"))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "nowhere: no such bundle directory" in ended.stderr
    assert ended.stderr.count("\n") == 1
