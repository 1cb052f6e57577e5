"""Writes deploy/grafana/dashboards from the boards. With --check, only says whether they are what it gives.

python -m deploy.grafana.generate [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.boards import BOARDS
from deploy.grafana.boards.board import Board

FOLDER = Path(__file__).parent / "dashboards" / "offramp"
"""Grafana shows a directory as a folder of its own."""


def text_of(board: Board) -> str:
    """The file of `board`: JSON, as Grafana reads it."""
    return json.dumps(board.build(), cls=JSONEncoder, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    wanted = {FOLDER / f"{board.name}.json": text_of(board) for board in BOARDS}
    stale = [path for path in FOLDER.glob("*.json") if path not in wanted]
    stale += [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is not what the boards give; run: python -m deploy.grafana.generate", file=sys.stderr)
        return bool(stale)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.unlink(missing_ok=True)
    for path, text in wanted.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
