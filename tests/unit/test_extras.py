"""Commands that need torch say so in one line where it is not installed."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from services.errors import SettingsError
from testbed.cli import app


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (("privacy", "models/digits"), "testbed.privacy"),
        (("train", "--out", "{out}"), "training.train"),
        (("partition", "--network", "efficientnet-b0", "--out", "{out}"), "training.families.export"),
    ],
)
def test_what_needs_torch_says_so(
    arguments: tuple[str, ...], module: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == module or name.split(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = CliRunner().invoke(app, [each.format(out=tmp_path) for each in arguments])
    assert isinstance(found.exception, SettingsError)
    assert "needs torch; in a checkout: .venv/bin/pip install" in str(found.exception)
