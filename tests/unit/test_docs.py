"""The documentation: generated pages are fresh, links lead somewhere, commands parse."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from services.errors import SettingsError
from services.settings import PREFIX, DeviceSettings, TierSettings, read
from testbed import cli, links
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/*/README.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```(?:bash|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NODES: dict[str, type[TierSettings]] = {
    "device_agent": DeviceSettings,
    "edge_node": TierSettings,
    "cloud_node": TierSettings,
}


def _commands(page: Path) -> list[list[str]]:
    """Every command in the shell blocks of a page, as words, without what stands before or after it."""
    lines = "\n".join(FENCE.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _shown(*starts: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """(where, words) of the commands on all pages that start with one of `starts`; a path before it is left out."""
    found = []
    for page in PAGES:
        for words in _commands(page):
            words[0] = Path(words[0]).name
            if any(tuple(words[: len(start)]) == start for start in starts):
                found.append((f"{page.relative_to(ROOT)}: {shlex.join(words)}", words))
    return found


def _anchor(heading: str) -> str:
    """What a heading is called in a link, as hosts of Markdown make it."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.strip().replace(" ", "-")


def _problem(page: Path, target: str) -> str:
    name, _, anchor = target.partition("#")
    file = (page.parent / name).resolve() if name else page
    if not file.exists():
        return f"{page.relative_to(ROOT)}: {target} does not exist"
    if anchor and anchor not in map(_anchor, HEADING.findall(file.read_text(encoding="utf-8"))):
        return f"{page.relative_to(ROOT)}: {target} has no such heading"
    return ""


def _without_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no `.env` of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_generated_pages_are_what_the_code_gives() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_image_leads_somewhere(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text(encoding="utf-8")) if not re.match(r"[a-z]+:", t)]
    assert not list(filter(None, (_problem(page, target) for target in targets)))


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs/decisions/README.md").read_text(encoding="utf-8")
    pages = {page.name for page in ROOT.glob("docs/decisions/[0-9]*.md")}
    assert pages == set(re.findall(r"\(([0-9][^)]+\.md)\)", index))


@pytest.mark.parametrize(("where", "words"), _shown(("offramp",)), ids=lambda value: str(value)[:80])
def test_every_offramp_command_shown_parses(where: str, words: list[str]) -> None:
    command, rest = get_command(cli.app), words[1:]
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(words[1], rest)


@pytest.mark.parametrize(("where", "words"), _shown(("python", "-m", "testbed.links")), ids=lambda v: str(v)[:80])
def test_every_link_command_shown_parses(where: str, words: list[str]) -> None:
    parser = links._parser()
    parser.parse_args(words[3:])
    known = {name for action in parser._actions for name in action.option_strings}
    assert {word for word in words if word.startswith("--")} <= known  # argparse takes abbreviations as well


@pytest.mark.parametrize(
    ("where", "words"), _shown(*(("python", "-m", node) for node in NODES)), ids=lambda v: str(v)[:80]
)
def test_every_tier_command_shown_reads_as_settings(
    where: str, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _without_settings(monkeypatch, tmp_path)
    read(NODES[words[2]], words[3:])


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shown = {words[1] for _, words in _shown(("make",)) if len(words) > 1}
    assert shown
    assert shown <= targets


def test_a_misspelt_option_would_be_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _without_settings(monkeypatch, tmp_path)
    group = get_command(cli.app)
    with pytest.raises(Exception, match="--nonsense"):
        group.commands["run"].make_context("run", ["--nonsense"])  # type: ignore[attr-defined]
    with pytest.raises(SettingsError):
        read(TierSettings, ["--nonsense", "0"])
