"""`weavepy doctor`: what this machine has and lacks, and whether a router can run on it.

`router.shell.doctor` finds out; here is the list of what a router cannot do without.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from weavepy.cli import output
from weavepy.cli.command import command, json_option
from weavepy.cli.output import Cell, Column

if TYPE_CHECKING:
    from router.shell.doctor import Finding

REQUIRED = (
    "rights",
    "veth pairs",
    "Linux bridge",
    "TAP device",
    "nftables, bridge family",
    "program nft",
    "package ",
)
"""How the subjects begin without which no router starts or no container can be attached."""


@command(
    ("weavepy doctor", "examine this machine"),
    ("weavepy doctor --json", "the same for programs"),
)
@json_option
def doctor(as_json: bool) -> int:
    """Examine what this kernel offers, what is missing, and what that costs.

    Changes nothing. Exits with 0 unless something is missing without which no router runs here
    or no container can be attached.
    """
    from router.shell.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        output.show([_table(findings), _verdict(findings)])
    return 1 if lacking(findings) else 0


def lacking(findings: Sequence["Finding"]) -> list[str]:
    """Return the subjects that are missing and required."""
    return [finding.subject for finding in findings if _is_lacking(finding)]


def _is_lacking(finding: "Finding") -> bool:
    return finding.state == "missing" and finding.subject.startswith(REQUIRED)


def _table(findings: Sequence["Finding"]) -> output.Table:
    columns = [Column("Subject"), Column("State"), Column("Detail"), Column("What it costs")]
    rows = [
        [
            Cell(finding.subject),
            Cell(finding.state, _style(finding)),
            Cell(finding.detail),
            Cell(finding.cost),
        ]
        for finding in findings
    ]
    return output.Table("", columns, rows)


def _style(finding: "Finding") -> str:
    if finding.state == "ok":
        return "good"
    return "bad" if _is_lacking(finding) else "warn"


def _verdict(findings: Sequence["Finding"]) -> output.Note:
    needed = lacking(findings)
    if needed:
        return output.Note(Cell(f"Missing, and weavepy needs it: {', '.join(needed)}", "bad"))
    return output.Note(Cell("All that weavepy needs is here.", "good"))
