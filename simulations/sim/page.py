"""A report as one HTML file that needs no other: figures, criteria, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from math import log10
from typing import Any, Final

from simulations.figures import FIGURES
from simulations.svg import Chart, Line, chart

_STYLE: Final = (
    "body{font:15px/1.45 system-ui,sans-serif;color:#0f172a;max-width:1100px;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{text-align:left;padding:.2rem 1rem .2rem 0;"
    "border-bottom:1px solid #e2e8f0}td.n{text-align:right;font-variant-numeric:tabular-nums}"
    ".yes{color:#15803d}.no{color:#b91c1c;font-weight:600}.charts{display:flex;flex-wrap:wrap;gap:1rem}"
    "small{color:#475569;overflow-wrap:anywhere}"
)
_SIZES: Final = ("mean_hops", "messages_per_lookup", "memory_per_node_kib")


def page(report: Mapping[str, Any]) -> str:
    """Of one run."""
    scenario = report["scenario"]
    title = f"zeqnode sim {scenario['name']}"
    verdict = "All criteria are met." if report["met"] else "Not all criteria are met."
    return _document(
        title,
        f"<p>{escape(scenario['about'])}</p>",
        f'<p class="{"yes" if report["met"] else "no"}">{verdict}</p>',
        _figures(report),
        f'<div class="charts">{"".join(chart(each) for each in charts(report))}</div>',
        _counted("Datagrams of a node in a minute", report["kinds"]),
        _counted("Not delivered", report["network"]),
        _counted("What the attackers did", report["attack"]["lies"] if report["attack"] else {}),
        _counted("Counted by the cores at the end", report["cores"]),
        _small(report),
    )


def sizes_page(reports: Sequence[Mapping[str, Any]]) -> str:
    """Of the same scenario with fewer and more nodes."""
    heads = "".join(f"<th>{report['scenario']['nodes']:,} nodes</th>" for report in reports)
    rows = [f"<tr><th></th>{heads}</tr>"]
    for key, measure in FIGURES.items():
        cells = "".join(f'<td class="n">{measure.text(report["figures"][key])}</td>' for report in reports)
        rows.append(f"<tr><td>{escape(measure.title)} {escape(measure.unit)}</td>{cells}</tr>")
    drawn = "".join(chart(each) for each in sizes_charts(reports))
    table = f"<table>{''.join(rows)}</table>"
    return _document("zeqnode sim scale", f'<div class="charts">{drawn}</div>', table, _small(reports[-1]))


def charts(report: Mapping[str, Any]) -> list[Chart]:
    """Those that have something to show."""
    lookups, offers, load = report["lookups"], report["offers"], report["load"]
    found = []
    if lookups["hops"]:
        found.append(Chart("Lookups by hops", "hops", "lookups", bars=lookups["hops"]))
        times = lookups["times_ms"]
        total = sum(count for _, count in times["bins"])
        ends = [(start + times["width"]) / 1000 for start, _ in times["bins"]]
        shares = [100 * so_far / total for so_far in accumulate(count for _, count in times["bins"])]
        line = Line([(0, 0), *zip(ends, shares, strict=True)])
        found.append(Chart("Lookups that have found theirs", "s", "%", [line]))
    if len(offers["curve"]) > 1:
        line = Line([(ms / 1000, 100 * share) for ms, share in offers["curve"]])
        marks = [(5, "5 s")] if offers["curve"][-1][0] >= 5_000 else []
        found.append(Chart("Nodes that have heard an offer", "s", "%", [line], marks=marks))
        t99 = [(each["at_s"] / 60, each["t99_ms"] / 1000) for each in offers["spreads"] if each["t99_ms"]]
        found.append(Chart("An offer reaches 99 %", "minute it was made", "s", [Line(t99)]))
    if load["bins"]:
        title = "Nodes by load"
        found.append(Chart(title, "datagrams a minute", "nodes", bars=load["bins"], bar=load["width"]))
    return found


def sizes_charts(reports: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Over the number's logarithm: what grows with it is a straight line."""
    found = []
    for key in _SIZES:
        measure = FIGURES[key]
        points = [
            (log10(report["scenario"]["nodes"]), report["figures"][key])
            for report in reports
            if report["figures"][key] is not None
        ]
        unit = measure.unit or "mean"
        found.append(Chart(measure.title, "nodes, as a power of ten", unit, [Line(points)]))
    return found


def _figures(report: Mapping[str, Any]) -> str:
    asked = {each["key"]: each for each in report["criteria"]}
    rows = []
    for key, measure in FIGURES.items():
        limit = ""
        if key in asked:
            sign, kind = "≥" if measure.better == "more" else "≤", "yes" if asked[key]["met"] else "no"
            limit = f'<span class="{kind}">{sign} {measure.text(asked[key]["limit"])}</span>'
        value = f"{measure.text(report['figures'][key])} {escape(measure.unit)}"
        rows.append(f'<tr><td>{escape(measure.title)}</td><td class="n">{value}</td><td>{limit}</td></tr>')
    return f"<table><tr><th>figure</th><th></th><th>asked</th></tr>{''.join(rows)}</table>"


def _counted(title: str, counts: Mapping[str, float]) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{count:,}</td></tr>' for name, count in counts.items()
    )
    return f"<h2>{title}</h2><table>{rows}</table>" if rows else ""


def _small(report: Mapping[str, Any]) -> str:
    words = [f"seed {report['scenario']['seed']}", f"trace {report['trace']}"]
    words += [str(report[key]) for key in ("machine", "date", "command") if report.get(key)]
    return f"<p><small>{escape(' · '.join(words))}</small></p>"


def _document(title: str, *parts: str) -> str:
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
