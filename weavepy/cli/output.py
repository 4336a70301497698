"""Blocks of text for people: tables and colour on a terminal, aligned plain text in a pipe.

A view says what there is to see as a list of blocks; how it looks is decided here, once. Much
of what is shown was said by other peers, so nothing is printed that a terminal would obey, and
nothing of it is read as markup.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    style: str = ""
    """One of "good", "bad", "warn", "dim", "bold" or nothing."""


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    right: bool = False
    """Aligned to the right, as numbers are."""


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    empty: str = "none"
    """What to say instead of a table without rows."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values, one to a line."""

    title: str
    rows: Sequence[tuple[str, Cell]] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Note:
    cell: Cell


@dataclass(frozen=True, slots=True)
class Bar:
    """One line that is a picture: a run of keys in a pipe, of coloured blocks on a terminal."""

    cells: Sequence[tuple[str, str]]
    """Each a key of one character, and a style: those of `Cell`, or "owner 0" to "owner 5"."""


Block = Table | Facts | Note | Bar

OWNER_STYLES = 6

_RICH_STYLES = {
    "good": "green",
    "bad": "bold red",
    "warn": "yellow",
    "dim": "dim",
    "bold": "bold",
    "": "",
    **{
        f"owner {number}": colour
        for number, colour in enumerate(
            ("cyan", "green", "magenta", "blue", "yellow", "bright_white")
        )
    },
}


def on_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def show(blocks: Sequence[Block]) -> None:
    if not on_terminal():
        click.echo(plain(blocks))
        return
    from rich.console import Console

    Console(highlight=False).print(rich(blocks))


def show_json(value: object, *, one_line: bool = False) -> None:
    """Print a value of the schema as JSON, byte for byte what the schema says."""
    import msgspec

    data: Any = msgspec.to_builtins(value)
    text = json.dumps(data, indent=None if one_line else 2, ensure_ascii=False)
    click.echo(text)


def plain(blocks: Sequence[Block]) -> str:
    return "\n\n".join("\n".join(_plain_lines(block)) for block in blocks)


def rich(blocks: Sequence[Block]) -> "RenderableType":
    from rich.console import Group

    parts: list[RenderableType] = []
    for block in blocks:
        if parts:
            parts.append("")
        parts.extend(_rich_parts(block))
    return Group(*parts)


def printable(text: str) -> str:
    """Replace what would move a cursor, ring a bell or break a line."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _plain_lines(block: Block) -> list[str]:
    match block:
        case Note(cell):
            return [printable(cell.text)]
        case Bar(cells):
            return ["[" + "".join(printable(key) for key, _ in cells) + "]"]
        case Facts(title, rows):
            width = max((len(name) for name, _ in rows), default=0)
            lines = [f"{name:<{width}}  {printable(cell.text)}".rstrip() for name, cell in rows]
            return [title, *lines] if title else lines
        case Table(title, _, rows, empty) if not rows:
            return [f"{title}: {empty}" if title else empty]
        case Table(title, columns, rows, _):
            lines = _aligned(columns, [[printable(cell.text) for cell in row] for row in rows])
            return [title, *lines] if title else lines


def _aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align by width; a cell without text becomes "-", so that `awk` counts columns right."""
    header = [column.title.upper().replace(" ", "-") for column in columns]
    filled = [header, *([text or "-" for text in row] for row in rows)]
    widths = [max(len(row[index]) for row in filled) for index in range(len(columns))]
    lines = []
    for row in filled:
        cells = [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _rich_parts(block: Block) -> list["RenderableType"]:
    from rich.table import Table as RichTable
    from rich.text import Text

    def styled(cell: Cell) -> Text:
        return Text(printable(cell.text), style=_RICH_STYLES[cell.style])

    match block:
        case Note(cell):
            return [styled(cell)]
        case Bar(cells):
            bar = Text()
            for key, style in cells:
                reverse = "" if style == "dim" else "reverse "
                bar.append(printable(key), style=f"{reverse}{_RICH_STYLES[style]}")
            return [bar]
        case Facts(title, rows):
            grid = RichTable.grid(padding=(0, 2))
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(overflow="fold")
            for name, cell in rows:
                grid.add_row(Text(name), styled(cell))
            return [Text(title, style="bold"), grid] if title else [grid]
        case Table(title, _, rows, empty) if not rows:
            return [Text(f"{title}: {empty}" if title else empty, style="dim")]
        case Table(title, columns, rows, _):
            table = RichTable(title_style="bold", title_justify="left", title=title or None)
            for column in columns:
                table.add_column(
                    Text(column.title),
                    justify="right" if column.right else "left",
                    overflow="fold",
                )
            for row in rows:
                table.add_row(*(styled(cell) for cell in row))
            return [table]
