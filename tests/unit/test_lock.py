"""What the image installs: all of it pinned, with hashes, as the constraints say, and nothing forgotten."""

from __future__ import annotations

import re
import tomllib

import pytest

from deploy import audit
from tests.conftest import ROOT

PIN = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)==(?P<version>[^\s;]+)")
LOCK = (ROOT / "deploy" / "requirements.lock").read_text()
BUILD = (ROOT / "deploy" / "build.lock").read_text()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    found = (PIN.match(line) for line in text.splitlines())
    return {normal(match["name"]): match["version"] for match in found if match}


def test_every_dependency_of_a_tier_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {normal(re.split(r"[<>=\[;! ]", each)[0]) for each in project["dependencies"]}
    assert wanted <= pins(LOCK).keys(), "run `make lock`"


def test_what_is_tested_is_what_is_locked() -> None:
    tested, locked = pins((ROOT / "constraints.txt").read_text()), pins(LOCK)
    shared = tested.keys() & locked.keys()
    assert {name: locked[name] for name in shared} == {name: tested[name] for name in shared}, "run `make lock`"


@pytest.mark.parametrize("text", [LOCK, BUILD])
def test_every_pin_has_hashes_and_no_line_says_where_from(text: str) -> None:
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert len(blocks) == len(pins(text))
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert "--index" not in text


def test_a_finding_is_told_with_the_version_that_mends_it() -> None:
    package = {"name": "some", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}
    assert audit.findings([package]) == [("CVE-1", "some 1.0: CVE-1, fixed in 1.1")]


def test_a_package_that_was_passed_over_is_a_finding() -> None:
    skipped = {"name": "some", "skip_reason": "not found"}
    assert audit.findings([{"name": "other", "version": "1", "vulns": []}, skipped])[0][0] == "some"


def test_an_exception_wants_a_reason() -> None:
    assert audit.exceptions("# why\n\nCVE-1  no fix yet\n") == {"CVE-1": "no fix yet"}
    with pytest.raises(SystemExit, match="no reason"):
        audit.exceptions("CVE-1\n")
