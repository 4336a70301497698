"""`weavepy capture`: the frames that sleeve carries from and to this host, as a pcapng file."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from weavepy.base import pcapng
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.cli.command import api, command, until_interrupted
from weavepy.client import schema


@command(
    ("weavepy capture --seconds 10 -w frames.pcapng", "ten seconds of it"),
    ("weavepy capture -w - | tcpdump -n -r -", "look at it as it comes"),
    ("weavepy capture --peer host2 --count 100 -w - | tshark -r -", "one host, a hundred frames"),
)
@click.option("--peer", default="", help="Only frames from and to this host: name or nickname.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many frames.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    help="End after this time; an hour if nothing is said.",
)
@click.option(
    "--snap-bytes",
    type=click.IntRange(14, 262_144),
    default=262_144,
    show_default=True,
    help="Keep as much of each frame.",
)
@click.option("-w", "target", default="", metavar="FILE|-", help="Where to; - is standard output.")
def capture(
    peer: str, count: int | None, seconds: float | None, snap_bytes: int, target: str
) -> None:
    """Copy the frames that pass the overlay on this host to a file or pipe, as pcapng.

    Seen are frames from containers here to other hosts and back, whole: before they are
    encrypted and after they are decrypted. Those that this host relays are not. What is not
    written fast enough is left out and counted.
    """
    if not target:
        if sys.stdout.isatty():
            raise UsageError("a capture is not text: add -w FILE, or -w - and pipe it to tcpdump")
        target = "-"
    request = schema.CaptureRequest(
        peer=peer, count=count or 0, seconds=seconds or 0.0, snap_bytes=snap_bytes
    )
    parts = api().capture(request)
    frames = dropped = 0
    reader = pcapng.Reader()
    with until_interrupted(), _opened(target) as output:
        for part in parts:
            output.write(part)
            output.flush()
            for kind, content in reader.feed(part):
                frames += kind == pcapng.PACKET
                dropped += pcapng.dropped_of(content) if kind == pcapng.STATISTICS else 0
    click.echo(f"{frames} frames, {dropped} more left out", err=True)


@contextlib.contextmanager
def _opened(target: str) -> Iterator[BinaryIO]:
    if target == "-":
        # With a buffer of its own: what a reader that is gone did not take must not stay in that of
        # standard output, whose last flush would fail.
        with open(sys.stdout.fileno(), "wb", closefd=False) as output:
            yield output
        return
    try:
        file = Path(target).open("wb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise WeavepyError(f"cannot write {target}: {error.strerror}") from error
    with file:
        yield file
