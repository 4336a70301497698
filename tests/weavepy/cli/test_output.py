"""How blocks look in a pipe and on a terminal."""

import io

import pytest
from rich.console import Console

from tests.weavepy.samples import sample_report, sample_status
from weavepy.cli import output, units, views
from weavepy.cli.output import Cell, Column, Facts, Note, Table

TABLE = Table(
    "Peers",
    [Column("Name"), Column("Free", right=True), Column("Next attempt")],
    [[Cell("a"), Cell("7"), Cell("")], [Cell("bcd"), Cell("1,024"), Cell("3.0 s")]],
)


def on_terminal(*blocks: output.Block) -> str:
    screen = io.StringIO()
    Console(file=screen, force_terminal=True, width=200, color_system="standard").print(
        output.rich(blocks)
    )
    return screen.getvalue()


def test_a_table_in_a_pipe_is_aligned_plain_text_with_a_value_in_each_column() -> None:
    assert output.plain([TABLE]).splitlines() == [
        "Peers",
        "NAME   FREE  NEXT-ATTEMPT",
        "a         7  -",
        "bcd   1,024  3.0 s",
    ]


def test_a_table_on_a_terminal_has_a_frame() -> None:
    assert "┃" in on_terminal(TABLE)


def test_a_table_without_rows_says_what_that_means() -> None:
    empty = Table("Targets", [Column("Target")], [], empty="none: other peers dial this one")
    assert output.plain([empty]) == "Targets: none: other peers dial this one"
    assert "none: other peers" in on_terminal(empty)


def test_colour_is_for_terminals() -> None:
    note = Note(Cell("Warning: fire", "bad"))
    assert output.plain([note]) == "Warning: fire"
    assert "\x1b[1;31m" in on_terminal(note)


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\rb", "line\nline", "\x9b31m", "\u202eabc"])
def test_what_peers_say_cannot_command_a_terminal(hostile: str) -> None:
    table = Table("", [Column("Nickname")], [[Cell(hostile)]])
    for text in (output.plain([table]), output.plain([Facts("", [("Nickname", Cell(hostile))])])):
        assert hostile not in text
        assert "\N{REPLACEMENT CHARACTER}" in text
    assert hostile not in on_terminal(table)


def test_what_looks_like_markup_is_printed_as_it_is() -> None:
    assert "[red]x[/red]" in on_terminal(Note(Cell("[red]x[/red]")))


def test_warnings_come_first_in_the_overview() -> None:
    lines = output.plain(views.overview(sample_status())).splitlines()
    assert lines[0] == "Warning: a peer at 10.0.0.9 has another secret"
    assert "Router       host1 (7a:0c:00:00:00:01)" in lines
    assert "Connections  1 established, 1 retrying" in lines
    assert "Datapath     sleeve, MTU 1410, 1 of 1 session up, running 1 h 1 m, pid 4243" in lines


def test_an_unencrypted_mesh_cannot_be_overlooked() -> None:
    status = sample_status()
    status.router.encrypted = False
    assert "Encryption   OFF" in output.plain(views.overview(status))
    assert "\x1b[1;31mOFF" in on_terminal(*views.overview(status))


def test_connections_show_state_overlay_address_mtu_rtt_and_info() -> None:
    text = output.plain(views.connections(sample_status()))
    established, retrying = text.splitlines()[2:]
    assert established.split() == [
        *("7a:0c:00:00:00:02(host2)", "->", "10.0.0.2:6783", "established", "sleeve", "1410"),
        *("0.42", "ms", "-"),
    ]
    assert retrying.endswith("wrong secret; next attempt in 3.0 s")


def test_every_view_is_whole_in_both_forms() -> None:
    report = sample_report()
    text, screen = output.plain(views.report(report)), on_terminal(*views.report(report))
    for expected in ("relayed via host2", "replayed 4", "10.40.1.5/24", "10.32.0.1/12", "gone"):
        assert expected in text
        assert expected in screen


def test_frozen_ranges_show_in_status() -> None:
    status = sample_status()
    status.ipam.frozen = ["10.33.0.0-10.33.0.255"]
    assert "Frozen (two owners): 10.33.0.0-10.33.0.255" in output.plain(views.ipam(status.ipam))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (59.9, "59 s"), (125, "2 m 5 s"), (3700, "1 h 1 m"), (90_000, "1 d 1 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (10**16, "10.0 PB")]
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert units.size(size_bytes) == text
