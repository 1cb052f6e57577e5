"""The comparison as files: JSON, CSV, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from testbed.bench.figures import Picture
from testbed.bench.policies import BEST_STATIC, LATE_SECONDS, ORACLES, OURS
from testbed.bench.results import Comparison, Target

Ratios = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Of mean latencies: by what stands over the real one, by comparison, then by policy and trace."""
SIMULATED, FORETOLD = "simulated", "foretold"
_COLUMNS = ("requests", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "missed", "failed", "bytes", "accuracy", "switches")
_WITH_INTERVAL = tuple(column for column in _COLUMNS if column not in ("requests", "failed"))
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#264653;max-width:1180px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;font-size:13px;margin:.5em 0 1.5em}td,th{padding:.15em .7em;text-align:right}
th{border-bottom:2px solid #264653}td:first-child,th:first-child,.l{text-align:left}
tr:nth-child(even){background:#f4f6f7}
.ours{font-weight:600}.met{color:#2a9d8f;font-weight:700}.missed{color:#c1121f;font-weight:700}img{max-width:100%}
small{color:#667}h2{margin-top:2em}
"""


def as_json(
    comparisons: Sequence[Comparison],
    found: Sequence[Target],
    ratios: Ratios,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The first comparison on top, all of them under `comparisons`."""
    first = comparisons[0].as_json()
    return {
        **{key: first[key] for key in ("workload", "loop", "real", "traces", "oracle_ratio", "best_static_ratio")},
        "comparisons": [each.as_json() for each in comparisons],
        "targets": [{"name": t.name, "where": t.where, "found": t.found, "met": t.met} for t in found],
        **{f"{what}_over_real": {where: dict(each) for where, each in of.items()} for what, of in ratios.items()},
        "settings": dict(settings),
    }


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """One row for each workload, loop, trace and policy; the ends of 95 % intervals come last."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    ends = [f"{column}_{end}" for column in _WITH_INTERVAL for end in ("low", "high")]
    writer.writerow(("workload", "loop", "real", "trace", "policy", *_COLUMNS, *ends))
    for each in comparisons:
        for trace, policies in each.traces.items():
            for policy, summary in policies.items():
                values = [getattr(summary, column) for column in _COLUMNS]
                name = (each.workload, each.loop.value, each.real, trace, policy)
                values += [end for column in _WITH_INTERVAL for end in summary.ci.get(column, (None, None))]
                writer.writerow((*name, *("" if v is None else v for v in values)))
    return buffer.getvalue()


def verdict(met: bool | None) -> str:
    return {True: "PASS", False: "MISSED", None: "–"}[met]


def as_html(
    comparisons: Sequence[Comparison],
    found: Sequence[Target],
    pictures: Mapping[str, Sequence[Picture]],
    ratios: Ratios,
    settings: Mapping[str, Any],
    how: Sequence[str],
) -> str:
    """The page. `pictures`: by the title of their comparison; `how`: sentences on how it was done."""
    parts = ["<h1>Policies side by side</h1>", *(f"<p>{escape(text)}</p>" for text in how), _targets(found)]
    for each in comparisons:
        parts.append(f"<h2>{escape(each.title)}</h2>")
        parts.append(_ratios(each))
        parts += [_picture(picture) for picture in pictures.get(each.title, ())]
        parts += [_table(each, trace) for trace in each.traces]
    for what, of in ratios.items():
        for title, found_there in of.items():
            parts.append(f"<h2>{what.capitalize()} over real: {escape(title)}</h2>")
            parts.append(_pairs({name: f"{ratio:.3f}" for name, ratio in found_there.items()}))
    parts += ["<h2>Settings</h2>", _pairs(settings)]
    body = "\n".join(parts)
    head = f"<meta charset=utf-8><title>Policies side by side</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n"


def _pairs(found: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td class=l>{escape(str(v))}</td></tr>" for k, v in found.items())
    return f"<table>{rows}</table>"


def _targets(found: Sequence[Target]) -> str:
    rows = "".join(
        f"<tr><td>{escape(t.name)}</td><td class=l>{escape(t.where)}</td><td class=l>{escape(t.found)}</td>"
        f"<td class={ {True: 'met', False: 'missed', None: 'l'}[t.met] }>{verdict(t.met)}</td></tr>"
        for t in found
    )
    return f"<h2>Targets</h2><table><tr><th>target<th class=l>where<th class=l>found<th></tr>{rows}</table>"


def _ratios(each: Comparison) -> str:
    against = [each.ratios(name) for name in (*ORACLES, BEST_STATIC)]
    rows = "".join(
        f"<tr><td>{escape(trace)}</td>{''.join(f'<td>{_ratio(found.get(trace))}</td>' for found in against)}"
        f"<td>{'yes' if each.crossing.get(trace) else 'no'}</td>"
        f"<td class=l><small>{escape(each.static_plans.get(trace, ''))}</small></td></tr>"
        for trace in each.traces
    )
    head = (
        "<tr><th>trace<th>ours / oracle<th>ours / oracle without foresight"
        f"<th>ours / oracle, {LATE_SECONDS:g} s late<th>ours / best static"
        "<th>crosses a break-even<th class=l>best static plan</tr>"
    )
    return f"<table>{head}{rows}</table>"


def _table(each: Comparison, trace: str) -> str:
    head = "".join(f"<th>{column.replace('_', ' ')}" for column in _COLUMNS)
    rows = []
    for policy, summary in each.traces[trace].items():
        cells = []
        for column in _COLUMNS:
            value, interval = getattr(summary, column), summary.ci.get(column)
            text = _number(column, value)
            if interval is not None:
                text += f" <small>{_number(column, interval[0])}–{_number(column, interval[1])}</small>"
            cells.append(f"<td>{text}</td>")
        rows.append(f"<tr class={'ours' if policy == OURS else 'other'}><td>{escape(policy)}</td>{''.join(cells)}</tr>")
    note = f"<small>(answers later than {each.deadline_ms:.0f} ms are missed; small: 95 % bootstrap intervals)</small>"
    return f"<h3>{escape(trace)} {note}</h3><table><tr><th>policy{head}</tr>{''.join(rows)}</table>"


def _number(column: str, value: float | None) -> str:
    if value is None:
        return "–"
    if column in ("missed", "accuracy"):
        return f"{value:.2%}"
    return f"{value:.1f}" if column.endswith("_ms") else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _picture(picture: Picture) -> str:
    png = base64.b64encode(picture.png).decode()
    return f'<p><img alt="{escape(picture.name)}" src="data:image/png;base64,{png}"></p>'
