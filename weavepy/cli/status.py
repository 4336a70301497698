"""`weavepy status` and `weavepy report`."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from weavepy.base.errors import WeavepyError
from weavepy.cli import output, views
from weavepy.cli.command import api, command, json_option
from weavepy.client import schema

REDRAW_INTERVAL_S = 1.0

View = Callable[[schema.Status], list[output.Block]]
Part = Callable[[schema.Status], Any]

_PARTS: dict[str, tuple[View, Part]] = {
    "all": (views.overview, lambda status: status),
    "connections": (views.connections, lambda status: status.connections),
    "peers": (views.peers, lambda status: status.peers),
    "targets": (views.targets, lambda status: status.targets),
    "ipam": (lambda status: views.ipam(status.ipam), lambda status: status.ipam),
    "fastdp": (views.fastdp, lambda status: status.fastdp),
    "datapath": (views.datapath, lambda status: status.datapath),
}


@command(
    ("weavepy status", "an overview, warnings first"),
    ("weavepy status connections", "who is connected how, and why not better"),
    ("weavepy status ipam --watch", "watch the address ring until Ctrl-C"),
    ("weavepy status --json", "everything for programs"),
)
@click.argument("part", type=click.Choice(list(_PARTS)), default="all", required=False)
@click.option("--watch", is_flag=True, help="Show it again each second, until Ctrl-C.")
@json_option
def status(part: str, watch: bool, as_json: bool) -> None:
    """Show how the router is: as a whole, or one PART of it in full."""
    ask = api().status
    view, part_of = _PARTS[part]
    if not watch:
        answer = ask()
        if as_json:
            output.show_json(part_of(answer))
        else:
            output.show(view(answer))
        return

    ask()  # a router that is not there is an error; one that goes away later is worth watching
    try:
        if as_json:
            _repeat(lambda: output.show_json(part_of(ask()), one_line=True))
        elif output.on_terminal():
            _watch_on_terminal(lambda: _view_or_error(ask, view))
        else:
            _repeat(lambda: _print_dated(_view_or_error(ask, view)))
    except KeyboardInterrupt:
        return


@command(
    ("weavepy report", "read it"),
    ("weavepy report --json > report.json", "attach it to a bug report"),
)
@json_option
def report(as_json: bool) -> None:
    """Show everything that the router knows, for a bug report. It holds no secret and no key."""
    answer = api().report()
    if as_json:
        output.show_json(answer)
    else:
        output.show(views.report(answer))


def _view_or_error(ask: Callable[[], schema.Status], view: View) -> list[output.Block]:
    try:
        return view(ask())
    except WeavepyError as error:
        return [output.Note(output.Cell(str(error), "bad"))]


def _repeat(print_once: Callable[[], None]) -> None:
    while True:
        print_once()
        time.sleep(REDRAW_INTERVAL_S)


def _print_dated(blocks: Sequence[output.Block]) -> None:
    click.echo(f"--- {time.strftime('%Y-%m-%dT%H:%M:%S')}")
    output.show(blocks)


def _watch_on_terminal(look: Callable[[], Sequence[output.Block]]) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(output.rich(look()), console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(REDRAW_INTERVAL_S)
            live.update(output.rich(look()), refresh=True)
