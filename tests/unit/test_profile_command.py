"""`offramp profile`: what it keeps, and what it says of what it had no time for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from services import bundle, measuring
from services.domain import Segment
from services.errors import InvalidInput, OfframpError
from services.measuring import Findings, Timing
from testbed.cli import app


def profile(path: Path, cache: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["profile", str(path), "--cache", str(cache), *arguments])


def test_where_no_segment_was_measured_nothing_is_kept(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "timings", lambda *asked: [])
    done = profile(tiny, tmp_path / "kept", "--seconds", "0.1")
    assert isinstance(done.exception, OfframpError)
    assert "--seconds 0.1 is too short" in str(done.exception)
    assert "kept in" not in done.stdout
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(("batch", "more"), [("1", "more --seconds"), ("2", "1 in --batch")])
def test_split_points_that_were_not_measured_are_counted(
    batch: str, more: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Findings([Timing(Segment(0, 8), int(batch), 0.001, 0.1, 3)], ())
    monkeypatch.setattr(measuring, "take", lambda *asked: found)
    done = profile(tiny, tmp_path / "kept", "--batch", batch)
    assert done.exit_code == 0, done.output
    assert f"were not measured with one sample; give {more} for them" in " ".join(done.stdout.split())
    assert "kept in" in done.stdout


@pytest.fixture
def single(tiny: Path, tmp_path: Path) -> Path:
    """A network that takes one sample at a time."""
    shutil.copytree(tiny, path := tmp_path / "single")
    given = bundle.read_manifest(path)
    bundle.write(path, given.model_copy(update={"input": given.input.model_copy(update={"max_batch": 1})}))
    return path


@pytest.mark.parametrize("command", ["profile", "explain"])
def test_a_batch_is_refused_of_a_network_that_takes_one_sample_at_a_time(command: str, single: Path) -> None:
    for batch in ("8", "1,64") if command == "profile" else ("8",):
        refused = CliRunner().invoke(app, [command, str(single), "--batch", batch])
        assert isinstance(refused.exception, InvalidInput)
        assert str(refused.exception) == f"model {bundle.read_manifest(single).name!r} takes 1 sample at a time"


def test_of_such_a_network_one_sample_is_measured_whatever_is_usual(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[tuple[int, ...]]()
    found = Findings([Timing(Segment(0, 8), 1, 0.001, 0.1, 3)], ())

    def take(loaded: object, model: object, seconds: float, sizes: tuple[int, ...], *_: object) -> Findings:
        asked.append(sizes)
        return found

    monkeypatch.setattr(measuring, "take", take)
    done = profile(single, tmp_path / "kept")
    assert (done.exit_code, asked) == (0, [(1,)]), done.output


def test_a_profile_of_everything_has_nothing_to_add(tiny: Path, tmp_path: Path) -> None:
    done = profile(tiny, tmp_path / "kept", "--seconds", "60", "--batch", "1")
    assert "were not measured" not in done.stdout
