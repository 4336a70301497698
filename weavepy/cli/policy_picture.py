"""Who reaches whom, as a picture: one square per pair of pods, as SVG.

From the pods on the left to those above. Pods come sorted, so those of a namespace are neighbours,
and lines set the namespaces apart. Whoever points at a square is told what it says. The same answer
makes the same file, so pictures of two days can be compared.
"""

from collections.abc import Iterator
from html import escape

from weavepy.client import schema

SQUARE = 18
FONT = 11
LETTER = 6.8
"""Of the font's width, more or less: monospaced, so that labels can be given room beforehand."""
MAX_LABEL = 48
MARGIN = 16
HEAD = 44
STYLE = f"""
text {{ font: {FONT}px ui-monospace, monospace; fill: #1f2933; }}
.title {{ font-size: 15px; font-weight: bold; }}
.note {{ fill: #616e7c; }}
.passes {{ fill: #2f855a; }}
.blocked {{ fill: #fdf0ef; stroke: #e3b7b3; }}
.itself {{ fill: #e4e7eb; }}
.border {{ stroke: #52606d; stroke-width: 1.5; }}
"""


def matrix_svg(answer: schema.MatrixAnswer, port: str) -> str:
    labels = [_shortened(name) for name in answer.pods]
    room = max((len(label) for label in labels), default=0) * LETTER + 10
    # Labels above are turned by 60 degrees, to the right.
    left, top = MARGIN + room, MARGIN + HEAD + room * 0.87
    size = len(labels) * SQUARE
    width = max(left + size + room * 0.5 + MARGIN, 360)
    height = top + size + MARGIN
    sizes = f'width="{width:.0f}" height="{height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {sizes}>',
        f"<style>{STYLE}</style>",
        f'<rect {sizes} fill="white"/>',
        *_head(answer, port),
    ]
    for number, label in enumerate(labels):
        middle = (number + 0.5) * SQUARE
        parts.append(
            f'<text x="{left - 6:.1f}" y="{top + middle + FONT / 3:.1f}" text-anchor="end">'
            f"{escape(label)}</text>"
        )
        x, y = left + middle + FONT / 3, top - 6
        parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" transform="rotate(-60 {x:.1f} {y:.1f})">'
            f"{escape(label)}</text>"
        )
    for row, giver in enumerate(answer.pods):
        for column, taker in enumerate(answer.pods):
            kind = _kind(answer, row, column)
            parts.append(
                f'<rect class="{kind}" x="{left + column * SQUARE + 1:.1f}"'
                f' y="{top + row * SQUARE + 1:.1f}" width="{SQUARE - 2}" height="{SQUARE - 2}"'
                f' rx="3"><title>{escape(giver)} -> {escape(taker)}: {WORDS[kind]}</title></rect>'
            )
    parts += _borders(answer.pods, left, top, size)
    return "\n".join([*parts, "</svg>", ""])


WORDS = {"passes": "passes", "blocked": "is blocked", "itself": "itself"}


def _kind(answer: schema.MatrixAnswer, row: int, column: int) -> str:
    if row == column:
        return "itself"
    return "passes" if answer.allowed[row][column] else "blocked"


def _head(answer: schema.MatrixAnswer, port: str) -> Iterator[str]:
    pairs = len(answer.pods) * (len(answer.pods) - 1)
    passing = sum(
        _kind(answer, row, column) == "passes"
        for row in range(len(answer.pods))
        for column in range(len(answer.pods))
    )
    words = f"Who reaches whom, {escape(port)}"
    yield f'<text class="title" x="{MARGIN}" y="{MARGIN + 12}">{words}</text>'
    y = MARGIN + 32
    yield f'<text class="note" x="{MARGIN}" y="{y}">row to column:</text>'
    for x, kind, words in ((134, "passes", f"{passing} of {pairs} pass"), (270, "blocked", "no")):
        yield (
            f'<rect class="{kind}" x="{x}" y="{y - 10}" width="12" height="12" rx="2"/>'
            f'<text class="note" x="{x + 18}" y="{y}">{words}</text>'
        )


def _borders(pods: list[str], left: float, top: float, size: int) -> Iterator[str]:
    spaces = [name.partition("/")[0] for name in pods]
    for number in range(1, len(pods)):
        if spaces[number] != spaces[number - 1]:
            at = number * SQUARE
            for x1, y1, x2, y2 in ((at, 0, at, size), (0, at, size, at)):
                yield (
                    f'<line class="border" x1="{left + x1:.1f}" y1="{top + y1:.1f}"'
                    f' x2="{left + x2:.1f}" y2="{top + y2:.1f}"/>'
                )


def _shortened(name: str) -> str:
    """The end of a name tells pods apart: what a workload's pods begin with is the same."""
    if len(name) <= MAX_LABEL:
        return name
    kept = MAX_LABEL // 2
    return f"{name[: kept - 1]}…{name[-kept:]}"
