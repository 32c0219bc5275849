"""The model's structure as a picture: boxes from inputs to outputs, lines for what feeds what.

Owns the layout: a box stands below all that feed it. The picture is SVG in the colours of the page
around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from training.measures.graph import Block

WIDTH, HEIGHT, GAP_X, GAP_Y = 236, 62, 26, 34
LETTERS = 38
"""As many fit into a box."""


def structure(blocks: Sequence[Block]) -> str:
    """The picture as one SVG element."""
    level: list[int] = []
    for block in blocks:
        level.append(1 + max((level[one] for one in block.after), default=-1))
    # An input stands just above the first that reads it, an output at the very end.
    for at, block in enumerate(blocks):
        if block.kind == "input":
            readers = [level[n] for n, other in enumerate(blocks) if at in other.after]
            level[at] = max(0, min(readers, default=1) - 1)
    rows = [[at for at in range(len(blocks)) if level[at] == row] for row in range(max(level) + 1)]
    widest = max(len(row) for row in rows)
    total = widest * WIDTH + (widest - 1) * GAP_X
    centre: dict[int, float] = {}
    for row in rows:
        # Below what feeds it, so that few lines cross.
        row.sort(key=lambda at: _mean([centre[one] for one in blocks[at].after if one in centre]))
        left = (total - len(row) * WIDTH - (len(row) - 1) * GAP_X) / 2
        for place, at in enumerate(row):
            centre[at] = left + place * (WIDTH + GAP_X) + WIDTH / 2
    tall = len(rows) * HEIGHT + (len(rows) - 1) * GAP_Y
    margin = (
        90 if any(level[a] - level[b] > 1 for a, x in enumerate(blocks) for b in x.after) else 4
    )
    ways = [(before, at) for at, block in enumerate(blocks) for before in sorted(block.after)]
    lines = [
        _line(
            centre[before] + margin,
            level[before],
            centre[at] + margin,
            level[at],
            total + margin,
            number,
        )
        for number, (before, at) in enumerate(ways)
    ]
    boxes = [_box(block, centre[at] + margin, level[at]) for at, block in enumerate(blocks)]
    return (
        f'<svg class="structure" role="img" aria-label="Structure of the model" '
        f'viewBox="0 0 {total + 2 * margin:.0f} {tall + 4}" width="{total + 2 * margin:.0f}" '
        'xmlns="http://www.w3.org/2000/svg"><defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8Z" fill="currentColor"/>'
        f"</marker></defs>{''.join(lines)}{''.join(boxes)}</svg>"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _line(x1: float, row1: int, x2: float, row2: int, right: float, number: int) -> str:
    y1: float = row1 * (HEIGHT + GAP_Y) + HEIGHT + 2
    y2: float = row2 * (HEIGHT + GAP_Y) + 1
    if row2 - row1 == 1:
        bend = (y1 + y2) / 2
        way = f"M{x1:.0f} {y1:.0f}C{x1:.0f} {bend:.0f} {x2:.0f} {bend:.0f} {x2:.0f} {y2:.0f}"
    else:
        # Past the boxes between, not behind them.
        apart = 9 * (number % 5)
        side = right + 30 + apart if x1 >= right / 2 + 20 else 60 - apart
        edge = x1 + (WIDTH / 2 if side > x1 else -WIDTH / 2)
        y1 -= HEIGHT / 2
        way = (
            f"M{edge:.0f} {y1:.0f}C{side:.0f} {y1:.0f} {side:.0f} {y1 + 30:.0f} {side:.0f} {y1 + 60:.0f}"
            f"L{side:.0f} {y2 - 40:.0f}C{side:.0f} {y2 - 14:.0f} {x2:.0f} {y2 - 26:.0f} {x2:.0f} {y2:.0f}"
        )
    return (
        f'<path d="{way}" fill="none" stroke="currentColor" stroke-opacity=".55" '
        'marker-end="url(#arrow)"/>'
    )


def _box(block: Block, x: float, row: int) -> str:
    top, left = row * (HEIGHT + GAP_Y) + 1, x - WIDTH / 2
    says = _cut(", ".join(block.says))
    weights = f"{block.weights:,} weights" if block.weights else ""
    if block.kind != "block":
        weights = block.kind
    told = [
        f'<text x="{x:.0f}" y="{top + y}" text-anchor="middle"{style}>{escape(words)}</text>'
        for y, words, style in (
            (19, _cut(block.title, 30), ' font-weight="600"'),
            (36, says, ' font-size="11"'),
            (52, weights, ' font-size="11" fill-opacity=".65"'),
        )
        if words
    ]
    return (
        f'<g class="{block.kind}"><title>{escape(block.title)}: {escape(", ".join(block.says))}</title>'
        f'<rect x="{left:.0f}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>{"".join(told)}</g>'
    )


def _cut(words: str, letters: int = LETTERS) -> str:
    return words if len(words) <= letters else words[: letters - 1] + "…"
