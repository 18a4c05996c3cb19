"""The sweep as a picture: throughput over cluster size, and over the share of GPUs that generate, one line for each staleness bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rayrl.simulation.sweep import Cell, best

_WIDTH, _HEIGHT, _TOP, _BOTTOM = 430, 400, 60, 60
_COLOURS = ("#888888", "#1b6ca8", "#2a9d5c", "#d98e04", "#b5332e", "#6b3fa0")
_LIKE = 1024
"""GPUs of the panel over shares, or the nearest size."""

Points = list[tuple[float, float]]


def picture(cells: Sequence[Cell], title: str) -> str:
    """SVG of two panels. ``per_gpu``: action tokens trained on per second and GPU."""
    sizes, bounds = sorted({c.gpus for c in cells}), sorted({c.bound for c in cells})
    size = min(sizes, key=lambda gpus: abs(math.log2(gpus / _LIKE)))
    shares = sorted({c.share for c in cells if c.gpus == size})
    top = 1.1 * max(c.per_gpu for c in cells)
    over_sizes = {b: [(math.log2(g), best(cells, g, b).per_gpu) for g in sizes] for b in bounds}
    at = {(c.bound, c.share): c.per_gpu for c in cells if c.gpus == size}
    over_shares = {b: [(s, at[b, s]) for s in shares if (b, s) in at] for b in bounds}
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH + 110} {_HEIGHT}" font-family="sans-serif" font-size="12">',
            f'<rect width="{2 * _WIDTH + 110}" height="{_HEIGHT}" fill="white"/><text x="60" y="22" font-size="14">{title}: '
            "tokens trained on per second and GPU</text>",
            *_panel(0, "GPUs, best share of them for engines", over_sizes, {math.log2(g): f"{g:,}" for g in sizes}, top),
            *_panel(_WIDTH, f"share of {size:,} GPUs for engines", over_shares, {s: f"{s:.0%}" for s in shares}, top),
            *_names(over_shares),
            "</svg>\n",
        ]
    )


def _panel(left: float, label: str, lines: dict[int, Points], ticks: dict[float, str], top: float) -> list[str]:
    x, y = _scale(left, list(ticks)), _height(top)
    parts = []
    for i in range(5):
        value = top * i / 4
        parts.append(f'<line x1="{left + 60}" x2="{left + _WIDTH - 15}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{left + 54}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,.0f}</text>')
    parts += [f'<text x="{x(at):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{name}</text>' for at, name in ticks.items()]
    parts.append(f'<text x="{left + 60}" y="{_TOP - 12}" fill="#555555">{label}</text>')
    for (_, points), colour in zip(sorted(lines.items()), _COLOURS, strict=False):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return parts


def _names(lines: dict[int, Points]) -> list[str]:
    """The best bound on top."""
    colours = dict(zip(sorted(lines), _COLOURS, strict=False))
    order = sorted(colours, key=lambda bound: -max(value for _, value in lines[bound]))
    return [
        f'<text x="{2 * _WIDTH - 5}" y="{_TOP + 14 * i + 10}" fill="{colours[bound]}">staleness {bound}</text>'
        for i, bound in enumerate(order)
    ]


def _scale(left: float, ticks: Sequence[float]) -> Callable[[float], float]:
    first, span = min(ticks), max(1e-9, max(ticks) - min(ticks))
    return lambda value: left + 70 + (_WIDTH - 100) * (value - first) / span


def _height(top: float) -> Callable[[float], float]:
    return lambda value: (_HEIGHT - _BOTTOM) - (_HEIGHT - _BOTTOM - _TOP) * value / top
