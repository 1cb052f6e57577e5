"""What Prometheus would read of a tier, as numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from urllib.request import urlopen

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def values(text: str) -> Values:
    """Every sample in a page of metrics, by its name and labels."""
    families = text_string_to_metric_families(text)
    found = [(sample.name, frozenset(sample.labels.items()), sample.value) for f in families for sample in f.samples]
    named = {(name, labels): value for name, labels, value in found}
    assert len(named) == len(found), "a series came twice"
    return named


def of(registry: CollectorRegistry) -> Values:
    return values(generate_latest(registry).decode())


async def scrape(url: str) -> Values:
    """GETs a page of metrics in a thread, as Prometheus is not on this event loop either."""

    def get() -> str:
        with urlopen(url, timeout=10) as reply:
            return str(reply.read().decode())

    return values(await asyncio.to_thread(get))


def total(found: Values | Iterable[Values], name: str, **labels: str) -> float:
    """The sum over all series called `name` that have these labels; fails where there is none."""
    pages = [found] if isinstance(found, dict) else list(found)
    wanted = set(labels.items())
    hits = [value for page in pages for (n, has), value in page.items() if n == name and wanted <= has]
    assert hits, f"no series {name}{labels}"
    return sum(hits)
