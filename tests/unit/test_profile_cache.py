"""What was measured, kept between starts, and what becomes of files that are not as they should be."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services import profile_cache
from services.domain import CodecCost, Segment, SegmentTime
from services.hardware import Hardware
from services.profile import Measured
from services.profile_cache import Machine, ProfileCache

HERE = Machine("a processor", 4, "1.0", 1)
HASH = "a" * 64
MEASURED = Measured(
    (SegmentTime(Segment(0, 3), 1, 0.25), SegmentTime(Segment(3, 8), 8, 0.5)), (CodecCost("int8", 1e-9, 2e-9, 0.25),)
)


@pytest.fixture
def cache(tmp_path: Path) -> ProfileCache:
    found = ProfileCache(tmp_path / "deep" / "cache")
    assert found.load(HASH, HERE) is None
    assert found.store(HASH, HERE, MEASURED)
    return found


def file_of(cache: ProfileCache) -> Path:
    assert cache.directory is not None
    (file,) = cache.directory.iterdir()
    return file


def test_what_was_stored_is_loaded_again(cache: ProfileCache) -> None:
    assert cache.load(HASH, HERE) == MEASURED


def test_another_model_or_machine_has_an_entry_of_its_own(cache: ProfileCache) -> None:
    others = [
        replace(HERE, threads=2),
        replace(HERE, cores=8),
        replace(HERE, processor="x"),
        replace(HERE, onnxruntime="2"),
        replace(HERE, cores=0.5),
        replace(HERE, spinning=True),
        replace(HERE, providers="cuda"),
    ]
    assert [cache.load(HASH, other) for other in others] == [None] * len(others)
    assert cache.load("b" * 64, HERE) is None


def test_a_file_copied_from_another_machine_is_not_believed(cache: ProfileCache) -> None:
    file = file_of(cache)
    cache.store(HASH, replace(HERE, threads=2), MEASURED)
    (other,) = set(file.parent.iterdir()) - {file}
    other.write_bytes(file.read_bytes())
    assert cache.load(HASH, replace(HERE, threads=2)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"segments": []},
        {"segments": [[3, 3, 1, 0.1]]},
        {"segments": [[0, 3, 0, 0.1]]},
        {"segments": [[0, 3, 1, -0.1]]},
        {"segments": [[0, 3, 1, 1e9]]},
        {"segments": [[0, 3, 1, "0.1"]]},
        {"segments": [[-1, 3, 1, 0.1]]},
        {"segments": [[0, 1, 1, 0.1]] * 20_001},
        {"codecs": [["gzip", 1.0, 1.0, 1.0]]},
        {"codecs": [["int8", -1.0, 1.0, 1.0]]},
        {"more": 1},
    ],
)
def test_an_entry_that_cannot_be_is_none(cache: ProfileCache, change: dict[str, Any]) -> None:
    file = file_of(cache)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert cache.load(HASH, HERE) is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b'{"segments": [[0, 3, 1, NaN]]}', b" " * (5 << 20)])
def test_a_file_that_is_no_entry_is_none(cache: ProfileCache, data: bytes) -> None:
    file_of(cache).write_bytes(data)
    assert cache.load(HASH, HERE) is None


def test_a_pipe_in_place_of_an_entry_keeps_nobody_waiting(cache: ProfileCache) -> None:
    file = file_of(cache)
    file.unlink()
    os.mkfifo(file)
    assert cache.load(HASH, HERE) is None


def test_a_new_entry_takes_the_place_of_the_old_and_leaves_no_draft(cache: ProfileCache) -> None:
    newer = Measured(MEASURED.segments[:1])
    assert cache.store(HASH, HERE, newer)
    assert cache.load(HASH, HERE) == newer
    assert file_of(cache).name.startswith("profile-")


def test_where_nothing_can_be_written_everything_works_without(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for directory in (None, blocked, blocked / "below"):
        assert not ProfileCache(directory).store(HASH, HERE, MEASURED)
        assert ProfileCache(directory).load(HASH, HERE) is None


def test_the_directory_is_the_one_asked_for_or_the_users_or_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert profile_cache.directory(None) == tmp_path / "home" / ".cache" / "offramp"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert profile_cache.directory(None) == tmp_path / "home" / ".cache" / "offramp"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert profile_cache.directory(None) == tmp_path / "xdg" / "offramp"
    assert profile_cache.directory("here") == Path("here")
    assert profile_cache.directory("-") is profile_cache.directory("") is None


def test_this_machine_has_a_name_cores_and_a_runtime() -> None:
    machine = profile_cache.this_machine(Hardware(3))
    assert machine.threads == 3
    assert machine.cores > 0
    assert machine.processor
    assert machine.onnxruntime.count(".") == 2
    assert machine == profile_cache.this_machine(Hardware(3))


def test_a_cache_that_this_user_may_not_enter_holds_nothing(
    cache: ProfileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", forbidden)
    assert cache.load(HASH, HERE) is None
