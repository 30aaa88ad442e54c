#!/usr/bin/env python3
"""Draws a run of `benches/side-by-side.py`: `benches/plot.py results.json docs/plots`.

Writes cpu.svg (CPU per request, with the bootstrap 95 % interval of the median) and latency.svg (from p50 to p99). Both
have a logarithmic axis: equal distances are equal ratios, and to the left is better.
"""
import json
import sys
from math import ceil, floor, log10
from pathlib import Path
from statistics import median

sys.dont_write_bytecode = True
from peers import figures  # noqa: E402

COLOURS = {"Pillion": "#e8590c", "nginx": "#2b9348", "HAProxy": "#1c7ed6", "Envoy": "#9c5fc4"}
WIDTH, LEFT, RIGHT, TOP, LINE, GAP = 860, 240, 80, 64, 14, 12
STYLE = """text{font:12px sans-serif;fill:#333}.small{font-size:11px}.title{font-size:15px;font-weight:bold}
line.grid{stroke:#888;stroke-opacity:.25}@media(prefers-color-scheme:dark){text{fill:#ddd}}"""


class Axis:
    """A logarithmic axis with a line at 1, 2 and 5 of each power of ten."""

    def __init__(self, values):
        steps = [step * 10.0**power for power in range(floor(log10(min(values))), ceil(log10(max(values))) + 1)
                 for step in (1, 2, 5)]
        low = max([step for step in steps if step <= min(values)], default=steps[0])
        high = min([step for step in steps if step >= max(values)], default=steps[-1])
        self.ticks = [step for step in steps if low <= step <= high]
        self.low, self.span = log10(low), max(log10(high) - log10(low), 0.1)

    def at(self, value):
        return LEFT + (log10(value) - self.low) / self.span * (WIDTH - LEFT - RIGHT)


def text(x, y, words, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{words.replace("&", "&amp;").replace("<", "&lt;")}</text>'


def bar(axis, y, least, most, colour):
    return (f'<line x1="{axis.at(least):.1f}" x2="{axis.at(most):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
            'stroke-width="3" stroke-opacity=".6" stroke-linecap="round"/>')


def dot(axis, y, value, colour, is_hollow=False):
    inside = 'fill="none"' if is_hollow else f'fill="{colour}"'
    return f'<circle cx="{axis.at(value):.1f}" cy="{y}" r="4" {inside} stroke="{colour}" stroke-width="1.5"/>'


def interval_marks(axis, y, mark, colour):
    least, middle, most = mark
    return bar(axis, y, least, most, colour) + dot(axis, y, middle, colour)


def span_marks(axis, y, mark, colour):
    p50, p99 = mark
    return bar(axis, y, p50, p99, colour) + dot(axis, y, p50, colour, is_hollow=True) + dot(axis, y, p99, colour)


def short(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def legend(peers):
    x, parts = LEFT, []
    for peer in peers:
        parts += [f'<circle cx="{x + 4}" cy="40" r="4" fill="{COLOURS[peer]}"/>', text(x + 14, 44, peer)]
        x += 90
    return parts


def grid(axis, bottom, unit):
    parts = []
    for tick in axis.ticks:
        x = axis.at(tick)
        parts += [f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{bottom}"/>',
                  text(x, bottom + 16, short(tick), 'text-anchor="middle" class="small"')]
    return parts + [text(WIDTH - RIGHT + 20, bottom + 16, unit, 'class="small"')]


def chart(title, unit, rows, peers, marks):
    """Draws a plot. `rows` are titles with a mark (a tuple of values) for each peer; `marks` draws one mark."""
    axis = Axis([value for _, cells in rows for mark in cells.values() for value in mark])
    parts, y = legend(peers), TOP
    for name, cells in rows:
        parts.append(text(LEFT - 12, y + LINE, name, 'text-anchor="end"'))
        for peer, mark in cells.items():
            parts.append(marks(axis, y + LINE // 2, mark, COLOURS[peer]))
            label = short(mark[len(mark) // 2])
            parts.append(text(axis.at(max(mark)) + 8, y + LINE // 2 + 4, label, 'class="small"'))
            y += LINE
        y += GAP
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 28}" role="img">'
            f"<title>{title}</title><style>{STYLE}</style>")
    return "\n".join([head, text(12, 22, title, 'class="title"'), *grid(axis, y, unit), *parts, "</svg>\n"])


def rows_of(results, key, mark):
    """Returns the scenarios that have the measure, each with the marks of its peers."""
    measure = next(one for one in figures.MEASURES if one.key == key)
    rows = []
    for scenario, title in results.titles.items():
        values = {peer: list(results.values(peer, scenario, measure).values()) for peer in results.peers}
        cells = {peer: mark(peer, scenario, own) for peer, own in values.items() if own}
        rows += [(title, cells)] if cells else []
    return rows


def draw(results, folder):
    """Writes the plots that the run has figures for."""
    folder.mkdir(exist_ok=True)
    p99 = next(one for one in figures.MEASURES if one.key == "p99_ms")

    def interval(_, __, values):
        least, most = figures.interval(values)
        return least, median(values), most

    def span(peer, scenario, values):
        return median(values), median(results.values(peer, scenario, p99).values())

    for name, title, unit, key, mark, marks in [
            ("cpu", "CPU per request of the proxies, median and 95 % interval", "µs", "cpu_us", interval, interval_marks),
            ("latency", "Latency, from p50 (hollow) to p99 (filled)", "ms", "p50_ms", span, span_marks)]:
        if rows := rows_of(results, key, mark):
            (folder / f"{name}.svg").write_text(chart(title, unit, rows, results.peers, marks))


if __name__ == "__main__":
    draw(figures.Results(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
