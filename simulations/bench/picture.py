"""The figures as a picture: an SVG file that needs no other, with a panel of bars for each measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

from simulations.bench.figures import MEASURES, Measure
from simulations.svg import OURS, STYLE, text

_HIDDEN: Final = ("ping_p99", "loaded_p99", "one_cpu", "many_cpu", "handshake")
_WIDTH, _COLUMNS, _MARGIN = 1080, 2, 24  # pixels, as the rest
_LABEL, _VALUE = 150, 140
_ROW, _BAR, _TITLE = 20, 13, 34
_HEAD: Final = 104
_CHARS: Final = 150  # of a line in the head
_PANEL: Final = (_WIDTH - _MARGIN * (_COLUMNS + 1)) // _COLUMNS
_THEIRS, _BARE = "#94a3b8", "#cbd5e1"

Summary = Mapping[str, Mapping[str, Mapping[str, Any]]]


def svg(report: Mapping[str, Any]) -> str:
    """Of a report (`report.of`): its medians, and beside each its ratio to the reference."""
    summary: Summary = report["summary"]
    keys = {key for row in summary.values() for key in row}
    panels = [measure for key, measure in MEASURES.items() if key in keys and key not in _HIDDEN]
    names = list(summary)
    height_of_panel = _TITLE + _ROW * len(names) + _MARGIN
    rows = -(-len(panels) // _COLUMNS)
    height = _HEAD + rows * height_of_panel + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>zeqnode bench, {escape(str(report['date']))}</title>",
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#ffffff"/>',
        *_head(report),
    ]
    for number, measure in enumerate(panels):
        x = _MARGIN + number % _COLUMNS * (_PANEL + _MARGIN)
        y = _HEAD + number // _COLUMNS * height_of_panel
        parts += _panel(measure, summary, names, x, y)
    return "\n".join([*parts, "</svg>", ""])


def _head(report: Mapping[str, Any]) -> list[str]:
    machine, setting = report["machine"], report["setting"]
    loss = f", loss {setting['loss']:.2%}" if setting["loss"] else ""
    lines = (
        f"{report['date']} UTC · {machine['cpu']}, {machine['cores']} cores · Linux {machine['kernel']}",
        f"wiring {setting['wiring']}{loss} · {setting['inner']} inside · medians of {setting['rounds']} "
        f"interleaved rounds · × {report['reference'] or 'none'}",
        report["command"] if len(report["command"]) <= _CHARS else f"{report['command'][:_CHARS]} …",
    )
    title = (
        f"zeqnode bench {report['bench']}"
        if report["bench"]
        else "zeqnode and what people would pick instead"
    )
    texts = [text(_MARGIN, 30, title, "h")]
    return texts + [text(_MARGIN, 50 + 17 * number, line, "s") for number, line in enumerate(lines)]


def _panel(measure: Measure, summary: Summary, names: Sequence[str], x: int, y: int) -> list[str]:
    """Bars from zero. The longest is the largest of the tunnels'; the bare wire's is cut off there."""
    values = {name: summary[name][measure.key] for name in names if measure.key in summary[name]}
    tunnels = [row["median"] for name, row in values.items() if not _is_bare(name)]
    longest = max(tunnels or [row["median"] for row in values.values()]) or 1
    room = _PANEL - _LABEL - _VALUE
    parts = [text(x, y + 16, f"{measure.title}, {measure.unit} ({measure.better} is better)", "t")]
    for number, name in enumerate(names):
        top = y + _TITLE - 8 + number * _ROW
        parts.append(text(x, top + 11, name, "b" if _is_ours(name) else ""))
        row = values.get(name)
        if row is None:
            parts.append(text(x + _LABEL, top + 11, "not measured", "s"))
            continue
        width = max(1, round(room * min(row["median"] / longest, 1)))
        color = OURS if _is_ours(name) else _BARE if _is_bare(name) else _THEIRS
        parts.append(
            f'<rect x="{x + _LABEL}" y="{top}" width="{width}" height="{_BAR}" rx="2" fill="{color}"/>'
        )
        words = [measure.text(row["median"])]
        if "ratio" in row:
            words.append(f"{row['ratio']:.2f} ×")
        if row["median"] > longest:
            words.append("cut off")
        parts.append(text(x + _LABEL + width + 6, top + 11, " · ".join(words), "s"))
    return parts


def _is_ours(name: str) -> bool:
    return name.startswith("zeqnode")


def _is_bare(name: str) -> bool:
    return name.startswith("plain")
