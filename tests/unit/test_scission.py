"""Scission's published best plans for VGG-19 (McNamee et al., ICFEC 2021), from its measured layers.

Its pipeline has no codecs and no exits, so ours is asked with fp32 alone and its bytes. Each machine pair is one
call; its query (layer 10 on the edge, 16 in the cloud, some layer on the device) is what the tiers hold.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from device_agent.planner import Beliefs, Options, PlanCost, rank
from services.bundle import CodecAccuracy, Manifest
from services.domain import LinkEstimate, Plan, Policy, Segment, Tier
from tests.problems import chain, machine

FP32_ONLY = Options(codecs=(("fp32",), ("fp32",)), image_codecs=())


class Block(NamedTuple):
    """What Scission measures: layers that run as one, their seconds, and the bytes of what they put out."""

    first_layer: int
    last_layer: int
    seconds: float
    output_bytes: int


Measured = dict[Tier, dict[str, list[Block]]]


@pytest.fixture(scope="module")
def scission(data: Path) -> Path:
    return data / "scission"


def test_the_published_best_five_plans_come_out(scission: Path) -> None:
    golden = json.loads((scission / "golden_query.json").read_text())
    measured, links = layers(scission, golden["query"]["model"]), network(scission)
    (device,) = measured[Tier.DEVICE]
    found = []
    for edge in measured[Tier.EDGE]:
        for cloud in measured[Tier.CLOUD]:
            hosts = {Tier.DEVICE: device, Tier.EDGE: edge, Tier.CLOUD: cloud}
            beliefs = believed(measured, links, hosts, golden["query"])
            found += [(each, hosts) for each in rank(beliefs, Policy(privacy=True), count=5, options=FP32_ONLY)]
    found.sort(key=lambda pair: pair[0].seconds)
    blocks = measured[Tier.DEVICE][device]
    lines = [shown(number, *pair, blocks) for number, pair in enumerate(found[:5], 1)]
    assert lines == golden["expected_lines_published"]


def layers(folder: Path, model: str) -> Measured:
    found: Measured = {tier: defaultdict(list) for tier in Tier}
    with (folder / "layer_benchmarks.csv").open() as file:
        for row in csv.DictReader(file):
            if row["model"] == model:
                block = Block(
                    int(row["first_layer"]),
                    int(row["last_layer"]),
                    float(row["latency_s"]),
                    int(row["output_npy_bytes"]),
                )
                found[Tier[row["tier"].upper()]][row["host"]].append(block)
    return found


def network(folder: Path) -> dict[tuple[str, str], tuple[float, float]]:
    """Seconds of a ping and bytes per second, by source and destination."""
    with (folder / "network_stats.csv").open() as file:
        return {
            (row["source"], row["destination"]): (
                float(row["ping(ms)"]) / 1000,
                float(row["bandwidth(mbps)"]) * 125_000,
            )
            for row in csv.DictReader(file, skipinitialspace=True)
        }


def believed(
    measured: Measured,
    links: dict[tuple[str, str], tuple[float, float]],
    hosts: dict[Tier, str],
    query: dict[str, str],
) -> Beliefs:
    """Beliefs about one machine per tier; what each holds says where the query wants its layers."""
    blocks = measured[Tier.DEVICE][hosts[Tier.DEVICE]]
    on_edge, in_cloud = (block_of(blocks, int(query[key])) for key in ("edge", "cloud"))
    last = len(blocks)
    holds = {Tier.DEVICE: Segment(0, on_edge), Tier.EDGE: Segment(0, in_cloud), Tier.CLOUD: Segment(on_edge + 1, last)}
    profiles = {
        tier: machine(tier, [block.seconds for block in measured[tier][host]], holds=holds[tier])
        for tier, host in hosts.items()
    }
    hops = ((Tier.DEVICE, Tier.EDGE), (Tier.EDGE, Tier.CLOUD))
    estimates = {source: LinkEstimate(source, *links[hosts[source], hosts[above]]) for source, above in hops}
    return Beliefs(vgg(blocks, int(query["input_bytes"])), profiles, estimates)


def vgg(blocks: list[Block], input_bytes: int) -> Manifest:
    sizes = [input_bytes, *(block.output_bytes for block in blocks)]
    entries = [CodecAccuracy(split_point=at, codec="fp32", bytes_per_sample=size) for at, size in enumerate(sizes[:-1])]
    return chain([(size,) for size in sizes], codec_accuracy=entries, image=False)


def block_of(blocks: list[Block], layer: int) -> int:
    return next(i for i, block in enumerate(blocks) if block.first_layer <= layer <= block.last_layer)


def shown(number: int, found: PlanCost, hosts: dict[Tier, str], blocks: list[Block]) -> str:
    """As Scission prints it."""
    return f"[{number}] {found.seconds:.4f}s - {found.bytes / 1e6:.4f}MB - {spans(found.plan, hosts, blocks)}"


def spans(plan: Plan, hosts: dict[Tier, str], blocks: list[Block]) -> str:
    return ", ".join(
        f"{stage.tier.label.capitalize()}({hosts[stage.tier]}) = "
        f"{blocks[stage.segment.start].first_layer} - {blocks[stage.segment.end - 1].last_layer}"
        for stage in plan.stages
    )
