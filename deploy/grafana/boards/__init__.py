"""The boards, in the order a reader meets them."""

from __future__ import annotations

from deploy.grafana.boards import early_exit, links_and_splits, overview, runtime, why_is_it_slow

BOARDS = (overview.BOARD, early_exit.BOARD, links_and_splits.BOARD, why_is_it_slow.BOARD, runtime.BOARD)
