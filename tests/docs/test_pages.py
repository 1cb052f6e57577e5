"""What is not run says why."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.docs.pages import Block, blocks, pages, serves

ALL = [block for page in pages() for block in blocks(page)]


def test_there_are_commands_to_run() -> None:
    assert sum(len(block.commands) for block in ALL if not block.how) > 20


@pytest.mark.parametrize("block", ALL, ids=lambda block: f"{block.page}: {block.commands[0][:50]}")
def test_a_block_that_is_not_run_names_the_test_that_does_or_the_reason(block: Block) -> None:
    how, _, reason = block.how.partition(", ")
    assert how in ("", "containers", "no")
    if how:
        assert len(reason) > 10, f"{block.page}: say why, <!-- run: {how}, … -->"
        if reason.startswith("tests/"):
            assert (ROOT / reason.split()[0]).exists()


def test_commands_keep_their_continued_lines_and_documents() -> None:
    from tests.docs.pages import _commands

    body = "# a comment\na \\\n  b\n\npython - <<'PY'\nx = 1\n\nPY\nofframp up --port 1\n"
    found = list(_commands(body))
    assert found == ["a \\\n  b", "python - <<'PY'\nx = 1\n\nPY", "offramp up --port 1"]
    assert [serves(command) for command in found] == [False, False, True]
