"""`weavepy policy ...`: network policies, and why a packet passes or not."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from weavepy.base.errors import UsageError
from weavepy.cli import output
from weavepy.cli.command import api, command, group, json_option, until_interrupted
from weavepy.client import schema

SUFFIXES = (".yaml", ".yml", ".json")
MAX_INPUT_CHARACTERS = 64 * 1024 * 1024
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C it takes a tenth of the time, and is missing where PyYAML was built without libyaml."""

file_option = click.option(
    "-f",
    "--file",
    "places",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    help="YAML or JSON; of a directory all such files in it; - is standard input.",
)
port_option = click.option(
    "--port", default="80/tcp", show_default=True, metavar="PORT", help="80/tcp, 53/udp or icmp."
)
namespace_option = click.option(
    "--namespace", default="", metavar="NAME", help="Only what is in this namespace."
)


@group(
    ("weavepy policy apply -f policies/", "bring all policies of a directory into force"),
    ("weavepy policy explain", "why does that not work?"),
    ("weavepy policy matrix", "who reaches whom"),
    ("weavepy policy trace", "what is dropped, as it happens"),
)
@click.pass_context
def policy(context: click.Context) -> None:
    """Say who may talk to whom. Without a command: show what is in force.

    The objects are those of Kubernetes (NetworkPolicy, Namespace, Pod). There they come by
    `kubectl apply`. On hosts without it, `weavepy policy apply` brings them, and
    `weavepy attach --label` says what the policies know a container by. docs/policy.md tells more.
    """
    if context.invoked_subcommand is None:
        context.invoke(status, as_json=False)


@command(
    ("weavepy policy apply -f deny-all.yaml", "bring it into force on this host"),
    ("weavepy policy apply -f policies/ -f pods.yaml", "several at once: all or nothing"),
)
@file_option
@json_option
def apply(places: tuple[str, ...], as_json: bool) -> None:
    """Bring objects into force on this host, new ones and in place of those of the same name."""
    answer = api().policy_apply(schema.PolicyObjects(objects=[*_documents(places)]))
    _show_changes(answer, as_json)


@command(("weavepy policy delete -f deny-all.yaml", "what it names is no longer in force"))
@file_option
@json_option
def delete(places: tuple[str, ...], as_json: bool) -> None:
    """Take the objects back that these files name."""
    answer = api().policy_delete(schema.PolicyObjects(objects=[*_documents(places)]))
    _show_changes(answer, as_json)


@command(("weavepy policy status", "policies, pods, and what was dropped"))
@json_option
def status(as_json: bool) -> None:
    """Show policies and pods as this host knows them, and how many packets were dropped."""
    answer = api().policy()
    if as_json:
        output.show_json(answer)
        return
    from weavepy.cli import policy_views

    output.show(policy_views.status(answer))


@command(
    ("weavepy policy explain --from web --to shop/db --port 5432/tcp", "between two pods"),
    ("weavepy policy explain --from 192.0.2.7 --to web --port icmp", "from outside"),
)
@click.option("--from", "source", required=True, metavar="POD|ADDRESS", help="Who begins.")
@click.option("--to", "destination", required=True, metavar="POD|ADDRESS", help="Whom it calls.")
@port_option
@json_option
def explain(source: str, destination: str, port: str, as_json: bool) -> int:
    """Say whether a connection passes, and which rule allows it, or what is missing.

    A pod is NAME or NAMESPACE/NAME. The exit code is 1 if the connection is blocked.
    """
    request = schema.ExplainRequest(source=source, destination=destination, port=port)
    answer = api().policy_explain(request)
    if as_json:
        output.show_json(answer)
    else:
        for line in answer.lines:
            click.echo(output.printable(line))
    return 0 if answer.allowed else 1


@command(
    ("weavepy policy matrix --port 53/udp", "who may ask whom for names"),
    ("weavepy policy matrix --svg reach.svg", "as a picture, for a browser"),
    ("weavepy policy matrix --namespace shop", "of a cluster that is too large for one"),
)
@port_option
@namespace_option
@click.option("--svg", "picture", metavar="FILE|-", help="Draw it into this file instead.")
@json_option
def matrix(port: str, namespace: str, picture: str | None, as_json: bool) -> None:
    """Show for all pods, or those of a namespace, who reaches whom."""
    answer = api().policy_matrix(schema.MatrixRequest(port=port, namespace=namespace))
    if picture is not None:
        from weavepy.cli.policy_picture import matrix_svg

        _write(picture, matrix_svg(answer, port))
        return
    if as_json:
        output.show_json(answer)
        return
    from weavepy.cli import policy_views

    output.show(policy_views.matrix(answer, port))


@command(("weavepy policy lint && echo fine", "for a check before it matters"))
@namespace_option
@json_option
def lint(namespace: str, as_json: bool) -> int:
    """Look for what is legal and seldom meant; exit code 1 if there is any."""
    answer = api().policy_lint(schema.LintRequest(namespace=namespace))
    if as_json:
        output.show_json(answer)
    else:
        for finding in answer.findings:
            click.echo(output.printable(finding))
        if answer.is_cut:
            click.echo("There may be more: mend these first, or look at one --namespace.")
    return 1 if answer.findings else 0


@command(
    ("weavepy policy trace --to shop/web", "who is kept from it, and by what?"),
    ("weavepy policy trace --direction egress --count 1 --json", "the next that may not go out"),
)
@click.option("--from", "source", default="", metavar="POD|ADDRESS", help="Only from there.")
@click.option("--to", "destination", default="", metavar="POD|ADDRESS", help="Only to there.")
@click.option(
    "--direction",
    type=click.Choice(["ingress", "egress"]),
    help="Only what the destination's ingress, or the source's egress, forbids.",
)
@click.option("--count", type=click.IntRange(min=1), help="End after so many packets.")
@json_option
def trace(
    source: str, destination: str, direction: str | None, count: int | None, as_json: bool
) -> None:
    """Show packets that network policies drop on this host, as it happens.

    Each comes with the policies that isolate the pod. Of one pod and direction five packets
    a second are shown at most, so that one under fire does not hide the others; `weavepy policy
    status` has all numbers. A pod is NAME or NAMESPACE/NAME. With --json it is one object per line.
    """
    request = schema.TraceRequest(
        source=source, destination=destination, direction=direction or "", count=count or 0
    )
    with until_interrupted():
        for drop in api().policy_trace(request):
            if as_json:
                click.echo(msgspec.json.encode(drop))
                continue
            from weavepy.cli import policy_views

            for line in policy_views.drop_lines(drop):
                click.echo(output.printable(line))


for each in (apply, delete, status, explain, matrix, lint, trace):
    policy.add_command(each)


def _write(place: str, text: str) -> None:
    if place == "-":
        click.echo(text, nl=False)
        return
    try:
        Path(place).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {place}: {error.strerror}") from error


def _show_changes(answer: schema.PolicyAnswer, as_json: bool) -> None:
    if as_json:
        output.show_json(answer)
        return
    for one in answer.changes:
        place = f"{one.namespace}/{one.name}" if one.namespace else one.name
        click.echo(output.printable(f"{one.kind} {place} {one.done}"))
        if one.fault:
            click.echo(
                output.printable(
                    f"  it cannot be compiled, so what it selects is closed: {one.fault}"
                )
            )


def _documents(places: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for place in places:
        for name, text in _texts(place):
            try:
                found = [*yaml.load_all(text, _Loader)]
            except yaml.YAMLError as error:
                raise UsageError(f"{name} is no YAML: {' '.join(str(error).split())}") from error
            for document in found:
                yield from _objects(name, document)


def _objects(name: str, document: Any) -> Iterator[dict[str, Any]]:
    if document is None:
        return
    if not isinstance(document, dict):
        raise UsageError(f"{name} holds something that is no object: {str(document)[:40]!r}")
    if document.get("kind") in ("List", "NetworkPolicyList", "NamespaceList", "PodList"):
        for item in document.get("items") or ():
            yield from _objects(name, item)
    else:
        yield document


def _texts(place: str) -> Iterator[tuple[str, str]]:
    if place == "-":
        text = sys.stdin.read(MAX_INPUT_CHARACTERS + 1)
        if len(text) > MAX_INPUT_CHARACTERS:
            raise UsageError(f"more than {MAX_INPUT_CHARACTERS} characters come in: write a file")
        yield "standard input", text
        return
    path = Path(place)
    files = [path]
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES)
        if not files:
            raise UsageError(f"there is no {', '.join(SUFFIXES)} in {place}")
    for file in files:
        try:
            yield str(file), file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {file}: {error}") from error
