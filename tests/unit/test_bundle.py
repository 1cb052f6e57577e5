"""What a bundle refuses to be loaded as."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services import bundle
from services.errors import BundleError

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A bundle to break."""
    return shutil.copytree(tiny, tmp_path / "copy")


def edit(path: Path, change: Change) -> None:
    """Changes `manifest.json` in place."""
    manifest = json.loads((path / bundle.MANIFEST).read_text())
    change(manifest)
    (path / bundle.MANIFEST).write_text(json.dumps(manifest))


def measured(manifest: dict[str, Any], *places: tuple[int, str]) -> None:
    """Says that something was measured of these codecs, (split point, codec)."""
    manifest["codec_accuracy"] = [{"split_point": at, "codec": codec, "delta": 0.0} for at, codec in places]


def test_a_bundle_comes_back_as_it_was_written(tiny: Path, tmp_path: Path) -> None:
    loaded = bundle.load(tiny)
    bundle.write(tmp_path / "again", loaded.manifest, loaded.graph)
    again = bundle.load(tmp_path / "again")
    assert (again.manifest, again.graph) == (loaded.manifest, loaded.graph)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere: no such bundle directory"):
        bundle.load(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["manifest.json", "model.onnx"])
def test_a_missing_file_is_named(copy: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(BundleError, match=rf"{file}: No such file"):
        bundle.load(copy)


def test_a_tampered_graph_is_refused_with_both_hashes(copy: Path) -> None:
    graph = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(graph[:-1] + bytes([graph[-1] ^ 1]))
    with pytest.raises(BundleError) as refused:
        bundle.load(copy)
    message = str(refused.value)
    assert "model.onnx" in message
    assert bundle.sha256(graph) in message
    assert bundle.sha256((copy / "model.onnx").read_bytes()) in message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda m: m.update(format_version=2), "format_version is 2, this release reads 1"),
        (lambda m: m.pop("format_version"), "format_version is None"),
        (lambda m: m.update(surprise=1), "surprise: Extra inputs"),
        (lambda m: m["exits"][0].update(surprise=1), "exits.0.surprise: Extra inputs"),
        (lambda m: m.update(name="../up"), "name: "),
        (lambda m: m.update(graph="../model.onnx"), "graph: "),
        (lambda m: m.update(graph="/etc/passwd"), "graph: "),
        (lambda m: m.update(graph_sha256="0" * 63), "graph_sha256: "),
        (lambda m: m.update(graph_sha256="0" * 64), "SHA-256 is"),
        (lambda m: m.update(version="0"), "version: "),
        (lambda m: m.update(version="1.0"), "version: "),
        (lambda m: m.update(labels=["a"]), "labels: "),
        (lambda m: m.update(confidence="guess"), "confidence: "),
        (lambda m: m["input"].update(dtype="float64"), "input.dtype: "),
        (lambda m: m["input"].update(shape=[1, 8, 0]), "input.shape.2: "),
        (lambda m: m["input"].update(shape=[1, 8, 9]), "split point 0 must be the input"),
        (lambda m: m["input"]["preprocessing"].update(std=[0]), "std"),
        (lambda m: m["input"]["preprocessing"].update(mean=[0.1, 0.2]), "one mean and std for each channel"),
        (lambda m: m["exits"][0].update(temperature=0), "temperature: "),
        (lambda m: m["exits"][0].update(threshold=-0.1), "threshold: "),
        (lambda m: m["exits"][0].update(threshold=float("nan")), "manifest.json: "),
        (lambda m: m["exits"][0].update(threshold=float("inf")), "manifest.json: "),
        (lambda m: m["exits"].pop(), "the final one at the last split point"),
        (lambda m: m["exits"].reverse(), "exits must be numbered"),
        (lambda m: m["exits"].clear(), "exits: "),
        (lambda m: m["exits"][0].update(name=m["exits"][1]["name"]), "exits must have names of their own"),
        (lambda m: measured(m, (99, "int8")), "codec_accuracy names split point 99, there are 0..8"),
        (lambda m: measured(m, (8, "int8"), (9, "int8")), "codec_accuracy names split point 9, there are 0..8"),
        (lambda m: measured(m, (1, "int8"), (1, "fp32"), (1, "int8")), "has 'int8' at split point 1 twice"),
        (lambda m: m["split_points"].reverse(), "split points must be numbered"),
        (lambda m: m["split_points"].pop(1), "split points must be numbered"),
        (lambda m: m["samples"].update(file="../x.npz"), "samples.file: "),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(copy: Path, change: Change, complaint: str) -> None:
    edit(copy, change)
    with pytest.raises(BundleError) as refused:
        bundle.load(copy)
    assert complaint in str(refused.value)
    assert str(copy) in str(refused.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"1", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_not_a_json_object_is_refused(copy: Path, text: bytes) -> None:
    (copy / bundle.MANIFEST).write_bytes(text)
    with pytest.raises(BundleError, match="not a JSON object"):
        bundle.load(copy)


def test_an_oversized_manifest_is_refused_unread(copy: Path) -> None:
    with (copy / bundle.MANIFEST).open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(BundleError, match="not a regular file of at most 4,194,304 bytes"):
        bundle.load(copy)


def test_a_graph_linked_from_outside_is_refused(copy: Path, tiny: Path) -> None:
    (copy / "model.onnx").unlink()
    (copy / "model.onnx").symlink_to(tiny / "model.onnx")
    with pytest.raises(BundleError, match="links outside its bundle"):
        bundle.load(copy)


def test_a_graph_linked_within_its_bundle_is_taken(copy: Path) -> None:
    (copy / "model.onnx").rename(copy / "weights.onnx")
    (copy / "model.onnx").symlink_to("weights.onnx")
    assert bundle.load(copy).graph


def test_samples_come_with_their_labels(tiny: Path) -> None:
    images, labels = bundle.load_samples(bundle.load(tiny))
    assert (images.shape, images.dtype) == ((40, 8, 8), np.uint8)
    assert (labels.shape, labels.dtype) == ((40,), np.int64)


def test_tampered_samples_are_refused(copy: Path) -> None:
    with (copy / "samples.npz").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=r"samples.npz: SHA-256 is"):
        bundle.load_samples(bundle.load(copy))


@pytest.mark.parametrize(
    "arrays", [{"images": np.zeros((2, 8, 8))}, {"images": np.zeros(3), "labels": np.zeros(2)}, None]
)
def test_samples_that_are_none_are_refused(copy: Path, arrays: dict[str, np.ndarray] | None) -> None:
    if arrays is None:
        (copy / "samples.npz").write_bytes(b"PK\x03\x04 not a zip")
    else:
        np.savez(copy / "samples.npz", **arrays)
    edit(copy, lambda m: m["samples"].update(sha256=bundle.sha256((copy / "samples.npz").read_bytes()), count=3))
    with pytest.raises(BundleError, match=r"samples\.npz"):
        bundle.load_samples(bundle.load(copy))


def test_samples_that_unpack_to_more_than_the_manifest_says_are_refused_unread(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(copy / "samples.npz", images=np.zeros((5000, 64, 64), np.uint8), labels=np.zeros(3))
    edit(copy, lambda m: m["samples"].update(sha256=bundle.sha256((copy / "samples.npz").read_bytes()), count=3))
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(BundleError, match=r"samples\.npz"):
        bundle.load_samples(bundle.load(copy))


def test_a_bundle_without_samples_says_what_to_do(copy: Path) -> None:
    edit(copy, lambda m: m.update(samples=None))
    with pytest.raises(BundleError, match="give --data"):
        bundle.load_samples(bundle.load(copy))


def test_writing_refuses_a_graph_that_the_manifest_does_not_name(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not the one the manifest names"):
        bundle.write(tmp_path / "new", bundle.load(tiny).manifest, b"another")
    assert not list((tmp_path / "new").glob("*"))


def test_a_write_that_fails_half_way_leaves_the_old_bundle(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bundle.load(copy)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        bundle.write(copy, before.manifest.model_copy(update={"version": "2"}), before.graph)
    monkeypatch.undo()
    assert bundle.load(copy) == before


def test_a_write_goes_to_its_place_in_one_step(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, seen = bundle.load(copy), []
    replaced = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append((self.parent, target.name))
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    bundle.write(copy, loaded.manifest, loaded.graph)
    assert seen == [(copy, "model.onnx"), (copy, "manifest.json")]
    assert sorted(file.name for file in copy.iterdir()) == ["manifest.json", "model.onnx", "samples.npz"]


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_what_is_not_a_regular_file_is_not_read(tiny: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(BundleError, match="not a regular file"):
        bundle.load(copy)
    (copy / name).unlink()
    (copy / name).symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="links outside its bundle"):
        bundle.load(copy)
