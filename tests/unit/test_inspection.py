"""What is shown of a bundle: every split point, on any width of terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from services import bundle
from services.bundle import Manifest
from testbed import inspection
from testbed.adopt import adopt
from testbed.split_points import SplitPointTable
from tests.networks import three_exit_graph


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspected")
    (folder / "m.onnx").write_bytes(three_exit_graph().SerializeToString())
    adopt(folder / "m.onnx", folder / "b")
    return folder / "b"


@pytest.fixture
def large(adopted: Path) -> Manifest:
    """The numbers of a large network, under long names."""
    manifest = bundle.read_manifest(adopted)
    big = {
        "elements": 1_204_224,
        "bytes_fp32": 4_816_896,
        "bytes_int8": 1_204_992,
        "shape": (96, 112, 112),
        "ratio": 8.0,
    }
    points = tuple(
        point.model_copy(update=big | {"after": f"/blocks.{point.index}/body/body.0/GlobalAveragePool"})
        for point in manifest.split_points
    )
    return manifest.model_copy(update={"split_points": points})


def drawn(manifest: Manifest, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(SplitPointTable(manifest, {0: 1_204_992.0}))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_number_and_no_name_is_cut_whatever_the_width(large: Manifest, width: int) -> None:
    text = drawn(large, width)
    assert "…" not in text
    for number in ("1,204,224", "8.000", "1,204,992", "96×112×112", "int8+zstd B"):
        assert number in text, number
    assert max(map(len, text.splitlines())) <= width


def test_a_wide_table_has_a_column_for_everything(large: Manifest) -> None:
    text = drawn(large, 200)
    for column in ("index", "after", "elements", "c = |z|/|x|", "natural", "compressive", "fp32 B", "int8 B"):
        assert column in text


def test_what_was_not_measured_is_a_dash(large: Manifest) -> None:
    assert drawn(large, 200).count("–") == len(large.split_points) - 1


def test_an_exit_that_is_not_calibrated_is_shown_as_one_that_nobody_leaves_at(adopted: Path) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(inspection.shown(adopted))
    text = console.export_text()
    assert "Exit 0, early: not calibrated, never leaves here" in text
    assert "1.01" not in text


def test_json_has_the_measured_bytes_of_every_split_point(adopted: Path) -> None:
    found = inspection.as_json(adopted)
    assert found["codec"] == "int8+zstd"
    assert all(point["bytes_after_codec"] > 0 for point in found["split_points"])


def test_a_bundle_without_measurements_is_measured_on_the_samples_it_carries(tiny: Path) -> None:
    assert bundle.read_manifest(tiny).codec_accuracy == ()
    found = inspection.as_json(tiny)
    carries = bundle.read_manifest(tiny).samples is not None
    assert all((point["bytes_after_codec"] is not None) == carries for point in found["split_points"])
