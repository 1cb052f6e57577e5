"""The commands that the documentation shows, page by page, and what has to be there for them to run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

_BLOCK = re.compile(
    r"(?:<!-- run: (?P<how>[^>]*?) -->\n)?^(?P<indent> *)```(?:bash|sh)\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL
)
_SERVES = (
    ("offramp", "up"),
    ("offramp", "watch"),
    ("make", "run", "ARGS=--serve"),
    *(("python", "-m", part) for part in ("device_agent", "edge_node", "cloud_node", "testbed.links")),
)
GENERATED = ("docs/cli.md", "docs/settings.md", "docs/metrics.md")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `how`: empty, `containers`, `privileged …` or `no, <reason>`."""

    page: str
    how: str
    commands: tuple[str, ...]


def pages() -> list[Path]:
    """Every page that people follow; the generated reference has tests of its own."""
    found = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    return [page for page in found if str(page.relative_to(ROOT)) not in GENERATED]


def blocks(page: Path) -> Iterator[Block]:
    """The shell blocks of a page in their order."""
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        yield Block(str(page.relative_to(ROOT)), (match["how"] or "").strip(), tuple(_commands(body)))


def _commands(body: str) -> Iterator[str]:
    """One entry for each command, with its continued lines and its here-document."""
    lines = iter(body.splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        command = line
        while command.endswith("\\"):
            command += "\n" + next(lines)
        if found := re.search(r"<<'?(\w+)'?", line):
            rest = iter(lambda: next(lines), found[1])
            command = "\n".join([command, *rest, found[1]])
        yield command


def serves(command: str) -> bool:
    """Whether the command stays in the foreground until Ctrl-C."""
    if "<<" in command:
        return False
    words = shlex.split(command, comments=True)
    words[0] = Path(words[0]).name
    return any(tuple(words[: len(start)]) == start for start in _SERVES) and "--once" not in words
