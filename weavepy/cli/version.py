"""`weavepy version`."""

import json

import click

import weavepy
from weavepy.cli.command import command, json_option


@command(
    ("weavepy version", "print the version"),
    ("weavepy version --json", "the same for programs"),
)
@json_option
def version(as_json: bool) -> None:
    """Show the version of this command; `weavepy status` shows that of the running router."""
    if as_json:
        click.echo(json.dumps({"version": weavepy.__version__}))
    else:
        click.echo(f"weavepy {weavepy.__version__}")
