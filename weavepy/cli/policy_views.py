"""How policies look."""

from datetime import datetime

from weavepy.cli.output import Block, Cell, Column, Facts, Table
from weavepy.client import schema

PASSES, BLOCKED, ITSELF = Cell("yes", "good"), Cell("-", "bad"), Cell("·", "dim")


def status(answer: schema.PolicyStatus) -> list[Block]:
    enforced = Cell("yes", "good") if answer.enforced else Cell("no policy was applied", "dim")
    facts = [("in force", enforced), ("repairs", Cell(str(answer.repairs)))]
    if answer.policies_left_out:
        facts.append(("policies without a pod here", Cell(str(answer.policies_left_out))))
    if answer.pods_left_out:
        facts.append(("pods of other hosts", Cell(str(answer.pods_left_out))))
    return [
        Facts("Network policies", facts),
        Table(
            "Policies",
            [
                Column("policy"),
                Column("selects"),
                Column("isolates"),
                Column("pods here", right=True),
                Column("fault"),
            ],
            [
                [
                    Cell(f"{one.namespace}/{one.name}"),
                    Cell(one.selector),
                    Cell(", ".join(one.directions)),
                    Cell(str(one.pods)),
                    Cell(one.fault, "bad"),
                ]
                for one in answer.policies
            ],
        ),
        Table(
            "Pods",
            [
                Column("pod"),
                Column("addresses"),
                Column("labels"),
                Column("here"),
                Column("isolated"),
                Column("drops", right=True),
            ],
            [
                [
                    Cell(f"{one.namespace}/{one.name}"),
                    Cell(", ".join(one.addresses)),
                    Cell(", ".join(f"{key}={value}" for key, value in sorted(one.labels.items()))),
                    Cell("yes" if one.local else ""),
                    Cell(", ".join(one.isolated)),
                    Cell(str(one.drops) if one.local else ""),
                ]
                for one in answer.pods
            ],
        ),
    ]


def matrix(answer: schema.MatrixAnswer, port: str) -> list[Block]:
    """From the pods on the left to those above, which have numbers."""
    columns = [Column(""), Column("from")]
    columns += [Column(str(number + 1)) for number in range(len(answer.pods))]
    rows = [
        [
            Cell(str(number + 1)),
            Cell(name),
            *(
                ITSELF if number == other else PASSES if passes else BLOCKED
                for other, passes in enumerate(answer.allowed[number])
            ),
        ]
        for number, name in enumerate(answer.pods)
    ]
    return [Table(f"Who reaches whom, {port}", columns, rows, "no pods")]


def drop_lines(drop: schema.PolicyDrop) -> list[str]:
    """One line says what happened, those below it why."""
    clock = datetime.fromtimestamp(drop.time).strftime("%H:%M:%S.%f")[:-3]
    place = "" if drop.place == "new" else f" ({drop.place})"
    told = [f"{drop.left_out} more were left out"] if drop.left_out else []
    told.append(
        f"{clock} {drop.direction} {drop.source} -> {drop.destination} {drop.service}{place}"
    )
    return [*told, *(f"    {reason}" for reason in drop.why)]
