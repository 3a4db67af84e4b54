"""What the pictures of the bench and of simulated worlds have in common. SVG that needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

OURS: Final = "#0a9396"
COLORS: Final = (OURS, "#ca6702", "#94a3b8", "#9b2226")
STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#0f172a}.t{font-weight:600;font-size:14px}"
    ".h{font-weight:700;font-size:18px}.s{fill:#475569}.r{text-anchor:end}.b{font-weight:600}.m{text-anchor:middle}"
)
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 20, 34, 44  # pixels around a chart's field
_TICKS: Final = 5


@dataclass(frozen=True, slots=True)
class Line:
    """Points from left to right; `name` is "" where there is but one line."""

    points: Sequence[tuple[float, float]]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines, or bars as wide as `bar` on the x axis; `marks`: x of upright lines, and what they say."""

    title: str
    across: str
    up: str
    lines: Sequence[Line] = ()
    bars: Sequence[tuple[float, float]] = ()
    bar: float = 1
    marks: Sequence[tuple[float, str]] = field(default=())


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def chart(drawn: Chart, width: int = 520, height: int = 300) -> str:
    """A whole <svg>; both axes begin at 0."""
    points = [point for line in drawn.lines for point in line.points]
    points += [(x + drawn.bar, y) for x, y in drawn.bars]
    right = _round_up(max((x for x, _ in points), default=1))
    top = _round_up(max((y for _, y in points), default=1))
    wide, high = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + wide * x / right, _TOP + high * (1 - y / top)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(drawn.title)}</title>",
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#ffffff"/>',
        text(_LEFT, 20, drawn.title, "t"),
        text(_LEFT + wide, height - 8, drawn.across, "s r"),
        text(width - _RIGHT, 20, drawn.up, "s r"),
    ]
    for step in range(_TICKS + 1):
        x, y = at(right * step / _TICKS, top * step / _TICKS)
        parts.append(f'<path d="M{_LEFT} {y:.1f}h{wide}" stroke="#e2e8f0"/>')
        parts.append(text(_LEFT - 6, y + 4, _number(top * step / _TICKS), "s r"))
        parts.append(text(x, height - 26, _number(right * step / _TICKS), "s m"))
    for x, y in drawn.bars:
        (left, upper), (end, lower) = at(x, y), at(x + drawn.bar, 0)
        size = f'width="{max(0.5, end - left - 1):.1f}" height="{lower - upper:.1f}"'
        parts.append(f'<rect x="{left:.1f}" y="{upper:.1f}" {size} fill="{OURS}"/>')
    for number, line in enumerate(drawn.lines):
        color = COLORS[number % len(COLORS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line.points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        if line.name:
            y = _TOP + 8 + 16 * number
            parts.append(f'<rect x="{_LEFT + 10}" y="{y}" width="10" height="10" fill="{color}"/>')
            parts.append(text(_LEFT + 26, y + 9, line.name))
    for x, words in drawn.marks:
        place, _ = at(x, 0)
        parts.append(f'<path d="M{place:.1f} {_TOP}v{high}" stroke="#9b2226" stroke-dasharray="4 3"/>')
        parts.append(text(place + 4, _TOP + high - 6, words, "s"))
    return "\n".join([*parts, "</svg>"])


def _round_up(value: float) -> float:
    """To an end of an axis that divides well."""
    if value <= 0:
        return 1
    scale = 1.0
    while scale < value:
        scale *= 10
    while scale >= 10 * value:
        scale /= 10
    ends = (scale * part / 10 for part in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10))
    return next(end for end in ends if end >= value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:g}" if value == round(value, 2) else f"{value:.2f}"
